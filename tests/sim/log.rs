//! What one client has said and heard, for the oracle.
//!
//! In:    the client's acts and what it understood.
//! Out:   `Log`.
//! Never: judges what needs another client's log.

use std::collections::{BTreeSet, VecDeque};

use serde_json::Value;

/// What a member of a JSON room heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A message: its place, speaker, and the whole frame's payload.
    Said { offset: u64, by: usize, n: usize, payload: Vec<u8> },
    /// A user joined.
    Joined(String),
    /// A user left.
    Left(String),
    /// A summary of joins and leaves.
    Summary { count: u64, joined: u64, left: u64 },
    /// Something was missed.
    Lag { missed: u64, offset: u64 },
    /// The room's messages are numbered anew (several servers alone).
    Renumbered { epoch: String, offset: u64 },
}

/// What a member of a raw room heard of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Who said it.
    pub by: usize,
    /// Which of the speaker's messages it is.
    pub n: usize,
    /// Text or binary.
    pub opcode: u8,
    /// All of it.
    pub payload: Vec<u8>,
}

/// How a connection ended, for its client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server's FIN.
    Fin,
    /// The server's RST.
    Reset,
    /// The client's own doing.
    Own,
}

/// Everything about one client.
#[derive(Debug, Default)]
pub struct Log {
    /// Status of the last response.
    pub status: Option<u16>,
    /// `error` of a refusal.
    pub refusal: Option<String>,
    /// The upgrade was accepted.
    pub is_open: bool,
    /// Contents of its messages, in order, with their opcodes.
    pub said: Vec<(u8, Vec<u8>)>,
    /// Epoch and offset of `joined`.
    pub joined: Option<(String, u64)>,
    /// What it heard of a JSON room.
    pub entries: Vec<Entry>,
    /// What it heard of a raw room.
    pub heard: Vec<RawEntry>,
    /// Messages that came back from the echo.
    pub echoed: usize,
    /// Errors that it has yet to be told.
    pub faults: VecDeque<(&'static str, Option<String>)>,
    /// Messages that nobody heard, as it was told (several servers alone).
    pub unavailable: usize,
    /// Faults it made.
    pub faults_made: usize,
    /// Pings it sent, and up to which it was answered.
    pub pings: Vec<Vec<u8>>,
    /// Pings up to the newest that was answered.
    pub pongs: usize,
    /// The shutdown was announced.
    pub told: bool,
    /// Its own close frame.
    pub close_sent: Option<u16>,
    /// The server's.
    pub close_heard: Option<(u16, String)>,
    /// Codes that its misdeeds deserve.
    pub misdeeds: BTreeSet<u16>,
    /// Pings of the server.
    pub pinged: usize,
    /// When it last wrote a byte.
    pub wrote_at: u64,
    /// When it connected.
    pub connected_at: u64,
    /// When it heard the server's close frame or refusal.
    pub told_end_at: Option<u64>,
    /// It did not read for a while.
    pub stalled: bool,
    /// How it ended.
    pub ending: Option<Ending>,
    /// Its stream ended inside of a frame.
    pub is_truncated: bool,
}

impl Log {
    /// Takes a text frame of a JSON room. `room` is its name.
    pub fn hear_json(&mut self, room: &str, payload: &[u8]) {
        let text = std::str::from_utf8(payload).expect("text frames are UTF-8");
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e} in {text}"));
        let kind = value["type"].as_str();
        if kind == Some("joined") {
            assert_eq!(value["room"], room, "{text}");
            assert_eq!(value["recovered"], false, "{text}");
            let epoch = value["epoch"].as_str().expect("an epoch is a string").to_owned();
            let offset = number(&value, "offset");
            match &self.joined {
                None => self.joined = Some((epoch, offset)),
                Some(_) => self.entries.push(Entry::Renumbered { epoch, offset }),
            }
            return;
        }
        assert!(self.joined.is_some(), "something came before joined: {text}");
        match kind {
            Some("error") => return self.hear_error(&value, text),
            Some("system") => return self.told = true,
            _ => {}
        }
        assert_eq!(value["room"], room, "a message of another room: {text}");
        let entry = match kind {
            Some("lag") => {
                Entry::Lag { missed: number(&value, "missed"), offset: number(&value, "offset") }
            }
            Some("members") => Entry::Summary {
                count: number(&value, "count"),
                joined: number(&value, "joined"),
                left: number(&value, "left"),
            },
            Some(other) => panic!("a message of type {other}: {text}"),
            None if value["sender"] == "system" => announcement(&value, text),
            None => said(&value, payload),
        };
        self.entries.push(entry);
    }

    fn hear_error(&mut self, value: &Value, text: &str) {
        if value["code"] == "unavailable" {
            let reference = value.get("ref");
            assert!(reference.is_none_or(|given| *given == serde_json::json!([7])), "{text}");
            return self.unavailable += 1;
        }
        let (code, reference) = self.faults.pop_front().unwrap_or_else(|| {
            panic!("an error for nothing: {text}");
        });
        assert_eq!(value["code"], code, "{text}");
        let heard = value.get("ref").map(Value::to_string);
        assert_eq!(heard, reference, "an error with another reference: {text}");
    }

    /// Takes a message of a raw room.
    pub fn hear_raw(&mut self, opcode: u8, payload: &[u8]) {
        let (by, n) = raw_id(payload);
        self.heard.push(RawEntry { by, n, opcode, payload: payload.to_vec() });
    }

    /// Takes a pong.
    pub fn hear_pong(&mut self, payload: &[u8]) {
        let behind = &self.pings[self.pongs..];
        let at = behind.iter().position(|ping| ping == payload);
        let at = at.unwrap_or_else(|| panic!("a pong for no newer ping: {payload:?}"));
        self.pongs += at + 1;
    }
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_else(|| panic!("no number {field} in {value}"))
}

fn announcement(value: &Value, text: &str) -> Entry {
    assert!(value.get("offset").is_none(), "an announcement takes no offset: {text}");
    let content = value["content"].as_str().expect("an announcement is text");
    if let Some(user) = content.strip_suffix(" has joined the room") {
        return Entry::Joined(user.to_owned());
    }
    let user = content.strip_suffix(" has left the room");
    Entry::Left(user.unwrap_or_else(|| panic!("the system says {content}")).to_owned())
}

/// Who said this in a raw room, and which of the speaker's messages it is.
pub fn raw_id(payload: &[u8]) -> (usize, usize) {
    let mut words = payload
        .splitn(3, |byte| *byte == b' ')
        .map(|word| std::str::from_utf8(word).ok().and_then(|word| word.parse().ok()));
    let (Some(Some(by)), Some(Some(n))) = (words.next(), words.next()) else {
        panic!("a message that nobody said: {payload:?}");
    };
    (by, n)
}

/// The same of a JSON room's content.
pub fn json_id(content: &Value) -> (usize, usize) {
    let part = |name: &str, at: usize| {
        let number = content.get(name).or_else(|| content.get(at)).and_then(Value::as_u64);
        let number = number.unwrap_or_else(|| panic!("a message that nobody said: {content}"));
        usize::try_from(number).expect("clients and messages are few")
    };
    (part("c", 0), part("n", 1))
}

fn said(value: &Value, payload: &[u8]) -> Entry {
    let (by, n) = json_id(&value["content"]);
    Entry::Said { offset: number(value, "offset"), by, n, payload: payload.to_vec() }
}
