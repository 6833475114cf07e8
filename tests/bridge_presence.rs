//! Who is in a room is the cluster's: entries, departures, counts, whatever was missed meanwhile.

#[path = "support/bridge_box.rs"]
mod bridge_box;
#[path = "support/loopback_broker.rs"]
mod loopback_broker;

use bridge_box::{BridgeBox, LOCAL_FIRST, room};
use loopback_broker::Loopback;
use ringhall::bridge::Inbound;
use ringhall::broker::breaker::State;

/// The next change of a room's presence: the user, came or went, members elsewhere.
#[track_caller]
fn change(one: &mut BridgeBox) -> (String, bool, usize) {
    match one.next() {
        Inbound::Entered { user, elsewhere, .. } => (user.into(), true, elsewhere),
        Inbound::Left { user, elsewhere, .. } => (user.into(), false, elsewhere),
        Inbound::Counted { elsewhere, .. } => (String::new(), true, elsewhere),
        other => panic!("no change of presence: {other:?}"),
    }
}

fn came(user: &str, elsewhere: usize) -> (String, bool, usize) {
    (user.to_owned(), true, elsewhere)
}

fn went(user: &str, elsewhere: usize) -> (String, bool, usize) {
    (user.to_owned(), false, elsewhere)
}

#[test]
fn joins_and_leaves_are_told_once_in_the_cluster() {
    let broker = Loopback::default();
    let [mut a, mut b, mut c] = [1, 2, 3].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    c.open(&room("r"));
    a.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut c), came("ann", 1));
    b.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut c), came("", 2), "ann is there already");
    a.cross(&room("r"), "ann", false, 0);
    assert_eq!(change(&mut c), came("", 1));
    b.cross(&room("r"), "ann", false, 0);
    assert_eq!(change(&mut c), went("ann", 0));
}

#[test]
fn a_box_that_comes_later_learns_who_is_there() {
    let broker = Loopback::default();
    let mut a = BridgeBox::connected(&broker, 1, LOCAL_FIRST);
    a.cross(&room("r"), "ann", true, 1);
    a.cross(&room("r"), "bob", true, 2);
    let mut b = BridgeBox::connected(&broker, 2, LOCAL_FIRST);
    b.wait("two boxes", |report| report.nodes == 2);
    let Inbound::Placed { mut users, elsewhere, .. } = b.open(&room("r")) else {
        unreachable!("asked for")
    };
    users.sort();
    assert_eq!((users.join(" "), elsewhere), ("ann bob".to_owned(), 2));
}

#[test]
fn what_was_missed_in_an_outage_is_made_up_for() {
    let broker = Loopback::default();
    let [mut a, mut b] = [1, 2].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    b.open(&room("r"));
    a.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut b), came("ann", 1));
    broker.set(|faults| faults.refuses = true);
    broker.cut();
    for one in [&a, &b] {
        one.wait("open", |report| report.state == State::Open);
    }
    a.cross(&room("r"), "bob", true, 2);
    a.cross(&room("r"), "ann", false, 1);
    broker.set(|faults| faults.refuses = false);
    let mut both = [change(&mut b), change(&mut b)];
    both.sort();
    assert_eq!(both, [went("ann", 1), came("bob", 1)]);
}

#[test]
fn an_outage_of_ones_own_makes_nobody_leave() {
    let broker = Loopback::default();
    let [mut a, mut b] = [1, 2].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    b.open(&room("r"));
    a.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut b), came("ann", 1));
    broker.set(|faults| faults.refuses = true);
    broker.cut();
    // Longer than a silent box lives.
    assert!(b.poll(ringhall::broker::peers::DEAD_AFTER * 5 / 4).is_none());
    broker.set(|faults| faults.refuses = false);
    for one in [&a, &b] {
        one.wait("closed", |report| report.state == State::Closed && report.nodes == 2);
    }
    a.cross(&room("r"), "bob", true, 2);
    assert_eq!(change(&mut b), came("bob", 2), "and nothing before");
}

#[test]
fn the_members_of_a_box_that_ends_leave_at_once() {
    let broker = Loopback::default();
    let [mut a, mut b] = [1, 2].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    b.open(&room("r"));
    a.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut b), came("ann", 1));
    a.shut_down();
    assert_eq!(change(&mut b), went("ann", 0));
    assert_eq!(b.report().nodes, 1);
}

#[test]
fn the_members_of_a_box_that_falls_silent_leave_and_come_back_with_it() {
    let broker = Loopback::default();
    let [mut a, mut b] = [1, 2].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    b.open(&room("r"));
    a.cross(&room("r"), "ann", true, 1);
    assert_eq!(change(&mut b), came("ann", 1));
    // Nobody hears what it publishes, and it hears nobody.
    let number = broker.mute_line(0);
    assert_eq!(change(&mut b), went("ann", 0));
    broker.unmute_line(number);
    assert_eq!(change(&mut b), came("ann", 1));
}

#[test]
fn the_last_words_before_the_end_are_heard() {
    let broker = Loopback::default();
    let [mut a, mut b] = [1, 2].map(|id| BridgeBox::connected(&broker, id, LOCAL_FIRST));
    b.open(&room("r"));
    for n in 0..1000 {
        a.say(&room("r"), &n.to_string());
    }
    a.cross(&room("r"), "ann", true, 1);
    a.cross(&room("r"), "ann", false, 0);
    a.shut_down();
    let mut said = 0;
    while said < 1000 {
        if matches!(b.next(), Inbound::Said { .. }) {
            said += 1;
        }
    }
    b.wait("it has left", |report| report.nodes == 1);
    assert_eq!(b.report().gaps, 0);
}
