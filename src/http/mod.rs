//! Turns the bytes at the start of a connection into an upgrade, a refusal, or plain HTTP.
//!
//! In:    the bytes received so far.
//! Out:   `HeadVerdict`; a `Refusal`'s response.
//! Never: touches a socket, reads a clock, answers plain HTTP (hyper does).

mod fields;
pub mod head;
pub mod refusal;
pub mod upgrade;

pub use fields::Protocol;
pub use head::{HeadLimits, HeadProgress, HeadVerdict, field_values, read_head};
pub use refusal::{Refusal, RefusalKind};
pub use upgrade::{Route, Upgrade};
