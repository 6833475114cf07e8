//! What an operator is told about a configuration: by the real binary, before any socket is opened.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Command, Output};

/// What a command said and how it ended.
struct Said {
    out: String,
    err: String,
    code: Option<i32>,
}

fn ringhall(arguments: &[&str], variables: &[(&str, &str)]) -> Said {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringhall"));
    command.args(arguments).env_clear().envs(variables.iter().copied());
    let Output { status, stdout, stderr } = command.output().expect("the binary runs");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said { out: text(stdout), err: text(stderr), code: status.code() }
}

/// A folder with one `ringhall.toml` of this text.
fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("ringhall.toml");
    std::fs::write(&path, text).expect("a file in it");
    (folder, path)
}

/// The line of `config show` that sets this key of this section.
fn shown<'a>(out: &'a str, section: &str, key: &str) -> &'a str {
    let behind = out.split_once(&format!("[{section}]\n")).expect("the section is shown").1;
    let wanted = format!("{key} = ");
    behind.lines().find(|line| line.starts_with(&wanted)).expect("the key is shown")
}

#[test]
fn a_right_file_is_ok() {
    let (_folder, path) = file("[client]\nqueue_bytes = \"2MiB\"\n");
    let path = path.to_str().unwrap();
    let said = ringhall(&["config", "check", "--config", path], &[]);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!((said.out, said.err), (format!("ok: {path}\n"), String::new()));
}

#[test]
fn a_wrong_file_is_told_file_line_and_remedy_for_each_problem() {
    let (_folder, path) = file(
        "# mine\n[client]\nqueue_byte = 1\nmessage_bytes = [1]\n\n[heartbeat]\nping_after = 60\n",
    );
    let path = path.to_str().unwrap();
    let said = ringhall(&["config", "check", "--config", path], &[]);
    assert_eq!((said.code, said.out.as_str()), (Some(2), ""));
    let lines: Vec<&str> = said.err.lines().collect();
    let expected = [
        format!("{path}:3: client.queue_byte: unknown key; did you mean client.queue_bytes?"),
        format!(
            "{path}:4: client.message_bytes: got [1]; it takes a size from 1KiB to 256MiB; \
             the default is \"64KiB\""
        ),
        format!(
            "{path}:7: heartbeat.ping_after: got 60 (a time needs a unit); \
             it takes a time from 100ms to 24h; write \"60s\""
        ),
        "ringhall: 3 problems in the configuration".to_owned(),
    ];
    assert_eq!(lines, expected);
}

#[test]
fn an_unknown_section_is_told_the_likely_one() {
    let (_folder, path) = file("[heartbeats]\ntimeout = \"60s\"\n");
    let said = ringhall(&["config", "check", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(said.code, Some(2));
    let wanted = "ringhall.toml:1: heartbeats: unknown section; did you mean [heartbeat]?\n";
    assert!(said.err.contains(wanted), "{}", said.err);
}

#[test]
fn what_only_a_brokers_engine_refuses_is_refused_too() {
    for (section, says) in [
        ("url = \"amqp://h/a/b\"", "virtual host"),
        ("prefix = \"amq.mine\"\nurl = \"amqp://h\"", "no name of an exchange"),
        ("url = \"kafka://ann:sesame@h:1/?sasl=magic\"", "`sasl` is one of"),
        ("url = \"kafka://h/topic\"", "no path"),
        ("url = \"redis://h/x\"", "database"),
        ("url = \"nats://h/x\"", "which is no host"),
    ] {
        let (_folder, path) = file(&format!("# mine\n[broker]\n{section}\n"));
        let path = path.to_str().unwrap();
        let said = ringhall(&["config", "check", "--config", path], &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{section}: {}", said.err);
        let line = 3 + section.split("url = ").next().unwrap().lines().count();
        assert!(said.err.starts_with(&format!("{path}:{line}: broker.url: ")), "{}", said.err);
        assert!(said.err.contains(says) && !said.err.contains("sesame"), "{}", said.err);
        assert!(said.err.ends_with("ringhall: 1 problem in the configuration\n"), "{}", said.err);
    }
    for url in ["amqp://h", "amqp://u:p@h/a%2Fb", "kafka://h/", "redis://h/1", "nats://h"] {
        let said = ringhall(&["config", "check", "--set", &format!("broker.url={url}")], &[]);
        assert_eq!(said.code, Some(0), "{url}: {}", said.err);
    }
}

#[test]
fn a_combination_that_cannot_be_names_both_keys_and_the_remedy() {
    let (_folder, path) = file("[heartbeat]\ntimeout = \"30s\"\n");
    let said = ringhall(&["config", "check", "--config", path.to_str().unwrap()], &[]);
    assert_eq!(said.code, Some(2));
    for part in [
        "ringhall.toml:2: heartbeat.timeout: ",
        "lower ping_after or raise timeout",
        "heartbeat.ping_after = \"54s\" from default",
        "1 problem in the configuration",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

#[test]
fn an_admin_listener_off_loopback_without_a_key_is_refused() {
    let said = ringhall(&["serve", "--admin", "0.0.0.0:0"], &[]);
    assert_eq!(said.code, Some(2));
    assert!(said.err.starts_with("--admin: admin.listen: "), "{}", said.err);
    assert!(said.err.contains("set admin.key"), "{}", said.err);
}

#[test]
fn serve_with_a_wrong_configuration_opens_no_socket() {
    // The address is taken: had the server tried to open it, it would have failed for that.
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().unwrap().to_string();
    let admin = ["--admin", "127.0.0.1:0"];
    for wrong in [
        &["--set", "client.polcy=disconnect"][..],
        &["--shards", "many"],
        &["--log", "loud"],
        &["--log-format", "xml"],
        &["--set", "static.dir=/nowhere/at/all"],
        &["--set", "rooms.tick_bytes=1MiB"],
        &["--set", "broker.url=mqtt://127.0.0.1"],
        &["--set", "broker.url=redis+sentinel://127.0.0.1"],
        &["--set", "broker.url=amqp://127.0.0.1", "--set", "broker.delivery=ordered"],
        &[
            "--set",
            "broker.url=redis://127.0.0.1",
            "--set",
            "broker.delivery=ordered",
            "--set",
            "broker.overflow=drop",
        ],
        &["--set", "broker.delivery=ordered"],
        &["--set", "broker.url=redis://127.0.0.1", "--set", "client.message_bytes=1MiB"],
        &["--set", "broker.required=true"],
        &["--config", "/nowhere/ringhall.toml"],
    ] {
        for command in [&["serve"][..], &[]] {
            let all = [command, &["--listen", &address], &admin, wrong].concat();
            let said = ringhall(&all, &[]);
            assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{all:?}: {}", said.err);
            assert!(
                said.err.ends_with("ringhall: 1 problem in the configuration\n"),
                "{}",
                said.err
            );
        }
    }
}

#[test]
fn a_taken_admin_address_is_explained() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = taken.local_addr().unwrap().to_string();
    let said = ringhall(&["--listen", "127.0.0.1:0", "--admin", &address], &[]);
    assert_eq!(said.code, Some(1), "{}", said.err);
    for part in [&*address, "another process listens on it", "another address with --admin"] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

#[test]
fn a_configuration_that_is_no_file_is_refused_at_once() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let pipe = folder.path().join("pipe");
    let made = Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    for (path, remedy) in [
        (pipe.as_path(), "this is not a regular file"),
        (folder.path(), "this is a folder: name the file in it"),
    ] {
        let path = path.to_str().unwrap();
        let said = ringhall(&["config", "check", "--config", path], &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{}", said.err);
        assert!(said.err.starts_with(&format!("{path}: {remedy}")), "{}", said.err);
    }
}

#[test]
fn bad_usage_is_exit_code_2() {
    for wrong in [&["--nonsense"][..], &["serv"], &["config"], &["serve", "--set", "x"]] {
        let said = ringhall(wrong, &[]);
        assert_eq!((said.code, said.out.as_str()), (Some(2), ""), "{wrong:?}: {}", said.err);
        assert!(!said.err.is_empty());
    }
}

#[test]
fn help_and_version_are_answers() {
    for arguments in [&["--help"][..], &["serve", "--help"], &["config", "check", "--help"]] {
        let said = ringhall(arguments, &[]);
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        assert!(said.out.contains("Example"), "{}", said.out);
    }
    let said = ringhall(&["--version"], &[]);
    assert_eq!(said.out, concat!("ringhall ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn a_mistyped_variable_is_told_the_likely_one() {
    let said = ringhall(&["config", "check"], &[("RINGHALL_HEARTBEAT_TIMEOUTS", "60s")]);
    assert_eq!(said.code, Some(2));
    let wanted = "environment RINGHALL_HEARTBEAT_TIMEOUTS: this variable sets no key; \
                  did you mean RINGHALL_HEARTBEAT_TIMEOUT?";
    assert!(said.err.contains(wanted), "{}", said.err);
}

#[test]
fn show_tells_what_wins_and_where_it_came_from() {
    let (_folder, path) = file(
        "[client]\nqueue_bytes = \"2MiB\"\nmessage_bytes = \"2KiB\"\nclose_timeout = \"2s\"\n",
    );
    let path = path.to_str().unwrap();
    let variables =
        [("RINGHALL_CLIENT_QUEUE_BYTES", "3MiB"), ("RINGHALL_CLIENT_MESSAGE_BYTES", "3072")];
    let flags = ["config", "show", "--config", path, "--set", "client.queue_bytes=4MiB"];
    let said = ringhall(&flags, &variables);
    assert_eq!(said.code, Some(0), "{}", said.err);
    let client = |key| shown(&said.out, "client", key);
    assert_eq!(client("queue_bytes"), "queue_bytes = \"4MiB\" # from --set");
    let variable = "message_bytes = \"3KiB\" # from environment RINGHALL_CLIENT_MESSAGE_BYTES";
    assert_eq!(client("message_bytes"), variable);
    assert_eq!(client("close_timeout"), format!("close_timeout = \"2s\" # from {path}:4"));
    assert_eq!(client("policy"), "policy = \"disconnect\" # from default");
}

#[test]
fn show_hides_the_secret() {
    let said = ringhall(&["config", "show"], &[("RINGHALL_ADMIN_KEY", "opensesame")]);
    assert!(!said.out.contains("opensesame") && !said.err.contains("opensesame"));
    assert_eq!(
        shown(&said.out, "admin", "key"),
        "key = \"***\" # from environment RINGHALL_ADMIN_KEY"
    );
}

#[test]
fn a_broker_that_cannot_be_is_told_what_can() {
    for (url, more, said) in [
        ("mqtt://ann:sesame@h:1", "broker.required=true", "an unknown scheme"),
        ("amqp://ann:sesame@h:1", "broker.delivery=ordered", "RabbitMQ has no log"),
        ("nats://ann:sesame@h:1", "broker.ca=/nowhere/at/all", "broker.ca is for TLS"),
        ("tls://ann:sesame@h:1", "broker.ca=/nowhere/at/all", "name a PEM file"),
        ("redis://ann:sesame@h:none", "broker.required=true", "no number from 1 to 65535"),
    ] {
        let url = format!("broker.url={url}");
        let said_all = ringhall(&["config", "check", "--set", &url, "--set", more], &[]);
        assert_eq!(said_all.code, Some(2), "{url}");
        assert!(said_all.err.contains(said), "{said}: {}", said_all.err);
        assert!(!said_all.err.contains("sesame"), "{}", said_all.err);
    }
}

#[test]
fn show_hides_the_brokers_password_and_names_the_rest() {
    let variables = [("RINGHALL_BROKER_URL", "redis://ann:opensesame@db:6379/2")];
    let said = ringhall(&["config", "show"], &variables);
    assert!(!said.out.contains("opensesame") && !said.err.contains("opensesame"));
    let wanted = "url = \"redis://ann:***@db:6379/2\" # from environment RINGHALL_BROKER_URL";
    assert_eq!(shown(&said.out, "broker", "url"), wanted);
}

#[test]
fn what_show_and_default_print_is_a_right_file() {
    for command in ["show", "default"] {
        let said = ringhall(&["config", command], &[]);
        assert_eq!(said.code, Some(0), "{}", said.err);
        let (_folder, path) = file(&said.out);
        let checked = ringhall(&["config", "check", "--config", path.to_str().unwrap()], &[]);
        assert_eq!(checked.code, Some(0), "{command}: {}", checked.err);
    }
}
