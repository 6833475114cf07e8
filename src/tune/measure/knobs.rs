//! What can be turned, what is tried, and under which loads it may show.
//!
//! In:    how many CPUs there are.
//! Out:   `Knob`s, in the order in which they are swept.
//! Never: names a key that a configuration does not take (a test holds that).
//!
//! # What is not here, for it was tried before and cannot win
//! Hard-linked sends (half), zero-copy sends (0.6 to 0.7: loopback copies, and the second
//! completion costs), sends that poll first (0.7) or run on a worker (0.7), registered buffers (the
//! same), task work that is not deferred (0.8). Batching a room's frames is no knob: without it
//! there are a thirtieth of the deliveries.

use super::super::{Knob, Load, Setting};

fn one(key: &'static str, value: impl Into<String>) -> Setting {
    vec![(key, value.into())]
}

/// All knobs; the first ones are those that `--quick` sweeps.
#[must_use]
pub fn knobs() -> Vec<Knob> {
    let cpus = crate::probe::cpus().len();
    vec![receive(), buffers(), batch(), stride(), depth(), send(), shards(cpus), placement()]
}

fn receive() -> Knob {
    Knob {
        name: "receive",
        what: "receives that stand, instead of a poll and a receive",
        candidates: vec![one("ring.receive", "standing")],
        loads: &[Load::Echo, Load::SmallRooms],
        quick: true,
    }
}

fn buffers() -> Knob {
    let geometry = |bytes: &str, count: &str| {
        vec![("ring.buffer_bytes", bytes.to_owned()), ("ring.buffers", count.to_owned())]
    };
    Knob {
        name: "buffers",
        what: "receive buffers of other sizes, 16 MiB of them together",
        candidates: vec![geometry("4KiB", "4096"), geometry("16KiB", "1024")],
        loads: &[Load::Echo],
        quick: true,
    }
}

fn batch() -> Knob {
    Knob {
        name: "batch",
        what: "how long a turn waits for more after it has sent to a large room",
        candidates: vec![one("server.gather_wait", "0s"), one("server.gather_wait", "1ms")],
        loads: &[Load::LargeRoom],
        quick: true,
    }
}

fn stride() -> Knob {
    Knob {
        name: "stride",
        what: "connections that are received from at a time",
        candidates: vec![one("ring.stride", "32"), one("ring.stride", "256")],
        loads: &[Load::Echo, Load::BusyRooms],
        quick: false,
    }
}

fn depth() -> Knob {
    Knob {
        name: "depth",
        what: "operations that one system call carries out at most",
        candidates: vec![one("ring.entries", "1024"), one("ring.entries", "512")],
        loads: &[Load::LargeRoom, Load::Echo],
        quick: false,
    }
}

fn send() -> Knob {
    Knob {
        name: "send",
        what: "every send a SENDMSG",
        candidates: vec![one("ring.send", "sendmsg")],
        loads: &[Load::LargeRoom, Load::SmallRooms],
        quick: false,
    }
}

fn shards(cpus: usize) -> Knob {
    let mut candidates = vec![one("server.shards", (2 * cpus).to_string())];
    if cpus >= 4 {
        // Leaves a CPU to the network's interrupts.
        candidates.insert(0, one("server.shards", (cpus - 1).to_string()));
    }
    Knob {
        name: "shards",
        what: "another number of threads than CPUs",
        candidates,
        loads: &[Load::AllCpus],
        quick: false,
    }
}

fn placement() -> Knob {
    Knob {
        name: "placement",
        what: "members that stay where they were accepted, instead of at their room's home",
        candidates: vec![one("server.placement", "accept"), one("rooms.spread", "always")],
        loads: &[Load::AllCpus],
        quick: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::{Config, Flag, Sources, load};

    fn configured(setting: &Setting) -> Config {
        let flag = |(key, value): &(&'static str, String)| Flag {
            name: "--set",
            key: (*key).into(),
            value: value.clone(),
        };
        let flags = setting.iter().map(flag).collect();
        let loaded = load(Sources::new(None, std::iter::empty(), flags));
        loaded.unwrap_or_else(|problems| panic!("{setting:?}: {problems:?}")).config
    }

    #[test]
    fn every_candidate_is_a_configuration_and_none_is_the_default() {
        let knobs = knobs();
        for knob in knobs.iter().chain([&shards(2), &shards(16)]) {
            assert!(!knob.candidates.is_empty() && !knob.loads.is_empty(), "{}", knob.name);
            let mut seen = BTreeSet::new();
            for candidate in &knob.candidates {
                let config = configured(candidate);
                assert_ne!(config, Config::default(), "{}: {candidate:?}", knob.name);
                assert!(seen.insert(format!("{config:?}")), "{}: {candidate:?} twice", knob.name);
            }
        }
    }

    #[test]
    fn names_are_unique_and_the_quick_ones_come_first() {
        let knobs = knobs();
        let names: BTreeSet<_> = knobs.iter().map(|knob| knob.name).collect();
        assert_eq!(names.len(), knobs.len());
        assert!(knobs.is_sorted_by_key(|knob| !knob.quick));
        let quick: Vec<_> = knobs.iter().filter(|knob| knob.quick).map(|knob| knob.name).collect();
        assert_eq!(quick, ["receive", "buffers", "batch"]);
    }
}
