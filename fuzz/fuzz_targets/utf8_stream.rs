//! Turns libFuzzer's inputs into runs of the check `utf8_stream`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringhall_fuzz::checks::utf8_stream::check(data));
