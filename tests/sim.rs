//! The whole server in one thread, over a simulated kernel, from a seed.
//!
//! `SIM_SEEDS=n` runs so many seeds (300 by default); `SIM_SEED=n` replays one and tells what
//! happens. A seed that fails is printed with the command that replays it.

#[path = "sim/chaos.rs"]
mod chaos;
#[path = "sim/check.rs"]
mod check;
#[path = "sim/client.rs"]
mod client;
#[path = "sim/cluster.rs"]
mod cluster;
#[path = "sim/descriptors.rs"]
mod descriptors;
#[path = "sim/host.rs"]
mod host;
#[path = "sim/hub.rs"]
mod hub;
#[path = "sim/kernel.rs"]
mod kernel;
#[path = "sim/log.rs"]
mod log;
#[path = "sim/oracle.rs"]
mod oracle;
#[path = "sim/oracle_cluster.rs"]
mod oracle_cluster;
#[path = "sim/oracle_raw.rs"]
mod oracle_raw;
#[path = "sim/oracle_users.rs"]
mod oracle_users;
#[path = "sim/peers.rs"]
mod peers;
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
#[path = "sim/verdict.rs"]
mod verdict;
#[path = "sim/wire.rs"]
mod wire;

use std::cell::Cell;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};

use ringhall::conn::disconnect::Disconnect;
use ringhall::counters::NAMES;
use ringhall::http::refusal;

use chaos::Plant;
use run::Tally;

/// Seeds that run where nobody says how many.
const SEEDS: u64 = 300;
/// Seeds that fail where a bug that the simulation once found comes back. A change to what plans
/// and scripts draw makes other runs of them: then put the bugs back, one by one, and look for
/// seeds anew.
const KNOWN: &[u64] = &[
    5,   // what is queued behind a full socket weighs; nobody is closed unpinged
    11,  // what waits for a join weighs; lag notices stay in order
    14,  // an echo client that takes nothing is closed
    153, // a reader that is closed is told what it has missed, also when it closes
    249, // and when it ends its stream
    562, // a payload is acknowledged where nobody sits any more
    206, // a new member does not hear what was said before it joined
    4,   // an upgrade that plain HTTP has answered is refused with a close frame
    535, // whose input waits for a buffer is not silent
    1,   // accepting pauses where the system is out of descriptors
    197, // a cut leaves alone what is on its way to another shard
    3,   // a peer that ends its stream is sent what waits for it
    309, // an upgrade that plain HTTP has answered and that finds no slot is told
];
/// What clusters have to come to, all together.
const SIGHTS: &[&str] = &[
    "outages",
    "eras",
    "lanes full",
    "said while opening",
    "opened with others there",
    "refused by the broker",
    "unavailable",
    "renumbered",
];
/// Seeds among which each planted bug has to be noticed.
const PLANT_SEEDS: u64 = 60;

thread_local! {
    /// The seed that this thread runs.
    static SEED: Cell<u64> = const { Cell::new(0) };
    /// Whether its panics are wanted.
    static PLANTED: Cell<bool> = const { Cell::new(false) };
}

/// Panics say which seed they belong to; those that a planted bug causes say nothing.
fn name_seeds_in_panics() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let others = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| match (SEED.get(), PLANTED.get()) {
            (_, true) => {}
            (0, _) => others(panic),
            (seed, _) => {
                let _ = writeln!(std::io::stderr(), "seed {seed}: {panic}");
            }
        }));
    });
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a number, not {text}")))
}

#[test]
fn every_seed_keeps_the_invariants() {
    if let Some(seed) = number("SIM_SEED") {
        run::run(seed, None, true);
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<_> = KNOWN.iter().copied().chain(1..=count).collect();
    let tallies = run_all(&seeds, "every_seed", |seed| run::run(seed, None, false));
    if count >= SEEDS {
        check_coverage(&tallies);
    }
}

/// The same where receives stand.
#[test]
fn every_seed_keeps_the_invariants_with_standing_receives() {
    if let Some(seed) = number("SIM_SEED") {
        run::run_standing(seed, None, true);
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<_> = (1..=count).collect();
    let test = "every_seed_keeps_the_invariants_with_standing_receives";
    let tallies = run_all(&seeds, test, |seed| run::run_standing(seed, None, false));
    if count >= SEEDS {
        check_coverage(&tallies);
    }
}

/// The same of several servers with a broker between them.
#[test]
fn every_cluster_keeps_the_invariants() {
    if let Some(seed) = number("SIM_SEED") {
        cluster::run(seed, true);
        return;
    }
    let count = number("SIM_SEEDS").unwrap_or(SEEDS);
    let seeds: Vec<_> = (1..=count).collect();
    let seen = run_all(&seeds, "every_cluster", |seed| cluster::run(seed, false));
    if count >= SEEDS {
        let sum = |what: &str| seen.iter().filter_map(|seen| seen.get(what)).sum::<u64>();
        let told: String = SIGHTS.iter().map(|what| format!(" {what}: {},", sum(what))).collect();
        let _ = writeln!(std::io::stderr(), "all clusters together:{told}");
        for what in SIGHTS {
            assert!(sum(what) > 0, "no cluster ever came to this: {what}; widen the simulation");
        }
    }
}

/// Runs all seeds on all cores; what each has given. A panic names the seeds that failed.
fn run_all<T: Send>(seeds: &[u64], test: &str, run: impl Fn(u64) -> T + Sync) -> Vec<T> {
    name_seeds_in_panics();
    let next = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(8);
    let work = || {
        let mut done = Vec::new();
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let seed = usize::try_from(at).ok().and_then(|at| seeds.get(at));
            let Some(&seed) = seed else { return done };
            SEED.set(seed);
            done.push(catch_unwind(AssertUnwindSafe(|| run(seed))).map_err(|_| seed));
        }
    };
    let done: Vec<Result<T, u64>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join().expect("panics are caught"));
        done.flatten().collect()
    });
    let failed: Vec<u64> = done.iter().filter_map(|done| done.as_ref().err()).copied().collect();
    let replay = |seed: &u64| format!("\n  SIM_SEED={seed} cargo test --test sim {test}");
    let replays: String = failed.iter().map(replay).collect();
    assert!(failed.is_empty(), "{} of {} seeds failed:{replays}", failed.len(), seeds.len());
    done.into_iter().filter_map(Result::ok).collect()
}

/// The invariants can fail: each of these bugs, planted once in a run, is noticed.
#[test]
fn planted_bugs_are_noticed() {
    name_seeds_in_panics();
    let plants = [
        Plant::LostWritable,
        Plant::LostEdge,
        Plant::DoubleSend,
        Plant::SilentShortSend,
        Plant::LostBell,
        Plant::StaleByte,
    ];
    PLANTED.set(true);
    for plant in plants {
        let is_noticed = |seed: &u64| {
            let chances = u32::try_from(seed % 7).unwrap_or(0);
            catch_unwind(|| run::run(*seed, Some((plant, chances)), false)).is_err()
        };
        let noticed = (1..=PLANT_SEEDS).filter(is_noticed).count();
        let _ =
            writeln!(std::io::stderr(), "{plant:?}: noticed in {noticed} of {PLANT_SEEDS} runs");
        assert!(noticed > 0, "{plant:?} is not noticed");
    }
    // A standing receive that falls silent is that of its own kernel.
    let is_noticed = |seed: &u64| {
        let chances = u32::try_from(seed % 7).unwrap_or(0);
        catch_unwind(|| run::run_standing(*seed, Some((Plant::LostEdge, chances)), false)).is_err()
    };
    assert!((1..=PLANT_SEEDS).any(|seed| is_noticed(&seed)), "a lost arrival is not noticed");
    PLANTED.set(false);
}

fn add(sum: &mut Tally, more: &Tally) {
    for (sum, more) in sum.iter_mut().zip(more) {
        sum.resize(more.len(), 0);
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
}

/// A simulation that never comes to some corner of the server proves nothing about it.
fn check_coverage(tallies: &[Tally]) {
    /// Gauges, back at zero; what no client of the simulation does; what must not happen.
    const NEVER: &[&str] = &[
        "connections",
        "websockets",
        "rooms",
        "members",
        "queue_bytes",
        "closing",
        "buffers",
        "buffers_lent",
        "buffers_free_low",
        "completion_overflows",
        "cpu_us",
        "internal",
    ];
    let mut sum = Tally::default();
    tallies.iter().for_each(|tally| add(&mut sum, tally));
    let [counters, closed, refused] = &sum;
    let closes = Disconnect::ALL.iter().map(|reason| reason.row().label).zip(closed);
    let refusals = refusal::ALL.iter().map(|kind| kind.code()).zip(refused);
    let all = NAMES.iter().copied().zip(counters).chain(closes).chain(refusals);
    let all: Vec<_> = all.filter(|(name, _)| !NEVER.contains(name)).collect();
    let told: String = all.iter().map(|(name, count)| format!(" {name} {count}")).collect();
    let _ = writeln!(std::io::stderr(), "all seeds together:{told}");
    for (name, count) in all {
        assert!(*count > 0, "the simulation never came to {name}: widen it");
    }
}
