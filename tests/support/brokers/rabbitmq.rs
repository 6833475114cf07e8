//! A RabbitMQ server of a test's own.
//!
//! In:    signals.
//! Out:   its URLs.
//! Never: outlives the test, uses a fixed port, or touches a server of the box.
//!
//! Debian's `rabbitmq-server`, started as the present user: the script behind `RABBITMQ_SERVER`, or
//! `/usr/lib/rabbitmq/bin/rabbitmq-server` (the one in `/usr/sbin` insists on a user of its own).
//! It takes ten seconds to start: one for all cases of a file.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::certificates;
use crate::support::{DEADLINE, eventually};

/// Longest that a start may take.
const START_TIMEOUT: Duration = Duration::from_secs(90);
/// Where Debian has it.
const PROGRAM: &str = "/usr/lib/rabbitmq/bin/rabbitmq-server";

/// One server. Dropping it ends it.
#[derive(Debug)]
pub struct RabbitMq {
    script: Option<Child>,
    /// The Erlang machine, a child of the script.
    machine: Option<Pid>,
    /// The names of Erlang's machines; it would stay behind were it not ours.
    names: Child,
    port: u16,
    tls_port: u16,
    names_port: u16,
    machines_port: u16,
    folder: TempDir,
}

impl RabbitMq {
    /// A server with `guest`, and TLS on a port of its own.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start() -> Self {
        let folder = TempDir::new().expect("a folder for the server");
        certificates::make(folder.path());
        let [port, tls_port, names_port, machines_port] = free_ports();
        let mut names = Command::new("epmd");
        names.args(["-address", "127.0.0.1", "-port", &names_port.to_string()]);
        names.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let names = names.spawn().expect("epmd runs: apt-get install rabbitmq-server");
        let (script, machine) = (None, None);
        let mut server =
            Self { script, machine, names, port, tls_port, names_port, machines_port, folder };
        server.configure();
        server.spawn();
        server
    }

    fn configure(&self) {
        let file = |name: &str| self.file(name).display().to_string();
        let config = format!(
            "listeners.tcp.1 = 127.0.0.1:{}\n\
             listeners.ssl.1 = 127.0.0.1:{}\n\
             ssl_options.cacertfile = {}\n\
             ssl_options.certfile = {}\n\
             ssl_options.keyfile = {}\n\
             ssl_options.verify = verify_none\n\
             vm_memory_high_watermark.absolute = 1GB\n\
             disk_free_limit.absolute = 50MB\n",
            self.port,
            self.tls_port,
            file("ca.pem"),
            file("server.pem"),
            file("server.key"),
        );
        std::fs::write(self.file("rabbitmq.conf"), config).expect("a folder of our own");
        std::fs::write(self.file("enabled_plugins"), "[].").expect("a folder of our own");
        std::fs::create_dir(self.file("home")).expect("a folder of our own");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    #[track_caller]
    fn spawn(&mut self) {
        let program = std::env::var_os("RABBITMQ_SERVER").unwrap_or_else(|| PROGRAM.into());
        let mut command = Command::new(program);
        for (name, value) in [
            ("HOME", "home"),
            ("RABBITMQ_MNESIA_BASE", "mnesia"),
            ("RABBITMQ_LOG_BASE", "log"),
            ("RABBITMQ_PID_FILE", "rabbit.pid"),
            ("RABBITMQ_CONFIG_FILE", "rabbitmq.conf"),
            ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ] {
            command.env(name, self.file(value));
        }
        command.env("ERL_EPMD_ADDRESS", "127.0.0.1");
        command.env("ERL_EPMD_PORT", self.names_port.to_string());
        command.env("RABBITMQ_DIST_PORT", self.machines_port.to_string());
        command.env("RABBITMQ_NODENAME", format!("test{}@localhost", self.port));
        command.env("RABBITMQ_CONF_ENV_FILE", "/dev/null");
        let interface = "-kernel inet_dist_use_interface {127,0,0,1}";
        command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", interface);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let script = command.spawn().expect("RabbitMQ runs: apt-get install rabbitmq-server");
        let script = self.script.insert(script);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let tls_address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.tls_port));
        eventually(START_TIMEOUT, "RabbitMQ listens", || {
            let ended = script.try_wait().expect("our own child");
            assert!(ended.is_none(), "RabbitMQ ended at its start: {ended:?}");
            [address, tls_address].iter().all(|address| TcpStream::connect(address).is_ok())
        });
        let pid = std::fs::read_to_string(self.file("rabbit.pid")).expect("the pid file");
        let pid = pid.trim().parse().ok().and_then(Pid::from_raw);
        self.machine = Some(pid.expect("a process in the pid file"));
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// `broker.url` for it.
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@127.0.0.1:{}", self.port)
    }

    /// The same over TLS; see [`RabbitMq::authority`].
    pub fn tls_url(&self) -> String {
        format!("amqps://guest:guest@localhost:{}", self.tls_port)
    }

    /// The certificate of who signed the server's.
    pub fn authority(&self) -> PathBuf {
        self.file("ca.pem")
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        let Some(mut script) = self.script.take() else { return };
        if let Some(machine) = self.machine.take() {
            // It may be stopped, or have ended by itself: KILL does for all.
            let _ = kill_process(machine, Signal::KILL);
        } else {
            // It never came to listening: without the script nobody knows its machine.
            let _ = kill_process(Pid::from_child(&script), Signal::TERM);
        }
        // The script ends with the machine, whose exit it awaits.
        let _ = script.wait();
    }

    /// Starts it again where it was, with the data that it had.
    #[track_caller]
    pub fn restart(&mut self) {
        self.kill();
        self.spawn();
    }

    /// Starts it again where it was, empty.
    #[track_caller]
    pub fn restart_empty(&mut self) {
        self.kill();
        std::fs::remove_dir_all(self.file("mnesia")).expect("what it had");
        self.spawn();
    }

    /// SIGSTOP; returns when it stands.
    pub fn pause(&self) {
        let machine = self.signal(Signal::STOP).as_raw_nonzero();
        eventually(DEADLINE, "the server stands", || {
            let state = std::fs::read_to_string(format!("/proc/{machine}/stat")).expect("it runs");
            state.rsplit_once(") ").is_some_and(|(_, state)| state.starts_with('T'))
        });
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) -> Pid {
        let machine = self.machine.expect("a server that runs");
        kill_process(machine, signal).expect("our own process");
        machine
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill();
        let _ = self.names.kill();
        let _ = self.names.wait();
    }
}

/// Ports that nobody listens on now.
fn free_ports<const COUNT: usize>() -> [u16; COUNT] {
    let listeners: [TcpListener; COUNT] =
        std::array::from_fn(|_| TcpListener::bind("127.0.0.1:0").expect("a free port"));
    listeners.map(|listener| listener.local_addr().expect("a listener has one").port())
}
