//! A digest, and computing one while bytes pass by.

use std::fmt;
use std::io::{self, Read};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::id::hex;

/// `sha256:` and 64 hexadecimal digits (OCI image spec, "Digests"). It is safe as a file name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(hex(&Sha256::digest(bytes)))
    }

    /// The 64 digits.
    pub fn hex(&self) -> &str {
        &self.0
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("sha256:") {
            Some(hex)
                if hex.len() == 64
                    && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) =>
            {
                Ok(Self(hex.to_owned()))
            }
            _ => Err(format!(
                "'{}' is no digest; one is sha256: and 64 hexadecimal digits",
                text.escape_debug()
            )),
        }
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

/// Passes bytes on and computes their digest.
pub struct Hashing<R> {
    inner: R,
    state: Sha256,
    length: u64,
    /// The zero bytes at the end of what has passed.
    zeros: u64,
}

impl<R: Read> Hashing<R> {
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            state: Sha256::new(),
            length: 0,
            zeros: 0,
        }
    }

    /// Reads what is left, then says what has passed in all: the digest, the number of bytes,
    /// and how many of the last ones were zero.
    pub fn finish(mut self) -> io::Result<(Digest, u64, u64)> {
        io::copy(&mut self, &mut io::sink())?;
        Ok((Digest(hex(&self.state.finalize())), self.length, self.zeros))
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        let passed = buffer.get(..n).unwrap_or_default();
        self.state.update(passed);
        self.length += n as u64;
        match passed.iter().rposition(|&byte| byte != 0) {
            Some(last) => self.zeros = (n - 1 - last) as u64,
            None => self.zeros += n as u64,
        }
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha256_and_nothing_else() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), empty);
        assert_eq!(empty.parse::<Digest>().unwrap(), Digest::of(b""));
        for bad in [
            "",
            "sha256:",
            "sha512:00",
            &empty.to_uppercase(),
            &empty[..70],
            "sha256:../../etc/passwd",
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }

    #[test]
    fn hashing_counts_what_passes_and_the_zeros_at_its_end() {
        let mut hashing = Hashing::new(&b"ab\0cd\0\0"[..]);
        io::copy(&mut hashing.by_ref().take(3), &mut io::sink()).unwrap();
        assert_eq!(hashing.finish().unwrap(), (Digest::of(b"ab\0cd\0\0"), 7, 2));
    }
}
