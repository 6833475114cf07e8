//! A storm of clients that come, go, break off and never finish what they began.
//!
//! In:    a server of its own, with short timeouts.
//! Out:   whether descriptors, slots, rooms, queues, buffers and memory return to where they were.
//! Never: floods anything but 127.0.0.0/8; leaves by FIN where RST will do.

use std::io::{self, ErrorKind};
use std::time::{Duration, Instant};

use crate::Options;
use crate::link::{Link, Reading, Ready};
use crate::report::Report;
use crate::server::Server;
use crate::wire;

/// Clients at once.
const CLIENTS: usize = 400;
/// Rooms that they come to.
const ROOMS: u64 = 50;
/// A storm before the one that counts: pools and tables reach their size.
const WARM_UP: Duration = Duration::from_secs(5);
/// What the server's memory may differ by afterwards: pages that an allocator keeps.
const RSS_MAX: u64 = 4 << 20;
/// A client that got nowhere in this time is broken off; the server's timeouts are shorter.
const PATIENCE: Duration = Duration::from_secs(8);
const DEADLINE: Duration = Duration::from_secs(30);
/// Gauges that are zero when nobody is there.
const GAUGES: [&str; 6] =
    ["connections", "websockets", "rooms", "members", "queue_bytes", "buffers_lent"];

/// Runs a short storm, then the long one.
///
/// # Errors
/// Where the box or the server fails.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("storm");
    let seconds = options.seconds.unwrap_or(if options.long { 600 } else { 30 });
    let mut arguments = vec!["--log", "info"];
    // Half-open handshakes and peers that never answer end soon.
    for set in ["handshake.timeout=1s", "client.close_timeout=1s"] {
        arguments.extend(["--set", set]);
    }
    let mut server = Server::start(&options.binary, &arguments)?;
    report.say(format_args!("{CLIENTS} clients at once, {seconds} s after a warm-up of 5 s"));
    Storm::new(server.port)?.rage(WARM_UP)?;
    let settled = settle(&server)?;
    report.check("all is zero after the warm-up", settled.is_empty(), settled.join(", "));
    let (rss, descriptors) = (server.rss()?, server.descriptors()?);
    let mut storm = Storm::new(server.port)?;
    let since = Instant::now();
    storm.rage(Duration::from_secs(seconds))?;
    let took = since.elapsed().as_secs_f64();
    drop(storm.clients);
    report.figure("connections", storm.begun as f64 / took, "a second");
    for (kind, count) in KINDS.iter().zip(storm.of_kind) {
        report.say(format_args!("     {count:9} x {}", kind.1));
    }
    let wrongs = format!("{} were {}", storm.wrongs, storm.wrong.join("; "));
    report.check("no client was treated wrongly", storm.wrongs == 0, wrongs);
    let left = settle(&server)?;
    report.check("gauges return to zero", left.is_empty(), left.join(", "));
    let now = server.descriptors()?;
    report.check("descriptors", now == descriptors, format_args!("{descriptors}, then {now}"));
    let now = server.rss()?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    let found = format!("{:.2} MiB, then {:.2} MiB", mib(rss), mib(now));
    report.check("memory", now <= rss + RSS_MAX, found);
    let panics = server.log().iter().filter(|line| line.contains("panicked")).count();
    report.check(
        "the server lives",
        server.is_alive() && panics == 0,
        format_args!("{panics} panics"),
    );
    Ok(report)
}

/// Waits until nothing is left; what is left, if it stays.
fn settle(server: &Server) -> io::Result<Vec<String>> {
    let mut left = Vec::new();
    for gauge in GAUGES {
        if !server.wait(gauge, 0, DEADLINE)? {
            left.push(format!("{gauge}: {}", server.number("counters", gauge)?));
        }
    }
    // What allocators give back, they give back with a delay.
    std::thread::park_timeout(Duration::from_secs(2));
    Ok(left)
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    JoinAndLeave,
    JoinAndReset,
    Abort,
    HalfHead,
    Silent,
    HalfFrame,
    HalfEcho,
}

const KINDS: [(Kind, &str); 7] = [
    (Kind::JoinAndLeave, "join, speak, closing handshake"),
    (Kind::JoinAndReset, "join, speak, RST"),
    (Kind::Abort, "connect, RST"),
    (Kind::HalfHead, "half a request head, until 408"),
    (Kind::Silent, "not a byte, until 408"),
    (Kind::HalfFrame, "join, half a frame, RST"),
    (Kind::HalfEcho, "echo, half a fragmented message, FIN"),
];

/// How often each of them, in a hundred. Those who wait for a timeout stay for a second each.
const SHARES: [u64; 7] = [25, 25, 25, 3, 2, 12, 8];

struct Client {
    link: Link,
    kind: Kind,
    since: Instant,
    upgraded: bool,
    frames: usize,
}

enum Then {
    Stay,
    Reset,
    Over,
}

struct Storm {
    port: u16,
    ready: Ready,
    clients: Vec<Option<Client>>,
    random: u64,
    begun: u64,
    of_kind: [u64; 7],
    wrong: Vec<String>,
    wrongs: usize,
    scratch: Vec<u8>,
}

impl Storm {
    fn new(port: u16) -> io::Result<Self> {
        Ok(Self {
            port,
            ready: Ready::new()?,
            clients: (0..CLIENTS).map(|_| None).collect(),
            random: 0x9e37_79b9_7f4a_7c15,
            begun: 0,
            of_kind: [0; 7],
            wrong: Vec::new(),
            wrongs: 0,
            scratch: vec![0; 64 << 10],
        })
    }

    /// xorshift64: the same storm each time.
    fn random(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % below
    }

    fn rage(&mut self, long: Duration) -> io::Result<()> {
        let since = Instant::now();
        for place in 0..CLIENTS {
            self.begin(place)?;
        }
        let mut looked = since;
        while since.elapsed() < long {
            for place in self.ready.wait(Duration::from_millis(100))? {
                self.step(place as usize)?;
            }
            if looked.elapsed() > Duration::from_secs(1) {
                looked = Instant::now();
                self.give_up()?;
            }
        }
        for client in self.clients.iter_mut().filter_map(Option::take) {
            client.link.reset()?;
        }
        Ok(())
    }

    fn begin(&mut self, place: usize) -> io::Result<()> {
        let mut lot = self.random(100);
        let mut at = 0;
        while lot >= SHARES[at] {
            lot -= SHARES[at];
            at += 1;
        }
        let kind = KINDS[at].0;
        let number = self.begun;
        let mut link = Link::connect(self.port, number as usize, None)?;
        self.begun += 1;
        self.of_kind[at] += 1;
        let room = self.random(ROOMS);
        let request = match kind {
            Kind::HalfEcho => wire::upgrade("/echo"),
            _ => wire::upgrade(&format!("/ws/room-{room}/user-{number}")),
        };
        match kind {
            Kind::Abort | Kind::Silent => {}
            Kind::HalfHead => link.send(&request[..request.len() / 2])?,
            _ => link.send(&request)?,
        }
        link.register(&self.ready, place as u64)?;
        let since = Instant::now();
        self.clients[place] = Some(Client { link, kind, since, upgraded: false, frames: 0 });
        Ok(())
    }

    fn step(&mut self, place: usize) -> io::Result<()> {
        let Some(mut client) = self.clients[place].take() else { return Ok(()) };
        match client.step(&mut self.scratch) {
            Ok(Then::Stay) => {
                self.clients[place] = Some(client);
                return Ok(());
            }
            Ok(Then::Reset) => client.link.reset()?,
            Ok(Then::Over) => {}
            Err(error) => {
                let far =
                    format!("{error}, upgraded: {}, {} frames", client.upgraded, client.frames);
                self.complain(client.kind, &far);
            }
        }
        self.begin(place)
    }

    /// Breaks off whoever got nowhere: nobody has to wait so long.
    fn give_up(&mut self) -> io::Result<()> {
        for place in 0..CLIENTS {
            let late = |client: &mut Client| client.since.elapsed() > PATIENCE;
            if let Some(client) = self.clients[place].take_if(late) {
                self.complain(client.kind, "the server did nothing");
                client.link.reset()?;
                self.begin(place)?;
            }
        }
        Ok(())
    }

    fn complain(&mut self, kind: Kind, what: &str) {
        self.wrongs += 1;
        if self.wrong.len() < 5 {
            self.wrong.push(format!("{kind:?}: {what}"));
        }
    }
}

impl Client {
    fn step(&mut self, scratch: &mut [u8]) -> io::Result<Then> {
        if self.kind == Kind::Abort {
            return Ok(Then::Reset);
        }
        let (kind, upgraded) = (self.kind, &mut self.upgraded);
        let (mut frames, mut refused) = (0, false);
        let reading = self.link.receive(scratch, |bytes| {
            if matches!(kind, Kind::HalfHead | Kind::Silent) {
                refused |= bytes.starts_with(b"HTTP/1.1 408 ");
                return Ok(bytes.len());
            }
            let mut used = 0;
            if !*upgraded {
                let answer = wire::answer(bytes).map_err(io::Error::other)?;
                let Some(end) = answer else { return Ok(0) };
                (*upgraded, used) = (true, end);
            }
            while let Some(frame) = wire::frame(&bytes[used..]) {
                frames += 1;
                used += frame.len;
            }
            Ok(used)
        });
        let reading = match reading {
            // The server may reset those who said FIN in the middle of something.
            Err(error) if error.kind() == ErrorKind::ConnectionReset && self.may_be_cut() => {
                return Ok(Then::Over);
            }
            other => other?,
        };
        let was = self.frames;
        self.frames += frames;
        if refused {
            self.frames = 1;
        }
        if reading == Reading::Ended {
            return match self.kind {
                Kind::HalfHead | Kind::Silent if self.frames == 0 => {
                    Err(io::Error::other("closed without 408"))
                }
                Kind::JoinAndReset | Kind::HalfFrame => Err(io::Error::other("closed")),
                _ => Ok(Then::Over),
            };
        }
        self.act(was)
    }

    fn may_be_cut(&self) -> bool {
        matches!(self.kind, Kind::HalfEcho | Kind::HalfHead | Kind::Silent)
    }

    /// Goes on once the first frame, `joined`, has come; on `/echo`, once upgraded.
    fn act(&mut self, was: usize) -> io::Result<Then> {
        let joined = was == 0 && self.frames > 0;
        let mut frames = Vec::new();
        match self.kind {
            Kind::JoinAndLeave if joined => {
                wire::put_masked(&mut frames, wire::TEXT, b"{\"content\":\"hello\"}");
                wire::put_masked(&mut frames, wire::CLOSE, &1000u16.to_be_bytes());
            }
            Kind::JoinAndReset if joined => {
                wire::put_masked(&mut frames, wire::TEXT, b"{\"content\":\"hello\"}");
                self.link.send(&frames)?;
                return Ok(Then::Reset);
            }
            Kind::HalfFrame if joined => {
                wire::put_masked(&mut frames, wire::TEXT, &[b' '; 3000]);
                self.link.send(&frames[..1500])?;
                return Ok(Then::Reset);
            }
            Kind::HalfEcho if self.upgraded && self.frames == 0 => {
                self.frames = 1;
                // The first of two fragments, and a part of the second.
                wire::put_masked(&mut frames, wire::BINARY & 0x7f, &[7; 9000]);
                wire::put_masked(&mut frames, 0x80, &[7; 9000]);
                self.link.send(&frames[..15_000])?;
                self.link.finish()?;
                return Ok(Then::Stay);
            }
            _ => return Ok(Then::Stay),
        }
        self.link.send(&frames)?;
        Ok(Then::Stay)
    }
}
