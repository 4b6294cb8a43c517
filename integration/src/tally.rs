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
    /// The test whose outcome is still to come, on a line of its own: what the test wrote itself, a
    /// panic's message for one, comes before.
    running: Option<String>,
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
        let mut said = line;
        if let Some((name, rest)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            // A marker such as `[needs cgroup controllers]` may stand behind the name.
            self.running = Some(format!("{suite}::{}", name.trim_end()));
            said = rest.split([' ', ',']).next().unwrap_or(rest);
        }
        let outcome = match said {
            "ok" => Outcome::Passed,
            "FAILED" => Outcome::Failed,
            "ignored" => Outcome::Skipped,
            _ => return,
        };
        if let Some(name) = self.running.take() {
            self.note(name, outcome);
        }
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
    fn an_outcome_may_come_after_what_the_test_wrote() {
        let mut tally = Tally::default();
        tally.read("s", "test a ... ignored");
        tally.read("s", "test a          ... ");
        tally.read("s", "thread 'main' panicked");
        tally.read("s", "FAILED");
        tally.read("s", "test b          ... started");
        tally.read("s", "ok so far");
        tally.read("s", "ok");
        // Nobody's.
        tally.read("s", "FAILED");
        let all: Vec<_> = tally.outcomes.into_iter().collect();
        let named = |name: &str, outcome| (name.to_owned(), outcome);
        let expected = [
            named("s::a", Outcome::Failed),
            named("s::b", Outcome::Passed),
        ];
        assert_eq!(all, expected);
    }

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
