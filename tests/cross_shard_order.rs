//! One room has one order, whatever shards its members sit on.

mod support;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use support::{Client, DEADLINE, Frame, Server, eventually};

/// Messages of each speaker.
const MESSAGES: u64 = 150;
/// Members of the room; each second one speaks.
const MEMBERS: u64 = 12;

/// The ways in which a room's members come to sit on several shards.
const SPREADS: [&[&str]; 3] = [
    &["--shards", "2", "--set", "rooms.spread=always"],
    &["--shards", "2", "--set", "server.placement=accept"],
    &["--shards", "3", "--set", "server.placement=accept", "--set", "rooms.spread=always"],
];

fn start(arguments: &[&str]) -> Server {
    Server::start(&[arguments, &["--log", "debug"]].concat())
}

/// What `opened` of the log says of the connections in this room: the shard of each.
fn shards_of(server: &Server, room: &str, members: usize) -> Vec<u64> {
    let in_room = format!("name: \"{room}\"");
    let mut shards = Vec::new();
    eventually(DEADLINE, "the log has caught up", || {
        let log = server.log();
        let opened = log.iter().filter(|line| line.contains("opened") && line.contains(&in_room));
        shards = opened.map(|line| number_behind(line, "shard=")).collect();
        shards.len() >= members
    });
    shards
}

fn number_behind(line: &str, name: &str) -> u64 {
    let value = line.split_once(name).unwrap_or_else(|| panic!("no {name} in {line}")).1;
    let digits = value.find(|c: char| !c.is_ascii_digit()).unwrap_or(value.len());
    value[..digits].parse().expect("a number")
}

/// Joins until members sit on at least two shards (the kernel draws where each is accepted).
fn join_spread(server: &Server, room: &str, users: u64) -> Vec<Client> {
    let mut clients = Vec::new();
    loop {
        for _ in 0..users {
            let user = format!("u{}", clients.len());
            clients.push(Client::join(server.address(), room, &user).0);
        }
        let shards: HashSet<_> = shards_of(server, room, clients.len()).into_iter().collect();
        if shards.len() > 1 {
            return clients;
        }
        assert!(clients.len() < 20 * users as usize, "all on one shard: {shards:?}");
    }
}

/// Reads text frames up to the one with this content.
fn read_to(client: &mut Client, content: &Value) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    loop {
        let frame: Frame = client.recv();
        let found = frame.json()["content"] == *content;
        frames.push(frame.payload);
        if found {
            return frames;
        }
    }
}

/// What a member of the room was sent: offsets without a gap, each speaker's messages in order.
#[track_caller]
fn check_stream(frames: &[Vec<u8>], from: u64) {
    let mut offset = from;
    let mut numbers: HashMap<String, u64> = HashMap::new();
    for frame in frames {
        let message: Value = serde_json::from_slice(frame).expect("JSON");
        if message["sender"] == "system" {
            assert!(message.get("offset").is_none(), "announcements have none: {message}");
            continue;
        }
        offset += 1;
        assert_eq!(message["offset"], offset, "no gap, no repetition");
        let sender = message["sender"].as_str().expect("a string").to_owned();
        let Some(number) = message["content"].as_u64() else { continue };
        let next = numbers.entry(sender).or_insert(number);
        assert_eq!(number, *next, "a sender's own messages in the order sent: {message}");
        *next += 1;
    }
}

/// Says its numbers, if it speaks, then reads up to the common end.
fn speak_and_read(mut client: Client, speaks: bool, end: &Value) -> Vec<Vec<u8>> {
    for n in 0..if speaks { MESSAGES } else { 0 } {
        client.send_json(&json!({ "content": n }));
    }
    read_to(&mut client, end)
}

#[test]
fn all_members_see_one_order_whatever_shard_they_sit_on() {
    for arguments in SPREADS {
        let server = start(arguments);
        let clients = join_spread(&server, "room", MEMBERS);
        let count = clients.len() as u64;
        let speakers = count.div_ceil(2);
        let end = json!("the end");
        let streams: Vec<_> = std::thread::scope(|scope| {
            let running: Vec<_> = clients
                .into_iter()
                .enumerate()
                .map(|(n, client)| {
                    let end = &end;
                    scope.spawn(move || speak_and_read(client, n % 2 == 0, end))
                })
                .collect();
            server.wait_counter("said", |said| said == speakers * MESSAGES);
            let (mut closer, joined) = Client::join(server.address(), "room", "closer");
            assert_eq!(joined["offset"], speakers * MESSAGES);
            closer.send_json(&json!({ "content": end }));
            running.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        for (n, stream) in streams.iter().enumerate() {
            check_stream(stream, 0);
            // The first member's stream has everything: each later one is the end of it.
            assert!(streams[0].ends_with(stream), "{arguments:?}: member {n} saw another order");
        }
        assert_eq!(server.counter("dropped"), 0);
        assert!(server.counter("deliveries") >= count * speakers * MESSAGES);
    }
}

/// Says its numbers in a closed loop, so that nobody falls behind; when that is over, reads to the
/// end.
fn speak_until(mut client: Client, over: &AtomicBool, end: &Value) {
    for n in 0u64.. {
        client.send_json(&json!({ "content": n }));
        read_to(&mut client, &json!(n));
        if over.load(Ordering::Relaxed) {
            break;
        }
    }
    read_to(&mut client, end);
}

#[test]
fn who_joins_in_the_middle_gets_everything_from_its_offset_on() {
    for arguments in SPREADS {
        let server = start(arguments);
        let mut clients = join_spread(&server, "room", 4);
        let over = AtomicBool::new(false);
        let end = json!("the end");
        std::thread::scope(|scope| {
            let first = clients.remove(0);
            let first = scope.spawn(|| speak_and_read(first, false, &end));
            let (over, the_end) = (&over, &end);
            let speakers: Vec<_> = clients
                .into_iter()
                .map(|client| scope.spawn(move || speak_until(client, over, the_end)))
                .collect();
            let joiners: Vec<_> = (0..30)
                .map(|n| {
                    let (client, joined) =
                        Client::join(server.address(), "room", &format!("late{n}"));
                    let offset = joined["offset"].as_u64().expect("a number");
                    (n, offset, scope.spawn(move || speak_and_read(client, false, the_end)))
                })
                .collect();
            over.store(true, Ordering::Relaxed);
            let mut closer = Client::join(server.address(), "room", "closer").0;
            closer.send_json(&json!({ "content": end }));
            let everything = first.join().expect("no panic");
            check_stream(&everything, 0);
            for (n, offset, joiner) in joiners {
                let stream = joiner.join().expect("no panic");
                let own = json!({
                    "room": "room", "sender": "system",
                    "content": format!("late{n} has joined the room"),
                });
                let first: Value = serde_json::from_slice(&stream[0]).expect("JSON");
                assert_eq!(first, own, "the joiner's own announcement comes first");
                check_stream(&stream, offset);
                assert!(everything.ends_with(&stream), "{arguments:?}: late{n}");
            }
            for speaker in speakers {
                speaker.join().expect("no panic");
            }
        });
    }
}

#[test]
fn echo_false_leaves_out_ones_own_words_and_nothing_else() {
    for arguments in SPREADS {
        let server = start(arguments);
        let mut hearing = join_spread(&server, "room", 4);
        let mut deaf: Vec<_> = (0..8)
            .map(|n| Client::connect(server.address(), &format!("/ws/room/deaf{n}?echo=false")))
            .collect();
        // Another tab of a user gets it: it is the connection that does not hear itself.
        let (mut tab, _) = Client::join(server.address(), "room", "deaf0");
        for client in &mut deaf {
            for n in 0..20u64 {
                client.send_json(&json!({ "content": n }));
            }
        }
        server.wait_counter("said", |said| said == 8 * 20);
        hearing[0].send_json(&json!({ "content": "the end" }));
        let end = json!("the end");
        let said = |client: &mut Client| -> Vec<Value> {
            let all = read_to(client, &end);
            let all = all.iter().map(|frame| serde_json::from_slice(frame).expect("JSON"));
            all.filter(|message: &Value| message["offset"].is_u64() && message["type"].is_null())
                .collect()
        };
        let everything = said(&mut hearing[0]);
        assert_eq!(everything.len(), 8 * 20 + 1);
        assert_eq!(said(&mut tab), everything);
        for (n, client) in deaf.iter_mut().enumerate() {
            let own = format!("deaf{n}");
            let others: Vec<_> =
                everything.iter().filter(|message| message["sender"] != own).cloned().collect();
            assert_eq!(said(client), others, "{arguments:?}: {own}");
        }
    }
}

#[test]
fn a_room_whose_shard_is_full_takes_members_on_the_other_one() {
    let server = Server::start_limited("-n 100", &["--shards", "2", "--log", "debug"]);
    // Nearly what both tables hold, their reserves left free. The kernel has each shard accept
    // about half of them: who finds the room's shard full stays on the other, or is sent there.
    const MEMBERS: usize = 180;
    let mut clients: Vec<Client> = Vec::new();
    for n in 0..MEMBERS {
        let (client, _) = Client::join(server.address(), "room", &format!("u{n}"));
        clients.push(client);
    }
    let shards = shards_of(&server, "room", MEMBERS);
    for shard in [0, 1] {
        let count = shards.iter().filter(|on| **on == shard).count();
        assert!((80..100).contains(&count), "{count} members on shard {shard}");
    }
    assert_eq!(server.counter("members"), MEMBERS as u64);
    for n in [0, MEMBERS - 1] {
        clients[n].send_json(&json!({ "content": n }));
        let heard: Vec<_> = clients.iter_mut().map(|client| client.recv_content(n)).collect();
        assert!(heard.iter().all(|message| *message == heard[0]), "the same for all");
    }
    drop(clients);
    server.wait_counter("members", |members| members == 0);
    server.wait_counter("rooms", |rooms| rooms == 0);
    let (mut again, _) = Client::join(server.address(), "room", "again");
    again.recv_content("again has joined the room");
}

#[test]
fn with_spread_never_who_finds_the_shard_full_is_told_to_come_back() {
    let server = Server::start_limited("-n 100", &["--shards", "2", "--set", "rooms.spread=never"]);
    let mut members = Vec::new();
    let refused = loop {
        assert!(members.len() < 150, "one table does not hold that many");
        let mut client = Client::raw(server.address());
        let response = client.upgrade(&format!("/ws/room/u{}", members.len()), &[]);
        if response.status != 101 {
            break response;
        }
        members.push(client);
    };
    refused.expect_refusal(503, "full");
    let retry: u32 = refused.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=10).contains(&retry));
    assert!(members.len() > 50, "{}", members.len());
    server.wait_refused("full", 1);
    let count = members.len() as u64;
    members[0].send_json(&json!({ "content": "all here" }));
    members.iter_mut().for_each(|member| drop(member.recv_content("all here")));
    assert_eq!(server.counter("members"), count);
}
