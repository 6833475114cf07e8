//! Starts the server, watches over it, and ends it.
//!
//! In:    a checked configuration; signals.
//! Out:   running shards, orders to them; an exit when they are done.
//! Never: touches a connection: shards do.

mod boot;
mod bridge;
mod health;
mod metrics;
mod reserve;
mod signals;
mod supervision;
mod watch;

use std::fmt;
use std::rc::Rc;

use crate::config::{Loaded, Origin, Problem};
use crate::systemd::{Supervisor, inherited_listeners};

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

/// The key whose engine [`check`] asks.
const BROKER_URL: &str = "broker.url";

/// What else is wrong with a configuration that was loaded: what only a broker's engine knows of
/// its section. It opens no socket, and reads `broker.ca`.
///
/// # Errors
/// The problem, at the place of `broker.url`.
pub fn check(loaded: &Loaded) -> Result<(), Problem> {
    bridge::check(&loaded.config).map_err(|error| {
        let mut settings = loaded.settings();
        let url = settings.find(|(key, ..)| key.name == BROKER_URL);
        let origin = url.map_or(Origin::Default, |(_, _, origin)| origin.clone());
        Problem { origin, key: Some(BROKER_URL.to_owned()), text: error.0 }
    })
}

/// Serves until told to stop.
///
/// # Errors
/// What the box refused, with the remedy.
pub fn run(loaded: Loaded) -> Result<(), RunError> {
    let supervisor = Rc::new(Supervisor::from_env());
    let outcome = serve(loaded, supervisor.clone());
    if let Err(error) = &outcome {
        // `systemctl status` shows it beside the exit code.
        supervisor.status(&error.0);
    }
    outcome
}

fn serve(loaded: Loaded, supervisor: Rc<Supervisor>) -> Result<(), RunError> {
    let inherited = inherited_listeners().map_err(RunError)?;
    // Signals are taken before a socket is open: who can connect can be told of the end.
    boot::afford(FIRST_FILES, "start")?;
    let served = boot::run_on_runtime(async move {
        let signals = signals::Signals::new()?;
        let (started, admin) = boot::boot(&loaded, inherited).map_err(|error| error.0)?;
        signals::watch_over(loaded, started, admin, signals, supervisor).await
    });
    served.map_err(RunError)
}
