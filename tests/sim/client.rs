//! A client: follows its script, reads at its own pace, answers pings and close frames.
//!
//! In:    a script; what its socket gives.
//! Out:   bytes for its socket; a log for the oracle.
//! Never: looks into the server.

use std::collections::VecDeque;

use fastrand::Rng;
use ringhall::id::Mode;
use serde_json::Value;

use crate::kernel::World;
use crate::log::{Ending, Log};
use crate::script::{Act, Meaning, Role, Script};
use crate::socket::{Read, SocketId};
use crate::wire::{self, Heard, Reader, opcode};

/// One client.
#[derive(Debug)]
pub struct Client {
    /// Its number.
    pub id: usize,
    /// What it is and does.
    pub script: Script,
    /// Name of its room.
    pub room: String,
    /// Its socket, once it has connected.
    pub socket: Option<SocketId>,
    /// What it has said and heard.
    pub log: Log,
    outbox: VecDeque<u8>,
    /// The outbox ends with a whole frame.
    at_boundary: bool,
    urgent: VecDeque<Vec<u8>>,
    reader: Reader,
    idle_until: u64,
    stalled_until: u64,
    awaits_answer: bool,
    responses: usize,
    /// Neither reads nor writes any more.
    pub vanished: bool,
    /// It has ended its stream.
    pub fin_sent: bool,
    /// When it saw its end.
    pub ended_at: u64,
    random: Rng,
}

impl Client {
    /// A client that has not connected.
    pub fn new(id: usize, script: Script, room: String, seed: u64) -> Self {
        Self {
            id,
            script,
            room,
            socket: None,
            log: Log::default(),
            outbox: VecDeque::new(),
            at_boundary: true,
            urgent: VecDeque::new(),
            reader: Reader::default(),
            idle_until: 0,
            stalled_until: 0,
            awaits_answer: false,
            responses: 0,
            vanished: false,
            fin_sent: false,
            ended_at: 0,
            random: Rng::with_seed(seed),
        }
    }

    /// Whether it has done all that it is going to do by itself.
    pub fn is_through(&self) -> bool {
        let said_all = self.script.acts.is_empty() && self.outbox.is_empty();
        self.log.ending.is_some() || self.vanished || (self.socket.is_some() && said_all)
    }

    /// Whether it is open, reads, and nothing has been said of an end.
    pub fn is_alive(&self) -> bool {
        let over = self.log.ending.is_some() || self.log.close_heard.is_some();
        let leaves = self.log.close_sent.is_some() || self.fin_sent;
        let misbehaved = !self.log.misdeeds.is_empty();
        let reads = !self.vanished && self.stalled_until < u64::MAX;
        self.log.is_open && reads && !over && !leaves && !misbehaved
    }

    /// Whether it is owed something: it reads, and waits for an answer or for room to write.
    pub fn waits(&self) -> bool {
        let reads = !self.vanished && self.stalled_until < u64::MAX;
        let answered = self.log.status.is_some() || self.script.role == Role::Mute;
        self.socket.is_some()
            && reads
            && !(self.is_through() && (answered || self.log.ending.is_some()))
    }

    /// When it does something by itself next.
    pub fn wakes_at(&self, now: u64) -> Option<u64> {
        if self.log.ending.is_some() || self.vanished {
            return None;
        }
        if self.socket.is_none() {
            return Some(self.script.starts_at).filter(|at| *at > now);
        }
        let stalled = Some(self.stalled_until).filter(|until| *until < u64::MAX);
        let idle = (!self.script.acts.is_empty()).then_some(self.idle_until);
        [stalled, idle].into_iter().flatten().filter(|at| *at > now).min()
    }

    fn wants_to_read(&self, world: &World, socket: SocketId) -> bool {
        world.now >= self.stalled_until && world.sockets[socket].has_news_for_client()
    }

    fn wants_to_write(&self, world: &World, socket: SocketId) -> bool {
        let socket = &world.sockets[socket];
        if !self.outbox.is_empty() {
            return socket.up.room() > 0 || socket.server_closed;
        }
        let urgent = self.at_boundary && !self.urgent.is_empty() && !self.fin_sent;
        let act = !self.script.acts.is_empty() && world.now >= self.idle_until;
        urgent || (act && !self.awaits_answer)
    }

    /// Whether it would do something now.
    pub fn can_act(&self, world: &World) -> bool {
        if self.log.ending.is_some() || self.vanished {
            return false;
        }
        let Some(socket) = self.socket else { return world.now >= self.script.starts_at };
        self.wants_to_read(world, socket) || self.wants_to_write(world, socket)
    }

    /// Does one thing.
    pub fn act(&mut self, world: &mut World) {
        let Some(socket) = self.socket else { return self.connect(world) };
        let reads = self.wants_to_read(world, socket);
        let writes = self.wants_to_write(world, socket);
        if reads && (!writes || self.random.bool()) {
            self.read(world, socket);
        } else if writes {
            self.write(world, socket);
        }
    }

    fn connect(&mut self, world: &mut World) {
        let shard = self.random.usize(0..world.rings.len());
        let (least, most) = world.pipe_bytes;
        let (up, down) = (self.random.usize(least..=most), self.random.usize(least..=most));
        let socket = world.connect(shard, up, down, self.script.address);
        world.note(|| format!("client {} connects to {shard}: socket {socket}", self.id));
        self.socket = Some(socket);
        self.log.connected_at = world.now;
        self.log.wrote_at = world.now;
    }

    fn write(&mut self, world: &mut World, socket: SocketId) {
        if self.outbox.is_empty() {
            return self.next_act(world, socket);
        }
        let all = self.outbox.len();
        let count = if self.random.bool() { all } else { self.random.usize(1..=all) };
        let bytes: Vec<u8> = self.outbox.range(..count).copied().collect();
        let written = world.client_write(socket, &bytes);
        self.outbox.drain(..written);
        if written > 0 {
            self.log.wrote_at = world.now;
        }
    }

    fn next_act(&mut self, world: &mut World, socket: SocketId) {
        if self.at_boundary
            && !self.fin_sent
            && let Some(frame) = self.urgent.pop_front()
        {
            self.outbox.extend(frame);
            return;
        }
        let Some(act) = self.script.acts.pop_front() else { return };
        world.note(|| format!("client {} does {}", self.id, act.brief()));
        let now = world.now;
        match act {
            Act::Write { bytes, whole, meaning } => {
                self.mean(meaning);
                self.outbox.extend(bytes);
                self.at_boundary = whole;
            }
            Act::Idle(pause) => self.idle_until = now + pause,
            Act::Stall(pause) => {
                self.log.stalled = true;
                self.stalled_until = now.saturating_add(pause);
            }
            Act::AwaitAnswer => self.awaits_answer = !self.is_answered(),
            Act::Fin => {
                self.fin_sent = true;
                world.client_fin(socket);
            }
            Act::Close => {
                world.client_close(socket);
                self.log.ending = Some(Ending::Own);
            }
            Act::Reset => {
                world.client_reset(socket);
                self.log.ending = Some(Ending::Own);
            }
            Act::Vanish => self.vanished = true,
        }
    }

    /// Whether the request that was written last has its answer.
    fn is_answered(&self) -> bool {
        self.log.is_open || self.responses > 0
    }

    fn mean(&mut self, meaning: Meaning) {
        let log = &mut self.log;
        match meaning {
            Meaning::Nothing => {}
            Meaning::Say { opcode, content } => log.said.push((opcode, content)),
            Meaning::Fault { code, reference } => {
                log.faults.push_back((code, reference));
                log.faults_made += 1;
            }
            Meaning::Ping(payload) => log.pings.push(payload),
            Meaning::Close(code) => log.close_sent = Some(code),
            Meaning::Misdeed(code) => {
                log.misdeeds.insert(code);
            }
        }
    }

    fn read(&mut self, world: &mut World, socket: SocketId) {
        let at_most = self.random.usize(1..=self.script.appetite);
        match world.client_read(socket, at_most) {
            Read::Nothing => {}
            Read::Bytes(bytes) => {
                self.reader.push(&bytes);
                while let Some(heard) = self.reader.next() {
                    world.note(|| format!("client {} hears {}", self.id, brief(&heard)));
                    self.hear(heard, world.now);
                }
            }
            Read::Fin => self.end(world, socket, Ending::Fin),
            Read::Reset => self.end(world, socket, Ending::Reset),
        }
    }

    fn end(&mut self, world: &mut World, socket: SocketId, ending: Ending) {
        world.note(|| format!("client {} sees its end: {ending:?}", self.id));
        self.log.is_truncated = !self.reader.is_at_boundary();
        self.log.ending = Some(ending);
        self.ended_at = world.now;
        world.client_close(socket);
    }

    fn hear(&mut self, heard: Heard, now: u64) {
        match heard {
            Heard::Response { status, protocol, body } => {
                self.hear_response(status, protocol.as_deref(), &body, now);
            }
            Heard::Frame { opcode, payload } => self.hear_frame(opcode, &payload, now),
        }
    }

    fn hear_response(&mut self, status: u16, protocol: Option<&str>, body: &[u8], now: u64) {
        self.responses += 1;
        self.awaits_answer = false;
        self.log.status = Some(status);
        match status {
            101 => {
                let Role::Member { mode, .. } = self.script.role else {
                    assert_eq!(self.script.role, Role::Echo, "a 101 for {:?}", self.script.role);
                    self.log.is_open = true;
                    return;
                };
                if mode == Mode::Raw {
                    assert_eq!(protocol, Some("ringhall.raw"));
                } else {
                    assert_ne!(protocol, Some("ringhall.raw"));
                }
                self.log.is_open = true;
            }
            200 => assert_eq!(body, b"ok", "the page"),
            _ => {
                let value: Value = serde_json::from_slice(body).expect("a refusal is JSON");
                let code = value["error"].as_str().expect("a refusal has a code");
                assert!(value["message"].is_string(), "a refusal says why: {value}");
                self.log.refusal = Some(code.to_owned());
                self.log.told_end_at = Some(now);
                self.give_up();
            }
        }
    }

    /// There is nothing more to say on this connection.
    fn give_up(&mut self) {
        self.script.acts.clear();
        self.urgent.clear();
        if !self.at_boundary {
            self.outbox.clear();
        }
    }

    fn hear_frame(&mut self, opcode: u8, payload: &[u8], now: u64) {
        assert!(self.log.close_heard.is_none(), "a frame behind the close frame");
        match opcode {
            opcode::PING => {
                self.log.pinged += 1;
                let pong = wire::frame(&mut self.random, true, opcode::PONG, payload);
                self.urgent.push_back(pong);
            }
            opcode::PONG => self.log.hear_pong(payload),
            opcode::CLOSE => self.hear_close(payload, now),
            _ => self.hear_message(opcode, payload),
        }
    }

    fn hear_close(&mut self, payload: &[u8], now: u64) {
        let (code, reason) = match payload.split_first_chunk::<2>() {
            None => (1005, String::new()),
            Some((code, reason)) => {
                let reason = String::from_utf8(reason.to_vec()).expect("a reason is UTF-8");
                (u16::from_be_bytes(*code), reason)
            }
        };
        self.log.close_heard = Some((code, reason));
        self.log.told_end_at = Some(now);
        self.give_up();
        if self.log.close_sent.is_none() && self.at_boundary {
            let reply = wire::frame(
                &mut self.random,
                true,
                opcode::CLOSE,
                &payload[..payload.len().min(2)],
            );
            self.urgent.push_back(reply);
        }
    }

    fn hear_message(&mut self, opcode: u8, payload: &[u8]) {
        match &self.script.role {
            Role::Echo => {
                let (sent_as, sent) =
                    self.log.said.get(self.log.echoed).expect("an echo of nothing");
                assert_eq!((opcode, payload), (*sent_as, sent.as_slice()), "a wrong echo");
                self.log.echoed += 1;
            }
            Role::Member { mode: Mode::Json, .. } => {
                assert_eq!(opcode, opcode::TEXT, "a JSON room speaks text");
                self.log.hear_json(&self.room, payload);
            }
            Role::Member { mode: Mode::Raw, .. } => {
                self.log.hear_raw(opcode, payload);
            }
            other => panic!("a message for {other:?}"),
        }
    }
}

fn brief(heard: &Heard) -> String {
    match heard {
        Heard::Response { status, body, .. } => {
            format!("status {status} {}", String::from_utf8_lossy(body))
        }
        Heard::Frame { opcode, payload } => {
            let shown = &payload[..payload.len().min(100)];
            format!("opcode {opcode}, {} bytes: {}", payload.len(), String::from_utf8_lossy(shown))
        }
    }
}
