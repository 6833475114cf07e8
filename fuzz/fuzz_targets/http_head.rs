//! Turns libFuzzer's inputs into runs of the check `http_head`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringhall_fuzz::checks::http_head::check(data));
