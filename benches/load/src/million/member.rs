//! Turns what one member of a room of ten is sent into what it has heard, and judges it.
//!
//! In:    the server's text messages.
//! Out:   what happened, and whether it may: who joined, left and spoke, the farewell.
//! Never: knows a socket; lets a byte pass that it cannot explain.

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
    /// The server shuts down.
    Farewell,
}

/// One member: what it has heard of the ten of its room.
#[derive(Clone, Copy, Debug, Default)]
pub struct Member {
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

    /// Takes a text message.
    ///
    /// # Errors
    /// What should not have been sent.
    pub fn hear(&mut self, number: u32, text: &[u8]) -> Result<Heard, String> {
        self.text(number, text).map_err(|what| {
            let text = String::from_utf8_lossy(text);
            format!("member {number}: {what}: {text} ({self:?})")
        })
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

    fn said(who: u32, offset: u32) -> String {
        format!(
            "{{\"room\":\"r4\",\"sender\":\"u{who}\",\"content\":\"a word of u{who}\",\
             \"offset\":{offset}}}"
        )
    }

    fn news(who: u32, what: &str) -> String {
        format!(
            "{{\"room\":\"r4\",\"sender\":\"system\",\"content\":\"u{who} has {what} the room\"}}"
        )
    }

    fn seated() -> Member {
        Member { joined: true, present: ALL, ..Member::default() }
    }

    fn hears(member: &mut Member, text: &str) -> Result<Heard, String> {
        member.hear(41, text.as_bytes())
    }

    #[test]
    fn everyone_is_heard_once_and_in_order() {
        let mut member = seated();
        for place in 0..ROOM {
            assert!(!member.heard_all());
            assert_eq!(hears(&mut member, &said(40 + place, place + 1)), Ok(Heard::Message));
        }
        assert!(member.heard_all());
    }

    #[test]
    fn what_nobody_said_is_refused() {
        for (text, why) in [
            (said(50, 1), "a stranger"),
            (said(42, 2), "not the next offset"),
            (said(42, 1).replace("word", "ward"), "no content"),
            (said(42, 1).replace("of u42", "of u43"), "other words"),
            (news(43, "joined"), "old news"),
            (news(53, "left"), "a stranger"),
            ("{\"room\":\"r5\"}".to_owned(), "another room"),
            ("{\"type\":\"lag\"}".to_owned(), "something else"),
        ] {
            let error = hears(&mut seated(), &text).unwrap_err();
            assert!(error.contains(why), "{error}");
        }
        let mut member = seated();
        assert_eq!(hears(&mut member, &said(42, 1)), Ok(Heard::Message));
        assert!(hears(&mut member, &said(42, 2)).unwrap_err().contains("a repetition"));
        let early = hears(&mut Member::default(), &said(42, 1)).unwrap_err();
        assert!(early.contains("before the welcome"), "{early}");
    }

    #[test]
    fn a_return_is_told_of_by_a_leave_and_a_join() {
        let mut member = seated();
        assert_eq!(hears(&mut member, &news(43, "left")), Ok(Heard::News));
        assert!(!member.knows_all());
        assert_eq!(hears(&mut member, &news(43, "joined")), Ok(Heard::News));
        assert!(member.knows_all() && member.news == 2);
    }
}
