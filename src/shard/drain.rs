//! Orders of the main thread: new limits, and the shutdown.
//!
//! In:    orders; the turn's `now`.
//! Out:   everyone told, then closed in a drawn order, a few a turn; in the end, cut.
//! Never: outlasts `shutdown.grace`: the main thread then orders the cut.
//!
//! # Invariants
//! - A shard ends when all are vacant: until then a connection may still be on its way to it, or a
//!   leave that the other boxes have to hear of.

use std::sync::atomic::Ordering;

use crate::conn::disconnect::Disconnect;
use crate::conn::{Kind, Phase};
use crate::counters::Counter;
use crate::id::{ConnId, Mode, ShardId};
use crate::io::{CloseHow, Io};
use crate::payload::{Batch, Payload};
use crate::protocol::event::put_system;
use crate::shard::pace::Pace;
use crate::shard::shared::{Farewell, Order};
use crate::shard::{Shard, State};
use crate::time::Now;

/// Connections told of the shutdown in one turn.
const TOLD_PER_TURN: usize = 4096;

/// A shutdown under way.
#[derive(Debug)]
pub struct Drain {
    farewell: Farewell,
    /// Who has to be told, from the back.
    untold: Vec<ConnId>,
    /// Who has to be closed, in a drawn order, from the back.
    unclosed: Vec<ConnId>,
    notice: Payload,
    began: Now,
    /// How fast they are closed, once all are told: a pace that began before would have to make up
    /// for the time that took, with all those closes at once.
    pace: Option<Pace>,
    /// Whoever is left is cut.
    cut: bool,
    /// Longest wait that a client is asked for, in milliseconds.
    retry_ms_max: u64,
    /// When the next few are to be closed.
    due: Now,
}

impl Drain {
    /// Whether everyone was told and closed.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.untold.is_empty() && self.unclosed.is_empty()
    }

    /// Whether whoever is left is cut: nobody waits for anybody then.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.cut
    }

    /// When the next one is to be closed.
    #[must_use]
    pub fn next_due(&self) -> Option<Now> {
        (!self.is_over()).then_some(self.due)
    }
}

impl<I: Io> Shard<I> {
    /// Does what the main thread has ordered.
    pub(super) fn orders(&mut self) {
        while let Some(order) = self.state.shared.neighbour(self.state.id).orders.pop() {
            match order {
                Order::Limits(limits) => self.state.limits = limits,
                Order::Drain(farewell) => self.begin_drain(farewell),
                Order::Cut => self.begin_cut(),
            }
        }
    }

    fn begin_drain(&mut self, farewell: Farewell) {
        let state = &mut self.state;
        if state.drain.is_some() {
            return;
        }
        state.accepting = false;
        let mut unclosed: Vec<_> = state.conns.iter_mut().map(|(id, _)| id).collect();
        state.random.shuffle(&mut unclosed);
        let count = unclosed.len() as u64;
        let mut notice = Batch::default();
        put_system(&mut notice.bytes, "Server is shutting down");
        state.drain = Some(Drain {
            farewell,
            untold: unclosed.clone(),
            unclosed,
            notice: Payload::own(notice),
            began: state.now,
            pace: None,
            cut: false,
            // So that those who come back do it at some thousands a second.
            retry_ms_max: 1000 + count / 4,
            due: state.now,
        });
        state.abandon_openings();
        self.io.stop_accepting();
    }

    /// The next few of a shutdown; how many.
    pub(super) fn drain(&mut self) -> usize {
        let state = &mut self.state;
        let Some(mut drain) = state.drain.take() else { return 0 };
        if drain.cut {
            state.drain = Some(drain);
            return self.cut();
        }
        let mut done = 0;
        for _ in 0..TOLD_PER_TURN {
            let Some(id) = drain.untold.pop() else { break };
            state.tell(id, &drain.notice);
            done += 1;
        }
        if drain.untold.is_empty() && state.now >= drain.due {
            let grace = state.limits.shutdown_grace;
            let left = grace.saturating_sub(state.now.since(drain.began));
            let (count, shards) = (drain.unclosed.len(), state.shared.neighbours.len());
            let new = || Pace::new(state.now, count, left, shards);
            let pace = drain.pace.get_or_insert_with(new);
            drain.due = Now(state.now.0 + pace.pause_ms());
            let unanswered = state.conns.len().saturating_sub(drain.unclosed.len()) as u64;
            for _ in 0..pace.due(state.now, unanswered) {
                let Some(id) = drain.unclosed.pop() else { break };
                pace.note_closed();
                done += 1;
                state.bid_farewell(id, drain.farewell, drain.retry_ms_max);
            }
        }
        state.drain = Some(drain);
        done
    }

    fn begin_cut(&mut self) {
        self.begin_drain(Farewell::ForGood);
        if let Some(drain) = &mut self.state.drain {
            drain.untold.clear();
            drain.unclosed.clear();
            drain.cut = true;
        }
        self.cut();
    }

    /// Cuts whoever is here; how many. What is on its way to another shard or to plain HTTP has its
    /// count and its socket there already, or comes back and is cut then.
    fn cut(&mut self) -> usize {
        let here = self.state.conns.iter_mut().filter(|(_, conn)| conn.phase != Phase::Parting);
        let left: Vec<_> = here.map(|(id, _)| id).collect();
        for id in &left {
            self.state.count(Counter::shutdown_cut);
            self.vacate(*id, Disconnect::Restart, CloseHow::Reset);
        }
        left.len()
    }
}

impl<I: Io> Shard<I> {
    /// Says whether this shard still holds the others' end up; who sleeps is rung.
    pub(super) fn note_vacancy(&mut self) {
        let state = &self.state;
        let Some(drain) = &state.drain else { return };
        let is_quiet = state.mesh.waiting() == 0 && !state.holds_mail() && !state.owes_bridge();
        let vacant = drain.is_over() && state.conns.is_empty() && is_quiet;
        let neighbour = state.shared.neighbour(state.id);
        // Released: whoever sees it finds the mail that was posted before.
        if neighbour.vacant.swap(vacant, Ordering::AcqRel) || !vacant {
            return;
        }
        for other in (0..).map(ShardId).take(state.shared.neighbours.len()) {
            if other != state.id && state.shared.mesh.bell(other).must_ring() {
                self.io.doorbell(other);
            }
        }
    }
}

impl State {
    /// Whether nothing can come any more but what is in this shard's queues by now.
    pub(super) fn are_all_vacant(&self) -> bool {
        let mut all = self.shared.neighbours.iter();
        self.drain.is_some() && all.all(|one| one.vacant.load(Ordering::Acquire))
    }

    fn tell(&mut self, id: ConnId, notice: &Payload) {
        let Some(conn) = self.conns.get(id) else { return };
        if conn.phase == Phase::Open && conn.kind == Kind::Room(Mode::Json) {
            conn.egress().push(notice.whole());
            self.mark_dirty(id);
        }
    }

    fn bid_farewell(&mut self, id: ConnId, farewell: Farewell, retry_ms_max: u64) {
        let Some(conn) = self.conns.get(id) else { return };
        match conn.phase {
            Phase::Open => match farewell {
                Farewell::ForGood => self.end(id, Disconnect::Shutdown),
                Farewell::ComeBack => {
                    let retry = self.random.u64(200..=retry_ms_max.max(201));
                    self.end_saying(id, Disconnect::Restart, &format!("retry_ms={retry}"));
                }
            },
            Phase::Head | Phase::Joining => self.refuse_for_shutdown(id),
            // A departure or a detachment completes, then finds the shutdown.
            Phase::Parting | Phase::Closing(_) => {}
        }
    }
}
