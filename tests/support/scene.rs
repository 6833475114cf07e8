//! One shard over `CountingIo`, with rooms and echoes as a bench or a counting test wants them.
//!
//! In:    the recorded input of `benches/recorded/`; who connects, who says what.
//! Out:   turns.
//! Never: reads a clock, or knows what is measured.

use std::rc::Rc;
use std::sync::Arc;

use ringhall::bridge::Bridge;
use ringhall::id::{ConnId, ShardId};
use ringhall::limits::{Limits, RingUse};
use ringhall::mesh::Mesh;
use ringhall::shard::shared::Shared;
use ringhall::shard::tick::Next;
use ringhall::shard::{Placement, Setup, Shard};
use ringhall::time::Now;

use crate::counting_io::CountingIo;

/// Slots of a scene's table: more than any has clients, so that it is never near its end.
const SLOTS: usize = 4096;
/// Receive buffers, as a shard of its own has them.
const BUFFERS: u16 = 2048;

/// A request head, as a browser sends it; `{path}` and `{protocols}` stand for what varies.
pub const HEAD: &str = include_str!("../../benches/recorded/head.txt");
/// Sixteen frames to `/echo` and raw rooms, of 64 bytes each.
pub const RAW: &[u8] = include_bytes!("../../benches/recorded/raw.frames");
/// Sixteen messages of JSON rooms.
pub const JSON: &[u8] = include_bytes!("../../benches/recorded/json.frames");
/// A close frame.
pub const CLOSE: &[u8] = include_bytes!("../../benches/recorded/close.frames");

/// How a connection is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/echo`.
    Echo,
    /// A member of the room of this number, payloads as they come.
    Raw(usize),
    /// The same in JSON.
    Json(usize),
}

/// A shard and its clients.
pub struct Scene {
    pub shard: Shard<CountingIo>,
    next_slot: u32,
}

/// The frames of a recording, one by one: short ones, with two bytes of header and four of mask.
pub fn frames(recording: &[u8]) -> Vec<Rc<[u8]>> {
    let mut rest = recording;
    let mut frames = Vec::new();
    while let [_, second, ..] = rest {
        let len = match second & 0x7f {
            126 => 8 + usize::from(u16::from_be_bytes([rest[2], rest[3]])),
            len => 6 + usize::from(len),
        };
        let (frame, behind) = rest.split_at(len);
        frames.push(frame.into());
        rest = behind;
    }
    frames
}

impl Scene {
    /// A shard without clients.
    pub fn new(limits: Limits) -> Self {
        Self::with_buffers(limits, BUFFERS)
    }

    /// The same with so many receive buffers.
    pub fn with_buffers(limits: Limits, buffers: u16) -> Self {
        Self::build(limits, buffers, None)
    }

    /// A shard whose rooms other boxes share.
    pub fn with_bridge(limits: Limits, bridge: Arc<Bridge>) -> Self {
        Self::build(limits, BUFFERS, Some(bridge))
    }

    fn build(limits: Limits, buffers: u16, bridge: Option<Arc<Bridge>>) -> Self {
        let limits = Arc::new(limits);
        let mesh = Arc::new(Mesh::new(1, 16, 1 << 16));
        let setup = Setup {
            id: ShardId(0),
            shared: Arc::new(Shared::new(mesh, 1, 7, limits.clone())),
            limits,
            placement: Placement::Home,
            bridge,
            ring: RingUse::default(),
            table_slots: SLOTS,
            seed: 7,
        };
        let mut shard = Shard::new(CountingIo::new(SLOTS, buffers), setup);
        shard.start();
        Self { shard, next_slot: 0 }
    }

    /// A request head for a route.
    pub fn head(route: Route, user: u32) -> Rc<[u8]> {
        let (path, protocols) = match route {
            Route::Echo => ("/echo".to_owned(), ""),
            Route::Raw(room) => {
                (format!("/ws/r{room}/u{user}"), "Sec-WebSocket-Protocol: ringhall.raw\r\n")
            }
            Route::Json(room) => (format!("/ws/r{room}/u{user}"), ""),
        };
        let head = HEAD.replace("{path}", &path).replace("{protocols}\r\n", protocols);
        head.into_bytes().into()
    }

    /// Opens a connection and lets everyone hear of it.
    pub fn open(&mut self, route: Route) -> ConnId {
        let slot = self.next_slot;
        self.next_slot += 1;
        self.open_at(slot, &Self::head(route, slot))
    }

    /// As [`Scene::open`], at a slot that is free, with a head that is there already.
    pub fn open_at(&mut self, slot: u32, head: &Rc<[u8]>) -> ConnId {
        self.shard.io.connect(slot);
        self.shard.io.arrive(slot, head);
        self.settle();
        let conn = self.shard.state.conns().at(slot).expect("it was accepted");
        conn.id(slot)
    }

    /// Rooms with so many members each, by room.
    pub fn rooms(
        &mut self,
        rooms: usize,
        members: usize,
        route: fn(usize) -> Route,
    ) -> Vec<Vec<ConnId>> {
        let mut room = |number| (0..members).map(|_| self.open(route(number))).collect();
        (0..rooms).map(&mut room).collect()
    }

    /// A client says something; its shard hears of it at the next turn.
    pub fn say(&mut self, who: ConnId, bytes: &Rc<[u8]>) {
        self.shard.io.arrive(who.slot, bytes);
        self.shard.io.readable(who);
    }

    /// One turn.
    pub fn turn(&mut self) -> Next {
        self.shard.turn(Now(1000))
    }

    /// Turns until there is nothing left to do.
    pub fn settle(&mut self) {
        while self.turn() == Next::Turn {}
    }
}
