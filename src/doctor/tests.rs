//! Boxes of fixture files, each with something wrong: it is found, and what is printed mends it.

use std::fs;
use std::path::Path;

use super::check::{Check, Status};
use super::patient::Patient;
use super::root::Root;
use super::{
    Question, accept, clock, conntrack, counters, cpus, files, locked, memory, nic, tuned,
};
use crate::config::Config;
use crate::probe::{Clients, Facts, Fingerprint, Memory, ResourceLimit};

/// A box of two CPUs and 24 GiB on which nothing is wrong.
struct Fixture {
    folder: tempfile::TempDir,
    facts: Facts,
    config: Config,
    question: Question<'static>,
}

const GIB: u64 = 1 << 30;

impl Fixture {
    fn new() -> Self {
        let limit = |number| ResourceLimit { soft: number, hard: number };
        let facts = Facts {
            cpus: vec![0, 1],
            nofile: limit(1 << 20),
            memlock: limit(u64::MAX),
            is_charged: true,
            memory: Memory { total: 24 * GIB, free: 20 * GIB, ..Memory::default() },
            tcp_mem: Some([786_432, 1_048_576, 3_145_728]),
            files: Some(10_000_000),
        };
        let question = Question {
            file: None,
            connections: None,
            clients: Clients::Elsewhere,
            preflight: false,
        };
        let folder = tempfile::tempdir().unwrap();
        let fixture = Self { folder, facts, config: Config::default(), question };
        for (path, text) in [
            ("proc/sys/fs/nr_open", "1048576\n"),
            ("proc/sys/fs/file-max", "10000000\n"),
            ("proc/sys/net/core/somaxconn", "65535\n"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "65535\n"),
            ("proc/sys/net/ipv4/tcp_migrate_req", "1\n"),
            ("proc/sys/net/ipv4/tcp_syncookies", "1\n"),
            ("proc/sys/net/ipv4/tcp_timestamps", "1\n"),
            ("proc/sys/net/ipv4/ip_local_port_range", "10240\t65535\n"),
            ("proc/sys/vm/swappiness", "1\n"),
            ("proc/swaps", "Filename\tType\tSize\tUsed\tPriority\n"),
            ("proc/stat", "cpu  1000 0 1000 8000 0 0 0 5 0 0\ncpu0 1 2 3\n"),
            ("proc/self/cgroup", "0::/system.slice/ringhall.service\n"),
            ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n"),
            ("proc/net/softnet_stat", "00000001 00000000 0\n"),
            ("proc/net/netstat", NETSTAT),
        ] {
            fixture.write(path, text);
        }
        fixture
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.folder.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn patient(&self) -> Patient {
        let root = Root::new(self.folder.path());
        Patient::of(self.config.clone(), &self.question, self.facts.clone(), root)
    }

    fn with_connections(mut self, connections: usize) -> Self {
        self.question.connections = Some(connections);
        self
    }

    /// Carries out `sysctl -w NAME=VALUE...` as the kernel would.
    #[track_caller]
    fn apply(&mut self, fix: &str) {
        let command = fix.split('#').next().unwrap_or_default();
        let settings = command.trim().strip_prefix("sysctl -w ").expect("a sysctl command");
        let quoted = settings.contains('"');
        let all: Vec<&str> =
            if quoted { vec![settings] } else { settings.split_whitespace().collect() };
        for setting in all {
            let (name, value) = setting.split_once('=').expect("NAME=VALUE");
            let value = value.trim_matches('"');
            self.write(&format!("proc/sys/{}", name.replace('.', "/")), value);
            let numbers: Vec<u64> = value.split(' ').map(|word| word.parse().unwrap()).collect();
            match name {
                "net.ipv4.tcp_mem" => self.facts.tcp_mem = numbers.try_into().ok(),
                "fs.file-max" => self.facts.files = Some(numbers[0] - 1000),
                _ => {}
            }
        }
    }
}

const NETSTAT: &str = "TcpExt: SyncookiesSent ListenOverflows ListenDrops TCPMemoryPressures\n\
                       TcpExt: 1 0 0 0\nIpExt: InNoRoutes\nIpExt: 7\n";

type Examine = fn(&Patient) -> Vec<Check>;

/// Everything that reads a file or a fact.
const ALL: [Examine; 21] = [
    locked::memlock,
    files::nofile,
    files::nr_open,
    files::file_max,
    memory::memory,
    memory::group,
    memory::tcp_mem,
    memory::swap,
    memory::huge_pages,
    accept::somaxconn,
    accept::syn_backlog,
    accept::switches,
    accept::port_range,
    conntrack::conntrack,
    nic::queues,
    cpus::quota,
    cpus::steal,
    clock::clocksource,
    counters::listen_queue,
    counters::tcp_memory,
    counters::input_queue,
];

fn one(checks: Vec<Check>) -> Check {
    let [check] = checks.try_into().expect("one check");
    check
}

/// Finds it, with the number at which it breaks; mends it by its own fix.
#[track_caller]
fn found_and_mended(mut fixture: Fixture, examine: Examine, expected: Status, breaks_at: u64) {
    let check = one(examine(&fixture.patient()));
    assert_eq!((check.status, check.breaks_at), (expected, Some(breaks_at)), "{check:?}");
    fixture.apply(check.fix.as_deref().expect("a fix"));
    let mended = one(examine(&fixture.patient()));
    assert_eq!(mended.status, Status::Pass, "{mended:?}");
    assert_eq!(mended.fix, None);
}

#[test]
fn nothing_is_wrong_with_a_box_that_is_right() {
    let patient = Fixture::new().patient();
    let wrong: Vec<_> = ALL
        .iter()
        .flat_map(|examine| examine(&patient))
        .filter(|check| check.status > Status::Pass)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tcp_memory_is_told_with_the_connections_that_it_holds() {
    let with = |marks: [u64; 3]| {
        let mut fixture = Fixture::new();
        fixture.facts.tcp_mem = Some(marks);
        fixture
    };
    found_and_mended(with([1000, 2000, 3000]), memory::tcp_mem, Status::Fail, 3000);
    found_and_mended(with([10_000, 20_000, 300_000]), memory::tcp_mem, Status::Warn, 300_000);
    let asked = with([10_000, 20_000, 300_000]).with_connections(1_000_000);
    found_and_mended(asked, memory::tcp_mem, Status::Warn, 300_000);
    let far = with([10_000, 20_000, 30_000]).with_connections(1_000_000);
    found_and_mended(far, memory::tcp_mem, Status::Fail, 30_000);
    let mut hidden = Fixture::new();
    hidden.facts.tcp_mem = None;
    assert_eq!(one(memory::tcp_mem(&hidden.patient())).status, Status::Skip);
}

#[test]
fn a_table_of_tracked_connections_that_is_too_small_is_told_also_before_it_is_used() {
    let with = |max: &str, count: &str| {
        let fixture = Fixture::new();
        fixture.write("proc/sys/net/netfilter/nf_conntrack_max", max);
        fixture.write("proc/sys/net/netfilter/nf_conntrack_count", count);
        fixture
    };
    found_and_mended(with("4096\n", "3\n"), conntrack::conntrack, Status::Fail, 4096);
    found_and_mended(with("4096\n", "0\n"), conntrack::conntrack, Status::Warn, 4096);
    let asked = || with("262144\n", "3\n").with_connections(250_000);
    found_and_mended(asked(), conntrack::conntrack, Status::Fail, 262_144);
    let fits = with("262144\n", "3\n").with_connections(200_000);
    assert_eq!(one(conntrack::conntrack(&fits.patient())).status, Status::Pass);
}

#[test]
fn queues_that_a_storm_would_overflow_are_told() {
    let with = |path: &str, number: &str| {
        let fixture = Fixture::new();
        fixture.write(path, number);
        fixture
    };
    let path = "proc/sys/net/core/somaxconn";
    found_and_mended(with(path, "128\n"), accept::somaxconn, Status::Warn, 256);
    let storm = with(path, "4096\n").with_connections(1_000_000);
    found_and_mended(storm, accept::somaxconn, Status::Warn, 8192);
    let path = "proc/sys/net/ipv4/tcp_max_syn_backlog";
    found_and_mended(with(path, "64\n"), accept::syn_backlog, Status::Warn, 128);
}

#[test]
fn limits_on_files_are_told_with_the_connections_that_they_hold() {
    let mut few = Fixture::new();
    few.facts.files = Some(5032);
    few.write("proc/sys/fs/file-max", "6000\n");
    found_and_mended(few, files::file_max, Status::Fail, 5000);

    let mut small = Fixture::new();
    small.write("proc/sys/fs/nr_open", "1000\n");
    found_and_mended(small, files::nr_open, Status::Fail, 2 * 980);

    small = Fixture::new();
    small.facts.nofile = ResourceLimit { soft: 256, hard: 256 };
    small.facts.cpus = vec![0, 1];
    let check = one(files::nofile(&small.patient()));
    assert_eq!((check.status, check.breaks_at), (Status::Fail, Some(2 * 250)), "{check:?}");
    let fix = check.fix.expect("a fix");
    let words: Vec<_> = fix.split_whitespace().collect();
    assert_eq!(words[..2], ["ulimit", "-n"], "{fix}");
    assert!(fix.contains("LimitNOFILE="), "{fix}");
    let raised = words[2].parse().expect("a number");
    small.facts.nofile = ResourceLimit { soft: raised, hard: raised };
    assert_eq!(one(files::nofile(&small.patient())).status, Status::Pass);

    // The same where rings are charged to a limit that would hold little more.
    let locks = ResourceLimit { soft: 8 << 20, hard: 8 << 20 };
    (small.facts.memlock, small.facts.nofile.soft) = (locks, 256);
    let fix = one(files::nofile(&small.patient())).fix.expect("a fix");
    assert!(fix.starts_with("ulimit -n 1048576"), "{fix}");

    small.facts.nofile = ResourceLimit { soft: 20, hard: 20 };
    let check = one(files::nofile(&small.patient()));
    assert_eq!((check.status, check.breaks_at), (Status::Fail, Some(0)), "{check:?}");

    // Beyond what RLIMIT_NOFILE may be, that is raised first.
    let asked = Fixture::new().with_connections(1_000_000);
    asked.write("proc/sys/fs/nr_open", "65536\n");
    let mut asked = asked;
    asked.facts.nofile = ResourceLimit { soft: 65_536, hard: 65_536 };
    let fix = one(files::nofile(&asked.patient())).fix.expect("a fix");
    assert!(fix.starts_with("sysctl -w fs.nr_open=1048576 && ulimit -n 1048576"), "{fix}");
}

#[test]
fn before_a_start_what_only_bounds_the_connections_is_a_warning() {
    let mut fixture = Fixture::new().with_connections(6_000_000);
    fixture.facts.nofile = ResourceLimit { soft: 256, hard: 256 };
    for examine in [memory::memory, files::nofile] {
        let check = one(examine(&fixture.patient()));
        assert_eq!(check.status, Status::Fail, "{check:?}");
        let check = check.before_a_start();
        assert!(check.status == Status::Warn && check.fix.is_some(), "{check:?}");
    }
    // Hardly any memory is a matter of the moment: the server that has just ended had it.
    fixture.facts.memory.free = 1 << 20;
    let check = one(memory::memory(&fixture.patient())).before_a_start();
    assert_eq!((check.status, check.breaks_at), (Status::Warn, Some(1)), "{check:?}");
    fixture.question.connections = None;
    let check = one(memory::memory(&fixture.patient()));
    assert_eq!(check.status, Status::Fail, "few fit, whoever asks for how many: {check:?}");
    // Where the server does not start, or would admit one for good.
    fixture.config.shards = crate::config::Amount::Count(2);
    fixture.config.connections_max = crate::config::Amount::Count(1000);
    let check = one(files::nofile(&fixture.patient()));
    assert_eq!((check.status, check.breaks_at), (Status::Fail, Some(0)), "{check:?}");
    assert_eq!(check.before_a_start().status, Status::Fail);
    fixture.facts.memory = Memory::default();
    let check = one(memory::memory(&fixture.patient()));
    assert_eq!(check.before_a_start().status, Status::Fail);
}

#[test]
fn locked_memory_is_reckoned_for_the_rings_and_twice() {
    use crate::probe::capacity::locked_bytes_least;
    let with = |bytes: usize| {
        let mut fixture = Fixture::new();
        let bytes = bytes as u64;
        fixture.facts.memlock = ResourceLimit { soft: bytes, hard: bytes };
        one(locked::memlock(&fixture.patient()))
    };
    let once = locked_bytes_least(&Config::default().ring, 2);
    let check = with(64 << 10);
    assert_eq!((check.status, check.breaks_at), (Status::Fail, Some(0)), "{check:?}");
    let fix = check.fix.expect("a fix");
    assert!(fix.contains("ulimit -l unlimited") && fix.contains("LimitMEMLOCK=infinity"), "{fix}");
    let check = with(once - 1);
    assert_eq!(check.status, Status::Fail, "one of two: {check:?}");
    assert!(check.breaks_at.is_some_and(|number| number > 1_000_000), "one table: {check:?}");
    assert_eq!(with(2 * once - 1).status, Status::Warn);
    assert_eq!(with(2 * once).status, Status::Pass);
    let mut asked = Fixture::new().with_connections(30_000_000);
    asked.facts.memlock = ResourceLimit { soft: 2 * once as u64, hard: 2 * once as u64 };
    assert_eq!(one(locked::memlock(&asked.patient())).status, Status::Fail);
    let mut old = Fixture::new();
    (old.facts.memlock.soft, old.facts.is_charged) = (0, false);
    assert_eq!(one(locked::memlock(&old.patient())).status, Status::Pass);
}

#[test]
fn memory_is_reckoned_against_what_is_asked_for() {
    let status = |fixture: Fixture| one(memory::memory(&fixture.patient())).status;
    assert_eq!(status(Fixture::new().with_connections(4_000_000)), Status::Pass);
    assert_eq!(status(Fixture::new().with_connections(6_000_000)), Status::Fail);
    let mut here = Fixture::new().with_connections(4_000_000);
    here.question.clients = Clients::Here;
    assert_eq!(status(here), Status::Fail);
    let mut hidden = Fixture::new();
    hidden.facts.memory = Memory::default();
    let check = one(memory::memory(&hidden.patient()));
    assert!(
        check.status == Status::Fail && check.fix.is_some_and(|fix| fix.contains("ProcSubset"))
    );
}

#[test]
fn a_control_group_is_to_blame_only_where_it_is_tighter_than_the_box() {
    let with = |limit: u64| {
        let mut fixture = Fixture::new();
        fixture.facts.memory.group_limit = Some(limit);
        fixture.facts.memory.group_free = Some(limit);
        one(memory::group(&fixture.patient()))
    };
    let check = with(GIB / 64);
    assert!(check.status == Status::Fail && check.breaks_at < Some(10_000), "{check:?}");
    assert_eq!(with(GIB).status, Status::Warn);
    assert_eq!(with(40 * GIB).status, Status::Pass);
}

#[test]
fn switches_that_are_off_are_told_one_by_one() {
    for (name, id) in [
        ("tcp_migrate_req", "tcp_migrate_req"),
        ("tcp_syncookies", "syncookies"),
        ("tcp_timestamps", "tcp_timestamps"),
    ] {
        let mut fixture = Fixture::new();
        fixture.write(&format!("proc/sys/net/ipv4/{name}"), "0\n");
        let warned = |fixture: &Fixture| {
            let all = accept::switches(&fixture.patient());
            all.into_iter().filter(|check| check.status > Status::Pass).collect::<Vec<_>>()
        };
        let check = one(warned(&fixture));
        assert_eq!((check.id.as_str(), check.status), (id, Status::Warn));
        fixture.apply(&check.fix.expect("a fix"));
        assert!(warned(&fixture).is_empty());
    }
}

#[test]
fn ports_bind_only_clients_on_this_box() {
    let range = "proc/sys/net/ipv4/ip_local_port_range";
    let with = |clients| {
        let mut fixture = Fixture::new().with_connections(50_000);
        fixture.write(range, "32768\t60999\n");
        fixture.question.clients = clients;
        fixture
    };
    let elsewhere = one(accept::port_range(&with(Clients::Elsewhere).patient()));
    assert_eq!((elsewhere.status, elsewhere.breaks_at), (Status::Pass, None));
    found_and_mended(with(Clients::Here), accept::port_range, Status::Warn, 28_232);
}

#[test]
fn time_that_a_group_or_the_host_takes_is_told() {
    let group = "sys/fs/cgroup/system.slice";
    let status = |max: &str, throttled: &str| {
        let fixture = Fixture::new();
        fixture.write(&format!("{group}/cpu.max"), max);
        fixture.write(&format!("{group}/cpu.stat"), throttled);
        one(cpus::quota(&fixture.patient())).status
    };
    assert_eq!(status("max 100000\n", ""), Status::Pass);
    assert_eq!(status("150000 100000\n", "nr_throttled 0\n"), Status::Warn);
    assert_eq!(status("200000 100000\n", "nr_throttled 0\n"), Status::Pass);
    assert_eq!(status("200000 100000\n", "nr_periods 9\nnr_throttled 4\n"), Status::Warn);

    let old = Fixture::new();
    old.write("proc/self/cgroup", "3:cpu,cpuacct:/a\n0::/\n");
    old.write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", "50000\n");
    old.write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "100000\n");
    let check = one(cpus::quota(&old.patient()));
    assert!(check.status == Status::Warn && check.measured == "0.50 of 2 CPUs", "{check:?}");

    let robbed = Fixture::new();
    robbed.write("proc/stat", "cpu  1000 0 1000 8000 0 0 0 500 0 0\n");
    assert_eq!(one(cpus::steal(&robbed.patient())).status, Status::Warn);
}

#[test]
fn a_card_with_one_queue_is_told_where_clients_come_through_it() {
    let mut fixture = Fixture::new();
    fixture.write("sys/class/net/eth0/device/vendor", "0x1af4\n");
    fixture.write("sys/class/net/eth1/device/vendor", "of another namespace\n");
    fixture.write("proc/self/net/dev", "Inter-| Receive\n    lo: 1 2\n  eth0: 1 2\n");
    let rps = "sys/class/net/eth0/queues/rx-0/rps_cpus";
    fixture.write(rps, "0\n");
    fs::create_dir_all(fixture.folder.path().join("sys/class/net/lo/queues/rx-0")).unwrap();
    assert_eq!(one(nic::queues(&fixture.patient())).status, Status::Skip, "loopback alone");
    fixture.config.listen = vec!["0.0.0.0:8000".parse().unwrap()];
    let check = one(nic::queues(&fixture.patient()));
    assert_eq!((check.id.as_str(), check.status), ("nic.eth0", Status::Warn));
    let fix = check.fix.expect("a fix");
    assert_eq!(fix, format!("echo 3 > /{rps}"));
    fixture.write(rps, "3\n");
    assert_eq!(one(nic::queues(&fixture.patient())).status, Status::Pass);

    // Two queues that one CPU serves.
    fixture.write("sys/class/net/eth0/queues/rx-1/rps_cpus", "0\n");
    for (number, cpu) in [(38, "1\n"), (40, "1\n")] {
        let irq = format!("sys/class/net/eth0/device/msi_irqs/{number}");
        fixture.write(&irq, "msix\n");
        fixture.write(&format!("proc/irq/{number}/effective_affinity_list"), cpu);
    }
    assert_eq!(one(nic::queues(&fixture.patient())).status, Status::Warn);
    fixture.write("proc/irq/40/effective_affinity_list", "0\n");
    assert_eq!(one(nic::queues(&fixture.patient())).status, Status::Pass);
}

#[test]
fn what_the_kernel_has_counted_is_told_until_its_setting_is_raised() {
    let overflown = NETSTAT.replace(": 1 0 0 0", ": 1 5 9 2");
    let mut fixture = Fixture::new();
    fixture.write("proc/net/netstat", &overflown);
    fixture.write("proc/net/softnet_stat", "00000001 0000000a 0\n00000001 00000001 0\n");
    fixture.write("proc/sys/net/core/somaxconn", "4096\n");
    fixture.write("proc/sys/net/core/netdev_max_backlog", "1000\n");
    fixture.facts.tcp_mem = Some([1000, 2000, 400_000]);
    let all: [(Examine, &str); 3] = [
        (counters::listen_queue, "ListenOverflows 5, ListenDrops 9"),
        (counters::tcp_memory, "TCPMemoryPressures 2"),
        (counters::input_queue, "11 packets dropped"),
    ];
    for (examine, told) in all {
        let check = one(examine(&fixture.patient()));
        assert_eq!((check.status, check.measured.as_str()), (Status::Warn, told));
        fixture.apply(&check.fix.expect("a fix"));
        assert_eq!(one(examine(&fixture.patient())).status, Status::Pass);
    }
}

#[test]
fn pages_swap_and_clock_that_cost_latency_are_told() {
    let with = |path: &str, text: &str| {
        let fixture = Fixture::new();
        fixture.write(path, text);
        fixture
    };
    let swaps = "Filename\tType\n/swapfile file 1 0 -2\n";
    let swapping = with("proc/swaps", swaps);
    assert_eq!(one(memory::swap(&swapping.patient())).status, Status::Pass, "swappiness 1");
    let mut swapping = with("proc/swaps", swaps);
    swapping.write("proc/sys/vm/swappiness", "60\n");
    let fix = one(memory::swap(&swapping.patient())).fix.expect("a fix");
    swapping.apply(&fix);
    assert_eq!(one(memory::swap(&swapping.patient())).status, Status::Pass);

    let huge = with("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    assert_eq!(one(memory::huge_pages(&huge.patient())).status, Status::Warn);

    let folder = Path::new("sys/devices/system/clocksource/clocksource0");
    let current = folder.join("current_clocksource");
    let slow = with(current.to_str().unwrap(), "hpet\n");
    slow.write(folder.join("available_clocksource").to_str().unwrap(), "hpet tsc acpi_pm\n");
    let check = one(clock::clocksource(&slow.patient()));
    assert!(check.fix.is_some_and(|fix| fix.starts_with("echo tsc > /sys/")), "{:?}", check.status);
}

#[test]
fn a_configuration_that_was_tuned_for_another_box_is_told() {
    let fixture = Fixture::new();
    let path = fixture.folder.path().join(tuned::REPORT);
    let with = |text: Option<&str>| {
        if let Some(text) = text {
            fs::write(&path, text).unwrap();
        }
        let mut patient = fixture.patient();
        patient.tune_report.clone_from(&path);
        one(tuned::fingerprint(&patient))
    };
    assert_eq!(with(None).status, Status::Skip);
    let here = Fingerprint::read();
    let report = |tuned: &Fingerprint| {
        serde_json::json!({ "fingerprint": tuned.to_json(), "sweeps": [] }).to_string()
    };
    assert_eq!(with(Some(&report(&here))).status, Status::Pass);
    let larger = Fingerprint { cpus: here.cpus + 14, ..here };
    let check = with(Some(&report(&larger)));
    assert_eq!(check.status, Status::Warn);
    assert!(check.message.contains(&larger.cpus.to_string()), "{}", check.message);
    let folder = fixture.folder.path().display();
    assert_eq!(check.fix, Some(format!("ringhall tune --write {folder}")));
    assert_eq!(with(Some("{\"fingerprint\":")).status, Status::Warn);
}
