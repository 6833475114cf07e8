//! Every reason why a connection ends: close code, label, log level. One table.
//!
//! In:    a reason.
//! Out:   its row.
//! Never: is bypassed: every closed slot is counted under one of these.

/// A reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Disconnect {
    /// The peer sent a close frame.
    PeerClosed,
    /// The peer went away without one.
    PeerGone,
    /// RFC 6455 was broken.
    ProtocolError,
    /// A binary message on a JSON connection.
    BinaryInJson,
    /// A text message was not UTF-8.
    InvalidUtf8,
    /// A flood of malformed messages.
    Flood,
    /// A message was longer than allowed.
    MessageTooBig,
    /// The server failed.
    Internal,
    /// SIGINT.
    Shutdown,
    /// SIGTERM.
    Restart,
    /// The queue was full (`client.policy = "disconnect"`).
    SlowConsumer,
    /// The process's queue budget was used up, and this connection held the most.
    Overloaded,
    /// No byte for `heartbeat.timeout`.
    HeartbeatTimeout,
    /// The request was answered with a refusal.
    Refused,
    /// Handed to plain HTTP.
    PlainHttp,
    /// Handed to another shard.
    Departed,
}

/// What a reason means.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// Label in metrics and logs.
    pub label: &'static str,
    /// Close code sent; `None` where no close frame is.
    pub code: Option<u16>,
    /// Text of the close frame.
    pub text: &'static str,
    /// Whether an operator should see it by default.
    pub loud: bool,
}

impl Disconnect {
    /// All reasons, in the order of the table.
    pub const ALL: &[Self] = &[
        Self::PeerClosed,
        Self::PeerGone,
        Self::ProtocolError,
        Self::BinaryInJson,
        Self::InvalidUtf8,
        Self::Flood,
        Self::MessageTooBig,
        Self::Internal,
        Self::Shutdown,
        Self::Restart,
        Self::SlowConsumer,
        Self::Overloaded,
        Self::HeartbeatTimeout,
        Self::Refused,
        Self::PlainHttp,
        Self::Departed,
    ];

    /// The reason's row.
    #[must_use]
    pub const fn row(self) -> Row {
        let (label, code, text, loud) = match self {
            Self::PeerClosed => ("peer_closed", None, "", false),
            Self::PeerGone => ("peer_gone", None, "", false),
            Self::ProtocolError => ("protocol_error", Some(1002), "protocol error", false),
            Self::BinaryInJson => ("binary_in_json", Some(1003), "send text frames", false),
            Self::InvalidUtf8 => ("invalid_utf8", Some(1007), "invalid UTF-8", false),
            Self::Flood => ("flood", Some(1008), "too many malformed messages", false),
            Self::MessageTooBig => ("message_too_big", Some(1009), "message too big", false),
            Self::Internal => ("internal", Some(1011), "internal error", true),
            Self::Shutdown => ("shutdown", Some(1001), "server is shutting down", false),
            Self::Restart => ("restart", Some(1012), "", false),
            Self::SlowConsumer => ("slow_consumer", Some(1013), "slow consumer", true),
            Self::Overloaded => ("overloaded", Some(1013), "overloaded", true),
            Self::HeartbeatTimeout => {
                ("heartbeat_timeout", Some(1011), "no answer to the heartbeat", false)
            }
            Self::Refused => ("refused", None, "", false),
            Self::PlainHttp => ("plain_http", None, "", false),
            Self::Departed => ("departed", None, "", false),
        };
        Row { label, code, text, loud }
    }

    /// Place in the table, for counters.
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}

const _: () = assert!(Disconnect::ALL.len() <= crate::counters::REASONS_MAX, "counted by reason");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_complete_and_its_labels_differ() {
        let mut labels: Vec<_> = Disconnect::ALL.iter().map(|reason| reason.row().label).collect();
        for (index, reason) in Disconnect::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
        labels.sort_unstable();
        labels.dedup();
        assert_eq!(labels.len(), Disconnect::ALL.len());
    }
}
