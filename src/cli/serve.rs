//! `ringhall serve`: configuration, logs, server.
//!
//! In:    sources of a configuration.
//! Out:   an exit code, once the server has ended.
//! Never: opens a socket before the configuration is right.

use std::io;
use std::process::ExitCode;

use rustix::process::{Signal, getpid, kill_process};

use super::{complain, load, logging};
use crate::config::Sources;
use crate::server;

/// Serves until told to stop.
pub(super) fn run(sources: Sources) -> ExitCode {
    let loaded = match load(sources) {
        Ok(loaded) => loaded,
        Err(code) => return code,
    };
    let guard = logging::start(loaded.config.log_level, loaded.config.log_format);
    let outcome = server::run(loaded);
    // What was logged goes out first, so that the reason stands last.
    drop(guard);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("ringhall: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Ends this process as SIGTERM does once stdin ends: with whoever holds the other end of the pipe,
/// however that one ends.
pub(super) fn end_with_stdin() {
    std::thread::spawn(|| {
        let _unread = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _gone = kill_process(getpid(), Signal::TERM);
    });
}
