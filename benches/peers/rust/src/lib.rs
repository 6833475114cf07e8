//! Turns what the three Rust peers share into one place: rooms of channels, a runtime, a listener.
//!
//! In:    the port to listen on, as the first argument.
//! Out:   a single-threaded runtime; `Rooms`, where each member is an unbounded channel.
//! Never: speaks WebSocket: that is what the peers differ in.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::TcpListener;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Longest message, on rooms and on `/echo`.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Read buffer a connection. tungstenite's default of 128 KiB is zeroed before each read, which
/// costs more than everything else.
pub const READ_BUFFER_BYTES: usize = 4 << 10;
/// The subprotocol under which Ringhall relays payloads as they are; the peers do nothing else.
pub const RAW: &str = "ringhall.raw";

/// Runs `serve` on one thread, with a listener on the port that the first argument names.
///
/// # Panics
/// Where the argument is no port, or the port is taken.
pub fn run<F: Future<Output = ()>>(serve: impl FnOnce(TcpListener) -> F) {
    let port: u16 = std::env::args().nth(1).and_then(|word| word.parse().ok()).expect("a port");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(async {
        serve(TcpListener::bind(("127.0.0.1", port)).await.expect("a free port")).await;
    });
}

/// Where a path leads to.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// `/echo`.
    Echo,
    /// `/ws/{room}/{user}`, with the room.
    Room(String),
}

/// Reads a path.
#[must_use]
pub fn route(path: &str) -> Option<Route> {
    let mut parts = path.strip_prefix('/')?.split('/');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some("echo"), None, None, None) => Some(Route::Echo),
        (Some("ws"), Some(room), Some(_user), None) => Some(Route::Room(room.to_owned())),
        _ => None,
    }
}

type Members<M> = HashMap<u64, UnboundedSender<M>>;

struct Table<M> {
    rooms: HashMap<String, Members<M>>,
    members_ever: u64,
}

/// Rooms by name.
pub struct Rooms<M>(Arc<Mutex<Table<M>>>);

impl<M> Clone for Rooms<M> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<M> Default for Rooms<M> {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Table { rooms: HashMap::new(), members_ever: 0 })))
    }
}

impl<M: Clone> Rooms<M> {
    fn table(&self) -> MutexGuard<'_, Table<M>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Joins a room: its membership, and what is said there. A room nobody is in does not exist.
    #[must_use]
    pub fn join(&self, room: String) -> (Member<M>, UnboundedReceiver<M>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut table = self.table();
        table.members_ever += 1;
        let id = table.members_ever;
        table.rooms.entry(room.clone()).or_default().insert(id, sender.clone());
        (Member { rooms: self.clone(), room, id, own: sender }, receiver)
    }
}

/// A place in a room; dropping it leaves.
pub struct Member<M: Clone> {
    rooms: Rooms<M>,
    room: String,
    id: u64,
    own: UnboundedSender<M>,
}

impl<M: Clone> Member<M> {
    /// Says something to everybody in the room, oneself included.
    pub fn say(&self, message: &M) {
        let table = self.rooms.table();
        for member in table.rooms.get(&self.room).into_iter().flat_map(HashMap::values) {
            // Who is just leaving does not listen any more.
            let _ = member.send(message.clone());
        }
    }

    /// Puts something into one's own channel.
    pub fn say_to_self(&self, message: M) {
        let _ = self.own.send(message);
    }
}

impl<M: Clone> Drop for Member<M> {
    fn drop(&mut self) {
        let mut table = self.rooms.table();
        if let Some(members) = table.rooms.get_mut(&self.room) {
            members.remove(&self.id);
            if members.is_empty() {
                table.rooms.remove(&self.room);
            }
        }
    }
}
