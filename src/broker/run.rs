//! The bridge's thread: connects, pumps, probes, and begins again.
//!
//! In:    an engine; what the shards have for other boxes; the wish to end.
//! Out:   sessions, one after another; batches published; a farewell.
//! Never: calls a client library while the breaker is open, or has two batches under way.
//!
//! ```text
//!  supervise: connect -> serve (session.lost | pump | clockwork | place_rooms) -> back off -> ...
//!  keep_time: signs of life, deaths          deliver: mail that found a lane full
//! ```

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};

use super::breaker::{PROBE_EVERY, PROBE_TIMEOUT, Step};
use super::cluster::Cluster;
use super::shared::{Batch, Core, Ring, SessionInlet, Unplaced};
use super::status::Status;
use super::{BrokerError, CONNECT_TIMEOUT, Engine, GivenUp, PUBLISH_TIMEOUT, Secrets, Session};
use crate::bridge::envelope::Node;
use crate::bridge::{Bridge, Delivery};

/// How often boxes are looked at that may be dead, and one's own heartbeat.
const TICK: Duration = Duration::from_millis(250);
/// Pause before mail is offered to a full lane again.
const LANE_RETRY: Duration = Duration::from_millis(1);
/// Rooms whose place is asked for at a time.
const PLACES_MAX: usize = 64;
/// How long the last messages and the farewell may take.
pub const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the thread may take to end on top of that.
const END_TIMEOUT: Duration = Duration::from_secs(2);
/// A batch of unknown fate is published again; after so many refusals in a row it is the batch that
/// is wrong, and its speakers are told.
const REFUSALS_MAX: u32 = 5;

/// What the thread is made with.
pub struct Setup {
    /// The lanes.
    pub bridge: Arc<Bridge>,
    /// This process among its peers.
    pub node: Node,
    /// What people call it.
    pub name: String,
    /// `broker.url`, for what is shown of it.
    pub url: String,
    /// Wakes a shard that has got mail.
    pub ring: Ring,
}

/// The running thread.
#[derive(Debug)]
pub struct Running {
    /// What people are told.
    pub status: Arc<Status>,
    core: Arc<Core>,
    over: oneshot::Receiver<()>,
}

/// How a session came to its end.
enum End {
    /// It has failed.
    Failed(BrokerError),
    /// The thread shall end.
    Asked,
}

/// Starts the thread; `make` makes the engine on it.
///
/// # Errors
/// Where the engine cannot be made, or the thread.
pub fn start(
    setup: Setup,
    make: impl FnOnce() -> Result<Box<dyn Engine>, BrokerError> + Send + 'static,
) -> Result<Running, BrokerError> {
    let (made, is_made) = channel();
    let (over_sender, over) = oneshot::channel();
    let thread = std::thread::Builder::new().name("bridge".to_owned());
    let spawned = thread.spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = BrokerError(format!("cannot set up the bridge's runtime: {error}"));
                return drop(made.send(Err(error)));
            }
        };
        // Client libraries may want a runtime around them from the start.
        let _inside = runtime.enter();
        let engine = match make() {
            Ok(engine) => engine,
            Err(error) => return drop(made.send(Err(error))),
        };
        let core = Arc::new(new_core(setup, engine.kind()));
        let _told = made.send(Ok(core.clone()));
        tokio::task::LocalSet::new().block_on(&runtime, run(core, engine));
        let _told = over_sender.send(());
    });
    spawned.map_err(|error| {
        let remedy = crate::remedy::remedy(&error);
        BrokerError(format!("cannot start the bridge's thread: {error}{remedy}"))
    })?;
    let core =
        is_made.recv().map_err(|_| BrokerError("the bridge's thread has ended".into()))??;
    Ok(Running { status: core.status.clone(), core, over })
}

fn new_core(setup: Setup, kind: &'static str) -> Core {
    let Setup { bridge, node, name, url, ring } = setup;
    let status = Arc::new(Status::new(kind));
    let (delivery, shards) = (bridge.delivery, bridge.shards());
    let cluster = Cluster::new(node, &name, delivery, shards, status.clone());
    Core::new(bridge, cluster, status, ring, Secrets::of(&url))
}

impl Running {
    /// Sends what the shards have left, says farewell and ends; bounded in time.
    pub async fn end(self) {
        self.core.end();
        if timeout(FLUSH_TIMEOUT + END_TIMEOUT, self.over).await.is_err() {
            tracing::warn!("the bridge did not end in time: other boxes find out by its silence");
        }
    }
}

async fn run(core: Arc<Core>, engine: Box<dyn Engine>) {
    tokio::select! {
        () = supervise(&core, &*engine) => {}
        () = keep_time(&core) => {}
        () = deliver(&core) => {}
    }
}

/// Signs of life, and deaths.
async fn keep_time(core: &Core) {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        core.tick();
    }
}

/// Mail that found a shard's lane full.
async fn deliver(core: &Core) {
    loop {
        core.held.notified().await;
        while core.deliver() {
            sleep(LANE_RETRY).await;
        }
    }
}

/// One session after another.
async fn supervise(core: &Arc<Core>, engine: &dyn Engine) {
    let mut kept = Batch::default();
    loop {
        let inlet = SessionInlet::new(core.clone());
        let attempt = timeout(CONNECT_TIMEOUT, engine.connect(inlet.clone()));
        let outcome = tokio::select! {
            outcome = attempt => outcome,
            () = go_without(core) => return,
        };
        let error = match outcome {
            Ok(Ok(session)) => match serve(core, &*session, &mut kept).await {
                End::Asked => return,
                End::Failed(error) => error,
            },
            Ok(Err(error)) => error,
            Err(_) => BrokerError(format!(
                "no connection within {CONNECT_TIMEOUT:?}: does broker.url name the right host, \
                 and does the broker answer?"
            )),
        };
        inlet.close();
        let wait = core.failed(&error);
        tokio::select! {
            () = sleep(wait) => {}
            () = go_without(core) => return,
        }
    }
}

/// Takes the shards' mail while there is no session, until the end.
async fn go_without(core: &Core) {
    let (mut nothing, unplaced) = (Batch::default(), Unplaced::default());
    loop {
        core.collect(&mut nothing, &unplaced);
        if core.is_ending() && !core.bridge.has_outbound() {
            return;
        }
        wait(core).await;
    }
}

async fn wait(core: &Core) {
    tokio::select! {
        () = core.bridge.mail() => {}
        () = core.news.notified() => {}
    }
}

/// One session, from its first probe to its end.
async fn serve(core: &Core, session: &dyn Session, kept: &mut Batch) -> End {
    core.connected();
    let unplaced = Unplaced::default();
    let mut batch = Batch::default();
    let end = tokio::select! {
        error = session.lost() => End::Failed(error),
        end = pump(core, session, &mut batch, kept, &unplaced) => end,
        error = clockwork(core) => End::Failed(error),
        () = place_rooms(core, session, &unplaced) => End::Asked,
        () = too_late(core) => End::Asked,
    };
    // A session can be lost amid a publish.
    set_aside(core, &mut batch, kept);
    end
}

/// What becomes of a batch of which nobody knows whether the broker has taken it.
fn set_aside(core: &Core, batch: &mut Batch, kept: &mut Batch) {
    batch.drop_control();
    if batch.parcels.is_empty() {
        return;
    }
    match core.bridge.delivery {
        Delivery::LocalFirst => core.status.count_unconfirmed(batch.parcels.len() as u64),
        Delivery::Ordered => *kept = std::mem::take(batch),
    }
    batch.clear();
}

/// The end has been asked for, and has taken its time.
async fn too_late(core: &Core) {
    while !core.is_ending() {
        sleep(TICK).await;
    }
    sleep(FLUSH_TIMEOUT).await;
}

/// Publishes what there is, one batch at a time.
async fn pump(
    core: &Core,
    session: &dyn Session,
    batch: &mut Batch,
    kept: &mut Batch,
    unplaced: &Unplaced,
) -> End {
    loop {
        if !kept.parcels.is_empty() && core.is_closed() {
            match publish(session, kept).await {
                Ok(given_up) => core.give_up(kept, &given_up),
                Err(error) => {
                    retry_or_refuse(core, kept, &error);
                    return End::Failed(error.into());
                }
            }
            kept.clear();
        }
        core.collect(batch, unplaced);
        if batch.parcels.is_empty() {
            if core.is_ending() && !core.has_more() {
                let bye = [core.bye()];
                let _told = timeout(PUBLISH_TIMEOUT, session.publish(&bye)).await;
                return End::Asked;
            }
            if !core.has_more() {
                wait(core).await;
            }
        } else {
            match publish(session, batch).await {
                Ok(given_up) => core.give_up(batch, &given_up),
                Err(error) => {
                    // A probe that is refused says nothing about what is kept.
                    if batch.has_messages() {
                        set_aside(core, batch, kept);
                        retry_or_refuse(core, kept, &error);
                    }
                    return End::Failed(error.into());
                }
            }
        }
        batch.clear();
        // A broker that answers at once must not keep the probes waiting.
        tokio::task::consume_budget().await;
    }
}

/// Why a batch was not taken.
enum Unpublished {
    Refused(BrokerError),
    Late,
}

impl From<Unpublished> for BrokerError {
    fn from(why: Unpublished) -> Self {
        match why {
            Unpublished::Refused(error) => error,
            Unpublished::Late => Self(format!(
                "the broker did not take a batch within {PUBLISH_TIMEOUT:?}: it hangs, or is \
                 overloaded"
            )),
        }
    }
}

async fn publish(session: &dyn Session, batch: &Batch) -> Result<GivenUp, Unpublished> {
    match timeout(PUBLISH_TIMEOUT, session.publish(&batch.parcels)).await {
        Ok(Ok(given_up)) => Ok(given_up),
        Ok(Err(error)) => Err(Unpublished::Refused(error)),
        Err(_) => Err(Unpublished::Late),
    }
}

/// The next session publishes the batch again, unless the broker has refused it too often.
fn retry_or_refuse(core: &Core, kept: &mut Batch, error: &Unpublished) {
    if let Unpublished::Refused(_) = error {
        kept.refusals += 1;
        if kept.refusals >= REFUSALS_MAX {
            core.status.count_unconfirmed(kept.parcels.len() as u64);
            core.refuse(kept);
        }
    }
}

/// Probes, and what comes of them.
async fn clockwork(core: &Core) -> BrokerError {
    loop {
        let now = Instant::now();
        let until = match core.step(now) {
            Step::Silent => {
                return BrokerError(format!(
                    "a probe did not come back within {PROBE_TIMEOUT:?}: the broker hangs, or no \
                     longer delivers to its subscribers"
                ));
            }
            Step::Probe => {
                core.news.notify_one();
                now + PROBE_EVERY
            }
            Step::Closed => continue,
            Step::Wait(until) => until,
        };
        tokio::select! {
            () = sleep_until(until.into()) => {}
            () = core.turned.notified() => {}
        }
    }
}

/// Asks the broker for the newest places of rooms.
async fn place_rooms(core: &Core, session: &dyn Session, unplaced: &Unplaced) {
    let mut under_way = FuturesUnordered::new();
    loop {
        while under_way.len() < PLACES_MAX {
            let Some((key, hall)) = unplaced.rooms.borrow_mut().pop_front() else { break };
            under_way.push(async move {
                let place = timeout(PUBLISH_TIMEOUT, session.place(&key)).await;
                (key, hall, place)
            });
        }
        tokio::select! {
            Some((key, hall, place)) = under_way.next() => {
                let place = match place {
                    Ok(Ok(place)) => Some(place),
                    Ok(Err(error)) => {
                        tracing::debug!(room = %key, %error, "the broker has no place for a room");
                        None
                    }
                    Err(_) => None,
                };
                core.place(key, hall, place);
            }
            () = unplaced.news.notified() => {}
        }
    }
}
