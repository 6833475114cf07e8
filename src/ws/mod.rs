//! Turns the bytes of a WebSocket into messages, and payloads into frames (RFC 6455).
//!
//! In:    bytes received behind the request head; payloads to send.
//! Out:   `Event`s; frames without a mask, ready to send; `Violation`s with their close code.
//! Never: touches a socket, reads a clock, knows a room or JSON.

#[cfg(test)]
mod client;
pub mod close;
pub mod encode;
pub mod frame;
pub mod handshake;
pub mod mask;
pub mod message;
mod remainder;
pub mod utf8;

pub use close::Violation;
pub use frame::Opcode;
pub use message::{Assembler, Event, Kind, Step};
