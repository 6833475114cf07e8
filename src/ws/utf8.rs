//! Turns chunks of text into a verdict on their UTF-8, as soon as the offending byte is there.
//!
//! In:    a text, cut anywhere, also inside a character.
//! Out:   `NotUtf8` at the first chunk that no continuation can make valid.
//! Never: keeps more than the bytes of one unfinished character.
//!
//! # Invariants
//! - `pending[..len]` is a proper prefix of a valid character; `len <= 3`.

use std::str;

/// The text is not UTF-8, and nothing that could follow would make it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8;

/// A check of UTF-8 that is fed in chunks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Utf8Stream {
    pending: [u8; 3],
    len: u8,
}

impl Utf8Stream {
    /// Checks the next chunk.
    ///
    /// # Errors
    /// Where the text so far is no prefix of any UTF-8 text.
    pub fn push(&mut self, chunk: &[u8]) -> Result<(), NotUtf8> {
        let chunk = self.finish_pending(chunk)?;
        let (whole, tail) = chunk.split_at(unfinished_at(chunk));
        if simdutf8::basic::from_utf8(whole).is_err() {
            return Err(NotUtf8);
        }
        if !tail.is_empty() {
            if !may_become_valid(tail) {
                return Err(NotUtf8);
            }
            self.pending[..tail.len()].copy_from_slice(tail);
            self.len = tail.len() as u8;
        }
        Ok(())
    }

    /// Checks that the text does not end inside a character.
    ///
    /// # Errors
    /// Where it does.
    pub fn finish(self) -> Result<(), NotUtf8> {
        if self.len == 0 { Ok(()) } else { Err(NotUtf8) }
    }

    /// Completes the character that an earlier chunk began; returns what follows it.
    fn finish_pending<'a>(&mut self, mut chunk: &'a [u8]) -> Result<&'a [u8], NotUtf8> {
        while self.len > 0 {
            let Some((&next, rest)) = chunk.split_first() else { break };
            chunk = rest;
            let len = usize::from(self.len);
            let mut character = [0; 4];
            character[..len].copy_from_slice(&self.pending[..len]);
            character[len] = next;
            let character = &character[..=len];
            if str::from_utf8(character).is_ok() {
                self.len = 0;
            } else if may_become_valid(character) {
                self.pending[len] = next;
                self.len += 1;
            } else {
                return Err(NotUtf8);
            }
        }
        Ok(chunk)
    }

    /// The four bytes that [`Utf8Stream::from_bytes`] reads.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 4] {
        let [a, b, c] = self.pending;
        [self.len, a, b, c]
    }

    /// Reads what [`Utf8Stream::to_bytes`] wrote; `None` for anything else.
    #[must_use]
    pub fn from_bytes([len, a, b, c]: [u8; 4]) -> Option<Self> {
        let pending = [a, b, c];
        let held = pending.get(..usize::from(len))?;
        (held.is_empty() || may_become_valid(held)).then_some(Self { pending, len })
    }
}

/// Whether `bytes`, which are not valid, are a valid text and the beginning of one more character.
fn may_become_valid(bytes: &[u8]) -> bool {
    str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Where the unfinished character at the end begins; `bytes.len()` where there is none.
///
/// Only the lead byte is judged here: what is wrong otherwise, the checks of the two parts find.
fn unfinished_at(bytes: &[u8]) -> usize {
    for back in 1..=bytes.len().min(3) {
        let at = bytes.len() - back;
        let needs = match bytes[at] {
            0x80..=0xbf => continue,
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            _ => 1,
        };
        return if needs > back { at } else { bytes.len() };
    }
    bytes.len()
}
