//! A box is killed under load: its clients are back on the others, the rest never notice.
//!
//! In:    a balancer in front of three boxes.
//! Out:   a panic that says who was away for too long, or who heard what it should not.
//! Never: lets a room go on with a hole: every member hears every number, in order.

use std::net::SocketAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use super::{Kind, Proxy, boxes};
use crate::support::{Client, DEADLINE, End, eventually, upgrade_request};

const ROOMS: usize = 30;
/// Members of each room: 300 clients.
const MEMBERS: usize = 10;
/// What the issue allows from the kill until the last client is back.
const BACK_WITHIN: Duration = Duration::from_secs(3);
/// Pause between two messages of a room, and between two tries of a client to come back.
const PAUSE: Duration = Duration::from_millis(50);

/// What all rooms' threads share.
#[derive(Default)]
struct Stage {
    killed: OnceLock<Instant>,
    is_over: AtomicBool,
    rounds: [AtomicU64; ROOMS],
    /// Requests of returning clients that were answered with something else than 101.
    refused: AtomicU64,
}

/// What became of a room.
#[derive(Debug, PartialEq, Eq)]
enum Fate {
    Undisturbed,
    /// Every member lost its connection; all were back so long after the kill.
    Back(Duration),
}

/// Kills the second of three boxes with -9 under 300 clients; how often one of them was refused
/// before it was back.
pub fn check_failover(kind: Kind) -> u64 {
    let servers = boxes(&[]);
    let proxy = Proxy::start(kind, "room_hash", &servers);
    let (stage, address) = (Stage::default(), proxy.address());
    let stage = &stage;
    let (lost, fates) = std::thread::scope(|scope| {
        let talk = |room| scope.spawn(move || Room::talk(address, room, stage));
        let threads: Vec<_> = (0..ROOMS).map(talk).collect();
        wait_rounds(stage, &[5; ROOMS], || threads.iter().any(|thread| thread.is_finished()));
        let lost = servers[1].counter("rooms");
        stage.killed.set(Instant::now()).expect("once");
        servers[1].signal(Signal::KILL);
        let wanted: Vec<_> = stage.rounds.iter().map(|n| n.load(Ordering::Relaxed) + 20).collect();
        wait_rounds(stage, &wanted, || threads.iter().any(|thread| thread.is_finished()));
        stage.is_over.store(true, Ordering::Relaxed);
        let fates: Vec<_> =
            threads.into_iter().map(|thread| thread.join().expect("no client panicked")).collect();
        (lost, fates)
    });
    let back: Vec<_> = fates.iter().filter(|fate| **fate != Fate::Undisturbed).collect();
    assert!(lost > 0 && (lost as usize) < ROOMS, "{lost} rooms were on the box");
    assert_eq!(back.len() as u64, lost, "only the box's own rooms noticed: {fates:?}");
    for fate in back {
        assert!(matches!(fate, Fate::Back(after) if *after <= BACK_WITHIN), "{fates:?}");
    }
    let members = servers[0].counter("members") + servers[2].counter("members");
    assert!(members <= (ROOMS * MEMBERS) as u64);
    stage.refused.load(Ordering::Relaxed)
}

/// Waits until every room has come so far, or one has given up, which joining its thread tells.
fn wait_rounds(stage: &Stage, wanted: &[u64], has_failed: impl Fn() -> bool) {
    eventually(DEADLINE * 3, "all rooms go on", || {
        let mut rounds = stage.rounds.iter().zip(wanted);
        has_failed() || rounds.all(|(round, wanted)| round.load(Ordering::Relaxed) >= *wanted)
    });
    if has_failed() {
        stage.is_over.store(true, Ordering::Relaxed);
    }
}

/// A room and its members' connections, on a thread of its own.
struct Room {
    address: SocketAddr,
    number: usize,
    members: Vec<Client>,
}

impl Room {
    /// One member says a number, all hear it, and so on until the test is over.
    fn talk(address: SocketAddr, number: usize, stage: &Stage) -> Fate {
        let mut room = Self { address, number, members: Vec::new() };
        room.join_all(stage);
        let mut fate = Fate::Undisturbed;
        while !stage.is_over.load(Ordering::Relaxed) {
            let round = stage.rounds[number].fetch_add(1, Ordering::Relaxed);
            if let Err(end) = room.round(round) {
                let killed = stage.killed.get().expect("nothing ends before the kill");
                assert_eq!(fate, Fate::Undisturbed, "room {number} ended twice: {end:?}");
                room.expect_all_ended();
                room.join_all(stage);
                fate = Fate::Back(killed.elapsed());
            }
            std::thread::park_timeout(PAUSE);
        }
        fate
    }

    fn round(&mut self, round: u64) -> Result<(), End> {
        let message = json!({ "content": round }).to_string();
        let frame = crate::support::encode(true, 0, 1, true, message.as_bytes());
        self.members[0].try_send_bytes(&frame).map_err(|_| End::Reset)?;
        for member in &mut self.members {
            loop {
                let message = member.try_recv()?.json();
                if message["sender"] != "system" && message["type"] != "joined" {
                    assert_eq!(message["content"], round, "room {}: a hole", self.number);
                    break;
                }
            }
        }
        Ok(())
    }

    /// One box had them all.
    fn expect_all_ended(&mut self) {
        for mut member in self.members.drain(..) {
            let (end, _frames) = member.expect_end();
            assert!(matches!(end, End::Eof | End::Reset));
        }
    }

    fn join_all(&mut self, stage: &Stage) {
        for user in 0..MEMBERS {
            let until = Instant::now() + DEADLINE;
            let client = loop {
                if let Some(client) = self.try_join(user, stage) {
                    break client;
                }
                assert!(Instant::now() < until, "room {}: nobody lets us in", self.number);
                std::thread::park_timeout(PAUSE);
            };
            self.members.push(client);
        }
    }

    fn try_join(&self, user: usize, stage: &Stage) -> Option<Client> {
        let mut client = Client::raw(self.address);
        let path = format!("/ws/room{}/user{user}", self.number);
        client.try_send_bytes(&upgrade_request(&path, &[])).ok()?;
        let answer = client.try_recv_response(false).ok()?;
        if answer.status != 101 {
            stage.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        (client.try_recv().ok()?.json()["type"] == "joined").then_some(client)
    }
}
