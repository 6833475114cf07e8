//! What the supervisor hears while the server runs: how it is, and that it is alive.
//!
//! In:    every shard's counters and the moment of its last turn.
//! Out:   STATUS every few seconds; WATCHDOG while each shard moves.
//! Never: claims for a shard what it has not shown: each is woken, and has to move.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::health::Overseer;
use crate::counters::Counter;
use crate::id::ShardId;
use crate::shard::shared::Neighbour;
use crate::systemd::Supervisor;
use crate::time::Now;

/// How often the supervisor hears how things are.
const STATUS_PERIOD: Duration = Duration::from_secs(5);

/// Messages since the last look, for a rate.
struct Rate {
    at: Instant,
    received: u64,
    sent: u64,
}

impl Rate {
    fn start(overseer: &Overseer) -> Self {
        let (received, sent) = messages(overseer);
        Self { at: Instant::now(), received, sent }
    }

    /// One line for people: connections and rooms now, messages a second since the last call.
    fn status(&mut self, overseer: &Overseer) -> String {
        let now = Self::start(overseer);
        let time = (now.at - self.at).as_secs_f64().max(0.001);
        let a_second = |new: u64, old: u64| (new.wrapping_sub(old) as f64 / time).round();
        let (received, sent) =
            (a_second(now.received, self.received), a_second(now.sent, self.sent));
        *self = now;
        let line = in_brief(overseer);
        match overseer.is_draining() {
            true => format!("shutting down: {line} left"),
            false => format!("{line}, {received} messages a second in, {sent} out"),
        }
    }
}

fn messages(overseer: &Overseer) -> (u64, u64) {
    (overseer.sum(Counter::messages_in), overseer.sum(Counter::deliveries))
}

/// Connections and rooms.
pub(super) fn in_brief(overseer: &Overseer) -> String {
    let (connections, rooms) = (overseer.sum(Counter::connections), overseer.sum(Counter::rooms));
    format!("{connections} connections, {rooms} rooms")
}

/// Says every few seconds how things are; never ends.
pub(super) async fn tell_status(supervisor: Rc<Supervisor>, overseer: Arc<Overseer>) {
    let mut due = interval(STATUS_PERIOD);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // At once: the start has said it.
    due.tick().await;
    let mut rate = Rate::start(&overseer);
    loop {
        due.tick().await;
        supervisor.status(&rate.status(&overseer));
    }
}

/// Pings every `period` while all shards move; never ends.
///
/// Each time all of them are woken; whoever has not moved until the next time is stuck, and the
/// supervisor hears nothing. In a shutdown shards end one by one, and the main thread bounds that.
pub(super) async fn ping(
    supervisor: Rc<Supervisor>,
    overseer: Arc<Overseer>,
    eventfds: Arc<[OwnedFd]>,
    period: Duration,
) {
    let mut due = interval(period);
    due.set_missed_tick_behavior(MissedTickBehavior::Delay);
    due.tick().await;
    loop {
        let kicked_at = overseer.now();
        for eventfd in eventfds.iter() {
            // A counter that is full rings as well.
            let _ = rustix::io::write(eventfd, &1u64.to_ne_bytes());
        }
        due.tick().await;
        match unmoved(overseer.neighbours(), kicked_at) {
            Some(shard) if !overseer.is_draining() => {
                let shard = shard.0;
                tracing::error!(shard, "the shard does not move: the watchdog is not told");
                supervisor.status(&format!("shard {shard} does not move"));
            }
            _ => supervisor.ping(),
        }
    }
}

/// The first shard that has not turned since it was woken.
fn unmoved<'a>(shards: impl Iterator<Item = &'a Neighbour>, woken_at: Now) -> Option<ShardId> {
    let moved = |shard: &Neighbour| shard.moved_at.load(Ordering::Relaxed) >= woken_at.0;
    (0u16..).zip(shards).find(|(_, shard)| !moved(shard)).map(|(id, _)| ShardId(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_that_was_woken_and_did_not_move_is_named() {
        let shards: Vec<_> = (0..3).map(|_| Neighbour::default()).collect();
        for (shard, at) in shards.iter().zip([100, 101, 99]) {
            shard.moved_at.store(at, Ordering::Relaxed);
        }
        assert_eq!(unmoved(shards.iter(), Now(99)), None);
        assert_eq!(unmoved(shards.iter(), Now(100)), Some(ShardId(2)));
        assert_eq!(unmoved(shards.iter(), Now(101)), Some(ShardId(0)));
    }
}
