//! What is said of the way from one end to the other, and whether anything gets there.
//!
//! It is a function of a [`Snapshot`] and of what the kernel said of routes; nothing is sent and nothing is asked here.
#![forbid(unsafe_code)]

use serde::Serialize;

use super::journey::Journey;
use super::packet::Traffic;
use super::question::Inquiry;
use super::snapshot::Snapshot;

/// Whether something new gets from one end to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It does, as far as the host is concerned: whether somebody answers is for the other end.
    Passes,
    /// It depends on rules of somebody else's that are not understood here: they may drop it, or send it elsewhere.
    Doubtful,
    /// It doesn't.
    Blocked,
}

/// One step of the way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Step {
    /// Whether it gets past here.
    pub verdict: Verdict,
    /// What it comes by.
    pub place: String,
    /// What decides there, and how.
    pub says: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Step {
    /// Where it may be sent elsewhere; what is said of the rest of its way may then not be so.
    fn may_lead_elsewhere(&self) -> bool {
        self.verdict == Verdict::Doubtful && self.place == TRANSLATION
    }
}

/// The place where destinations are changed.
pub(super) const TRANSLATION: &str = "translation";

/// The answer to a [`Question`](super::Question).
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// Whether it gets there.
    pub verdict: Verdict,
    /// Who sends, for people.
    pub from: String,
    /// To whom, for people.
    pub to: String,
    /// What is sent.
    pub traffic: Traffic,
    /// In the order in which the packet takes them; where it is blocked is the last.
    pub steps: Vec<Step>,
    /// Where the kernel's tables are not what they are to be.
    pub differences: Vec<String>,
}

/// Explains what becomes of what an inquiry is about.
pub(super) fn explain(snapshot: &Snapshot, inquiry: &Inquiry) -> Explanation {
    let steps = Journey::new(snapshot, inquiry).steps();
    let is_doubtful = steps.iter().any(|step| step.verdict == Verdict::Doubtful);
    let is_elsewhere = steps.iter().any(Step::may_lead_elsewhere);
    let is_blocked = steps.iter().any(|step| step.verdict == Verdict::Blocked);
    let verdict = match (is_blocked && !is_elsewhere, is_doubtful) {
        (true, _) => Verdict::Blocked,
        (false, true) => Verdict::Doubtful,
        (false, false) => Verdict::Passes,
    };
    let to = match &inquiry.published {
        Some((eni, port)) => format!("{} port {port}", eni.netns),
        None => inquiry.to.name(),
    };
    Explanation {
        verdict,
        from: inquiry.from.name(),
        to,
        traffic: inquiry.traffic,
        steps,
        differences: snapshot.differences(),
    }
}
