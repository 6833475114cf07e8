//! nginx or HAProxy as a child process, from a copy of the shipped files with this test's ports.
//!
//! In:    the name of a configuration; servers.
//! Out:   an address that takes connections.
//! Never: outlives the test.

use std::io::Read;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{DEADLINE, Server};

/// Starts that may find their port taken meanwhile: none of the two can be told to choose one.
const TRIES: usize = 5;
/// Ports of the shipped files: the boxes', and of their admin listeners.
const SHIPPED: [(u16, u16); super::BOXES] = [(8000, 8001), (8010, 8011), (8020, 8021)];

/// Which balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `nginx-light`.
    Nginx,
    /// Debian's `haproxy`.
    Haproxy,
}

impl Kind {
    fn folder(self) -> PathBuf {
        let name = if self == Self::Nginx { "nginx" } else { "haproxy" };
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tuning").join(name)
    }

    fn ending(self) -> &'static str {
        if self == Self::Nginx { "conf" } else { "cfg" }
    }

    /// What the shipped files say, and what stands there in this test.
    fn changes(self, port: u16, servers: &[Server]) -> Vec<(String, String)> {
        let listen = match self {
            Self::Nginx => ("    listen 8080 ".into(), format!("    listen 127.0.0.1:{port} ")),
            Self::Haproxy => ("bind :8080 ".into(), format!("bind 127.0.0.1:{port} ")),
        };
        let boxes = SHIPPED.iter().zip(servers).map(|((public, admin), server)| match self {
            Self::Nginx => (format!("127.0.0.1:{public} "), format!("{} ", server.address())),
            Self::Haproxy => (
                format!("127.0.0.1:{public} port {admin} "),
                format!("{} port {} ", server.address(), server.admin().port()),
            ),
        });
        std::iter::once(listen).chain(boxes).collect()
    }
}

/// The configurations of the folder, by name: one file each, beside what they share.
pub fn names(kind: Kind) -> Vec<String> {
    let files = std::fs::read_dir(kind.folder()).expect("it is shipped");
    let mut names: Vec<_> = files
        .map(|file| file.expect("a file").path())
        .filter(|path| path.extension().is_some_and(|ending| ending == kind.ending()))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .filter(|name| name != "front")
        .collect();
    names.sort();
    names
}

/// All shipped files of this balancer, one behind the other.
pub fn shipped(kind: Kind) -> String {
    let files = std::fs::read_dir(kind.folder()).expect("it is shipped");
    files.map(|file| std::fs::read_to_string(file.expect("a file").path()).expect("text")).collect()
}

/// A balancer of the test's own.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    address: SocketAddr,
    awaits_header: bool,
    // Its files, until it has ended.
    _folder: tempfile::TempDir,
}

impl Proxy {
    /// Starts it in front of the servers.
    ///
    /// # Panics
    /// If it does not start, with what it said.
    #[track_caller]
    pub fn start(kind: Kind, name: &str, servers: &[Server]) -> Self {
        let mut said = String::new();
        for _ in 0..TRIES {
            let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
            let address = free.expect("a free port");
            let folder = tempfile::tempdir().expect("a temporary folder");
            let text = write(kind, folder.path(), &kind.changes(address.port(), servers));
            let child = spawn(kind, name, folder.path());
            let awaits_header = name.ends_with("behind_balancer");
            assert!(!awaits_header || text.contains("proxy_protocol;"), "{text}");
            let mut proxy = Self { child, address, awaits_header, _folder: folder };
            match proxy.wait_open() {
                Ok(()) => return proxy,
                Err(why) => said = why,
            }
            if !said.contains("ddress already in use") {
                break;
            }
        }
        panic!("{kind:?} does not start with {name}: {said}");
    }

    /// Where clients connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether connections have to begin with a PROXY protocol header.
    pub fn awaits_header(&self) -> bool {
        self.awaits_header
    }

    fn wait_open(&mut self) -> Result<(), String> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            if self.child.try_wait().expect("our own child").is_some() {
                let mut said = String::new();
                let stderr = self.child.stderr.as_mut().expect("it was asked for");
                stderr.read_to_string(&mut said).expect("text");
                return Err(said);
            }
            if TcpStream::connect(self.address).is_ok() {
                return Ok(());
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        Err("it takes no connections".to_owned())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Not KILL at first: nginx's workers end with their master only if it tells them.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + DEADLINE;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            std::thread::park_timeout(Duration::from_millis(5));
        }
        let _gone = self.child.kill();
        let _ended = self.child.wait();
    }
}

/// Copies the shipped files with the changes, each of which has to be for something; all of them.
fn write(kind: Kind, to: &Path, changes: &[(String, String)]) -> String {
    let mut all = String::new();
    let mut used = vec![false; changes.len()];
    for file in std::fs::read_dir(kind.folder()).expect("it is shipped") {
        let file = file.expect("a file");
        let mut text = std::fs::read_to_string(file.path()).expect("text");
        for ((from, to), used) in changes.iter().zip(&mut used) {
            *used |= text.contains(from);
            text = text.replace(from, to);
        }
        std::fs::write(to.join(file.file_name()), &text).expect("a copy");
        all.push_str(&text);
    }
    assert!(used.iter().all(|used| *used), "{changes:?}: {used:?}");
    all
}

fn spawn(kind: Kind, name: &str, folder: &Path) -> Child {
    let file = |name: &str| folder.join(format!("{name}.{}", kind.ending()));
    let program = match kind {
        Kind::Nginx => "nginx",
        Kind::Haproxy => "haproxy",
    };
    let mut command = Command::new(program);
    // Debian has both where only root looks.
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    match kind {
        Kind::Nginx => command.arg("-p").arg(folder).arg("-c").arg(file(name)),
        Kind::Haproxy => command.arg("-f").arg(file("front")).arg("-f").arg(file(name)),
    };
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|error| {
        panic!("{program}: {error}; tests/run installs it (apt-get install nginx-light haproxy)")
    })
}
