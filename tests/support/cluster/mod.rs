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

use std::sync::{Mutex, PoisonError};

use cases::{Case, Terms};
use stage::Way;

use crate::brokers::Broker;
use crate::brokers::proxy::Proxy;

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
    make: impl FnOnce(Option<std::net::SocketAddr>) -> B,
) {
    let _turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
    let proxy = case.through_proxy().then(Proxy::start);
    let mut broker = make(proxy.as_ref().map(Proxy::address));
    run(case, terms, &mut broker, proxy.as_ref());
}

/// Runs a case with a broker that is there already.
///
/// # Panics
/// If anything is not as promised.
pub fn with_broker(case: Case, terms: Terms, broker: &mut dyn Broker) {
    let proxy = case.through_proxy().then(Proxy::start);
    run(case, terms, broker, proxy.as_ref());
}

fn run(case: Case, terms: Terms, broker: &mut dyn Broker, proxy: Option<&Proxy>) {
    if let Some(proxy) = proxy {
        proxy.lead_to(broker.address());
    }
    case.run(broker, Way { proxy }, terms);
}
