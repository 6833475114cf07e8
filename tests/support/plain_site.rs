//! The plain HTTP side of a shard on a thread of its own, without the data ring in front of it.
//!
//! In:    files, bounds, how many bytes "the ring" has read before it hands a socket over.
//! Out:   an address; what the shard would have been told.
//! Never: outlives its test.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::net::{IpAddr, SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

use ringhall::control::Bounds;
use ringhall::control::files::Files;
use ringhall::control::health::{Health, HealthSource, Readiness, ShardHealth, State};
use ringhall::control::metrics::{Family, Metric, MetricsSource, Value};
use ringhall::control::public::{self, Accepted, Site, Upgrades};
use ringhall::http::{Refusal, RefusalKind, Route, Upgrade};
use tokio::io::AsyncReadExt;
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};

use crate::support::DEADLINE;

/// The token that comes back with each upgraded socket.
pub const TOKEN: u64 = 0xfeed;

/// What the shard was told.
#[derive(Debug)]
pub enum Told {
    Taken {
        token: u64,
        stream: TcpStream,
        leftover: Vec<u8>,
    },
    Abandoned,
    Refused(RefusalKind),
    /// `serve` has returned.
    Over,
}

/// What differs between tests.
pub struct Setup {
    pub files: Files,
    pub bounds: Bounds,
    pub echo: bool,
    /// Whether more than half of the connections are taken.
    pub is_crowded: bool,
    /// Bytes that were read before the hand-over.
    pub prefix_bytes: usize,
    /// Whoever comes is told this, and nothing else.
    pub dismissed: Option<&'static [u8]>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            files: Files::built_in(),
            bounds: Bounds::default(),
            echo: true,
            is_crowded: false,
            prefix_bytes: 0,
            dismissed: None,
        }
    }
}

/// A server that knows plain HTTP alone.
pub struct Plain {
    address: SocketAddr,
    closing: watch::Sender<bool>,
    stop: watch::Sender<bool>,
    told: Receiver<Told>,
    thread: Option<JoinHandle<()>>,
}

impl Plain {
    pub fn start(setup: Setup) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
        listener.set_nonblocking(true).expect("nonblocking");
        let address = listener.local_addr().expect("an address");
        let (closing, is_closing) = watch::channel(false);
        let (stop, stopped) = watch::channel(false);
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || run(listener, setup, is_closing, stopped, tell));
        Self { address, closing, stop, told, thread: Some(thread) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As a shutdown does.
    pub fn close(&self) {
        self.closing.send(true).expect("the server runs");
    }

    /// The next thing that the shard was told.
    #[track_caller]
    pub fn told(&self) -> Told {
        self.told.recv_timeout(DEADLINE).expect("the shard is told something")
    }
}

impl Drop for Plain {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server panicked");
    }
}

fn run(
    listener: std::net::TcpListener,
    setup: Setup,
    closing: watch::Receiver<bool>,
    mut stopped: watch::Receiver<bool>,
    tell: Sender<Told>,
) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let accept = async move {
        let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
        let dismissed = setup.dismissed;
        let router = public::router(Arc::new(Picture::default()), setup.files, move || setup.echo);
        let site = Site::new(router, move || setup.bounds, closing)
            .with_upgrades(Rc::new(Shard { is_crowded: setup.is_crowded, tell: tell.clone() }));
        let site = Rc::new(site);
        loop {
            let (mut stream, _) = listener.accept().await.expect("accept");
            let mut prefix = vec![0; setup.prefix_bytes];
            let (site, tell) = (site.clone(), tell.clone());
            spawn_local(async move {
                stream.read_exact(&mut prefix).await.expect("the first bytes");
                let stream = stream.into_std().expect("a socket");
                match dismissed {
                    Some(words) => public::dismiss(stream, words, site).await,
                    None => public::serve(stream, None, prefix, site).await,
                }
                let _ = tell.send(Told::Over);
            });
        }
    };
    let until_stopped = async move {
        tokio::select! {
            () = accept => {}
            _ = stopped.wait_for(|stopped| *stopped) => {}
        }
    };
    LocalSet::new().block_on(&runtime, until_stopped);
    // A file that is being read on the blocking pool must not hold up the test's end.
    runtime.shutdown_background();
}

/// A shard that takes every echo and has no room for anybody else.
struct Shard {
    is_crowded: bool,
    tell: Sender<Told>,
}

impl Upgrades for Shard {
    fn judge(&self, upgrade: Upgrade, _peer: Option<IpAddr>) -> Result<Accepted, Refusal> {
        if upgrade.route != Route::Echo {
            return Err(Refusal::for_now(RefusalKind::RoomFull, "Come back later.", 2));
        }
        let response = ringhall::ws::handshake::accept_response(&upgrade.key, None);
        Ok(Accepted { response, token: TOKEN })
    }

    fn taken(&self, token: u64, stream: TcpStream, leftover: Vec<u8>) {
        let _ = self.tell.send(Told::Taken { token, stream, leftover });
    }

    fn abandoned(&self, _token: u64) {
        let _ = self.tell.send(Told::Abandoned);
    }

    fn is_crowded(&self) -> bool {
        self.is_crowded
    }

    fn refused(&self, kind: RefusalKind) {
        let _ = self.tell.send(Told::Refused(kind));
    }
}

/// A server's health, as a test wants it.
pub struct Picture {
    pub state: State,
    pub ready: Readiness,
}

impl Default for Picture {
    fn default() -> Self {
        Self { state: State::Healthy, ready: Readiness::Ready }
    }
}

impl MetricsSource for Picture {
    fn families(&self) -> Vec<Family> {
        vec![Family::one(Metric::Accepts, Value::Whole(3))]
    }
}

impl HealthSource for Picture {
    fn snapshot(&self) -> Health {
        Health {
            state: self.state,
            ready: self.ready,
            uptime: Duration::from_secs(5),
            connections: 3,
            websockets: 2,
            rooms: 1,
            shards: vec![ShardHealth { id: 0, moved_ms_ago: 1, alive: true }],
            broker: None,
            counters: vec![("accepted", 3)],
            closed: vec![("normal", 1)],
            refused: vec![("not_found", 1)],
        }
    }
}
