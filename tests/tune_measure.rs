//! What `ringhall tune` measures is measured: real servers, real loads, and nothing left running.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use ringhall::tune::measure::{Servers, knobs};
use ringhall::tune::{Bench, Load, Plan, Setting};

/// Short windows: what they say is not believed here, only that they say something.
fn plan() -> Plan {
    let cpus = ringhall::probe::cpus();
    Plan {
        quick: true,
        server_cpu: cpus[0],
        generator_cpu: *cpus.last().expect("there is one"),
        trial: Duration::from_millis(150),
        warmup: Duration::from_millis(20),
    }
}

fn servers() -> Servers {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_ringhall"));
    Servers::of(binary, &plan()).expect("a temporary file")
}

/// Processes whose parent is this one.
fn children() -> BTreeSet<u32> {
    let own = std::process::id();
    let all = std::fs::read_dir("/proc").expect("it is mounted").flatten();
    let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        fields.split(' ').nth(1).and_then(|parent| parent.parse().ok()) == Some(own)
    };
    pids.filter(is_child).collect()
}

#[test]
fn every_knob_is_measured_under_its_loads_and_every_probe_finds_something() {
    // One test, for trials take turns on the CPUs that they are pinned to.
    let mut servers = servers();
    for knob in knobs() {
        for load in knob.loads {
            // The last candidate of each: all of them are configurations, a test of theirs says.
            let candidate = knob.candidates.last().expect("one at least");
            let sample = servers.run(candidate, *load);
            let sample = sample.unwrap_or_else(|fault| panic!("{} {load}: {fault}", knob.name));
            assert!(sample.operations_per_cpu_second > 100.0, "{} {load}: {sample:?}", knob.name);
            assert!(sample.per_second > 10.0 && sample.p99_us > 0, "{} {load}", knob.name);
        }
    }
    for load in [Load::Chat, Load::Handshakes] {
        let sample = servers.run(&Setting::new(), load).expect("the defaults run");
        assert!(sample.per_second > 10.0, "{load}: {sample:?}");
    }
    let refused = servers.run(&vec![("ring.entries", "3000".to_owned())], Load::Echo);
    let fault = refused.expect_err("no configuration").to_string();
    assert!(fault.contains("ring.entries"), "{fault}");

    let mut said = Vec::new();
    let probes =
        servers.probes(&mut |doing| said.push(doing.to_owned())).expect("a box that works");
    assert_eq!(said.len(), 4, "{said:?}");
    let value = |id: &str| {
        let found = probes.findings.iter().find(|finding| finding.id == id);
        found.and_then(|finding| finding.value).unwrap_or_else(|| panic!("{id}: {probes:?}"))
    };
    assert!(value("ring_entries") >= 256.0 && value("cpus") >= 1.0);
    assert!(value("accepts_per_cpu_second") > 100.0);
    let stuck = value("stuck_reader_bytes");
    assert!((1000.0..64e6).contains(&stuck), "{stuck} bytes behind a stuck reader");
    let user = probes.user_bytes.expect("its process was looked at");
    assert!((50.0..5000.0).contains(&user), "{user} bytes of user space");
    // Who else is on the box moves it: only its order of magnitude is held.
    let kernel = probes.kernel_bytes.expect("the kernel counts its slabs");
    assert!((1000.0..20_000.0).contains(&kernel), "{kernel} bytes of the kernel's");

    drop(servers);
    assert_eq!(children(), BTreeSet::new(), "everything that was started has ended");
}
