//! The judge of the cluster's tests is just: it passes what is promised and finds what was planted.
//!
//! And the load that it judges is heard, every message, by everybody on one box without a broker.

#[path = "support/brokers/mod.rs"]
mod brokers;
#[path = "support/cluster/mod.rs"]
mod cluster;
mod support;

use cluster::book::{Book, Life, Member, Message, Micros, Mode, Room, Speaker, render};
use cluster::check::{Counted, Fault, Trial, Verdict};
use cluster::load::Load;
use cluster::{check_local_first, check_ordered, check_presence};
use support::Server;

const NODES: usize = 3;
/// Messages of each speaker.
const SAID: usize = 20;
/// Between two of them.
const PAUSE: Micros = 1_000;

/// A JSON room and a raw one, a speaker and a listener of each on every node. Everybody joined, and
/// was told of whoever came later.
fn room_full() -> Book {
    let room = |name: &str, mode| Room { name: name.into(), mode };
    let mut book = Book {
        rooms: vec![room("json", Mode::Json), room("raw", Mode::Raw)],
        nodes: vec![Life::default(); NODES],
        ..Book::default()
    };
    for (node, speaks, room) in places() {
        let member = book.members.len();
        let speaker = speaks.then_some(book.speakers.len());
        if speaks {
            let refused = std::collections::BTreeSet::new();
            book.speakers.push(Speaker { member, said: Vec::new(), refused });
        }
        // One who does not hear itself is among them.
        let echo = (node, speaks, room) != (1, true, 0);
        let user = format!("u{member}");
        book.members.push(Member { room, node, user, echo, speaker, ..Member::default() });
        let at = member as Micros;
        if room == 0 {
            let joined = br#"{"type":"joined","room":"json","epoch":"e","offset":7}"#;
            book.hear(member, at, joined);
            announce(&mut book, member, "joined", at);
        } else {
            book.members[member].joined = Some(at);
        }
    }
    book
}

fn places() -> impl Iterator<Item = (usize, bool, usize)> {
    (0..NODES).flat_map(|node| {
        [true, false].into_iter().flat_map(move |speaks| [(node, speaks, 0), (node, speaks, 1)])
    })
}

/// Tells the JSON room's members that a user came or went.
fn announce(book: &mut Book, who: usize, what: &str, at: Micros) {
    let user = book.members[who].user.clone();
    let text = format!(r#"{{"sender":"system","content":"{user} has {what} the room"}}"#);
    for member in 0..=book.members.len() - 1 {
        let told = &book.members[member];
        if told.room == 0 && book.nodes[told.node].until.is_none() {
            book.hear(member, at, text.as_bytes());
        }
    }
}

/// Who hears a message: by default everybody, but a speaker that does not want its own.
fn everybody(book: &Book, message: Message) -> Vec<usize> {
    let room = book.members[book.speakers[message.speaker].member].room;
    let hears = |member: &usize| {
        let member = &book.members[*member];
        member.room == room && (member.echo || member.speaker != Some(message.speaker))
    };
    (0..book.members.len()).filter(hears).collect()
}

/// Everybody says its messages in turn; `hears` takes away who does not hear one.
fn speak(book: &mut Book, hears: impl Fn(&Book, Message, usize) -> bool) {
    // Every box counts for itself where it gives the order; one count is right for both.
    let mut offset = 7;
    for round in 0..SAID {
        for speaker in 0..book.speakers.len() {
            let at = 1_000 + (round * 10 + speaker) as Micros * PAUSE;
            let (message, text) = book.say(speaker, at);
            let from = book.members[book.speakers[speaker].member].clone();
            let text = match book.rooms[from.room].mode {
                Mode::Raw => text,
                Mode::Json => {
                    offset += 1;
                    let (user, number) = (&from.user, message.number);
                    let content = format!("[{speaker},{number}]");
                    format!(r#"{{"sender":"{user}","content":{content},"offset":{offset}}}"#)
                }
            };
            for member in everybody(book, message) {
                if hears(book, message, member) {
                    book.hear(member, at + 100, text.as_bytes());
                }
            }
        }
    }
}

fn sound() -> Book {
    let mut book = room_full();
    speak(&mut book, |_, _, _| true);
    book
}

const NOTHING: [Option<Counted>; NODES] =
    [Some(Counted { gaps: 0, dropped: 0, rejected: 0 }); NODES];

fn local_first(book: &Book, counted: &[Option<Counted>], faults: &[Fault]) -> Verdict {
    let mut verdict = check_local_first::judge(&Trial { book, counted, faults });
    check_presence::judge(book, faults, &mut verdict);
    verdict
}

fn ordered(book: &Book, faults: &[Fault]) -> Verdict {
    check_ordered::judge(&Trial { book, counted: &NOTHING, faults }, false)
}

#[track_caller]
fn passes(verdict: &Verdict) {
    assert!(verdict.problems.is_empty(), "\n{verdict}");
}

#[track_caller]
fn finds(verdict: &Verdict, what: &str) {
    assert!(verdict.problems.iter().any(|problem| problem.contains(what)), "{what}?\n{verdict}");
}

/// Index of a member's entry for the message that it heard so late.
const LATE: usize = 30;

#[test]
fn what_is_promised_passes() {
    let book = sound();
    assert_eq!(book.members.iter().map(|member| member.strange.len()).sum::<usize>(), 0);
    passes(&local_first(&book, &NOTHING, &[]));
    passes(&ordered(&book, &[]));
}

#[test]
fn a_loss_is_found_on_the_speakers_box_and_on_another() {
    // Node 0's speaker of the JSON room, one message of its own, missed by one of its two members.
    let mut book = sound();
    let speaker = book.members[0].speaker;
    let listener = 2;
    assert_eq!((book.members[listener].node, book.members[listener].room), (0, 0));
    book.members[listener]
        .heard
        .retain(|heard| Some(heard.message.speaker) != speaker || heard.message.number != 5);
    finds(&local_first(&book, &NOTHING, &[]), "one order on a box");
    finds(&ordered(&book, &[]), "one order on a box");
    // All members of node 1, a message of node 0.
    let mut book = room_full();
    speak(&mut book, |book, message, member| {
        message != Message { speaker: 1, number: 9 } || book.members[member].node != 1
    });
    let verdict = local_first(&book, &NOTHING, &[]);
    finds(&verdict, "node 1 counted 0 gaps, its members missed 1");
    finds(&verdict, "missed while all was well");
    finds(&ordered(&book, &[]), "one order on all boxes");
    finds(&ordered(&book, &[]), "node 1 missed");
}

#[test]
fn a_message_heard_twice_is_found() {
    for (member, delivery) in [(2, "json"), (3, "raw")] {
        let mut book = sound();
        let again = book.members[member].heard[LATE];
        book.members[member].heard.insert(LATE + 5, again);
        finds(&local_first(&book, &NOTHING, &[]), "at most once and in order");
        finds(&ordered(&book, &[]), "at most once and in order");
        assert_eq!(book.rooms[book.members[member].room].name, delivery);
    }
}

#[test]
fn a_senders_messages_in_another_order_are_found() {
    let mut book = sound();
    let heard = &mut book.members[3].heard;
    let first = heard[LATE].message.speaker;
    let next = (LATE + 1..heard.len()).find(|at| heard[*at].message.speaker == first);
    heard.swap(LATE, next.expect("it says more"));
    finds(&local_first(&book, &NOTHING, &[]), "at most once and in order");
}

#[test]
fn another_order_of_two_senders_is_found_on_one_box_and_between_boxes_where_it_is_promised() {
    // Both members of the raw room on node 2 hear two senders' messages the other way round.
    let mut book = sound();
    let there = |member: &&mut Member| (member.node, member.room) == (2, 1);
    for member in book.members.iter_mut().filter(there) {
        member.heard.swap(LATE, LATE + 1);
    }
    passes(&local_first(&book, &NOTHING, &[]));
    finds(&ordered(&book, &[]), "one order on all boxes");
    // One of them alone does.
    let mut book = sound();
    book.members.iter_mut().find(there_is(2, 1)).expect("it is there").heard.swap(LATE, LATE + 1);
    finds(&local_first(&book, &NOTHING, &[]), "one order on a box");
}

fn there_is(node: usize, room: usize) -> impl Fn(&&mut Member) -> bool {
    move |member| (member.node, member.room) == (node, room)
}

#[test]
fn an_offset_with_a_hole_and_an_epoch_too_many_are_found() {
    let mut book = sound();
    book.members[2].heard[LATE].offset += 1;
    finds(&local_first(&book, &NOTHING, &[]), "offsets");
    let mut book = sound();
    book.hear(2, 500_000, br#"{"type":"joined","room":"json","epoch":"f","offset":0}"#);
    finds(&local_first(&book, &NOTHING, &[]), "epochs");
    finds(&ordered(&book, &[]), "epochs");
}

#[test]
fn one_who_hears_itself_against_its_wish_is_found() {
    let mut book = sound();
    let deaf = book.members.iter().position(|member| !member.echo).expect("there is one");
    let other = book.members.iter().position(|member| (member.node, member.room) == (1, 0));
    let own = book.members[deaf].speaker.expect("it speaks");
    assert_eq!(other, Some(deaf), "the first of its room and node");
    let heard = book.members[2].heard.clone();
    let first = heard.iter().position(|heard| heard.message.speaker == own).expect("heard");
    book.members[deaf].heard.insert(first, heard[first]);
    finds(&local_first(&book, &NOTHING, &[]), "heard itself");
}

/// Node 0 cannot reach the others while it says its messages 5 to 9 of the raw room.
fn isolated() -> (Book, [Fault; 1]) {
    let mut book = room_full();
    speak(&mut book, |book, message, member| {
        message.speaker != 1 || !(5..10).contains(&message.number) || book.members[member].node == 0
    });
    let said = &book.speakers[1].said;
    let (from, noticed, until) = (said[5], said[5] - 1, said[9] + 1_000_000);
    let fault = Fault { what: "planted", node: 0, from, struck: from, noticed, until };
    (book, [fault])
}

#[test]
fn what_is_lost_in_a_fault_is_explained_by_the_counters_of_both_ends() {
    let (book, faults) = isolated();
    let mut counted = NOTHING;
    counted[0] = Some(Counted { dropped: 5, ..Counted::default() });
    counted[1] = Some(Counted { gaps: 5, ..Counted::default() });
    counted[2] = counted[1];
    passes(&local_first(&book, &counted, &faults));
    finds(&local_first(&book, &counted, &[]), "missed while all was well");
    for (node, wrong) in [(0, 4), (0, 6), (1, 4), (1, 6), (2, 0)] {
        let mut counted = counted;
        let mut of_node = counted[node].expect("it lives");
        if node == 0 {
            of_node.dropped = wrong;
        } else {
            of_node.gaps = wrong;
        }
        counted[node] = Some(of_node);
        finds(&local_first(&book, &counted, &faults), &format!("node {node} counted {wrong}"));
    }
    finds(&ordered(&book, &faults), "node 1 missed");
}

#[test]
fn what_had_not_come_when_a_fault_struck_is_explained_unless_it_was_overtaken() {
    // Nothing that node 0 says in the raw room from its fifth message on comes to the others.
    let lost = |book: &Book, message: Message, member: usize| {
        message.speaker == 1 && message.number >= 5 && book.members[member].node != 0
    };
    let judge = |heard: Option<usize>, struck: Micros| {
        let mut book = room_full();
        speak(&mut book, |book, message, member| {
            heard == Some(message.number) || !lost(book, message, member)
        });
        let missed = (SAID - 5 - usize::from(heard.is_some())) as u64;
        let mut counted = NOTHING;
        counted[1] = Some(Counted { gaps: missed, ..Counted::default() });
        counted[2] = counted[1];
        let (from, until) = (struck, Micros::MAX);
        let fault = Fault { what: "planted", node: 0, from, struck, noticed: struck, until };
        let unheard = u64::from(book.speakers[1].said[SAID - 1] >= from);
        counted[0] = Some(Counted { dropped: unheard, ..Counted::default() });
        local_first(&book, &counted, &[fault])
    };
    let last = 1_000 + (SAID - 1) as Micros * 10 * PAUSE + PAUSE;
    passes(&judge(None, last));
    // One of the later came before the fault, so what was said before it had been lost already.
    finds(&judge(Some(12), last), "missed while all was well");
    // Or nothing did, for far too long.
    finds(&judge(None, last + 2_000_000), "missed while all was well");
}

#[test]
fn a_message_that_was_refused_is_heard_by_nobody_and_counted() {
    let refuse = |book: &mut Book| {
        let refusal = br#"{"type":"error","code":"unavailable","message":"m","ref":"4"}"#;
        book.hear(0, 900_000, refusal);
    };
    let silent = |_: &Book, message: Message, _: usize| message.number != 4 || message.speaker > 1;
    let mut book = room_full();
    speak(&mut book, silent);
    refuse(&mut book);
    let at = book.speakers[0].said[4];
    let (from, until) = (at, at + PAUSE * 2);
    let fault = Fault { what: "planted", node: 0, from, struck: at, noticed: at, until };
    let counted = |rejected| {
        let mut counted = NOTHING;
        counted[0] = Some(Counted { rejected, ..Counted::default() });
        counted
    };
    let judge = |book: &Book, rejected, faults: &[Fault]| {
        check_ordered::judge(&Trial { book, counted: &counted(rejected), faults }, false)
    };
    // One in the JSON room, whose speaker was told, and one in the raw room.
    passes(&judge(&book, 2, &[fault]));
    finds(&judge(&book, 1, &[fault]), "node 0 counted 1 rejected");
    finds(&judge(&book, 2, &[]), "refused while all was well");
    // Nobody was told.
    let mut untold = room_full();
    speak(&mut untold, silent);
    finds(&judge(&untold, 2, &[fault]), "neither refused nor heard");
    // Somebody heard it all the same.
    let mut heard = sound();
    refuse(&mut heard);
    finds(&judge(&heard, 2, &[fault]), "refused and yet heard");
}

#[test]
fn announcements_too_many_and_too_few_are_found() {
    let mut book = sound();
    book.members[0].crossings.pop();
    finds(&local_first(&book, &NOTHING, &[]), "announcements");
    let mut book = sound();
    announce(&mut book, 4, "left", 700_000);
    finds(&local_first(&book, &NOTHING, &[]), "announcements");
}

#[test]
fn a_killed_boxs_members_leave_once_and_within_ten_seconds() {
    let kill = |left_at: Option<Micros>| {
        let mut book = sound();
        book.nodes[2].until = Some(600_000);
        let members = 0..book.members.len();
        let dead: Vec<_> = members
            .filter(|member| (book.members[*member].node, book.members[*member].room) == (2, 0))
            .collect();
        for member in dead {
            if let Some(at) = left_at {
                announce(&mut book, member, "left", at);
            }
        }
        let mut counted = NOTHING;
        counted[2] = None;
        local_first(&book, &counted, &[])
    };
    passes(&kill(Some(600_000 + check_presence::LEFT_WITHIN)));
    finds(&kill(Some(600_001 + check_presence::LEFT_WITHIN)), "announcements");
    finds(&kill(None), "announcements");
}

#[test]
fn a_message_is_read_as_it_was_written_and_anything_else_is_strange() {
    let mut book = sound();
    assert_eq!(render(Mode::Raw, Message { speaker: 1, number: 3 }), "1 3");
    let before = book.members[2].heard.len();
    for strange in [
        r#"{"sender":"u0","content":[0,99],"offset":9}"#,
        r#"{"sender":"u9","content":[0,1],"offset":9}"#,
        r#"{"type":"lag","room":"json","missed":1,"offset":3}"#,
        "no JSON",
    ] {
        book.hear(2, 1, strange.as_bytes());
    }
    assert_eq!((book.members[2].heard.len(), book.members[2].strange.len()), (before, 4));
    finds(&local_first(&book, &NOTHING, &[]), "strange");
}

#[test]
fn everybody_on_one_box_hears_everything_of_the_load() {
    let server = Server::start(&[]);
    let load = Load::start(&[server.address()]);
    support::eventually(support::DEADLINE, "everybody has been told of everybody", || {
        load.read(check_presence::complete)
    });
    load.begin();
    load.pass(1.0);
    load.settle();
    let book = load.book();
    let said: usize = book.speakers.iter().map(|speaker| speaker.said.len()).sum();
    assert!(said >= 1000, "{said}");
    assert_eq!(server.counter("said"), said as u64);
    let trial = Trial { book: &book, counted: &[Some(Counted::default())], faults: &[] };
    let mut verdict = check_local_first::judge(&trial);
    check_presence::judge(&book, &[], &mut verdict);
    passes(&verdict);
    passes(&check_ordered::judge(&trial, false));
}
