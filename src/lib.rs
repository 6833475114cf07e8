//! A WebSocket rooms server for one Linux box. `ARCHITECTURE.md` is the way in.
//!
//! The modules stand in the order in which data flows; a stage uses the vocabulary and the earlier
//! stages whose output it consumes, never a sibling and never a later one (`tests/tidy.rs`).

// Vocabulary: words that everyone may say and that say nothing about each other.
pub mod counters;
pub mod id;
pub mod io;
pub mod limits;
pub mod payload;
pub mod remedy;
pub mod time;
pub mod warn;

// 1 bytes in, 6 bytes out.
pub mod net;
#[expect(unsafe_code, reason = "the kernel's rings are shared memory; nothing else is unsafe")]
pub mod uring;

// 2 head and frame.
pub mod http;
pub mod ws;

// 3 connection.
pub mod conn;

// 4 room.
pub mod protocol;
pub mod proxy;
pub mod room;

// 5 fan-out.
pub mod bridge;
pub mod fanout;
pub mod mesh;
pub mod shard;

// Plain HTTP, and what drives a shard beside it.
pub mod control;
pub mod host;

// The cold half.
pub mod bench;
pub mod broker;
pub mod cli;
pub mod config;
pub mod probe;
pub mod server;
pub mod systemd;
pub mod tune;
