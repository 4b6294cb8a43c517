//! Counting what test programs report.

use std::collections::BTreeMap;

/// How a test ended, the worse ones later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It could not run there.
    Skipped,
    /// It ran and passed.
    Passed,
    /// It failed.
    Failed,
}

/// The outcomes of all tests, by name. A test that ran in one place and not in another counts as
/// run; one that failed anywhere counts as failed.
#[derive(Default)]
pub struct Tally {
    outcomes: BTreeMap<String, Outcome>,
}

impl Tally {
    /// Notes a test's outcome.
    pub fn note(&mut self, name: String, outcome: Outcome) {
        let known = self.outcomes.entry(name).or_insert(outcome);
        *known = match (*known, outcome) {
            (Outcome::Failed, _) | (_, Outcome::Failed) => Outcome::Failed,
            (Outcome::Passed, _) | (_, Outcome::Passed) => Outcome::Passed,
            _ => Outcome::Skipped,
        };
    }

    /// Notes what a line of libtest's (or libtest-mimic's) output says, if it says something.
    pub fn read(&mut self, suite: &str, line: &str) {
        let Some(rest) = line.strip_prefix("test ") else {
            return;
        };
        let Some((name, outcome)) = rest.rsplit_once(" ... ") else {
            return;
        };
        let outcome = match outcome.split([' ', ',']).next() {
            Some("ok") => Outcome::Passed,
            Some("FAILED") => Outcome::Failed,
            Some("ignored") => Outcome::Skipped,
            _ => return,
        };
        // A marker such as `[needs cgroup controllers]` may stand behind the name.
        let name = name.trim_end();
        self.note(format!("{suite}::{name}"), outcome);
    }

    /// Shows what failed and what was skipped, then the line that counts. Whether nothing failed.
    pub fn report(&self) -> bool {
        let named = |wanted: Outcome| {
            self.outcomes
                .iter()
                .filter(move |(_, o)| **o == wanted)
                .map(|(name, _)| name)
        };
        named(Outcome::Skipped).for_each(|name| println!("SKIPPED {name}"));
        named(Outcome::Failed).for_each(|name| println!("FAILED  {name}"));
        let count = |wanted| named(wanted).count();
        let (passed, failed, skipped) = (
            count(Outcome::Passed),
            count(Outcome::Failed),
            count(Outcome::Skipped),
        );
        println!("{passed} passed, {failed} failed, {skipped} skipped");
        failed == 0 && passed > 0
    }

    /// How many were skipped.
    pub fn skipped(&self) -> usize {
        self.outcomes
            .values()
            .filter(|outcome| **outcome == Outcome::Skipped)
            .count()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_test_counts_once_however_often_it_ran() {
        let mut tally = Tally::default();
        tally.read("s", "test a ... ignored");
        tally.read("s", "test a ... ok");
        tally.read("s", "test b ... ok");
        tally.read("s", "test b ... FAILED");
        tally.read("s", "test c          ... ignored, needs controllers");
        tally.read("s", "running 3 tests");
        let all: Vec<_> = tally.outcomes.values().copied().collect();
        assert_eq!(all, [Outcome::Passed, Outcome::Failed, Outcome::Skipped]);
    }
}
