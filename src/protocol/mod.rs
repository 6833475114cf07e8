//! The words of the JSON protocol (SPEC section 5): text to commands, events to frames.
//!
//! In:    text messages; what a room has to tell its members.
//! Out:   `command::Command`; whole frames, appended to a batch.
//! Never: knows a socket or decides who hears what.

pub mod command;
pub mod event;

/// What was wrong with a message, by the names of SPEC section 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Not JSON.
    BadJson,
    /// JSON, but no message.
    BadMessage,
    /// The connection is not in that room.
    NotInRoom,
    /// The sender is somebody else.
    SenderMismatch,
    /// The server cannot take it now.
    Unavailable,
}

impl ErrorCode {
    /// The code as it is sent.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BadJson => "bad_json",
            Self::BadMessage => "bad_message",
            Self::NotInRoom => "not_in_room",
            Self::SenderMismatch => "sender_mismatch",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An error to be answered to the speaker alone.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault<'a> {
    /// Its name.
    pub code: ErrorCode,
    /// What was wrong and what to do.
    pub message: std::borrow::Cow<'static, str>,
    /// The speaker's `ref`, as JSON.
    pub reference: Option<&'a str>,
}
