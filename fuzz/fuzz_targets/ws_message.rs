//! Turns libFuzzer's inputs into runs of the check `ws_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringhall_fuzz::checks::ws_message::check(data));
