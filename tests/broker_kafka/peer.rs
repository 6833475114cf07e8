//! A box as the engine sees it: an inlet that writes down what comes, and words to publish.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringhall::bridge::envelope::{self, Body, Node, Said};
use ringhall::bridge::{Delivery, Place};
use ringhall::broker::kafka::engine;
use ringhall::broker::{
    BrokerError, CONNECT_TIMEOUT, Engine, GivenUp, Inlet, Lane, Options, PUBLISH_TIMEOUT, Parcel,
    Session,
};
use ringhall::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use ringhall::limits::PARTITIONS;
use ringhall::ws::frame::Opcode;

use crate::support::DEADLINE;

/// Longest that a test may take.
const TEST_DEADLINE: Duration = Duration::from_secs(60);
/// Pause between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(2);

/// Runs a test as the bridge runs an engine: one thread, one runtime, tasks of its own.
pub fn local<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    let bounded = async { tokio::time::timeout(TEST_DEADLINE, test).await };
    tasks.block_on(&runtime, bounded).expect("the test ends in time")
}

/// Looks again and again until the condition holds.
#[track_caller]
pub fn until(what: &str, condition: impl FnMut() -> bool) -> impl Future<Output = ()> {
    within(DEADLINE, what, condition)
}

/// As [`until`], with a deadline that is part of the promise.
#[track_caller]
pub fn within(
    deadline: Duration,
    what: &str,
    mut condition: impl FnMut() -> bool,
) -> impl Future<Output = ()> {
    let caller = std::panic::Location::caller();
    async move {
        let end = Instant::now() + deadline;
        while !condition() {
            assert!(Instant::now() < end, "{caller}: not within {deadline:?}: {what}");
            tokio::time::sleep(GLANCE).await;
        }
    }
}

/// Something that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    pub lane: Option<usize>,
    pub place: Option<Place>,
    pub from: u64,
    pub sequence: u64,
    pub text: String,
}

#[derive(Debug, Default)]
struct Notes {
    heard: Vec<Heard>,
    /// How many more a partition's shard has room for, where it is bounded.
    room: HashMap<usize, usize>,
    rereads: usize,
}

/// Writes down what comes.
#[derive(Debug, Default)]
pub struct Ear(Mutex<Notes>);

impl Ear {
    fn lock(&self) -> MutexGuard<'_, Notes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Everything so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.lock().heard.clone()
    }

    pub fn count(&self) -> usize {
        self.lock().heard.len()
    }

    /// What came by a partition.
    pub fn texts(&self, partition: usize) -> Vec<String> {
        let heard = self.heard().into_iter().filter(|heard| heard.lane == Some(partition));
        heard.map(|heard| heard.text).collect()
    }

    /// What came by a partition, without what came before: as the cluster's receivers do it.
    pub fn fresh(&self, partition: usize) -> Vec<String> {
        let mut last = HashMap::new();
        let mut heard = self.heard();
        heard.retain(|heard| heard.lane == Some(partition));
        heard.retain(|heard| {
            let last = last.entry(heard.from).or_insert(0);
            let fresh = heard.sequence > *last;
            *last = heard.sequence.max(*last);
            fresh
        });
        heard.into_iter().map(|heard| heard.text).collect()
    }

    /// How often a log was read again for what it did not show yet.
    pub fn rereads(&self) -> usize {
        self.lock().rereads
    }

    /// From now on a partition has room for so many.
    pub fn give_room(&self, partition: usize, count: usize) {
        self.lock().room.insert(partition, count);
    }

    fn note(&self, lane: Lane, place: Option<Place>, bytes: &[u8]) {
        let read = envelope::read(bytes).expect("an envelope");
        let Body::Said(said) = read.body else { panic!("{:?} is nothing said", read.body) };
        let text = String::from_utf8(said.content.to_vec()).expect("text");
        let lane = match lane {
            Lane::Partition(partition) => Some(partition),
            Lane::Control => None,
        };
        let (from, sequence) = (read.node.id, read.sequence);
        self.lock().heard.push(Heard { lane, place, from, sequence, text });
    }
}

impl Inlet for Ear {
    fn receive(&self, lane: Lane, envelope: &[u8]) {
        self.note(lane, None, envelope);
    }

    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool {
        if let Some(room) = self.lock().room.get_mut(&partition) {
            let Some(left) = room.checked_sub(1) else { return false };
            *room = left;
        }
        self.note(Lane::Partition(partition), Some(place), envelope);
        true
    }

    fn count_reread(&self) {
        self.lock().rereads += 1;
    }
}

/// A box: its engine, what it heard, its sequences.
pub struct Peer {
    engine: Box<dyn Engine>,
    pub ear: Arc<Ear>,
    node: Node,
    sequences: RefCell<HashMap<usize, u64>>,
}

/// What a box named `id` is made with.
pub fn options(url: &str, delivery: Delivery, id: u64) -> Options {
    Options {
        url: url.to_owned(),
        delivery,
        prefix: "test".to_owned(),
        ca: None,
        node: Node { id, incarnation: 1 },
        keep: Duration::from_secs(60),
    }
}

impl Peer {
    pub fn new(url: &str, delivery: Delivery, id: u64) -> Self {
        Self::with(&options(url, delivery, id))
    }

    pub fn with(options: &Options) -> Self {
        let engine = engine(options).expect("options that make an engine");
        let (ear, sequences) = (Arc::default(), RefCell::default());
        Self { engine, ear, node: options.node, sequences }
    }

    /// One attempt.
    pub async fn try_connect(&self) -> Result<Box<dyn Session>, BrokerError> {
        let inlet = Arc::clone(&self.ear) as Arc<dyn Inlet>;
        let attempt = tokio::time::timeout(CONNECT_TIMEOUT, self.engine.connect(inlet)).await;
        attempt.unwrap_or_else(|_| Err(BrokerError("CONNECT_TIMEOUT".to_owned())))
    }

    /// The attempt that has to succeed.
    pub async fn connect(&self) -> Box<dyn Session> {
        self.try_connect().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// As many attempts as it takes, while a broker comes up.
    pub async fn reconnect(&self) -> Box<dyn Session> {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.try_connect().await {
                Ok(session) => return session,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Something said in a room of a partition.
    pub fn words(&self, partition: usize, text: &str) -> Parcel {
        Parcel { lane: Lane::Partition(partition), envelope: self.stamped(partition, text) }
    }

    /// Something on the control lane.
    pub fn control(&self, text: &str) -> Parcel {
        Parcel { lane: Lane::Control, envelope: self.stamped(PARTITIONS, text) }
    }

    fn stamped(&self, lane: usize, text: &str) -> bytes::Bytes {
        let conn = ConnId { slot: 0, generation: 0 };
        let mut words = envelope::said(&Said {
            mode: Mode::Json,
            opcode: Opcode::Text,
            speaker: ConnKey { shard: ShardId(0), conn },
            room: "room",
            user: "user",
            content: text.as_bytes(),
        });
        let mut sequences = self.sequences.borrow_mut();
        let sequence = sequences.entry(lane).or_insert(0);
        *sequence += 1;
        envelope::stamp(&mut words, self.node, *sequence);
        words.into()
    }
}

/// Publishes as the bridge does: what takes longer than [`PUBLISH_TIMEOUT`] is given up.
pub async fn publish(session: &dyn Session, parcels: &[Parcel]) -> Result<GivenUp, BrokerError> {
    let published = tokio::time::timeout(PUBLISH_TIMEOUT, session.publish(parcels)).await;
    published.unwrap_or_else(|_| Err(BrokerError("PUBLISH_TIMEOUT".to_owned())))
}

/// A room whose partition is this one.
pub fn room_of(partition: usize) -> RoomKey {
    let names = (0..).map(|number| format!("room-{number}"));
    let mut names = names.filter(|name| envelope::partition(name) == partition);
    RoomKey { mode: Mode::Json, name: names.next().expect("one of them").into() }
}
