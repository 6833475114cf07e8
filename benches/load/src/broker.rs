//! A broker under load, as a child process, and what it costs.
//!
//! In:    which one.
//! Out:   its URL; CPU time.
//! Never: outlives the generator; leaves a file behind.

use std::io;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::memory;

/// How long a start may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Debian's `redis-server`, which keeps nothing.
    Redis,
    /// `nats-server`, or what NATS_SERVER names.
    Nats,
}

impl Kind {
    /// What people call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Nats => "NATS",
        }
    }

    fn command(self, port: u16) -> Command {
        let port = port.to_string();
        // Whatever ends the generator ends the broker.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        match self {
            Self::Redis => {
                command.args(["redis-server", "--bind", "127.0.0.1", "--port", &port]);
                command.args(["--save", "", "--appendonly", "no"]);
            }
            Self::Nats => {
                let server = std::env::var_os("NATS_SERVER").unwrap_or("nats-server".into());
                command.arg(server).args(["--addr", "127.0.0.1", "--port", &port]);
            }
        }
        command
    }
}

/// A running broker.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    kind: Kind,
    port: u16,
}

impl Broker {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(kind: Kind) -> io::Result<Self> {
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let mut command = kind.command(port);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut broker = Self { child: command.spawn()?, kind, port };
        let until = Instant::now() + DEADLINE;
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = broker.child.try_wait()?;
            if ended.is_some() || Instant::now() > until {
                let name = kind.name();
                return Err(io::Error::other(format!(
                    "{name} does not start ({ended:?}): is it installed? Redis is Debian's \
                     redis-server; NATS_SERVER names a nats-server"
                )));
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
        Ok(broker)
    }

    /// `broker.url`.
    pub fn url(&self) -> String {
        let scheme = match self.kind {
            Kind::Redis => "redis",
            Kind::Nats => "nats",
        };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// What people call it.
    pub fn name(&self) -> &'static str {
        self.kind.name()
    }

    /// CPU time of all its threads so far, in seconds.
    ///
    /// # Errors
    /// If it is gone.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        let stat = format!("/proc/{}/stat", self.child.id());
        let ticks = memory::cpu_ticks(Path::new(&stat))?;
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // Errors say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
