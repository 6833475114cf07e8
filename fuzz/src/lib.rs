//! Turns inputs into verdicts on the decoders: the checks that fuzzing and `cargo test` share.

pub mod checks;
