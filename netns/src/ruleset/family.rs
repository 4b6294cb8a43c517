//! The two families of IP: where their addresses are, and which sets are theirs.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use super::words::payload;
use crate::nftables::{Base, Expression, Field, Name};

/// A family of IP. What is keyed by an address is there once for each: a set's elements are of one length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IpFamily {
    Ipv4,
    Ipv6,
}

impl IpFamily {
    pub(crate) const BOTH: [Self; 2] = [Self::Ipv4, Self::Ipv6];

    pub(crate) fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::Ipv4,
            IpAddr::V6(_) => Self::Ipv6,
        }
    }

    /// The name of this family's set: that of IPv4 has the plain one.
    pub(crate) fn set(self, name: &str) -> Name {
        match self {
            Self::Ipv4 => name.to_owned().into(),
            Self::Ipv6 => format!("{name}6").into(),
        }
    }

    /// The field of a key that an address is.
    pub(crate) fn field(self) -> Field {
        match self {
            Self::Ipv4 => Field::Ipv4Address,
            Self::Ipv6 => Field::Ipv6Address,
        }
    }

    /// How many bytes an address has.
    pub(super) fn length(self) -> u32 {
        match self {
            Self::Ipv4 => 4,
            Self::Ipv6 => 16,
        }
    }

    /// Where the header has its source.
    pub(super) fn source_offset(self) -> u32 {
        match self {
            Self::Ipv4 => 12,
            Self::Ipv6 => 8,
        }
    }

    /// The source of a packet.
    pub(super) fn source(self) -> Expression {
        payload(Base::Network, self.source_offset(), self.length())
    }

    /// The destination of a packet.
    pub(super) fn destination(self) -> Expression {
        let offset = self.source_offset() + self.length();
        payload(Base::Network, offset, self.length())
    }
}
