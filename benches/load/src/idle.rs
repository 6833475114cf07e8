//! What an idle member of a room costs, in user space and in the kernel.
//!
//! In:    a server of its own a round; a listener that never accepts, for the client's half.
//! Out:   bytes a member, medians of the rounds; slab objects beside them.
//! Never: keeps epoll or a buffer for a connection, so that the client's half is a bare socket.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};

use crate::Options;
use crate::link::{Link, Reading};
use crate::memory::{Memory, rss};
use crate::report::Report;
use crate::server::Server;
use crate::taken::{Taken, sum};
use crate::wire;

/// Members of a room.
const ROOM: usize = 10;
/// Connections that a listener holds which does not accept (net.core.somaxconn).
const BACKLOG: usize = 4096;
/// Targets, in bytes a member.
const USER_BYTES_MAX: f64 = 600.0;
const KERNEL_BYTES_MAX: f64 = 4800.0;
/// Time for allocators and the kernel to give back what they give back.
const SETTLE: Duration = Duration::from_secs(2);
/// What a member takes of MemAvailable where somebody looks through `/proc/*/fd`: each file has an
/// inode and a dentry there, half of which count as used (487 found).
const WATCHED_BYTES: f64 = 500.0;
/// How far memory and slab caches may tell different stories of the client's half, in bytes.
const QUIET_BYTES: f64 = WATCHED_BYTES + 100.0;
/// How often to wait for a quieter moment.
const TRIES: usize = 10;
const DEADLINE: Duration = Duration::from_secs(60);

/// Runs the rounds.
///
/// # Errors
/// Where the box or the server fails.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("idle");
    let members = options.members.unwrap_or(19_000) / ROOM * ROOM;
    let rounds = options.rounds.unwrap_or(3).max(1);
    report.say(format_args!("{members} members in rooms of {ROOM}, {rounds} rounds"));
    let mut all = Vec::new();
    for round in 1..=rounds {
        let client = quiet_client_half(members, &mut report)?;
        let (user, pair) = pairs(options, members)?;
        report.say(format_args!(
            "     round {round}: user {user:.0} B; kernel {:.0} B (a pair {:.0} B, the client half \
             {:.0} B); {:.0} B with the neighbours' growth",
            pair.clean - client.clean,
            pair.clean,
            client.clean,
            pair.plain - client.plain
        ));
        if round == rounds {
            say_slabs(&mut report, &client.slabs, &pair.slabs);
        }
        let slabs = sum(&pair.slabs) - sum(&client.slabs);
        all.push([user, pair.clean - client.clean, pair.plain - client.plain, slabs]);
    }
    let [user, kernel, plain, slabs] = [0, 1, 2, 3].map(|at| median(&all, at));
    report.figure("user space", user, "B a member");
    report.figure("kernel", kernel, "B a member");
    report.figure("kernel with the neighbours' growth", plain, "B a member");
    report.figure("kernel by slab caches", slabs, "B a member");
    report.check("user space <= 600 B a member", user <= USER_BYTES_MAX, format_args!("{user:.0}"));
    for (what, bytes, bytes_max) in [
        ("kernel", kernel, KERNEL_BYTES_MAX + WATCHED_BYTES),
        ("kernel by slab caches", slabs, KERNEL_BYTES_MAX),
    ] {
        let within = bytes > 0.0 && bytes <= bytes_max;
        let what = format!("{what} <= {bytes_max:.0} B a member");
        report.check(&what, within, format_args!("{bytes:.0}"));
    }
    Ok(report)
}

fn median(all: &[[f64; 4]], at: usize) -> f64 {
    let mut values: Vec<_> = all.iter().map(|round| round[at]).collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn say_slabs(report: &mut Report, client: &[(&str, f64, f64)], pair: &[(&'static str, f64, f64)]) {
    report.say("     slab caches, objects and bytes a connection: client half, server half");
    for ((name, objects, bytes), (_, both, both_bytes)) in client.iter().zip(pair) {
        let (server, server_bytes) = (both - objects, both_bytes - bytes);
        report.say(format_args!(
            "       {name:16} {objects:5.2} {bytes:6.0} B   {server:5.2} {server_bytes:6.0} B"
        ));
    }
}

/// The client half, once more where memory and slab caches do not tell the same story: no code of
/// the server is in it, so that it is the neighbours who moved too much.
fn quiet_client_half(count: usize, report: &mut Report) -> io::Result<Taken> {
    for _ in 0..TRIES {
        let client = client_half(count)?;
        let apart = client.clean - sum(&client.slabs);
        if apart.abs() <= QUIET_BYTES {
            return Ok(client);
        }
        report.say(format_args!("     the box is busy ({apart:.0} B apart), once more"));
    }
    Err(io::Error::other("the box is too busy to measure its memory"))
}

/// A listener that never accepts: first both ends are there, then its close takes its own away and
/// leaves the client's sockets, reset but open.
fn client_half(count: usize) -> io::Result<Taken> {
    let mut listeners = Vec::new();
    for _ in 0..count.div_ceil(BACKLOG) {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None)?;
        bind(&socket, &SocketAddr::from(([0, 0, 0, 0], 0)))?;
        listen(&socket, BACKLOG as i32)?;
        let port = SocketAddr::try_from(getsockname(&socket)?)?.port();
        listeners.push((socket, port));
    }
    let mut links = Vec::with_capacity(count);
    let (before, own) = (Memory::settled()?, rss("self")? as f64);
    for number in 0..count {
        links.push(Link::connect(listeners[number / BACKLOG].1, number, None)?);
    }
    drop(listeners);
    std::thread::park_timeout(SETTLE);
    let (after, own_after) = (Memory::settled()?, rss("self")? as f64);
    Ok(Taken::between(&before, &after, own_after - own, count))
}

/// A server and its members: user space, and what a pair of sockets takes.
fn pairs(options: &Options, count: usize) -> io::Result<(f64, Taken)> {
    let server = Server::start(&options.binary, &["--log", "info"])?;
    server.wait("connections", 0, DEADLINE)?;
    std::thread::park_timeout(SETTLE);
    let mut links = Vec::with_capacity(count);
    let (before, user, own) = (Memory::settled()?, server.rss()? as f64, rss("self")? as f64);
    for room in 0..count / ROOM {
        join_room(server.port, room, &mut links)?;
    }
    for counter in ["websockets", "members"] {
        if !server.wait(counter, count as u64, DEADLINE)? {
            return Err(io::Error::other(format!("not all are {counter}: {}", server.health()?)));
        }
    }
    std::thread::park_timeout(SETTLE);
    let after = Memory::settled()?;
    let (user, own) = (server.rss()? as f64 - user, rss("self")? as f64 - own);
    Ok((user / count as f64, Taken::between(&before, &after, user + own, count)))
}

/// Fills one room, and reads all that its members are told, so that no socket holds a byte.
fn join_room(port: u16, room: usize, links: &mut Vec<Link>) -> io::Result<()> {
    let first = links.len();
    let mut scratch = vec![0; 16 << 10];
    for place in 0..ROOM {
        let mut link = Link::connect(port, first + place, None)?;
        link.send(&wire::upgrade(&format!("/ws/room-{room}/user-{}", first + place)))?;
        let mut heard = Heard::default();
        wait_for(|| heard.all(&mut link, &mut scratch, 2))?;
        links.push(link);
        // Everyone who sat already hears of the newcomer.
        for earlier in &mut links[first..first + place] {
            let mut heard = Heard { upgraded: true, frames: 0 };
            wait_for(|| heard.all(earlier, &mut scratch, 1))?;
        }
    }
    Ok(())
}

/// What a member was sent.
#[derive(Default)]
struct Heard {
    upgraded: bool,
    frames: usize,
}

impl Heard {
    /// Whether the upgrade was answered and so many frames came, and nothing but them.
    fn all(&mut self, link: &mut Link, scratch: &mut [u8], frames: usize) -> io::Result<bool> {
        let reading = link.receive(scratch, |bytes| {
            let mut used = 0;
            if !self.upgraded {
                let Some(end) = wire::answer(bytes).map_err(io::Error::other)? else {
                    return Ok(0);
                };
                (self.upgraded, used) = (true, end);
            }
            while let Some(frame) = wire::frame(&bytes[used..]) {
                if frame.first != wire::TEXT {
                    return Err(io::Error::other(format!("an odd frame: {frame:?}")));
                }
                self.frames += 1;
                used += frame.len;
            }
            Ok(used)
        })?;
        if reading == Reading::Ended || self.frames > frames {
            return Err(io::Error::other("closed, or told more than expected"));
        }
        Ok(self.upgraded && self.frames == frames)
    }
}

fn wait_for(mut done: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
    let until = Instant::now() + DEADLINE;
    while !done()? {
        if Instant::now() > until {
            return Err(io::Error::other("no answer in time"));
        }
        std::thread::yield_now();
    }
    Ok(())
}
