//! One box without a server: a bridge with its thread, and the shards' ends in the test's hands.
//!
//! In:    what a member of a room would say; rooms that are opened.
//! Out:   what the bridge tells the shards, as the test asks for it.
//! Never: sleeps: it waits for mail, with a deadline.
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringhall::bridge::envelope::{self, Body, Node};
use ringhall::bridge::{Bounds, Bridge, BridgeEnd, Delivery, Inbound, Outbound, Overflow, Verdict};
use ringhall::broker::breaker::State;
use ringhall::broker::status::Report;
use ringhall::broker::{Running, Setup, start};
use ringhall::id::{ConnId, ConnKey, Mode, RoomKey, ShardId};
use ringhall::room::hall::HallId;
use ringhall::ws::frame::Opcode;

use super::loopback_broker::Loopback;

/// How long anything may take before a test fails.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// The one shard.
const SHARD: ShardId = ShardId(0);

/// What a test sets of a box.
#[derive(Clone, Copy)]
pub struct Kind {
    pub delivery: Delivery,
    pub overflow: Overflow,
    pub messages: usize,
}

pub const LOCAL_FIRST: Kind =
    Kind { delivery: Delivery::LocalFirst, overflow: Overflow::Reject, messages: 4096 };
pub const ORDERED: Kind = Kind { delivery: Delivery::Ordered, ..LOCAL_FIRST };

/// See the module.
pub struct BridgeBox {
    pub end: BridgeEnd,
    pub node: Node,
    bridge: Arc<Bridge>,
    running: Option<Running>,
    heard: std::sync::mpsc::Receiver<()>,
    halls: u32,
}

/// A JSON room.
pub fn room(name: &str) -> RoomKey {
    RoomKey { mode: Mode::Json, name: name.into() }
}

impl BridgeBox {
    /// Starts a box at that broker.
    pub fn start(broker: &Loopback, id: u64, kind: Kind) -> Self {
        let bounds = Bounds { shards: 1, messages: kind.messages, bytes: 8 << 20 };
        let bridge = Arc::new(Bridge::new(kind.delivery, kind.overflow, bounds));
        let (ring, heard) = std::sync::mpsc::channel();
        let node = Node { id, incarnation: fastrand::u32(..) };
        let setup = Setup {
            bridge: bridge.clone(),
            node,
            name: format!("box-{id}"),
            url: "loopback://ann:opensesame@nowhere".to_owned(),
            // The receiver is gone when the test is over.
            ring: Box::new(move |_| {
                let _told = ring.send(());
            }),
        };
        let broker = broker.clone();
        let running = start(setup, move || Ok(broker.engine(kind.delivery)));
        let running = Some(running.expect("the thread starts"));
        let end = BridgeEnd::new(bridge.clone(), SHARD);
        Self { end, node, bridge, running, heard, halls: 0 }
    }

    /// Starts a box and waits until messages go through.
    pub fn connected(broker: &Loopback, id: u64, kind: Kind) -> Self {
        let one = Self::start(broker, id, kind);
        one.wait("closed", |report| report.state == State::Closed);
        one
    }

    pub fn report(&self) -> Report {
        self.running.as_ref().expect("it runs").status.report(&self.bridge)
    }

    /// Waits until the box reports what is wanted.
    #[track_caller]
    pub fn wait(&self, what: &str, wanted: impl Fn(&Report) -> bool) -> Report {
        let until = Instant::now() + DEADLINE;
        loop {
            let report = self.report();
            if wanted(&report) {
                return report;
            }
            assert!(Instant::now() < until, "not in time: {what}: {report:?}");
            std::thread::park_timeout(Duration::from_millis(2));
        }
    }

    /// Opens a room and gives what is known of it.
    #[track_caller]
    pub fn open(&mut self, key: &RoomKey) -> Inbound {
        self.halls += 1;
        let hall = HallId { index: self.halls, generation: 0 };
        self.post(Outbound::Open { key: key.clone(), hall });
        self.until("placed", |mail| matches!(mail, Inbound::Placed { .. }))
    }

    pub fn post(&mut self, mail: Outbound) {
        self.end.post(mail);
        self.end.flush();
    }

    /// Somebody comes or goes.
    pub fn cross(&mut self, key: &RoomKey, user: &str, joined: bool, members: usize) {
        let (key, user) = (key.clone(), user.into());
        self.post(Outbound::Crossed { key, user, joined, whole: true, members });
    }

    /// Says something as a shard would; what became of it.
    pub fn say(&mut self, key: &RoomKey, content: &str) -> Verdict {
        let verdict = self.end.verdict();
        let partition = envelope::partition(&key.name);
        match verdict {
            Verdict::StaysHere => self.end.skip(partition),
            Verdict::Refused => self.end.reject(),
            Verdict::Goes => {
                let speaker = ConnKey { shard: SHARD, conn: ConnId { slot: 1, generation: 1 } };
                let envelope = envelope::said(&envelope::Said {
                    mode: key.mode,
                    opcode: Opcode::Text,
                    speaker,
                    room: &key.name,
                    user: "ann",
                    content: content.as_bytes(),
                });
                let reference = Some(content.into());
                self.post(Outbound::Said { partition, envelope, speaker, reference });
            }
        }
        verdict
    }

    /// The next mail, waited for.
    #[track_caller]
    pub fn next(&mut self) -> Inbound {
        self.poll(DEADLINE).expect("mail, in time")
    }

    /// The next mail, if it comes in that time.
    pub fn poll(&mut self, within: Duration) -> Option<Inbound> {
        let until = Instant::now() + within;
        loop {
            if let Some(mail) = self.end.collect() {
                return Some(mail);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || self.heard.recv_timeout(left).is_err() {
                return self.end.collect();
            }
        }
    }

    /// The next mail that is wanted; others before it are passed over.
    #[track_caller]
    pub fn until(&mut self, what: &str, wanted: impl Fn(&Inbound) -> bool) -> Inbound {
        let until = Instant::now() + DEADLINE;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let mail = self.poll(left).unwrap_or_else(|| panic!("not in time: {what}"));
            if wanted(&mail) {
                return mail;
            }
        }
    }

    /// The content of the next thing said, by whoever.
    #[track_caller]
    pub fn heard(&mut self) -> String {
        content(&self.until("something said", |mail| matches!(mail, Inbound::Said { .. })))
    }

    /// Ends in order.
    pub fn shut_down(mut self) {
        self.end_now();
    }

    fn end_now(&mut self) {
        if let Some(running) = self.running.take() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.expect("a runtime").block_on(running.end());
        }
    }
}

impl Drop for BridgeBox {
    fn drop(&mut self) {
        self.end_now();
    }
}

/// What was said.
#[track_caller]
pub fn content(mail: &Inbound) -> String {
    let Inbound::Said { envelope, .. } = mail else { panic!("nothing said: {mail:?}") };
    let Body::Said(said) = envelope::read(envelope).expect("readable").body else {
        panic!("nothing said")
    };
    String::from_utf8(said.content.to_vec()).expect("UTF-8")
}
