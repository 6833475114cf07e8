//! The main thread: signals, the admin listener, StatsD, the shutdown's clock.
//!
//! In:    SIGTERM, SIGINT, SIGHUP; shards that have ended.
//! Out:   orders to shards; what the supervisor is to know; the end of the process.
//! Never: waits longer than `shutdown.grace` for anybody.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep_until};

use super::boot::Started;
use super::supervision::{in_brief, ping, tell_status};
use crate::config::Loaded;
use crate::control::{admin, statsd};
use crate::counters::Counter;
use crate::id::ShardId;
use crate::limits::Limits;
use crate::probe::{Memory, memory_reserve};
use crate::shard::shared::{Farewell, Order};
use crate::systemd::Supervisor;

/// How long shards may take to cut everyone, once the grace is over.
const CUT_TIME: Duration = Duration::from_secs(2);
/// How long the broker may take to say goodbye, as far as the supervisor is told.
const GOODBYE_TIME: Duration = Duration::from_secs(10);

/// The signals that are asked for.
pub(super) struct Signals {
    term: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
enum Asked {
    End(Farewell),
    Reload,
}

impl Signals {
    pub(super) fn new() -> Result<Self, String> {
        let listen = |kind| signal(kind).map_err(|error| format!("cannot take signals: {error}"));
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    /// The next signal.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.term.recv() => Asked::End(Farewell::ComeBack),
            _ = self.interrupt.recv() => Asked::End(Farewell::ForGood),
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next signal that asks for the end.
    async fn end(&mut self) {
        while !matches!(self.next().await, Asked::End(_)) {}
    }
}

/// Runs until the server has ended.
pub(super) async fn watch_over(
    mut loaded: Loaded,
    mut started: Started,
    listener: TcpListener,
    mut signals: Signals,
    supervisor: Rc<Supervisor>,
) -> Result<(), String> {
    let key = loaded.config.admin_key.as_ref().map(crate::config::Secret::expose);
    let routes = admin::router(started.overseer.clone(), key);
    let (admin_over, admin_closes) = tokio::sync::watch::channel(false);
    let statsd = loaded.config.metrics_statsd.clone().map(|target| {
        let closes = admin_over.subscribe();
        tokio_uring::spawn(statsd::report(target, started.overseer.clone(), closes))
    });
    let admin = tokio_uring::spawn(admin::serve(listener, routes, admin_closes));
    supervise(&supervisor, &started);
    let farewell = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End(farewell) => break farewell,
                Asked::Reload => {
                    supervisor.reloading();
                    let refused = reload(&mut loaded, &started).err();
                    supervisor.ready(refused.unwrap_or(&in_brief(&started.overseer)));
                }
            },
            Some(shard) = started.ended.recv() => {
                return Err(format!("shard {} has ended; see the log above", shard.0));
            }
        }
    };
    let grace = started.shared.limits().shutdown_grace;
    supervisor.stopping(grace + CUT_TIME + GOODBYE_TIME);
    let outcome = shut_down(farewell, &mut signals, &mut started).await;
    // The shards have said their last: it goes out, and the other boxes hear of the end.
    if let Some(joined) = started.joined.take() {
        tokio::select! {
            () = joined.running.end() => {}
            () = signals.end() => {}
        }
    }
    let _closing = admin_over.send(true);
    if let Some(statsd) = statsd {
        // It tells what has happened since its last report, which takes it no time.
        let _told = statsd.await;
    }
    admin.abort();
    outcome
}

/// Tells the supervisor, if there is one, that the start is over, and from now on how things are.
fn supervise(supervisor: &Rc<Supervisor>, started: &Started) {
    if !supervisor.is_there() {
        return;
    }
    supervisor.ready(&in_brief(&started.overseer));
    tokio_uring::spawn(tell_status(supervisor.clone(), started.overseer.clone()));
    if let Some(period) = supervisor.ping_period() {
        let (overseer, eventfds) = (started.overseer.clone(), started.eventfds.clone());
        tokio_uring::spawn(ping(supervisor.clone(), overseer, eventfds, period));
    }
}

/// Tells, flushes, closes; cuts when the grace is over, or at once at a second signal.
async fn shut_down(
    farewell: Farewell,
    signals: &mut Signals,
    started: &mut Started,
) -> Result<(), String> {
    let grace = started.shared.limits().shutdown_grace;
    let open = started.overseer.sum(Counter::websockets);
    tracing::info!(?farewell, ?grace, websockets = open, "shutting down");
    started.overseer.set_draining();
    order(started, &Order::Drain(farewell));
    let _closing = started.closing.send(true);
    let shards = started.eventfds.len();
    let deadline = Instant::now() + grace;
    let mut left = shards;
    let over = tokio::select! {
        () = all_ended(&mut started.ended, &mut left) => true,
        () = sleep_until(deadline) => false,
        () = signals.end() => {
            tracing::warn!("second signal: ending at once");
            return Ok(());
        }
    };
    if !over {
        order(started, &Order::Cut);
        let late = sleep_until(Instant::now() + CUT_TIME);
        tokio::select! {
            () = all_ended(&mut started.ended, &mut left) => {}
            () = late => tracing::warn!(shards = left, "shards did not end in time"),
            () = signals.end() => return Ok(()),
        }
    }
    let cut = started.overseer.sum(Counter::shutdown_cut);
    tracing::info!(cut, "ended: {} connections were cut", cut);
    Ok(())
}

async fn all_ended(ended: &mut UnboundedReceiver<ShardId>, left: &mut usize) {
    while *left > 0 && ended.recv().await.is_some() {
        *left -= 1;
    }
}

fn order(started: &Started, order: &Order) {
    for (neighbour, eventfd) in started.shared.neighbours.iter().zip(started.eventfds.iter()) {
        neighbour.orders.push(order.clone());
        if let Err(error) = rustix::io::write(eventfd, &1u64.to_ne_bytes()) {
            tracing::warn!(%error, "a shard could not be woken");
        }
    }
}

/// Reads the configuration again: what may change while running does, the rest is named. Gives what
/// to tell the supervisor where nothing changes.
fn reload(loaded: &mut Loaded, started: &Started) -> Result<(), &'static str> {
    let fresh = match loaded.reload() {
        Ok(fresh) => fresh,
        Err(problems) => {
            for problem in &problems {
                tracing::error!("{problem}");
            }
            tracing::error!(problems = problems.len(), "reload refused: the old limits stay");
            return Err("reload refused, see the log: the old limits stay");
        }
    };
    let changed = Loaded::reload_differences(loaded, &fresh);
    let wanted = fresh.config.connections_max.number();
    let memory = Memory::now().unwrap_or_default();
    let reserve = memory_reserve(&memory, &fresh.config.limits);
    let (connections_max, bound) = started.capacity.keeping(reserve).admit(wanted);
    let limits = Arc::new(Limits { connections_max, ..fresh.config.limits });
    started.shared.set_limits(limits.clone());
    order(started, &Order::Limits(limits));
    tracing::info!(
        changed = changed.reloadable.join(" "),
        needs_restart = changed.restart.join(" "),
        connections_max,
        bounded_by = %bound,
        "limits reloaded"
    );
    *loaded = fresh;
    Ok(())
}
