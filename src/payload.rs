//! Bytes on their way out, encoded once and shared by reference.
//!
//! In:    frames, appended to a `Batch` while a turn lasts.
//! Out:   `Payload`, a cheap handle on a finished batch; `Segment`, the part of it that one
//!        connection still has to be sent.
//! Never: copies the bytes for a receiver.
//!
//! # Invariants
//! - A batch does not change while anybody but its owner refers to it.
//! - `frames[i].end` grows with `i` and the last one is `bytes.len()`.
//!
//! # Cost
//! - One non-atomic count a receiver; one atomic count a shard (an `Arc` crosses shards).

use std::rc::Rc;
use std::sync::Arc;

use crate::id::ConnKey;

/// Where one frame of a room ends in its batch, and what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameMark {
    /// Index just behind the frame's last byte.
    pub end: u32,
    /// The message's place in the room's order; 0 for an announcement, which takes none.
    pub offset: u64,
    /// Who said it: a member with `echo=false` is not sent its own frames.
    pub speaker: Option<ConnKey>,
    /// No reader may miss it, however slow: what comes behind it means nothing without.
    pub kept: bool,
}

/// Frames that were encoded one behind the other.
#[derive(Debug, Default)]
pub struct Batch {
    /// The frames' bytes, headers included.
    pub bytes: Vec<u8>,
    /// One mark a frame of a room; none where one connection alone gets them.
    pub frames: Vec<FrameMark>,
}

impl Batch {
    /// Marks everything behind the last mark as one frame.
    pub fn mark(&mut self, offset: u64, speaker: Option<ConnKey>) {
        self.frames.push(FrameMark { end: self.len(), offset, speaker, kept: false });
    }

    /// Marks everything behind the last mark as one frame that no reader may miss.
    pub fn mark_kept(&mut self) {
        self.frames.push(FrameMark { end: self.len(), offset: 0, speaker: None, kept: true });
    }

    /// Length in bytes. A batch is bounded far below 4 GiB by the limits on messages and ticks.
    #[must_use]
    pub fn len(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// Whether there is nothing to send.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

#[derive(Debug)]
enum Held {
    Own(Batch),
    Shared(Arc<Batch>),
}

/// A finished batch, held by reference within one shard.
#[derive(Clone, Debug)]
pub struct Payload(Rc<Held>);

impl Payload {
    /// Takes over a batch that this shard made for itself.
    #[must_use]
    pub fn own(batch: Batch) -> Self {
        Self(Rc::new(Held::Own(batch)))
    }

    /// Takes one count on a batch that several shards send.
    #[must_use]
    pub fn shared(batch: Arc<Batch>) -> Self {
        Self(Rc::new(Held::Shared(batch)))
    }

    /// The batch itself.
    #[inline]
    #[must_use]
    pub fn batch(&self) -> &Batch {
        match &*self.0 {
            Held::Own(batch) => batch,
            Held::Shared(batch) => batch,
        }
    }

    /// The batch, to be filled anew; `None` while a segment or another payload refers to it.
    #[must_use]
    pub fn reclaim(&mut self) -> Option<&mut Batch> {
        match Rc::get_mut(&mut self.0)? {
            Held::Own(batch) => Some(batch),
            Held::Shared(batch) => Arc::get_mut(batch),
        }
    }

    /// All bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.batch().bytes
    }

    /// The whole payload as one segment.
    #[must_use]
    pub fn whole(&self) -> Segment {
        Segment { start: 0, end: self.batch().len(), payload: self.clone() }
    }
}

/// The part of a payload that one connection still has to be sent.
#[derive(Clone, Debug)]
pub struct Segment {
    /// The payload.
    pub payload: Payload,
    /// First byte to send.
    pub start: u32,
    /// Index just behind the last byte to send.
    pub end: u32,
}

impl Segment {
    /// The bytes to send.
    ///
    /// # Panics
    /// If the range lies outside the payload: a programming error.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.payload.bytes()[self.start as usize..self.end as usize]
    }

    /// Length in bytes.
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether nothing is left to send.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }
}
