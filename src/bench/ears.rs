//! Turns the messages that a member of a room receives into stamps, all their bytes compared.
//!
//! In:    messages, whole or in pieces.
//! Out:   what is told to the `Score`.
//! Never: copies a raw message.

use crate::ws::Opcode;

use super::fault::{Fault, shown};
use super::frames::Sink;
use super::json;
use super::message::{STAMP_BYTES, Stamp};
use super::score::Score;

/// Hears a raw room, or an echo.
pub(super) struct RawEar<'a> {
    pub(super) score: &'a mut Score,
    pub(super) sent: &'a [u32],
    pub(super) number: usize,
    pub(super) room: usize,
}

impl Sink for RawEar<'_> {
    const KEPT: usize = STAMP_BYTES;

    #[inline]
    fn whole(&mut self, payload: &[u8]) -> Result<(), Fault> {
        match (Stamp::read(payload), payload.get(STAMP_BYTES..)) {
            (Some(stamp), Some(rest)) if *rest == *self.score.filler => {
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            _ => Err(self.score.differs(self.number, payload)),
        }
    }

    fn piece(&mut self, at: usize, bytes: &[u8]) -> Result<(), Fault> {
        let at = at - STAMP_BYTES;
        let expected = self.score.filler.get(at..at + bytes.len()).unwrap_or_default();
        match expected == bytes {
            true => Ok(()),
            false => Err(Fault::differs(self.number, expected, bytes)),
        }
    }

    fn last(&mut self, kept: &[u8], len: usize) -> Result<(), Fault> {
        match Stamp::read(kept) {
            Some(stamp) if len == self.score.shape.bytes => {
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            _ => Err(Fault::new(format!(
                "connection {} received {len} bytes, {} were sent: {}",
                self.number,
                self.score.shape.bytes,
                shown(kept)
            ))),
        }
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.score.control(self.number, opcode, payload)
    }
}

/// Hears a JSON room.
pub(super) struct JsonEar<'a> {
    pub(super) score: &'a mut Score,
    pub(super) sent: &'a [u32],
    pub(super) number: usize,
    pub(super) room: usize,
}

impl JsonEar<'_> {
    /// The offset is the next one: everybody in the room hears all of it in one order.
    fn follows(&mut self, offset: u64) -> bool {
        let last = &mut self.score.offsets[self.number];
        let follows = offset == *last + 1;
        *last = offset;
        follows
    }
}

impl Sink for JsonEar<'_> {
    const KEPT: usize = usize::MAX;

    fn whole(&mut self, text: &[u8]) -> Result<(), Fault> {
        let content_bytes = self.score.shape.bytes;
        match json::read(text, content_bytes) {
            Some(json::Event::Said { room, sender, content, offset }) => {
                let stamp = Stamp::read(content);
                let right = room == self.room && content[STAMP_BYTES..] == *self.score.filler;
                let Some(stamp) = stamp.filter(|stamp| right && stamp.speaker == sender) else {
                    return Err(self.score.differs(self.number, content));
                };
                if !self.follows(offset) {
                    return Err(Fault::new(format!(
                        "connection {} heard offset {offset}, which does not follow its last one: \
                         {}",
                        self.number,
                        shown(text)
                    )));
                }
                self.score.heard(self.number, self.room, stamp, self.sent)
            }
            Some(json::Event::Joined { offset }) => {
                self.score.offsets[self.number] = offset;
                Ok(())
            }
            Some(json::Event::Announced) => Ok(()),
            None => Err(Fault::new(format!(
                "connection {} received what was not to come: {}",
                self.number,
                shown(text)
            ))),
        }
    }

    fn piece(&mut self, _at: usize, _bytes: &[u8]) -> Result<(), Fault> {
        Ok(())
    }

    fn last(&mut self, kept: &[u8], _len: usize) -> Result<(), Fault> {
        self.whole(kept)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<(), Fault> {
        self.score.control(self.number, opcode, payload)
    }
}
