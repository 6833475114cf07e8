//! Keeps account of what each other box has sent: what came, what is missing, who is silent.
//!
//! In:    senders and sequences of envelopes; the time, as far as it counts.
//! Out:   whether an envelope is new, how many were missed before it, which boxes are dead.
//! Never: looks into a message, or judges by a clock that stands still during an outage of ours.
//!
//! # Invariants
//! - A sequence is counted once: as heard, or as missed; what comes later than that is a duplicate.
//! - Nothing before the first thing known of a box counts as missed.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::bridge::envelope::Node;
use crate::limits::PARTITIONS;

/// Silence after which a box is dead.
pub const DEAD_AFTER: Duration = Duration::from_secs(5);
/// What other boxes have on top of that after an outage of ours: it was theirs, too.
pub const DEAD_AFTER_OUTAGE: Duration = Duration::from_secs(3);
/// How long the sequences of a dead box are remembered.
pub const REMEMBERED: Duration = Duration::from_secs(600);
/// What a heartbeat claims may come so much later than it: data may travel another way than signs
/// of life, and take longer on a busy box. A little less than two pauses between heartbeats.
pub const CLAIM_SETTLES: Duration = Duration::from_millis(1900);
/// Boxes that are remembered; beyond, the one that was silent longest is forgotten.
pub const PEERS_MAX: usize = 4096;

/// What an envelope is, by its sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// It is new; so many before it were missed.
    New {
        /// How many.
        missed: u64,
    },
    /// It was heard before, or counted as missed.
    Duplicate,
}

/// One sequence of one sender.
#[derive(Clone, Copy, Debug, Default)]
pub struct Track {
    /// The last that was heard or given up; `None` before the first.
    last: Option<u64>,
    /// The last that the sender says there is.
    claimed: Option<u64>,
}

impl Track {
    /// What an envelope of this sequence is.
    #[must_use]
    pub fn judge(&self, sequence: u64) -> Arrival {
        match (self.last, self.claimed) {
            (Some(last), _) if sequence <= last => Arrival::Duplicate,
            // Before anything was heard, what the first heartbeat claims may still be on its way.
            (Some(known), _) | (None, Some(known)) => {
                Arrival::New { missed: sequence.saturating_sub(known).saturating_sub(1) }
            }
            (None, None) => Arrival::New { missed: 0 },
        }
    }

    /// It was heard.
    pub fn take(&mut self, sequence: u64) {
        self.last = Some(sequence);
    }

    /// Gives up what an earlier heartbeat claimed, and takes the next claim; how many were missed.
    fn settle(&mut self, claim: u64) -> u64 {
        let mut missed = 0;
        if let Some(claimed) = self.claimed {
            if let Some(last) = self.last {
                missed = claimed.saturating_sub(last);
            }
            self.last = self.last.max(Some(claimed));
        }
        self.claimed = Some(claim);
        missed
    }
}

/// What is known of one other box.
#[derive(Debug)]
pub struct Peer {
    /// What people call it.
    pub name: Box<str>,
    /// It has given a sign of life of late.
    pub is_alive: bool,
    /// Where its presence stands.
    pub presence: Replica,
    tracks: Box<[Track; PARTITIONS]>,
    claimed_at: Option<Instant>,
    /// By the clock that stands still during an outage.
    heard_at: Duration,
}

/// Where the copy of a box's presence stands.
#[derive(Debug, Default)]
pub struct Replica {
    /// The last of its joins and leaves that is in the copy.
    pub last: u64,
    /// Nothing is missing in the copy.
    pub is_complete: bool,
    /// When it was last asked for a snapshot, or sent a part of one.
    pub asked_at: Option<Instant>,
}

/// All other boxes.
#[derive(Debug, Default)]
pub struct Peers {
    peers: HashMap<Node, Peer>,
    /// Time that has passed while we could hear.
    clock: Duration,
    ticked_at: Option<Instant>,
}

impl Peers {
    /// The box, made where it is new. It is not alive before [`Peers::heard`].
    pub fn peer(&mut self, node: Node) -> &mut Peer {
        if self.peers.len() >= PEERS_MAX && !self.peers.contains_key(&node) {
            let oldest = self.peers.iter().min_by_key(|(_, peer)| (peer.is_alive, peer.heard_at));
            if let Some(oldest) = oldest.map(|(node, _)| *node) {
                self.peers.remove(&oldest);
            }
        }
        let heard_at = self.clock;
        self.peers.entry(node).or_insert_with(|| Peer {
            name: "".into(),
            is_alive: false,
            presence: Replica::default(),
            tracks: Box::new([Track::default(); PARTITIONS]),
            claimed_at: None,
            heard_at,
        })
    }

    /// A sign of life; whether it is the first, or the first for long.
    pub fn heard(&mut self, node: Node) -> bool {
        let clock = self.clock;
        let peer = self.peer(node);
        // After an outage it may be ahead of the clock, which then stays so.
        peer.heard_at = peer.heard_at.max(clock);
        !std::mem::replace(&mut peer.is_alive, true)
    }

    /// A heartbeat's claims; how many messages were missed by what an earlier one claimed.
    pub fn claims(&mut self, node: Node, claims: &[u64; PARTITIONS], now: Instant) -> u64 {
        let peer = self.peer(node);
        let settles = |at: Instant| now.saturating_duration_since(at) >= CLAIM_SETTLES;
        if !peer.claimed_at.is_none_or(settles) {
            return 0;
        }
        peer.claimed_at = Some(now);
        let both = peer.tracks.iter_mut().zip(claims);
        both.map(|(track, claim)| track.settle(*claim)).fold(0, u64::saturating_add)
    }

    /// The sequence of one partition of a box.
    pub fn track(&mut self, node: Node, partition: usize) -> &mut Track {
        &mut self.peer(node).tracks[partition]
    }

    /// It is dead, or has said that it ends; what it has sent is remembered. Whether it lived.
    pub fn lost(&mut self, node: Node) -> bool {
        let Some(peer) = self.peers.get_mut(&node) else { return false };
        peer.presence = Replica::default();
        std::mem::take(&mut peer.is_alive)
    }

    /// Time has passed. While we can hear (`hears`), a box that is silent for long is dead: these.
    pub fn tick(&mut self, now: Instant, hears: bool) -> Vec<Node> {
        let passed = self.ticked_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        self.ticked_at = Some(now);
        if !hears {
            return Vec::new();
        }
        self.clock += passed;
        let clock = self.clock;
        let silent = |peer: &Peer| clock.saturating_sub(peer.heard_at);
        self.peers.retain(|_, peer| peer.is_alive || silent(peer) < REMEMBERED);
        let dead = self.peers.iter().filter(|(_, peer)| peer.is_alive && silent(peer) > DEAD_AFTER);
        dead.map(|(node, _)| *node).collect()
    }

    /// We can hear again: whoever was alive has the time to come back.
    pub fn resume(&mut self, now: Instant) {
        self.ticked_at = Some(now);
        for peer in self.peers.values_mut().filter(|peer| peer.is_alive) {
            peer.heard_at = self.clock + DEAD_AFTER_OUTAGE;
        }
    }

    /// The boxes that are alive.
    pub fn alive(&self) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(|peer| peer.is_alive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Node = Node { id: 1, incarnation: 1 };
    const SECOND: Duration = Duration::from_secs(1);
    /// Heartbeats so far apart settle each other's claims.
    const BEAT: Duration = Duration::from_secs(2);

    fn said(peers: &mut Peers, sequence: u64) -> Arrival {
        let track = peers.track(A, 3);
        let arrival = track.judge(sequence);
        if arrival != Arrival::Duplicate {
            track.take(sequence);
        }
        arrival
    }

    fn claim(peers: &mut Peers, sequence: u64, now: Instant) -> u64 {
        let mut claims = [0; PARTITIONS];
        claims[3] = sequence;
        peers.heard(A);
        peers.claims(A, &claims, now)
    }

    #[test]
    fn a_hole_is_counted_and_what_came_before_is_a_duplicate() {
        let mut peers = Peers::default();
        assert_eq!(said(&mut peers, 7), Arrival::New { missed: 0 }, "the first is the baseline");
        assert_eq!(said(&mut peers, 8), Arrival::New { missed: 0 });
        assert_eq!(said(&mut peers, 12), Arrival::New { missed: 3 });
        assert_eq!(said(&mut peers, 12), Arrival::Duplicate);
        assert_eq!(said(&mut peers, 10), Arrival::Duplicate, "it was counted as missed");
    }

    #[test]
    fn what_a_heartbeat_claims_and_the_next_still_misses_is_counted_once() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        assert_eq!(claim(&mut peers, 5, start), 0);
        assert_eq!(said(&mut peers, 6), Arrival::New { missed: 0 });
        assert_eq!(claim(&mut peers, 9, start + BEAT), 0);
        assert_eq!(claim(&mut peers, 9, start + 2 * BEAT), 3);
        assert_eq!(claim(&mut peers, 9, start + 3 * BEAT), 0);
        assert_eq!(said(&mut peers, 9), Arrival::Duplicate);
        assert_eq!(said(&mut peers, 10), Arrival::New { missed: 0 });
    }

    #[test]
    fn a_heartbeat_may_overtake_what_it_claims() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        claim(&mut peers, 5, start);
        assert_eq!(said(&mut peers, 4), Arrival::New { missed: 0 }, "on its way at first sight");
        assert_eq!(said(&mut peers, 5), Arrival::New { missed: 0 });
        claim(&mut peers, 8, start + BEAT);
        // At once after another, such as for a box that it did not know.
        assert_eq!(claim(&mut peers, 9, start + BEAT + BEAT / 100), 0);
        for sequence in 6..=9 {
            assert_eq!(said(&mut peers, sequence), Arrival::New { missed: 0 });
        }
        assert_eq!(claim(&mut peers, 9, start + 2 * BEAT), 0);
    }

    #[test]
    fn what_was_lost_between_first_sight_and_the_first_message_is_counted() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        claim(&mut peers, 5, start);
        assert_eq!(said(&mut peers, 8), Arrival::New { missed: 2 });
        let mut peers = Peers::default();
        claim(&mut peers, 5, start);
        assert_eq!(claim(&mut peers, 8, start + BEAT), 0, "5 was the baseline");
        assert_eq!(claim(&mut peers, 8, start + 2 * BEAT), 3);
    }

    #[test]
    fn silence_is_death_and_its_sequences_are_remembered_for_a_while() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        peers.tick(start, true);
        assert!(peers.heard(A));
        assert!(!peers.heard(A));
        said(&mut peers, 4);
        assert_eq!(peers.tick(start + DEAD_AFTER, true), []);
        assert_eq!(peers.tick(start + DEAD_AFTER + SECOND, true), [A]);
        assert!(peers.lost(A));
        assert_eq!(peers.alive().count(), 0);
        assert_eq!(said(&mut peers, 4), Arrival::Duplicate);
        assert_eq!(peers.tick(start + REMEMBERED + SECOND, true), []);
        assert_eq!(said(&mut peers, 4), Arrival::New { missed: 0 }, "forgotten");
    }

    #[test]
    fn the_clock_stands_still_while_we_cannot_hear() {
        let (mut peers, start) = (Peers::default(), Instant::now());
        peers.tick(start, true);
        peers.heard(A);
        assert_eq!(peers.tick(start + 4 * SECOND, true), []);
        assert_eq!(peers.tick(start + 100 * SECOND, false), []);
        let back = start + 101 * SECOND;
        peers.resume(back);
        assert_eq!(peers.tick(back + DEAD_AFTER + DEAD_AFTER_OUTAGE, true), []);
        assert_eq!(peers.tick(back + DEAD_AFTER + DEAD_AFTER_OUTAGE + SECOND, true), [A]);
    }

    #[test]
    fn the_book_of_boxes_is_bounded() {
        let mut peers = Peers::default();
        for id in 0..PEERS_MAX as u64 + 10 {
            peers.peer(Node { id, incarnation: 0 });
        }
        assert_eq!(peers.peers.len(), PEERS_MAX);
    }
}
