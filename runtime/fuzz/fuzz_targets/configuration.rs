//! `config.json`: parsed, validated, planned as far as nothing is opened.

#![no_main]

#[path = "../json.rs"]
mod json;

use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|bytes: &[u8]| berth_runtime::fuzzing::configuration(bytes));

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    json::mutate(data, size, max_size, seed).unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});
