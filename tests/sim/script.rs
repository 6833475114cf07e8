//! Turns a seed into what one client is and does.
//!
//! In:    the plan, the rooms' names, the seed's randomness.
//! Out:   `Script`: a role, and acts in order.
//! Never: acts.

use std::collections::VecDeque;
use std::net::IpAddr;

use fastrand::Rng;
use ringhall::id::{Mode, RoomKey};

use crate::plan::{PROXY, Plan, Proxies};
use crate::wire::{self, opcode};

/// What a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// In a room.
    Member { room: usize, user: String, deaf: bool, mode: Mode },
    /// On `/echo`.
    Echo,
    /// Asks for what is refused.
    Refused { status: u16 },
    /// Asks for a page, and goes.
    Plain,
    /// Never says enough.
    Mute,
}

/// What a write means, once the last byte of it has begun its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Nothing by itself.
    Nothing,
    /// A message to the room or the echo, by its opcode.
    Say { opcode: u8, content: Vec<u8> },
    /// A malformed message: the code and the reference of the error that answers it.
    Fault { code: &'static str, reference: Option<String> },
    /// A ping.
    Ping(Vec<u8>),
    /// A close frame with this code.
    Close(u16),
    /// Something that ends the connection with this code.
    Misdeed(u16),
}

/// One step of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// Writes; `whole` where a frame or a head ends there.
    Write { bytes: Vec<u8>, whole: bool, meaning: Meaning },
    /// Does nothing for so many milliseconds, but reads.
    Idle(u64),
    /// Does not read for so many milliseconds.
    Stall(u64),
    /// Waits for the answer to its request.
    AwaitAnswer,
    /// Ends its stream, and reads on.
    Fin,
    /// Closes.
    Close,
    /// Resets.
    Reset,
    /// Neither reads nor writes any more.
    Vanish,
}

impl Act {
    /// For the trace.
    pub fn brief(&self) -> String {
        let Self::Write { bytes, whole, meaning } = self else { return format!("{self:?}") };
        let meaning = match meaning {
            Meaning::Say { content, .. } => {
                format!("Say {}", String::from_utf8_lossy(&content[..content.len().min(40)]))
            }
            other => format!("{other:?}"),
        };
        format!("Write {} bytes, whole: {whole}, {meaning}", bytes.len())
    }
}

/// A client before it begins.
#[derive(Clone, Debug)]
pub struct Script {
    /// What it is.
    pub role: Role,
    /// What it does.
    pub acts: VecDeque<Act>,
    /// Where it connects from.
    pub address: IpAddr,
    /// When it connects.
    pub starts_at: u64,
    /// Bytes that it reads at once at most.
    pub appetite: usize,
    /// Whether it always reads, answers and keeps to the rules.
    pub is_good: bool,
}

/// Names of users, as they are and as they stand in a path.
const USERS: &[(&str, &str)] =
    &[("ann", "ann"), ("bob", "b%6fb"), ("z\u{f6}e", "z%C3%B6e"), ("d\"q\\", "d%22q%5C")];

struct Author<'a> {
    random: &'a mut Rng,
    plan: &'a Plan,
    id: usize,
    acts: VecDeque<Act>,
    is_good: bool,
    said: usize,
    /// How the proxy names this client, where it comes through one that is trusted.
    proxies: Option<Proxies>,
}

impl Script {
    /// Writes the script of client `id`.
    pub fn write(random: &mut Rng, plan: &Plan, rooms: &[RoomKey], id: usize) -> Self {
        let starts_at = random.u64(0..plan.rush);
        let greedy = random.u8(0..4) > 0;
        let appetite = if greedy { 1 << 20 } else { random.usize(1..300) };
        let address = IpAddr::from([10, 0, 0, random.u8(1..=3)]);
        let proxies = plan.front.filter(|_| address == PROXY);
        let (acts, is_good, said) = (VecDeque::new(), true, 0);
        let mut author = Author { random, plan, id, acts, is_good, said, proxies };
        let role = author.prefaced(rooms);
        let Author { acts, is_good, .. } = author;
        Self { role, acts, address, starts_at, appetite, is_good }
    }
}

impl Author<'_> {
    /// A role behind a PROXY protocol header, where one is awaited; or one that is refused for it.
    fn prefaced(&mut self, rooms: &[RoomKey]) -> Role {
        let awaited = self.proxies == Some(Proxies::Preface);
        let header = wire::proxy_header(self.random);
        if self.plan.front.is_some() && self.random.u8(0..12) == 0 {
            // From who is not trusted, or malformed.
            self.is_good = false;
            let end = if awaited { 13 } else { header.len() };
            let bytes = [&header[..end], if awaited { b"\xff\0\0\0" } else { b"" }].concat();
            self.write(bytes, true, Meaning::Nothing);
            return Role::Refused { status: 400 };
        }
        let role = self.role(rooms);
        if awaited {
            let meaning = Meaning::Nothing;
            self.acts.push_front(Act::Write { bytes: header, whole: false, meaning });
        }
        role
    }

    fn role(&mut self, rooms: &[RoomKey]) -> Role {
        match self.random.u8(0..20) {
            0 => self.refused(),
            1 => self.garbage(),
            2 => self.mute(),
            3 => self.plain(),
            4..=6 => {
                self.maybe_plain_first();
                self.head(&wire::upgrade_head("/echo", None, "13"));
                self.talk(Mode::Raw, self.plan.limits.echo_message_bytes);
                Role::Echo
            }
            _ => self.member(rooms),
        }
    }

    fn member(&mut self, rooms: &[RoomKey]) -> Role {
        let room = self.random.usize(0..rooms.len());
        let RoomKey { mode, name } = &rooms[room];
        let (user, path) = USERS[self.random.usize(0..USERS.len())];
        let deaf = self.random.u8(0..4) == 0;
        let query = if deaf { "?echo=false" } else { "" };
        let protocol = match mode {
            Mode::Raw => Some("ringhall.raw"),
            Mode::Json => self.random.bool().then_some("other, ringhall.json"),
        };
        self.maybe_plain_first();
        let name: String = name.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let head = wire::upgrade_head(&format!("/ws/{name}/{path}{query}"), protocol, "13");
        self.head(&head);
        self.talk(*mode, self.plan.limits.message_bytes);
        Role::Member { room, user: user.into(), deaf, mode: *mode }
    }

    fn maybe_plain_first(&mut self) {
        if self.random.u8(0..12) == 0 {
            self.write(wire::PLAIN.to_vec(), true, Meaning::Nothing);
            self.acts.push_back(Act::AwaitAnswer);
        }
    }

    fn head(&mut self, head: &[u8]) {
        let mut head = head.to_vec();
        if self.proxies == Some(Proxies::Forward) && self.random.u8(0..4) > 0 {
            let line = format!("X-Forwarded-For: 10.9.9.9, 192.0.2.{}\r\n", self.random.u8(1..=3));
            let end = head.len() - 2;
            head.splice(end..end, line.into_bytes());
        }
        let cut = self.random.usize(0..head.len());
        if self.random.u8(0..3) == 0 {
            self.write(head[..cut].to_vec(), false, Meaning::Nothing);
            let pause = self.random.u64(0..20);
            self.acts.push_back(Act::Idle(pause));
            self.write(head[cut..].to_vec(), true, Meaning::Nothing);
        } else {
            self.write(head.to_vec(), true, Meaning::Nothing);
        }
        // Others do not wait for the answer: their first frames follow at once.
        if self.random.bool() {
            self.acts.push_back(Act::AwaitAnswer);
        }
    }

    fn refused(&mut self) -> Role {
        self.is_good = false;
        let long = format!("/ws/room/{}", "u".repeat(5000));
        let (target, version, status) = match self.random.u8(0..8) {
            0 => ("/ws/room/system", "13", 403),
            1 => ("/ws/room", "13", 404),
            2 => ("/ws/r%00m/user", "13", 400),
            3 => ("/ws/room/user", "12", 426),
            4 => ("/ws/room/user?echo=perhaps", "13", 400),
            5 => ("/ws/room/user", "13", 405),
            6 if self.plan.limits.head_bytes > 5000 => (long.as_str(), "13", 414),
            _ => ("/ws/room/user", "13", 431),
        };
        let mut head = wire::upgrade_head(target, None, version);
        if status == 405 {
            head.splice(0..3, *b"POST");
        } else if status == 431 {
            let padding = format!("X-Padding: {}\r\n\r\n", "x".repeat(self.plan.limits.head_bytes));
            head.truncate(head.len() - 2);
            head.extend_from_slice(padding.as_bytes());
        }
        self.head(&head);
        if self.random.bool() {
            // Much more than the server wants to read: its answer has to arrive all the same.
            self.write(vec![b'x'; 3000], true, Meaning::Nothing);
        }
        Role::Refused { status }
    }

    fn garbage(&mut self) -> Role {
        self.is_good = false;
        let bytes = match self.random.u8(0..3) {
            0 => b"\x16\x03\x01\x02\x00\x01 hello\r\n\r\n".to_vec(),
            1 => b"GET /\r\n\r\n".to_vec(),
            _ => b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n".to_vec(),
        };
        self.write(bytes, true, Meaning::Nothing);
        Role::Refused { status: 400 }
    }

    fn mute(&mut self) -> Role {
        self.is_good = false;
        if self.random.bool() {
            self.write(b"GET /ws/room/us".to_vec(), false, Meaning::Nothing);
        }
        match self.random.u8(0..4) {
            0 => self.acts.push_back(Act::Reset),
            1 => self.acts.push_back(Act::Close),
            2 => self.acts.push_back(Act::Vanish),
            _ => {}
        }
        Role::Mute
    }

    fn plain(&mut self) -> Role {
        self.write(wire::PLAIN.to_vec(), true, Meaning::Nothing);
        self.acts.push_back(Act::AwaitAnswer);
        self.acts.push_back(Act::Close);
        Role::Plain
    }

    fn write(&mut self, bytes: Vec<u8>, whole: bool, meaning: Meaning) {
        self.acts.push_back(Act::Write { bytes, whole, meaning });
    }

    fn talk(&mut self, mode: Mode, bytes_max: usize) {
        let count = self.random.usize(0..=self.plan.messages);
        for _ in 0..count {
            match self.random.u8(0..16) {
                0 => self.ping(),
                1 => {
                    let pause = self.random.u64(0..300);
                    self.acts.push_back(Act::Idle(pause));
                }
                2 if self.random.u8(0..3) == 0 => {
                    self.is_good = false;
                    let pause = self.random.u64(0..8000);
                    self.acts.push_back(Act::Stall(pause));
                }
                3 if mode == Mode::Json => self.fault(),
                _ => self.say(mode, bytes_max),
            }
        }
        self.finale(mode, bytes_max);
    }

    fn say(&mut self, mode: Mode, bytes_max: usize) {
        let (id, n) = (self.id, self.said);
        self.said += 1;
        let room = self.plan.message_bytes.min(bytes_max.saturating_sub(120));
        let padding = self.random.usize(0..=room);
        let (opcode, content, bytes) = match mode {
            Mode::Raw => {
                let mut content = format!("{id} {n} ").into_bytes();
                let opcode = if self.random.bool() { opcode::TEXT } else { opcode::BINARY };
                let byte = if opcode == opcode::TEXT { b'x' } else { 0xff };
                content.resize(content.len() + padding, byte);
                (opcode, content.clone(), content)
            }
            Mode::Json => {
                let padding = "x".repeat(padding);
                let content = match self.random.u8(0..3) {
                    0 => format!("[{id},{n},\"{padding}\"]"),
                    1 => format!("{{\"c\": {id},\t\"n\":{n},\"p\":\"{padding}\"}}"),
                    _ => format!("{{\"c\":{id},\"n\":{n},\"p\":\"{padding}\"}}"),
                };
                let reference = if self.random.u8(0..4) == 0 { ",\"ref\":[7]" } else { "" };
                let bytes = format!(" {{\"content\": {content} {reference}}}").into_bytes();
                (opcode::TEXT, content.into_bytes(), bytes)
            }
        };
        self.message(opcode, &bytes, Meaning::Say { opcode, content });
    }

    fn fault(&mut self) {
        let reference = self.random.bool().then(|| format!("\"x{}\"", self.random.u8(..)));
        let field = reference.as_ref().map_or_else(String::new, |r| format!(",\"ref\":{r}"));
        let (code, text) = match self.random.u8(0..4) {
            0 => ("bad_message", format!("{{\"type\":\"join\"{field}}}")),
            1 => ("not_in_room", format!("{{\"content\":1,\"room\":\"nowhere\"{field}}}")),
            2 => ("sender_mismatch", format!("{{\"content\":1,\"sender\":\"eve\"{field}}}")),
            _ => {
                let meaning = Meaning::Fault { code: "bad_json", reference: None };
                return self.message(opcode::TEXT, b"{\"content\":", meaning);
            }
        };
        self.message(opcode::TEXT, text.as_bytes(), Meaning::Fault { code, reference });
    }

    fn ping(&mut self) {
        let payload = format!("ping {}", self.random.u32(..)).into_bytes();
        let bytes = wire::frame(self.random, true, opcode::PING, &payload);
        self.write(bytes, true, Meaning::Ping(payload));
    }

    /// A message in one frame or several, with pings in between, cut anywhere.
    fn message(&mut self, opcode: u8, bytes: &[u8], meaning: Meaning) {
        let mut first = opcode;
        let mut rest = bytes;
        while self.random.u8(0..6) == 0 {
            let (part, behind) = rest.split_at(self.random.usize(0..=rest.len()));
            let frame = wire::frame(self.random, false, first, part);
            self.write(frame, true, Meaning::Nothing);
            (first, rest) = (opcode::CONTINUATION, behind);
            if self.random.bool() {
                self.ping();
            }
        }
        let frame = wire::frame(self.random, true, first, rest);
        if self.random.u8(0..8) == 0 {
            let (part, behind) = frame.split_at(self.random.usize(0..frame.len()));
            self.write(part.to_vec(), false, Meaning::Nothing);
            let pause = self.random.u64(0..50);
            self.acts.push_back(Act::Idle(pause));
            self.write(behind.to_vec(), true, meaning);
        } else {
            self.write(frame, true, meaning);
        }
    }

    fn finale(&mut self, mode: Mode, bytes_max: usize) {
        match self.random.u8(0..16) {
            0..=6 => {}
            7..=9 => self.close(),
            10 => {
                self.is_good = false;
                self.close();
                self.acts.push_back(Act::Fin);
            }
            11 => {
                self.is_good = false;
                let last = [Act::Fin, Act::Close, Act::Reset, Act::Vanish];
                self.acts.push_back(last[self.random.usize(0..4)].clone());
            }
            12 => {
                self.is_good = false;
                self.acts.push_back(Act::Stall(u64::MAX));
            }
            13 if mode == Mode::Json => self.flood(),
            _ => self.misdeed(mode, bytes_max),
        }
    }

    fn close(&mut self) {
        let code = [1000, 1001, 3000, 4999][self.random.usize(0..4)];
        let mut payload = u16::to_be_bytes(code).to_vec();
        payload.extend_from_slice(b"bye");
        let frame = wire::frame(self.random, true, opcode::CLOSE, &payload);
        self.write(frame, true, Meaning::Close(code));
    }

    fn flood(&mut self) {
        self.is_good = false;
        for _ in 0..60 {
            self.fault();
        }
    }

    fn misdeed(&mut self, mode: Mode, bytes_max: usize) {
        self.is_good = false;
        let random = &mut *self.random;
        let (bytes, code) = match random.u8(0..6) {
            0 => (vec![0x81, 0x05, b'h', b'e', b'l', b'l', b'o'], 1002),
            1 => (wire::frame(random, true, opcode::CONTINUATION, b"of nothing"), 1002),
            2 => (wire::frame(random, true, opcode::CLOSE, &1005u16.to_be_bytes()), 1002),
            3 => (wire::frame(random, true, opcode::TEXT, b"\xff\xfe"), 1007),
            4 if mode == Mode::Json => (wire::frame(random, true, opcode::BINARY, b"binary"), 1003),
            _ => (wire::frame(random, true, opcode::TEXT, &vec![b'x'; bytes_max + 1]), 1009),
        };
        self.write(bytes, true, Meaning::Misdeed(code));
        if self.random.bool() {
            // Input that nobody wants any more must not keep the close frame from arriving.
            self.write(vec![b'x'; 2000], true, Meaning::Nothing);
        }
    }
}
