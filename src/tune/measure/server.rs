//! A server for one trial.
//!
//! In:    the binary, a setting, a CPU.
//! Out:   where it listens, its process.
//! Never: uses a port or a configuration of somebody else.

use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::child::Running;
use super::{Fault, Setting};

/// Wait for a server to listen.
const START: Duration = Duration::from_secs(10);
/// What every trial's server is started with: free ports, a log that says where, and an end that
/// waits for nobody.
const ALWAYS: [&str; 4] = [
    "server.listen=127.0.0.1:0",
    "admin.listen=127.0.0.1:0",
    "log.format=text",
    "shutdown.grace=0s",
];

/// A server that runs.
#[derive(Debug)]
pub(super) struct Server {
    running: Running,
    /// Where clients connect.
    pub(super) address: SocketAddr,
}

impl Server {
    /// Starts one and waits until it listens.
    pub(super) fn start(
        binary: &Path,
        defaults: &Path,
        setting: &Setting,
        cpu: Option<usize>,
    ) -> Result<Self, Fault> {
        let mut command = Command::new(binary);
        // Not the operator's file, nor what the environment sets: the defaults and this setting.
        for (name, _) in std::env::vars_os() {
            if is_setting(&name) {
                command.env_remove(name);
            }
        }
        command.args(["serve", "--until-stdin-ends", "--config"]).arg(defaults);
        for fixed in ALWAYS {
            command.args(["--set", fixed]);
        }
        for (key, value) in setting {
            command.arg("--set").arg(format!("{key}={value}"));
        }
        let running = Running::start(command, "a server for the trial", cpu)?;
        let address = running.wait_line(START, address_in)?;
        Ok(Self { running, address })
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// Ends it.
    pub(super) fn stop(self) {
        self.running.stop();
    }
}

fn is_setting(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b"RINGHALL_")
}

/// The address in the line of log that a start ends with.
fn address_in(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.split_once("chat on http://")?;
    rest.split([' ', '\u{1b}']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_that_a_start_ends_with_has_the_address() {
        let line = "2026-01-01T00:00:00Z  INFO ringhall is open: chat on http://127.0.0.1:4242 \
                    version=\"0.1.0\" admin=\"http://127.0.0.1:9\"";
        assert_eq!(address_in(line), "127.0.0.1:4242".parse().ok());
        assert_eq!(address_in("INFO something else http://127.0.0.1:1"), None);
    }

    #[test]
    fn only_the_servers_own_variables_are_left_out() {
        assert!(is_setting(OsStr::new("RINGHALL_SERVER_LISTEN")));
        assert!(!is_setting(OsStr::new("PATH")));
    }
}
