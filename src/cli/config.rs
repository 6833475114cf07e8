//! `ringhall config`: check, default, show.
//!
//! In:    sources of a configuration.
//! Out:   the answer on stdout, problems on stderr, an exit code.
//! Never: opens a socket.

use std::process::ExitCode;

use super::{answer, load, report};
use crate::config::{DEFAULT_FILE, DEFAULT_TOML, Sources};
use crate::server;

/// Says whether the configuration is right.
pub(super) fn check(sources: Sources) -> ExitCode {
    let loaded = match load(sources) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    if let Err(problem) = server::check(&loaded) {
        return report(&[problem]);
    }
    match loaded.file {
        Some(file) => answer(&format!("ok: {}\n", file.display())),
        None => answer(&format!("ok: built-in defaults (there is no {DEFAULT_FILE})\n")),
    }
}

/// Prints the commented defaults.
pub(super) fn default() -> ExitCode {
    answer(DEFAULT_TOML)
}

/// Prints what is in force, and where each value came from.
pub(super) fn show(sources: Sources) -> ExitCode {
    match load(sources) {
        Ok(loaded) => answer(&loaded.show()),
        Err(code) => code,
    }
}
