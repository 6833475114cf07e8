//! Messages of 64 bytes there and back, one and eight in flight a connection.
//!
//! In:    a server of its own, on one core.
//! Out:   echoes a server CPU-second; every byte compared.
//! Never: judges: it has no target, it is for profiles and comparisons.

use std::io;
use std::time::{Duration, Instant};

use crate::Options;
use crate::bigroom::own_cpu;
use crate::link::{Link, Reading, Ready};
use crate::report::Report;
use crate::server::{Server, pin};
use crate::wire;

/// Payload of a message, in bytes.
const MESSAGE_BYTES: usize = 64;

/// Runs both depths.
///
/// # Errors
/// Where the box or the server fails, or an echo is wrong.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("echo");
    pin(0)?;
    let server = Server::start(&options.binary, &["--log", "info", "--shards", "1"])?;
    pin(1)?;
    let seconds = Duration::from_secs(options.seconds.unwrap_or(5).max(1));
    let connections = options.members.unwrap_or(1000);
    report
        .say(format_args!("{connections} connections, {MESSAGE_BYTES} B, {seconds:?} each depth"));
    for depth in [1, 8] {
        let mut crowd = Crowd::connect(server.port, connections, depth)?;
        let (since, cpu, own) = (Instant::now(), server.cpu_seconds()?, own_cpu()?);
        while since.elapsed() < seconds {
            crowd.turn()?;
        }
        let took = since.elapsed().as_secs_f64();
        let (cpu, own) = (server.cpu_seconds()? - cpu, own_cpu()? - own);
        let echoes = crowd.echoes as f64;
        let name = |what: &str| format!("depth {depth}: {what}");
        report.figure(&name("echoes"), echoes / took, "a second");
        report.figure(&name("echoes for their CPU"), echoes / cpu, "a server CPU-second");
        report.figure(&name("server core"), 100.0 * cpu / took, "% busy");
        report.figure(&name("generator core"), 100.0 * own / took, "% busy");
        report.check(&name("every echo is right"), crowd.echoes > 0, format_args!("{echoes:.0}"));
    }
    Ok(report)
}

struct Echoing {
    link: Link,
    progress: Progress,
}

#[derive(Default)]
struct Progress {
    upgraded: bool,
    /// Number of the next message to send, and of the next one to come back.
    next: u64,
    back: u64,
}

struct Crowd {
    ready: Ready,
    all: Vec<Echoing>,
    scratch: Vec<u8>,
    frames: Vec<u8>,
    depth: u64,
    echoes: u64,
}

impl Crowd {
    fn connect(port: u16, count: usize, depth: u64) -> io::Result<Self> {
        let mut all = Vec::with_capacity(count);
        let ready = Ready::new()?;
        for number in 0..count {
            let mut link = Link::connect(port, number, None)?;
            link.send(&wire::upgrade("/echo"))?;
            link.register(&ready, number as u64)?;
            all.push(Echoing { link, progress: Progress::default() });
        }
        let (scratch, frames) = (vec![0; 64 << 10], Vec::new());
        Ok(Self { ready, all, scratch, frames, depth, echoes: 0 })
    }

    fn turn(&mut self) -> io::Result<()> {
        for number in self.ready.wait(Duration::from_millis(100))? {
            let echoing = &mut self.all[number as usize];
            let Echoing { link, progress } = echoing;
            let before = progress.back;
            let take = |bytes: &[u8]| progress.take(number, bytes).map_err(io::Error::other);
            if link.receive_bytes(&mut self.scratch, take)? == Reading::Ended {
                return Err(io::Error::other(format!("connection {number} was closed")));
            }
            self.echoes += progress.back - before;
            self.frames.clear();
            while progress.upgraded && progress.next < progress.back + self.depth {
                wire::put_masked(&mut self.frames, wire::TEXT, &message(number, progress.next));
                progress.next += 1;
            }
            if self.frames.is_empty() {
                link.flush()?;
            } else {
                link.send(&self.frames)?;
            }
        }
        Ok(())
    }
}

impl Progress {
    /// How many of the received bytes are done with.
    fn take(&mut self, connection: u64, bytes: &[u8]) -> Result<usize, String> {
        let mut used = 0;
        if !self.upgraded {
            let Some(end) = wire::answer(bytes)? else { return Ok(0) };
            (self.upgraded, used) = (true, end);
        }
        while let Some(frame) = wire::frame(&bytes[used..]) {
            if frame.first != wire::TEXT || frame.payload != message(connection, self.back) {
                return Err(format!("connection {connection}: a wrong echo: {frame:?}"));
            }
            self.back += 1;
            used += frame.len;
        }
        Ok(used)
    }
}

/// The connection's number, the message's, and filling; all of it text.
fn message(connection: u64, number: u64) -> [u8; MESSAGE_BYTES] {
    let mut bytes = [b'.'; MESSAGE_BYTES];
    for (at, digit) in bytes[..32].iter_mut().enumerate() {
        let value = if at < 16 { connection >> (4 * at) } else { number >> (4 * (at - 16)) };
        *digit = b'a' + (value & 15) as u8;
    }
    bytes
}
