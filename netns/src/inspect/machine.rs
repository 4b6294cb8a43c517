//! What a rule does with a packet: the kernel's machine for nftables, as far as our own rules and those of common
//! neighbours use it.
//!
//! What it doesn't know, of the packet or of the rule, it doesn't guess: a rule may then match or not.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::packet::{Bytes, Packet};
use super::registers::Registers;
use crate::nftables::{ListedExpression, ListedRule, Place, Ruleset, Value, find, number};
use crate::ruleset::{IpFamily, octets};

/// What a rule says of a packet that it matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Decision {
    Accept,
    Drop,
    Return,
    Jump(String),
    Goto(String),
    /// It isn't known which.
    Anything,
}

/// What became of a packet at a rule.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Applied {
    /// Whether it is known that the rule matches.
    pub(super) certain: bool,
    pub(super) decision: Decision,
}

/// What an expression does to the rule.
enum Effect {
    /// The rule goes on.
    Next,
    /// It doesn't match.
    Differs,
    /// It matches or not.
    Unknown,
    Ends(Decision),
}

/// A rule at work.
pub(super) struct Machine<'a> {
    ruleset: &'a Ruleset,
    /// The chain that the rule is in.
    place: &'a Place,
    packet: &'a mut Packet,
    registers: Registers,
    certain: bool,
}

/// Applies a rule to a packet: nothing if it doesn't match, or decides nothing. What it changes of the packet is
/// changed if it matches for sure.
pub(super) fn apply(
    ruleset: &Ruleset,
    place: &Place,
    rule: &ListedRule,
    packet: &mut Packet,
) -> Option<Applied> {
    let mut machine = Machine {
        ruleset,
        place,
        packet,
        registers: Registers::new(),
        certain: true,
    };
    for expression in rule.expressions() {
        match machine.run(expression) {
            Effect::Next => {}
            Effect::Differs => return None,
            Effect::Unknown => machine.certain = false,
            Effect::Ends(decision) => {
                let certain = machine.certain;
                return Some(Applied { certain, decision });
            }
        }
    }
    None
}

impl Machine<'_> {
    fn run(&mut self, expression: ListedExpression<'_>) -> Effect {
        let data = expression.data;
        let outcome = match expression.name {
            "meta" => self.meta(data),
            "payload" => self.payload(data),
            "ct" => self.connection(data),
            "fib" => self.fib(data),
            "bitwise" => self.bitwise(data),
            "cmp" => self.compare(data),
            "range" => self.range(data),
            "lookup" => self.lookup(data),
            "immediate" => self.immediate(data),
            "nat" => self.translate(data),
            "masq" => {
                self.packet.is_masqueraded |= self.certain;
                Some(Effect::Ends(Decision::Accept))
            }
            "reject" => Some(Effect::Ends(Decision::Drop)),
            "match" => self.iptables_match(data),
            "target" => Some(self.target(data)),
            "redir" | "tproxy" => Some(self.translate_somehow()),
            "counter" | "log" | "last" => Some(Effect::Next),
            _ => None,
        };
        outcome.unwrap_or(Effect::Unknown)
    }

    fn meta(&mut self, data: &[u8]) -> Option<Effect> {
        const MARK: u32 = 3;
        let key = number(data, 2)?;
        if let Some(source) = number(data, 3) {
            let value = self.registers.read(source, 4);
            let value = value.and_then(|bytes| <[u8; 4]>::try_from(bytes).ok());
            if let (MARK, Some(mark), true) = (key, value, self.certain) {
                self.packet.mark = u32::from_ne_bytes(mark);
            }
            return Some(Effect::Next);
        }
        let register = number(data, 1)?;
        match self.known_of(key) {
            Some(value) => self.registers.write_known(register, &value),
            None => self.registers.forget(register),
        }
        Some(Effect::Next)
    }

    /// What is known about the packet beside its bytes.
    fn known_of(&self, key: u32) -> Option<Vec<u8>> {
        let packet = &self.packet;
        let index = |link: &Option<super::packet::Via>| {
            let index = link.as_ref().map_or(0, |link| link.index);
            index.to_ne_bytes().to_vec()
        };
        let name = |link: &Option<super::packet::Via>| {
            let name = link.as_ref().map_or("", |link| link.name.as_str());
            let mut bytes = name.as_bytes().to_vec();
            bytes.resize(16, 0);
            bytes
        };
        match key {
            1 => Some(packet.ethertype().to_vec()),
            3 => Some(packet.mark.to_ne_bytes().to_vec()),
            4 => Some(index(&packet.in_link)),
            5 => Some(index(&packet.out_link)),
            6 => Some(name(&packet.in_link)),
            7 => Some(name(&packet.out_link)),
            15 => Some(vec![match packet.family() {
                IpFamily::Ipv4 => 2,
                IpFamily::Ipv6 => 10,
            }]),
            16 => Some(vec![packet.protocol()]),
            _ => None,
        }
    }

    fn payload(&mut self, data: &[u8]) -> Option<Effect> {
        let register = number(data, 1)?;
        let size = |kind| usize::try_from(number(data, kind)?).ok();
        let (offset, length) = (size(3)?, size(4)?);
        let header = match number(data, 2)? {
            0 => self.packet.link_header(),
            1 => self.packet.network_header(),
            2 => self.packet.transport_header(),
            _ => Bytes::new(),
        };
        let end = offset.checked_add(length)?;
        match header.get(offset..end) {
            Some(bytes) => self.registers.write(register, bytes),
            None => self.registers.forget(register),
        }
        Some(Effect::Next)
    }

    /// A new connection, or one that has just been answered.
    fn connection(&mut self, data: &[u8]) -> Option<Effect> {
        const ESTABLISHED: u32 = 2;
        const NEW: u32 = 8;
        const DESTINATION_IS_TRANSLATED: u32 = 32;
        let register = number(data, 1)?;
        let status = match self.packet.is_translated {
            true => DESTINATION_IS_TRANSLATED,
            false => 0,
        };
        let is_answer = self.packet.is_answer;
        let state = if is_answer { ESTABLISHED } else { NEW };
        match number(data, 2)? {
            0 => self.registers.write_known(register, &state.to_ne_bytes()),
            1 => self.registers.write_known(register, &[is_answer.into()]),
            2 => self.registers.write_known(register, &status.to_ne_bytes()),
            12 => {
                let port = self.packet.original_port.to_be_bytes();
                self.registers.write_known(register, &port);
            }
            20 => {
                let address = octets(self.packet.original_to);
                self.registers.write_known(register, &address);
            }
            _ => self.registers.forget(register),
        }
        Some(Effect::Next)
    }

    fn fib(&mut self, data: &[u8]) -> Option<Effect> {
        const ADDRESS_TYPE: u32 = 3;
        const DESTINATION: u32 = 2;
        let register = number(data, 1)?;
        if (number(data, 2)?, number(data, 3)?) != (ADDRESS_TYPE, DESTINATION) {
            self.registers.forget(register);
            return Some(Effect::Next);
        }
        let kind = match self.packet.is_to_host {
            true => libc::RTN_LOCAL,
            false => libc::RTN_UNICAST,
        };
        let kind = u32::from(kind).to_ne_bytes();
        self.registers.write_known(register, &kind);
        Some(Effect::Next)
    }

    fn bitwise(&mut self, data: &[u8]) -> Option<Effect> {
        const MASK_AND_XOR: u32 = 0;
        let (from, into) = (number(data, 1)?, number(data, 2)?);
        let length = usize::try_from(number(data, 3)?).ok()?;
        let is_it = number(data, 6).unwrap_or_default() == MASK_AND_XOR;
        let value = self.registers.read(from, length).filter(|_| is_it);
        let (Some(value), Some(mask), Some(xor)) = (value, bytes(data, 4), bytes(data, 5)) else {
            self.registers.forget(into);
            return Some(Effect::Next);
        };
        let pairs = value.iter().zip(&mask).zip(&xor);
        let value: Vec<u8> = pairs
            .map(|((value, mask), xor)| value & mask ^ xor)
            .collect();
        self.registers.write_known(into, &value);
        Some(Effect::Next)
    }

    fn compare(&mut self, data: &[u8]) -> Option<Effect> {
        let expected = bytes(data, 3)?;
        let value = self.registers.read(number(data, 1)?, expected.len())?;
        Some(goes_on(match number(data, 2)? {
            0 => value == expected,
            1 => value != expected,
            2 => value < expected,
            3 => value <= expected,
            4 => value > expected,
            5 => value >= expected,
            _ => return None,
        }))
    }

    fn range(&mut self, data: &[u8]) -> Option<Effect> {
        let (first, last) = (bytes(data, 3)?, bytes(data, 4)?);
        let value = self.registers.read(number(data, 1)?, first.len())?;
        let is_within = first <= value && value <= last;
        Some(goes_on(is_within == (number(data, 2)? == 0)))
    }

    fn lookup(&mut self, data: &[u8]) -> Option<Effect> {
        const INVERTED: u32 = 1;
        let name = Value::name(data, 1)?;
        let Some(set) = self.ruleset.sets.get(&self.place.sibling(name)) else {
            return self.unknown_lookup(data);
        };
        let inverted = number(data, 5).unwrap_or_default() & INVERTED != 0;
        let Some(element) = set.elements.first() else {
            return Some(goes_on(inverted));
        };
        let Some(key) = self.registers.read(number(data, 2)?, element.key.len()) else {
            return self.unknown_lookup(data);
        };
        let found = set.get(&key);
        match (found, number(data, 3)) {
            (Some(Some(Value::Bytes(value))), Some(into)) => {
                self.registers.write_known(into, value);
            }
            (Some(Some(Value::Verdict(code, chain))), _) => return verdict(*code, chain.clone()),
            _ => {}
        }
        Some(goes_on(found.is_some() != inverted))
    }

    /// In a map of verdicts, any of them may be found.
    fn unknown_lookup(&mut self, data: &[u8]) -> Option<Effect> {
        const VERDICT: u32 = 0;
        match number(data, 3) {
            Some(VERDICT) => {
                self.certain = false;
                Some(Effect::Ends(Decision::Anything))
            }
            Some(register) => {
                self.registers.forget(register);
                Some(Effect::Unknown)
            }
            None => Some(Effect::Unknown),
        }
    }

    fn immediate(&mut self, data: &[u8]) -> Option<Effect> {
        match Value::read(find(data, 2)?)? {
            Value::Bytes(value) => {
                self.registers.write_known(number(data, 1)?, &value);
                Some(Effect::Next)
            }
            Value::Verdict(code, chain) => verdict(code, chain),
        }
    }

    /// Whose the destination is, as iptables asks for it (`addrtype`): the one match of its own that is understood. Docker
    /// translates what is sent to the host, by it.
    fn iptables_match(&self, data: &[u8]) -> Option<Effect> {
        const REVISION: u32 = 1;
        const INVERTED: u32 = 2;
        let is_it = Value::name(data, 1)? == "addrtype" && number(data, 2)? == REVISION;
        let info: &[u8; 8] = find(data, 3).filter(|_| is_it)?.first_chunk()?;
        let [source, other_source, first, second, flags @ ..] = *info;
        let flags = u32::from_ne_bytes(flags);
        if [source, other_source] != [0, 0] || flags & !INVERTED != 0 {
            return None;
        }
        let kind = match self.packet.is_to_host {
            true => libc::RTN_LOCAL,
            false => libc::RTN_UNICAST,
        };
        let is_one = u16::from_ne_bytes([first, second]) & 1 << kind != 0;
        Some(goes_on(is_one != (flags & INVERTED != 0)))
    }

    /// What the targets of iptables do that nftables has no words for.
    fn target(&mut self, data: &[u8]) -> Effect {
        match Value::name(data, 1).as_deref() {
            Some("REJECT" | "DROP") => Effect::Ends(Decision::Drop),
            Some("DNAT" | "REDIRECT" | "NETMAP" | "TPROXY") => self.translate_somehow(),
            _ => Effect::Next,
        }
    }

    /// To a place that isn't known.
    fn translate_somehow(&mut self) -> Effect {
        self.packet.may_be_translated = true;
        Effect::Next
    }

    /// Another destination, or another source.
    fn translate(&mut self, data: &[u8]) -> Option<Effect> {
        const TO_DESTINATION: u32 = 1;
        let is_destination = number(data, 1)? == TO_DESTINATION;
        let length = match self.packet.family() {
            IpFamily::Ipv4 => 4,
            IpFamily::Ipv6 => 16,
        };
        let address = number(data, 3).and_then(|register| self.registers.read(register, length));
        if !is_destination {
            if self.certain {
                self.packet.shown_as = address.and_then(|octets| address_of(&octets));
            }
            return Some(Effect::Ends(Decision::Accept));
        }
        let port = number(data, 5).and_then(|register| self.registers.read(register, 2));
        let Some(address) = address.and_then(|octets| address_of(&octets)) else {
            return Some(self.translate_somehow());
        };
        self.packet.may_be_translated |= !self.certain;
        if self.certain {
            self.packet.to = address;
            self.packet.is_translated = true;
            if let Some(port) = port.and_then(|bytes| <[u8; 2]>::try_from(bytes).ok()) {
                self.packet.traffic = self.packet.traffic.to_port(u16::from_be_bytes(port));
            }
        }
        Some(Effect::Ends(Decision::Accept))
    }
}

fn goes_on(matches: bool) -> Effect {
    match matches {
        true => Effect::Next,
        false => Effect::Differs,
    }
}

fn verdict(code: i32, chain: Option<String>) -> Option<Effect> {
    let decision = match (code, chain) {
        (0, _) => Decision::Drop,
        (1, _) => Decision::Accept,
        (-3, Some(chain)) => Decision::Jump(chain),
        (-4, Some(chain)) => Decision::Goto(chain),
        (-5, _) => Decision::Return,
        (-1, _) => return Some(Effect::Next),
        _ => return None,
    };
    Some(Effect::Ends(decision))
}

fn bytes(data: &[u8], kind: u16) -> Option<Vec<u8>> {
    match Value::read(find(data, kind)?)? {
        Value::Bytes(bytes) => Some(bytes),
        Value::Verdict(..) => None,
    }
}

fn address_of(octets: &[u8]) -> Option<IpAddr> {
    let ipv4 = <[u8; 4]>::try_from(octets).map(IpAddr::from);
    let ipv6 = <[u8; 16]>::try_from(octets).map(IpAddr::from);
    ipv4.or(ipv6).ok()
}
