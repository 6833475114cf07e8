//! Several boxes around a broker, under load, in trouble; and the judge of what became of it.
//!
//! In:    a broker (`tests/support/brokers/`), a delivery, a case.
//! Out:   a panic that names every message that is missing without a reason.
//! Never: uses a fixed port, leaves anything running.
//!
//! `book` is what was said and heard, `check*` judge it and know no socket, `load` makes it.
#![allow(dead_code, reason = "each test file uses its part of this")]

pub mod book;
pub mod cases;
pub mod check;
pub mod check_local_first;
pub mod check_ordered;
pub mod check_presence;
pub mod load;
pub mod nodes;
pub mod presence;
pub mod stage;
pub mod watch;

use std::net::{SocketAddr, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use cases::{Case, Terms};
use stage::Way;

use crate::brokers::Broker;
use crate::brokers::proxy::Proxy;
use crate::support::DEADLINE;

/// One case at a time: each takes the whole machine, and measures.
static TURN: Mutex<()> = Mutex::new(());

/// Runs a case with a broker of its own, made for those who come to the given address (the proxy's)
/// or to its own.
///
/// # Panics
/// If anything is not as promised.
pub fn with_own_broker<B: Broker>(
    case: Case,
    terms: Terms,
    make: impl FnOnce(Option<SocketAddr>) -> B,
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let proxy = case.through_proxy().then(Proxy::start);
    let mut broker = make(proxy.as_ref().map(Proxy::address));
    run(case, terms, &mut broker, proxy.as_ref());
}

/// Runs cases with a broker that is there already, one after another, also after one that failed,
/// but for a broker that a failed case left stopped or dead.
///
/// # Panics
/// If anything was not as promised; after the last case.
#[expect(clippy::print_stderr, reason = "the harness shows it with the failing test")]
pub fn every_one(cases: impl Iterator<Item = Case>, terms: Terms, broker: &mut dyn Broker) {
    let mut failed = Vec::new();
    for case in cases {
        eprintln!("{case:?}:");
        let proxy = case.through_proxy().then(Proxy::start);
        let attempt = AssertUnwindSafe(|| run(case, terms, broker, proxy.as_ref()));
        if catch_unwind(attempt).is_err() {
            // The panic has said why; the broker may stand still.
            failed.push(case);
            broker.resume();
        }
        let ready = TcpStream::connect_timeout(&broker.address(), DEADLINE).is_ok();
        assert!(ready, "{case:?} left no broker behind; failed: {failed:?}");
    }
    assert!(failed.is_empty(), "failed, each as it says above: {failed:?}");
}

fn run(case: Case, terms: Terms, broker: &mut dyn Broker, proxy: Option<&Proxy>) {
    if let Some(proxy) = proxy {
        proxy.lead_to(broker.address());
    }
    case.run(broker, Way { proxy }, terms);
}
