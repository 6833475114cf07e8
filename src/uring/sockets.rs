//! Turns what one asks of a socket into memory that the kernel reads and writes meanwhile.
//!
//! In:    a connection whose peer is asked for; an ordinary descriptor to take in.
//! Out:   addresses for entries; the answers.
//! Never: looks at the memory before its operation has completed.
//!
//! # Invariants
//! - The memory of an operation in flight is boxed and in a `Slots` until its completion is read.

use std::cell::UnsafeCell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use io_uring::squeue::Entry;
use io_uring::{opcode, types};

use crate::id::ConnId;
use crate::io::{Completion, Errno, Parcel};

use super::slots::Slots;
use super::tag::{Kind, Tag};

/// `SO_PEERNAME`: the socket option that equals `getpeername`.
const SO_PEERNAME: u32 = 28;
/// Bytes of a `sockaddr_in`.
const V4_BYTES: u32 = 16;
/// Bytes of a `sockaddr_in6`.
const V6_BYTES: u32 = 28;

struct Ask {
    conn: ConnId,
    /// Bytes asked for. The kernel refuses (EINVAL) to write less than it was asked for.
    bytes: u32,
    address: Box<UnsafeCell<[u8; V6_BYTES as usize]>>,
}

impl Ask {
    fn entry(&self, index: u32) -> Entry {
        opcode::GetSockOpt::new(
            types::Fixed(self.conn.slot),
            libc::SOL_SOCKET as u32,
            SO_PEERNAME,
            self.address.get().cast(),
            self.bytes,
        )
        .build()
        .user_data(Tag::new(Kind::Peer, u64::from(index)).bits())
    }

    fn answer(self) -> Option<IpAddr> {
        let bytes = self.address.into_inner();
        match i32::from(family(&bytes)) {
            libc::AF_INET => Some(IpAddr::V4(Ipv4Addr::from(*bytes[4..].first_chunk::<4>()?))),
            libc::AF_INET6 => {
                let address = Ipv6Addr::from(*bytes[8..].first_chunk::<16>()?);
                // A listener on `::` shows IPv4 peers as ::ffff:a.b.c.d; they are one peer.
                Some(address.to_canonical())
            }
            _ => None,
        }
    }
}

fn family(bytes: &[u8; V6_BYTES as usize]) -> u16 {
    u16::from_ne_bytes([bytes[0], bytes[1]])
}

/// Peers that are being asked for.
pub(super) struct Asks {
    asks: Slots<Ask>,
    again: Vec<u32>,
    /// What the last answer needed: nearly all of a listener's connections are of one family.
    bytes: u32,
}

impl Asks {
    /// None.
    pub(super) fn new() -> Self {
        Self { asks: Slots::new(), again: Vec::new(), bytes: V4_BYTES }
    }

    /// The entry that asks for a connection's peer.
    pub(super) fn ask(&mut self, conn: ConnId) -> Entry {
        let address = Box::new(UnsafeCell::new([0; V6_BYTES as usize]));
        let index = self.asks.keep(Ask { conn, bytes: self.bytes, address });
        // The entry points into the box, which stays where it is while `Slots` moves its owner.
        match self.asks.get_mut(index) {
            Some(ask) => ask.entry(index),
            None => opcode::Nop::new().build(),
        }
    }

    /// The completion of an ask; `None` where it has to be asked again with more or less room.
    pub(super) fn answered(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        let index = u32::try_from(tag.subject).ok()?;
        let ask = self.asks.get_mut(index)?;
        let cut = result == V4_BYTES.cast_signed()
            && i32::from(family(ask.address.get_mut())) == libc::AF_INET6;
        let other = match ask.bytes {
            V4_BYTES if cut => V6_BYTES,
            V6_BYTES if result == -libc::EINVAL => V4_BYTES,
            _ => {
                let ask = self.asks.take(index)?;
                let conn = ask.conn;
                let address = if result > 0 { ask.answer() } else { None };
                return Some(Completion::Peer { conn, address });
            }
        };
        ask.bytes = other;
        self.bytes = other;
        self.again.push(index);
        None
    }

    /// An entry that asks once more.
    pub(super) fn again(&mut self) -> Option<Entry> {
        let index = self.again.pop()?;
        self.asks.get_mut(index).map(|ask| ask.entry(index))
    }
}

struct Adoption {
    /// Read by the kernel as a descriptor, written as a slot.
    cell: Box<UnsafeCell<RawFd>>,
    fd: OwnedFd,
    parcel: Box<Parcel>,
}

/// Ordinary descriptors on their way into the table.
pub(super) struct Adoptions(Slots<Adoption>);

impl Adoptions {
    /// None.
    pub(super) fn new() -> Self {
        Self(Slots::new())
    }

    /// The entry that puts a socket into a free slot of the table.
    pub(super) fn adopt(&mut self, fd: OwnedFd, parcel: Box<Parcel>) -> Entry {
        let cell = Box::new(UnsafeCell::new(fd.as_raw_fd()));
        let address = cell.get();
        let index = self.0.keep(Adoption { cell, fd, parcel });
        // Offset -1 is IORING_FILE_INDEX_ALLOC: any free slot.
        opcode::FilesUpdate::new(address, 1)
            .offset(-1)
            .build()
            .user_data(Tag::new(Kind::Adopt, u64::from(index)).bits())
    }

    /// The completion of an adoption; where it failed, the ordinary descriptor is given back.
    pub(super) fn adopted(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        let Adoption { cell, fd, parcel } = self.0.take(u32::try_from(tag.subject).ok()?)?;
        match (result, u32::try_from(cell.into_inner())) {
            (1, Ok(slot)) => Some(Completion::Arrived { slot, parcel }),
            (result, _) => {
                let error = Errno::from_raw_os_error(result.saturating_neg().max(1));
                Some(Completion::AdoptFailed { fd, parcel, error })
            }
        }
    }
}

/// How long a connection may say nothing before it is accepted all the same: at least one of the
/// kernel's repetitions of its own part of the handshake, which come after 1, 3 and 7 seconds.
static DEFER_SECONDS: libc::c_int = 1;

/// Lets a listener accept connections only when they have said something.
///
/// One wake-up fewer a handshake, and no receive that has to wait.
///
/// # Errors
/// What the kernel says.
pub(super) fn defer_accept(listener: BorrowedFd<'_>) -> io::Result<()> {
    let (value, len) = ((&raw const DEFER_SECONDS).cast(), size_of::<libc::c_int>());
    let (level, name) = (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT);
    // SAFETY: the kernel reads `len` bytes of a constant while the call lasts; the descriptor is
    // borrowed for as long.
    let done = unsafe {
        libc::setsockopt(listener.as_raw_fd(), level, name, value, len as libc::socklen_t)
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: [u8; V6_BYTES as usize]) -> Option<IpAddr> {
        let conn = ConnId { slot: 0, generation: 0 };
        Ask { conn, bytes: V6_BYTES, address: Box::new(UnsafeCell::new(bytes)) }.answer()
    }

    #[test]
    fn an_address_is_read_by_its_family() {
        let mut bytes = [0; V6_BYTES as usize];
        assert_eq!(answer(bytes), None);
        bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        bytes[4..8].copy_from_slice(&[127, 0, 0, 9]);
        assert_eq!(answer(bytes), Some(IpAddr::from([127, 0, 0, 9])));
        bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
        bytes[8..24].copy_from_slice(&Ipv6Addr::LOCALHOST.octets());
        assert_eq!(answer(bytes), Some(IpAddr::from(Ipv6Addr::LOCALHOST)));
        bytes[8..24].copy_from_slice(&Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
        assert_eq!(answer(bytes), Some(IpAddr::from(Ipv4Addr::LOCALHOST)));
    }
}
