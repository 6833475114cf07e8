//! Starts the server, watches over it, and ends it.
//!
//! In:    a checked configuration; signals.
//! Out:   running shards, orders to them; an exit when they are done.
//! Never: touches a connection: shards do.

mod boot;
mod bridge;
mod health;
mod reserve;
mod signals;

use std::fmt;

use crate::config::Loaded;

/// Files that the main thread opens before anything else: its runtime panics without.
const FIRST_FILES: usize = 12;

/// Why the server could not run, and what to do.
#[derive(Debug)]
pub struct RunError(pub String);

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Serves until told to stop.
///
/// # Errors
/// What the box refused, with the remedy.
pub fn run(loaded: Loaded) -> Result<(), RunError> {
    // Signals are taken before a socket is open: who can connect can be told of the end.
    boot::afford(FIRST_FILES, "start")?;
    let served = boot::run_on_runtime(async move {
        let signals = signals::Signals::new()?;
        let (started, admin) = boot::boot(&loaded).map_err(|error| error.0)?;
        signals::watch_over(loaded, started, admin, signals).await
    });
    served.map_err(RunError)
}
