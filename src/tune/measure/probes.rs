//! What this box is and what a connection costs on it.
//!
//! In:    a `Plan`; a server started for it.
//! Out:   `Probes`: a `Finding` each, with a figure where there is one.
//! Never: changes the box; takes a missing file for a figure.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::PollFlags;
use serde_json::Value;

use super::super::{Bench as _, Finding, Probes};
use super::child::wait_for;
use super::trial::bench;
use super::{Fault, Load, Plan, Servers, Setting};
use crate::probe::Facts;
use crate::uring::{self, UringIo};

/// Connections that the memory of one is reckoned from: enough for pages that are half full and
/// for what else the box does meanwhile not to matter.
const IDLE: u64 = 8000;
/// What the load generator's standing receive costs the kernel beside a server's poll: two
/// structures, of 512 and of 96 bytes.
const GENERATOR_BYTES: f64 = 608.0;
/// Time that the idle connections are held.
const HELD: Duration = Duration::from_millis(200);
/// Wait for a stuck reader's server to stop reading.
const STUCK: Duration = Duration::from_secs(5);
/// Time without progress after which it has.
const STILL: Duration = Duration::from_millis(100);

/// Finds it all out; says what it is at.
///
/// # Errors
/// If a server does not start, or its connections fail.
pub fn probes(plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault> {
    probes_of(&mut Servers::new(plan)?, say)
}

impl Servers {
    /// As [`probes`], with these servers.
    ///
    /// # Errors
    /// As there.
    pub fn probes(&mut self, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault> {
        probes_of(self, say)
    }
}

fn probes_of(servers: &mut Servers, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault> {
    let facts = Facts::read();
    say("kernel features and topology");
    let mut findings = vec![io_uring(&facts)?];
    findings.extend(topology(&facts, Path::new("/sys")));
    say("bytes a connection");
    let memory = connection(servers, &facts, &Setting::new())?;
    findings.extend(memory.findings());
    say("what a reader that is stuck holds");
    findings.push(stuck_reader(servers)?);
    say("handshakes a second");
    let handshakes = servers.run(&Setting::new(), Load::Handshakes)?;
    let rate = handshakes.operations_per_cpu_second;
    findings.push(figure("accepts_per_cpu_second", rate, &format!("{rate:.0}, with their closes")));
    Ok(Probes { findings, kernel_bytes: memory.kernel, user_bytes: memory.user })
}

fn figure(id: &'static str, value: f64, text: &str) -> Finding {
    Finding { id, value: Some(value), text: text.to_owned() }
}

/// Makes a ring as a shard's is.
fn io_uring(facts: &Facts) -> Result<Finding, Fault> {
    let usage = crate::limits::RingUse::default();
    let ring = UringIo::new(uring::Setup {
        listeners: Vec::new(),
        table_slots: u32::try_from(facts.nofile.soft.min(1024)).unwrap_or(1024),
        buffers: 64,
        buffer_bytes: usage.buffer_bytes,
        entries: u32::try_from(usage.entries).unwrap_or(u32::MAX),
        stride: usage.stride,
        send: usage.send,
        ring_bytes_max: usize::try_from(facts.memlock.soft / 2).unwrap_or(usize::MAX),
        defer_accept: false,
        enters_max: uring::ENTERS_MAX,
    });
    let ring = ring.map_err(|error| Fault::new(error.to_string()))?;
    let (entries, completions) = ring.entries();
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let text = format!(
        "Linux {release}: io_uring has all that is used; {entries} entries and {completions} \
         completions a ring"
    );
    Ok(figure("ring_entries", f64::from(entries), &text))
}

/// CPUs, their siblings, nodes of memory, a quota.
fn topology(facts: &Facts, sys: &Path) -> Vec<Finding> {
    let read = |path: &str| std::fs::read_to_string(sys.join(path)).ok();
    let cpus = facts.cpus.len();
    let mut findings = vec![figure("cpus", cpus as f64, &format!("{:?}", facts.cpus))];
    let shares_core = |cpu: &&usize| {
        let path = format!("devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        read(&path).is_some_and(|list| list.trim().contains([',', '-']))
    };
    let siblings = facts.cpus.iter().filter(shares_core).count();
    let text = match siblings {
        0 => "none shares its core".to_owned(),
        _ => "share their cores with a sibling: a server's figures are those of half a core".into(),
    };
    findings.push(figure("cpus_with_sibling", siblings as f64, &text));
    if let Some(online) = read("devices/system/node/online") {
        let online = online.trim();
        let nodes = numbers_in(online);
        findings.push(figure("memory_nodes", nodes as f64, &format!("nodes {online}")));
    }
    if let Some(quota) = quota(sys) {
        let text = format!("a control group allows the time of {quota:.2} CPUs");
        findings.push(figure("cpu_quota", quota, &text));
    }
    findings
}

/// How many numbers a list such as `0-3,8` names.
fn numbers_in(list: &str) -> usize {
    let ranges = list.split(',').filter_map(|range| {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        Some((first.trim().parse::<usize>().ok()?, last.trim().parse::<usize>().ok()?))
    });
    ranges.map(|(first, last)| (last + 1).saturating_sub(first)).sum()
}

/// CPUs that a control group allows the time of, where one limits it.
fn quota(sys: &Path) -> Option<f64> {
    let read = |path: &str| std::fs::read_to_string(sys.join("fs/cgroup").join(path)).ok();
    let number = |text: &str| text.trim().parse::<f64>().ok().filter(|number| *number > 0.0);
    if let Some(text) = read("cpu.max") {
        let (quota, period) = text.trim().split_once(' ')?;
        return Some(number(quota)? / number(period)?);
    }
    let quota = number(&read("cpu/cpu.cfs_quota_us")?)?;
    Some(quota / number(&read("cpu/cpu.cfs_period_us")?)?)
}

/// What a connection that says nothing costs.
struct Memory {
    connections: u64,
    user: Option<f64>,
    kernel: Option<f64>,
    /// Both ends and both processes, as the box's available memory saw it.
    pair: Option<f64>,
}

impl Memory {
    fn findings(&self) -> Vec<Finding> {
        let of = format!("of {} idle members", self.connections);
        let user = self.user.map(|bytes| {
            figure("connection_user_bytes", bytes, &format!("{bytes:.0} B {of}, the process's own"))
        });
        let kernel = self.kernel.map(|bytes| {
            let text = format!("{bytes:.0} B {of}, the kernel's for the server's end");
            figure("connection_kernel_bytes", bytes, &text)
        });
        let pair = self.pair.map(|bytes| {
            let text = format!("{bytes:.0} B of available memory for both ends and both processes");
            figure("loopback_pair_bytes", bytes, &text)
        });
        [user, kernel, pair].into_iter().flatten().collect()
    }
}

/// What the box has at a moment, in bytes.
#[derive(Clone, Copy)]
struct Moment {
    available: u64,
    slab: u64,
}

impl Moment {
    fn now() -> Option<Self> {
        let info = std::fs::read_to_string("/proc/meminfo").ok()?;
        let field = |name: &str| {
            let line = info.lines().find_map(|line| line.strip_prefix(name))?;
            let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
            Some(kib << 10)
        };
        Some(Self { available: field("MemAvailable:")?, slab: field("Slab:")? })
    }
}

/// What an idle connection takes of a server with that setting.
pub(super) fn weigh(servers: &Servers, setting: &Setting) -> Result<Option<f64>, Fault> {
    let memory = connection(servers, &Facts::read(), setting)?;
    Ok(memory.user.zip(memory.kernel).map(|(user, kernel)| user + kernel))
}

/// Holds members and looks at the box meanwhile: at its most crowded moment all are there.
fn connection(servers: &Servers, facts: &Facts, setting: &Setting) -> Result<Memory, Fault> {
    // Both ends have a table, and neither holds more than there may be files.
    let most = facts.nofile.soft.saturating_sub(facts.nofile.soft / 20 + 200);
    let connections = IDLE.min(most) / 10 * 10;
    let server = servers.start(setting, Load::Echo)?;
    let before = Moment::now();
    let (end, ended) = std::sync::mpsc::channel::<()>();
    let watch = std::thread::spawn(move || {
        let mut peak = Moment::now();
        while ended.recv_timeout(Duration::from_millis(20))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            let now = Moment::now();
            peak = match (peak, now) {
                (Some(peak), Some(now)) if now.slab <= peak.slab => Some(peak),
                (_, now) => now,
            };
        }
        peak
    });
    let (count, held) = (connections.to_string(), HELD.as_secs_f64().to_string());
    let arguments = ["idle", "--connections", &count, "--members", "10", "--seconds", &held];
    let figures = bench(servers, &server, &arguments, Duration::from_secs(30));
    drop(end);
    let peak = watch.join().ok().flatten();
    let figures = figures?;
    server.stop();
    let each = |bytes: u64| bytes as f64 / connections as f64;
    let looks = before.zip(peak);
    let slab = looks.map(|(before, peak)| each(peak.slab.saturating_sub(before.slab)));
    // Where others gave back more meanwhile than all these took, it says nothing of them.
    let taken = looks.and_then(|(before, peak)| before.available.checked_sub(peak.available));
    let pair = taken.filter(|bytes| *bytes > 0).map(each);
    Ok(Memory {
        connections,
        user: user_bytes(&figures, connections),
        kernel: slab.map(|pair| ((pair - GENERATOR_BYTES) / 2.0).max(0.0)),
        pair,
    })
}

fn user_bytes(figures: &Value, connections: u64) -> Option<f64> {
    let server = &figures["server"];
    let (after, before) = (server["rss_bytes"].as_f64()?, server["rss_before_bytes"].as_f64()?);
    Some((after - before).max(0.0) / connections as f64)
}

/// Writes to `/echo` without reading until the server stops reading; what its socket then holds.
fn stuck_reader(servers: &Servers) -> Result<Finding, Fault> {
    let server = servers.start(&Setting::new(), Load::Echo)?;
    let local = crowd(server.address)
        .map_err(|error| Fault::new(format!("the connection that gets stuck: {error}")));
    let stream = local?;
    let held = stream.local_addr().ok().and_then(|peer| unsent(server.address.port(), peer.port()));
    drop(stream);
    server.stop();
    let Some(held) = held else {
        let text = "not known: /proc/net/tcp does not name the socket".to_owned();
        return Ok(Finding { id: "stuck_reader_bytes", value: None, text });
    };
    let text = format!(
        "{held} B of the kernel's memory behind a reader that takes nothing, before what \
         client.queue_bytes allows"
    );
    Ok(figure("stuck_reader_bytes", held as f64, &text))
}

/// Connects to `/echo`, and sends until nothing goes any more.
fn crowd(address: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(STUCK))?;
    let request = format!(
        "GET /echo HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    );
    stream.write_all(request.as_bytes())?;
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    // One masked frame of 4 KiB; a mask of zeros leaves the payload as it is.
    let mut frame = vec![0x82, 0x80 | 126, 0x10, 0x00, 0, 0, 0, 0];
    frame.resize(8 + 4096, b'x');
    stream.set_nonblocking(true)?;
    let (until, mut progress, mut at) = (Instant::now() + STUCK, Instant::now(), 0);
    while progress.elapsed() < STILL && Instant::now() < until {
        match stream.write(&frame[at..]) {
            Ok(written) => {
                at = (at + written) % frame.len();
                progress = Instant::now();
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                wait_for(&stream, PollFlags::OUT, STILL);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(stream)
}

/// Bytes in the send queue of the socket between these two ports.
fn unsent(local: u16, remote: u16) -> Option<u64> {
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    unsent_in(&table, local, remote)
}

fn unsent_in(table: &str, local: u16, remote: u16) -> Option<u64> {
    let (local, remote) = (format!(":{local:04X}"), format!(":{remote:04X}"));
    table.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let ends = fields.next()?.ends_with(&local) && fields.next()?.ends_with(&remote);
        let queues = fields.nth(1)?;
        let (unsent, _) = queues.split_once(':')?;
        if ends { u64::from_str_radix(unsent, 16).ok() } else { None }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_read_in_both_versions() {
        let folder = tempfile::tempdir().unwrap();
        let groups = folder.path().join("fs/cgroup");
        std::fs::create_dir_all(groups.join("cpu")).unwrap();
        assert_eq!(quota(folder.path()), None);
        std::fs::write(groups.join("cpu/cpu.cfs_quota_us"), "-1\n").unwrap();
        std::fs::write(groups.join("cpu/cpu.cfs_period_us"), "100000\n").unwrap();
        assert_eq!(quota(folder.path()), None);
        std::fs::write(groups.join("cpu/cpu.cfs_quota_us"), "250000\n").unwrap();
        assert_eq!(quota(folder.path()), Some(2.5));
        std::fs::write(groups.join("cpu.max"), "max 100000\n").unwrap();
        assert_eq!(quota(folder.path()), None);
        std::fs::write(groups.join("cpu.max"), "150000 100000\n").unwrap();
        assert_eq!(quota(folder.path()), Some(1.5));
    }

    #[test]
    fn siblings_and_nodes_are_counted() {
        let folder = tempfile::tempdir().unwrap();
        let cpu = folder.path().join("devices/system/cpu/cpu0/topology");
        std::fs::create_dir_all(&cpu).unwrap();
        std::fs::write(cpu.join("thread_siblings_list"), "0,64\n").unwrap();
        std::fs::create_dir_all(folder.path().join("devices/system/node")).unwrap();
        std::fs::write(folder.path().join("devices/system/node/online"), "0-1,3\n").unwrap();
        let facts = Facts { cpus: vec![0, 1], ..Facts::read() };
        let findings = topology(&facts, folder.path());
        let value = |id: &str| findings.iter().find(|finding| finding.id == id).unwrap().value;
        assert_eq!(value("cpus"), Some(2.0));
        assert_eq!(value("cpus_with_sibling"), Some(1.0));
        assert_eq!(value("memory_nodes"), Some(3.0));
    }

    #[test]
    fn the_send_queue_of_the_right_socket_is_read() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt\n\
             0: 0100007F:1F40 00000000:0000 0A 00000000:00000000 00:00000000 00000000\n\
             1: 0100007F:C350 0100007F:1F40 01 00000007:00012345 00:00000000 00000000\n\
             2: 0100007F:1F40 0100007F:C350 01 0002A000:00000000 01:00000014 00000000\n";
        assert_eq!(unsent_in(table, 8000, 50_000), Some(0x2_a000));
        assert_eq!(unsent_in(table, 8000, 50_001), None);
    }
}
