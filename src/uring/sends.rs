//! Turns segments into send operations, and the failures of these into what is left to send.
//!
//! In:    a connection and its segments, or a received buffer to be sent back; failed completions.
//! Out:   entries for the ring; `Completion::Fell`; buffers that were sent back, released.
//! Never: keeps a payload or a buffer longer than the submit that carried it out.
//!
//! # Why nothing else is needed
//! A send carries `MSG_DONTWAIT`, so the kernel tries it once, while the submitting enter lasts:
//! it is never parked and never given to a worker. It carries `MSG_WAITALL`, so falling short is a
//! failure, and the completion of a success is skipped. So when the enter has consumed the entry
//! and the completions it posted are read, a send without a completion was whole.
//! `tests/kernel_send.rs` pins this.
//!
//! # Invariants
//! - Between `hold` and `settle` no held segment, message or iovec moves or is dropped, and no held
//!   buffer is released.

use std::collections::VecDeque;
use std::ops::Range;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::id::ConnId;
use crate::io::{BufferId, Completion, Errno, Segments};
use crate::limits::{SEND_SEGMENTS_MAX, SendMode};
use crate::payload::{Batch, Payload, Segment};

use super::buffers::Buffers;
use super::tag::{Kind, Tag};

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;

/// What follows a send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// Nothing that is known of.
    Nothing,
    /// FIN: the two may share a packet.
    End,
}

impl Behind {
    fn flags(self) -> i32 {
        match self {
            Self::Nothing => SEND_FLAGS,
            Self::End => SEND_FLAGS | libc::MSG_MORE,
        }
    }
}
/// Messages in flight at most, 1.1 KiB each; then the ring is submitted first.
const MESSAGES_MAX: usize = 256;

/// A `SENDMSG`'s header and the list that it points to.
struct Message {
    header: libc::msghdr,
    iovecs: [libc::iovec; SEND_SEGMENTS_MAX],
}

impl Message {
    fn new() -> Box<Self> {
        const NOWHERE: libc::iovec = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        // SAFETY: a `msghdr` is plain integers and pointers, for which all zeros is a value (no
        // address, no control data, an empty list); some C libraries pad it with private fields,
        // so it cannot be written out.
        let header = unsafe { std::mem::zeroed() };
        Box::new(Self { header, iovecs: [NOWHERE; SEND_SEGMENTS_MAX] })
    }
}

/// What a send in flight keeps.
enum Held {
    Segments(Segments),
    /// A part of a buffer on loan, which is released when the send is over.
    Received(BufferId, Range<u32>),
}

/// Sends that were queued and are not yet known to be whole.
pub(super) struct Sends {
    mode: SendMode,
    held: Vec<(ConnId, Held)>,
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses while the list grows")]
    messages: Vec<Box<Message>>,
    messages_used: usize,
    failed: Vec<(usize, i32)>,
}

impl Sends {
    /// Nothing held.
    pub(super) fn new(mode: SendMode) -> Self {
        Self { mode, held: Vec::new(), messages: Vec::new(), messages_used: 0, failed: Vec::new() }
    }

    /// Whether the ring has to be submitted before another send is held.
    pub(super) fn full(&self) -> bool {
        self.messages_used == MESSAGES_MAX
    }

    /// Holds the segments and makes the entry that sends them.
    ///
    /// # Panics
    /// If there are more than `SEND_SEGMENTS_MAX` segments, or while `full`.
    pub(super) fn hold(&mut self, conn: ConnId, segments: Segments, behind: Behind) -> Entry {
        // The payloads lie on the heap: moving their handles into the list moves no byte.
        let entry = match segments.as_slice() {
            [segment] if self.mode == SendMode::Send => self.entry(conn, segment.bytes(), behind),
            segments => self.entry_of_many(conn, segments, behind),
        };
        self.held.push((conn, Held::Segments(segments)));
        entry
    }

    /// Holds a buffer on loan and makes the entry that sends `part` of it.
    pub(super) fn hold_received(
        &mut self,
        conn: ConnId,
        buffer: BufferId,
        part: Range<usize>,
        buffers: &mut Buffers,
    ) -> Entry {
        let bytes = &buffers.bytes_mut(buffer, part.end)[part.clone()];
        let entry = self.entry(conn, bytes, Behind::Nothing);
        let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        let part = narrow(part.start)..narrow(part.end);
        self.held.push((conn, Held::Received(buffer, part)));
        entry
    }

    /// The entry that sends these bytes, for whatever is held next.
    fn entry(&self, conn: ConnId, bytes: &[u8], behind: Behind) -> Entry {
        // A payload's length, as a buffer's, is counted in `u32`.
        let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let send = opcode::Send::new(types::Fixed(conn.slot), bytes.as_ptr(), len);
        self.tagged(send.flags(behind.flags()).build())
    }

    fn entry_of_many(&mut self, conn: ConnId, segments: &[Segment], behind: Behind) -> Entry {
        assert!(segments.len() <= SEND_SEGMENTS_MAX, "{} segments", segments.len());
        assert!(self.messages_used < MESSAGES_MAX, "submit before holding more");
        if self.messages_used == self.messages.len() {
            self.messages.push(Message::new());
        }
        let message = &mut *self.messages[self.messages_used];
        self.messages_used += 1;
        for (iovec, segment) in message.iovecs.iter_mut().zip(segments) {
            let bytes = segment.bytes();
            iovec.iov_base = bytes.as_ptr().cast_mut().cast();
            iovec.iov_len = bytes.len();
        }
        message.header.msg_iov = message.iovecs.as_mut_ptr();
        message.header.msg_iovlen = segments.len() as _;
        let send = opcode::SendMsg::new(types::Fixed(conn.slot), &raw const message.header);
        self.tagged(send.flags(behind.flags() as u32).build())
    }

    fn tagged(&self, entry: Entry) -> Entry {
        let tag = Tag::new(Kind::Send, self.held.len() as u64);
        entry.flags(Flags::SKIP_SUCCESS).user_data(tag.bits())
    }

    /// Notes a send's completion: it fell short.
    pub(super) fn failed(&mut self, tag: Tag, result: i32) {
        if let Ok(index) = usize::try_from(tag.subject) {
            self.failed.push((index, result));
        }
    }

    /// Reports what fell short and lets go of everything. Only when the kernel has consumed every
    /// entry and every completion posted so far has been read.
    pub(super) fn settle(&mut self, buffers: &mut Buffers, fell: &mut VecDeque<Completion>) {
        for (index, result) in self.failed.drain(..) {
            let Some((conn, held)) = self.held.get_mut(index) else { continue };
            let (sent, error) = match usize::try_from(result) {
                Ok(sent) => (sent, None),
                Err(_) => (0, refusal(Errno::from_raw_os_error(result.saturating_neg()))),
            };
            let segments = match held {
                Held::Segments(segments) => std::mem::replace(segments, Segments::Many(Vec::new())),
                Held::Received(buffer, part) => copied(buffers, *buffer, part),
            };
            fell.push_back(Completion::Fell { conn: *conn, rest: segments.rest(sent), error });
        }
        for (_, held) in self.held.drain(..) {
            if let Held::Received(buffer, _) = held {
                buffers.release(buffer);
            }
        }
        self.messages_used = 0;
    }
}

/// A reader that does not keep up keeps no buffer from the others.
fn copied(buffers: &mut Buffers, buffer: BufferId, part: &Range<u32>) -> Segments {
    let bytes = &buffers.bytes_mut(buffer, part.end as usize)[part.start as usize..];
    let batch = Batch { bytes: bytes.to_vec(), frames: Vec::new() };
    Segments::One(Payload::own(batch).whole())
}

/// The error of a send that sent nothing, unless it says no more than "not now".
fn refusal(error: Errno) -> Option<Errno> {
    (error != Errno::AGAIN && error != Errno::INTR).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 3, generation: 1 };

    fn segments(bytes: &[u8]) -> Segments {
        Segments::One(Payload::own(Batch { bytes: bytes.to_vec(), frames: vec![] }).whole())
    }

    fn settled(sends: &mut Sends) -> Vec<(Vec<u8>, Option<Errno>)> {
        settled_with(sends, &mut Buffers::new(1, 16, 1).unwrap())
    }

    fn settled_with(sends: &mut Sends, buffers: &mut Buffers) -> Vec<(Vec<u8>, Option<Errno>)> {
        let mut fell = VecDeque::new();
        sends.settle(buffers, &mut fell);
        fell.into_iter()
            .map(|completion| match completion {
                Completion::Fell { rest, error, .. } => {
                    (rest.iter().flat_map(|segment| segment.bytes().to_vec()).collect(), error)
                }
                other => panic!("{other:?}"),
            })
            .collect()
    }

    #[test]
    fn a_send_without_completion_was_whole() {
        let mut sends = Sends::new(SendMode::Send);
        let _ = sends.hold(CONN, segments(b"abc"), Behind::Nothing);
        assert_eq!(settled(&mut sends), []);
        assert!(sends.held.is_empty());
    }

    #[test]
    fn what_is_left_begins_where_the_kernel_stopped() {
        let mut sends = Sends::new(SendMode::Send);
        for _ in 0..4 {
            let _ = sends.hold(CONN, segments(b"abcdef"), Behind::Nothing);
        }
        for (index, result) in [(0, 2), (2, -libc::EAGAIN), (3, -libc::EPIPE)] {
            sends.failed(Tag::new(Kind::Send, index), result);
        }
        let whole = b"abcdef".to_vec();
        assert_eq!(
            settled(&mut sends),
            [(b"cdef".to_vec(), None), (whole.clone(), None), (whole, Some(Errno::PIPE))]
        );
    }

    #[test]
    fn a_buffer_sent_back_is_released_and_what_is_left_of_it_was_copied() {
        let (mut sends, mut buffers) =
            (Sends::new(SendMode::Send), Buffers::new(4, 16, 1).unwrap());
        for id in (0..3).map(BufferId) {
            buffers.lend(id);
            buffers.bytes_mut(id, 6).copy_from_slice(b"abcdef");
            let _ = sends.hold_received(CONN, id, 1..6, &mut buffers);
        }
        assert_eq!(buffers.free(), 1);
        for (index, result) in [(1, 2), (2, -libc::EPIPE)] {
            sends.failed(Tag::new(Kind::Send, index), result);
        }
        let left = settled_with(&mut sends, &mut buffers);
        assert_eq!(left, [(b"def".to_vec(), None), (b"bcdef".to_vec(), Some(Errno::PIPE))]);
        assert_eq!(buffers.free(), 4);
    }

    #[test]
    fn messages_are_bounded() {
        for (mode, pieces) in [(SendMode::Send, 2), (SendMode::SendMsg, 1)] {
            let mut sends = Sends::new(mode);
            while !sends.full() {
                let Segments::One(one) = segments(b"x") else { unreachable!() };
                let segments = Segments::Many(vec![one; pieces]);
                let _ = sends.hold(CONN, segments, Behind::Nothing);
            }
            assert_eq!(sends.held.len(), MESSAGES_MAX);
            assert_eq!(settled(&mut sends), []);
            assert!(!sends.full());
        }
    }
}
