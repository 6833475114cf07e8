//! The far end of an engine: an inlet that keeps what it hears.
//!
//! In:    what a session receives.
//! Out:   all of it, in order; a wait until something is there.
//! Never: waits without a deadline.
#![allow(dead_code, reason = "each engine's tests use their part of this")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ringhall::bridge::envelope::{self, Node};
use ringhall::bridge::{Delivery, Place};
use ringhall::broker::{BrokerError, Engine, Inlet, Lane, Options, Parcel, Session};
use tokio::sync::Notify;

use crate::support::DEADLINE;

/// Something heard.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub lane: Lane,
    pub place: Option<Place>,
    pub envelope: Vec<u8>,
}

impl Heard {
    /// The sender's sequence.
    pub fn sequence(&self) -> u64 {
        envelope::sender(&self.envelope).expect("an envelope of a test").1
    }

    /// The offset.
    pub fn offset(&self) -> u64 {
        self.place.as_ref().expect("ordered").offset
    }
}

/// Keeps what a session receives.
#[derive(Debug, Default)]
pub struct Ear {
    heard: Mutex<Vec<Heard>>,
    news: Notify,
    full: AtomicBool,
}

impl Ear {
    /// An ear that has room.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Heard>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, heard: Heard) {
        self.lock().push(heard);
        self.news.notify_one();
    }

    /// Whether it takes what comes from a log.
    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
    }

    /// All that was heard so far.
    pub fn heard(&self) -> Vec<Heard> {
        self.lock().clone()
    }

    /// Sequences heard on a lane, in order.
    pub fn sequences(&self, lane: Lane) -> Vec<u64> {
        self.lock().iter().filter(|heard| heard.lane == lane).map(Heard::sequence).collect()
    }

    /// Waits until so many have been heard in all.
    pub async fn wait(&self, count: usize) {
        let heard = async {
            while self.lock().len() < count {
                self.news.notified().await;
            }
        };
        let in_time = tokio::time::timeout(DEADLINE, heard).await.is_ok();
        assert!(in_time, "heard {} of {count}", self.lock().len());
    }
}

impl Inlet for Ear {
    fn receive(&self, lane: Lane, envelope: &[u8]) {
        self.keep(Heard { lane, place: None, envelope: envelope.to_vec() });
    }

    fn receive_placed(&self, partition: usize, place: Place, envelope: &[u8]) -> bool {
        if self.full.load(Ordering::SeqCst) {
            return false;
        }
        let lane = Lane::Partition(partition);
        self.keep(Heard { lane, place: Some(place), envelope: envelope.to_vec() });
        true
    }
}

/// What an engine of the box with that number is made with.
pub fn options(url: &str, delivery: Delivery, number: u64) -> Options {
    Options {
        url: url.to_owned(),
        delivery,
        prefix: "ringhall".into(),
        ca: None,
        node: Node { id: number, incarnation: 7 },
        keep: Duration::from_secs(3600),
    }
}

/// A parcel of the box with that number.
pub fn parcel(lane: Lane, number: u64, sequence: u64) -> Parcel {
    let mut envelope = envelope::probe();
    envelope::stamp(&mut envelope, Node { id: number, incarnation: 7 }, sequence);
    envelope.resize(128, b'.');
    Parcel { lane, envelope: envelope.into() }
}

/// How many batches of 256 a test of order publishes: `BATCHES`, or few. With many, what it says of
/// its pace means something.
pub fn batches() -> u64 {
    std::env::var("BATCHES").ok().and_then(|count| count.parse().ok()).unwrap_or(40)
}

/// Says how fast so many batches went.
#[expect(clippy::print_stdout, reason = "for whoever runs the test by hand")]
pub fn tell_pace(what: &str, batches: u64, since: Instant) {
    let per_second = Duration::from_secs(batches * 256).div_duration_f64(since.elapsed());
    println!("{what}: {per_second:.0} messages/s");
}

/// Awaits something that has to happen.
#[track_caller]
pub fn within<T>(what: &str, future: impl Future<Output = T>) -> impl Future<Output = T> {
    let what = format!("{what}, at {}", std::panic::Location::caller());
    async move {
        let done = tokio::time::timeout(DEADLINE, future).await;
        done.unwrap_or_else(|_| panic!("not within {DEADLINE:?}: {what}"))
    }
}

/// A session of the engine, which has to come about.
pub async fn connect(engine: &dyn Engine, ear: &Arc<Ear>) -> Box<dyn Session> {
    within("connect", engine.connect(ear.clone())).await.expect("a session")
}

/// The error of an engine whose connect has to fail.
pub async fn refusal(engine: &dyn Engine) -> String {
    match within("a refusal", engine.connect(Ear::new())).await {
        Ok(_) => panic!("a session, where a refusal was expected"),
        Err(BrokerError(error)) => error,
    }
}

/// Connects again and again until the server lets it: it has just been started.
pub async fn reconnect(engine: &dyn Engine, ear: &Arc<Ear>) -> Box<dyn Session> {
    let trying = async {
        loop {
            if let Ok(session) = engine.connect(ear.clone()).await {
                return session;
            }
            tokio::task::yield_now().await;
        }
    };
    within("connect again", trying).await
}
