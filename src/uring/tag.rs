//! Turns an operation and its subject into the 64 bits that come back with its completion.
//!
//! In:    a kind, and a connection, an index or an address.
//! Out:   `Tag`, and from it the same again.
//! Never: looks up what it names.
//!
//! # Invariants
//! - Kind in the low seven bits of the top byte, the arming's epoch in its highest bit, 8 bits
//!   unused (zero), 48 bits of subject.

use crate::id::ConnId;

const KIND_SHIFT: u32 = 56;
const EPOCH_BIT: u8 = 0x80;
const SUBJECT_BITS: u32 = 48;
const SUBJECT_MASK: u64 = (1 << SUBJECT_BITS) - 1;

/// What an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// The standing multishot accept; the subject counts its armings.
    Accept = 1,
    /// Asking for a peer's address; the subject is an index.
    Peer,
    /// A receive of a connection.
    Recv,
    /// The standing poll of a connection.
    ReadPoll,
    /// The one-shot poll of a connection.
    WritePoll,
    /// A send; the subject is its place among the held sends.
    Send,
    /// A departure, as its source sees it; the subject is an index.
    Depart,
    /// An arrival, as its target sees it; the subject is the address of a boxed `Parcel`.
    Arrived,
    /// Another shard rang.
    Doorbell,
    /// Making an ordinary descriptor of a connection.
    Detach,
    /// Taking an ordinary descriptor in; the subject is an index.
    Adopt,
    /// The half-close of a connection.
    HalfClose,
    /// Cancels, closes, options: only their failures are reported, and only counted.
    Housekeeping,
}

impl Kind {
    const ALL: [Self; 13] = [
        Self::Accept,
        Self::Peer,
        Self::Recv,
        Self::ReadPoll,
        Self::WritePoll,
        Self::Send,
        Self::Depart,
        Self::Arrived,
        Self::Doorbell,
        Self::Detach,
        Self::Adopt,
        Self::HalfClose,
        Self::Housekeeping,
    ];
}

/// The `user_data` of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tag {
    /// What the operation is.
    pub(super) kind: Kind,
    /// Which of two successive armings of one kind for one connection it is.
    pub(super) epoch: bool,
    /// 48 bits: connection, index or address.
    pub(super) subject: u64,
}

impl Tag {
    /// A tag without an epoch.
    ///
    /// # Panics
    /// If the subject has more than 48 bits: no address that the kernel gives user space has.
    pub(super) fn new(kind: Kind, subject: u64) -> Self {
        assert!(subject <= SUBJECT_MASK, "a subject has 48 bits: {subject:#x}");
        Self { kind, epoch: false, subject }
    }

    /// A tag of one arming for a connection.
    pub(super) fn armed(kind: Kind, conn: ConnId, epoch: bool) -> Self {
        Self { kind, epoch, subject: conn.pack() }
    }

    /// The connection that the subject names.
    pub(super) fn conn(self) -> ConnId {
        ConnId::unpack(self.subject)
    }

    /// As `user_data`.
    pub(super) fn bits(self) -> u64 {
        let kind = self.kind as u8 | if self.epoch { EPOCH_BIT } else { 0 };
        u64::from(kind) << KIND_SHIFT | self.subject
    }

    /// From `user_data`; `None` for bits that this process never wrote.
    pub(super) fn from_bits(bits: u64) -> Option<Self> {
        let top = bits.to_be_bytes()[0];
        let place = usize::from(top & !EPOCH_BIT).checked_sub(1)?;
        let kind = *Kind::ALL.get(place)?;
        Some(Self { kind, epoch: top & EPOCH_BIT != 0, subject: bits & SUBJECT_MASK })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_epoch_survives_the_ring() {
        for kind in Kind::ALL {
            for epoch in [false, true] {
                for subject in [0, 1, SUBJECT_MASK] {
                    let tag = Tag { kind, epoch, subject };
                    assert_eq!(Tag::from_bits(tag.bits()), Some(tag));
                }
            }
        }
    }

    #[test]
    fn bits_nobody_wrote_are_no_tag() {
        assert_eq!(Tag::from_bits(0), None);
        assert_eq!(Tag::from_bits(u64::from(Kind::Housekeeping as u8 + 1) << KIND_SHIFT), None);
    }
}
