//! The whole server in one thread, over a simulated kernel, from a seed.
//!
//! `RINGHALL_SIM_SEEDS=n` runs so many seeds (300 by default); `RINGHALL_SIM_SEED=n` replays one and
//! tells what happens. A seed that fails is printed with the command that replays it.

#[path = "sim/check.rs"]
mod check;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/oracle_raw.rs"]
mod oracle_raw;
#[path = "sim/plan.rs"]
mod plan;
#[path = "sim/run.rs"]
mod run;
#[path = "sim/script.rs"]
mod script;
#[path = "sim/sim_io.rs"]
mod sim_io;
#[path = "sim/socket.rs"]
mod socket;
#[path = "sim/wire.rs"]
mod wire;

use std::cell::Cell;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

/// Seeds that run where nobody says how many.
const SEEDS: u64 = 300;
/// Seeds that have failed before.
const KNOWN: &[u64] = &[];

thread_local! {
    /// The seed that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = number("RINGHALL_SIM_SEED") {
        return run::run(seed, None, true);
    }
    let seeds: Vec<_> =
        KNOWN.iter().copied().chain(1..=number("RINGHALL_SIM_SEEDS").unwrap_or(SEEDS)).collect();
    std::panic::set_hook(Box::new(|panic| {
        let seed = SEED.get();
        let _ = writeln!(std::io::stderr(), "seed {seed}: {panic}");
    }));
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let failed: Vec<u64> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&seeds, &next))).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("caught")).collect()
    });
    let replay = |seed: &u64| format!("\n  RINGHALL_SIM_SEED={seed} cargo test --test sim");
    let replays: String = failed.iter().map(replay).collect();
    assert!(failed.is_empty(), "{} of {} seeds failed:{replays}", failed.len(), seeds.len());
}

fn work(seeds: &[u64], next: &AtomicU64) -> Vec<u64> {
    let mut failed = Vec::new();
    loop {
        let at = next.fetch_add(1, Ordering::Relaxed);
        let Some(&seed) = usize::try_from(at).ok().and_then(|at| seeds.get(at)) else { break };
        SEED.set(seed);
        if catch_unwind(AssertUnwindSafe(|| run::run(seed, None, false))).is_err() {
            failed.push(seed);
        }
    }
    failed
}
