//! What the tests of the Redis engine share: an inlet that remembers, boxes, messages.
//!
//! In:    URLs; what a test publishes.
//! Out:   what came back, or a panic that says what did not come.
//! Never: waits without a deadline.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use ringhall::bridge::envelope::{self, Node, Said};
use ringhall::bridge::{Delivery, Place};
use ringhall::broker::{BrokerError, Engine, Inlet, Lane, Options, Parcel, Session};
use ringhall::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use ringhall::ws::frame::Opcode;
use tokio::sync::Notify;

use crate::support::DEADLINE;

/// An envelope that came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Came {
    pub lane: Lane,
    pub place: Option<Place>,
    pub envelope: Vec<u8>,
}

impl Came {
    /// The sender's sequence.
    pub fn sequence(&self) -> u64 {
        envelope::sender(&self.envelope).expect("an envelope").1
    }

    /// The offset of its place.
    pub fn offset(&self) -> u64 {
        self.place.as_ref().expect("it came in order").offset
    }

    /// The room in which it was said.
    pub fn room(&self) -> String {
        match envelope::read(&self.envelope).expect("an envelope").body {
            envelope::Body::Said(said) => said.room.to_owned(),
            other => panic!("not said: {other:?}"),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    came: Vec<Came>,
    /// Offers that were refused.
    refused: usize,
    /// The one partition that takes nothing.
    blocked: Option<usize>,
}

/// Remembers what comes.
#[derive(Debug, Default)]
pub struct Heard {
    state: Mutex<State>,
    changed: Notify,
}

impl Heard {
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_waiters();
        result
    }

    /// From now on a partition takes nothing, or all take everything.
    pub fn block(&self, partition: Option<usize>) {
        self.change(|state| state.blocked = partition);
    }

    /// What has come and was not given out yet.
    pub fn take(&self) -> Vec<Came> {
        self.change(|state| std::mem::take(&mut state.came))
    }

    async fn wait(&self, what: &str, mut holds: impl FnMut(&State) -> bool) {
        let waited = tokio::time::timeout(DEADLINE, async {
            loop {
                let changed = self.changed.notified();
                if self.change_silently(&mut holds) {
                    return;
                }
                changed.await;
            }
        });
        let came = |heard: &Self| heard.change_silently(|state| state.came.len());
        assert!(waited.await.is_ok(), "did not come: {what}; {} came", came(self));
    }

    fn change_silently<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Waits until so many have come, and gives them out.
    pub async fn next(&self, count: usize) -> Vec<Came> {
        self.wait(&format!("{count} envelopes"), |state| state.came.len() >= count).await;
        let came = self.take();
        assert_eq!(came.len(), count, "more came than was said");
        came
    }

    /// Waits until an envelope with this sequence has come, and leaves it there.
    pub async fn hears(&self, sequence: u64) {
        self.wait(&format!("sequence {sequence}"), |state| {
            state.came.iter().any(|came| came.sequence() == sequence)
        })
        .await;
    }

    /// Waits until an envelope was refused.
    pub async fn refused(&self) {
        self.wait("a refused envelope", |state| state.refused > 1).await;
    }
}

impl Inlet for Heard {
    fn receive(&self, lane: Lane, envelope: &[u8]) {
        let came = Came { lane, place: None, envelope: envelope.to_vec() };
        self.change(|state| state.came.push(came));
    }

    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool {
        let lane = Lane::Partition(partition);
        let came = Came { lane, place: Some(place), envelope: envelope.to_vec() };
        self.change(|state| {
            let taken = state.blocked != Some(partition);
            if taken {
                state.came.push(came);
            } else {
                state.refused += 1;
            }
            taken
        })
    }
}

/// A box: an engine, and what it heard over all its sessions.
pub struct Box {
    pub node: Node,
    engine: std::boxed::Box<dyn Engine>,
    pub heard: Arc<Heard>,
}

/// How engines of a test are made.
pub fn options(url: &str, delivery: Delivery) -> Options {
    Options {
        url: url.to_owned(),
        delivery,
        prefix: "ringhall".to_owned(),
        ca: None,
        node: Node { id: 1, incarnation: 1 },
        keep: Duration::from_secs(300),
    }
}

impl Box {
    pub fn new(id: u64, options: Options) -> Self {
        let node = Node { id, incarnation: 1 };
        let engine = ringhall::broker::redis::engine(&Options { node, ..options });
        let engine = engine.unwrap_or_else(|error| panic!("{error}"));
        Self { node, engine, heard: Arc::default() }
    }

    pub async fn try_connect(&self) -> Result<std::boxed::Box<dyn Session>, BrokerError> {
        let inlet = Arc::clone(&self.heard) as Arc<dyn Inlet>;
        let connect = self.engine.connect(inlet);
        tokio::time::timeout(DEADLINE, connect).await.expect("connecting is bounded")
    }

    /// A session.
    pub async fn connect(&self) -> std::boxed::Box<dyn Session> {
        self.try_connect().await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// A session as soon as there can be one.
    pub async fn connect_again(&self) -> std::boxed::Box<dyn Session> {
        let tried = tokio::time::timeout(DEADLINE, async {
            loop {
                match self.try_connect().await {
                    Ok(session) => return session,
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        tried.await.expect("the broker is back")
    }

    /// Why there can be no session.
    pub async fn refusal(&self) -> String {
        match self.try_connect().await {
            Ok(_) => panic!("it connected"),
            Err(error) => error.0,
        }
    }

    /// Something said in a JSON room.
    pub fn says(&self, room: &str, sequence: u64) -> Parcel {
        self.says_in(Mode::Json, room, sequence)
    }

    pub fn says_in(&self, mode: Mode, room: &str, sequence: u64) -> Parcel {
        let conn = ConnId { slot: 1, generation: 1 };
        let said = Said {
            mode,
            opcode: Opcode::Text,
            speaker: ConnKey { shard: ShardId(0), conn },
            room,
            user: "ann",
            content: &[b'7'; 128],
        };
        let lane = Lane::Partition(envelope::partition(room));
        self.stamped(lane, envelope::said(&said), sequence)
    }

    /// A probe.
    pub fn probe(&self, sequence: u64) -> Parcel {
        self.stamped(Lane::Control, envelope::probe(), sequence)
    }

    fn stamped(&self, lane: Lane, mut bytes: Vec<u8>, sequence: u64) -> Parcel {
        envelope::stamp(&mut bytes, self.node, sequence);
        Parcel { lane, envelope: Bytes::from(bytes) }
    }
}

/// Publishes within the deadline.
pub async fn publish(session: &dyn Session, parcels: &[Parcel]) {
    let published = tokio::time::timeout(DEADLINE, session.publish(parcels)).await;
    published.expect("in time").unwrap_or_else(|error| panic!("{error}"));
}

/// Waits until a session is over.
pub async fn lost(session: &dyn Session) -> String {
    tokio::time::timeout(DEADLINE, session.lost()).await.expect("the session is over").0
}

/// A room's key.
pub fn room(mode: Mode, name: &str) -> RoomKey {
    RoomKey { mode, name: name.into() }
}

/// Runs a test as the bridge's thread runs engines.
pub fn on_bridge<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, test);
}
