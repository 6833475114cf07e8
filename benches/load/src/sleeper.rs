//! What a member finds that wakes up late.
//!
//! In:    its connection.
//! Out:   how many messages it got and how many it was told that it missed.
//! Never: accepts a gap that no `lag` has named.

use std::io;

use crate::link::{Link, Reading};
use crate::wire;

/// What it has read.
#[derive(Debug, Default)]
pub struct Sleeper {
    received: u64,
    missed: u64,
    /// Offset of the newest message that it got or was told of.
    offset: u64,
}

impl Sleeper {
    /// Reads on.
    ///
    /// # Errors
    /// What the kernel says; and a message that is out of order, or a gap that was not named.
    pub fn read(&mut self, link: &mut Link, scratch: &mut [u8]) -> io::Result<Reading> {
        link.receive(scratch, |bytes| {
            let mut used = 0;
            while let Some(frame) = wire::frame(&bytes[used..]) {
                self.take(&String::from_utf8_lossy(frame.payload)).map_err(io::Error::other)?;
                used += frame.len;
            }
            Ok(used)
        })
    }

    fn take(&mut self, text: &str) -> Result<(), String> {
        let offset = wire::number(text, "offset");
        if text.starts_with("{\"type\":\"lag\"") {
            let missed = wire::number(text, "missed").unwrap_or(0);
            self.missed += missed;
            self.offset = offset.unwrap_or(0);
            // The oldest go, one behind the other: what is named is the whole gap.
            if self.received + self.missed != self.offset {
                return Err(format!("the gap is another: {self:?} after {text}"));
            }
            return Ok(());
        }
        if let (Some(offset), true) = (offset, text.starts_with("{\"room\":\"big\",")) {
            if offset != self.offset + 1 {
                return Err(format!("{self:?}, then {text}"));
            }
            self.offset = offset;
            self.received += 1;
        }
        Ok(())
    }

    /// Messages received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Messages that it was told it missed.
    pub fn missed(&self) -> u64 {
        self.missed
    }

    /// Offset of the newest one.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[String]) -> Result<Sleeper, String> {
        let mut sleeper = Sleeper::default();
        texts.iter().try_for_each(|text| sleeper.take(text)).map(|()| sleeper)
    }

    fn said(offset: u64) -> String {
        format!("{{\"room\":\"big\",\"sender\":\"speaker0\",\"content\":1,\"offset\":{offset}}}")
    }

    fn lag(missed: u64, offset: u64) -> String {
        format!("{{\"type\":\"lag\",\"room\":\"big\",\"missed\":{missed},\"offset\":{offset}}}")
    }

    #[test]
    fn a_gap_has_to_be_named_and_is_counted() {
        let sleeper = read(&[said(1), lag(3, 4), said(5)]).unwrap();
        assert_eq!((sleeper.received(), sleeper.missed(), sleeper.offset()), (2, 3, 5));
        assert!(read(&[said(1), said(3)]).is_err());
        assert!(read(&[said(1), said(1)]).is_err());
        assert!(read(&[said(1), lag(4, 4)]).is_err());
        assert!(read(&[said(1), lag(2, 4), said(5)]).is_err());
    }
}
