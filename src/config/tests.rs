//! What a load yields: precedence, provenance, problems, reloads.

use std::io::Write as _;
use std::time::Duration;

use super::keys::{KEYS, Key};
use super::*;

fn set(flags: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    load(Sources::flags_only(flags)).map_err(|all| all.iter().map(Problem::to_string).collect())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn from_file(text: &str) -> Result<Loaded, Vec<String>> {
    let file = file(text);
    let sources = Sources::new(Some(file.path().to_owned()), std::iter::empty(), vec![]);
    let name = format!("{}:", file.path().display());
    let strip = |p: &Problem| p.to_string().replace(&name, "F:");
    load(sources).map_err(|all| all.iter().map(strip).collect())
}

fn variables(pairs: &[(&str, &str)]) -> Result<Loaded, Vec<String>> {
    let pairs = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let loaded = load(Sources::new(None, pairs, vec![]));
    loaded.map_err(|all| all.iter().map(Problem::to_string).collect())
}

#[test]
fn the_tables_defaults_are_the_limits_defaults() {
    assert_eq!(Config::default().limits, Limits::default());
    assert_eq!(Config::default().ring, RingUse::default());
}

/// A value that the key takes and that is not its default.
fn another(key: &Key) -> String {
    match &key.kind {
        Kind::Addresses(_) | Kind::Address(_) => "127.0.0.3:3".into(),
        Kind::Networks(_) => "127.0.0.3".into(),
        Kind::Count(_, most, _) | Kind::CountOr(_, _, most, _) => most.to_string(),
        Kind::Bytes(_, most, _) | Kind::BytesOr(_, _, most, _) => most.to_string(),
        Kind::Time(_, most, _) => unit::show_time(*most),
        Kind::Flag(_) => (key.default != "true").to_string(),
        Kind::Words(words) => {
            let mut others = words.iter().filter(|(word, _)| *word != key.default);
            others.next_back().unwrap().0.into()
        }
        Kind::Secret(_) | Kind::Name(_) => "elsewhere".into(),
        Kind::File(_) | Kind::Folder(_) => "elsewhere".into(),
        Kind::Broker(_) => "redis://127.0.0.1:6379".into(),
        Kind::Target(_) => "metrics.lan:8125".into(),
    }
}

#[test]
fn each_key_sets_the_field_of_its_name_and_no_other_key_does() {
    let fields = |config: &Config| -> Vec<String> {
        format!("{config:?}").split(", ").map(str::to_owned).collect()
    };
    let mut seen: Vec<String> = Vec::new();
    for key in KEYS {
        let mut config = Config::default();
        let before = fields(&config);
        key.kind.read(kind::Given::Text(&another(key)), &mut config).expect(key.name);
        let changed: Vec<String> = before
            .into_iter()
            .zip(fields(&config))
            .filter(|(before, after)| before != after)
            .filter_map(|(_, after)| {
                let name = after.rsplit_once(": ")?.0.split_whitespace().next_back()?;
                Some(name.to_owned())
            })
            .collect();
        assert!(!changed.is_empty(), "{} sets nothing", key.name);
        for field in &changed {
            assert!(field.contains(key.leaf()), "{} sets {field}", key.name);
            assert!(!seen.contains(field), "{} sets {field} too", key.name);
        }
        seen.extend(changed);
    }
}

#[test]
fn default_toml_is_what_the_table_says() {
    let wanted = default_toml();
    assert_eq!(DEFAULT_TOML, wanted, "src/config/default.toml must read:\n{wanted}");
}

#[test]
fn default_toml_uncommented_is_the_default() {
    let uncommented: String = DEFAULT_TOML
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if !rest.starts_with(' ') && !rest.is_empty() => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert_eq!(from_file(&uncommented).unwrap().config, Config::default());
    for key in KEYS {
        assert!(uncommented.contains(&format!("\n{} = ", key.leaf())), "{}", key.name);
    }
}

#[test]
fn keys_stand_by_section_and_fit_their_lines() {
    let sections = keys::sections();
    for (index, key) in KEYS.iter().enumerate() {
        assert_eq!(sections.iter().filter(|s| **s == key.section()).count(), 1, "{}", key.name);
        assert_eq!(KEYS.iter().position(|k| k.name == key.name), Some(index), "{}", key.name);
        assert!(key.doc.len() + 2 <= 100 && key.doc.ends_with('.'), "{}", key.name);
    }
}

#[test]
fn no_variable_belongs_to_two_keys() {
    let mut all: Vec<String> = KEYS.iter().map(Key::variable).collect();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), KEYS.len());
}

#[test]
fn what_is_shown_loads_to_the_same() {
    let loaded = set(&[("client.queue_bytes", "3MiB"), ("rooms.max", "7")]).unwrap();
    let again = from_file(&loaded.show()).unwrap();
    assert_eq!(again.config, loaded.config);
}

#[test]
fn a_flag_beats_the_environment_beats_the_file_beats_the_default() {
    let file =
        file("[client]\nqueue_bytes = '2MiB'\nmessage_bytes = '2KiB'\npolicy = 'drop_oldest'");
    let environment = [
        ("RINGHALL_CLIENT_QUEUE_BYTES".to_owned(), "3MiB".to_owned()),
        ("RINGHALL_CLIENT_MESSAGE_BYTES".to_owned(), "3KiB".to_owned()),
        ("PATH".to_owned(), "/bin".to_owned()),
    ];
    let flag = Flag { name: "--set", key: "client.queue_bytes".into(), value: "4MiB".into() };
    let path = file.path().to_owned();
    let sources = Sources::new(Some(path.clone()), environment.into_iter(), vec![flag]);
    let loaded = load(sources).unwrap();
    let limits = &loaded.config.limits;
    assert_eq!((limits.queue_bytes, limits.message_bytes), (4 << 20, 3 << 10));
    let origin = |name: &str| {
        let mut all = loaded.settings();
        all.find(|(key, ..)| key.name == name).map(|(_, _, origin)| origin.clone()).unwrap()
    };
    assert_eq!(origin("client.queue_bytes"), Origin::Flag("--set"));
    let variable = "RINGHALL_CLIENT_MESSAGE_BYTES".to_owned();
    assert_eq!(origin("client.message_bytes"), Origin::Environment(variable));
    assert_eq!(origin("client.policy"), Origin::File { path, line: 4 });
    assert_eq!(origin("echo.enabled"), Origin::Default);
}

#[test]
fn all_problems_are_reported_together_with_their_lines() {
    let problems = from_file(
        "[client]\nqueue_byte = 1\npolicy = 'dropp'\n\n[clinet]\nx = 1\n\n\
         [heartbeat]\ntimeout = 60\n\n[log]\nlevel = true\n",
    )
    .unwrap_err();
    assert_eq!(
        problems,
        [
            "F:2: client.queue_byte: unknown key; did you mean client.queue_bytes?",
            "F:3: client.policy: got \"dropp\"; it takes \"disconnect\" or \"drop_oldest\"; \
             the default is \"disconnect\"",
            "F:5: clinet: unknown section; did you mean [client]?",
            "F:9: heartbeat.timeout: got 60 (a time needs a unit); it takes a time from 200ms \
             to 48h; write \"60s\"",
            "F:12: log.level: got true; it takes \"error\" or \"warn\" or \"info\" or \"debug\"; \
             the default is \"info\"",
        ]
    );
}

#[test]
fn a_key_in_the_wrong_place_is_told_its_place() {
    let one = |text: &str| from_file(text).unwrap_err().join("\n");
    assert!(one("queue_bytes = 1").ends_with("did you mean client.queue_bytes?"));
    assert!(one("[server]\nping_after = '1s'").ends_with("did you mean heartbeat.ping_after?"));
    assert!(one("client = 1").contains("write [client]"));
    assert!(one("[client.policy]").contains("F:1: client.policy: got a section"));
    assert!(one("[bridge]\nurl = 'x'").starts_with("F:1: bridge: unknown section; there are"));
}

#[test]
fn what_is_no_toml_names_its_line() {
    let problems = from_file("[client]\nqueue_bytes = \n").unwrap_err();
    assert!(problems[0].starts_with("F:2: this is not TOML:"), "{problems:?}");
    let twice = from_file("[client]\npolicy = 'disconnect'\npolicy = 'disconnect'\n").unwrap_err();
    assert!(twice[0].starts_with("F:3: this is not TOML: duplicate key"), "{twice:?}");
}

#[test]
fn a_named_file_that_is_not_there_is_a_problem() {
    let sources = Sources::new(Some("/nowhere/r.toml".into()), std::iter::empty(), vec![]);
    let problems = load(sources).unwrap_err();
    assert!(problems[0].to_string().starts_with("/nowhere/r.toml: no such file"));
}

#[test]
fn text_from_outside_files_reads_like_toml() {
    let loaded = set(&[
        ("server.listen", "127.0.0.1:0, [::1]:0"),
        ("server.shards", "2"),
        ("client.queue_bytes", "\"2MiB\""),
        ("client.message_bytes", "2048"),
        ("echo.enabled", "false"),
        ("rooms.max", "none"),
        ("admin.key", "12345678"),
    ])
    .unwrap();
    assert_eq!(loaded.config.listen.len(), 2);
    assert_eq!(loaded.config.shards, Amount::Count(2));
    assert_eq!(loaded.config.limits.queue_bytes, 2 << 20);
    assert_eq!(loaded.config.limits.message_bytes, 2048);
    assert!(!loaded.config.limits.echo_enabled);
    assert_eq!(loaded.config.admin_key.unwrap().expose(), "12345678");
    let list = set(&[("server.listen", "[\"127.0.0.1:0\", \"127.0.0.2:0\"]")]).unwrap();
    assert_eq!(list.config.listen.len(), 2);
}

#[test]
fn a_variable_that_sets_nothing_is_a_problem() {
    let problems = variables(&[("RINGHALL_CLIENT_QUEUE_BYTE", "1"), ("RINGHALL_X", "1")]);
    let problems = problems.unwrap_err();
    assert!(problems[0].starts_with("environment RINGHALL_CLIENT_QUEUE_BYTE: "));
    assert!(problems[0].ends_with("did you mean RINGHALL_CLIENT_QUEUE_BYTES?"));
    assert!(problems[1].starts_with("environment RINGHALL_X: this variable sets no key"));
}

#[test]
fn variables_of_an_orchestrator_and_empty_ones_are_passed_over() {
    let loaded = variables(&[
        ("RINGHALL_PORT", "tcp://10.0.0.1:8000"),
        ("RINGHALL_PORT_8000_TCP_ADDR", "10.0.0.1"),
        ("RINGHALL_SERVICE_HOST", "10.0.0.1"),
        ("RINGHALL_ADMIN_KEY", ""),
    ]);
    assert_eq!(loaded.unwrap().config, Config::default());
}

#[test]
fn a_secret_is_never_shown() {
    let loaded = set(&[("admin.key", "opensesame")]).unwrap();
    let bad = set(&[("admin.key", "open sesame")]).unwrap_err().join("\n");
    let off = [("admin.key", "sesame"), ("admin.listen", "0.0.0.0:1")];
    let short = set(&off).unwrap_err().join("\n");
    for text in [loaded.show(), format!("{loaded:?}"), bad, short] {
        assert!(!text.contains("sesame"), "{text}");
    }
    assert!(loaded.show().contains("key = \"***\" # from --set"));
    assert!(from_file(&loaded.show()).is_err(), "the mark is no secret");
}

#[test]
fn a_brokers_password_is_never_shown() {
    for url in ["redis://ann:sesame@h:1", "nats://sesame@h:1", "kafka://h:1?password=sesame"] {
        let loaded = set(&[("broker.url", url)]).unwrap();
        assert_eq!(loaded.config.broker_url.as_ref().unwrap().expose(), url);
        let off = set(&[("broker.url", url), ("broker.delivery", "ordered"), ("broker.ca", "/x")]);
        let off = off.unwrap_err().join("\n");
        assert!(off.contains("broker.ca is for TLS"), "{off}");
        let bad = set(&[("broker.url", &url.replace("h:1", "h:x"))]).unwrap_err().join("\n");
        assert!(bad.contains("a port that is no number"), "{bad}");
        for text in [loaded.show(), format!("{loaded:?}"), off, bad] {
            assert!(!text.contains("sesame"), "{text}");
        }
    }
    let loaded = set(&[("broker.url", "redis://ann:sesame@h:1/2")]).unwrap();
    assert!(loaded.show().contains("url = \"redis://ann:***@h:1/2\" # from --set"));
    assert!(from_file(&loaded.show()).is_err(), "the mark is no secret");
}

#[test]
fn every_value_out_of_its_range_is_refused() {
    for (key, value) in [
        ("server.listen", ""),
        ("server.listen", "[]"),
        ("server.listen", "localhost:8000"),
        ("server.listen", "127.0.0.1:1,127.0.0.1:1"),
        ("server.listen", "127.0.0.1"),
        ("server.shards", "0"),
        ("server.shards", "1025"),
        ("server.shards", "-1"),
        ("server.shards", "none"),
        ("server.notsent_lowat", "1KiB"),
        ("admin.listen", "127.0.0.1:70000"),
        ("client.queue_bytes", "4095"),
        ("client.queue_bytes", "2GiB"),
        ("client.message_bytes", "-5"),
        ("client.policy", "Disconnect"),
        ("rooms.announce_every", "99ms"),
        ("rooms.max", "0"),
        ("shutdown.grace", "601s"),
        ("handshake.head_bytes", "2MiB"),
        ("limits.connections_max", "1e9"),
        ("echo.enabled", "yes"),
        ("static.dir", "/nowhere/at/all"),
        ("broker.url", "http://127.0.0.1"),
        ("broker.url", "redis://"),
        ("broker.delivery", "first"),
        ("broker.prefix", ""),
        ("broker.prefix", "a..b"),
        ("broker.prefix", "a*"),
        ("broker.ca", "/nowhere/at/all"),
        ("broker.queue_messages", "1"),
    ] {
        let problems = set(&[(key, value)]).expect_err(key);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with(&format!("--set: {key}: ")), "{problems:?}");
    }
}

/// A combination that cannot be: what is set, the key that is blamed, the other that is named.
struct Clash(&'static [(&'static str, &'static str)], &'static str, &'static str);

static CLASHES: &[Clash] = &[
    Clash(&[("heartbeat.timeout", "54s")], "heartbeat.timeout", "heartbeat.ping_after"),
    Clash(&[("client.queue_bytes", "256KiB")], "client.queue_bytes", "rooms.tick_bytes"),
    Clash(&[("rooms.tick_bytes", "600KiB")], "rooms.tick_bytes", "client.queue_bytes"),
    Clash(&[("limits.queue_bytes", "2MiB")], "limits.queue_bytes", "echo.message_bytes"),
    Clash(
        &[("client.queue_bytes", "20MiB"), ("limits.queue_bytes", "16MiB")],
        "limits.queue_bytes",
        "client.queue_bytes",
    ),
    Clash(
        &[("client.message_bytes", "20MiB"), ("limits.queue_bytes", "16MiB")],
        "limits.queue_bytes",
        "client.message_bytes",
    ),
    Clash(&[("server.mesh_bytes", "64KiB")], "server.mesh_bytes", "rooms.tick_bytes"),
    Clash(&[("client.message_bytes", "8MiB")], "client.message_bytes", "server.mesh_bytes"),
    Clash(&[("server.proxy_protocol", "true")], "server.proxy_protocol", "server.trusted_proxies"),
    Clash(&[("ring.entries", "3000")], "ring.entries", "ring.entries"),
    Clash(&[("ring.stride", "4096")], "ring.stride", "ring.entries"),
    Clash(&[("ring.entries", "256"), ("ring.stride", "200")], "ring.entries", "ring.stride"),
    Clash(
        &[("ring.buffers", "32768"), ("ring.buffer_bytes", "64KiB")],
        "ring.buffer_bytes",
        "ring.buffers",
    ),
    Clash(&[("admin.listen", "0.0.0.0:8001")], "admin.listen", "admin.key"),
    Clash(&[("admin.listen", "0.0.0.0:1"), ("admin.key", "short")], "admin.key", "admin.listen"),
    Clash(&[("admin.listen", "127.0.0.1:8000")], "admin.listen", "server.listen"),
    Clash(&[("server.listen", "0.0.0.0:8001")], "server.listen", "admin.listen"),
    Clash(&[("server.listen", "[::]:8001")], "server.listen", "admin.listen"),
    Clash(&[("server.listen", "0.0.0.0:9, [::]:9")], "server.listen", "server.listen"),
    Clash(&[("server.listen", "127.0.0.1:9, 0.0.0.0:9")], "server.listen", "server.listen"),
    Clash(
        &[("broker.url", "amqp://h"), ("broker.delivery", "ordered")],
        "broker.delivery",
        "broker.url",
    ),
    Clash(
        &[("broker.delivery", "ordered"), ("broker.overflow", "drop")],
        "broker.overflow",
        "broker.delivery",
    ),
    Clash(&[("broker.required", "true")], "broker.required", "broker.url"),
    Clash(&[("broker.url", "redis://h"), ("broker.ca", "Cargo.toml")], "broker.ca", "broker.url"),
    Clash(
        &[("server.placement", "accept"), ("rooms.spread", "never")],
        "rooms.spread",
        "server.placement",
    ),
];

#[test]
fn combinations_that_cannot_be_are_refused_with_both_keys() {
    for Clash(flags, key, other) in CLASHES {
        let problems = set(flags).expect_err(key);
        let blamed = |text: &&String| text.starts_with(&format!("--set: {key}: "));
        let both = problems.iter().filter(blamed).any(|text| text.contains(&format!("{other} = ")));
        assert!(both, "{key}: {problems:?}");
    }
}

#[test]
fn a_combination_names_its_subject_whichever_key_was_set() {
    for (flag, said) in [
        (
            ("client.queue_bytes", "4KiB"),
            "client.queue_bytes: rooms.tick_bytes may be at most half of client.queue_bytes",
        ),
        (
            ("rooms.tick_bytes", "1MiB"),
            "rooms.tick_bytes: rooms.tick_bytes may be at most half of client.queue_bytes",
        ),
        (
            ("heartbeat.timeout", "50s"),
            "heartbeat.timeout: heartbeat.ping_after must be a shorter time than heartbeat.timeout",
        ),
        (("admin.listen", "0.0.0.0:1"), "admin.listen: admin.listen is not loopback"),
    ] {
        let problems = set(&[flag]).expect_err(said);
        assert!(problems.iter().any(|problem| problem.contains(said)), "{said}: {problems:?}");
    }
    let problems = set(&[("admin.listen", "0.0.0.0:1"), ("admin.key", "short")]).unwrap_err();
    assert!(problems[0].contains("admin.key: admin.listen is not loopback"), "{problems:?}");
}

#[test]
fn combinations_that_can_be_are_not_refused() {
    for flags in [
        &[("client.queue_bytes", "4KiB"), ("rooms.tick_bytes", "2KiB")][..],
        &[("limits.queue_bytes", "2MiB"), ("echo.enabled", "false")],
        &[("server.listen", "127.0.0.1:0"), ("admin.listen", "127.0.0.1:0")],
        &[("server.listen", "127.0.0.1:9"), ("admin.listen", "127.0.0.2:9")],
        &[("server.listen", "0.0.0.0:9, [::1]:9, [::]:8, [::]:0, [::]:7")],
        &[("ring.entries", "256"), ("ring.stride", "128")],
        &[("ring.buffers", "1024"), ("ring.buffer_bytes", "1MiB")],
        &[("admin.listen", "0.0.0.0:9"), ("admin.key", "longenough")],
        &[("admin.listen", "[::ffff:127.0.0.1]:9")],
        &[("server.proxy_protocol", "true"), ("server.trusted_proxies", "10.0.0.7")],
        &[("broker.url", "redis://h"), ("broker.delivery", "ordered")],
        &[("broker.url", "amqps://h"), ("broker.overflow", "drop"), ("broker.ca", "Cargo.toml")],
        &[("broker.url", "nats://h"), ("broker.required", "true"), ("broker.prefix", "a.b-C_1")],
    ] {
        assert!(set(flags).is_ok(), "{flags:?}");
    }
}

#[test]
fn proxies_are_networks_and_what_is_none_says_what_to_write() {
    let shown = |text: &str| {
        let loaded = set(&[("server.trusted_proxies", text)]).expect(text);
        let mut all = loaded.settings();
        all.find(|(key, ..)| key.name == "server.trusted_proxies").unwrap().1
    };
    assert_eq!(shown("none"), "\"none\"");
    assert_eq!(shown("10.0.0.0/8"), "\"10.0.0.0/8\"");
    assert_eq!(shown("[\"::1\", \"127.0.0.1/32\"]"), "[\"::1\", \"127.0.0.1\"]");
    assert_eq!(shown("10.0.0.1, fd00::/8"), "[\"10.0.0.1\", \"fd00::/8\"]");
    for (bad, said) in [
        ("proxy.lan", "no address and no network"),
        ("10.0.0.1, none", "no address and no network"),
        ("10.0.0.0/40", "a prefix longer than an address"),
        ("0.0.0.0/0", "everybody would be trusted"),
        ("10.1.2.3/8", "write \"10.0.0.0/8\" or \"10.1.2.3\""),
        ("[]", "write \"none\""),
    ] {
        let problems = set(&[("server.trusted_proxies", bad)]).expect_err(bad);
        assert!(problems[0].contains(said), "{bad}: {problems:?}");
    }
}

#[test]
fn where_to_send_is_a_host_and_a_port_and_what_is_not_says_what_to_write() {
    for right in ["none", "127.0.0.1:8125", "[::1]:8125", "statsd.lan:9125", "a_b-c:1"] {
        let loaded = set(&[("metrics.statsd", right)]).expect(right);
        let target = loaded.config.metrics_statsd;
        assert_eq!(target.as_deref(), Some(right).filter(|text| *text != "none"));
    }
    for (wrong, said) in [
        ("", "it takes \"none\" or a \"HOST:PORT\""),
        ("8125", "write \"127.0.0.1:8125\""),
        ("statsd.lan", "write \"statsd.lan:8125\""),
        ("[::1]", "write \"[::1]:8125\""),
        ("::1:8125", "(no host)"),
        (":8125", "(no host)"),
        ("statsd.lan:", "(a port that is no number from 1 to 65535)"),
        ("statsd.lan:0", "(a port that is no number from 1 to 65535)"),
        ("statsd.lan:70000", "(a port that is no number from 1 to 65535)"),
        ("stats d:8125", "(a host that is no name and no address)"),
        ("udp://statsd.lan:8125", "write \"statsd.lan:8125\""),
    ] {
        let problems = set(&[("metrics.statsd", wrong)]).expect_err(wrong);
        assert!(problems[0].starts_with("--set: metrics.statsd: "), "{problems:?}");
        assert!(problems[0].contains(said), "{wrong}: {problems:?}");
    }
}

#[test]
fn a_broken_value_is_not_judged_in_combination() {
    let problems = set(&[("heartbeat.timeout", "1s"), ("heartbeat.ping_after", "soon")]);
    assert_eq!(problems.unwrap_err().len(), 1);
}

#[test]
fn a_reload_tells_what_changes_now_from_what_waits() {
    let path = file("[client]\nqueue_bytes = '2MiB'\n");
    let sources = Sources::new(Some(path.path().to_owned()), std::iter::empty(), vec![]);
    let old = load(sources).unwrap();
    let unchanged = Loaded::reload_differences(&old, &old.reload().unwrap());
    assert_eq!(unchanged, Differences::default());
    std::fs::write(path.path(), "[client]\nqueue_bytes = '3MiB'\n[server]\nshards = 3\n").unwrap();
    let new = old.reload().unwrap();
    let differences = Loaded::reload_differences(&old, &new);
    assert_eq!(differences.reloadable, ["client.queue_bytes"]);
    assert_eq!(differences.restart, ["server.shards"]);
    assert_eq!(new.config.limits.queue_bytes, 3 << 20);
}

#[test]
fn the_operators_number_of_connections_is_a_limit_at_once() {
    let loaded = set(&[("limits.connections_max", "5000")]).unwrap();
    assert_eq!(loaded.config.connections_max, Amount::Count(5000));
    assert_eq!(loaded.config.limits.connections_max, 5000);
    assert_eq!(Config::default().connections_max, Amount::Auto);
    assert_eq!(loaded.config.limits.ping_after, Duration::from_secs(54));
}

#[test]
fn the_readme_table_has_a_row_a_key() {
    let table = markdown();
    print!("{table}");
    assert_eq!(table.lines().count(), KEYS.len() + 2);
}
