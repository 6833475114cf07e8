//! A million members of chat rooms on one server, from one thread: the course of events.
//!
//! In:    how many, how long.
//! Out:   what a connection costs, in user space and in the kernel; that nothing was lost.
//! Never: samples: each member is told exactly what it should be, or the bench fails.
//!
//! Everyone joins a room of ten; everyone says one message, which all ten get; for a minute one in
//! a hundred leaves and comes back every ten seconds; then the server is told to restart, and
//! closes all of them in good order.

mod crew;
pub mod holding;
mod member;

use std::io;
use std::time::{Duration, Instant};

use crate::Options;
use crate::memory::{self, Memory};
use crate::report::Report;
use crate::server::Server;
use crate::taken::{Taken, sum};
use crew::{Counts, Crew};
use member::ROOM;
use ringhall::bench::{Pool, Progress, Routes, Setup, Target, Upgrade};

/// Joins, messages and returns that are under way at once: enough for each of 57 shards to have
/// something to do whenever it gets a core.
const JOINS: usize = 4096;
const MESSAGES: usize = 4096;
const RETURNS: usize = 4096;
/// Connects before the next look at what has come.
const CONNECTS: usize = 32;
/// Rounds of leaving and coming back, of one in a hundred each: one of each tenth room.
const ROUNDS: usize = 6;
const SHARE: usize = 10;
/// Nothing has happened for so long: something was lost.
const STALL: Duration = Duration::from_secs(30);
/// Characters of the progress bar.
const BAR: usize = 40;
const NAP: Duration = Duration::from_millis(50);
/// Time for allocators and the kernel to give back what they give back.
const SETTLE: Duration = Duration::from_secs(2);
/// Targets, in bytes a connection.
const USER_BYTES_MAX: f64 = 300.0;
const KERNEL_BYTES_MAX: f64 = 4200.0;
/// What a standing receive takes beside its `io_kiocb`.
const RECEIVE_SLABS: [&str; 2] = ["kmalloc-512", "kmalloc-96"];
/// From how many on they hold: below, what every shard has once weighs too much.
const TARGETS_FROM: usize = 500_000;

/// Runs everything once.
///
/// # Errors
/// The first thing that is not as it should be.
pub fn run(options: &Options) -> io::Result<Report> {
    let count = members(options.connections.unwrap_or(1_000_000));
    let churn = Duration::from_secs(options.seconds.unwrap_or(60));
    let mut report = Report::new("million");
    let grace = (count / 9_000).max(20);
    // A generator that shares the cores may be late with an answer; it is not to be cut for that.
    let settings = [format!("shutdown.grace={grace}s"), "client.close_timeout=60s".to_owned()];
    let mut stage = Stage::open(options, count, &settings)?;
    let rings = stage.pool.rings();
    report.say(format_args!("{count} members in rooms of {ROOM}; {rings} rings of the generator"));
    let (before, user) = (Memory::settled()?, stage.server.rss()?);
    stage.fill(&mut report)?;
    stage.idle(SETTLE)?;
    stage.say_memory(&mut report, &before, user)?;
    stage.speak(&mut report)?;
    stage.come_and_go(&mut report, churn)?;
    let after = stage.server.rss()?;
    let grown = (after as f64 - user as f64) / count as f64;
    report.figure("user space at the end", grown, "B a connection");
    if count >= TARGETS_FROM {
        let what = "user space at the end <= 300 B a connection";
        report.check(what, grown <= USER_BYTES_MAX, format_args!("{grown:.0}"));
    }
    stage.close(&mut report)?;
    Ok(report)
}

/// Whole rooms.
fn members(wanted: usize) -> usize {
    (wanted / ROOM as usize).max(SHARE) * ROOM as usize
}

/// Both ends.
struct Stage {
    server: Server,
    pool: Pool,
    crew: Crew,
    began: Instant,
}

impl Stage {
    /// A server that admits so many, and nobody there yet.
    fn open(options: &Options, count: usize, settings: &[String]) -> io::Result<Self> {
        // Who returns may be there before its last connection is counted off.
        let connections = format!("limits.connections_max={}", count + RETURNS);
        let mut arguments = vec!["--set", &connections];
        for setting in settings {
            arguments.extend(["--set", setting.as_str()]);
        }
        let server = Server::start(&options.binary, &arguments)?;
        let target = Target::parse(&format!("ws://0.0.0.0:{}", server.port));
        let target = target.map_err(io::Error::other)?;
        let pool = Pool::new(Setup {
            connections: count,
            buffer_bytes: 2048,
            routes: Routes::new(target.addresses(count)),
            upgrade: Upgrade::new(target.host, None),
        });
        let pool = pool.map_err(io::Error::other)?;
        Ok(Self { server, pool, crew: Crew::new(count), began: Instant::now() })
    }

    fn count(&self) -> usize {
        self.crew.members.len()
    }

    /// Answers, submits, and hears what has come; how much.
    fn turn(&mut self) -> io::Result<usize> {
        self.crew.answer(&mut self.pool);
        self.pool.submit();
        self.pool.reap(&mut self.crew).map_err(io::Error::other)
    }

    /// Feeds the pool and hears what it brings until `done` is as much as the goal; wall time, and
    /// the server's CPU time.
    fn drive(
        &mut self,
        what: &'static str,
        goal: usize,
        done: impl Fn(&Counts) -> usize,
        mut feed: impl FnMut(&mut Pool, &mut Crew) -> io::Result<()>,
    ) -> io::Result<(f64, f64)> {
        let mut progress = Progress::new(true);
        let cpu = self.server.cpu_seconds()?;
        let began = Instant::now();
        let mut moved = began;
        loop {
            feed(&mut self.pool, &mut self.crew)?;
            let happened = self.turn()?;
            let reached = done(&self.crew.counts);
            progress.show(self.began.elapsed().as_nanos() as u64, || {
                let bar = "#".repeat(reached.min(goal) * BAR / goal.max(1));
                let seconds = began.elapsed().as_secs();
                format!("[{bar:BAR$}] {reached} of {goal} {what}, {seconds} s")
            });
            if reached >= goal {
                break;
            }
            if happened > 0 {
                moved = Instant::now();
            } else if moved.elapsed() > STALL {
                let said = format!("{what}: {reached} of {goal}, then nothing for {STALL:?}");
                return Err(io::Error::other(said));
            } else {
                self.pool.sleep(NAP).map_err(io::Error::other)?;
            }
        }
        drop(progress);
        let wall = began.elapsed().as_secs_f64();
        // What the last news has led to (closes of sockets) is carried out.
        self.turn()?;
        Ok((wall, self.server.cpu_seconds().map_or(0.0, |after| after - cpu)))
    }

    /// Answers pings, and expects nothing else.
    fn idle(&mut self, time: Duration) -> io::Result<()> {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            if self.turn()? == 0 {
                self.pool.sleep(left.min(NAP)).map_err(io::Error::other)?;
            }
        }
        Ok(())
    }

    /// Everyone joins.
    fn fill(&mut self, report: &mut Report) -> io::Result<()> {
        let count = self.count();
        let mut next = 0;
        let (wall, cpu) = self.drive(
            "joined",
            count,
            |counts| counts.joined,
            |pool, crew| {
                let room = JOINS.saturating_sub(next - crew.counts.joined).min(CONNECTS);
                for _ in 0..room.min(count - next) {
                    pool.connect(next).map_err(io::Error::other)?;
                    next += 1;
                }
                Ok(())
            },
        )?;
        // Of ten, the last hears of itself, the first of ten.
        let news = count / ROOM as usize * 55;
        self.drive("announcements", news, |counts| counts.news, |_, _| Ok(()))?;
        let all = self.crew.counts.joined == count && self.crew.counts.news == news;
        let roll = self.crew.take_roll();
        let found = roll.as_ref().err().cloned().unwrap_or_else(|| format!("{count}, {wall:.1} s"));
        report.check("everyone joins and is announced to those there", all && roll.is_ok(), found);
        report.figure("joins", count as f64 / wall, "a second");
        report.figure("a join", cpu / count as f64 * 1e6, "us of server CPU");
        Ok(())
    }

    /// What the connections cost.
    fn say_memory(&self, report: &mut Report, before: &Memory, user: u64) -> io::Result<()> {
        let count = self.count() as f64;
        let after = Memory::settled()?;
        let rss = self.server.rss()?;
        let grown = rss as f64 - user as f64;
        let taken = Taken::between(before, &after, grown, self.count());
        let (each, all) = (grown / count, rss as f64 / count);
        report.figure("user space", each, "B a connection");
        report.figure("user space with what the server has at start", all, "B a connection");
        // Both ends are sockets for which one operation is armed: the server's a poll, the
        // generator's a receive, which takes two objects more.
        let receive: f64 = RECEIVE_SLABS.iter().map(|name| after.slab(before, name).1).sum();
        let (memory, slabs) = ((taken.clean - receive) / 2.0, sum(&taken.slabs) / 2.0);
        report.figure("kernel, half of both ends", memory, "B a connection");
        report.figure("kernel by slab caches, half of both ends", slabs, "B a connection");
        if self.count() >= TARGETS_FROM {
            let within = |bytes: f64, most: f64| bytes > 0.0 && bytes <= most;
            let user = within(each, USER_BYTES_MAX);
            report.check("user space <= 300 B a connection", user, format_args!("{each:.0}"));
            // The other figure has the generator's rings and the hash table of this run in it.
            let kernel = within(slabs, KERNEL_BYTES_MAX);
            let what = "kernel by slab caches <= 4200 B a connection";
            report.check(what, kernel, format_args!("{slabs:.0}"));
        }
        Ok(())
    }

    /// Everyone says one message: the first of each room, then the second.
    fn speak(&mut self, report: &mut Report) -> io::Result<()> {
        let (count, room) = (self.count(), ROOM as usize);
        let (rooms, goal) = (count / room, count * room);
        let mut said = 0;
        let (wall, cpu) = self.drive(
            "deliveries",
            goal,
            |counts| counts.messages,
            |pool, crew| {
                while said < count && said - crew.counts.messages / room < MESSAGES {
                    let member = (said % rooms * room + said / rooms) as u32;
                    Crew::say(pool, member);
                    said += 1;
                }
                Ok(())
            },
        )?;
        let heard = self.crew.members.iter().filter(|member| member.heard_all()).count();
        let what = "every member hears each of its ten messages exactly once, in order";
        let found = format!("{heard} of {count}, {} deliveries", self.crew.counts.messages);
        report.check(what, heard == count && self.crew.counts.messages == goal, found);
        report.figure("deliveries", goal as f64 / wall, "a second");
        report.figure("a delivery", cpu / goal as f64 * 1e6, "us of server CPU");
        Ok(())
    }

    /// Rounds of leaving and coming back.
    fn come_and_go(&mut self, report: &mut Report, time: Duration) -> io::Result<()> {
        let period = time / ROUNDS as u32;
        let (began, cpu) = (Instant::now(), self.server.cpu_seconds()?);
        let (mut back, mut slowest) = (0, 0.0f64);
        for round in 0..ROUNDS {
            let leavers: Vec<_> = (0..self.count() as u32 / ROOM)
                .skip(round % SHARE)
                .step_by(SHARE)
                .map(|room| room * ROOM + (room / ROOM + round as u32) % ROOM)
                .collect();
            slowest = slowest.max(self.leave_and_return(&leavers)?);
            back += leavers.len();
            let next = began + period * (round as u32 + 1);
            self.idle(next.saturating_duration_since(Instant::now()))?;
        }
        let lost = self.crew.members.iter().filter(|member| !member.knows_all()).count();
        let found = format!("{back} came back, {lost} missed something");
        let what = "whoever leaves is back, and each of the others was told of both";
        report.check(what, lost == 0 && back > 0, found);
        report.figure("a round of leaving and returning", slowest, "s at most");
        let spent = (self.server.cpu_seconds()? - cpu) / began.elapsed().as_secs_f64();
        report.figure("server meanwhile", spent * 100.0, "% of a core");
        report.figure("pings answered so far", self.crew.counts.pings as f64, "");
        Ok(())
    }

    /// These leave and come back at once; seconds that it took.
    fn leave_and_return(&mut self, leavers: &[u32]) -> io::Result<f64> {
        let counts = self.crew.counts;
        let (mut left, first) = (0, counts.joined);
        // The others of the room hear of both, and the member of its own return.
        let news = leavers.len() * (2 * (ROOM as usize - 1) + 1);
        let (wall, _) = self.drive(
            "told of leaves and returns",
            counts.news + news,
            |counts| counts.news,
            |pool, crew| {
                while left < leavers.len() && left - (crew.counts.joined - first) < RETURNS {
                    crew.leave(pool, leavers[left]);
                    left += 1;
                }
                for _ in 0..CONNECTS {
                    let Some(member) = crew.gone.pop() else { break };
                    crew.members[member as usize].returns();
                    pool.connect(member as usize).map_err(io::Error::other)?;
                }
                Ok(())
            },
        )?;
        let back = self.crew.counts.joined - first;
        if back != leavers.len() {
            return Err(io::Error::other(format!("{back} of {} came back", leavers.len())));
        }
        for &leaver in leavers {
            let first = (leaver / ROOM * ROOM) as usize;
            for (place, member) in self.crew.members[first..first + 10].iter_mut().enumerate() {
                let itself = first + place == leaver as usize;
                let told = if itself { member.news == 0 } else { member.news == 2 };
                if !told || (!itself && !member.knows_all()) {
                    return Err(io::Error::other(format!("u{leaver} returned: {member:?}")));
                }
                member.assume_all();
                member.news = 0;
            }
        }
        Ok(wall)
    }

    /// SIGTERM: everyone is told, closed with 1012, and gets FIN.
    fn close(&mut self, report: &mut Report) -> io::Result<()> {
        let count = self.count();
        let goal = self.crew.counts.ended + count;
        self.server.terminate()?;
        let cpu = self.server.cpu_seconds()?;
        let (wall, _) = self.drive("closed", goal, |counts| counts.ended, |_, _| Ok(()))?;
        let Counts { farewells, restarts, .. } = self.crew.counts;
        let found = format!("{farewells} told, {restarts} closed with 1012, {count} FINs");
        let what = "the shutdown tells everyone and closes with 1012 and FIN";
        report.check(what, farewells == count && restarts == count, found);
        report.figure("shutdown", wall, "s");
        let code = self.server.exit_code(STALL)?;
        let cpu = memory::ended_seconds()? - cpu;
        report.figure("a close", cpu / count as f64 * 1e6, "us of server CPU");
        report.check("the server's exit code is 0", code == Some(0), format_args!("{code:?}"));
        let log = self.server.log().join("\n");
        let found = log.lines().last().unwrap_or_default();
        report.check("nobody was cut", log.contains("cut=0"), found);
        Ok(())
    }
}
