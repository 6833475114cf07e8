//! Turns a connection's parcel into an address that crosses the rings, and back into a parcel.
//!
//! In:    a parcel, when its connection departs; the completion on either side.
//! Out:   the 48 bits that the target's completion carries; the parcel.
//! Never: frees a parcel that the other side may hold.
//!
//! # Invariants
//! - A parcel in flight belongs to nobody in Rust's sense: its address is in the kernel, in one
//!   entry or one completion. It becomes a `Box` again at exactly one place: at the target when
//!   the target's completion is read, or at the source when the source's completion is a failure,
//!   and the kernel posts the target's completion only when the source's is a success.

use std::ptr::NonNull;

use crate::id::ConnId;
use crate::io::{Completion, Errno, Parcel};

use super::slots::Slots;
use super::tag::{Kind, Tag};

/// Departures under way.
pub(super) struct Departs(Slots<(ConnId, NonNull<Parcel>)>);

impl Departs {
    /// None.
    pub(super) fn new() -> Self {
        Self(Slots::new())
    }

    /// Lets go of a parcel; the tags of the source's and of the target's completion.
    pub(super) fn leave(&mut self, conn: ConnId, parcel: Box<Parcel>) -> (Tag, Tag) {
        let address = NonNull::from(Box::leak(parcel));
        let index = self.0.keep((conn, address));
        let subject = address.as_ptr().expose_provenance() as u64;
        (Tag::new(Kind::Depart, u64::from(index)), Tag::new(Kind::Arrived, subject))
    }

    /// The source's completion.
    pub(super) fn left(&mut self, tag: Tag, result: i32) -> Option<Completion> {
        let (conn, address) = self.0.take(u32::try_from(tag.subject).ok()?)?;
        if result >= 0 {
            return Some(Completion::Departed { conn });
        }
        // SAFETY: the address came from a `Box` in `leave`, and `take` gives it out once. The
        // source's completion is a failure, so the kernel has not posted the target's, and never
        // will: nobody else has or will have this parcel.
        let parcel = unsafe { Box::from_raw(address.as_ptr()) };
        let error = Errno::from_raw_os_error(result.saturating_neg());
        Some(Completion::Stayed { conn, parcel, error })
    }

    /// Departures whose completion has not been read.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// The target's completion: the parcel is ours now.
pub(super) fn arrive(tag: Tag, result: i32) -> Option<Completion> {
    // A negative result is not posted to a target; without a slot there would be no connection.
    let slot = u32::try_from(result).ok()?;
    let address =
        std::ptr::with_exposed_provenance_mut::<Parcel>(usize::try_from(tag.subject).ok()?);
    // SAFETY: only `Departs::leave` makes tags of this kind, from a `Box` that it leaked, in this
    // process. The kernel posts the completion once, and only if the source's will be a success,
    // upon which the source forgets the address: this is the one owner. If the source's ring dies
    // first, nothing changes; if this ring dies first, `UringIo::drop` reads its last completions
    // through here.
    let parcel = unsafe { Box::from_raw(address) };
    Some(Completion::Arrived { slot, parcel })
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONN: ConnId = ConnId { slot: 3, generation: 1 };

    #[test]
    fn a_parcel_goes_to_exactly_one_side() {
        let mut departs = Departs::new();
        let (source, target) = departs.leave(CONN, Box::new(Parcel(vec![1])));
        let Some(Completion::Arrived { slot: 9, parcel }) = arrive(target, 9) else { panic!() };
        assert_eq!(parcel.0, [1]);
        assert!(matches!(departs.left(source, 0), Some(Completion::Departed { conn: CONN })));
        assert!(departs.left(source, 0).is_none());

        let (source, _) = departs.leave(CONN, Box::new(Parcel(vec![2])));
        let Some(Completion::Stayed { parcel, error, .. }) = departs.left(source, -libc::ENFILE)
        else {
            panic!()
        };
        assert_eq!((parcel.0.as_slice(), error, departs.len()), ([2].as_slice(), Errno::NFILE, 0));
    }
}
