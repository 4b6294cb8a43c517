//! The way of a packet through the chains of a hook, one after the other, whosever they are.
#![forbid(unsafe_code)]

use super::machine::{self, Decision};
use super::packet::Packet;
use crate::nftables::{Family, Place, Ruleset};
use crate::ruleset::IpFamily;

/// No more calls than the kernel allows.
const DEEPEST: usize = 16;

/// A rule, or the end of a base chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Site {
    pub(super) place: Place,
    /// Counted from zero; nothing for the chain's policy.
    pub(super) rule: Option<usize>,
}

/// What becomes of a packet at a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    Passes,
    /// It is dropped there.
    Dropped(Site),
}

/// What a hook did with a packet.
#[derive(Debug)]
pub(super) struct Passage {
    pub(super) fate: Fate,
    /// Where it may be dropped, for all that is known.
    pub(super) doubts: Vec<Site>,
    /// The rules that matched and led on, in their order.
    pub(super) trail: Vec<Site>,
}

/// How a chain ended.
enum End {
    Accept,
    Drop(Site),
    /// Nothing was decided.
    Through,
}

struct Walk<'a> {
    ruleset: &'a Ruleset,
    trail: Vec<Site>,
    may_drop: Option<Site>,
    may_accept: bool,
}

/// Takes a packet through all base chains of a hook of its family.
pub(super) fn pass(ruleset: &Ruleset, hook: u32, packet: &mut Packet) -> Passage {
    let family = match packet.family() {
        IpFamily::Ipv4 => Family::Ipv4 as u8,
        IpFamily::Ipv6 => IPV6,
    };
    pass_families(ruleset, hook, packet, &[Family::Inet as u8, family])
}

/// The family of tables for IPv6 alone.
const IPV6: u8 = 10;

/// Takes a frame through those of bridges.
pub(super) fn pass_bridge(ruleset: &Ruleset, hook: u32, packet: &mut Packet) -> Passage {
    pass_families(ruleset, hook, packet, &[Family::Bridge as u8])
}

fn pass_families(ruleset: &Ruleset, hook: u32, packet: &mut Packet, families: &[u8]) -> Passage {
    let chains = ruleset.chains.iter();
    let chains = chains.filter_map(|(place, chain)| Some((place, chain.base?)));
    let mut chains: Vec<_> = chains
        .filter(|(place, base)| families.contains(&place.family) && base.hook == hook)
        .collect();
    chains.sort_by_key(|(_, base)| base.priority);
    let mut passage = Passage {
        fate: Fate::Passes,
        doubts: Vec::new(),
        trail: Vec::new(),
    };
    for (place, base) in chains {
        let mut walk = Walk {
            ruleset,
            trail: Vec::new(),
            may_drop: None,
            may_accept: false,
        };
        let end = walk.chain(place, packet, 0);
        let policy = || Site {
            place: place.clone(),
            rule: None,
        };
        let dropped = match end {
            End::Accept => None,
            End::Drop(site) => Some(site),
            End::Through => base.drops.then(policy),
        };
        passage.trail.append(&mut walk.trail);
        match dropped {
            Some(site) if walk.may_accept => passage.doubts.push(site),
            Some(site) => {
                passage.fate = Fate::Dropped(site);
                return passage;
            }
            None => passage.doubts.extend(walk.may_drop),
        }
    }
    passage
}

impl Walk<'_> {
    fn chain(&mut self, place: &Place, packet: &mut Packet, depth: usize) -> End {
        let chain = self.ruleset.chains.get(place);
        let Some(chain) = chain.filter(|_| depth < DEEPEST) else {
            return End::Through;
        };
        for (index, rule) in chain.rules.iter().enumerate() {
            let Some(applied) = machine::apply(self.ruleset, place, rule, packet) else {
                continue;
            };
            let site = Site {
                place: place.clone(),
                rule: Some(index),
            };
            if !applied.certain || applied.decision == Decision::Anything {
                self.doubt(applied.decision, site, packet, depth);
                continue;
            }
            self.trail.push(site.clone());
            let end = match applied.decision {
                Decision::Accept => End::Accept,
                Decision::Drop => End::Drop(site),
                Decision::Return | Decision::Anything => End::Through,
                Decision::Goto(chain) => self.chain(&place.sibling(chain), packet, depth + 1),
                Decision::Jump(chain) => {
                    match self.chain(&place.sibling(chain), packet, depth + 1) {
                        End::Through => continue,
                        end => end,
                    }
                }
            };
            return end;
        }
        End::Through
    }

    /// A rule that matches or not: what would become of the packet is only noted.
    fn doubt(&mut self, decision: Decision, site: Site, packet: &mut Packet, depth: usize) {
        match decision {
            Decision::Accept | Decision::Return => self.may_accept = true,
            Decision::Drop => drop(self.may_drop.get_or_insert(site)),
            Decision::Anything => {
                self.may_accept = true;
                self.may_drop.get_or_insert(site);
            }
            Decision::Jump(chain) | Decision::Goto(chain) => {
                let mut other = Walk {
                    trail: Vec::new(),
                    may_drop: self.may_drop.clone(),
                    ..*self
                };
                let chain = site.place.sibling(chain);
                let mut copy = packet.clone();
                let end = other.chain(&chain, &mut copy, depth + 1);
                packet.may_be_translated |= copy.may_be_translated || copy.to != packet.to;
                match end {
                    End::Accept => other.may_accept = true,
                    End::Drop(site) => drop(other.may_drop.get_or_insert(site)),
                    End::Through => {}
                }
                self.may_accept |= other.may_accept;
                self.may_drop = other.may_drop;
            }
        }
    }
}
