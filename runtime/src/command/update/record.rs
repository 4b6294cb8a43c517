//! The limits in force, and what a change makes of them.

use anyhow::Result;
use oci_spec::runtime::LinuxResources;
use serde_json::Value;

/// Adds to what is wanted what it is only whole with.
pub(super) fn complete(mut wanted: LinuxResources, recorded: &LinuxResources) -> LinuxResources {
    let unset = |value: Option<i64>| value.is_none_or(|value| value == 0);
    if let Some(cpu) = wanted.cpu_mut()
        && let Some(known) = recorded.cpu()
    {
        let is_given = |value: Option<u64>| value.is_some_and(|value| value != 0);
        match (!unset(cpu.quota()), is_given(cpu.period())) {
            (true, false) => drop(cpu.set_period(known.period())),
            (false, true) => drop(cpu.set_quota(known.quota())),
            _ => {}
        }
    }
    if let Some(memory) = wanted.memory_mut() {
        if memory.limit() == Some(-1) && unset(memory.swap()) {
            memory.set_swap(Some(-1));
        }
        let known = recorded.memory().unwrap_or_default();
        match (!unset(memory.limit()), !unset(memory.swap())) {
            (true, false) => drop(memory.set_swap(known.swap())),
            (false, true) => drop(memory.set_limit(known.limit())),
            _ => {}
        }
    }
    wanted
}

/// The limits in force after a change.
pub(super) fn merge(recorded: &LinuxResources, change: &LinuxResources) -> Result<LinuxResources> {
    let mut merged = serde_json::to_value(recorded)?;
    merge_values(&mut merged, serde_json::to_value(change)?, "");
    Ok(serde_json::from_value(merged)?)
}

/// Zero says nothing, but for those to which it is a value.
fn merge_values(into: &mut Value, from: Value, name: &str) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (name, value) in from {
                merge_values(
                    into.entry(name.clone()).or_insert(Value::Null),
                    value,
                    &name,
                );
            }
        }
        (_, Value::Null) => {}
        (_, Value::Number(zero))
            if zero.as_i64() == Some(0) && !["idle", "burst"].contains(&name) => {}
        (into, value) => *into = value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_other_half_comes_from_the_record() {
        let recorded = parse(
            r#"{"cpu": {"quota": 5000, "period": 20000}, "memory": {"limit": 1000, "swap": 3000}}"#,
        );
        let complete = |json| complete(parse(json), &recorded);
        let cpu = |json| complete(json).cpu().clone().unwrap();
        let memory = |json| complete(json).memory().unwrap();
        let quota = cpu(r#"{"cpu": {"quota": 9000}}"#);
        assert_eq!((quota.quota(), quota.period()), (Some(9000), Some(20000)));
        let period = cpu(r#"{"cpu": {"period": 50000, "quota": 0}}"#);
        assert_eq!((period.quota(), period.period()), (Some(5000), Some(50000)));
        let limit = memory(r#"{"memory": {"limit": 2000}}"#);
        assert_eq!((limit.limit(), limit.swap()), (Some(2000), Some(3000)));
        let swap = memory(r#"{"memory": {"swap": 1500}}"#);
        assert_eq!((swap.limit(), swap.swap()), (Some(1000), Some(1500)));
        let none = memory(r#"{"memory": {"limit": -1}}"#);
        assert_eq!((none.limit(), none.swap()), (Some(-1), Some(-1)));
        let other = memory(r#"{"memory": {"reservation": 7}}"#);
        assert_eq!((other.limit(), other.swap()), (None, None));
    }

    #[test]
    fn a_change_is_merged_into_the_record() {
        let recorded = parse(
            r#"{"cpu": {"quota": 5000, "burst": 100, "idle": 1}, "pids": {"limit": 7}, "unified": {"memory.high": "1"}}"#,
        );
        let change = parse(
            r#"{"cpu": {"quota": 0, "burst": 0, "idle": 0, "shares": 9}, "pids": {"limit": 0}, "unified": {"memory.min": "2"}}"#,
        );
        let merged = merge(&recorded, &change).unwrap();
        let cpu = merged.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.shares()), (Some(5000), Some(9)));
        assert_eq!((cpu.burst(), cpu.idle()), (Some(0), Some(0)));
        assert_eq!(merged.pids().unwrap().limit(), 7);
        assert_eq!(merged.unified().as_ref().unwrap().len(), 2);
    }
}
