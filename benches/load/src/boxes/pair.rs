//! Two boxes, their members and the thread that plays them.
//!
//! In:    a broker; how much is to be said.
//! Out:   what was heard, how fast, at what cost.
//! Never: says more than may be on its way.

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use ringhall::bench::{
    Handler, Latency, Pool, Quantiles, Routes, Setup, Stamp, Target, Template, Upgrade, put_control,
};
use ringhall::ws::Opcode;

use super::listeners::{Listeners, Pongs, Speakers, filler};
use crate::broker::Broker;
use crate::server::{Server, pin, unpin};
use crate::wire;

/// Load before anything is measured.
const WARMUP: Duration = Duration::from_secs(1);
/// Nothing has come for so long: something was lost.
const STALL: Duration = Duration::from_secs(10);
/// Time that both boxes have to reach the broker.
const CLOSED_WITHIN: Duration = Duration::from_secs(10);
/// Longest sleep while nothing is due.
const NAP: Duration = Duration::from_millis(1);

/// Two boxes.
#[derive(Debug)]
pub struct Pair {
    /// What people call the broker.
    pub broker: &'static str,
    first: Server,
    second: Server,
    speaking: Side<Speakers>,
    listening: Side<Listeners>,
    template: Template,
    /// Messages that were said, by room; and all of them.
    sent: Vec<u32>,
    sent_all: u64,
    began: Instant,
}

/// Connections to one box.
struct Side<H> {
    pool: Pool,
    members: H,
}

/// CPU time so far, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Costs {
    /// The box that speaks.
    pub first: f64,
    /// The box that listens.
    pub second: f64,
    /// What is between them.
    pub broker: f64,
}

impl Costs {
    /// Now.
    ///
    /// # Errors
    /// If one of them is gone.
    pub fn of(pair: &Pair, broker: &Broker) -> io::Result<Self> {
        let (first, second) = (pair.first.cpu_seconds()?, pair.second.cpu_seconds()?);
        Ok(Self { first, second, broker: broker.cpu_seconds()? })
    }

    /// From an earlier moment to this one.
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            first: self.first - earlier.first,
            second: self.second - earlier.second,
            broker: self.broker - earlier.broker,
        }
    }
}

impl<H> std::fmt::Debug for Side<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Side").field("open", &self.pool.open_count()).finish_non_exhaustive()
    }
}

impl<H: Handler> Side<H> {
    fn new(port: u16, rooms: usize, members: H) -> io::Result<Self> {
        let target = Target::parse(&format!("ws://127.0.0.1:{port}")).map_err(io::Error::other)?;
        let pool = Pool::new(Setup {
            connections: rooms,
            buffer_bytes: 16 << 10,
            routes: Routes::new(target.addresses(rooms)),
            upgrade: Upgrade::new(target.host, Some("ringhall.raw")),
        });
        Ok(Self { pool: pool.map_err(io::Error::other)?, members })
    }

    /// Submits, and hears what has come; how much.
    fn turn(&mut self, pongs: impl Fn(&mut H) -> &mut Pongs) -> io::Result<usize> {
        for (number, payload) in pongs(&mut self.members).drain(..) {
            self.pool.send(number, |out| put_control(out, Opcode::Pong, &payload));
        }
        self.pool.submit();
        self.pool.reap(&mut self.members).map_err(io::Error::other)
    }
}

impl Pair {
    /// Both, with their members in their rooms and the broker reached.
    ///
    /// # Errors
    /// If one of them does not start, or does not reach the broker.
    pub fn start(binary: &Path, broker: &Broker, rooms: usize) -> io::Result<Self> {
        let url = format!("broker.url={}", broker.url());
        let arguments = ["--log", "info", "--shards", "1", "--set", &url];
        // A core a box, for its shard and its bridge; the broker and this thread have what is left
        // of both.
        pin(0)?;
        let first = Server::start(binary, &arguments)?;
        pin(1)?;
        let second = Server::start(binary, &arguments)?;
        unpin()?;
        for server in [&first, &second] {
            wait_until_closed(server)?;
        }
        let speaking = Side::new(first.port, rooms, Speakers::new(rooms))?;
        let listening = Side::new(second.port, rooms, Listeners::new(rooms))?;
        let mut pair = Self {
            broker: broker.name(),
            first,
            second,
            speaking,
            listening,
            template: Template::new(b"", &filler(), b""),
            sent: vec![0; rooms],
            sent_all: 0,
            began: Instant::now(),
        };
        pair.join()?;
        Ok(pair)
    }

    fn join(&mut self) -> io::Result<()> {
        let rooms = self.sent.len();
        for room in 0..rooms {
            self.speaking.pool.connect(room).map_err(io::Error::other)?;
            self.listening.pool.connect(room).map_err(io::Error::other)?;
        }
        let until = Instant::now() + STALL;
        while self.speaking.pool.open_count() < rooms || self.listening.pool.open_count() < rooms {
            self.turn()?;
            if Instant::now() > until {
                return Err(io::Error::other("the boxes do not let everyone in"));
            }
        }
        Ok(())
    }

    fn now(&self) -> u64 {
        self.began.elapsed().as_nanos() as u64
    }

    /// How much has come.
    fn turn(&mut self) -> io::Result<usize> {
        let speaking = self.speaking.turn(|members| &mut members.pongs)?;
        self.listening.members.now = self.began.elapsed().as_nanos() as u64;
        let listening = self.listening.turn(|members| &mut members.pongs)?;
        Ok(speaking + listening)
    }

    /// The speaker of a room says its next messages.
    fn say(&mut self, room: usize, count: u32) {
        let first = self.sent[room];
        self.sent[room] += count;
        self.sent_all += u64::from(count);
        let template = &self.template;
        self.speaking.pool.send(room, |out| {
            for sequence in first..first + count {
                template.put(out, Stamp { speaker: room as u32, sequence });
            }
        });
    }

    /// Says so many messages a second, room after room, each when it is due; how long they took
    /// from then until they were heard.
    ///
    /// # Errors
    /// What is not heard, or should not have been.
    pub fn speak_at(&mut self, rate: f64, time: Duration) -> io::Result<Quantiles> {
        let (rooms, pause) = (self.sent.len() as u64, 1e9 / rate);
        let (began, warm) = (self.now(), (WARMUP.as_secs_f64() * rate) as u64);
        let count = warm + (time.as_secs_f64() * rate) as u64;
        let due = |number: u64| began + (number as f64 * pause) as u64;
        let mut said = 0;
        while said < count {
            let now = self.now();
            while said < count && due(said) <= now {
                if said == warm {
                    self.listening.members.latency = Latency::default();
                }
                let room = (said % rooms) as usize;
                self.listening.members.due[room].push_back(due(said));
                self.say(room, 1);
                said += 1;
            }
            self.turn()?;
            let left = Duration::from_nanos(due(said).saturating_sub(self.now()));
            self.listening.pool.sleep(left.min(NAP)).map_err(io::Error::other)?;
        }
        self.hear_the_rest()?;
        self.listening.members.due.iter_mut().for_each(std::collections::VecDeque::clear);
        Ok(self.listening.members.latency.quantiles())
    }

    /// Keeps so many messages of each room on their way; how many were heard within the time, and
    /// how long that was, in seconds.
    ///
    /// # Errors
    /// What is not heard, or should not have been.
    pub fn speak_as_fast_as_heard(
        &mut self,
        window: u32,
        time: Duration,
    ) -> io::Result<(u64, f64)> {
        for room in 0..self.sent.len() {
            self.say(room, window);
        }
        self.go_on(window, WARMUP)?;
        let (heard, since) = (self.listening.members.heard_all, Instant::now());
        self.go_on(window, time)?;
        let heard = self.listening.members.heard_all - heard;
        let wall = since.elapsed().as_secs_f64();
        self.hear_the_rest()?;
        Ok((heard, wall))
    }

    fn go_on(&mut self, window: u32, time: Duration) -> io::Result<()> {
        let (until, mut moved) = (Instant::now() + time, Instant::now());
        while Instant::now() < until {
            if self.turn()? == 0 {
                self.look_for_a_stall(moved)?;
                self.listening.pool.sleep(NAP).map_err(io::Error::other)?;
                continue;
            }
            moved = Instant::now();
            for room in std::mem::take(&mut self.listening.members.news) {
                let room = room as usize;
                let under_way = self.sent[room] - self.listening.members.heard[room];
                // A room may be named twice.
                if under_way < window {
                    self.say(room, window - under_way);
                }
            }
        }
        Ok(())
    }

    fn hear_the_rest(&mut self) -> io::Result<()> {
        let mut moved = Instant::now();
        while self.listening.members.heard_all < self.sent_all {
            if self.turn()? > 0 {
                moved = Instant::now();
            } else {
                self.look_for_a_stall(moved)?;
                self.listening.pool.sleep(NAP).map_err(io::Error::other)?;
            }
        }
        self.listening.members.news.clear();
        Ok(())
    }

    fn look_for_a_stall(&self, moved: Instant) -> io::Result<()> {
        if moved.elapsed() < STALL {
            return Ok(());
        }
        let (sent, heard) = (self.sent_all, self.listening.members.heard_all);
        Err(io::Error::other(format!(
            "{}: {heard} of {sent} messages were heard, then none for {STALL:?}: {}",
            self.broker,
            self.counts()?
        )))
    }

    /// What the boxes say that they have not passed on.
    fn counts(&self) -> io::Result<String> {
        let mut wrong = String::new();
        for (which, server) in [("first", &self.first), ("second", &self.second)] {
            let health = server.health()?;
            let broker = health.split_once("\"broker\":{").map_or("", |(_, behind)| behind);
            for name in ["dropped", "rejected", "gaps", "duplicates"] {
                let count = wire::number(broker, name)
                    .ok_or_else(|| io::Error::other(format!("no broker.{name} in {health}")))?;
                if count != 0 {
                    wrong += &format!("; the {which} box counts {count} {name}");
                }
            }
        }
        Ok(wrong)
    }

    /// Messages said and heard, and what the boxes count as not passed on.
    ///
    /// # Errors
    /// If a box does not answer.
    pub fn end(mut self) -> io::Result<(u64, u64, String)> {
        self.speaking.members.part();
        self.listening.members.part();
        Ok((self.sent_all, self.listening.members.heard_all, self.counts()?))
    }
}

/// Waits until a box lets messages through to its broker.
pub fn wait_until_closed(server: &Server) -> io::Result<()> {
    let until = Instant::now() + CLOSED_WITHIN;
    loop {
        let health = server.health()?;
        if health.contains("\"state\":\"closed\"") {
            return Ok(());
        }
        if Instant::now() > until {
            return Err(io::Error::other(format!("a box does not reach its broker: {health}")));
        }
        std::thread::park_timeout(Duration::from_millis(20));
    }
}
