//! Starts, runs and ends the server.

use std::fmt;

use crate::config::Loaded;

/// Why the server could not run.
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
/// What the box refused.
pub fn run(loaded: Loaded) -> Result<(), RunError> {
    tracing::info!(listen = ?loaded.config.listen, "started");
    Ok(())
}
