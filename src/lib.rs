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
pub mod time;

// Head and frame.
pub mod http;

pub mod ws;

// The cold half.
pub mod control;
