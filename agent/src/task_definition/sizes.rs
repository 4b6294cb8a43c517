//! The CPU and memory of a whole task, which ECS writes as strings in several spellings.

use std::fmt;

use serde::{Deserialize, Serialize};

/// 1,024 units are one CPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CpuUnits(pub u32);

/// Memory in MiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mebibytes(pub u32);

impl CpuUnits {
    /// Reads `256`, `.25 vCPU`, `0.25vcpu`.
    pub fn parse(text: &str) -> Option<Self> {
        amount(text, "vcpu", 1024.0).map(Self)
    }
}

impl Mebibytes {
    /// Reads `512`, `1 GB`, `0.5gb`.
    pub fn parse(text: &str) -> Option<Self> {
        amount(text, "gb", 1024.0).map(Self)
    }

    /// The same in bytes.
    pub fn bytes(self) -> u64 {
        u64::from(self.0) << 20
    }
}

/// A whole number as it stands, or a decimal one with `unit`, of which one is `scale`.
fn amount(text: &str, unit: &str, scale: f64) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    let Some(number) = text.strip_suffix(unit) else {
        return text
            .bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?;
    };
    let number = number.trim_end();
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return None;
    }
    let scaled = number.parse::<f64>().ok()? * scale;
    // In range by the check, so that the conversion is exact.
    (scaled.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&scaled))
        .then_some(scaled as u32)
}

impl fmt::Display for CpuUnits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Mebibytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl From<CpuUnits> for String {
    fn from(units: CpuUnits) -> Self {
        units.to_string()
    }
}

impl From<Mebibytes> for String {
    fn from(size: Mebibytes) -> Self {
        size.to_string()
    }
}

impl TryFrom<String> for CpuUnits {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or(format!("'{text}' is no amount of CPU"))
    }
}

impl TryFrom<String> for Mebibytes {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text).ok_or(format!("'{text}' is no amount of memory"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_ecs_is_read() {
        for text in ["256", ".25 vCPU", "0.25vcpu", " 0.25 VCPU "] {
            assert_eq!(CpuUnits::parse(text), Some(CpuUnits(256)), "{text}");
        }
        for text in ["512", "0.5 GB", ".5gb"] {
            assert_eq!(Mebibytes::parse(text), Some(Mebibytes(512)), "{text}");
        }
    }

    #[test]
    fn nonsense_is_not() {
        for text in [
            "",
            "-1",
            "1e3",
            "vCPU",
            "0.3 vCPU",
            "inf vCPU",
            "1.2.3 vcpu",
            "99999999999",
            "256.5",
        ] {
            assert_eq!(CpuUnits::parse(text), None, "{text}");
        }
    }
}
