//! Turns what a supervisor hands over into listeners, and what the server says into notices to it.
//!
//! In:    `NOTIFY_SOCKET`, `WATCHDOG_USEC` and `LISTEN_FDS` of the environment, as systemd and
//!        whoever speaks its protocol set them.
//! Out:   listening sockets, one a shard for each address; READY, STATUS, WATCHDOG and the like.
//! Never: waits for the supervisor, or ends because of it: a notice that is not taken is lost.

use std::cell::Cell;
use std::ffi::OsString;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixDatagram};
use std::time::Duration;

use listenfd::ListenFd;
use sd_notify::NotifyState;

/// Shortest pause between two pings: whoever asks for more is not served by it.
const PING_PERIOD_MIN: Duration = Duration::from_millis(1);

/// Whoever started this process and wants to hear how it is; possibly nobody.
#[derive(Debug)]
pub struct Supervisor {
    address: Option<UnixAddress>,
    ping_period: Option<Duration>,
    /// Whether a notice was lost already: that is said once.
    is_deaf: Cell<bool>,
}

impl Supervisor {
    /// The one that the environment names.
    #[must_use]
    pub fn from_env() -> Self {
        let address = std::env::var_os("NOTIFY_SOCKET").and_then(|name| {
            let address = address_of(&name);
            if let Err(error) = &address {
                tracing::warn!(?name, %error, "NOTIFY_SOCKET is no address: nobody is notified");
            }
            address.ok()
        });
        let watchdog = sd_notify::watchdog_enabled().filter(|_| address.is_some());
        Self::new(address, watchdog)
    }

    fn new(address: Option<UnixAddress>, watchdog: Option<Duration>) -> Self {
        let asked = watchdog.filter(|time| !time.is_zero());
        let ping_period = asked.map(|time| (time / 2).max(PING_PERIOD_MIN));
        Self { address, ping_period, is_deaf: Cell::new(false) }
    }

    /// Whether there is one.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.address.is_some()
    }

    /// How often [`Supervisor::ping`] is due: twice within the time after which it would end this
    /// process; `None` where it does not watch.
    #[must_use]
    pub fn ping_period(&self) -> Option<Duration> {
        self.ping_period
    }

    /// The start, or a reload, is over.
    pub fn ready(&self, status: &str) {
        self.tell(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// How things are, in one line.
    pub fn status(&self, status: &str) {
        self.tell(&[NotifyState::Status(status)]);
    }

    /// This process is well: what keeps it alive.
    pub fn ping(&self) {
        self.tell(&[NotifyState::Watchdog]);
    }

    /// The configuration is being read again; [`Supervisor::ready`] is to follow.
    pub fn reloading(&self) {
        let mut notice = vec![NotifyState::Reloading];
        // `Type=notify-reload` tells an answer to its own signal from an older one by this.
        notice.extend(NotifyState::monotonic_usec_now());
        self.tell(&notice);
    }

    /// The end has begun, and takes `at_most`: longer than the unit's TimeoutStopSec, if need be.
    pub fn stopping(&self, at_most: Duration) {
        let micros = u32::try_from(at_most.as_micros()).unwrap_or(u32::MAX);
        self.tell(&[
            NotifyState::Stopping,
            NotifyState::Status("shutting down"),
            NotifyState::ExtendTimeoutUsec(micros),
        ]);
    }

    fn tell(&self, notice: &[NotifyState<'_>]) {
        let Some(address) = &self.address else { return };
        let lines: String = notice.iter().map(|state| format!("{state}\n")).collect();
        match send(address, &lines) {
            Err(error) if !self.is_deaf.replace(true) => {
                tracing::warn!(?address, %error, "the supervisor does not take a notice");
            }
            Ok(()) | Err(_) => {}
        }
    }
}

/// Sends without waiting: who reads none of it must not hold up the thread that takes signals.
/// A new socket each time finds the supervisor's again, should it have made that anew.
fn send(address: &UnixAddress, lines: &str) -> io::Result<()> {
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(lines.as_bytes(), address).map(drop)
}

/// sd_notify(3): a path, or after an `@` a name in the abstract namespace.
fn address_of(name: &OsString) -> io::Result<UnixAddress> {
    match name.as_bytes() {
        [b'@', rest @ ..] => UnixAddress::from_abstract_name(rest),
        [b'/', ..] => UnixAddress::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::Unsupported, "it begins with neither / nor @")),
    }
}

/// Takes the listening sockets that this process was started with; none where nobody passed any.
///
/// To be called once, before this process opens a file of its own: what `LISTEN_FDS` counts wrongly
/// would else be taken for a socket of the supervisor's.
///
/// # Errors
/// Where something other than a TCP socket was passed; one sentence for the operator.
pub fn inherited_listeners() -> Result<Vec<TcpListener>, String> {
    let mut passed = ListenFd::from_env();
    let mut listeners = Vec::with_capacity(passed.len());
    for index in 0..passed.len() {
        let taken = passed.take_tcp_listener(index).map_err(|error| {
            format!(
                "LISTEN_FDS passes what is no TCP socket ({error}): write nothing but \
                 `ListenStream=ADDRESS:PORT` in the socket unit, or take LISTEN_FDS out of the \
                 environment"
            )
        })?;
        listeners.extend(taken);
    }
    Ok(listeners)
}

/// Inherited listeners by shard, one an address each, and the addresses in the order of the unit.
#[derive(Debug)]
pub struct Dealt {
    /// Every shard's listeners.
    pub by_shard: Vec<Vec<TcpListener>>,
    /// What they listen on.
    pub addresses: Vec<SocketAddr>,
}

/// Gives each of `shards` shards one listener an address.
///
/// # Errors
/// Where an address has more or fewer: how many lines to write in the socket unit.
pub fn deal(listeners: Vec<TcpListener>, shards: usize) -> Result<Dealt, String> {
    let mut groups: Vec<(SocketAddr, Vec<TcpListener>)> = Vec::new();
    for listener in listeners {
        let address = listener.local_addr();
        let address =
            address.map_err(|error| format!("an inherited socket has no address: {error}"))?;
        match groups.iter_mut().find(|(of, _)| *of == address) {
            Some((_, group)) => group.push(listener),
            None => groups.push((address, vec![listener])),
        }
    }
    if groups.iter().any(|(_, group)| group.len() != shards) {
        let counts: Vec<_> = groups.iter().map(|(of, group)| (*of, group.len())).collect();
        return Err(wrong_number(&counts, shards));
    }
    let mut by_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut addresses = Vec::with_capacity(groups.len());
    for (address, group) in groups {
        addresses.push(address);
        for (shard, listener) in by_shard.iter_mut().zip(group) {
            shard.push(listener);
        }
    }
    Ok(Dealt { by_shard, addresses })
}

/// Says what to write instead.
fn wrong_number(counts: &[(SocketAddr, usize)], shards: usize) -> String {
    let plural = |count: usize, word: &str| match count {
        1 => format!("1 {word}"),
        more => format!("{more} {word}s"),
    };
    let passed: Vec<_> =
        counts.iter().map(|(of, count)| format!("{} for {of}", plural(*count, "socket"))).collect();
    let lines = plural(shards, "line");
    let wanted: Vec<_> =
        counts.iter().map(|(of, _)| format!("{lines} `ListenStream={of}`")).collect();
    let first = counts.first().map_or(0, |(_, count)| *count);
    let other_shards = match counts.iter().all(|(_, count)| *count == first) {
        true => format!(", or set server.shards = {first}"),
        false => String::new(),
    };
    format!(
        "the socket unit passed {}, but there {} {}, and each needs a socket of its own for every \
         address: write {} there, with ReusePort=yes (`systemctl edit ringhall.socket`, an empty \
         `ListenStream=` first){other_shards}",
        passed.join(" and "),
        if shards == 1 { "is" } else { "are" },
        plural(shards, "shard"),
        wanted.join(" and "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As many of one address.
    fn sockets(count: usize) -> Vec<TcpListener> {
        let first = TcpListener::bind("127.0.0.1:0").unwrap();
        (0..count).map(|_| first.try_clone().unwrap()).collect()
    }

    #[test]
    fn each_shard_gets_one_listener_an_address() {
        let (first, second) = (sockets(3), sockets(3));
        let expected = [first[0].local_addr().unwrap(), second[0].local_addr().unwrap()];
        // The order within the unit is the operator's: mixed, here.
        let mixed = first.into_iter().zip(second).flat_map(|(a, b)| [a, b]).collect();
        let dealt = deal(mixed, 3).unwrap();
        assert_eq!(dealt.addresses, expected);
        assert_eq!(dealt.by_shard.len(), 3);
        for listeners in dealt.by_shard {
            let of: Vec<_> = listeners.iter().map(|one| one.local_addr().unwrap()).collect();
            assert_eq!(of, expected);
        }
    }

    #[test]
    fn a_wrong_number_says_how_many_lines_to_write() {
        let passed = sockets(3);
        let address = passed[0].local_addr().unwrap();
        let said = deal(passed, 2).unwrap_err();
        for part in [
            format!("passed 3 sockets for {address}"),
            "there are 2 shards".to_owned(),
            format!("write 2 lines `ListenStream={address}`"),
            "or set server.shards = 3".to_owned(),
        ] {
            assert!(said.contains(&part), "{part}: {said}");
        }
        // Two addresses of which one is right: there is no number of shards that suits both.
        let mut passed = sockets(1);
        passed.extend(sockets(2));
        let said = deal(passed, 1).unwrap_err();
        assert!(said.contains("1 socket for") && said.contains("2 sockets for"), "{said}");
        assert!(said.contains("there is 1 shard,") && !said.contains("server.shards"), "{said}");
    }

    #[test]
    fn a_supervisor_that_does_not_read_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let silent = UnixDatagram::bind(&path).unwrap();
        let address = address_of(&path.into_os_string()).unwrap();
        let supervisor = Supervisor::new(Some(address), None);
        // Far more than a socket's queue holds.
        for _ in 0..2_000 {
            supervisor.status("still here");
        }
        assert!(supervisor.is_deaf.get());
        silent.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        let length = silent.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"STATUS=still here\n");
        while silent.recv(&mut buffer).is_ok() {}
        supervisor.ping();
        let length = silent.recv(&mut buffer).expect("it is heard again");
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
    }

    #[test]
    fn names_of_the_abstract_namespace_are_addresses_too() {
        let name = OsString::from(format!("@ringhall-test-{}", std::process::id()));
        let socket = UnixDatagram::bind_addr(&address_of(&name).unwrap()).unwrap();
        Supervisor::new(address_of(&name).ok(), None).ping();
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"WATCHDOG=1\n");
        assert!(address_of(&OsString::from("vsock:2:1")).is_err());
    }

    #[test]
    fn pings_are_due_twice_within_the_watchdogs_time() {
        let period = |micros| {
            let address = address_of(&OsString::from("@x")).ok();
            Supervisor::new(address, Some(Duration::from_micros(micros))).ping_period()
        };
        assert_eq!(period(10_000_000), Some(Duration::from_secs(5)));
        assert_eq!(period(1), Some(PING_PERIOD_MIN));
        assert_eq!(period(0), None);
    }
}
