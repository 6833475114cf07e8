//! What the tasks of the bridge's thread share: the cluster, the breaker, the lanes to the shards.
//!
//! In:    mail of shards; envelopes of a session, on whatever thread; sessions that begin and end.
//! Out:   batches for a session; mail and bells for shards; a line of log when the breaker turns.
//! Never: calls a client library, or holds its lock while anybody waits.
//!
//! # Invariants
//! - The lock is held for one envelope, or one batch; it is uncontended where the client library
//!   has no threads of its own.
//! - An inlet whose session is over takes nothing: what comes late never mixes with what is new.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::breaker::{Breaker, State, Step};
use super::cluster::{Cluster, Shards, Speaker, Taken};
use super::status::Status;
use super::{BrokerError, Inlet, Lane, Parcel, Secrets};
use crate::bridge::envelope::{Unreadable, VERSION};
use crate::bridge::{Bridge, Delivery, Inbound, Place};
use crate::id::{RoomKey, ShardId};
use crate::limits::PARTITIONS;
use crate::room::hall::HallId;
use crate::time::{Now, millis};
use crate::warn::Quiet;

/// Messages of one batch: enough to keep a broker busy for its round trip.
pub const BATCH_MESSAGES: usize = 256;
/// Bytes of one batch, beyond which nothing is added: it has one second to be taken.
pub const BATCH_BYTES: usize = 1 << 20;
/// Mails that are taken at a time, messages or not: the lock is not held for longer.
const MAILS_AT_A_TIME: usize = 4 * BATCH_MESSAGES;

/// So long after the last look at the other boxes, it was this process that did not run.
const STOPPED_FOR: Duration = Duration::from_secs(1);

/// Wakes a shard whose lane has got mail.
pub type Ring = Box<dyn Fn(ShardId) + Send + Sync>;

/// The lanes to the shards, and the bells.
struct Lanes<'a> {
    bridge: &'a Bridge,
    ring: &'a Ring,
}

impl Shards for Lanes<'_> {
    fn tell(&self, shard: ShardId, mail: Inbound) -> Result<(), Inbound> {
        self.bridge.tell(shard, mail)?;
        (self.ring)(shard);
        Ok(())
    }
}

/// What is published at a time.
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) parcels: Vec<Parcel>,
    /// Who said the messages among them, in order; only where they may be refused.
    speakers: Vec<Speaker>,
    bytes: usize,
    /// How often the broker has refused it.
    pub(super) refusals: u32,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.parcels.len() >= BATCH_MESSAGES || self.bytes >= BATCH_BYTES
    }

    fn push(&mut self, parcel: Parcel) {
        self.bytes += parcel.envelope.len();
        self.parcels.push(parcel);
    }

    pub(super) fn clear(&mut self) {
        self.parcels.clear();
        self.speakers.clear();
        (self.bytes, self.refusals) = (0, 0);
    }

    pub(super) fn has_messages(&self) -> bool {
        self.parcels.iter().any(Parcel::is_message)
    }

    /// Who said the message of that index; nobody where speakers are not noted.
    fn speaker(&self, index: usize) -> Option<&Speaker> {
        let before = &self.parcels[..index];
        self.speakers.get(before.iter().filter(|parcel| parcel.is_message()).count())
    }

    /// Leaves the messages alone.
    pub(super) fn drop_control(&mut self) {
        self.parcels.retain(Parcel::is_message);
    }
}

/// Rooms that want to know their newest place.
#[derive(Debug, Default)]
pub(super) struct Unplaced {
    pub(super) rooms: RefCell<VecDeque<(RoomKey, HallId)>>,
    pub(super) news: Notify,
}

struct Inner {
    cluster: Cluster,
    breaker: Breaker,
    quiet: Quiet,
    unreadable: Quiet,
    ticked_at: Instant,
}

/// See the module.
pub(super) struct Core {
    pub(super) bridge: Arc<Bridge>,
    pub(super) status: Arc<Status>,
    /// Something for the pump: an envelope for the control lane, a probe, the end.
    pub(super) news: Notify,
    /// The breaker wants to be looked at.
    pub(super) turned: Notify,
    /// Mail waits for room in a shard's lane.
    pub(super) held: Notify,
    ring: Ring,
    secrets: Secrets,
    start: Instant,
    ending: AtomicBool,
    inner: Mutex<Inner>,
}

impl fmt::Debug for Core {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Core").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Core {
    pub(super) fn new(
        bridge: Arc<Bridge>,
        cluster: Cluster,
        status: Arc<Status>,
        ring: Ring,
        secrets: Secrets,
    ) -> Self {
        let start = Instant::now();
        let inner = Inner {
            cluster,
            breaker: Breaker::new(start),
            quiet: Quiet::default(),
            unreadable: Quiet::default(),
            ticked_at: start,
        };
        Self {
            bridge,
            status,
            news: Notify::new(),
            turned: Notify::new(),
            held: Notify::new(),
            ring,
            secrets,
            start,
            ending: AtomicBool::new(false),
            inner: Mutex::new(inner),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lanes(&self) -> Lanes<'_> {
        Lanes { bridge: &self.bridge, ring: &self.ring }
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..).map(ShardId).take(self.bridge.shards())
    }

    fn now(&self, now: Instant) -> Now {
        Now(millis(now.saturating_duration_since(self.start)))
    }

    // --- the end ---------------------------------------------------------------------------------

    pub(super) fn end(&self) {
        self.ending.store(true, Ordering::Release);
        self.news.notify_one();
    }

    pub(super) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Acquire)
    }

    pub(super) fn bye(&self) -> Parcel {
        self.lock().cluster.bye()
    }

    // --- mail ------------------------------------------------------------------------------------

    /// Takes mail of all shards, in turn, and what there is for the control lane.
    pub(super) fn collect(&self, batch: &mut Batch, unplaced: &Unplaced) {
        let now = Instant::now();
        let mut inner = self.lock();
        let Inner { cluster, breaker, .. } = &mut *inner;
        for partition in 0..PARTITIONS {
            cluster.skip(partition, self.bridge.take_skipped(partition));
        }
        let (goes, speaks) = (breaker.is_closed(), breaker.state() != State::Open);
        if let Some(number) = breaker.take_probe(now) {
            batch.push(cluster.probe(number));
            self.turned.notify_one();
        }
        if speaks {
            Self::collect_control(cluster, batch, now);
        }
        self.collect_mail(cluster, batch, unplaced, goes);
        match speaks {
            true => Self::collect_control(cluster, batch, now),
            false => cluster.drop_control(),
        }
        if cluster.holds_mail() {
            self.held.notify_one();
        }
    }

    fn collect_control(cluster: &mut Cluster, batch: &mut Batch, now: Instant) {
        while !batch.is_full()
            && let Some(parcel) = cluster.next_control(now)
        {
            batch.push(parcel);
        }
    }

    fn collect_mail(
        &self,
        cluster: &mut Cluster,
        batch: &mut Batch,
        unplaced: &Unplaced,
        goes: bool,
    ) {
        let lanes = self.lanes();
        let (mut taken, mut before) = (0, None);
        while before != Some(taken) && taken < MAILS_AT_A_TIME {
            before = Some(taken);
            for shard in self.shards() {
                if batch.is_full() {
                    return;
                }
                let Some(mail) = self.bridge.take(shard) else { continue };
                taken += 1;
                self.sort(cluster.take(shard, mail, goes, &lanes), batch, unplaced);
            }
        }
    }

    fn sort(&self, taken: Taken, batch: &mut Batch, unplaced: &Unplaced) {
        match taken {
            Taken::Message(parcel, speaker) => {
                batch.push(parcel);
                if self.bridge.delivery == Delivery::Ordered {
                    batch.speakers.push(speaker);
                }
            }
            Taken::Dropped => self.bridge.count_dropped(),
            Taken::Refused => self.bridge.count_rejected(),
            Taken::Unplaced(key, hall) => {
                unplaced.rooms.borrow_mut().push_back((key, hall));
                unplaced.news.notify_one();
            }
            Taken::Noted => {}
        }
    }

    /// Whether there may be more to collect at once.
    pub(super) fn has_more(&self) -> bool {
        self.bridge.has_outbound() || self.lock().cluster.has_control()
    }

    /// Tells everybody who said something in the batch that it was not taken.
    pub(super) fn refuse(&self, batch: &mut Batch) {
        let mut inner = self.lock();
        for speaker in batch.speakers.drain(..) {
            self.bridge.count_rejected();
            inner.cluster.refuse(speaker, false, &self.lanes());
        }
        drop(inner);
        self.held.notify_one();
        batch.clear();
    }

    /// What becomes of those messages of a batch that the broker will never take. Where members of
    /// this box have heard them, others miss them; where nobody has, their speakers are told.
    pub(super) fn give_up(&self, batch: &Batch, given_up: &[usize]) {
        if given_up.is_empty() {
            return;
        }
        let mut inner = self.lock();
        let is_message = |index: &usize| batch.parcels.get(*index).is_some_and(Parcel::is_message);
        for index in given_up.iter().copied().filter(is_message) {
            match batch.speaker(index) {
                Some(speaker) => {
                    self.bridge.count_rejected();
                    inner.cluster.refuse(speaker.clone(), true, &self.lanes());
                }
                None => self.bridge.count_dropped(),
            }
        }
        drop(inner);
        self.held.notify_one();
    }

    /// Offers what waits for room in shards' lanes; whether anything still does.
    pub(super) fn deliver(&self) -> bool {
        self.lock().cluster.deliver(&self.lanes())
    }

    /// Answers a room that asked for its place.
    pub(super) fn place(&self, key: RoomKey, hall: HallId, place: Option<Place>) {
        let mut inner = self.lock();
        inner.cluster.place(key, hall, place, &self.lanes());
        if inner.cluster.holds_mail() {
            self.held.notify_one();
        }
    }

    // --- the breaker -----------------------------------------------------------------------------

    pub(super) fn is_closed(&self) -> bool {
        self.lock().breaker.is_closed()
    }

    /// A session has begun.
    pub(super) fn connected(&self) {
        let mut inner = self.lock();
        inner.breaker.connected(Instant::now());
        inner.cluster.connected();
        self.status.set_state(State::HalfOpen, inner.breaker.since());
    }

    /// The session has failed, or the attempt to have one; how long to wait before the next.
    pub(super) fn failed(&self, error: &BrokerError) -> Duration {
        let now = Instant::now();
        let reason = self.secrets.hide(&error.0);
        let mut inner = self.lock();
        self.bridge.set_closed(false);
        let was_closed = inner.breaker.failed(now);
        self.status.set_state(State::Open, inner.breaker.since());
        inner.cluster.drop_control();
        inner.cluster.place_all(&self.lanes());
        let is_new = self.status.set_error(reason.clone());
        let may_say = if was_closed || is_new { inner.quiet.allow(self.now(now)) } else { None };
        let wait = inner.breaker.backoff(fastrand::f64());
        drop(inner);
        if may_say.is_some() {
            self.say_lost(&reason);
        }
        self.held.notify_one();
        wait
    }

    fn say_lost(&self, reason: &str) {
        let until = match self.bridge.delivery {
            Delivery::LocalFirst => "rooms go on here, and other boxes do not hear them",
            Delivery::Ordered => "what is said in rooms is refused with `unavailable`",
        };
        tracing::warn!(
            broker = self.secrets.shown(),
            reason,
            "no broker: {until} until it is back; it is tried again all the time, so see to the \
             broker, or to broker.url"
        );
    }

    /// Looks at the breaker.
    pub(super) fn step(&self, now: Instant) -> Step {
        let mut inner = self.lock();
        let down = now.saturating_duration_since(inner.breaker.since());
        let step = inner.breaker.step(now);
        if step == Step::Closed {
            inner.cluster.resume(now);
            self.status.set_state(State::Closed, now);
            self.bridge.set_closed(true);
            drop(inner);
            let boxes = self.status.report(&self.bridge).nodes;
            tracing::info!(broker = self.secrets.shown(), ?down, boxes, "the broker is there");
            self.news.notify_one();
        }
        step
    }

    /// Time has passed.
    pub(super) fn tick(&self) {
        let now = Instant::now();
        let mut inner = self.lock();
        let late = now.saturating_duration_since(std::mem::replace(&mut inner.ticked_at, now));
        if late > STOPPED_FOR {
            // It was this process that stood still (stopped, or its machine paused): the others'
            // signs of life wait to be read.
            inner.cluster.resume(now);
        }
        let hears = inner.breaker.is_closed();
        inner.cluster.tick(now, hears, &self.lanes());
        if inner.cluster.has_control() {
            self.news.notify_one();
        }
        if inner.cluster.holds_mail() {
            self.held.notify_one();
        }
    }

    // --- envelopes -------------------------------------------------------------------------------

    fn receive(&self, lane: Lane, envelope: &[u8]) {
        let now = Instant::now();
        let mut inner = self.lock();
        let read = inner.cluster.receive(lane, envelope, now, &self.lanes());
        match read {
            Ok(Some(probe)) => {
                if let Some(round_trip) = inner.breaker.probe_back(probe, now) {
                    self.status.set_round_trip(round_trip);
                    self.turned.notify_one();
                }
            }
            Ok(None) => {}
            Err(why) => self.pass_over(&mut inner, why, now),
        }
        if lane == Lane::Control {
            if inner.cluster.has_control() {
                self.news.notify_one();
            }
            if inner.cluster.holds_mail() {
                self.held.notify_one();
            }
        }
    }

    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool {
        let mut inner = self.lock();
        match inner.cluster.receive_placed(partition, place, envelope, &self.lanes()) {
            Ok(is_taken) => is_taken,
            Err(why) => {
                self.pass_over(&mut inner, why, Instant::now());
                true
            }
        }
    }

    fn pass_over(&self, inner: &mut Inner, why: Unreadable, now: Instant) {
        self.status.counts.unreadable.fetch_add(1, Ordering::Relaxed);
        let Some(suppressed) = inner.unreadable.allow(self.now(now)) else { return };
        match why {
            Unreadable::Version(version) => tracing::warn!(
                version,
                ours = VERSION,
                suppressed,
                "another version of Ringhall uses this broker: bring all boxes to one version, or \
                 give each cluster a broker.prefix of its own"
            ),
            Unreadable::Malformed => tracing::warn!(
                suppressed,
                "something else publishes where the boxes talk to each other: choose another \
                 broker.prefix"
            ),
        }
    }
}

/// Where one session puts what it receives.
pub(super) struct SessionInlet {
    core: Arc<Core>,
    is_open: AtomicBool,
}

impl SessionInlet {
    pub(super) fn new(core: Arc<Core>) -> Arc<Self> {
        Arc::new(Self { core, is_open: AtomicBool::new(true) })
    }

    pub(super) fn close(&self) {
        self.is_open.store(false, Ordering::Release);
    }
}

impl Inlet for SessionInlet {
    fn receive(&self, lane: Lane, envelope: &[u8]) {
        if self.is_open.load(Ordering::Acquire) {
            self.core.receive(lane, envelope);
        }
    }

    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool {
        self.is_open.load(Ordering::Acquire) && self.core.receive_placed(partition, place, envelope)
    }

    fn count_reread(&self) {
        self.core.status.counts.rereads.fetch_add(1, Ordering::Relaxed);
    }
}
