//! What waits, waits within bounds: of a client, of a room's turn, between shards, of the process.

mod support;

use std::time::{Duration, Instant};

use serde_json::json;
use support::{Bystander, Client, End, Server, encode, opcode};

/// Receive buffer of a reader that is to be too slow.
const SMALL: usize = 4 << 10;

fn server(sets: &[&str]) -> Server {
    let sets = sets.iter().flat_map(|set| ["--set", set]).collect::<Vec<_>>();
    Server::start(&[&["--set", "server.shards=2"], &sets[..]].concat())
}

/// A room with a reader that does not read, and a speaker who hears itself.
struct Jam {
    stalled: Client,
    speaker: Client,
    said: u64,
}

impl Jam {
    fn join(server: &Server, room: &str) -> Self {
        let path = format!("/ws/{room}/stalled");
        let stalled = Client::connect_small(server.address(), &path, SMALL);
        let (speaker, _) = Client::join(server.address(), room, "speaker");
        Self { stalled, speaker, said: 0 }
    }

    /// Says a message, and hears it.
    #[track_caller]
    fn say(&mut self, bytes: usize) {
        self.said += 1;
        self.speaker.send_json(&json!({ "content": [self.said, "x".repeat(bytes)] }));
        self.speaker.recv_until(|message| message["offset"] == self.said);
    }

    /// The stalled one reads after all: everything, in order.
    #[track_caller]
    fn catch_up(&mut self) {
        for offset in 1..=self.said {
            let message = self.stalled.recv_until(|message| message["content"].is_array());
            assert_eq!(message.last().expect("the last one")["offset"], offset);
        }
    }
}

#[test]
fn a_clients_queue_ends_at_queue_bytes() {
    const MESSAGE: usize = 20_000;
    let large = server(&["client.queue_bytes=32MiB"]);
    let small = server(&["client.queue_bytes=16KiB", "rooms.tick_bytes=8KiB"]);
    let (mut patient, mut strict) = (Jam::join(&large, "room"), Jam::join(&small, "room"));
    let mut bystander = Bystander::join(small.address(), "another");
    while small.counter("members") == 3 {
        patient.say(MESSAGE);
        strict.say(MESSAGE);
        let queued = small.counter("queue_bytes");
        assert!(queued <= (16 << 10) + 2 * (MESSAGE as u64 + 200), "{queued}");
    }
    assert_eq!(large.counter("members"), 2, "the same is no reason there");
    assert!(large.counter("queue_bytes") > 16 << 10);
    patient.catch_up();
    bystander.heard();
    drop(strict);
    small.wait_closed("slow_consumer", 1);
}

#[test]
fn all_queues_together_end_at_the_budget_and_the_slowest_pays() {
    let sets = ["limits.queue_bytes=1MiB", "client.queue_bytes=1MiB", "echo.enabled=false"];
    // One shard has to choose; among several, whoever holds less than the average is left alone.
    let server = server(&[&sets[..], &["server.shards=1"]].concat());
    let mut bystander = Bystander::join(server.address(), "bystander");
    // Two hold little, one holds much: more than the average, but not the most.
    let mut light: Vec<_> = (0..3).map(|n| Jam::join(&server, &format!("light{n}"))).collect();
    for (jam, messages) in light.iter_mut().zip([4, 4, 11]) {
        for _ in 0..messages {
            jam.say(30_000);
        }
    }
    let waiting = server.counter("queue_bytes");
    assert!((300_000..600_000).contains(&waiting), "{waiting}");
    let mut heavy = Jam::join(&server, "heavy");
    while server.number("closed", "overloaded") == 0 {
        heavy.say(30_000);
        assert!(heavy.said < 1000, "never too much");
        let queued = server.counter("queue_bytes");
        assert!(queued < (1 << 20) + 100_000, "{queued}");
    }
    assert_eq!(heavy.stalled.expect_end().0, End::Reset, "what the kernel holds goes, too");
    assert_eq!(server.counter("queue_bytes"), waiting, "the others' stayed");
    for jam in &mut light {
        jam.say(10);
        jam.catch_up();
    }
    heavy.say(10);
    bystander.heard();
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    assert_eq!(server.number("closed", "overloaded"), 1);
    assert_eq!(server.number("closed", "slow_consumer"), 0);
    assert!(server.counter("dropped_overload") > 0, "what it was not given is counted");
}

#[test]
fn halves_of_messages_count_against_the_budget() {
    let sets = ["limits.queue_bytes=1MiB", "client.message_bytes=512KiB", "echo.enabled=false"];
    let server = server(&sets);
    let mut bystander = Bystander::join(server.address(), "room");
    let frame = encode(true, 0, opcode::TEXT, true, &[b' '; 400_000]);
    let mut halves: Vec<_> = (0..4)
        .map(|n| {
            let mut client = Client::connect(server.address(), &format!("/ws/halves{n}/user"));
            client.sync();
            // Whoever is cut meanwhile is the one that the test waits for.
            let _cut = client.try_send_bytes(&frame[..390_000]);
            client
        })
        .collect();
    server.wait_counter("queue_bytes", |bytes| bytes > 0 && bytes <= 1 << 20);
    server.wait_counter("websockets", |websockets| websockets < 5);
    assert!(server.number("closed", "overloaded") >= 1);
    bystander.heard();
    halves.clear();
    server.wait_counter("queue_bytes", |bytes| bytes == 0);
    bystander.heard();
}

/// Hears so many numbers, the room's offsets without a gap; gives who said which.
fn hear(client: &mut Client, count: u64) -> Vec<(String, u64)> {
    let mut heard = Vec::new();
    while heard.len() as u64 != count {
        let message = client.recv_json();
        let Some(number) = message["content"][0].as_u64() else { continue };
        assert_eq!(message["offset"], heard.len() as u64 + 1);
        heard.push((message["sender"].as_str().expect("a string").to_owned(), number));
    }
    heard
}

/// Has members on every shard say numbers as fast as they can, and checks that each hears all in
/// one order; gives how often a speaker had to wait.
fn flood(server: &Server, members: u64, messages: u64, bytes: usize) -> u64 {
    let mut clients: Vec<_> =
        (0..members).map(|n| Client::join(server.address(), "room", &format!("u{n}")).0).collect();
    let padding = "x".repeat(bytes);
    let frames: Vec<u8> = (0..messages)
        .flat_map(|n| {
            let text = json!({ "content": [n, padding] }).to_string();
            encode(true, 0, opcode::TEXT, true, text.as_bytes())
        })
        .collect();
    // Written aside, for the server may stop reading while nobody hears it.
    let writing: Vec<_> = clients
        .iter()
        .map(|client| {
            let mut writer = client.stream().try_clone().expect("a second handle");
            let frames = frames.clone();
            std::thread::spawn(move || std::io::Write::write_all(&mut writer, &frames))
        })
        .collect();
    let all = members * messages;
    let heard: Vec<Vec<(String, u64)>> = std::thread::scope(|scope| {
        let hearing: Vec<_> =
            clients.iter_mut().map(|client| scope.spawn(move || hear(client, all))).collect();
        hearing.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    for thread in writing {
        thread.join().expect("no panic").expect("all was taken");
    }
    assert!(heard.iter().all(|one| *one == heard[0]), "one order");
    for user in 0..members {
        let own = heard[0].iter().filter(|(sender, _)| *sender == format!("u{user}"));
        assert!(own.map(|(_, n)| *n).eq(0..messages), "u{user} in the order sent");
    }
    server.counter("pauses")
}

/// Bounds so wide that nobody ever has to wait for one.
const WIDE: [&str; 5] = [
    "client.queue_bytes=128MiB",
    "rooms.tick_bytes=64MiB",
    "server.mesh_bytes=1GiB",
    "server.mesh_messages=1048576",
    "rooms.spread=always",
];

#[test]
fn within_wide_bounds_no_speaker_waits() {
    let server = server(&WIDE);
    assert_eq!(flood(&server, 6, 400, 10), 0);
}

#[test]
fn a_rooms_turn_ends_at_tick_bytes_and_the_rest_waits() {
    let sets = [&WIDE[..], &["rooms.tick_bytes=1KiB", "rooms.spread=auto"]].concat();
    let server = server(&sets);
    let mut bystander = Bystander::join(server.address(), "another");
    assert!(flood(&server, 6, 400, 10) > 0, "speakers had to wait");
    bystander.heard();
}

#[test]
fn messages_between_two_shards_end_at_mesh_messages_and_their_speakers_wait() {
    let server = server(&[&WIDE[..], &["server.mesh_messages=16"]].concat());
    let mut bystander = Bystander::join(server.address(), "another");
    assert!(flood(&server, 6, 400, 10) > 0, "speakers had to wait");
    bystander.heard();
}

#[test]
fn bytes_between_two_shards_end_at_mesh_bytes_and_their_speakers_wait() {
    // A turn's worth of the room must fit, so that is small, too; `mesh` tests the two apart.
    let sets = ["server.mesh_bytes=64KiB", "rooms.tick_bytes=64KiB"];
    let server = server(&[&WIDE[..], &sets].concat());
    let mut bystander = Bystander::join(server.address(), "another");
    assert!(flood(&server, 12, 30, 30_000) > 0, "speakers had to wait");
    bystander.heard();
}

#[test]
fn what_the_kernel_may_hold_unsent_is_bounded_by_notsent_lowat() {
    let queued = |lowat: &str| {
        let server = server(&[lowat, "client.queue_bytes=32MiB"]);
        let mut jam = Jam::join(&server, "room");
        for _ in 0..4 {
            jam.say(50_000);
        }
        let queued = server.counter("queue_bytes");
        jam.catch_up();
        queued
    };
    let (few, many) = (queued("server.notsent_lowat=4KiB"), queued("server.notsent_lowat=64MiB"));
    assert!(few > 100_000, "nearly all waits with us, where policy sees it: {few}");
    assert!(many < few, "the kernel took more of it: {many} of {few}");
}

#[test]
fn the_wait_for_a_close_ends_at_close_timeout() {
    let server = server(&["client.close_timeout=500ms", "client.message_bytes=1KiB"]);
    let mut bystander = Bystander::join(server.address(), "another");
    let (mut silent, _) = Client::join(server.address(), "room", "silent");
    let before = Instant::now();
    silent.send_json(&json!({ "content": "x".repeat(2000) }));
    silent.expect_close(1009);
    // It neither answers nor hangs up.
    assert_eq!(silent.try_recv(), Err(End::Eof));
    server.wait_closed("message_too_big", 1);
    assert!(before.elapsed() >= Duration::from_millis(500), "{:?}", before.elapsed());
    assert_eq!(server.counter("connections"), 1);
    bystander.heard();
}

#[test]
fn summaries_of_a_large_room_come_no_more_often_than_announce_every() {
    let server = server(&["rooms.announce_max=1", "rooms.announce_every=400ms"]);
    let mut listener = Bystander::join(server.address(), "elsewhere");
    let (mut first, _) = Client::join(server.address(), "room", "first");
    first.recv_content("first has joined the room");
    let mut members: Vec<Client> = Vec::new();
    let (mut joined, mut left, mut count, mut summaries) = (0, 0, 1, 0);
    let began = Instant::now();
    for round in 0..3u64 {
        for n in 0..3 {
            members.push(Client::join(server.address(), "room", &format!("u{round}{n}")).0);
        }
        members.swap_remove(0).close();
        while (joined, left) != (3 * (round + 1), round + 1) {
            let summary = first.recv_json();
            assert_eq!((&summary["type"], &summary["room"]), (&json!("members"), &json!("room")));
            joined += summary["joined"].as_u64().expect("a number");
            left += summary["left"].as_u64().expect("a number");
            count = summary["count"].as_u64().expect("a number");
            assert_eq!(count, 1 + joined - left, "{summary}");
            // The first comes at once.
            assert!(began.elapsed() >= summaries * Duration::from_millis(400), "{summaries}");
            summaries += 1;
        }
    }
    assert_eq!(count, server.counter("members") - 1);
    listener.heard();
}
