//! Turns libFuzzer's inputs into runs of the check `bridge_envelope`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringhall_fuzz::checks::bridge_envelope::check(data));
