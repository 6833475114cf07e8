//! Turns libFuzzer's inputs into runs of the check `proxy_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringhall_fuzz::checks::proxy_header::check(data));
