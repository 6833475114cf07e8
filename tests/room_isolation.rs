//! What is said in a room stays in that room.

mod support;

use serde_json::{Value, json};
use support::{Client, End, Frame, Server, opcode};

const RAW: [(&str, &str); 1] = [("Sec-WebSocket-Protocol", "ringhall.raw")];

/// Joins, and takes everything that comes of it, its own announcement too.
fn enter(server: &Server, room: &str, user: &str) -> Client {
    let (mut client, _) = Client::join(server.address(), room, user);
    client.recv_content(format!("{user} has joined the room"));
    client
}

/// Everything that came, but for the pong that ends it.
#[track_caller]
fn heard(client: &mut Client) -> Vec<Value> {
    client.sync().iter().map(Frame::json).collect()
}

fn said(room: &str, sender: &str, content: &str, offset: u64) -> Value {
    json!({ "room": room, "sender": sender, "content": content, "offset": offset })
}

#[test]
fn rooms_whose_names_nearly_match_hear_nothing_of_each_other() {
    // Path, and the name that it spells.
    let rooms = [
        ("lobby", "lobby"),
        ("Lobby", "Lobby"),
        ("lobby2", "lobby2"),
        ("lobb", "lobb"),
        ("lobby%20", "lobby "),
        ("lobby%2F", "lobby/"),
        ("%2Flobby", "/lobby"),
        ("lobby%2Fann", "lobby/ann"),
        ("lobby%25", "lobby%"),
        ("%C3%A9", "é"),
        ("e%CC%81", "e\u{301}"),
        ("%F0%9F%94%94", "🔔"),
    ];
    for shards in ["1", "3"] {
        let server = Server::start(&["--shards", shards]);
        let mut members: Vec<_> = rooms
            .iter()
            .map(|(path, _)| (enter(&server, path, "ann"), enter(&server, path, "bob")))
            .collect();
        assert_eq!(server.counter("rooms"), rooms.len() as u64);
        for ((ann, _), (_, name)) in members.iter_mut().zip(rooms) {
            heard(ann);
            ann.send_json(&json!({ "content": format!("only in {name}") }));
        }
        for ((ann, bob), (_, name)) in members.iter_mut().zip(rooms) {
            let only = said(name, "ann", &format!("only in {name}"), 1);
            assert_eq!(ann.recv_json(), only);
            assert_eq!(bob.recv_json(), only);
        }
        for (ann, bob) in &mut members {
            assert_eq!((heard(ann), heard(bob)), (vec![], vec![]));
        }
        assert_eq!(server.counter("said"), rooms.len() as u64);
        assert_eq!(server.counter("deliveries") % 2, 0);
    }
}

#[test]
fn two_spellings_of_one_name_are_one_room() {
    let server = Server::start(&[]);
    let mut ann = enter(&server, "caf%C3%A9", "ann");
    let (mut bob, _) = Client::join(server.address(), "%63%61%66%c3%a9", "%62ob");
    bob.recv_content("bob has joined the room");
    assert_eq!(server.counter("rooms"), 1);
    bob.send_json(&json!({ "content": "here" }));
    let wanted = said("café", "bob", "here", 1);
    assert_eq!(ann.recv_content("here"), wanted);
    assert_eq!(bob.recv_json(), wanted);
}

#[test]
fn a_raw_room_and_a_json_room_of_one_name_are_two_rooms() {
    let server = Server::start(&[]);
    let mut json = enter(&server, "both", "ann");
    let mut raw = Client::connect_with(server.address(), "/ws/both/ann", &RAW);
    let mut other = Client::connect_with(server.address(), "/ws/both/bob", &RAW);
    assert_eq!(server.counter("rooms"), 2);
    raw.send_text("{\"content\":\"raw\"}");
    let as_sent = Frame::new(opcode::TEXT, *b"{\"content\":\"raw\"}");
    assert_eq!((raw.recv(), other.recv()), (as_sent.clone(), as_sent));
    json.send_json(&json!({ "content": "json" }));
    assert_eq!(json.recv_json(), said("both", "ann", "json", 1));
    assert_eq!((raw.sync(), other.sync(), json.sync()), (vec![], vec![], vec![]));
}

#[test]
fn one_user_in_two_rooms_is_two_members() {
    let server = Server::start(&[]);
    let mut work = enter(&server, "work", "ann");
    let mut home = enter(&server, "home", "ann");
    work.send_json(&json!({ "content": "busy" }));
    assert_eq!(work.recv_json(), said("work", "ann", "busy", 1));
    home.send_json(&json!({ "content": "idle" }));
    assert_eq!(home.recv_json(), said("home", "ann", "idle", 1));
    work.send_json(&json!({ "content": "no", "room": "home", "ref": 7 }));
    let refused = work.recv_json();
    assert_eq!((&refused["code"], &refused["ref"]), (&json!("not_in_room"), &json!(7)));
    assert_eq!(server.counter("errors"), 1);
    work.close();
    server.wait_counter("rooms", |rooms| rooms == 1);
    assert_eq!(home.sync(), [], "its leaving of the other room is nobody's business here");
}

#[test]
fn errors_go_to_the_speaker_alone() {
    let server = Server::start(&[]);
    let mut ann = enter(&server, "room", "ann");
    let mut bob = enter(&server, "room", "bob");
    ann.recv_content("bob has joined the room");
    ann.send_text("{\"content\":");
    ann.send_json(&json!({ "content": 1, "sender": "bob" }));
    ann.send_json(&json!({ "type": "join", "room": "else" }));
    let codes: Vec<_> = heard(&mut ann).iter().map(|error| error["code"].clone()).collect();
    assert_eq!(codes, ["bad_json", "sender_mismatch", "bad_message"]);
    assert_eq!(server.counter("errors"), 3);
    assert_eq!(bob.sync(), []);
    assert_eq!(server.counter("said"), 0);
}

#[test]
fn a_room_that_was_dropped_begins_anew() {
    let server = Server::start(&[]);
    let (mut ann, first) = Client::join(server.address(), "room", "ann");
    ann.recv_content("ann has joined the room");
    ann.send_json(&json!({ "content": "old" }));
    assert_eq!(ann.recv_json()["offset"], 1);
    let (_bob, second) = Client::join(server.address(), "room", "bob");
    assert_eq!((&second["epoch"], &second["offset"]), (&first["epoch"], &json!(1)));
    drop((ann, _bob));
    server.wait_counter("rooms", |rooms| rooms == 0);
    let (mut cat, third) = Client::join(server.address(), "room", "cat");
    assert_ne!(third["epoch"], first["epoch"], "the numbering starts anew");
    assert_eq!(third["offset"], 0);
    let epoch = third["epoch"].as_str().expect("a string");
    assert!((1..=32).contains(&epoch.len()) && epoch.chars().all(|c| c.is_ascii_alphanumeric()));
    cat.recv_content("cat has joined the room");
    assert_eq!(heard(&mut cat), Vec::<Value>::new(), "nothing of before");
}

#[test]
fn who_has_left_hears_nothing_more() {
    let server = Server::start(&[]);
    let mut ann = enter(&server, "room", "ann");
    let mut bob = enter(&server, "room", "bob");
    ann.recv_content("bob has joined the room");
    bob.send_close(1000);
    ann.recv_content("bob has left the room");
    ann.send_json(&json!({ "content": "alone" }));
    assert_eq!(ann.recv_json()["content"], "alone");
    let (end, frames) = bob.expect_end();
    assert_eq!((end, frames.len()), (End::Eof, 1), "{frames:?}");
    assert_eq!(frames[0].close_code(), (1000, String::new()));
    server.wait_closed("peer_closed", 1);
}

#[test]
fn two_tabs_of_one_user_are_announced_once() {
    let server = Server::start(&[]);
    let mut bob = enter(&server, "room", "bob");
    let first = enter(&server, "room", "ann");
    bob.recv_content("ann has joined the room");
    let (mut second, _) = Client::join(server.address(), "room", "ann");
    second.send_json(&json!({ "content": "second tab" }));
    assert_eq!(bob.recv_json()["content"], "second tab", "no second announcement");
    first.close();
    second.send_json(&json!({ "content": "still here" }));
    assert_eq!(bob.recv_json()["content"], "still here", "it has not left yet");
    second.close();
    bob.recv_content("ann has left the room");
    assert_eq!(server.counter("members"), 1);
}
