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

/// The bytes as text, if they are UTF-8: a check at the speed of the first one, for who was given
/// bytes that were checked before and is not allowed to take that on trust.
#[inline]
#[must_use]
pub fn as_text(bytes: &[u8]) -> Option<&str> {
    simdutf8::basic::from_utf8(bytes).ok()
}

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

#[cfg(test)]
mod tests {
    use super::*;

    const _: () = assert!(size_of::<Utf8Stream>() <= 8, "a part of what every partial text holds");

    /// What the definition says: valid so far means that some continuation makes it valid.
    fn is_prefix_of_valid(bytes: &[u8]) -> bool {
        str::from_utf8(bytes).map_or_else(|error| error.error_len().is_none(), |_| true)
    }

    /// Pushes the pieces between `cuts`; how many bytes were pushed when it failed, or the verdict
    /// of `finish`.
    fn push_cut(bytes: &[u8], cuts: &[usize]) -> Result<bool, usize> {
        let mut stream = Utf8Stream::default();
        let mut from = 0;
        for &to in cuts.iter().chain([&bytes.len()]) {
            stream.push(&bytes[from..to]).map_err(|_| to)?;
            from = to;
        }
        Ok(stream.finish().is_ok())
    }

    fn assert_agrees(bytes: &[u8]) {
        let len = bytes.len();
        let first_bad = (1..=len).find(|end| !is_prefix_of_valid(&bytes[..*end]));
        let valid = str::from_utf8(bytes).is_ok();
        for cut in 0..=len {
            let expected = match first_bad {
                Some(bad) if bad <= cut => Err(cut),
                Some(_) => Err(len),
                None => Ok(valid),
            };
            assert_eq!(push_cut(bytes, &[cut]), expected, "{bytes:02x?} cut at {cut}");
        }
        let everywhere: Vec<usize> = (0..len).collect();
        assert_eq!(push_cut(bytes, &everywhere), first_bad.map_or(Ok(valid), Err), "{bytes:02x?}");
    }

    #[test]
    fn characters_of_every_length_may_be_cut_anywhere() {
        assert_agrees("".as_bytes());
        assert_agrees("a\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10000}\u{10ffff}z".as_bytes());
        let long = "\u{20ac}\u{1f600}x\u{e9}".repeat(20);
        assert_agrees(long.as_bytes());
    }

    #[test]
    fn every_lead_and_second_byte_is_judged_when_it_arrives() {
        for lead in 0..=u8::MAX {
            for second in 0..=u8::MAX {
                assert_agrees(&[lead, second]);
                assert_agrees(&[b'x', lead, second, 0x80]);
                assert_agrees(&[lead, second, 0x80, 0xbf]);
                assert_agrees(&[lead, second, 0x80, 0x41]);
            }
        }
    }

    #[test]
    fn surrogates_long_forms_and_values_beyond_unicode_are_refused_at_the_byte_that_tells() {
        // Autobahn 6.4: the text is wrong from the byte on that no valid text has there.
        let wrong: [(&[u8], usize); 6] = [
            (b"\xce\xba\xf4\x90\x80\x80", 4),
            (b"\xed\xa0\x80", 2),
            (b"\xc0\xaf", 1),
            (b"\xe0\x80\xaf", 2),
            (b"\xf5", 1),
            (b"ok\x80", 3),
        ];
        for (bytes, at) in wrong {
            let everywhere: Vec<usize> = (0..bytes.len()).collect();
            assert_eq!(push_cut(bytes, &everywhere), Err(at), "{bytes:02x?}");
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_character_is_refused_by_finish_alone() {
        for bytes in [&b"\xc3"[..], b"x\xe2\x82", b"\xf0\x9f\x98"] {
            assert_eq!(push_cut(bytes, &[]), Ok(false), "{bytes:02x?}");
        }
    }
}
