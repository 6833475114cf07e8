//! Two boxes with `ordered`: the broker's log is the order, for everybody, exactly once.

#[path = "support/bridge_box.rs"]
mod bridge_box;
#[path = "support/loopback_broker.rs"]
mod loopback_broker;

use bridge_box::{BridgeBox, Kind, ORDERED, content, room};
use loopback_broker::Loopback;
use ringhall::bridge::{Inbound, Place, Verdict};
use ringhall::broker::breaker::State;

fn two(broker: &Loopback) -> (BridgeBox, BridgeBox) {
    let mut a = BridgeBox::connected(broker, 1, ORDERED);
    let mut b = BridgeBox::connected(broker, 2, ORDERED);
    for one in [&mut a, &mut b] {
        one.open(&room("r"));
        one.wait("two boxes", |report| report.nodes == 2);
    }
    (a, b)
}

/// The next thing said: what, whether by this box, and where it stands.
#[track_caller]
fn heard(one: &mut BridgeBox) -> (String, bool, Place) {
    let mail = one.until("something said", |mail| matches!(mail, Inbound::Said { .. }));
    let text = content(&mail);
    let Inbound::Said { own, place, .. } = mail else { unreachable!("it was asked for") };
    (text, own, place.expect("the log gives a place"))
}

#[test]
fn both_boxes_hear_one_order_with_the_same_places() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    for n in 0..200 {
        assert_eq!(a.say(&room("r"), &format!("a{n}")), Verdict::Goes);
        assert_eq!(b.say(&room("r"), &format!("b{n}")), Verdict::Goes);
    }
    let mut next = [0, 0];
    for offset in 1..=400 {
        let (at_a, at_b) = (heard(&mut a), heard(&mut b));
        assert_eq!((&at_a.0, &at_a.2), (&at_b.0, &at_b.2));
        assert_ne!(at_a.1, at_b.1, "it was said on one of them: {}", at_a.0);
        assert_eq!(at_a.2.offset, offset);
        let speaker = usize::from(at_a.0.starts_with('b'));
        assert_eq!(at_a.0[1..], next[speaker].to_string());
        next[speaker] += 1;
    }
}

#[test]
fn a_room_that_opens_is_told_the_newest_place() {
    let broker = Loopback::default();
    let (mut a, b) = two(&broker);
    a.say(&room("r"), "first");
    let (_, _, first) = heard(&mut a);
    drop(b);
    let mut b = BridgeBox::connected(&broker, 3, ORDERED);
    let Inbound::Placed { place, .. } = b.open(&room("r")) else { unreachable!("asked for") };
    assert_eq!(place, Some(first));
}

#[test]
fn in_an_outage_messages_are_refused_and_places_are_unknown() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    broker.set(|faults| faults.refuses = true);
    broker.cut();
    a.wait("open", |report| report.state == State::Open);
    assert_eq!(a.say(&room("r"), "amid"), Verdict::Refused);
    let Inbound::Placed { place, .. } = a.open(&room("new")) else { unreachable!("asked for") };
    assert_eq!(place, None);
    broker.set(|faults| faults.refuses = false);
    for one in [&a, &b] {
        one.wait("closed", |report| report.state == State::Closed);
    }
    a.say(&room("r"), "after");
    assert_eq!(heard(&mut b).0, "after");
    let (at_a, at_b) = (a.report(), b.report());
    assert_eq!((at_a.rejected, at_a.dropped, at_b.gaps), (1, 0, 0), "refused, so nobody misses it");
}

#[test]
fn a_batch_of_unknown_fate_is_heard_once() {
    for was_taken in [true, false] {
        let broker = Loopback::default();
        let (mut a, mut b) = two(&broker);
        broker.set(|faults| (faults.mute, faults.hangs) = (was_taken, !was_taken));
        assert_eq!(a.say(&room("r"), "unsure"), Verdict::Goes);
        let report = a.wait("open", |report| report.state == State::Open);
        assert_eq!(report.rejected, 0, "its fate is not known");
        broker.set(|faults| (faults.mute, faults.hangs) = (false, false));
        a.wait("closed", |report| report.state == State::Closed);
        a.say(&room("r"), "after");
        for one in [&mut a, &mut b] {
            assert_eq!(heard(one).0, "unsure");
            assert_eq!(heard(one).0, "after");
        }
        assert_eq!(b.report().gaps, 0);
        assert_eq!(b.report().duplicates, u64::from(was_taken));
    }
}

#[test]
fn a_batch_that_is_under_way_when_the_session_is_lost_is_heard_once() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    // Right after a probe there is none in the way of what is said.
    let published = broker.published();
    a.wait("a probe", |_| broker.published() > published);
    broker.set(|faults| faults.hangs = true);
    assert_eq!(a.say(&room("r"), "amid"), Verdict::Goes);
    a.wait("it is under way", |_| a.end.bridge().outbound() == 0);
    broker.cut();
    let report = a.wait("open", |report| report.state == State::Open);
    assert_eq!(report.rejected, 0, "its fate is not known");
    broker.set(|faults| faults.hangs = false);
    a.wait("closed", |report| report.state == State::Closed);
    a.say(&room("r"), "after");
    for one in [&mut a, &mut b] {
        assert_eq!(heard(one).0, "amid");
        assert_eq!(heard(one).0, "after");
    }
    assert_eq!((a.report().gaps, b.report().gaps), (0, 0));
}

#[test]
fn what_the_broker_refuses_again_and_again_is_refused() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    broker.set(|faults| faults.poison = Some("poison"));
    assert_eq!(a.say(&room("r"), "poison"), Verdict::Goes);
    let mail = a.until("refused", |mail| matches!(mail, Inbound::Refused { .. }));
    let Inbound::Refused { reference, .. } = mail else { unreachable!("asked for") };
    assert_eq!(reference.as_deref(), Some("poison"));
    // Five sessions have failed by it.
    a.wait("closed", |report| report.state == State::Closed && report.reconnects == 5);
    a.say(&room("r"), "after");
    assert_eq!(heard(&mut b).0, "after");
}

#[test]
fn what_the_broker_never_takes_is_refused_alone_and_for_good() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    broker.set(|faults| faults.longest = Some(1000));
    let long = "x".repeat(1000);
    for text in ["before", &long, "after"] {
        assert_eq!(a.say(&room("r"), text), Verdict::Goes);
    }
    let mail = a.until("refused", |mail| matches!(mail, Inbound::Refused { .. }));
    let Inbound::Refused { reference, for_good, .. } = mail else { unreachable!("asked for") };
    assert_eq!((reference.as_deref(), for_good), (Some(&*long), true));
    assert_eq!([heard(&mut b).0, heard(&mut b).0], ["before", "after"]);
    let report = a.report();
    assert_eq!((report.rejected, report.reconnects, report.state), (1, 0, State::Closed));
}

#[test]
fn a_broker_that_comes_back_empty_begins_anew_under_another_name() {
    let broker = Loopback::default();
    let (mut a, mut b) = two(&broker);
    a.say(&room("r"), "before");
    let (_, _, before) = heard(&mut b);
    broker.set(|faults| faults.refuses = true);
    broker.cut();
    broker.wipe();
    for one in [&a, &b] {
        one.wait("open", |report| report.state == State::Open);
    }
    broker.set(|faults| faults.refuses = false);
    for one in [&a, &b] {
        one.wait("closed", |report| report.state == State::Closed);
    }
    a.say(&room("r"), "after");
    let (text, _, after) = heard(&mut b);
    assert_eq!((text.as_str(), after.offset), ("after", before.offset));
    assert_ne!(after.epoch, before.epoch);
}

#[test]
fn a_shard_that_is_behind_misses_nothing() {
    let broker = Loopback::default();
    let mut a = BridgeBox::connected(&broker, 1, ORDERED);
    let mut b = BridgeBox::connected(&broker, 2, Kind { messages: 16, ..ORDERED });
    b.open(&room("r"));
    for n in 0..200 {
        assert_eq!(a.say(&room("r"), &n.to_string()), Verdict::Goes);
    }
    for n in 0..200 {
        assert_eq!(heard(&mut b).0, n.to_string());
    }
    assert_eq!(b.report().gaps, 0);
}
