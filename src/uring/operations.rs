//! Turns each operation of the trait `Io` into entries.
//!
//! In:    operations.
//! Out:   entries, in the same order.
//! Never: waits, but in `submit`.

use io_uring::squeue::Flags;
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed};
use io_uring::{opcode, squeue};
use std::ops::Range;
use std::os::fd::{AsRawFd, OwnedFd};

use crate::id::{ConnId, ShardId};
use crate::io::{BufferId, CloseHow, Completion, Errno, Io, Parcel, Patience, Segments, Wait};

use super::acceptings::Wanted;
use super::armed::Watch;
use super::completions::Ledger;
use super::sends::Behind;
use super::tag::{Kind, Tag};
use super::{UringIo, buffers};

/// What `SO_LINGER` is set to before a reset: on, zero seconds, so that a close drops what is
/// unsent and answers with RST. Static: the kernel reads it whenever it likes.
static LINGER_NONE: libc::linger = libc::linger { l_onoff: 1, l_linger: 0 };

const INPUT: u32 = (libc::POLLIN | libc::POLLRDHUP) as u32;
const OUTPUT: u32 = libc::POLLOUT as u32;

impl UringIo {
    /// Queues an entry of which only a failure is heard, and that only counted.
    fn push_housekeeping(&mut self, entry: squeue::Entry) {
        let tag = Tag::new(Kind::Housekeeping, 0);
        self.push(&entry.flags(Flags::SKIP_SUCCESS).user_data(tag.bits()));
    }

    fn push_close(&mut self, slot: u32) {
        self.push_housekeeping(opcode::Close::new(Fixed(slot)).build());
    }

    fn push_cancel(&mut self, tag: Tag) {
        let builder = CancelBuilder::user_data(tag.bits());
        self.push_housekeeping(opcode::AsyncCancel2::new(builder).build());
    }

    /// Arms a poll, in place of one that may be armed: arming looks at the socket as it is now.
    fn poll(&mut self, conn: ConnId, watch: Watch, events: u32, multi: bool) {
        if let Some(tag) = self.ledger.armed.take(conn, watch) {
            self.push_cancel(tag);
        }
        let tag = self.ledger.armed.arm(conn, watch);
        let entry = opcode::PollAdd::new(Fixed(conn.slot), events).multi(multi).build();
        self.push(&entry.user_data(tag.bits()));
    }

    fn push_send(&mut self, conn: ConnId, segments: Segments, behind: Behind) {
        if segments.as_slice().iter().all(crate::payload::Segment::is_empty) {
            return;
        }
        if self.ledger.sends.full() || self.ring.full() {
            self.carry_out(super::Linger::No);
        }
        let entry = self.ledger.sends.hold(conn, segments, behind);
        self.push(&entry);
    }
}

impl UringIo {
    fn accept_at(&mut self, listener: usize) {
        let Some(tag) = self.ledger.acceptings.arm(listener) else { return };
        let fd = Fd(self.listeners[listener].as_raw_fd());
        // No SOCK_NONBLOCK: on a non-blocking socket operations fail instead of arming.
        let entry = opcode::AcceptMulti::new(fd).allocate_file_index(true).build();
        self.push(&entry.user_data(tag.bits()));
    }

    fn accept_some_at(&mut self, listener: usize, count: usize) {
        let (tag, more) = self.ledger.acceptings.arm_some(listener, count);
        let fd = Fd(self.listeners[listener].as_raw_fd());
        for _ in 0..more {
            let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
                .file_index(Some(DestinationSlot::auto_target()))
                .build();
            self.push(&entry.user_data(tag.bits()));
        }
    }
}

impl Io for UringIo {
    fn accept(&mut self) {
        if self.listeners.is_empty() {
            self.ledger.done.push_back(Completion::AcceptStopped { error: Errno::BADF });
        }
        for listener in 0..self.listeners.len() {
            self.accept_at(listener);
        }
    }

    fn accept_some(&mut self, count: usize) {
        if self.listeners.is_empty() {
            self.ledger.done.push_back(Completion::AcceptStopped { error: Errno::BADF });
        }
        for listener in 0..self.listeners.len() {
            self.accept_some_at(listener, count);
        }
    }

    fn stop_accepting(&mut self) {
        for listener in 0..self.ledger.acceptings.len() {
            if let Some(tag) = self.ledger.acceptings.stop(listener) {
                let every = CancelBuilder::user_data(tag.bits()).all();
                self.push_housekeeping(opcode::AsyncCancel2::new(every).build());
            }
        }
    }

    fn ask_peer(&mut self, conn: ConnId) {
        let entry = self.ledger.asks.ask(conn);
        self.push(&entry);
    }

    fn recv(&mut self, conn: ConnId, patience: Patience) {
        let (tag, flags) = match patience {
            Patience::Wait => (self.ledger.armed.arm(conn, Watch::Recv), 0),
            Patience::DontWait => (Tag::armed(Kind::Recv, conn, false), libc::MSG_DONTWAIT),
        };
        let len = u32::try_from(self.ledger.buffers.bytes()).unwrap_or(u32::MAX);
        let entry = opcode::Recv::new(Fixed(conn.slot), std::ptr::null_mut(), len)
            .flags(flags)
            .buf_group(buffers::GROUP)
            .build();
        self.push(&entry.flags(Flags::BUFFER_SELECT).user_data(tag.bits()));
    }

    fn recv_standing(&mut self, conn: ConnId) {
        // Where its end is not reaped yet, reaping it will say that there is none.
        if self.ledger.armed.is_armed(conn, Watch::Recv) {
            return;
        }
        let tag = self.ledger.armed.arm(conn, Watch::Recv);
        let entry = opcode::RecvMulti::new(Fixed(conn.slot), buffers::GROUP).build();
        self.push(&entry.user_data(tag.bits()));
    }

    fn poll_readable(&mut self, conn: ConnId) {
        self.poll(conn, Watch::Read, INPUT, true);
    }

    fn poll_writable(&mut self, conn: ConnId) {
        self.poll(conn, Watch::Write, OUTPUT, false);
    }

    fn stop_receiving(&mut self, conn: ConnId) {
        if let Some(tag) = self.ledger.armed.take(conn, Watch::Recv) {
            self.push_cancel(tag);
        }
    }

    fn disarm(&mut self, conn: ConnId) {
        for tag in self.ledger.armed.take_all(conn).into_iter().flatten() {
            self.push_cancel(tag);
        }
    }

    fn send(&mut self, conn: ConnId, segments: Segments) {
        self.push_send(conn, segments, Behind::Nothing);
    }

    fn send_last(&mut self, conn: ConnId, segments: Segments) {
        self.push_send(conn, segments, Behind::End);
    }

    fn send_back(&mut self, conn: ConnId, buffer: BufferId, part: Range<usize>) {
        if self.ring.full() {
            self.carry_out(super::Linger::No);
        }
        let Ledger { sends, buffers, .. } = &mut self.ledger;
        let entry = sends.hold_received(conn, buffer, part, buffers);
        self.push(&entry);
    }

    fn shutdown(&mut self, conn: ConnId) {
        // The kernel does this one on a worker thread of the ring, always: see `half_closes`.
        if self.ledger.half_closes.begin(conn.slot) {
            let tag = Tag::armed(Kind::HalfClose, conn, false);
            let entry = opcode::Shutdown::new(Fixed(conn.slot), libc::SHUT_WR).build();
            self.push(&entry.user_data(tag.bits()));
        }
    }

    fn close(&mut self, conn: ConnId, how: CloseHow) {
        if how == CloseHow::Reset {
            let linger = (&raw const LINGER_NONE).cast();
            let (level, name) = (libc::SOL_SOCKET as u32, libc::SO_LINGER as u32);
            let len = size_of::<libc::linger>() as u32;
            let entry = opcode::SetSockOpt::new(Fixed(conn.slot), level, name, linger, len);
            self.push_housekeeping(entry.build());
        }
        // An armed poll keeps the socket: without its end neither FIN nor RST is sent.
        self.disarm(conn);
        if !self.ledger.half_closes.holds(conn.slot) {
            self.push_close(conn.slot);
        }
    }

    fn depart(&mut self, conn: ConnId, to: ShardId, parcel: Box<Parcel>) {
        let Some(peer) = self.peers.get(to.index()).copied() else {
            self.ledger.done.push_back(Completion::Stayed { conn, parcel, error: Errno::NXIO });
            return;
        };
        let (source, target) = self.ledger.departs.leave(conn, parcel);
        let slot = DestinationSlot::auto_target();
        let entry = opcode::MsgRingSendFd::new(Fd(peer), Fixed(conn.slot), slot, target.bits());
        self.push(&entry.build().user_data(source.bits()));
    }

    fn doorbell(&mut self, to: ShardId) {
        let Some(peer) = self.peers.get(to.index()).copied() else {
            self.ledger.failures += 1;
            return;
        };
        let target = Tag::new(Kind::Doorbell, 0);
        self.push_housekeeping(opcode::MsgRingData::new(Fd(peer), 0, target.bits(), None).build());
    }

    fn detach(&mut self, conn: ConnId) {
        let tag = Tag::armed(Kind::Detach, conn, false);
        // No flags: the descriptor is close-on-exec.
        let entry = opcode::FixedFdInstall::new(Fixed(conn.slot), 0).build();
        self.push(&entry.user_data(tag.bits()));
    }

    fn adopt(&mut self, fd: OwnedFd, parcel: Box<Parcel>) {
        // Whoever had the socket made it non-blocking. Linux 6.18 arms on such a socket all the
        // same; the accepted ones are blocking, and so is this one again. Where that fails the
        // socket is dead, and its first receive will say so.
        let blocking = rustix::io::ioctl_fionbio(&fd, false);
        tracing::trace!(?blocking, "adopting a socket");
        let entry = self.ledger.adoptions.adopt(fd, parcel);
        self.push(&entry);
    }

    fn buffer(&mut self, id: BufferId, len: usize) -> &mut [u8] {
        self.ledger.buffers.bytes_mut(id, len)
    }

    fn release(&mut self, id: BufferId) {
        self.ledger.buffers.release(id);
    }

    fn buffers_free(&self) -> usize {
        self.ledger.buffers.free()
    }

    fn buffers_free_low(&mut self) -> usize {
        self.ledger.buffers.take_low()
    }

    fn overflows(&self) -> u64 {
        self.overflows
    }

    fn submit(&mut self, wait: Wait) {
        while let Some((listener, wanted)) = self.ledger.acceptings.due() {
            match wanted {
                _ if listener >= self.listeners.len() => {}
                Wanted::Nothing => {}
                Wanted::Freely => self.accept_at(listener),
                Wanted::Some(count) => self.accept_some_at(listener, count),
            }
        }
        while let Some(slot) = self.ledger.half_closes.due() {
            self.push_close(slot);
        }
        self.ledger.buffers.offer();
        let linger = self.linger(wait);
        self.carry_out(linger);
    }

    fn reap(&mut self) -> Option<Completion> {
        self.ledger.reap()
    }
}
