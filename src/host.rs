//! Drives a shard's turns inside a tokio-uring runtime: turn, yield, sleep, wake.
//!
//! In:    a shard on its own thread; kicks from the main thread; sockets back from plain HTTP.
//! Out:   turns; plain HTTP connections as tasks on the same core.
//! Never: looks into a turn. A bare loop around `turn()` would do as well.
//!
//! The rules of sleeping (each was paid for with a hang):
//! 1. The ring wakes us through an eventfd, not through its own descriptor: a ring with deferred
//!    task work does not wake those who poll it.
//! 2. Before sleeping: say so to the other shards, then look for their mail; let the ring ring, run
//!    its deferred work, then look for completions. What comes later rings.
//! 3. The runtime's own tasks get the core after every turn that did work, else plain HTTP starves
//!    behind a busy shard.

use std::cell::{Cell, RefCell};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::conn::Origin;
use crate::control::public::{self, Accepted, Site, Upgrades, serve};
use crate::http::{Protocol, Refusal, RefusalKind, Route, Upgrade};
use crate::limits::accept_reserve;
use crate::shard::shared::{ENDED, Neighbour, Order, Shared, take_one};
use crate::shard::tick::Next;
use crate::shard::{Handoff, Shard, TurnedAway};
use crate::time::{Now, Stamp};
use crate::uring::UringIo;
use crate::ws::handshake::accept_response;

/// How often a shard's thread is asked how busy it was.
const BUSY_EVERY: Duration = Duration::from_secs(1);

/// The process's clock: all shards count from one start.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Milliseconds since the start.
    #[must_use]
    pub fn now(self) -> Now {
        self.read().0
    }

    /// The same moment in milliseconds and, modulo 2^32, in microseconds.
    #[must_use]
    pub fn read(self) -> (Now, Stamp) {
        let elapsed = self.0.elapsed();
        let low = elapsed.as_micros() & u128::from(u32::MAX);
        (Now(crate::time::millis(elapsed)), Stamp(u32::try_from(low).unwrap_or_default()))
    }

    fn instant(self, now: Now) -> tokio::time::Instant {
        (self.0 + Duration::from_millis(now.0)).into()
    }
}

/// An upgrade that plain HTTP answers, and counts.
struct Promised {
    upgrade: Upgrade,
    /// Whose it is, where that is known.
    origin: Option<Origin>,
}

/// A socket that plain HTTP has upgraded.
struct Returned {
    fd: OwnedFd,
    promised: Promised,
    leftover: Vec<u8>,
}

/// Where plain HTTP and its shard meet: the same thread, never at the same time.
#[derive(Default)]
struct Lobby {
    returned: RefCell<Vec<Returned>>,
    /// Upgrades that hyper is about to answer, by token.
    pending: RefCell<Vec<Option<Promised>>>,
    notify: Notify,
    /// Plain HTTP connections of this shard.
    guests: Cell<usize>,
}

/// What the host needs beside the shard.
#[derive(Debug)]
pub struct Host {
    /// The process's clock.
    pub clock: Clock,
    /// What the shards share.
    pub shared: Arc<Shared>,
    /// What the ring writes to when something happens while the shard sleeps; the main thread too.
    pub eventfd: OwnedFd,
    /// The routes of plain HTTP, without the way back to the shard.
    pub site: Site,
}

/// Runs the shard until its shutdown is complete.
///
/// # Errors
/// Where the eventfd cannot be watched.
pub async fn drive(mut shard: Shard<UringIo>, host: Host) -> std::io::Result<()> {
    let lobby = Rc::new(Lobby::default());
    let id = shard.state.id();
    let reserve = accept_reserve(shard.state.table_slots());
    let doorman = Doorman { lobby: lobby.clone(), shared: host.shared.clone(), id, reserve };
    let site = Rc::new(host.site.with_upgrades(Rc::new(doorman)));
    shard.io.register_eventfd(host.eventfd.as_fd())?;
    let eventfd = watch(host.eventfd)?;
    let mut busy = Busy::start(host.clock.now());
    shard.start();
    loop {
        for returned in lobby.returned.take() {
            let Promised { upgrade, origin } = returned.promised;
            shard.adopt(returned.fd, upgrade, origin, returned.leftover);
        }
        let (now, began) = host.clock.read();
        shard.state.note_beginning(began);
        let next = shard.turn(now);
        if shard.state.wants_end() {
            shard.state.note_end(host.clock.read().1);
        }
        if let Some(percent) = busy.measure(now) {
            shard.state.note_busy(percent);
            shard.state.note_cpu(busy.spent);
        }
        for handoff in std::mem::take(&mut shard.state.handoffs) {
            welcome(handoff, site.clone(), lobby.clone(), host.shared.clone());
        }
        for stranger in std::mem::take(&mut shard.state.turned_away) {
            dismiss(stranger, site.clone(), lobby.clone(), host.shared.clone());
        }
        if shard.state.is_draining() {
            shard.io.close_listeners();
        }
        match next {
            Next::Turn => tokio::task::yield_now().await,
            Next::End => {
                let neighbour = host.shared.neighbour(id);
                neighbour.moved_at.store(ENDED, Ordering::Relaxed);
                return see_off(&lobby, &eventfd, neighbour).await;
            }
            Next::Sleep(until) => sleep(&mut shard, &eventfd, &lobby, host.clock, until).await?,
        }
    }
}

#[expect(deprecated, reason = "what made it unsound is a descriptor closed early: this is owned")]
fn watch(eventfd: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::new(eventfd)
}

async fn sleep(
    shard: &mut Shard<UringIo>,
    eventfd: &AsyncFd<OwnedFd>,
    lobby: &Lobby,
    clock: Clock,
    until: Option<Now>,
) -> std::io::Result<()> {
    let id = shard.state.id();
    let shared = shard.state.shared().clone();
    let bell = shared.mesh.bell(id);
    bell.fall_asleep();
    let has_news = shared.mesh.has_mail(id)
        || shard.state.has_bridge_mail()
        || !shared.neighbour(id).orders.is_empty()
        || !lobby.returned.borrow().is_empty();
    if has_news || !shard.io.prepare_sleep() {
        bell.wake_up();
        tokio::task::yield_now().await;
        return Ok(());
    }
    let woken = tokio::select! {
        ready = eventfd.readable() => ready.map(|mut ready| ready.clear_ready()),
        () = lobby.notify.notified() => Ok(()),
        () = tokio::time::sleep_until(clock.instant(until.unwrap_or_default())),
            if until.is_some() => Ok(()),
    };
    shard.io.wakeups(false);
    bell.wake_up();
    woken
}

/// Serves a plain HTTP connection as a task on this core.
fn welcome(handoff: Handoff, site: Rc<Site>, lobby: Rc<Lobby>, shared: Arc<Shared>) {
    let stream = std::net::TcpStream::from(handoff.fd);
    let visit = async move { serve(stream, handoff.peer, handoff.bytes, site).await };
    receive(visit, lobby, shared);
}

/// Says its last words to a socket for which there was no slot, where plain HTTP has a place.
fn dismiss(stranger: TurnedAway, site: Rc<Site>, lobby: Rc<Lobby>, shared: Arc<Shared>) {
    if !take_one(&shared.http_connections, shared.limits().http_connections) {
        return;
    }
    let stream = std::net::TcpStream::from(stranger.fd);
    let visit = async move { public::dismiss(stream, &stranger.words, site).await };
    receive(visit, lobby, shared);
}

/// Lets a task have its time on this core; it is counted as a plain HTTP connection already.
fn receive(visit: impl Future<Output = ()> + 'static, lobby: Rc<Lobby>, shared: Arc<Shared>) {
    lobby.guests.set(lobby.guests.get() + 1);
    tokio_uring::spawn(async move {
        visit.await;
        shared.http_connections.fetch_sub(1, Ordering::Relaxed);
        lobby.guests.set(lobby.guests.get() - 1);
        lobby.notify.notify_one();
    });
}

/// The shard is done: its plain HTTP finishes what is under way, unless the main thread cuts.
async fn see_off(
    lobby: &Lobby,
    eventfd: &AsyncFd<OwnedFd>,
    neighbour: &Neighbour,
) -> std::io::Result<()> {
    while lobby.guests.get() > 0 {
        if matches!(neighbour.orders.pop(), Some(Order::Cut)) {
            break;
        }
        tokio::select! {
            () = lobby.notify.notified() => {}
            ready = eventfd.readable() => ready?.clear_ready(),
        }
    }
    Ok(())
}

/// Answers upgrades on connections that have carried plain requests (a proxy keeps them alive).
struct Doorman {
    lobby: Rc<Lobby>,
    shared: Arc<Shared>,
    id: crate::id::ShardId,
    /// Slots of the table that are left to what the kernel accepts meanwhile.
    reserve: usize,
}

impl Upgrades for Doorman {
    fn judge(&self, upgrade: Upgrade, client: Option<IpAddr>) -> Result<Accepted, Refusal> {
        let limits = self.shared.limits();
        if upgrade.route == Route::Echo && !limits.echo_enabled {
            let message = "/echo is switched off (echo.enabled = false)";
            return Err(Refusal::new(RefusalKind::EchoDisabled, message));
        }
        let limit = limits.connections_per_address;
        let origin = client.and_then(|address| self.shared.enter(address, limit));
        if client.is_some() && origin.is_none() {
            let message = "too many connections from this address \
                           (limits.connections_per_address); close some or try again later";
            let retry = fastrand::u32(1..=10);
            return Err(Refusal::for_now(RefusalKind::TooManyConnections, message, retry));
        }
        let no_place = |kind: RefusalKind, message: &'static str| {
            self.shared.leave(origin);
            Refusal::for_now(kind, message, fastrand::u32(1..=10))
        };
        if !self.has_slot() {
            let message = "the shard's table of sockets is full; try again later";
            return Err(no_place(RefusalKind::Full, message));
        }
        if let Err((kind, message)) = self.shared.admit(limits.connections_max) {
            return Err(no_place(kind, message));
        }
        let response = accept_response(&upgrade.key, upgrade.protocol.map(Protocol::as_str));
        let mut pending = self.lobby.pending.borrow_mut();
        let free = pending.iter().position(Option::is_none).unwrap_or(pending.len());
        if free == pending.len() {
            pending.push(None);
        }
        pending[free] = Some(Promised { upgrade, origin });
        Ok(Accepted { response, token: free as u64 })
    }

    fn is_crowded(&self) -> bool {
        let taken = self.shared.http_connections.load(Ordering::Relaxed);
        // Rounded up: where there is one place, whoever has it may keep it.
        taken > self.shared.limits().http_connections.div_ceil(2)
    }

    fn taken(&self, token: u64, stream: std::net::TcpStream, leftover: Vec<u8>) {
        let Some(promised) = self.take_pending(token) else { return };
        // The ring's operations wait by themselves; a nonblocking socket would make them fail.
        if stream.set_nonblocking(false).is_err() {
            return self.uncount(&promised);
        }
        let returned = Returned { fd: stream.into(), promised, leftover };
        self.lobby.returned.borrow_mut().push(returned);
        self.lobby.notify.notify_one();
    }

    fn abandoned(&self, token: u64) {
        if let Some(promised) = self.take_pending(token) {
            self.uncount(&promised);
        }
    }

    fn refused(&self, kind: RefusalKind) {
        self.shared.neighbour(self.id).counters.count_refused(kind.index());
    }
}

impl Doorman {
    /// Whether the table will have a slot, as far as its shard knew at its last turn.
    fn has_slot(&self) -> bool {
        let free = self.shared.neighbour(self.id).free_slots.load(Ordering::Relaxed);
        let promised = self.lobby.pending.borrow().iter().flatten().count();
        free > self.reserve + promised + self.lobby.returned.borrow().len()
    }

    fn uncount(&self, promised: &Promised) {
        self.shared.connections.fetch_sub(1, Ordering::Relaxed);
        self.shared.leave(promised.origin);
    }

    fn take_pending(&self, token: u64) -> Option<Promised> {
        let mut pending = self.lobby.pending.borrow_mut();
        pending.get_mut(usize::try_from(token).ok()?)?.take()
    }
}

/// How much of its time the thread has spent on a core.
struct Busy {
    since: Now,
    spent: Duration,
}

impl Busy {
    fn start(now: Now) -> Self {
        Self { since: now, spent: thread_time() }
    }

    /// Percent of the time since the last measure, once that is long enough ago.
    fn measure(&mut self, now: Now) -> Option<usize> {
        let wall = now.since(self.since);
        if wall < BUSY_EVERY {
            return None;
        }
        let spent = thread_time();
        let percent = (spent - self.spent).as_millis() * 100 / wall.as_millis();
        *self = Self { since: now, spent };
        usize::try_from(percent).ok()
    }
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or(0), nanos.unwrap_or(0))
}
