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

// Stage 1 and 6: bytes in, bytes out.
pub mod net;
#[expect(unsafe_code, reason = "the kernel works on this memory; every block says why it may")]
pub mod uring;
