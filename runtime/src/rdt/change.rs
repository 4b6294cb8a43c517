//! Another class for a container in use: the same one, with other lines in its schemata.

use std::os::fd::AsFd;

use oci_spec::runtime::{LinuxIntelRdt, Spec};

use super::{Resctrl, directory, put_lines};
use crate::error::Error;
use crate::{ContainerId, config};

/// Changes lines of the schemata of a container's class, such as `L3:0=f`, and notes them in its
/// configuration. What no line names stays.
///
/// A class that the configuration names is changed for all that are in it. A container without a class
/// is refused: it has no part of its own that could be another.
pub fn change_class(spec: &mut Spec, id: &ContainerId, lines: &[&str]) -> Result<(), Error> {
    config::validate_schemata(lines.iter().copied())?;
    let rdt = spec.linux().as_ref().and_then(|l| l.intel_rdt().clone());
    let mut rdt = rdt.unwrap_or_default();
    Resctrl::open(&rdt, id.as_str())?.change(lines)?;
    note(&mut rdt, lines);
    if let Some(linux) = spec.linux_mut() {
        linux.set_intel_rdt(Some(rdt));
    }
    Ok(())
}

impl Resctrl {
    fn change(&self, lines: &[&str]) -> Result<(), Error> {
        let schemata = self.schemata();
        let name = self.name(&schemata).ok_or_else(config::Error::no_class)?;
        let class = directory(self.root.as_fd(), name).map_err(self.failed("open"))?;
        put_lines(class.as_fd(), lines).map_err(self.failed("write schemata"))
    }
}

/// A line takes the place of the one for the same resource, which is what stands before the colon.
fn note(rdt: &mut LinuxIntelRdt, lines: &[&str]) {
    let resource = |line: &str| line.split(':').next().map(|name| name.trim().to_owned());
    let is_replaced = |old: &str| lines.iter().any(|new| resource(new) == resource(old));
    let kept = super::schemata(rdt).into_iter();
    let kept = kept.filter(|line| !is_replaced(line));
    let all = kept.chain(lines.iter().copied()).map(str::to_owned);
    let all = all.collect();
    // The newer field has whatever the two older ones could say.
    rdt.set_schemata(Some(all))
        .set_l3_cache_schema(None)
        .set_mem_bw_schema(None);
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn parse(json: &str) -> LinuxIntelRdt {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn the_record_has_the_new_lines_and_the_others() {
        let noted = |json, lines: &[&str]| {
            let mut rdt = parse(json);
            note(&mut rdt, lines);
            assert_eq!((rdt.l3_cache_schema(), rdt.mem_bw_schema()), (&None, &None));
            rdt.schemata().clone().unwrap()
        };
        let old = r#"{"l3CacheSchema": "L3:0=f", "memBwSchema": "MB:0=20"}"#;
        assert_eq!(noted(old, &["L3:0=3"]), ["MB:0=20", "L3:0=3"]);
        let new = r#"{"schemata": ["L3CODE:0=f", "L3:0=f", " MB:0=1"]}"#;
        assert_eq!(
            noted(new, &["L3:0=3", "MB:0=2"]),
            ["L3CODE:0=f", "L3:0=3", "MB:0=2"]
        );
        assert_eq!(noted(r#"{"closID": "gold"}"#, &["L3:0=3"]), ["L3:0=3"]);
    }

    #[test]
    fn the_lines_are_written_to_the_containers_class() {
        let root = std::env::temp_dir().join(format!("berth-rdt-{}", std::process::id()));
        for class in ["own", "gold"] {
            fs::create_dir_all(root.join(class)).unwrap();
            fs::write(root.join(class).join("schemata"), "").unwrap();
        }
        let change = |json| {
            let resctrl = Resctrl {
                root: File::open(&root).unwrap().into(),
                wanted: parse(json),
                id: "own".to_owned(),
            };
            resctrl.change(&["L3:0=3", "MB:0=2"])
        };
        let written = |class| fs::read_to_string(root.join(class).join("schemata")).unwrap();
        change(r#"{"l3CacheSchema": "L3:0=f"}"#).unwrap();
        assert_eq!(
            (written("own").as_str(), written("gold").as_str()),
            ("L3:0=3\nMB:0=2\n", "")
        );
        change(r#"{"closID": "gold"}"#).unwrap();
        assert_eq!(written("gold"), written("own"));
        for json in ["{}", r#"{"enableMonitoring": true}"#] {
            let said = change(json).unwrap_err().to_string();
            assert!(
                said.contains("linux.intelRdt.schemata is missing"),
                "{said}"
            );
        }
        fs::remove_dir_all(&root).unwrap();
    }
}
