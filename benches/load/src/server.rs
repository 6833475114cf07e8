//! The server under load, as a child process, and what it costs.
//!
//! In:    its binary, its arguments, the core that it may use.
//! Out:   its port; memory, CPU time, descriptors; the numbers of its `/health`.
//! Never: outlives the generator.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::memory;
use crate::wire;

/// How long a start, or an answer, may take.
const DEADLINE: Duration = Duration::from_secs(20);

/// A running server.
#[derive(Debug)]
pub struct Server {
    child: Child,
    /// Port of the public listener.
    pub port: u16,
    admin: SocketAddr,
    log: Receiver<String>,
}

/// Lets this thread, and what it starts from now on, run on one core alone.
///
/// # Errors
/// Where there is no such core.
pub fn pin(core: usize) -> io::Result<()> {
    let mut cores = CpuSet::new();
    cores.set(core);
    Ok(sched_setaffinity(None, &cores)?)
}

/// Lets this thread, and what it starts from now on, run wherever the process may.
///
/// # Errors
/// What the kernel says.
pub fn unpin() -> io::Result<()> {
    let mut cores = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|core| cores.set(core));
    Ok(sched_setaffinity(None, &cores)?)
}

impl Server {
    /// Starts it on free ports, on all addresses of the loopback net.
    ///
    /// # Errors
    /// If it does not start.
    pub fn start(binary: &Path, arguments: &[&str]) -> io::Result<Self> {
        // Whatever ends the generator, be it a SIGKILL, ends the server. (The process stays the
        // one that is started here.)
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]).arg(binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("RINGHALL_") {
                command.env_remove(name);
            }
        }
        command.args(["--listen", "0.0.0.0:0", "--admin", "127.0.0.1:0"]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let stderr = child.stderr.take().ok_or_else(|| io::Error::other("no stderr"))?;
        let (sender, log) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Self { child, port: 0, admin: ([127, 0, 0, 1], 0).into(), log };
        server.read_addresses()?;
        Ok(server)
    }

    fn read_addresses(&mut self) -> io::Result<()> {
        let until = Instant::now() + DEADLINE;
        let mut seen = String::new();
        while self.port == 0 || self.admin.port() == 0 {
            let left = until.saturating_duration_since(Instant::now());
            let Ok(line) = self.log.recv_timeout(left) else {
                return Err(io::Error::other(format!("the server did not start:\n{seen}")));
            };
            for address in line.split("http://").skip(1) {
                let end = address.find(|c: char| !matches!(c, '0'..='9' | '.' | ':'));
                let address = &address[..end.unwrap_or(address.len())];
                match address.parse::<SocketAddr>() {
                    Ok(address) if address.ip().is_loopback() => self.admin = address,
                    Ok(address) => self.port = address.port(),
                    Err(_) => {}
                }
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        Ok(())
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Resident memory in bytes.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn rss(&self) -> io::Result<u64> {
        memory::rss(&self.pid().to_string())
    }

    /// Open descriptors.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn descriptors(&self) -> io::Result<usize> {
        Ok(std::fs::read_dir(format!("/proc/{}/fd", self.pid()))?.count())
    }

    /// CPU time of all its threads so far, user and system, in seconds.
    ///
    /// # Errors
    /// If the server is gone.
    pub fn cpu_seconds(&self) -> io::Result<f64> {
        let mut ticks = 0;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            ticks += memory::cpu_ticks(&task?.path().join("stat"))?;
        }
        Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    }

    /// CPU time of the threads whose name begins like this, in seconds, as the scheduler counts it.
    ///
    /// # Errors
    /// If the server is gone, or has no such thread.
    pub fn thread_seconds(&self, name: &str) -> io::Result<f64> {
        let mut nanos = None;
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let task = task?.path();
            if std::fs::read_to_string(task.join("comm"))?.starts_with(name) {
                let spent = std::fs::read_to_string(task.join("schedstat"))?;
                let spent = spent.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok());
                *nanos.get_or_insert(0) += spent.unwrap_or_default();
            }
        }
        let nanos = nanos.ok_or_else(|| io::Error::other(format!("no thread {name}")))?;
        Ok(nanos as f64 / 1e9)
    }

    /// Where the admin listener is.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The admin listener's `/health`, as text.
    ///
    /// # Errors
    /// If there is no answer.
    pub fn health(&self) -> io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.admin, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    }

    /// One number of a section (`counters`, `closed`, `refused`) of its `/health`.
    ///
    /// # Errors
    /// If there is no answer, or no such number.
    pub fn number(&self, section: &str, name: &str) -> io::Result<u64> {
        let health = self.health()?;
        let found = health
            .split_once(&format!("\"{section}\":{{"))
            .and_then(|(_, behind)| wire::number(behind, name));
        found.ok_or_else(|| io::Error::other(format!("no {section}.{name} in {health}")))
    }

    /// Waits until a counter is as wanted; whether it is, in time.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn wait(&self, counter: &str, wanted: u64, at_most: Duration) -> io::Result<bool> {
        self.wait_for("counters", counter, wanted, at_most)
    }

    /// Waits until a number of a section is as wanted; whether it is, in time.
    ///
    /// # Errors
    /// If the server does not answer.
    pub fn wait_for(
        &self,
        section: &str,
        name: &str,
        wanted: u64,
        at_most: Duration,
    ) -> io::Result<bool> {
        let until = Instant::now() + at_most;
        while self.number(section, name)? != wanted {
            if Instant::now() > until {
                return Ok(false);
            }
            std::thread::park_timeout(Duration::from_millis(50));
        }
        Ok(true)
    }

    /// Asks it to end, as a supervisor does that will start it again.
    ///
    /// # Errors
    /// If it has ended already.
    pub fn terminate(&self) -> io::Result<()> {
        let pid = Pid::from_child(&self.child);
        Ok(kill_process(pid, Signal::TERM)?)
    }

    /// Waits for its end; its exit code, `None` where a signal ended it or time is up.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn exit_code(&mut self, at_most: Duration) -> io::Result<Option<i32>> {
        let until = Instant::now() + at_most;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status.code());
            }
            if Instant::now() > until {
                return Ok(None);
            }
            std::thread::park_timeout(Duration::from_millis(10));
        }
    }

    /// What it has logged since the last call.
    pub fn log(&self) -> Vec<String> {
        self.log.try_iter().collect()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() || !self.is_alive() {
            for line in self.log() {
                eprintln!("server: {line}");
            }
        }
        // Errors say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_server_ends_with_whoever_has_started_it() {
        let script = std::env::temp_dir().join(format!("ringhall-load-{}", std::process::id()));
        let said = "echo 'http://0.0.0.0:7 http://127.0.0.1:8' >&2";
        std::fs::write(&script, format!("#!/bin/sh\n{said}\nexec sleep 600\n")).unwrap();
        let run = std::fs::Permissions::from_mode(0o700);
        std::fs::set_permissions(&script, run).unwrap();
        // To the kernel it is the thread that has started it.
        let path = script.clone();
        let starting = std::thread::spawn(move || Server::start(&path, &[]));
        let mut server = starting.join().unwrap().unwrap();
        let until = Instant::now() + DEADLINE;
        while server.is_alive() {
            assert!(Instant::now() < until, "process {} still runs", server.pid());
            std::thread::park_timeout(Duration::from_millis(10));
        }
        std::fs::remove_file(&script).unwrap();
    }
}
