//! Profiles made of the bytes: compiled, checked, run, and compared with what they say.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| berth_runtime::fuzzing::filter(bytes));
