//! Turns segments into send operations, and the failures of these into what is left to send.
//!
//! In:    a connection and its segments; failed completions.
//! Out:   entries for the ring; `Completion::Fell`.
//! Never: keeps a payload longer than the submit that carried it out.
//!
//! # Why nothing else is needed
//! A send carries `MSG_DONTWAIT`, so the kernel tries it once, while the submitting enter lasts:
//! it is never parked and never given to a worker. It carries `MSG_WAITALL`, so falling short is a
//! failure, and the completion of a success is skipped. So when the enter has consumed the entry
//! and the completions it posted are read, a send without a completion was whole.
//! `tests/kernel_send.rs` pins this.
//!
//! # Invariants
//! - Between `hold` and `settle` no held segment, message or iovec moves or is dropped.

use std::collections::VecDeque;

use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types};

use crate::id::ConnId;
use crate::io::{Completion, Errno, Segments};
use crate::limits::SEND_SEGMENTS_MAX;

use super::tag::{Kind, Tag};

const SEND_FLAGS: i32 = libc::MSG_DONTWAIT | libc::MSG_WAITALL | libc::MSG_NOSIGNAL;
/// Messages of several segments in flight at most, 1.1 KiB each; then the ring is submitted first.
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

/// Sends that were queued and are not yet known to be whole.
pub(super) struct Sends {
    held: Vec<(ConnId, Segments)>,
    #[expect(clippy::vec_box, reason = "the kernel holds their addresses while the list grows")]
    messages: Vec<Box<Message>>,
    messages_used: usize,
    failed: Vec<(usize, i32)>,
}

impl Sends {
    /// Nothing held.
    pub(super) fn new() -> Self {
        Self { held: Vec::new(), messages: Vec::new(), messages_used: 0, failed: Vec::new() }
    }

    /// Whether the ring has to be submitted before another send is held.
    pub(super) fn full(&self) -> bool {
        self.messages_used == MESSAGES_MAX
    }

    /// Holds the segments and makes the entry that sends them.
    ///
    /// # Panics
    /// If there are more than `SEND_SEGMENTS_MAX` segments, or while `full`.
    pub(super) fn hold(&mut self, conn: ConnId, segments: Segments) -> Entry {
        let tag = Tag::new(Kind::Send, self.held.len() as u64);
        self.held.push((conn, segments));
        let fd = types::Fixed(conn.slot);
        let segments = self.held[self.held.len() - 1].1.as_slice();
        let entry = if let [segment] = segments {
            let bytes = segment.bytes();
            // A segment's range is counted in `u32`.
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            opcode::Send::new(fd, bytes.as_ptr(), len).flags(SEND_FLAGS).build()
        } else {
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
            opcode::SendMsg::new(fd, &raw const message.header).flags(SEND_FLAGS as u32).build()
        };
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
    pub(super) fn settle(&mut self, fell: &mut VecDeque<Completion>) {
        for (index, result) in self.failed.drain(..) {
            let Some((conn, segments)) = self.held.get_mut(index) else { continue };
            let segments = std::mem::replace(segments, Segments::Many(Vec::new()));
            let (sent, error) = match usize::try_from(result) {
                Ok(sent) => (sent, None),
                Err(_) => (0, refusal(Errno::from_raw_os_error(result.saturating_neg()))),
            };
            fell.push_back(Completion::Fell { conn: *conn, rest: segments.rest(sent), error });
        }
        self.held.clear();
        self.messages_used = 0;
    }
}

/// The error of a send that sent nothing, unless it says no more than "not now".
fn refusal(error: Errno) -> Option<Errno> {
    (error != Errno::AGAIN && error != Errno::INTR).then_some(error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Batch, Payload};

    const CONN: ConnId = ConnId { slot: 3, generation: 1 };

    fn segments(bytes: &[u8]) -> Segments {
        Segments::One(Payload::own(Batch { bytes: bytes.to_vec(), frames: vec![] }).whole())
    }

    fn settled(sends: &mut Sends) -> Vec<(Vec<u8>, Option<Errno>)> {
        let mut fell = VecDeque::new();
        sends.settle(&mut fell);
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
        let mut sends = Sends::new();
        let _ = sends.hold(CONN, segments(b"abc"));
        assert_eq!(settled(&mut sends), []);
        assert!(sends.held.is_empty());
    }

    #[test]
    fn what_is_left_begins_where_the_kernel_stopped() {
        let mut sends = Sends::new();
        for _ in 0..4 {
            let _ = sends.hold(CONN, segments(b"abcdef"));
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
    fn messages_of_many_segments_are_bounded() {
        let mut sends = Sends::new();
        while !sends.full() {
            let Segments::One(one) = segments(b"x") else { unreachable!() };
            let _ = sends.hold(CONN, Segments::Many(vec![one.clone(), one]));
        }
        assert_eq!(sends.held.len(), MESSAGES_MAX);
        assert_eq!(settled(&mut sends), []);
        assert!(!sends.full());
    }
}
