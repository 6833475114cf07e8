//! Turns the server's metrics into datagrams for a StatsD server (`metrics.statsd`).
//!
//! In:    a `MetricsSource`; where to send, as the operator wrote it.
//! Out:   datagrams, every ten seconds and once at the end; a warning where they do not go out.
//! Never: waits for anybody: the socket does not block, a name is looked up on a thread of its own,
//!        and what cannot be sent is told the next time or not at all.
//!
//! # Invariants
//! - At most one name is being looked up.
//! - What counters were told to have grown by adds up to what they say.

mod lines;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::time::Duration;

use cadence::{BufferedUdpMetricSink, StatsdClient};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval};

use self::lines::Lines;
use super::metrics::Source;

/// Time between two reports: what StatsD servers add up before they hand it on.
pub const EVERY: Duration = Duration::from_secs(10);
/// Bytes of a datagram: what an Ethernet frame takes of IPv6 and UDP.
pub const DATAGRAM_BYTES: usize = 1432;
/// How long a name's address is taken for good.
const LOOK_UP_EVERY: Duration = Duration::from_secs(60);

/// Sends reports until `closing` turns true, and then the last. Runs inside a tokio runtime (the
/// main thread's).
pub async fn report(target: String, source: Source, mut closing: watch::Receiver<bool>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reporter = Reporter::new(target, source);
    let mut lookup = Lookup::default();
    loop {
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => break,
            found = lookup.outcome() => {
                if reporter.take(found) {
                    reporter.report();
                }
            }
            _ = ticks.tick() => {
                match reporter.target.parse() {
                    Ok(address) => drop(reporter.take(Ok(address))),
                    Err(_) => lookup.begin(&reporter.target),
                }
                reporter.report();
            }
        }
    }
    reporter.report();
}

/// A name that is being looked up: `getaddrinfo` may take half a minute, and cannot be given up.
#[derive(Debug, Default)]
struct Lookup {
    outcome: Option<oneshot::Receiver<io::Result<SocketAddr>>>,
    /// When the last began.
    begun: Option<Instant>,
}

impl Lookup {
    /// Begins, unless one is under way or its answer is still good.
    fn begin(&mut self, target: &str) {
        let is_fresh = self.begun.is_some_and(|begun| begun.elapsed() < LOOK_UP_EVERY);
        if self.outcome.is_some() || is_fresh {
            return;
        }
        let (answer, outcome) = oneshot::channel();
        let target = target.to_owned();
        // Not the runtime's own threads: it waits for those when it ends.
        let thread = std::thread::Builder::new().name("statsd-name".to_owned());
        let spawned = thread.spawn(move || {
            let found = target.to_socket_addrs().and_then(|mut all| {
                all.next().ok_or_else(|| io::Error::other("the name has no address"))
            });
            let _unheard = answer.send(found);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "metrics.statsd: no thread to look the name up");
            return;
        }
        (self.outcome, self.begun) = (Some(outcome), Some(Instant::now()));
    }

    /// What came of it; never, while none is under way.
    async fn outcome(&mut self) -> io::Result<SocketAddr> {
        let Some(outcome) = &mut self.outcome else { return std::future::pending().await };
        let found = outcome.await;
        self.outcome = None;
        let found = found.unwrap_or_else(|_| Err(io::Error::other("the look-up broke off")));
        if found.is_err() {
            // Again at the next tick.
            self.begun = None;
        }
        found
    }
}

/// How the last try went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Untried,
    Well,
    Failing,
}

struct Reporter {
    target: String,
    source: Source,
    client: Option<(SocketAddr, StatsdClient)>,
    lines: Lines,
    name: Standing,
    sending: Standing,
}

impl Reporter {
    fn new(target: String, source: Source) -> Self {
        let (name, sending) = (Standing::Untried, Standing::Untried);
        Self { target, source, client: None, lines: Lines::default(), name, sending }
    }

    /// Where to send from now on; whether that is somewhere else than before.
    fn take(&mut self, found: io::Result<SocketAddr>) -> bool {
        let target = &self.target;
        let address = match found {
            Ok(address) => address,
            Err(error) if self.name == Standing::Failing => {
                tracing::debug!(target, %error, "metrics.statsd: the name is still not found");
                return false;
            }
            Err(error) => {
                tracing::warn!(
                    target,
                    %error,
                    "metrics.statsd: the name is not found; it is looked up every 10 s until it is"
                );
                self.name = Standing::Failing;
                return false;
            }
        };
        if self.name == Standing::Failing {
            tracing::info!(target, %address, "metrics.statsd: the name is found");
        }
        self.name = Standing::Well;
        if self.client.as_ref().is_some_and(|(known, _)| *known == address) {
            return false;
        }
        match connect(address) {
            Ok(client) => self.client = Some((address, client)),
            Err(error) => self.judge(Err(error.to_string())),
        }
        true
    }

    /// Sends what there is to say, where it is known to whom.
    fn report(&mut self) {
        let Some((_, client)) = &self.client else { return };
        let sent = self.lines.send(&self.source.families(), client);
        self.judge(sent.map_err(|error| error.to_string()));
    }

    /// Says it when sending begins to fail, and when it works again.
    fn judge(&mut self, sent: Result<(), String>) {
        let target = &self.target;
        match (sent, self.sending) {
            (Ok(()), Standing::Failing) => tracing::info!(target, "metrics.statsd: sent again"),
            (Ok(()), Standing::Untried) => tracing::info!(target, "metrics.statsd: sent"),
            (Ok(()), Standing::Well) => {}
            (Err(error), Standing::Failing) => {
                tracing::debug!(target, error, "metrics.statsd: still not sent");
                return;
            }
            (Err(error), _) => {
                tracing::warn!(
                    target,
                    error,
                    "metrics.statsd: not all was sent; what counters have grown by is sent later"
                );
                self.sending = Standing::Failing;
                return;
            }
        }
        self.sending = Standing::Well;
    }
}

/// A socket that does not block, and that hears of it when nobody listens there.
fn connect(address: SocketAddr) -> io::Result<StatsdClient> {
    let any: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    socket.connect(address)?;
    let sink = BufferedUdpMetricSink::with_capacity(address, socket, DATAGRAM_BYTES);
    Ok(lines::client(sink.map_err(|error| io::Error::other(error.to_string()))?))
}
