//! A container's record, the note of its cgroup and the kernel's line about its process: texts that the
//! runtime reads back between two commands.

#![no_main]

#[path = "../json.rs"]
mod json;
#[allow(dead_code)]
#[path = "../../src/command/state/record.rs"]
mod record;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| record::check(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
