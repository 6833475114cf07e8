//! The real server as a child process.
//!
//! In:    arguments; signals.
//! Out:   its addresses, its log, its counters, its exit status.
//! Never: outlives the test, or dies of a panic unnoticed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::{DEADLINE, eventually, get};

/// Lines of the log that a failing test shows.
const LOG_TAIL: usize = 40;

#[derive(Debug, Default)]
struct Lines {
    lines: Vec<String>,
    ended: bool,
}

#[derive(Debug, Default)]
struct Log {
    state: Mutex<Lines>,
    changed: Condvar,
}

impl Log {
    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, stderr: ChildStderr) {
        for line in BufReader::new(stderr).split(b'\n') {
            let Ok(line) = line else { break };
            self.lock().lines.push(String::from_utf8_lossy(&line).into_owned());
            self.changed.notify_all();
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// Waits until `found` gives something of the lines so far.
    fn wait<T>(&self, deadline: Duration, found: impl Fn(&[String]) -> Option<T>) -> Option<T> {
        let until = Instant::now() + deadline;
        let mut state = self.lock();
        loop {
            if let Some(result) = found(&state.lines) {
                return Some(result);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || state.ended {
                return None;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tail(&self) -> String {
        let state = self.lock();
        let from = state.lines.len().saturating_sub(LOG_TAIL);
        state.lines[from..].join("\n")
    }
}

/// A server of the test's own.
#[derive(Debug)]
pub struct Server {
    child: Child,
    log: Arc<Log>,
    reader: Option<JoinHandle<()>>,
    addresses: Vec<SocketAddr>,
    admin: Option<SocketAddr>,
    status: Option<ExitStatus>,
}

impl Server {
    /// Starts the server on free ports, with these arguments besides.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start(arguments: &[&str]) -> Self {
        Self::with(|command| {
            command.args(arguments);
        })
    }

    /// As [`Server::start`]; the caller may add whatever a command can have.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn with(change: impl FnOnce(&mut Command)) -> Self {
        let mut command = Self::wrapped();
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
        change(&mut command);
        Self::spawn(command)
    }

    /// As [`Server::start`], with limits as the shell's `ulimit` takes them: `-n 100` for that many
    /// open files.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn start_limited(limits: &str, arguments: &[&str]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("ulimit {limits} && exec \"$0\" \"$@\"")]);
        let mut command = Self::behind(shell);
        command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]).args(arguments);
        Self::spawn(command)
    }

    /// A command that is to run the server in its own place: `launcher`, the server's program and
    /// its first arguments behind it.
    pub fn behind(mut launcher: Command) -> Command {
        let server = Self::wrapped();
        launcher.arg(server.get_program()).args(server.get_args());
        for (name, _) in server.get_envs() {
            launcher.env_remove(name);
        }
        launcher
    }

    /// The command that tests serve with: behind `TEST_SERVER_WRAPPER`, where that names a program
    /// that becomes its arguments (`tests/systemd/confined`).
    fn wrapped() -> Command {
        let server = Self::command();
        let Ok(wrapper) = std::env::var("TEST_SERVER_WRAPPER") else { return server };
        let mut words = wrapper.split_whitespace();
        let mut command = Command::new(words.next().expect("a wrapper has a name"));
        command.args(words).arg(server.get_program());
        for (name, _) in server.get_envs() {
            command.env_remove(name);
        }
        command
    }

    /// The bare command, without arguments and without configuration from the environment.
    pub fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringhall"));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGHALL_") {
                command.env_remove(name);
            }
        }
        command
    }

    /// Runs a command that is a server, and waits until it says where it listens.
    ///
    /// # Panics
    /// If it does not start.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the server's binary runs");
        let stderr = child.stderr.take().expect("it was asked for");
        let log = Arc::new(Log::default());
        let reader = {
            let log = Arc::clone(&log);
            Some(std::thread::spawn(move || log.read(stderr)))
        };
        let (addresses, admin) = (Vec::new(), None);
        let mut server = Self { child, log, reader, addresses, admin, status: None };
        let found = server.log.wait(DEADLINE, addresses_of);
        let Some((addresses, admin)) = found else {
            panic!("the server did not say where it listens");
        };
        (server.addresses, server.admin) = (addresses, Some(admin));
        server
    }

    /// Where the public listener is.
    pub fn address(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// All public listeners, in order.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is.
    ///
    /// # Panics
    /// Never after a start.
    pub fn admin(&self) -> SocketAddr {
        self.admin.expect("known since the start")
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    ///
    /// # Panics
    /// If the process is gone.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        assert!(self.status.is_none(), "the server has ended already");
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("our own child, not yet waited for");
    }

    /// Waits until the process ends by itself.
    ///
    /// # Panics
    /// If it does not within the deadline.
    #[track_caller]
    pub fn wait(&mut self, deadline: Duration) -> ExitStatus {
        eventually(deadline, "the server ends", || self.ended().is_some());
        self.join_reader();
        self.status.expect("it has ended")
    }

    fn ended(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child");
        }
        self.status
    }

    fn join_reader(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log does not panic");
        }
    }

    /// Ends the server at once. Dropping it does the same.
    pub fn stop(self) {}

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().lines.clone()
    }

    /// Waits for a line that holds the text, and gives the first of them.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn wait_log(&self, text: &str) -> String {
        let found =
            self.log.wait(DEADLINE, |lines| lines.iter().find(|line| line.contains(text)).cloned());
        found.unwrap_or_else(|| panic!("no line of the log holds {text:?}"))
    }

    /// The admin listener's `/health`, whatever its status.
    ///
    /// # Panics
    /// If there is no answer.
    #[track_caller]
    pub fn health(&self) -> Value {
        get(self.admin(), "/health").json()
    }

    /// One number of a section of `/health` (`counters`, `closed`, `refused`).
    ///
    /// # Panics
    /// If there is no such section. A reason that never happened may be left out: 0.
    #[track_caller]
    pub fn number(&self, section: &str, name: &str) -> u64 {
        let health = self.health();
        let section = health[section].as_object();
        let section = section.unwrap_or_else(|| panic!("no such section: {health}"));
        section.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// A counter.
    ///
    /// # Panics
    /// If there is no counter of that name.
    #[track_caller]
    pub fn counter(&self, name: &str) -> u64 {
        let health = self.health();
        let value = health["counters"][name].as_u64();
        value.unwrap_or_else(|| panic!("no counter {name}: {health}"))
    }

    /// Waits until a counter is as wanted.
    ///
    /// # Panics
    /// If it is not within the deadline.
    #[track_caller]
    pub fn wait_counter(&self, name: &str, wanted: impl Fn(u64) -> bool) -> u64 {
        let mut value = 0;
        eventually(DEADLINE, &format!("counter {name}"), || {
            value = self.counter(name);
            wanted(value)
        });
        value
    }

    /// Waits until so many closes of that reason were counted.
    ///
    /// # Panics
    /// If they are not within the deadline.
    #[track_caller]
    pub fn wait_closed(&self, reason: &str, count: u64) {
        let what = format!("{count} closed as {reason}");
        eventually(DEADLINE, &what, || self.number("closed", reason) == count);
    }

    /// Waits until so many refusals of that reason were counted.
    ///
    /// # Panics
    /// If they are not within the deadline.
    #[track_caller]
    pub fn wait_refused(&self, reason: &str, count: u64) {
        let what = format!("{count} refused as {reason}");
        eventually(DEADLINE, &what, || self.number("refused", reason) == count);
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "the harness shows it with the failing test")]
    fn drop(&mut self) {
        if self.ended().is_none() {
            // Errors mean that it ended meanwhile, which `wait` then finds out.
            let _ = self.child.kill();
            self.status = self.child.wait().ok();
        }
        self.join_reader();
        if std::thread::panicking() {
            eprintln!("the server's log ended:\n{}", self.log.tail());
            return;
        }
        let panicked = self.log.lock().lines.iter().any(|line| line.contains("panicked at"));
        assert!(!panicked, "the server panicked:\n{}", self.log.tail());
    }
}

/// Finds `http://ADDR:PORT` of the public listeners and `admin http://ADDR:PORT` in the log.
fn addresses_of(lines: &[String]) -> Option<(Vec<SocketAddr>, SocketAddr)> {
    let (mut public, mut admin) = (Vec::new(), None);
    for line in lines {
        let mut before = "";
        for (at, part) in line.split("http://").enumerate() {
            let end =
                part.find(|c: char| !matches!(c, '0'..='9' | 'a'..='f' | '.' | ':' | '[' | ']'));
            let address = part[..end.unwrap_or(part.len())].parse::<SocketAddr>();
            if let (true, Ok(address)) = (at > 0, address) {
                let label = before.trim_end_matches([' ', '=', ':', '"']);
                if label.ends_with("admin") {
                    admin = Some(address);
                } else {
                    public.push(address);
                }
            }
            before = part;
        }
    }
    admin.filter(|_| !public.is_empty()).map(|admin| (public, admin))
}
