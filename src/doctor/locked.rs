//! Turns RLIMIT_MEMLOCK into a check: rings are charged to it, for each user.
//!
//! In:    the limit; what the shards' rings lock at least.
//! Out:   whether they fit, and fit twice, for a server that takes over from another.
//! Never: trusts that root is not charged: the service's user is.

use super::check::{Check, Status, bytes};
use super::patient::Patient;
use crate::probe::Bound;
use crate::probe::capacity::{locked_bytes_least, shards_locked};

/// What allows every ring.
pub(super) const FIX: &str = "ulimit -l unlimited   # in the unit: LimitMEMLOCK=infinity";

/// Whether the rings fit.
pub(super) fn memlock(patient: &Patient) -> Vec<Check> {
    let facts = &patient.facts;
    let limit = facts.memlock.soft;
    let said = match limit {
        u64::MAX => "unlimited".to_owned(),
        limit => bytes(limit),
    };
    let check = Check::of("memlock").measured(said);
    if !facts.is_charged {
        return vec![check.pass("this kernel does not count rings as locked memory")];
    }
    // One shard a CPU, or as many as the operator says: not those that are left after all.
    let wanted = patient.config.shards.number().unwrap_or(facts.cpus.len()).max(patient.shards);
    let ring = &patient.config.ring;
    let once = locked_bytes_least(ring, wanted) as u64;
    let check = check.limit(format!("{wanted} shards lock {} at least", bytes(once)));
    let fit = shards_locked(facts, ring, wanted);
    if fit == 0 {
        let message = "not one shard's ring fits: the server does not start";
        return vec![check.breaks_at(0).fail(message, FIX)];
    }
    let holds = patient.holds(Bound::Memlock);
    if fit < wanted {
        let check =
            check.breaks_at(if patient.config.shards.number().is_some() { 0 } else { holds });
        let message = format!("rings for {fit} of {wanted} shards fit (RLIMIT_MEMLOCK, per user)");
        return vec![check.fail(message, FIX)];
    }
    let check = if holds < u64::MAX { check.breaks_at(holds) } else { check };
    if limit < 2 * once {
        let message = "the rings fit once: a server that starts while another of the same user \
                       still runs does not";
        return vec![check.warn(message, FIX)];
    }
    // As many shards as there are need no more; only a larger number would need more of them.
    let judged = patient.asked.map_or(Status::Pass, |asked| patient.judge(holds, asked));
    let message = match limit {
        u64::MAX => "rings may be as large as they like",
        _ => "the rings fit twice, so that one server can take over from another",
    };
    vec![check.judged(judged, message, FIX)]
}
