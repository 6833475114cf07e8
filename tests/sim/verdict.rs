//! How a connection may be answered and how it may end, given what its client did.
//!
//! In:    one client's log, the plan, what the operator ordered.
//! Out:   nothing, or a panic.
//! Never: needs another client's log.

use ringhall::limits::{Limits, Spread};

use crate::client::Client;
use crate::kernel::World;
use crate::log::Ending;
use crate::plan::Plan;
use crate::run::Sim;
use crate::script::Role;

/// Sums of queues that a run's traffic never reaches.
const AMPLE: usize = 1 << 27;

/// Judges every client, at the very end.
pub fn check(sim: &Sim) {
    let world = sim.world.borrow();
    for client in &sim.clients {
        check_status(sim, client);
        check_close(sim, client);
        check_ending(sim, client, &world);
        if client.script.role == Role::Echo {
            assert!(client.log.echoed <= client.log.said.len(), "echoes of nothing");
        }
    }
}

fn any(plan: &Plan, of: impl Fn(&Limits) -> bool) -> bool {
    plan.all_limits().any(of)
}

/// The last response is one that the client has asked for, or that a limit allows.
fn check_status(sim: &Sim, client: &Client) {
    let (id, plan, log) = (client.id, &sim.plan, &client.log);
    let Some(status) = log.status else { return };
    let Some(code) = log.refusal.as_deref() else {
        let fits = match client.script.role {
            Role::Member { .. } | Role::Echo => status == 101 || status == 200,
            Role::Plain => status == 200,
            Role::Refused { .. } | Role::Mute => false,
        };
        return assert!(fits, "client {id}, {:?}, gets {status}", client.script.role);
    };
    let spreads = plan.limits.spread != Spread::Never;
    let late = plan.limits.handshake_timeout.as_millis();
    let waited = u128::from(log.told_end_at.unwrap_or(0) - log.connected_at);
    let may = match code {
        "full" => !spreads || any(plan, |limits| limits.connections_max < plan.clients),
        "low_memory" => plan.scarce,
        "room_full" => any(plan, |limits| limits.members_max.is_some()),
        "rooms_full" => any(plan, |limits| limits.rooms_max.is_some()),
        "too_many_connections" => any(plan, |limits| limits.connections_per_address.is_some()),
        "http_full" => any(plan, |limits| limits.http_connections < plan.clients),
        "unavailable" => plan.chaos.detach_errors > 0,
        "echo_disabled" => client.script.role == Role::Echo && !plan.limits.echo_enabled,
        "shutting_down" => sim.drained_at.is_some(),
        "handshake_timeout" => waited >= late,
        _ => matches!(client.script.role, Role::Refused { status: own } if own == status),
    };
    assert!(may, "client {id}, {:?}, is refused with {code} ({status})", client.script.role);
}

/// The close frame's code is one that the client has earned, or that the operator ordered.
fn check_close(sim: &Sim, client: &Client) {
    let (id, plan, log) = (client.id, &sim.plan, &client.log);
    let Some((code, reason)) = &log.close_heard else { return };
    let heard_at = log.told_end_at.unwrap_or(0);
    let drained = sim.drained_at.is_some_and(|at| heard_at >= at);
    let is_member = matches!(client.script.role, Role::Member { .. });
    let may = match code {
        own if Some(*own) == log.close_sent => true,
        1001 if drained && plan.for_good => is_told(client),
        1012 if drained && !plan.for_good => is_told(client) && reason.starts_with("retry_ms="),
        // It came from plain HTTP, had its 101, and there was no place for it.
        1013 if reason == "overloaded" => log.joined.is_none(),
        // By policy, or because it does not read the errors that it causes.
        1013 => {
            let may = plan.may_close_slow() || log.faults_made > 0;
            is_member && may && reason == "slow consumer"
        }
        // Whether it was silent is judged when the server says so.
        1011 => reason == "no answer to the heartbeat",
        1008 => log.faults_made > 20,
        earned => log.misdeeds.contains(earned),
    };
    assert!(may, "client {id}, {:?}, is closed with {code} {reason:?}", client.script.role);
}

/// Whether a member of a JSON room was told of the shutdown before its close frame.
fn is_told(client: &Client) -> bool {
    client.log.told || client.log.joined.is_none()
}

/// A stream ends behind a frame, with FIN, and with a close frame, unless there is a reason.
fn check_ending(sim: &Sim, client: &Client, world: &World) {
    let (id, plan, log) = (client.id, &sim.plan, &client.log);
    let Some(ending) = &log.ending else {
        let socket = client.socket.map(|socket| &world.sockets[socket]);
        let over = socket.is_none_or(|socket| socket.server_closed);
        let waits = socket.is_some_and(|socket| socket.holders == 0 && socket.places.is_empty());
        return assert!(over || waits, "client {id} is still there at the end");
    };
    if *ending == Ending::Own {
        return;
    }
    let cut = sim.cut_at.is_some_and(|at| sim.now() >= at && client.ended_at >= at);
    let scarce = any(plan, |limits| limits.queue_bytes_total < AMPLE);
    let unplaced = client.socket.is_some_and(|socket| world.sockets[socket].unplaced);
    let never_placed = unplaced || log.status.is_none();
    let hasty = plan.limits.close_timeout.as_secs() == 0;
    let slow = log.stalled || client.script.appetite < 300 || plan.leaps || hasty;
    let half_closed = client.fin_sent;
    match ending {
        Ending::Reset => {
            let closing = log.close_heard.is_some() || log.refusal.is_some() || slow;
            let unread = !client.script.is_good;
            let may = cut || scarce || never_placed || closing || unread || half_closed;
            assert!(may, "client {id}, {:?}, is reset", client.script.role);
        }
        Ending::Fin => {
            assert!(!log.is_truncated || cut, "client {id}: cut inside a frame");
            let told = log.close_heard.is_some() || log.refusal.is_some() || !log.is_open;
            // Whoever ends its stream without a close frame is owed none.
            let silent = half_closed && log.close_sent.is_none();
            assert!(told || unplaced || silent || cut, "client {id} is left without a close frame");
        }
        Ending::Own => {}
    }
    let earned = log.misdeeds.first().filter(|_| *ending == Ending::Fin);
    if let (Some(_), None, true) = (earned, &log.close_heard, log.is_open) {
        let unplaced = client.socket.is_some_and(|socket| world.sockets[socket].unplaced);
        assert!(unplaced || half_closed || cut, "client {id} misbehaved, and was not told");
    }
}
