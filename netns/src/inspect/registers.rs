//! The registers that a rule works with: sixty-four bytes, of which some are not known.
#![forbid(unsafe_code)]

use super::packet::Bytes;
use crate::nftables::register;

/// How many bytes the longest register has.
const LONGEST: usize = 16;

#[derive(Debug)]
pub(crate) struct Registers([Option<u8>; 64]);

impl Registers {
    pub(crate) fn new() -> Self {
        Self([None; 64])
    }

    /// The first bytes from a register on, if they are known.
    pub(crate) fn read(&self, number: u32, length: usize) -> Option<Vec<u8>> {
        let at = register(number)?;
        let bytes = self.0.get(at..at.checked_add(length)?)?;
        bytes.iter().copied().collect()
    }

    /// Sets a register, and the rest of its last four bytes to zero, as the kernel does.
    pub(crate) fn write(&mut self, number: u32, value: &[Option<u8>]) {
        let Some(at) = register(number) else { return };
        let end = at + value.len().next_multiple_of(4);
        let registers = self.0.get_mut(at..end).into_iter().flatten();
        let padded = value.iter().copied().chain(std::iter::repeat(Some(0)));
        registers
            .zip(padded)
            .for_each(|(register, byte)| *register = byte);
    }

    /// Sets a register to bytes that are known.
    pub(crate) fn write_known(&mut self, number: u32, value: &[u8]) {
        let value: Bytes = value.iter().copied().map(Some).collect();
        self.write(number, &value);
    }

    /// Forgets what a register has.
    pub(crate) fn forget(&mut self, number: u32) {
        self.write(number, &[None; LONGEST]);
    }
}
