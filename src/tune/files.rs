//! Turns an outcome into the files that put it in force.
//!
//! In:    what was chosen and measured; sizes; the drop-ins that the project ships.
//! Out:   `ringhall.toml`, the sysctl file, the drop-ins of unit and sockets, as text.
//! Never: writes; names a key that keeps its default.

use std::fmt::Write as _;

use super::Setting;
use super::provenance::Provenance;
use super::run::Outcome;
use super::sizes::Sizes;
use super::sweep::Swept;

/// The keys that changed.
pub const TOML: &str = "ringhall.toml";
/// For `/etc/sysctl.d`.
pub const SYSCTL: &str = "90-ringhall.conf";
/// For `/etc/systemd/system`.
pub const SERVICE: &str = "ringhall.service.d/10-tuned.conf";
/// The same of the socket unit.
pub const SOCKET: &str = "ringhall.socket.d/10-shards.conf";
/// What was measured.
pub const REPORT: &str = "tune-report.json";
/// The same as a picture.
pub const PICTURE: &str = "tune-report.svg";

/// `ringhall.toml`.
#[must_use]
pub fn toml(outcome: &Outcome, sizes: &Sizes, provenance: &Provenance) -> String {
    let mut text = provenance.header("Ringhall: the keys whose default is not the best here.");
    let mut lines = Vec::new();
    for swept in outcome.sweeps.iter().filter(|swept| outcome.keeps(swept)) {
        let keys = swept.chosen();
        for (at, (key, value)) in keys.iter().enumerate() {
            let evidence = match at {
                0 => evidence(swept),
                _ => format!("measured together with {}", keys[0].0),
            };
            lines.push((*key, value.clone(), evidence));
        }
    }
    if sizes.shards_raised {
        lines.retain(|(key, ..)| *key != "server.shards");
        let (shards, connections) = (sizes.shards, sizes.connections);
        let why = format!("reckoned: the tables of {shards} shards hold {connections} connections");
        lines.push(("server.shards", shards.to_string(), why));
    }
    lines.sort();
    if lines.is_empty() {
        text.push_str(
            "#\n# Nothing was better than the defaults by more than its noise: all stay.\n",
        );
    }
    let mut section = "";
    for (key, value, evidence) in &lines {
        let (its_section, leaf) = key.split_once('.').unwrap_or(("", key));
        if its_section != section {
            section = its_section;
            let _ = writeln!(text, "\n[{section}]");
        }
        let _ = writeln!(text, "# {evidence}\n{leaf} = {}", spelled(value));
    }
    text
}

/// Why the choice of a sweep replaces the default, in one line.
#[must_use]
pub fn evidence(swept: &Swept) -> String {
    let Some(verdict) = swept.choice.map(|at| &swept.verdicts[at]) else { return String::new() };
    let most = |a: &f64, b: &f64| a.total_cmp(b);
    let gains = verdict.compared.iter().map(|one| one.operations.median);
    let best = gains.max_by(most).unwrap_or(1.0);
    let each: Vec<_> = verdict
        .compared
        .iter()
        .map(|one| {
            let spread = &one.operations;
            let (median, mad, n) = (spread.median, 100.0 * spread.mad, spread.count);
            format!("{} {median:.2}x (n={n}, MAD {mad:.1} %)", one.load)
        })
        .collect();
    format!("measured: {best:.2}x operations a CPU-second vs default; {}", each.join(", "))
}

/// A value as TOML spells it.
fn spelled(value: &str) -> String {
    let bare = value.parse::<u64>().is_ok() || value == "true" || value == "false";
    if bare { value.to_owned() } else { format!("\"{value}\"") }
}

/// The sysctl file: what the project ships, with the numbers of this box.
///
/// `template` is `tuning/sysctl.d/90-ringhall.conf`: its reasons stay above their lines.
#[must_use]
pub fn sysctl(template: &str, sizes: &Sizes, provenance: &Provenance) -> String {
    let mut text = provenance
        .header(&format!("Kernel settings for {} connections on this box.", sizes.connections));
    let [low, pressure, high] = sizes.tcp_mem;
    let numbers = [
        ("fs.nr_open", sizes.nr_open.to_string()),
        ("fs.file-max", sizes.file_max.to_string()),
        ("net.ipv4.tcp_mem", format!("{low} {pressure} {high}")),
        ("vm.min_free_kbytes", sizes.min_free_kib.to_string()),
        ("-net.netfilter.nf_conntrack_max", sizes.file_max.to_string()),
    ];
    // Its head speaks of the file as it is shipped.
    let body = template.split_once("\n\n").map_or(template, |(_, body)| body);
    text.push('\n');
    for line in body.lines() {
        let setting = line.strip_prefix("#:").unwrap_or(line).trim_start();
        let key = setting.split_once('=').map(|(key, _)| key.trim());
        let number = numbers.iter().find(|(name, _)| key == Some(name));
        match number {
            Some((name, number)) => {
                let _ = writeln!(text, "{name} = {number}");
            }
            None => {
                let _ = writeln!(text, "{line}");
            }
        }
    }
    text
}

/// The drop-in of the service.
#[must_use]
pub fn service(sizes: &Sizes, provenance: &Provenance) -> String {
    let Sizes { connections, shards, nofile, memory_max, .. } = sizes;
    let mut text = provenance.header("What the unit has to allow on this box.");
    let _ = write!(
        text,
        "\n[Service]\n\
         # A shard's table holds no more sockets than this: {shards} of them hold {connections},\n\
         # and a tenth more.\n\
         LimitNOFILE={nofile}\n\
         # Rings are charged to the service's user, twice while a new server takes over.\n\
         LimitMEMLOCK=infinity\n\
         # 92 % of the memory. The kernel charges a connection only in part, so the server's own\n\
         # limit (limits.connections_max) is what keeps the box alive.\n\
         MemoryMax={memory_max}\n"
    );
    text
}

/// The drop-in of the sockets: one a shard for each address that the unit listens on.
///
/// `unit` is `tuning/systemd/ringhall.socket`.
#[must_use]
pub fn socket(unit: &str, sizes: &Sizes, provenance: &Provenance) -> String {
    let mut addresses: Vec<_> =
        unit.lines().filter_map(|line| line.trim().strip_prefix("ListenStream=")).collect();
    addresses.retain(|address| !address.is_empty());
    addresses.dedup();
    let mut text = provenance.header("One socket a shard.");
    let _ = write!(
        text,
        "#\n# The server takes no other number. Other addresses: each as often.\n\n[Socket]\n\
         # Forgets those of the unit.\nListenStream=\n"
    );
    for address in addresses {
        for _ in 0..sizes.shards {
            let _ = writeln!(text, "ListenStream={address}");
        }
    }
    text
}

/// `key=value` of a setting for people; `default` where it is empty.
#[must_use]
pub fn named(setting: &Setting) -> String {
    if setting.is_empty() {
        return "default".to_owned();
    }
    let pairs: Vec<_> = setting.iter().map(|(key, value)| format!("{key}={value}")).collect();
    pairs.join(" ")
}

#[cfg(test)]
mod tests {
    use super::super::tests::report;
    use super::*;

    const TEMPLATE: &str = "\
# The head of the file
# as it is shipped.

# why: tables
fs.nr_open = 2097152

# why: queues
#: net.ipv4.tcp_mem = pages/4 pages/3 pages/2

net.core.somaxconn = 65535
-net.netfilter.nf_conntrack_max = 4194304
";

    /// What remains without comments and empty lines.
    fn bare(text: &str) -> Vec<&str> {
        text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect()
    }

    #[test]
    fn only_changed_keys_are_named_each_with_its_evidence() {
        let report = report();
        let text = toml(&report.outcome, &report.sizes, &report.provenance);
        assert_eq!(
            bare(&text),
            ["[server]", "gather_max = 512", "gather_wait = \"2ms\""],
            "{text}"
        );
        assert!(text.contains("# measured: 1.25x operations a CPU-second vs default;"), "{text}");
        assert!(text.contains("large-room 1.25x (n=10, MAD 0.0 %)"), "{text}");
    }

    #[test]
    fn without_winners_no_key_is_named() {
        let mut report = report();
        report.outcome.chosen.clear();
        let text = toml(&report.outcome, &report.sizes, &report.provenance);
        assert!(bare(&text).is_empty() && text.contains("all stay"), "{text}");
    }

    #[test]
    fn more_shards_than_the_server_would_start_are_named() {
        let mut report = report();
        report.sizes.shards = 14;
        report.sizes.shards_raised = true;
        let text = toml(&report.outcome, &report.sizes, &report.provenance);
        assert!(bare(&text).contains(&"shards = 14"), "{text}");
    }

    #[test]
    fn the_shipped_settings_get_the_numbers_of_this_box() {
        let report = report();
        let text = sysctl(TEMPLATE, &report.sizes, &report.provenance);
        let pages = (24_u64 << 30) / 4096;
        assert_eq!(
            bare(&text),
            [
                "fs.nr_open = 1048576".to_owned(),
                format!("net.ipv4.tcp_mem = {} {} {}", pages / 4, pages / 3, pages / 2),
                "net.core.somaxconn = 65535".to_owned(),
                "-net.netfilter.nf_conntrack_max = 2100000".to_owned(),
            ]
        );
        assert!(text.contains("# why: tables") && !text.contains("as it is shipped"), "{text}");
    }

    #[test]
    fn the_unit_gets_limits_and_the_sockets_one_a_shard() {
        let report = report();
        let text = service(&report.sizes, &report.provenance);
        assert_eq!(
            bare(&text),
            [
                "[Service]",
                "LimitNOFILE=1048576",
                "LimitMEMLOCK=infinity",
                &format!("MemoryMax={}", report.sizes.memory_max)
            ]
        );
        let unit = "[Socket]\nListenStream=[::]:80\nListenStream=[::]:80\nListenStream=81\n";
        let text = socket(unit, &report.sizes, &report.provenance);
        let two = ["ListenStream=[::]:80"; 2];
        let expected = [&["[Socket]", "ListenStream="], &two[..], &["ListenStream=81"; 2]].concat();
        assert_eq!(bare(&text), expected);
    }

    #[test]
    fn a_value_is_spelled_as_toml_reads_it() {
        let all = [("64", "64"), ("true", "true"), ("16KiB", "\"16KiB\""), ("2ms", "\"2ms\"")];
        for (value, expected) in all {
            assert_eq!(spelled(value), expected);
        }
    }
}
