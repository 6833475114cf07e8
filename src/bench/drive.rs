//! Turns a load and a pool into a measured run.
//!
//! In:    a `Load`, a `Pool`, how long.
//! Out:   `Measured`: operations, CPU of the server, how busy this thread was.
//! Never: sleeps, so that no wake-up of ours is charged to the server; reads the clock more than
//!        once a turn.

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::io::CloseHow;
use crate::ws::Opcode;

use super::fault::Fault;
use super::message::put_control;
use super::pool::{Handler, Pool};
use super::process::Usage;
use super::progress::Progress;

/// Connections that are being opened at a time: fewer than a listener's backlog holds.
const OPENING: usize = 256;
/// Quiet time between the last handshake and the first message: a server may say yes before a
/// member is in its room.
const SETTLE: Duration = Duration::from_millis(200);
/// Time without any news after which what is still to come counts as lost.
const STALL: Duration = Duration::from_secs(10);
/// Wait for the next connection's end, once all were asked to end.
const FAREWELL: Duration = Duration::from_secs(2);
/// RFC 6455 section 7.4.1: 1000, a normal closure.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

/// What connections do once they are open.
pub trait Load: Handler {
    /// The time that what is told from now on belongs to.
    fn at(&mut self, now: u64);

    /// Messages may go, from now on.
    fn begin(&mut self, now: u64);

    /// Latencies of what is sent, or due, within this time are measured.
    fn count(&mut self, window: Range<u64>);

    /// Sends what may be sent.
    ///
    /// # Errors
    /// Ends the run.
    fn act(&mut self, pool: &mut Pool) -> Result<(), Fault>;

    /// Nothing new from now on.
    fn stop(&mut self);

    /// Operations so far.
    fn operations(&self) -> u64;

    /// Operations that were begun and are not done.
    fn outstanding(&self) -> u64;

    /// Connections may end from now on.
    fn part(&mut self);
}

/// How long, and what is looked at.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Load without measuring.
    pub warmup: Duration,
    /// Load with.
    pub measured: Duration,
    /// The server.
    pub pid: Option<u32>,
}

/// What was measured.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Operations within the window.
    pub operations: u64,
    /// Operations of the whole run.
    pub operations_all: u64,
    /// Seconds that the window lasted.
    pub seconds: f64,
    /// The server at the window's two ends.
    pub server: Option<(Usage, Usage)>,
    /// Share of the window in which this thread had something to do.
    pub busy: f64,
    /// Receives within the window.
    pub reads: u64,
}

/// The one clock of a run: nanoseconds since its start.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at 0.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Now.
    #[must_use]
    pub fn now(self) -> u64 {
        nanos(self.0.elapsed())
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A run under way.
pub struct Driver<'a, L> {
    /// The connections.
    pub pool: &'a mut Pool,
    /// What they do.
    pub load: &'a mut L,
    /// For a person who waits.
    pub progress: &'a mut Progress,
    /// The run's clock.
    pub clock: Clock,
    /// When something happened last.
    heard: u64,
    now: u64,
    busy: u64,
    was_busy: bool,
}

impl<'a, L: Load> Driver<'a, L> {
    /// Nothing has happened yet.
    pub fn new(pool: &'a mut Pool, load: &'a mut L, progress: &'a mut Progress) -> Self {
        let clock = Clock::start();
        Self { pool, load, progress, clock, heard: 0, now: 0, busy: 0, was_busy: false }
    }

    /// One turn: send, receive, react.
    ///
    /// # Errors
    /// Whatever ends the run; a server that has nothing to say for too long.
    pub fn turn(&mut self) -> Result<(), Fault> {
        let sends = self.pool.submit();
        let now = self.clock.now();
        self.load.at(now);
        let reaped = self.pool.reap(self.load)?;
        self.load.act(self.pool)?;
        // The submit that has just ended belongs to the turn before.
        let busy = reaped > 0 || sends;
        if busy || self.was_busy {
            self.busy += now - self.now;
        }
        (self.was_busy, self.now) = (busy, now);
        if reaped > 0 {
            self.heard = now;
        } else if now - self.heard > nanos(STALL) {
            let outstanding = self.load.outstanding();
            if outstanding > 0 {
                return Err(Fault::new(format!(
                    "nothing came for {} s, and {outstanding} of what was sent is still to come \
                     back: lost, or the server hangs",
                    STALL.as_secs()
                )));
            }
            self.heard = now;
        }
        Ok(())
    }

    /// Opens the connections 0 to `count`.
    ///
    /// # Errors
    /// If one of them is refused, or the server does not answer.
    pub fn connect(&mut self, count: usize) -> Result<(), Fault> {
        let mut begun = 0;
        let mut open = 0;
        let mut since = self.now;
        while open < count {
            while begun < count && begun - open < OPENING {
                self.pool.connect(begun)?;
                begun += 1;
            }
            self.turn()?;
            if self.pool.open_count() > open {
                (open, since) = (self.pool.open_count(), self.now);
            } else if self.now - since > nanos(STALL) {
                return Err(Fault::new(format!(
                    "no handshake was answered for {} s, {open} of {count} are open: does the \
                     server hang, or drop connections (`net.core.somaxconn`)?",
                    STALL.as_secs()
                )));
            }
            self.progress.show(self.now, || format!("connecting {open} of {count}"));
        }
        Ok(())
    }

    /// Turns until so much time has passed.
    ///
    /// # Errors
    /// Whatever ends the run.
    pub fn spin(&mut self, until: u64, what: &str) -> Result<(), Fault> {
        while self.now < until {
            self.turn()?;
            let load = &*self.load;
            self.progress.show(self.now, || {
                let left = until.saturating_sub(self.now) as f64 / 1e9;
                format!("{what}, {left:.1} s left, {} operations", load.operations())
            });
        }
        Ok(())
    }

    /// Load, a measured window of it, and the end of what was begun.
    ///
    /// # Errors
    /// Whatever ends the run; what was begun and never ended.
    pub fn measure(&mut self, span: &Span) -> Result<Measured, Fault> {
        self.spin(self.now + nanos(SETTLE), "settling")?;
        self.load.begin(self.now);
        self.spin(self.now + nanos(span.warmup), "warming up")?;
        let look = |pid| Usage::of(pid);
        let before = span.pid.map(look).transpose()?;
        let (since, operations, reads) = (self.now, self.load.operations(), self.pool.reads());
        let until = since + nanos(span.measured);
        self.load.count(since..until);
        self.busy = 0;
        self.spin(until, "measuring")?;
        let after = span.pid.map(look).transpose()?;
        let (took, busy) = ((self.now - since).max(1), self.busy);
        let measured = Measured {
            operations: self.load.operations() - operations,
            operations_all: 0,
            seconds: took as f64 / 1e9,
            server: before.zip(after),
            busy: busy as f64 / took as f64,
            reads: self.pool.reads() - reads,
        };
        self.load.stop();
        while self.load.outstanding() > 0 {
            self.turn()?;
            let outstanding = self.load.outstanding();
            self.progress.show(self.now, || format!("{outstanding} still to come back"));
        }
        Ok(Measured { operations_all: self.load.operations(), ..measured })
    }

    /// Closes the connections 0 to `count`, in order: whatever a server still says is heard.
    ///
    /// # Errors
    /// If that is something that it must not say.
    pub fn part(&mut self, count: usize) -> Result<(), Fault> {
        self.load.part();
        for number in (0..count).filter(|number| self.pool.is_open(*number)).collect::<Vec<_>>() {
            self.pool.send(number, |out| put_control(out, Opcode::Close, &NORMAL));
        }
        let (mut left, mut since) = (self.pool.open_count(), self.now);
        while left > 0 && self.now - since < nanos(FAREWELL) {
            self.turn()?;
            if self.pool.open_count() < left {
                (left, since) = (self.pool.open_count(), self.now);
            }
            self.progress.show(self.now, || format!("closing, {left} left"));
        }
        // Not every server ends what its peer has ended.
        for number in 0..count {
            self.pool.close(number, CloseHow::Reset);
        }
        self.pool.submit();
        Ok(())
    }
}
