//! The breaker of a bridge opens whatever is wrong with the broker, and closes when it is well.

#[path = "support/bridge_box.rs"]
mod bridge_box;
#[path = "support/loopback_broker.rs"]
mod loopback_broker;

use bridge_box::{BridgeBox, LOCAL_FIRST, room};
use loopback_broker::{Faults, Loopback};
use ringhall::bridge::Verdict;
use ringhall::broker::breaker::State;

/// A fault, whether something has to be said for it to show, and what is said of it.
struct Case {
    name: &'static str,
    set: fn(&mut Faults),
    must_speak: bool,
    /// Any of these: the probe may be on its way with what is said.
    reasons: &'static [&'static str],
}

const CASES: &[Case] = &[
    Case {
        name: "takes nothing",
        set: |faults| faults.hangs = true,
        must_speak: true,
        reasons: &["did not take a batch", "a probe did not come back"],
    },
    Case {
        name: "confirms nothing",
        set: |faults| faults.mute = true,
        must_speak: true,
        reasons: &["did not take a batch", "a probe did not come back"],
    },
    Case {
        name: "refuses",
        set: |faults| faults.rejects = true,
        must_speak: false,
        reasons: &["the broker refuses"],
    },
    Case {
        name: "does not deliver",
        set: |faults| faults.silent = true,
        must_speak: false,
        reasons: &["a probe did not come back"],
    },
];

#[test]
fn it_opens_for_every_fault_and_closes_when_that_is_over() {
    for Case { name, set, must_speak, reasons } in CASES {
        let broker = Loopback::default();
        let mut a = BridgeBox::connected(&broker, 1, LOCAL_FIRST);
        let before = broker.connections();
        broker.set(set);
        if *must_speak {
            assert_eq!(a.say(&room("r"), "into the void"), Verdict::Goes);
        }
        a.wait(name, |report| report.state != State::Closed);
        let says = |why: &String| reasons.iter().any(|reason| why.contains(reason));
        a.wait(name, |report| report.last_error.as_ref().is_some_and(says));
        assert_eq!(a.say(&room("r"), "amid"), Verdict::StaysHere, "{name}");
        broker.set(|faults| *faults = Faults::default());
        a.wait(name, |report| report.state == State::Closed && report.reconnects == 1);
        assert!(broker.connections() > before, "the session is another one: {name}");
        let report = a.report();
        assert_eq!((report.dropped, report.unconfirmed), (1, u64::from(*must_speak)), "{name}");
    }
}

#[test]
fn a_broker_that_is_not_there_is_tried_again_until_it_is() {
    let broker = Loopback::default();
    broker.set(|faults| faults.refuses = true);
    let a = BridgeBox::start(&broker, 1, LOCAL_FIRST);
    a.wait("an error", |report| report.last_error.is_some() && report.state == State::Open);
    broker.set(|faults| faults.refuses = false);
    let report = a.wait("closed", |report| report.state == State::Closed);
    assert_eq!((report.reconnects, report.nodes), (0, 1));
}

#[test]
fn an_end_in_an_outage_is_an_end() {
    let broker = Loopback::default();
    broker.set(|faults| faults.refuses = true);
    let mut a = BridgeBox::start(&broker, 1, LOCAL_FIRST);
    a.say(&room("r"), "unheard");
    a.shut_down();
    broker.set(|faults| faults.refuses = false);
    let mut b = BridgeBox::connected(&broker, 2, LOCAL_FIRST);
    broker.set(|faults| faults.hangs = true);
    b.say(&room("r"), "into the void");
    b.shut_down();
}
