//! One room under a closed loop of broadcasts, with a member that stops reading.
//!
//! In:    a server of its own for each policy, on one core.
//! Out:   whether everyone else got every byte of the room, and what that cost.
//! Never: lets a byte pass unchecked.
//!
//! The room's stream is the same for all its members: the first to receive a part of it checks it
//! frame by frame (offset, speaker, content) and keeps it; the others' bytes have to equal it.

use std::io;
use std::time::{Duration, Instant};

use crate::Options;
use crate::link::{Link, Reading, Ready};
use crate::report::Report;
use crate::server::{Server, pin};
use crate::sleeper::Sleeper;
use crate::stream::{PUBLISHERS, Stream, WINDOW, say};
use crate::wire;

/// Receive buffer of the member that stops reading.
const SLEEPER_BYTES: usize = 4096;
/// A queue that is full within seconds, also on a slow box.
const SMALL_QUEUE: [&str; 4] =
    ["--set", "client.queue_bytes=256KiB", "--set", "rooms.tick_bytes=128KiB"];
/// Silence is no news: most members only listen.
const NO_HEARTBEAT: [&str; 4] =
    ["--set", "heartbeat.timeout=4h", "--set", "heartbeat.ping_after=2h"];
/// No byte of the room for so long, and everyone has been told of every join.
const QUIET: Duration = Duration::from_millis(1500);
const DEADLINE: Duration = Duration::from_secs(60);
/// What the server's memory may grow by while the room talks: the sleeper's queue (256 KiB), one
/// tick's payload (128 KiB), and what an allocator keeps for itself.
const GROWTH_MAX: u64 = 4 << 20;

/// Runs once for each policy.
///
/// # Errors
/// Where the box or the server fails.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("bigroom");
    for policy in ["disconnect", "drop_oldest"] {
        pin(0)?;
        let set = format!("client.policy={policy}");
        let mut arguments = vec!["--log", "info", "--shards", "1", "--set", &set];
        arguments.extend(NO_HEARTBEAT);
        arguments.extend(SMALL_QUEUE);
        let server = Server::start(&options.binary, &arguments)?;
        pin(1)?;
        let members = options.members.unwrap_or(1000).max(PUBLISHERS + 2);
        let seconds = Duration::from_secs(options.seconds.unwrap_or(10).max(4));
        report.say(format_args!(
            "{policy}: {members} members, {PUBLISHERS} speak, {WINDOW} in flight each, {seconds:?}"
        ));
        Room::fill(&server, members)?.talk(policy, seconds, &mut report)?;
    }
    Ok(report)
}

struct Member {
    link: Link,
    /// Bytes of the room's stream that it has received.
    at: u64,
}

struct Room<'a> {
    server: &'a Server,
    ready: Ready,
    members: Vec<Member>,
    sleeper: Link,
    stream: Stream,
    scratch: Vec<u8>,
}

impl<'a> Room<'a> {
    /// Connects everyone; the last one is the sleeper.
    fn fill(server: &'a Server, count: usize) -> io::Result<Self> {
        let mut room = Self {
            server,
            ready: Ready::new()?,
            members: Vec::with_capacity(count),
            sleeper: Link::connect(server.port, 0, Some(SLEEPER_BYTES))?,
            stream: Stream::default(),
            scratch: vec![0; 256 << 10],
        };
        room.sleeper.send(&wire::upgrade("/ws/big/sleeper"))?;
        let mut upgraded = false;
        let mut joined = 0;
        while joined == 0 {
            joined += greet(&mut room.sleeper, &mut room.scratch, &mut upgraded)?;
        }
        for number in 0..count - 1 {
            let user = if number < PUBLISHERS { "speaker" } else { "member" };
            let mut link = Link::connect(server.port, number, None)?;
            link.send(&wire::upgrade(&format!("/ws/big/{user}{number}")))?;
            let (mut upgraded, since) = (false, Instant::now());
            while greet(&mut link, &mut room.scratch, &mut upgraded)? == 0 {
                if since.elapsed() > DEADLINE {
                    return Err(io::Error::other("a member could not join"));
                }
            }
            link.register(&room.ready, number as u64)?;
            room.members.push(Member { link, at: 0 });
        }
        room.hush()?;
        Ok(room)
    }

    /// Reads the announcements until there are no more.
    fn hush(&mut self) -> io::Result<()> {
        let mut since = Instant::now();
        while since.elapsed() < QUIET {
            for number in self.ready.wait(Duration::from_millis(50))? {
                let link = &mut self.members[number as usize].link;
                if greet(link, &mut self.scratch, &mut true)? > 0 || link.is_amid() {
                    since = Instant::now();
                }
            }
        }
        greet(&mut self.sleeper, &mut self.scratch, &mut true)?;
        Ok(())
    }

    fn talk(mut self, policy: &str, long: Duration, report: &mut Report) -> io::Result<()> {
        let (since, cpu, own) = (Instant::now(), self.server.cpu_seconds()?, own_cpu()?);
        let mut samples = vec![self.server.rss()?];
        for message in 0..PUBLISHERS * WINDOW {
            self.speak(message % PUBLISHERS)?;
        }
        while since.elapsed() < long {
            self.turn()?;
            if since.elapsed().as_secs() >= samples.len() as u64 {
                samples.push(self.server.rss()?);
            }
        }
        let took = since.elapsed().as_secs_f64();
        let (cpu, own) = (self.server.cpu_seconds()? - cpu, own_cpu()? - own);
        // Everyone gets what is still under way; nobody speaks any more.
        self.stream.stop();
        let until = Instant::now() + DEADLINE;
        while self.members.iter().any(|member| member.at < self.stream.end())
            || self.stream.in_flight() > 0
        {
            self.turn()?;
            if Instant::now() > until {
                let behind = self.members.iter().filter(|m| m.at < self.stream.end()).count();
                return Err(io::Error::other(format!("{behind} members miss messages")));
            }
        }
        let readers = self.members.len();
        let said = self.stream.said();
        let deliveries = said as f64 * readers as f64;
        report.check(
            &format!("{policy}: every reader has every message once and in order"),
            said > 0,
            format_args!("{said} messages x {readers} readers"),
        );
        let name = |what: &str| format!("{policy}: {what}");
        report.figure(&name("deliveries"), deliveries / took, "a second");
        report.figure(&name("deliveries"), deliveries / cpu, "a server CPU-second");
        report.figure(&name("server core"), 100.0 * cpu / took, "% busy");
        report.figure(&name("generator core"), 100.0 * own / took, "% busy");
        for counter in ["turns", "sends", "sends_short"] {
            let count = self.server.number("counters", counter)?;
            report.figure(&name(counter), count as f64, "");
        }
        self.judge_memory(policy, &samples, report);
        self.judge_sleeper(policy, report)
    }

    fn judge_memory(&self, policy: &str, samples: &[u64], report: &mut Report) {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let each: Vec<_> = samples.iter().map(|&rss| format!("{:.1}", mib(rss))).collect();
        report.say(format_args!("     server RSS each second, MiB: {}", each.join(" ")));
        // The first two seconds fill queues and pools.
        let settled = samples[samples.len().min(3) - 1];
        let most = samples.iter().skip(2).copied().max().unwrap_or(settled);
        let growth = most.saturating_sub(settled);
        let total = most.saturating_sub(samples[0]);
        let found = format!("{:.2} MiB since second 2, {:.2} in all", mib(growth), mib(total));
        let flat = growth <= GROWTH_MAX && total <= 2 * GROWTH_MAX;
        report.check(&format!("{policy}: server memory stays flat"), flat, found);
    }

    fn judge_sleeper(mut self, policy: &str, report: &mut Report) -> io::Result<()> {
        if policy == "disconnect" {
            // It sleeps on through the closing handshake, and is reset.
            self.server.wait_for("closed", "slow_consumer", 1, DEADLINE)?;
        }
        let cut = self.server.number("closed", "slow_consumer")?;
        let dropped = self.server.number("counters", "dropped")?;
        let mut sleeper = Sleeper::default();
        let until = Instant::now() + DEADLINE;
        let end = loop {
            let end = sleeper.read(&mut self.sleeper, &mut self.scratch);
            let all = sleeper.offset() == self.stream.said();
            if !matches!(end, Ok(Reading::Drained)) || all || Instant::now() > until {
                break end;
            }
            std::thread::park_timeout(Duration::from_millis(1));
        };
        let what = format!("{policy}: the sleeper is handled");
        let found = format!(
            "{} cut, {dropped} dropped; it read {}, was told of {} missed; {}",
            cut,
            sleeper.received(),
            sleeper.missed(),
            end.as_ref().map_or_else(|error| error.to_string(), |end| format!("{end:?}"))
        );
        let handled = if policy == "disconnect" {
            let reset = matches!(&end, Err(e) if e.kind() == io::ErrorKind::ConnectionReset);
            cut == 1 && dropped == 0 && reset
        } else {
            let all = sleeper.received() + sleeper.missed() == self.stream.said();
            cut == 0 && dropped > 0 && dropped == sleeper.missed() && all
        };
        report.check(&what, handled, found);
        Ok(())
    }

    fn turn(&mut self) -> io::Result<()> {
        for number in self.ready.wait(Duration::from_millis(100))? {
            let member = &mut self.members[number as usize];
            let (stream, at) = (&mut self.stream, &mut member.at);
            let reading = member.link.receive_bytes(&mut self.scratch, |bytes| {
                stream
                    .take(*at, bytes)
                    .map_err(|wrong| io::Error::other(format!("member {number}: {wrong}")))?;
                *at += bytes.len() as u64;
                Ok(bytes.len())
            })?;
            if reading == Reading::Ended {
                return Err(io::Error::other(format!("member {number} was closed")));
            }
        }
        let slowest = self.members.iter().map(|member| member.at).min().unwrap_or(0);
        for speaker in self.stream.delivered(slowest) {
            self.speak(speaker)?;
        }
        Ok(())
    }

    fn speak(&mut self, speaker: usize) -> io::Result<()> {
        let Some(number) = self.stream.next_of(speaker) else { return Ok(()) };
        let mut frame = Vec::with_capacity(128);
        let content = say(speaker, number);
        wire::put_masked(&mut frame, wire::TEXT, format!("{{\"content\":{content}}}").as_bytes());
        self.members[speaker].link.send(&frame)
    }
}

/// Reads what comes before the talk: the answer to the upgrade, `joined`, joins. How many frames.
fn greet(link: &mut Link, scratch: &mut [u8], upgraded: &mut bool) -> io::Result<usize> {
    let mut frames = 0;
    link.receive(scratch, |bytes| {
        let mut used = 0;
        if !*upgraded {
            let Some(end) = wire::answer(bytes).map_err(io::Error::other)? else { return Ok(0) };
            (*upgraded, used) = (true, end);
        }
        while let Some(frame) = wire::frame(&bytes[used..]) {
            frames += 1;
            used += frame.len;
        }
        Ok(used)
    })?;
    Ok(frames)
}

/// The generator's CPU time so far, in seconds: where its core is full, it is what is measured.
pub fn own_cpu() -> io::Result<f64> {
    let ticks = crate::memory::cpu_ticks(std::path::Path::new("/proc/self/stat"))?;
    Ok(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}
