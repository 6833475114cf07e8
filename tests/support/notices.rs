//! A supervisor's ear: the socket that `NOTIFY_SOCKET` names.
//!
//! In:    datagrams of a server.
//! Out:   their lines, in order.
//! Never: waits for longer than the deadline.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use super::{DEADLINE, open_folder};

/// What a server tells its supervisor.
#[derive(Debug)]
pub struct Notices {
    socket: UnixDatagram,
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Notices {
    /// Listens on a socket of its own.
    ///
    /// # Panics
    /// If there is none to be had.
    pub fn new() -> Self {
        let folder = open_folder();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket in a folder of our own");
        // Whoever the server runs as may write to it.
        let mode = std::fs::Permissions::from_mode(0o777);
        std::fs::set_permissions(&path, mode).expect("a socket of our own");
        Self { socket, path, _folder: folder }
    }

    /// Names the socket to a server that is to be started.
    pub fn name_to(&self, command: &mut Command) {
        command.env("NOTIFY_SOCKET", &self.path);
        command.env_remove("WATCHDOG_USEC").env_remove("WATCHDOG_PID");
    }

    /// The next notice, whatever it is.
    ///
    /// # Panics
    /// If none comes within the deadline.
    #[track_caller]
    pub fn next(&self) -> String {
        self.socket.set_read_timeout(Some(DEADLINE)).expect("a time");
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a notice");
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    /// The next notice that holds the text.
    ///
    /// # Panics
    /// If none comes within the deadline.
    #[track_caller]
    pub fn wait(&self, text: &str) -> String {
        let until = Instant::now() + DEADLINE;
        loop {
            let notice = self.next();
            if notice.contains(text) {
                return notice;
            }
            assert!(Instant::now() < until, "no notice holds {text:?}");
        }
    }

    /// What has come so far and was not taken yet.
    pub fn waiting(&self) -> Vec<String> {
        self.socket.set_nonblocking(true).expect("a socket of our own");
        let mut buffer = [0; 4096];
        let mut notices = Vec::new();
        while let Ok(length) = self.socket.recv(&mut buffer) {
            notices.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
        }
        self.socket.set_nonblocking(false).expect("a socket of our own");
        notices
    }
}
