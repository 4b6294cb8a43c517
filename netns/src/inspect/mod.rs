//! Looking at the network: what there is, and whether something gets from one end to the other, and why not.
//!
//! A [`Snapshot`] has what the network is to be (its definition, and the addresses that are allocated) beside what the
//! kernel has (links, routes, and the rules of nftables, everybody's). [`Snapshot::check`] takes a packet through the
//! rules that the kernel has, as the kernel would: `machine` applies a rule, `hooks` goes through chains, `journey`
//! through the host. What a rule of somebody else's does that isn't known here is not guessed, but said.
#![forbid(unsafe_code)]

mod admission;
mod differences;
mod explain;
#[cfg(test)]
mod explain_tests;
mod hooks;
mod journey;
mod link;
mod machine;
mod packet;
mod question;
mod reasons;
mod registers;
mod snapshot;
mod views;
mod words;

pub use explain::{Explanation, Step, Verdict};
pub use packet::Traffic;
pub use question::{CheckError, Endpoint, Question};
pub use snapshot::{LinkState, Snapshot};
pub use views::{GroupView, InterfaceView, RuleView, SubnetView};

use question::Inquiry;

impl Snapshot {
    /// Whether something new gets from one end to the other: the steps of its way, which rule decides, and what to do.
    ///
    /// Only of routes the kernel is asked anew; everything else is as it was when the snapshot was taken.
    pub fn check(&self, question: &Question) -> Result<Explanation, CheckError> {
        let inquiry = Inquiry::new(self, question)?;
        Ok(explain::explain(self, &inquiry))
    }
}
