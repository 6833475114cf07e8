//! Turns the kernel's completions into the shard's.
//!
//! In:    completion entries, in the order in which the kernel posted them.
//! Out:   `Completion`s; first what fell short, then the rest in order.
//! Never: enters the kernel.
//!
//! # Invariants
//! - Every completion with a buffer, a descriptor or a parcel is reported, stale or not: somebody
//!   has to give these back. Of the rest, what belongs to a cancelled arming is dropped.

use std::collections::VecDeque;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;

use crate::id::ConnId;
use crate::io::{BufferId, Completion, Errno, Input};

use super::acceptings::Acceptings;
use super::armed::{Armed, Watch};
use super::buffers::Buffers;
use super::half_closes::HalfCloses;
use super::parcels::{self, Departs};
use super::sends::Sends;
use super::sockets::{Adoptions, Asks};
use super::tag::{Kind, Tag};

/// Poll events that say: receive until the reason shows.
const HANGUP: u32 = (libc::POLLRDHUP | libc::POLLHUP | libc::POLLERR) as u32;

/// What is under way, and what has been reported and not yet reaped.
pub(super) struct Ledger {
    pub(super) buffers: Buffers,
    pub(super) armed: Armed,
    pub(super) sends: Sends,
    pub(super) asks: Asks,
    pub(super) departs: Departs,
    pub(super) adoptions: Adoptions,
    /// Times that accepting was started: the newest one's completions are those that end it.
    pub(super) acceptings: Acceptings,
    /// Half-closes under way, and closes that wait for them.
    pub(super) half_closes: HalfCloses,
    /// What fell short: reaped before everything else.
    pub(super) fell: VecDeque<Completion>,
    /// Everything else, in order.
    pub(super) done: VecDeque<Completion>,
    /// Housekeeping that failed.
    pub(super) failures: u64,
}

impl Ledger {
    /// Whether there is nothing to reap, and nothing to do at the next submit.
    pub(super) fn idle(&self) -> bool {
        self.fell.is_empty()
            && self.done.is_empty()
            && self.half_closes.idle()
            && self.acceptings.idle()
    }

    /// Drops what was reported, with the descriptors and parcels in it.
    pub(super) fn forget(&mut self) {
        self.fell.clear();
        self.done.clear();
    }

    /// Ends the sends of a submit: all entries are consumed, all completions recorded.
    pub(super) fn settle(&mut self) {
        self.sends.settle(&mut self.buffers, &mut self.fell);
    }

    /// The next completion.
    pub(super) fn reap(&mut self) -> Option<Completion> {
        self.fell.pop_front().or_else(|| self.done.pop_front())
    }

    /// Takes over one completion entry.
    pub(super) fn record(&mut self, entry: &cqueue::Entry) {
        let (result, flags) = (entry.result(), entry.flags());
        let Some(tag) = Tag::from_bits(entry.user_data()) else {
            self.failures += 1;
            return;
        };
        let completion = match tag.kind {
            Kind::Accept => return self.accepted(tag, result, flags),
            Kind::Send => return self.sends.failed(tag, result),
            Kind::Housekeeping => {
                self.failures += 1;
                None
            }
            Kind::HalfClose => {
                self.failures += u64::from(result < 0);
                self.half_closes.end(tag.conn().slot);
                None
            }
            Kind::Doorbell => Some(Completion::Doorbell),
            Kind::Recv => Some(self.received(tag, result, flags)),
            Kind::ReadPoll => self.readable(tag, result, flags),
            Kind::WritePoll => self
                .armed
                .completes(tag, Watch::Write, true)
                .then(|| Completion::Writable { conn: tag.conn() }),
            Kind::Peer => self.asks.answered(tag, result),
            Kind::Depart => self.departs.left(tag, result),
            Kind::Arrived => parcels::arrive(tag, result),
            Kind::Adopt => self.adoptions.adopted(tag, result),
            Kind::Detach => Some(detached(tag.conn(), result)),
        };
        self.done.extend(completion);
    }

    fn accepted(&mut self, tag: Tag, result: i32, flags: u32) {
        if let Ok(slot) = u32::try_from(result) {
            self.done.push_back(Completion::Accepted { slot });
        }
        let stopped = !cqueue::more(flags);
        if stopped && self.acceptings.ends(tag, result >= 0) {
            let errno = result.saturating_neg();
            let error = if errno > 0 { Errno::from_raw_os_error(errno) } else { Errno::AGAIN };
            self.done.push_back(Completion::AcceptStopped { error });
        }
    }

    fn received(&mut self, tag: Tag, result: i32, flags: u32) -> Completion {
        let conn = tag.conn();
        // A receive that did not wait was never armed, and then this changes nothing. What a
        // cancelled one still brings is reported too: the bytes are read and will not come again.
        self.armed.completes(tag, Watch::Recv, !cqueue::more(flags));
        let armed = self.armed.is_armed(conn, Watch::Recv);
        let buffer = cqueue::buffer_select(flags).map(BufferId);
        if let Some(id) = buffer {
            self.buffers.lend(id);
        }
        let outcome = match usize::try_from(result) {
            Ok(len) => Ok(Input { buffer, len, more: cqueue::sock_nonempty(flags) }),
            Err(_) => {
                if let Some(id) = buffer {
                    self.buffers.release(id);
                }
                let error = Errno::from_raw_os_error(result.saturating_neg());
                if error == Errno::NOBUFS {
                    self.buffers.ran_out();
                }
                Err(error)
            }
        };
        Completion::Received { conn, outcome, armed }
    }

    fn readable(&mut self, tag: Tag, result: i32, flags: u32) -> Option<Completion> {
        let armed = cqueue::more(flags);
        if !self.armed.completes(tag, Watch::Read, !armed) {
            return None;
        }
        // A poll that failed, uncancelled: let a receive say what is wrong.
        let hangup = u32::try_from(result).is_err() || result.cast_unsigned() & HANGUP != 0;
        Some(Completion::Readable { conn: tag.conn(), hangup, armed })
    }
}

fn detached(conn: ConnId, result: i32) -> Completion {
    if result < 0 {
        let error = Errno::from_raw_os_error(result.saturating_neg());
        return Completion::Detached { conn, fd: Err(error) };
    }
    // SAFETY: FIXED_FD_INSTALL has just made this descriptor for us, in this process's table, and
    // says so once; nobody else knows its number.
    let fd = unsafe { OwnedFd::from_raw_fd(result) };
    Completion::Detached { conn, fd: Ok(fd) }
}
