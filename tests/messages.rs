//! What a member says reaches every member: the same bytes, in one order, each once; what is no
//! message is told to its speaker alone.

mod support;

use serde_json::{Value, json};
use support::{Bystander, Client, End, Server, encode, opcode};

/// Every kind of home: a single shard; two, of which the members' room lives on one; two, where
/// members stay on whichever shard took them in.
const PLACEMENTS: [&[&str]; 3] =
    [&["--shards", "1"], &["--shards", "2"], &["--shards", "2", "--set", "rooms.spread=always"]];

/// Joins, and waits for its own announcement.
#[track_caller]
fn enter(server: &Server, room: &str, user: &str) -> Client {
    let (mut client, joined) = Client::join(server.address(), room, user);
    assert_eq!(joined["room"], room);
    client.recv_content(format!("{user} has joined the room"));
    client
}

/// Waits for an error; nothing else comes before it.
#[track_caller]
fn recv_error(client: &mut Client, what: &str) -> Value {
    let error = client.recv_json();
    assert_eq!(error["type"], "error", "{what}: {error}");
    assert!(error["message"].as_str().is_some_and(|message| message.len() > 10), "{error}");
    error
}

#[test]
fn the_first_message_says_where_the_room_stands_and_the_own_announcement_follows() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        for room in 0..8 {
            let room = format!("room{room}");
            let (mut ann, joined) = Client::join(server.address(), &room, "ann");
            let epoch = joined["epoch"].as_str().expect("a string");
            assert!((1..=32).contains(&epoch.len()), "{epoch}");
            assert!(epoch.bytes().all(|byte| byte.is_ascii_alphanumeric()), "{epoch}");
            let wanted = json!({
                "type": "joined", "room": room, "epoch": epoch, "offset": 0, "recovered": false,
            });
            assert_eq!(joined, wanted);
            let own =
                json!({"room": room, "sender": "system", "content": "ann has joined the room"});
            assert_eq!(ann.recv_json(), own, "announcements carry no offset");
            for n in 1..=3 {
                ann.send_json(&json!({ "content": n }));
                assert_eq!(ann.recv_json()["offset"], n);
            }
            let (mut bob, joined) = Client::join(server.address(), &room, "bob");
            assert_eq!((&joined["offset"], &joined["epoch"]), (&json!(3), &json!(epoch)));
            assert_eq!(bob.recv_json()["content"], "bob has joined the room");
            assert_eq!(ann.recv_json()["content"], "bob has joined the room");
            // Announcements take no offset.
            bob.send_json(&json!({ "content": "next" }));
            assert_eq!(bob.recv_json()["offset"], 4);
            assert_eq!(ann.recv_json()["offset"], 4);
        }
    }
}

#[test]
fn a_room_that_everybody_left_begins_anew() {
    let server = Server::start(&["--shards", "2"]);
    let mut epochs = Vec::new();
    for _ in 0..3 {
        let (mut ann, joined) = Client::join(server.address(), "lobby", "ann");
        assert_eq!(joined["offset"], 0);
        epochs.push(joined["epoch"].clone());
        ann.send_json(&json!({ "content": 1 }));
        ann.recv_content(1);
        ann.close();
        server.wait_counter("rooms", |count| count == 0);
    }
    let (_, elsewhere) = Client::join(server.address(), "other", "ann");
    epochs.push(elsewhere["epoch"].clone());
    for (at, epoch) in epochs.iter().enumerate() {
        assert!(!epochs[..at].contains(epoch), "{epochs:?}");
    }
}

#[test]
fn the_first_and_the_last_tab_of_a_user_are_announced() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bob = enter(&server, "lobby", "bob");
        let first = enter(&server, "lobby", "ann");
        bob.recv_content("ann has joined the room");
        let (mut second, _) = Client::join(server.address(), "lobby", "ann");
        let (mut third, _) = Client::join(server.address(), "lobby", "ann");
        // Every tab hears what is said, its own user's words from another tab too.
        second.send_json(&json!({ "content": "from the second" }));
        for client in [&mut bob, &mut second, &mut third] {
            let heard = client.recv_json();
            assert_eq!(heard["content"], "from the second", "nothing is announced before it");
            assert_eq!(heard["sender"], "ann");
        }
        first.close();
        second.close();
        server.wait_counter("members", |count| count == 2);
        third.send_json(&json!({ "content": "still here" }));
        assert_eq!(bob.recv_json()["content"], "still here");
        third.close();
        assert_eq!(bob.recv_json()["content"], "ann has left the room");
        let (_ann, _) = Client::join(server.address(), "lobby", "ann");
        assert_eq!(bob.recv_json()["content"], "ann has joined the room");
    }
}

#[test]
fn every_member_gets_the_same_bytes_in_the_same_order() {
    const MEMBERS: usize = 6;
    const EACH: usize = 50;
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut members: Vec<_> = (0..MEMBERS)
            .map(|n| {
                let client = enter(&server, "lobby", &format!("user{n}"));
                server.wait_counter("members", |count| count == n as u64 + 1);
                client
            })
            .collect();
        for n in 0..EACH {
            for (user, member) in members.iter_mut().enumerate() {
                member.send_json(&json!({ "content": [user, n] }));
            }
        }
        let mut all = members.iter_mut().map(|member| {
            let mut said = Vec::new();
            while said.len() < MEMBERS * EACH {
                let frame = member.recv();
                if frame.json()["sender"] != "system" {
                    said.push(frame.text().to_owned());
                }
            }
            said
        });
        let first = all.next().expect("a member");
        for other in all {
            assert_eq!(first, other);
        }
        // Offsets without a gap, and each speaker in its own order.
        let mut next = [0; MEMBERS];
        for (text, offset) in first.iter().zip(1..) {
            let message: Value = serde_json::from_str(text).expect("JSON");
            assert_eq!(message["offset"], offset);
            let user = message["content"][0].as_u64().expect("a number") as usize;
            assert_eq!(message["content"][1], next[user]);
            assert_eq!(message["sender"], format!("user{user}"));
            next[user] += 1;
        }
        assert_eq!(server.counter("said"), (MEMBERS * EACH) as u64);
    }
}

#[test]
fn content_is_relayed_byte_for_byte() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bob = enter(&server, "lobby", "bob");
        let mut ann = enter(&server, "lobby", "ann");
        bob.recv_content("ann has joined the room");
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        for (content, offset) in [
            "null",
            "true",
            "\"\"",
            "1.50",
            "-0",
            "1e400",
            "123456789012345678901234567890",
            r#""\u00fc \ud83d\ude00 \/ \" \\""#,
            r#""\ud800 alone""#,
            "\"\u{fc} \u{1f600} \u{2028}\"",
            r#"{ "b" : 1 ,  "a" : [ 1,2 ] , "b":2}"#,
            "[\n\t]",
            r#"{"type":"error","room":"x","sender":"system","offset":99}"#,
            &deep,
        ]
        .iter()
        .zip(1..)
        {
            let spaced = format!("  {{ \"content\" :{content}, \"sender\":\"ann\" }}\r\n");
            ann.send_text(&spaced);
            let wanted = format!(
                r#"{{"room":"lobby","sender":"ann","content":{content},"offset":{offset}}}"#
            );
            assert_eq!(ann.recv().text(), wanted);
            assert_eq!(bob.recv().text(), wanted);
        }
    }
}

#[test]
fn own_room_and_sender_may_be_named() {
    let server = Server::start(&[]);
    let mut client = Client::connect(server.address(), "/ws/a%22b%5C/J%C3%BCrgen");
    client.recv_content("J\u{fc}rgen has joined the room");
    client.send_json(&json!({"content": 1, "room": "a\"b\\", "sender": "J\u{fc}rgen", "x": {}}));
    let wanted = json!({"room": "a\"b\\", "sender": "J\u{fc}rgen", "content": 1, "offset": 1});
    assert_eq!(client.recv_json(), wanted);
}

/// Messages that are none, and the code that SPEC section 5 gives them.
const WRONG: [(&str, &str); 22] = [
    ("", "bad_json"),
    ("hello", "bad_json"),
    ("{\"content\":1", "bad_json"),
    ("{\"content\":1}}", "bad_json"),
    ("{'content':1}", "bad_json"),
    ("{\"content\":01}", "bad_json"),
    ("{\"content\":NaN}", "bad_json"),
    ("{\"content\":\"\u{1}\"}", "bad_json"),
    ("\u{feff}{\"content\":1}", "bad_json"),
    ("null", "bad_message"),
    ("[\"content\",1]", "bad_message"),
    ("\"content\"", "bad_message"),
    ("{}", "bad_message"),
    ("{\"Content\":1}", "bad_message"),
    ("{\"content\":1,\"content\":2}", "bad_message"),
    ("{\"content\":1,\"room\":7}", "bad_message"),
    ("{\"type\":\"join\",\"room\":\"other\"}", "bad_message"),
    ("{\"type\":\"leave\",\"room\":\"lobby\"}", "bad_message"),
    ("{\"type\":\"nonsense\",\"content\":1}", "bad_message"),
    ("{\"content\":1,\"room\":\"other\"}", "not_in_room"),
    ("{\"content\":1,\"sender\":\"bystander\"}", "sender_mismatch"),
    ("{\"content\":1,\"sender\":\"system\"}", "sender_mismatch"),
];

#[test]
fn what_is_no_message_is_told_to_its_speaker_alone() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bystander = Bystander::join(server.address(), "lobby");
        // Two speakers: so many errors are no flood yet.
        for half in WRONG.chunks(WRONG.len() / 2) {
            let before = server.counter("errors");
            let mut ann = enter(&server, "lobby", "ann");
            for (text, code) in half {
                ann.send_text(text);
                let error = recv_error(&mut ann, text);
                assert_eq!(error["code"], *code, "{text}: {error}");
                assert_eq!(error.get("ref"), None, "none was given: {text}");
            }
            // The connection goes on.
            ann.send_json(&json!({ "content": "well" }));
            assert_eq!(ann.recv_json()["content"], "well");
            assert_eq!(server.counter("errors"), before + half.len() as u64);
            ann.close();
            let heard = bystander.heard_until_left("ann");
            assert_eq!((heard.len(), &heard[0]["content"]), (1, &json!("well")));
        }
    }
}

#[test]
fn too_deep_a_content_is_no_message() {
    let server = Server::start(&[]);
    let mut ann = enter(&server, "lobby", "ann");
    for depth in [129, 10_000] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let nest = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            ann.send_text(&format!("{{\"content\":{nest},\"ref\":1}}"));
            let code = recv_error(&mut ann, "deep")["code"].clone();
            assert!(["bad_message", "bad_json"].contains(&code.as_str().unwrap()), "{code}");
        }
    }
    ann.send_json(&json!({ "content": "goes on" }));
    ann.recv_content("goes on");
}

#[test]
fn a_reference_comes_back_in_the_error_as_it_was_sent() {
    let server = Server::start(&["--shards", "2"]);
    let mut ann = enter(&server, "lobby", "ann");
    for reference in ["1", "\"a\\u00fc\"", "null", "[1, 2.50]", "{\"a\":{}}"] {
        for (fields, code) in [
            ("", "bad_message"),
            (",\"content\":1,\"room\":\"other\"", "not_in_room"),
            (",\"content\":1,\"sender\":\"bob\"", "sender_mismatch"),
        ] {
            // Fifteen in all: no flood yet.
            ann.send_text(&format!("{{\"ref\":{reference}{fields}}}"));
            let frame = ann.recv();
            assert_eq!(frame.json()["code"], code);
            let wanted = format!(",\"ref\":{reference}}}");
            assert!(frame.text().ends_with(&wanted), "{}", frame.text());
        }
    }
    // Where all is well it does not come back yet, and is nobody else's business.
    ann.send_text(r#"{"content":1,"ref":"mine"}"#);
    assert_eq!(ann.recv().text(), r#"{"room":"lobby","sender":"ann","content":1,"offset":1}"#);
}

#[test]
fn a_flood_of_what_is_no_message_is_1008() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bystander = Bystander::join(server.address(), "lobby");
        let mut ann = enter(&server, "lobby", "ann");
        let flood = encode(true, 0, opcode::TEXT, true, b"nonsense").repeat(1000);
        ann.send_bytes(&flood);
        let mut errors = 0;
        let frame = loop {
            let frame = ann.recv();
            if frame.opcode != opcode::TEXT {
                break frame;
            }
            assert_eq!(frame.json()["code"], "bad_json");
            errors += 1;
        };
        assert_eq!(frame.close_code().0, 1008);
        assert!((10..40).contains(&errors), "a few are told, not a thousand: {errors}");
        assert_eq!(ann.expect_end(), (End::Eof, vec![]));
        drop(ann);
        server.wait_closed("flood", 1);
        bystander.expect_only_left("ann");
    }
}

#[test]
fn a_binary_message_is_1003() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bystander = Bystander::join(server.address(), "lobby");
        for (count, payload) in [(1, &b"{\"content\":1}"[..]), (2, b""), (3, &[0xff; 1000])] {
            let mut ann = Client::connect_with(
                server.address(),
                "/ws/lobby/ann",
                &[("Sec-WebSocket-Protocol", "ringhall.json")],
            );
            ann.recv_content("ann has joined the room");
            ann.send_binary(payload);
            ann.expect_close(1003);
            assert_eq!(ann.expect_end(), (End::Eof, vec![]));
            drop(ann);
            server.wait_closed("binary_in_json", count);
            bystander.expect_only_left("ann");
        }
    }
}

#[test]
fn who_does_not_want_to_hear_itself_hears_everything_else() {
    for placement in PLACEMENTS {
        let server = Server::start(placement);
        let mut bob = enter(&server, "lobby", "bob");
        let mut ann = Client::connect(server.address(), "/ws/lobby/ann?echo=false");
        ann.recv_content("ann has joined the room");
        bob.recv_content("ann has joined the room");
        // Another tab of the same user wants to.
        let (mut tab, _) = Client::join(server.address(), "lobby", "ann");
        for round in 0..30 {
            // Several at once: within one turn some of a payload's frames are its own.
            let mine = |n| {
                encode(
                    true,
                    0,
                    opcode::TEXT,
                    true,
                    format!(r#"{{"content":["ann",{round},{n}]}}"#).as_bytes(),
                )
            };
            ann.send_bytes(&[mine(0), mine(1)].concat());
            bob.send_json(&json!({ "content": ["bob", round, 0] }));
            ann.send_bytes(&mine(2));
            bob.send_json(&json!({ "content": ["bob", round, 1] }));
            let of = |client: &mut Client, who: &[&str]| {
                let mut heard = Vec::new();
                while heard.len() < if who.len() == 2 { 5 } else { 2 } {
                    let message = client.recv_json();
                    assert!(who.contains(&message["sender"].as_str().unwrap()), "{message}");
                    heard.push(message);
                }
                heard
            };
            let all = of(&mut bob, &["ann", "bob"]);
            assert_eq!(of(&mut tab, &["ann", "bob"]), all);
            let bobs: Vec<_> =
                all.into_iter().filter(|message| message["sender"] == "bob").collect();
            assert_eq!(of(&mut ann, &["bob"]), bobs);
        }
        // Joins and leaves are heard, errors too.
        tab.close();
        bob.close();
        assert_eq!(ann.recv_json()["content"], "bob has left the room");
        ann.send_text("nonsense");
        assert_eq!(recv_error(&mut ann, "nonsense")["code"], "bad_json");
    }
}

#[test]
fn a_large_room_gets_summaries_in_place_of_announcements() {
    let set = ["--set", "rooms.announce_max=3", "--set", "rooms.announce_every=100ms"];
    let server = Server::start(&set);
    let mut first = enter(&server, "lobby", "user0");
    let mut rest: Vec<_> =
        (1..10).map(|n| Client::join(server.address(), "lobby", &format!("user{n}")).0).collect();
    for n in 1..3 {
        assert_eq!(first.recv_json()["content"], format!("user{n} has joined the room"));
    }
    let (mut joined, mut count) = (0, 0);
    while joined < 7 {
        let summary = first.recv_json();
        assert_eq!((&summary["type"], &summary["room"]), (&json!("members"), &json!("lobby")));
        assert_eq!((summary["left"].as_u64(), summary.get("offset")), (Some(0), None));
        joined += summary["joined"].as_u64().expect("a count");
        count = summary["count"].as_u64().expect("a count");
    }
    assert_eq!((joined, count), (7, 10));
    let mut left = 0;
    for client in rest.drain(..5) {
        client.close();
    }
    while left < 5 {
        let summary = first.recv_json();
        assert_eq!((&summary["type"], &summary["joined"]), (&json!("members"), &json!(0)));
        left += summary["left"].as_u64().expect("a count");
        count = summary["count"].as_u64().expect("a count");
    }
    assert_eq!((left, count), (5, 5));
}

#[test]
fn rooms_hear_nothing_of_each_other() {
    let server = Server::start(&["--shards", "2"]);
    let mut members: Vec<_> = (0..20).map(|n| enter(&server, &format!("room{n}"), "ann")).collect();
    for (n, member) in members.iter_mut().enumerate() {
        for _ in 0..5 {
            member.send_json(&json!({ "content": n }));
        }
    }
    for (n, member) in members.iter_mut().enumerate() {
        for offset in 1..=5 {
            let room = format!("room{n}");
            let wanted = json!({"room": room, "sender": "ann", "content": n, "offset": offset});
            assert_eq!(member.recv_json(), wanted);
        }
    }
    // Names differ in every byte: case, and composed or not, are the client's affair.
    let names = ["lobby", "Lobby", "lobby%20", "l%C3%B6bby", "lo%CC%88bby"];
    for name in names {
        let (_, joined) = Client::join(server.address(), name, "ann");
        assert_eq!(joined["offset"], 0, "{name}");
    }
}
