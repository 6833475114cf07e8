//! A TCP proxy between boxes and a broker, which makes the network as bad as a test wants it.
//!
//! In:    connections on a port of its own; orders to be slow, to stand still, to cut somebody off.
//! Out:   the same bytes, in order, later or never.
//! Never: outlives its handle.

use std::collections::HashSet;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;
use tokio::time::Instant;

/// What the network is like at present.
#[derive(Clone, Debug, Default)]
struct Weather {
    /// How much later everything arrives, each way.
    delay: Duration,
    /// Nothing arrives at all.
    stalled: bool,
    /// Processes that are cut off.
    cut: HashSet<u32>,
    /// The ports from which they were connected when they were.
    ports: HashSet<u16>,
    /// The proxy is to end.
    over: bool,
}

/// A proxy on a thread of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    upstream: Arc<Mutex<Option<SocketAddr>>>,
    weather: watch::Sender<Weather>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a free port. Connections fail until [`Proxy::lead_to`] says where to.
    ///
    /// # Panics
    /// If it cannot listen.
    pub fn start() -> Self {
        let listener = StdListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        listener.set_nonblocking(true).expect("O_NONBLOCK");
        let upstream = Arc::new(Mutex::new(None));
        let (weather, seen) = watch::channel(Weather::default());
        let to = Arc::clone(&upstream);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(serve(listener, address, &to, seen));
        });
        Self { address, upstream, weather, thread: Some(thread) }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Says where the broker is.
    pub fn lead_to(&self, upstream: SocketAddr) {
        *lock(&self.upstream) = Some(upstream);
    }

    /// Everything arrives so much later from now on, each way.
    pub fn delay(&self, delay: Duration) {
        self.weather.send_modify(|weather| weather.delay = delay);
    }

    /// Nothing arrives until it is allowed again.
    pub fn stall(&self, stalled: bool) {
        self.weather.send_modify(|weather| weather.stalled = stalled);
    }

    /// Ends the connections of a process, and every further one at once.
    pub fn cut(&self, process: u32) {
        // First nothing new comes through, then it is known what there is.
        self.weather.send_modify(|weather| {
            weather.cut.insert(process);
        });
        let ports = ports_of(process, self.address);
        self.weather.send_modify(|weather| weather.ports.extend(ports));
    }

    /// Lets a process connect again.
    pub fn mend(&self, process: u32) {
        self.weather.send_modify(|weather| {
            weather.cut.remove(&process);
            weather.ports.clear();
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.weather.send_modify(|weather| weather.over = true);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the proxy panicked");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    listener: StdListener,
    address: SocketAddr,
    upstream: &Mutex<Option<SocketAddr>>,
    weather: watch::Receiver<Weather>,
) {
    let mut end = weather.clone();
    let listener = TcpListener::from_std(listener).expect("a listener of this runtime");
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let Ok((client, peer)) = accepted else { continue };
                let Some(to) = *lock(upstream) else { continue };
                tokio::spawn(admit(client, peer, address, to, weather.clone()));
            }
            over = end.wait_for(|weather| weather.over) => {
                assert!(over.is_ok(), "the handle says so before it goes");
                return;
            }
        }
    }
}

/// Closes a connection of somebody who is cut off; carries any other.
async fn admit(
    client: TcpStream,
    peer: SocketAddr,
    address: SocketAddr,
    to: SocketAddr,
    weather: watch::Receiver<Weather>,
) {
    let cut = weather.borrow().cut.clone();
    if !cut.is_empty() {
        // The kernel's table may be long, and nobody else shall wait for it.
        let is_cut = move || cut.iter().any(|it| ports_of(*it, address).contains(&peer.port()));
        if tokio::task::spawn_blocking(is_cut).await.unwrap_or(true) {
            return;
        }
    }
    carry(client, peer, to, weather).await;
}

/// Carries one connection until one end closes, or it is cut.
async fn carry(
    client: TcpStream,
    peer: SocketAddr,
    to: SocketAddr,
    weather: watch::Receiver<Weather>,
) {
    let Ok(broker) = TcpStream::connect(to).await else { return };
    // Small writes have to arrive when they were sent.
    if client.set_nodelay(true).is_err() || broker.set_nodelay(true).is_err() {
        return;
    }
    let ((from_client, to_client), (from_broker, to_broker)) =
        (client.into_split(), broker.into_split());
    let mut cut = weather.clone();
    // A port of one who was cut off may since have become another's.
    let (before, port) = (weather.borrow().ports.clone(), peer.port());
    let both = async {
        tokio::join!(
            forward(from_client, to_broker, weather.clone()),
            forward(from_broker, to_client, weather.clone()),
        )
    };
    tokio::select! {
        _ = both => {}
        _ = cut.wait_for(|now| now.ports.contains(&port) && !before.contains(&port)) => {}
    }
}

/// One direction, a delay line: bytes, and the end behind them.
async fn forward(from: OwnedReadHalf, to: OwnedWriteHalf, weather: watch::Receiver<Weather>) {
    let (into, out) = unbounded_channel();
    let now = weather.clone();
    // An error on either side ends that side; the other then ends by itself.
    let _ = tokio::join!(take(from, into, now), give(to, out, weather));
}

async fn take(
    mut from: OwnedReadHalf,
    into: UnboundedSender<(Instant, Vec<u8>)>,
    weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let count = tokio::select! {
            count = from.read(&mut chunk) => count?,
            () = into.closed() => return Ok(()),
        };
        let due = Instant::now() + weather.borrow().delay;
        if count == 0 || into.send((due, chunk[..count].to_vec())).is_err() {
            return Ok(());
        }
    }
}

async fn give(
    mut to: OwnedWriteHalf,
    mut out: UnboundedReceiver<(Instant, Vec<u8>)>,
    mut weather: watch::Receiver<Weather>,
) -> io::Result<()> {
    while let Some((due, bytes)) = out.recv().await {
        tokio::time::sleep_until(due).await;
        if weather.wait_for(|weather| !weather.stalled).await.is_err() {
            return Ok(());
        }
        to.write_all(&bytes).await?;
    }
    to.shutdown().await
}

/// The ports from which a process is connected to the proxy: its sockets, found in the kernel's
/// table. Empty where it has ended.
fn ports_of(process: u32, proxy: SocketAddr) -> HashSet<u16> {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else {
        return HashSet::new();
    };
    let sockets: HashSet<String> = entries
        .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
        .filter_map(|link| {
            let inode = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
            Some(inode.to_owned())
        })
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    // Columns: number, local address, remote address, ..., the tenth is the inode.
    let port = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.len() > 9 && port(row[2]) == Some(proxy.port()))
        .filter(|row| sockets.contains(row[9]))
        .filter_map(|row| port(row[1]))
        .collect()
}
