//! Turns what one member of a room of ten is sent into what it has heard, and judges it.
//!
//! In:    bytes of the server, from the 101 on.
//! Out:   what happened, and whether it may: who joined, left and spoke, pings, the end.
//! Never: knows a socket; lets a byte pass that it cannot explain.

use crate::wire;

/// Members of a room.
pub const ROOM: u32 = 10;
/// Everyone of a room, as bits of `Member`.
const ALL: u16 = (1 << ROOM) - 1;

/// What the server tells everyone before a shutdown.
const FAREWELL: &[u8] = b"{\"type\":\"system\",\"message\":\"Server is shutting down\"}";

/// What happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It is in the room.
    Joined,
    /// Somebody's message.
    Message,
    /// Somebody came or went.
    News,
    /// A ping, which it has to answer.
    Ping,
    /// The server shuts down.
    Farewell,
    /// A close frame with this code, which it has to answer where it did not begin.
    Close(u16),
}

/// One member: what it has heard of the ten of its room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
    upgraded: bool,
    joined: bool,
    /// It was told that the server shuts down.
    pub warned: bool,
    /// Who is in the room, as far as it was told.
    pub present: u16,
    /// Whose message it has heard.
    pub spoken: u16,
    /// Offset of the last message.
    offset: u8,
    /// Joins and leaves of others since the last look.
    pub news: u8,
    /// Its closing handshake has begun.
    pub closing: bool,
}

/// What a member asks for.
pub fn path(member: u32) -> String {
    format!("/ws/r{}/u{member}", member / ROOM)
}

/// What it says, once.
pub fn message(member: u32) -> String {
    format!("{{\"content\":\"a word of u{member}\"}}")
}

impl Member {
    /// A member that connects again: it knows nothing, but for what was said before it left.
    pub fn returns(&mut self) {
        *self = Self { spoken: self.spoken, offset: self.offset, ..Self::default() };
    }

    /// Whether it knows of everyone in the room.
    pub fn knows_all(&self) -> bool {
        self.present == ALL
    }

    /// From now on everyone counts as present: the room is complete.
    pub fn assume_all(&mut self) {
        self.present = ALL;
    }

    /// Whether it has heard everyone.
    pub fn heard_all(&self) -> bool {
        self.spoken == ALL
    }

    /// The next thing in `bytes`, and how many bytes it takes; `None` while it is incomplete.
    ///
    /// # Errors
    /// What should not have been sent.
    pub fn hear(&mut self, number: u32, bytes: &[u8]) -> Result<Option<(Heard, usize)>, String> {
        if !self.upgraded {
            let Some(end) = wire::answer(bytes)? else { return Ok(None) };
            self.upgraded = true;
            return Ok(self.hear(number, &bytes[end..])?.map(|(heard, used)| (heard, used + end)));
        }
        let Some(frame) = wire::frame(bytes) else { return Ok(None) };
        let heard = match frame.first {
            wire::TEXT => self.text(number, frame.payload),
            wire::PING => Ok(Heard::Ping),
            wire::CLOSE => {
                let code = frame.payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                code.map(Heard::Close).ok_or("no code")
            }
            _ => Err("unknown frame"),
        };
        let heard = heard.map_err(|what| {
            let text = String::from_utf8_lossy(frame.payload);
            format!("member {number}: {what} in {:#x} {text} ({self:?})", frame.first)
        })?;
        Ok(Some((heard, frame.len)))
    }

    fn text(&mut self, number: u32, text: &[u8]) -> Result<Heard, &'static str> {
        let room = number / ROOM;
        if let Some(rest) = text.strip_prefix(b"{\"type\":\"joined\",\"room\":\"r") {
            let (told, rest) = digits(rest).ok_or("no room")?;
            let offset = format!("\",\"offset\":{},\"recovered\":false}}", self.offset);
            let right = told == room && rest.starts_with(b"\",\"epoch\":\"");
            if self.joined || !right || !rest.ends_with(offset.as_bytes()) {
                return Err("a wrong welcome");
            }
            self.joined = true;
            return Ok(Heard::Joined);
        }
        if !self.joined {
            return Err("words before the welcome");
        }
        if text == FAREWELL {
            let told = std::mem::replace(&mut self.warned, true);
            return if told { Err("told twice") } else { Ok(Heard::Farewell) };
        }
        let rest = text.strip_prefix(b"{\"room\":\"r").ok_or("something else")?;
        let (told, rest) = digits(rest).ok_or("no room")?;
        if told != room {
            return Err("another room's words");
        }
        let rest = rest.strip_prefix(b"\",\"sender\":\"").ok_or("no sender")?;
        match rest.strip_prefix(b"system\",\"content\":\"u") {
            Some(rest) => self.announcement(number, rest),
            None => self.message(room, rest),
        }
    }

    fn announcement(&mut self, number: u32, rest: &[u8]) -> Result<Heard, &'static str> {
        let (who, rest) = digits(rest).ok_or("nobody")?;
        let bit = bit(number / ROOM, who).ok_or("a stranger")?;
        let came = match rest {
            b" has joined the room\"}" => true,
            b" has left the room\"}" => false,
            _ => return Err("no news"),
        };
        if came == (self.present & bit != 0) {
            return Err("old news");
        }
        self.present ^= bit;
        self.news += u8::from(who != number);
        Ok(Heard::News)
    }

    fn message(&mut self, room: u32, rest: &[u8]) -> Result<Heard, &'static str> {
        let rest = rest.strip_prefix(b"u").ok_or("no user")?;
        let (who, rest) = digits(rest).ok_or("no user's number")?;
        let bit = bit(room, who).ok_or("a stranger")?;
        let rest = rest.strip_prefix(b"\",\"content\":\"a word of u").ok_or("no content")?;
        let (of, rest) = digits(rest).ok_or("no content's number")?;
        let rest = rest.strip_prefix(b"\",\"offset\":").ok_or("no offset")?;
        let (offset, rest) = digits(rest).ok_or("no offset's number")?;
        if of != who || rest != b"}" {
            return Err("other words than were said");
        }
        if self.spoken & bit != 0 {
            return Err("a repetition");
        }
        if offset != u32::from(self.offset) + 1 {
            return Err("not the next offset");
        }
        self.offset += 1;
        self.spoken |= bit;
        Ok(Heard::Message)
    }
}

/// The bit of a member of the room.
fn bit(room: u32, who: u32) -> Option<u16> {
    (who / ROOM == room).then_some(1 << (who % ROOM))
}

/// A number, and what stands behind it.
fn digits(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let len = bytes.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let number = bytes[..len]
        .iter()
        .fold(0u32, |number, digit| number.wrapping_mul(10).wrapping_add(u32::from(digit - b'0')));
    (1..=9).contains(&len).then_some((number, &bytes[len..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(text: &str) -> Vec<u8> {
        let mut frame = vec![wire::TEXT, u8::try_from(text.len()).unwrap()];
        frame.extend_from_slice(text.as_bytes());
        frame
    }

    fn said(who: u32, offset: u32) -> Vec<u8> {
        framed(&format!(
            "{{\"room\":\"r4\",\"sender\":\"u{who}\",\"content\":\"a word of u{who}\",\
             \"offset\":{offset}}}"
        ))
    }

    fn news(who: u32, what: &str) -> Vec<u8> {
        framed(&format!(
            "{{\"room\":\"r4\",\"sender\":\"system\",\"content\":\"u{who} has {what} the room\"}}"
        ))
    }

    fn seated() -> Member {
        Member { upgraded: true, joined: true, present: ALL, ..Member::default() }
    }

    #[test]
    fn everyone_is_heard_once_and_in_order() {
        let mut member = seated();
        for place in 0..ROOM {
            assert!(!member.heard_all());
            let frame = said(40 + place, place + 1);
            assert_eq!(member.hear(41, &frame), Ok(Some((Heard::Message, frame.len()))));
        }
        assert!(member.heard_all());
    }

    #[test]
    fn what_nobody_said_is_refused() {
        for (frame, why) in [
            (said(50, 1), "a stranger"),
            (said(42, 2), "not the next offset"),
            (news(43, "joined"), "old news"),
            (news(53, "left"), "a stranger"),
            (framed("{\"room\":\"r5\"}"), "another room"),
            (framed("{\"type\":\"lag\"}"), "something else"),
            (vec![wire::BINARY, 0], "unknown frame"),
        ] {
            let error = seated().hear(41, &frame).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut member = seated();
        member.hear(41, &said(42, 1)).unwrap();
        assert!(member.hear(41, &said(42, 2)).unwrap_err().contains("a repetition"));
        let mut wrong = said(42, 2);
        let at = wrong.windows(4).position(|part| part == b"word").unwrap();
        wrong[at] ^= 1;
        assert!(member.hear(41, &wrong).unwrap_err().contains("no content"));
    }

    #[test]
    fn a_return_is_told_of_by_a_leave_and_a_join() {
        let mut member = seated();
        assert_eq!(member.hear(41, &news(43, "left")).unwrap().unwrap().0, Heard::News);
        assert!(!member.knows_all());
        member.hear(41, &news(43, "joined")).unwrap();
        assert!(member.knows_all() && member.news == 2);
    }

    #[test]
    fn an_incomplete_frame_is_waited_for() {
        let frame = said(42, 1);
        for cut in 0..frame.len() {
            assert_eq!(seated().hear(41, &frame[..cut]), Ok(None));
        }
    }
}
