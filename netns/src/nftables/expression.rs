//! Expressions: the instructions that a rule consists of.
//!
//! They load what they look at into registers and compare it there; the first that does not match
//! ends the rule. Sixteen registers of four bytes can be had one by one or four at a time.
#![forbid(unsafe_code)]

use super::Name;
use super::attributes::Writer;

/// A register of four bytes: 0 to 15. A longer value takes those that follow too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    pub(crate) const FIRST: Self = Self(0);

    /// The kernel's number: the four-byte registers begin at 8.
    fn number(self) -> u32 {
        8 + self.0
    }
}

/// Something that is known about a packet beside its bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) enum MetaKey {
    /// The packet's mark, as the processor has its numbers.
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    NetworkProtocol = 15,
    TransportProtocol = 16,
}

/// Where in a packet an offset counts from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

/// What happens to a packet that a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Verdict {
    Drop,
    Accept,
    /// Goes on in another chain; at its end, the base chain's policy decides.
    Goto(Name),
    /// Goes on where the chain was called from.
    Return,
}

/// One instruction of a rule.
#[derive(Debug, Clone)]
pub(crate) enum Expression {
    Meta {
        key: MetaKey,
        into: Register,
    },
    /// Sets what is known about a packet.
    SetMeta {
        key: MetaKey,
        from: Register,
    },
    Payload {
        base: Base,
        offset: u32,
        length: u32,
        into: Register,
    },
    /// The state of the packet's connection, as a bit.
    ConnectionState {
        into: Register,
    },
    /// What has become of the packet's connection, as bits.
    ConnectionStatus {
        into: Register,
    },
    /// The port that the packet's connection was opened to, before any translation.
    OriginalPort {
        into: Register,
    },
    /// The IPv4 address that the packet's connection was opened to, before any translation.
    OriginalAddress {
        into: Register,
    },
    /// Whose the destination is: a number that the kernel's routes have.
    KindOfDestination {
        into: Register,
    },
    Mask {
        register: Register,
        mask: Vec<u8>,
    },
    /// Sets bits of a register, and leaves the others as they are.
    SetBits {
        register: Register,
        bits: Vec<u8>,
    },
    /// Compares a register with a value. A comparison with fewer bytes is one with a prefix.
    Compare {
        register: Register,
        comparison: Comparison,
        value: Vec<u8>,
    },
    /// Compares a register with zero: true if it is not.
    NotZero {
        register: Register,
    },
    /// Whether a set has the key in the registers; if inverted, whether it has not.
    InSet {
        set: Name,
        key: Register,
        inverted: bool,
    },
    /// The value that a map has for the key in the registers. A key that it hasn't ends the rule.
    ValueOf {
        map: Name,
        key: Register,
        into: Register,
    },
    /// Whether a register's value is one of these or between them.
    Range {
        register: Register,
        from: Vec<u8>,
        to: Vec<u8>,
    },
    /// Counts the packets that come this far.
    Counter,
    Immediate {
        into: Register,
        value: Vec<u8>,
    },
    Verdict(Verdict),
    /// Sends the packet to the address in this register, and to the port in the other, or to the same.
    DestinationNat {
        is_ipv6: bool,
        address: Register,
        port: Option<Register>,
    },
    /// Has the packet come from the IPv4 address in this register.
    SourceNat {
        address: Register,
    },
    Masquerade,
}

impl Expression {
    fn name(&self) -> &'static str {
        match self {
            Self::Meta { .. } | Self::SetMeta { .. } => "meta",
            Self::Payload { .. } => "payload",
            Self::ConnectionState { .. }
            | Self::ConnectionStatus { .. }
            | Self::OriginalPort { .. }
            | Self::OriginalAddress { .. } => "ct",
            Self::KindOfDestination { .. } => "fib",
            Self::Mask { .. } | Self::SetBits { .. } => "bitwise",
            Self::Compare { .. } | Self::NotZero { .. } => "cmp",
            Self::InSet { .. } | Self::ValueOf { .. } => "lookup",
            Self::Range { .. } => "range",
            Self::Counter => "counter",
            Self::Immediate { .. } | Self::Verdict(_) => "immediate",
            Self::DestinationNat { .. } | Self::SourceNat { .. } => "nat",
            Self::Masquerade => "masq",
        }
    }

    /// Appends what it consists of, but for its name.
    fn write(&self, list: Writer) -> Writer {
        match self {
            Self::Meta { key, into } => list.number(1, into.number()).number(2, *key as u32),
            Self::SetMeta { key, from } => list.number(2, *key as u32).number(3, from.number()),
            Self::Payload {
                base,
                offset,
                length,
                into,
            } => list
                .number(1, into.number())
                .number(2, *base as u32)
                .number(3, *offset)
                .number(4, *length),
            Self::ConnectionState { into } => connection(list, *into, 0),
            Self::ConnectionStatus { into } => connection(list, *into, 2),
            // Of the direction in which it was opened.
            Self::OriginalPort { into } => connection(list, *into, 12).bytes(3, &[0]),
            Self::OriginalAddress { into } => connection(list, *into, 20).bytes(3, &[0]),
            Self::KindOfDestination { into } => {
                const ADDRESS_TYPE: u32 = 3;
                const DESTINATION: u32 = 2;
                let fib = list.number(1, into.number());
                fib.number(2, ADDRESS_TYPE).number(3, DESTINATION)
            }
            Self::Mask { register, mask } => bitwise(list, *register, mask, &vec![0; mask.len()]),
            Self::SetBits { register, bits } => {
                let others: Vec<u8> = bits.iter().map(|byte| !byte).collect();
                bitwise(list, *register, &others, bits)
            }
            Self::Compare {
                register,
                comparison,
                value,
            } => compare(list, *register, *comparison as u32, value),
            Self::NotZero { register } => compare(list, *register, 1, &[0; 4]),
            Self::InSet { set, key, inverted } => list
                .text(1, set)
                .number(2, key.number())
                .number(5, u32::from(*inverted)),
            Self::ValueOf { map, key, into } => {
                let lookup = list.text(1, map).number(2, key.number());
                lookup.number(3, into.number())
            }
            Self::Range { register, from, to } => range(list, *register, from, to),
            Self::Counter | Self::Masquerade => list,
            Self::Immediate { into, value } => list.number(1, into.number()).nested(2, data(value)),
            Self::Verdict(verdict) => list.number(1, 0).nested(2, |value| verdict.write(value)),
            Self::DestinationNat {
                is_ipv6,
                address,
                port,
            } => destination_nat(list, *is_ipv6, *address, *port),
            Self::SourceNat { address } => nat(list, 0, false, *address),
        }
    }
}

impl Verdict {
    /// The verdict with that code, unless it names a chain.
    pub(super) fn read(code: u32) -> Option<Self> {
        match code.cast_signed() {
            0 => Some(Self::Drop),
            1 => Some(Self::Accept),
            -5 => Some(Self::Return),
            _ => None,
        }
    }

    /// Appends the verdict, as a value.
    pub(super) fn write(&self, list: Writer) -> Writer {
        let (code, chain) = match self {
            Self::Drop => (0, None),
            Self::Accept => (1, None),
            Self::Goto(chain) => (-4, Some(chain)),
            Self::Return => (-5, None),
        };
        list.nested(2, |verdict| {
            let verdict = verdict.number(1, i32::cast_unsigned(code));
            match chain {
                Some(chain) => verdict.text(2, chain),
                None => verdict,
            }
        })
    }
}

fn connection(list: Writer, into: Register, key: u32) -> Writer {
    list.number(1, into.number()).number(2, key)
}

/// What appends a value.
fn data(value: &[u8]) -> impl FnOnce(Writer) -> Writer {
    |list| list.bytes(1, value)
}

fn compare(list: Writer, register: Register, comparison: u32, value: &[u8]) -> Writer {
    list.number(1, register.number())
        .number(2, comparison)
        .nested(3, data(value))
}

/// Keeps the bits of the mask, then turns over the others.
fn bitwise(list: Writer, register: Register, mask: &[u8], turned: &[u8]) -> Writer {
    let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
    list.number(1, register.number())
        .number(2, register.number())
        .number(3, length)
        .nested(4, data(mask))
        .nested(5, data(turned))
}

fn range(list: Writer, register: Register, from: &[u8], to: &[u8]) -> Writer {
    const WITHIN: u32 = 0;
    list.number(1, register.number())
        .number(2, WITHIN)
        .nested(3, data(from))
        .nested(4, data(to))
}

fn destination_nat(
    list: Writer,
    is_ipv6: bool,
    address: Register,
    port: Option<Register>,
) -> Writer {
    let nat = nat(list, 1, is_ipv6, address);
    match port {
        Some(port) => nat.number(5, port.number()),
        None => nat,
    }
}

/// Translation of the source (0) or the destination (1).
fn nat(list: Writer, kind: u32, is_ipv6: bool, address: Register) -> Writer {
    const IPV4: u32 = 2;
    const IPV6: u32 = 10;
    list.number(1, kind)
        .number(2, if is_ipv6 { IPV6 } else { IPV4 })
        .number(3, address.number())
}

/// Appends a rule's instructions, as the list that the kernel takes.
pub(super) fn write_expressions(list: Writer, expressions: &[Expression]) -> Writer {
    expressions.iter().fold(list, |list, expression| {
        list.nested(1, |element| {
            element
                .text(1, expression.name())
                .nested(2, |data| expression.write(data))
        })
    })
}

/// The same list alone.
pub(crate) fn expression_list(expressions: &[Expression]) -> Vec<u8> {
    write_expressions(Writer::default(), expressions).finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comparison_is_encoded_as_the_kernel_reads_it() {
        let compare = Expression::Compare {
            register: Register::FIRST,
            comparison: Comparison::Equal,
            value: b"lo".to_vec(),
        };
        let golden = [
            44, 0, 1, 0x80, // element
            8, 0, 1, 0, b'c', b'm', b'p', 0, // name
            32, 0, 2, 0x80, // data
            8, 0, 1, 0, 0, 0, 0, 8, // register
            8, 0, 2, 0, 0, 0, 0, 0, // equal
            12, 0, 3, 0x80, 6, 0, 1, 0, b'l', b'o', 0, 0, // value
        ];
        assert_eq!(expression_list(&[compare]), golden);
    }

    #[test]
    fn a_goto_names_its_chain() {
        let jump = Expression::Verdict(Verdict::Goto("x".into()));
        let golden = [
            52, 0, 1, 0x80, // element
            14, 0, 1, 0, b'i', b'm', b'm', b'e', b'd', b'i', b'a', b't', b'e', 0, 0,
            0, // name
            32, 0, 2, 0x80, // data
            8, 0, 1, 0, 0, 0, 0, 0, // the verdict's register
            20, 0, 2, 0x80, 16, 0, 2, 0x80, // value, verdict
            8, 0, 1, 0, 0xff, 0xff, 0xff, 0xfc, // goto
        ];
        let bytes = expression_list(&[jump]);
        assert_eq!(bytes[4..20], golden[4..20]);
        assert_eq!(
            bytes[bytes.len() - 16..bytes.len() - 8],
            golden[golden.len() - 8..]
        );
        assert_eq!(bytes[bytes.len() - 8..], [6, 0, 2, 0, b'x', 0, 0, 0]);
    }
}
