//! A process of our own that never outlives us, nor its time.
//!
//! In:    a command, the CPU that it is to run on.
//! Out:   what it says; its end.
//! Never: waits without a deadline.

use std::io::{BufRead, BufReader, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::Fault;

/// Wait for the end of a process that was asked to end.
const END: Duration = Duration::from_secs(3);

/// How long the words of a process that has ended are waited for.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The process; killed where it is dropped before its end.
#[derive(Debug)]
pub(super) struct Running {
    child: Child,
    lines: Receiver<String>,
    /// What it is called in messages.
    what: &'static str,
}

impl Running {
    /// Starts a command on one CPU, or on all; its stderr is read by line, its stdout is kept for
    /// [`Running::output`].
    pub(super) fn start(
        mut command: Command,
        what: &'static str,
        cpu: Option<usize>,
    ) -> Result<Self, Fault> {
        // Its end of this pipe says when we are gone, killed or not.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A child inherits the CPUs of the thread that starts it.
        let spawn = move || {
            if let Some(cpu) = cpu {
                stay_on(cpu)?;
            }
            command.spawn()
        };
        let spawned = std::thread::scope(|scope| scope.spawn(spawn).join());
        let mut child = match spawned {
            Ok(Ok(child)) => child,
            Ok(Err(error)) => return Err(Fault::new(format!("cannot start {what}: {error}"))),
            Err(_) => return Err(Fault::new(format!("the thread that starts {what} has failed"))),
        };
        let (sender, lines) = channel();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                // Until its end: a full pipe would stop it.
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    let _nobody_listens = sender.send(line);
                }
            });
        }
        Ok(Self { child, lines, what })
    }

    /// Its number.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits for a line that `found` makes something of.
    pub(super) fn wait_line<T>(
        &self,
        deadline: Duration,
        found: impl Fn(&str) -> Option<T>,
    ) -> Result<T, Fault> {
        let until = Instant::now() + deadline;
        let mut said: Vec<String> = Vec::new();
        loop {
            match self.lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) => match found(&line) {
                    Some(found) => return Ok(found),
                    None => said.push(line),
                },
                Err(RecvTimeoutError::Timeout) => {
                    let seconds = deadline.as_secs();
                    let what = self.what;
                    let last = said.last().map_or("nothing", String::as_str);
                    return Err(Fault::new(format!(
                        "{what} did not start within {seconds} s; it last said: {last}"
                    )));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let words = said.join(" ");
                    return Err(Fault::new(format!("{} does not start: {words}", self.what)));
                }
            }
        }
    }

    /// Waits for its end; what it has printed.
    pub(super) fn output(mut self, deadline: Duration) -> Result<String, Fault> {
        let what = self.what;
        let mut stdout = self.child.stdout.take();
        let reader = std::thread::spawn(move || {
            let mut text = String::new();
            let read = stdout.as_mut().map(|stdout| stdout.read_to_string(&mut text));
            read.transpose().map(|_| text)
        });
        let Some(success) = self.wait_end(deadline) else {
            return Err(Fault::new(format!(
                "{what} did not end within {} s and was killed: is the box overloaded?",
                deadline.as_secs()
            )));
        };
        // Its last words may be on their way still; where it left a child, that holds its stderr.
        let said = std::iter::from_fn(|| self.lines.recv_timeout(LAST_WORDS).ok());
        let said: Vec<_> = said.collect();
        let text = reader.join().ok().and_then(Result::ok).unwrap_or_default();
        match success {
            true => Ok(text),
            // It says who it is by itself.
            false => Err(Fault::new(said.join(" ").trim_start_matches("ringhall: ").to_owned())),
        }
    }

    /// Whether it has ended well; `None` where it has not ended.
    fn wait_end(&mut self, deadline: Duration) -> Option<bool> {
        let until = Instant::now() + deadline;
        // Readable once the process has ended.
        let handle = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty());
        loop {
            let ended = self.child.try_wait().map(|status| status.map(|status| status.success()));
            let left = until.saturating_duration_since(Instant::now());
            match (ended, &handle) {
                (Ok(Some(success)), _) => return Some(success),
                (Err(_), _) | (_, Err(_)) => return Some(false),
                (Ok(None), Ok(_)) if left.is_zero() => return None,
                (Ok(None), Ok(handle)) => wait_for(handle, PollFlags::IN, left),
            }
        }
    }

    /// Asks it to end, and sees to it that it does.
    pub(super) fn stop(mut self) {
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        self.wait_end(END);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _gone = self.child.kill();
            let _gone = self.child.wait();
        }
    }
}

/// Waits until a descriptor is ready, `at_most` so long; a signal may cut it short.
pub(super) fn wait_for(fd: &impl AsFd, flags: PollFlags, at_most: Duration) {
    let limit = Timespec {
        tv_sec: i64::try_from(at_most.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(at_most.subsec_nanos()),
    };
    // Whoever called looks again, whatever came of it.
    let _ready = poll(&mut [PollFd::new(fd, flags)], Some(&limit));
}

/// Keeps this thread on one CPU.
fn stay_on(cpu: usize) -> std::io::Result<()> {
    let mut cpus = CpuSet::new();
    cpus.set(cpu);
    sched_setaffinity(None, &cpus).map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Running {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Running::start(command, "a shell", None).unwrap()
    }

    #[test]
    fn what_it_prints_is_its_output() {
        let text = shell("echo one; echo two >&2; echo three").output(END).unwrap();
        assert_eq!(text, "one\nthree\n");
    }

    #[test]
    fn where_it_fails_its_own_words_are_the_fault() {
        let fault = shell("echo 'ringhall: no such room' >&2; exit 1").output(END).unwrap_err();
        assert_eq!(fault.0, "no such room");
    }

    #[test]
    fn it_does_not_outlive_its_time_nor_its_owner() {
        let running = shell("sleep 100");
        let pid = running.pid();
        assert!(std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
        let fault = running.output(Duration::from_millis(20)).unwrap_err();
        assert!(fault.0.contains("did not end"), "{fault}");
        assert!(!std::path::Path::new(&format!("/proc/{pid}/stat")).exists());
    }

    #[test]
    fn one_that_ends_before_it_is_ready_says_why() {
        let running = shell("echo 'port taken' >&2; exit 2");
        let fault = running.wait_line(END, |_| None::<()>).unwrap_err();
        assert!(fault.0.contains("port taken"), "{fault}");
    }

    #[test]
    fn it_runs_on_the_cpu_it_was_given() {
        let cpu = crate::probe::cpus()[0];
        let mut command = Command::new("sh");
        command.args(["-c", "grep Cpus_allowed_list /proc/self/status"]);
        let running = Running::start(command, "a shell", Some(cpu)).unwrap();
        let text = running.output(END).unwrap();
        assert_eq!(text.split_whitespace().nth(1), Some(cpu.to_string().as_str()));
    }
}
