//! Turns a number into connections that come, upgrade, part and come again.
//!
//! In:    how many are to be under way.
//! Out:   handshakes, each from connect to the server's close frame and FIN, counted and timed.
//! Never: leaves before the server has answered its close frame: whoever closes first keeps the
//!        address in TIME_WAIT, and that is the server here, as RFC 6455 section 7.1.1 wants it.

use std::ops::Range;

use crate::ws::Opcode;

use super::drive::Load;
use super::fault::{Fault, shown};
use super::frames::{Partial, Sink, read};
use super::latency::Latency;
use super::message::put_control;
use super::pool::{End, Handler, Pool};

/// RFC 6455 section 7.4.1: 1000, a normal closure.
const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();

#[derive(Debug, Default)]
struct Visit {
    since: u64,
    /// The server's close frame has come.
    answered: bool,
    partial: Option<Box<Partial>>,
}

/// The load.
#[derive(Debug)]
pub struct Churn {
    visits: Vec<Visit>,
    /// Numbers of those who may come, and of those who are to part.
    vacant: Vec<u32>,
    open: Vec<u32>,
    now: u64,
    counted: Range<u64>,
    running: bool,
    begun: u64,
    done: u64,
    latency: Latency,
}

impl Churn {
    /// So many are under way at a time.
    #[must_use]
    pub fn new(in_flight: usize) -> Self {
        let mut visits = Vec::new();
        visits.resize_with(in_flight, Visit::default);
        Self {
            visits,
            vacant: (0..in_flight as u32).collect(),
            open: Vec::new(),
            now: 0,
            counted: 0..0,
            running: false,
            begun: 0,
            done: 0,
            latency: Latency::default(),
        }
    }

    /// Connections that were begun.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// From connect to FIN, of those that began in the window.
    pub fn latency(&mut self) -> &mut Latency {
        &mut self.latency
    }
}

impl Handler for Churn {
    fn put_path(&self, _number: usize, path: &mut String) {
        path.push_str("/echo");
    }

    fn opened(&mut self, number: usize) -> Result<(), Fault> {
        self.open.push(number as u32);
        Ok(())
    }

    fn received(&mut self, number: usize, bytes: &[u8]) -> Result<(), Fault> {
        let Visit { partial, answered, .. } = &mut self.visits[number];
        read(partial, bytes, &mut Ear { number, answered })
    }

    fn ended(&mut self, number: usize, end: End) -> Result<(), Fault> {
        let visit = std::mem::take(&mut self.visits[number]);
        if !visit.answered {
            return Err(Fault::new(format!(
                "the server ended connection {number} without a close frame ({end:?})"
            )));
        }
        self.done += 1;
        if self.counted.contains(&visit.since) {
            self.latency.record(self.now.saturating_sub(visit.since));
        }
        self.vacant.push(number as u32);
        Ok(())
    }
}

impl Load for Churn {
    fn at(&mut self, now: u64) {
        self.now = now;
    }

    fn begin(&mut self, _now: u64) {
        self.running = true;
    }

    fn count(&mut self, window: Range<u64>) {
        self.counted = window;
    }

    fn act(&mut self, pool: &mut Pool) -> Result<(), Fault> {
        for number in self.open.drain(..) {
            pool.send(number as usize, |out| put_control(out, Opcode::Close, &NORMAL));
        }
        while self.running {
            let Some(number) = self.vacant.pop() else { break };
            self.visits[number as usize].since = self.now;
            self.begun += 1;
            pool.connect(number as usize)?;
        }
        Ok(())
    }

    fn stop(&mut self) {
        self.running = false;
    }

    fn operations(&self) -> u64 {
        self.done
    }

    fn outstanding(&self) -> u64 {
        self.begun - self.done
    }

    fn part(&mut self) {}
}

struct Ear<'a> {
    number: usize,
    answered: &'a mut bool,
}

impl Sink for Ear<'_> {
    const KEPT: usize = usize::MAX;

    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let number = self.number;
        let payload = shown(payload);
        Err(Fault::new(format!("connection {number} said nothing and received {payload}")))
    }

    fn piece(&mut self, _at: usize, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        if opcode != Opcode::Close {
            return Ok(());
        }
        let number = self.number;
        // RFC 6455 section 5.5.1: the answer "typically echos the status code".
        if !matches!(payload, [] | [0x03, 0xe8, ..]) {
            let payload = shown(payload);
            return Err(Fault::new(format!("connection {number} was closed with {payload}")));
        }
        *self.answered = true;
        Ok(())
    }
}
