//! Two boxes with `local_first`: what one says the other hears, and what it misses is counted.

#[path = "support/bridge_box.rs"]
mod bridge_box;
#[path = "support/loopback_broker.rs"]
mod loopback_broker;

use bridge_box::{BridgeBox, LOCAL_FIRST, room};
use loopback_broker::Loopback;
use ringhall::bridge::envelope;
use ringhall::bridge::{Inbound, Verdict};
use ringhall::broker::Lane;
use ringhall::broker::breaker::State;

/// Two boxes that know each other, and have the room open.
fn two(broker: &Loopback) -> (BridgeBox, BridgeBox) {
    let mut a = BridgeBox::connected(broker, 1, LOCAL_FIRST);
    let mut b = BridgeBox::connected(broker, 2, LOCAL_FIRST);
    for one in [&mut a, &mut b] {
        one.open(&room("r"));
        one.wait("two boxes", |report| report.nodes == 2);
    }
    (a, b)
}

#[test]
fn the_other_box_hears_everything_once_and_in_order() {
    let broker = Loopback::default();
    broker.set(|faults| faults.repeats = true);
    let (mut a, mut b) = two(&broker);
    for n in 0..1000 {
        assert_eq!(a.say(&room("r"), &n.to_string()), Verdict::Goes);
    }
    for n in 0..1000 {
        assert_eq!(b.heard(), n.to_string());
    }
    b.say(&room("r"), "back");
    assert_eq!(a.heard(), "back", "and nothing of one's own before");
    let report = b.wait("duplicates", |report| report.duplicates == 1000);
    assert_eq!((report.gaps, report.unreadable), (0, 0));
}

#[test]
fn a_room_that_is_not_open_costs_a_shard_nothing() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    a.say(&room("elsewhere"), "unheard");
    a.say(&room("r"), "heard");
    assert_eq!(b.heard(), "heard");
    let key = room("r");
    b.post(ringhall::bridge::Outbound::Close { key });
    b.open(&room("other"));
    a.say(&room("r"), "unheard");
    a.say(&room("other"), "heard again");
    assert_eq!(b.heard(), "heard again");
}

#[test]
fn what_the_broker_never_takes_is_dropped_for_the_other_box_alone() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    broker.set(|faults| faults.longest = Some(1000));
    for text in ["before", &"x".repeat(1000), "after"] {
        assert_eq!(a.say(&room("r"), text), Verdict::Goes);
    }
    assert_eq!([b.heard(), b.heard()], ["before", "after"]);
    let report = a.wait("dropped", |report| report.dropped == 1);
    assert_eq!((report.rejected, report.reconnects), (0, 0));
    b.wait("missed", |report| report.gaps == 1);
}

#[test]
fn what_the_broker_loses_is_counted_even_the_last_of_it() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    a.say(&room("r"), "0");
    assert_eq!(b.heard(), "0");
    broker.set(|faults| faults.loses = true);
    let before = broker.published();
    for n in 1..=7 {
        a.say(&room("r"), &n.to_string());
    }
    // Lost only once they are published.
    while broker.published() < before + 7 {
        std::thread::yield_now();
    }
    broker.set(|faults| faults.loses = false);
    a.say(&room("r"), "8");
    assert_eq!(b.heard(), "8");
    b.wait("a hole of seven", |report| report.gaps == 7);
    broker.set(|faults| faults.loses = true);
    a.say(&room("r"), "9");
    // Nothing follows it: the heartbeats tell.
    b.wait("the last one", |report| report.gaps == 8);
    broker.set(|faults| faults.loses = false);
    a.say(&room("r"), "10");
    assert_eq!(b.heard(), "10");
    assert_eq!(b.report().gaps, 8);
}

#[test]
fn an_outage_keeps_messages_here_and_both_sides_count_them() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    a.say(&room("r"), "before");
    assert_eq!(b.heard(), "before");
    broker.set(|faults| faults.refuses = true);
    broker.cut();
    for one in [&a, &b] {
        let report = one.wait("open", |report| report.state == State::Open);
        one.wait("the last error", |report| {
            report.last_error.as_ref().is_some_and(|error| error.contains("nobody listens"))
        });
        assert!(report.last_error.is_some());
    }
    for _ in 0..5 {
        assert_eq!(a.say(&room("r"), "amid"), Verdict::StaysHere);
    }
    let error = a.report().last_error.unwrap();
    assert!(error.contains("***") && !error.contains("opensesame"), "{error}");
    broker.set(|faults| faults.refuses = false);
    for one in [&a, &b] {
        one.wait("closed", |report| report.state == State::Closed && report.reconnects == 1);
    }
    assert_eq!(a.say(&room("r"), "after"), Verdict::Goes);
    assert_eq!(b.heard(), "after");
    assert_eq!((a.report().dropped, b.report().gaps, b.report().nodes), (5, 5, 2));
}

#[test]
fn a_full_lane_to_a_shard_is_counted_as_missed() {
    let broker = Loopback::default();
    let mut a = BridgeBox::connected(&broker, 1, LOCAL_FIRST);
    let small = bridge_box::Kind { messages: 16, ..LOCAL_FIRST };
    let mut b = BridgeBox::connected(&broker, 2, small);
    b.open(&room("r"));
    for n in 0..100 {
        assert_eq!(a.say(&room("r"), &n.to_string()), Verdict::Goes);
    }
    let report = b.wait("84 turned away", |report| report.gaps == 84);
    assert_eq!(report.duplicates, 0);
    for n in 0..16 {
        assert_eq!(b.heard(), n.to_string());
    }
}

#[test]
fn strangers_at_the_broker_are_passed_over() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    let mut future = envelope::bye();
    future[0] = 99;
    for envelope in [&b"nonsense"[..], &[], &future] {
        broker.inject(Lane::Control, envelope);
        broker.inject(Lane::Partition(0), envelope);
    }
    // A right envelope on the wrong lane.
    broker.inject(Lane::Partition(0), &envelope::bye());
    a.say(&room("r"), "still here");
    assert_eq!(b.heard(), "still here");
    assert_eq!(b.report().unreadable, 7);
}

#[test]
fn nothing_is_told_of_ones_own_words() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    a.say(&room("r"), "mine");
    assert_eq!(b.heard(), "mine");
    b.say(&room("r"), "yours");
    let first = a.until("said", |mail| matches!(mail, Inbound::Said { .. }));
    assert_eq!(bridge_box::content(&first), "yours");
}
