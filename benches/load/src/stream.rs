//! The stream of a room, as all its members have to receive it.
//!
//! In:    bytes that a member received, and where in the stream they stand.
//! Out:   whether they are right; which messages everyone has; who may speak next.
//! Never: keeps what everyone has received.
//!
//! # Invariants
//! - `checked <= bytes.len()`: what lies before was checked frame by frame.
//! - `base` is where `bytes` begins in the stream.

use std::collections::VecDeque;

use crate::wire;

/// Members that speak.
pub const PUBLISHERS: usize = 8;
/// Messages that each of them has in flight.
pub const WINDOW: usize = 8;
/// Bytes that everyone has and that are kept until there are so many of them.
const KEPT: u64 = 1 << 20;

/// The stream so far.
#[derive(Debug, Default)]
pub struct Stream {
    bytes: Vec<u8>,
    base: u64,
    checked: usize,
    /// The newest offset.
    offset: u64,
    /// Messages said by each speaker, and of these how many came back.
    said: [u64; PUBLISHERS],
    back: [u64; PUBLISHERS],
    /// Speakers of messages that not everyone has, and where these end.
    waiting: VecDeque<(u64, usize)>,
    stopped: bool,
}

/// The content of a speaker's message: 64 bytes of JSON.
pub fn say(speaker: usize, number: u64) -> String {
    format!("\"speaker {speaker} message {number:012} abcdefghijklmnopqrstuvwxyz01234\"")
}

impl Stream {
    /// Takes in what a member received at a place in the stream.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn take(&mut self, at: u64, bytes: &[u8]) -> Result<(), String> {
        let start = usize::try_from(at - self.base).map_err(|error| error.to_string())?;
        let known = bytes.len().min(self.bytes.len() - start);
        if self.bytes[start..start + known] != bytes[..known] {
            return Err(format!("got other bytes than the others at {at}: {}", shown(bytes)));
        }
        self.bytes.extend_from_slice(&bytes[known..]);
        self.check()
    }

    fn check(&mut self) -> Result<(), String> {
        while let Some(frame) = wire::frame(&self.bytes[self.checked..]) {
            let end = self.checked + frame.len;
            if frame.first != wire::TEXT {
                return Err(format!("an odd frame: {}", shown(&self.bytes[self.checked..end])));
            }
            if !frame.payload.starts_with(b"{\"type\":\"members\",\"room\":\"big\",") {
                let speaker = self.checked_said(frame.payload)?;
                self.waiting.push_back((self.base + end as u64, speaker));
            }
            self.checked = end;
        }
        Ok(())
    }

    /// One offset a message, and each speaker's in the order said.
    fn checked_said(&self, payload: &[u8]) -> Result<usize, String> {
        let offset = self.offset + self.waiting_unseen() + 1;
        let at = b"{\"room\":\"big\",\"sender\":\"speaker".len();
        let digit = payload.get(at).copied().unwrap_or(0);
        let speaker = usize::from(digit.wrapping_sub(b'0'));
        let number = self.back.get(speaker).copied().unwrap_or(0) + self.unseen_of(speaker);
        let content = say(speaker, number);
        let wanted = format!(
            "{{\"room\":\"big\",\"sender\":\"speaker{speaker}\",\"content\":{content},\
             \"offset\":{offset}}}"
        );
        if payload != wanted.as_bytes() {
            return Err(format!("wanted {wanted}, got {}", shown(payload)));
        }
        Ok(speaker)
    }

    fn waiting_unseen(&self) -> u64 {
        self.waiting.len() as u64
    }

    fn unseen_of(&self, speaker: usize) -> u64 {
        self.waiting.iter().filter(|(_, of)| *of == speaker).count() as u64
    }

    /// Forgets what even the slowest has; the speakers whose messages everyone now has.
    pub fn delivered(&mut self, slowest: u64) -> Vec<usize> {
        let mut speakers = Vec::new();
        while let Some((_, speaker)) = self.waiting.pop_front_if(|(end, _)| *end <= slowest) {
            self.offset += 1;
            self.back[speaker] += 1;
            speakers.push(speaker);
        }
        let old = slowest - self.base;
        if old >= KEPT {
            let old = (old as usize).min(self.checked);
            self.bytes.drain(..old);
            self.base += old as u64;
            self.checked -= old;
        }
        speakers
    }

    /// The number of a speaker's next message; `None` when all has been said.
    pub fn next_of(&mut self, speaker: usize) -> Option<u64> {
        let number = self.said[speaker];
        self.said[speaker] += u64::from(!self.stopped);
        (!self.stopped).then_some(number)
    }

    /// Lets nobody speak any more.
    pub fn stop(&mut self) {
        self.stopped = true;
    }

    /// Messages said that not everyone has.
    pub fn in_flight(&self) -> u64 {
        self.said.iter().sum::<u64>() - self.offset
    }

    /// Messages that everyone has.
    pub fn said(&self) -> u64 {
        self.offset
    }

    /// Where the stream ends.
    pub fn end(&self) -> u64 {
        self.base + self.bytes.len() as u64
    }
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(speaker: usize, number: u64, offset: u64) -> Vec<u8> {
        let content = say(speaker, number);
        let text = format!(
            "{{\"room\":\"big\",\"sender\":\"speaker{speaker}\",\"content\":{content},\
             \"offset\":{offset}}}"
        );
        let mut frame = vec![wire::TEXT, 126];
        frame.extend_from_slice(&(text.len() as u16).to_be_bytes());
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    /// What one member receives, from the start of the stream.
    fn first(frames: &[Vec<u8>]) -> Result<Stream, String> {
        let mut stream = Stream::default();
        stream.take(0, &frames.concat()).map(|()| stream)
    }

    #[test]
    fn the_right_stream_passes_in_any_pieces() {
        let bytes = [said(0, 0, 1), said(1, 0, 2), said(0, 1, 3)].concat();
        let mut stream = Stream::default();
        for at in (0..bytes.len()).step_by(7) {
            stream.take(at as u64, &bytes[at..bytes.len().min(at + 7)]).unwrap();
        }
        stream.take(0, &bytes).unwrap();
        assert_eq!(stream.end(), bytes.len() as u64);
        assert_eq!(stream.delivered(bytes.len() as u64), [0, 1, 0]);
        assert_eq!(stream.said(), 3);
    }

    #[test]
    fn a_missing_a_repeated_and_a_swapped_message_are_found() {
        let [a, b, c] = [said(0, 0, 1), said(0, 1, 2), said(0, 2, 3)];
        assert!(first(&[a.clone(), b.clone(), c.clone()]).is_ok());
        assert!(first(&[a.clone(), c.clone()]).is_err());
        assert!(first(&[a.clone(), a.clone()]).is_err());
        assert!(first(&[b.clone(), a.clone()]).is_err());
        assert!(first(&[a.clone(), said(0, 2, 2)]).is_err());
        assert!(first(&[a, said(0, 1, 3)]).is_err());
    }

    #[test]
    fn a_member_that_gets_other_bytes_than_the_first_is_found() {
        let [a, b, c] = [said(0, 0, 1), said(0, 1, 2), said(0, 2, 3)];
        let mut stream = first(&[a.clone(), b.clone(), c.clone()]).unwrap();
        assert!(stream.take(0, &[a.clone(), b.clone()].concat()).is_ok());
        assert!(stream.take(0, &[a.clone(), c].concat()).is_err());
        assert!(stream.take(0, &[a.clone(), a].concat()).is_err());
        assert!(stream.take(0, &b).is_err());
    }
}
