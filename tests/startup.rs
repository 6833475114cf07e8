//! The start says where the server is and what is in force, or why there is none and what to do.

mod support;

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use support::{Client, DEADLINE, Server, get};

/// Runs a server that must not start; gives its exit code and what it said.
#[track_caller]
fn start_in_vain(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, stderr } =
        Server::command().args(arguments).output().expect("the binary runs");
    assert!(stdout.is_empty(), "stdout is for answers");
    (status.code(), String::from_utf8(stderr).expect("UTF-8"))
}

/// Two members of a room who hear each other.
#[track_caller]
fn chat(server: &Server) {
    let (mut ann, _) = Client::join(server.address(), "room", "ann");
    let (mut bob, _) = Client::join(server.address(), "room", "bob");
    bob.send_json(&json!({ "content": "here" }));
    ann.recv_content("here");
    ann.close();
    bob.close();
}

#[test]
fn the_one_line_of_a_start_names_addresses_and_everything_in_force() {
    let server = Server::with(|command| {
        command.args(["--shards", "3", "--set", "client.queue_bytes=2MiB"]);
        command.args(["--set", "limits.connections_max=123"]);
        command.env("RINGHALL_ADMIN_KEY", "tell-nobody").env("RINGHALL_ROOMS_MAX", "77");
    });
    let log = server.log();
    let [line] = log.as_slice() else { panic!("one line, not {log:#?}") };
    for part in [
        format!("chat on http://{}", server.address()),
        format!("admin=\"http://{}\"", server.admin()),
        format!("version=\"{}\"", env!("CARGO_PKG_VERSION")),
        "shards=3".to_owned(),
        "connections_max=123 bounded_by=limits.connections_max".to_owned(),
        "config=\"none\"".to_owned(),
        "client.queue_bytes=\\\"2MiB\\\"".to_owned(),
        "rooms.max=77".to_owned(),
        "heartbeat.ping_after=\\\"54s\\\"".to_owned(),
    ] {
        assert!(line.contains(&part), "{part}: {line}");
    }
    assert!(!line.contains("tell-nobody"), "a secret is not logged: {line}");
    chat(&server);
}

#[test]
fn a_server_that_was_killed_is_followed_at_once_on_the_same_port() {
    let start = |listen: &str| {
        let mut command = Server::command();
        command.args(["--shards", "3", "--admin", "127.0.0.1:0", "--listen", listen]);
        Server::spawn(command)
    };
    let mut server = start("127.0.0.1:0");
    let listen = server.address().to_string();
    for _ in 0..5 {
        // Its connections, and what its rings are waiting for, are taken apart after its end.
        let members: Vec<_> =
            (0..50).map(|n| Client::join(server.address(), "room", &format!("u{n}")).0).collect();
        server.signal(Signal::KILL);
        server.wait(DEADLINE);
        server = start(&listen);
        assert_eq!(server.address().to_string(), listen);
        drop(members);
    }
    chat(&server);
}

#[test]
fn all_listeners_are_one_server() {
    let mut more = vec!["--listen", "127.0.0.1:0"];
    // Where there is no IPv6 there is no test of it.
    if TcpListener::bind("[::1]:0").is_ok() {
        more.extend(["--listen", "[::1]:0"]);
    }
    let server = Server::start(&more);
    assert_eq!(server.addresses().len(), 1 + more.len() / 2);
    let mut members: Vec<_> = server
        .addresses()
        .iter()
        .enumerate()
        .map(|(n, address)| Client::join(*address, "room", &format!("u{n}")).0)
        .collect();
    members[0].send_json(&json!({ "content": "everywhere" }));
    for member in &mut members {
        member.recv_content("everywhere");
    }
    for address in server.addresses() {
        assert_eq!(get(*address, "/health").status, 200);
    }
}

#[test]
fn a_taken_port_is_told_with_its_remedy_and_exit_code_1() {
    let server = Server::start(&[]);
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let stranger = stranger.local_addr().expect("a bound socket");
    // Another server of the same user could share the port, if nobody took care.
    for taken in [server.address(), stranger] {
        let address = taken.to_string();
        let (code, said) = start_in_vain(&["--listen", &address, "--admin", "127.0.0.1:0"]);
        assert_eq!(code, Some(1), "{said}");
        for part in [
            format!("ringhall: cannot listen on {address}: another process listens on it"),
            format!("`ss -ltnp 'sport = :{}'`", taken.port()),
            "another address with --listen".to_owned(),
        ] {
            assert!(said.contains(&part), "{part}: {said}");
        }
    }
    let admin = server.admin().to_string();
    let (code, said) = start_in_vain(&["--listen", "127.0.0.1:0", "--admin", &admin]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("cannot listen on {admin}")), "{said}");
    assert!(said.contains("another process listens") && said.contains("--admin"), "{said}");
    chat(&server);
}

#[test]
fn an_address_of_another_box_is_told_with_its_remedy() {
    // RFC 5737: an address for documentation, nobody's.
    let (code, said) = start_in_vain(&["--listen", "192.0.2.1:80", "--admin", "127.0.0.1:0"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("192.0.2.1:80") && said.contains("`ip addr`"), "{said}");
}

#[test]
fn connections_that_cannot_be_are_told_before_any_socket_is_open() {
    let arguments =
        ["--shards", "1", "--set", "limits.connections_max=100000000", "--admin", "127.0.0.1:0"];
    let (code, said) = start_in_vain(&[&arguments[..], &["--listen", "127.0.0.1:0"]].concat());
    assert_eq!(code, Some(1));
    assert!(said.contains("limits.connections_max = 100000000 does not fit"), "{said}");
    assert!(said.contains("raise RLIMIT_NOFILE") || said.contains("lower limits."), "{said}");
}

#[test]
fn in_json_each_line_of_the_log_is_an_object() {
    let mut server = Server::start(&["--log-format", "json", "--log", "debug"]);
    chat(&server);
    let mut client = Client::raw(server.address());
    client.upgrade("/ws/%0a\"%22/ann", &[]).expect_refusal(400, "bad_request");
    server.signal(Signal::HUP);
    server.wait_log("limits reloaded");
    server.signal(Signal::TERM);
    drop(client);
    assert_eq!(server.wait(DEADLINE).code(), Some(0));
    let lines: Vec<Value> = server
        .log()
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for line in &lines {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    let with = |text: &str| {
        let found =
            lines.iter().find(|line| line["message"].as_str().is_some_and(|m| m.contains(text)));
        found.unwrap_or_else(|| panic!("no line says {text:?}"))
    };
    let start = with("ringhall is open");
    assert_eq!(start["admin"], format!("http://{}", server.admin()));
    assert!(start["shards"].is_u64() && start["connections_max"].is_u64(), "{start}");
    assert_eq!((&with("opened")["level"], &start["level"]), (&json!("DEBUG"), &json!("INFO")));
    with("ended");
}

#[test]
fn connections_are_logged_at_debug_level_alone() {
    let mut quiet = Server::start(&[]);
    chat(&quiet);
    quiet.signal(Signal::TERM);
    quiet.wait(DEADLINE);
    let log = quiet.log();
    assert_eq!(log.len(), 3, "start, shutdown and end: {log:#?}");
}

/// The server as a user whom nobody else is, who may lock so many bytes: rings are charged to that.
fn as_user_who_may_lock(bytes: u64, shards: u32, folder: &Path) -> Command {
    let binary = folder.join("ringhall");
    std::fs::copy(Server::command().get_program(), &binary).expect("a copy that anyone may run");
    std::fs::set_permissions(folder, PermissionsExt::from_mode(0o755)).expect("a mode");
    let mut command = Command::new("prlimit");
    command.arg(format!("--memlock={bytes}:{bytes}"));
    if rustix::process::geteuid().is_root() {
        let id = 200_000 + 16 * (std::process::id() % 100_000) + shards;
        command.arg("setpriv").arg(format!("--reuid={id}")).arg(format!("--regid={id}"));
        command.args(["--clear-groups", "--inh-caps=-all", "--bounding-set=-all"]);
    }
    for (name, _) in Server::command().get_envs() {
        command.env_remove(name);
    }
    command.arg(binary).args(["--shards", &shards.to_string()]);
    command.args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    command
}

#[test]
fn an_ordinary_user_can_run_it() {
    for shards in [2, 8] {
        // What most systems allow.
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut server = Server::spawn(as_user_who_may_lock(8 << 20, shards, folder.path()));
        let alive = &server.health()["dependencies"]["shards"]["alive"];
        assert_eq!((alive, server.log().len()), (&json!(shards), 1), "{:#?}", server.log());
        // Members all over the shards: rooms, moves, mail.
        for n in 0..20 {
            let room = format!("room{n}");
            let (mut ann, _) = Client::join(server.address(), &room, "ann");
            let (mut bob, _) = Client::join(server.address(), &room, "bob");
            bob.send_json(&json!({ "content": n }));
            ann.recv_content(n);
        }
        assert_eq!(get(server.address(), "/").status, 200);
        server.signal(Signal::TERM);
        assert_eq!(server.wait(DEADLINE).code(), Some(0));
    }
}

#[test]
fn who_may_not_lock_enough_memory_for_the_rings_is_told_what_to_raise() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = as_user_who_may_lock(64 << 10, 5, folder.path());
    // A kernel that does not charge rings would serve: the limit on time is for that one alone.
    let binary = command.get_args().map(ToOwned::to_owned).collect::<Vec<_>>();
    command = Command::new("timeout");
    command.args(["2", "prlimit"]).args(binary);
    let Output { status, stderr, .. } = command.output().expect("it runs");
    let said = String::from_utf8(stderr).expect("UTF-8");
    if said.contains("ringhall is open") {
        return;
    }
    assert_eq!(status.code(), Some(1), "{said}");
    for part in ["RLIMIT_MEMLOCK", "LimitMEMLOCK=infinity", "ulimit -l", "--shards"] {
        assert!(said.contains(part), "{part}: {said}");
    }
}

/// Starts a server that may open so many files; the server, or what it said in vain.
fn start_with_files(files: u32) -> Result<Server, String> {
    let mut command = Command::new("prlimit");
    command.arg(format!("--nofile={files}:{files}")).arg(Server::command().get_program());
    for (name, _) in Server::command().get_envs() {
        command.env_remove(name);
    }
    command.args(["--shards", "2", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    let mut child = command.stderr(Stdio::piped()).spawn().expect("it runs");
    let mut stderr = BufReader::new(child.stderr.take().expect("it was asked for"));
    let mut said = String::new();
    while stderr.read_line(&mut said).expect("UTF-8") > 0 {
        if said.contains("ringhall is open") {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
            return Ok(Server::spawn(command));
        }
    }
    assert_eq!(child.wait().expect("our own child").code(), Some(1), "{said}");
    Err(said)
}

#[test]
fn who_may_open_too_few_files_is_told_what_to_raise_whatever_comes_first() {
    // The loader of the binary wants a few of its own.
    for files in 8.. {
        let server = match start_with_files(files) {
            Ok(server) => server,
            Err(said) => {
                let last = said.lines().last().expect("it says something");
                assert!(last.starts_with("ringhall: cannot "), "{files}: {said}");
                for part in ["RLIMIT_NOFILE", "LimitNOFILE=", "ulimit -n", "--shards"] {
                    assert!(last.contains(part), "{files}, {part}: {said}");
                }
                assert!(!said.contains("is open") && !said.contains("panicked"), "{files}: {said}");
                continue;
            }
        };
        assert!(files > 20, "two rings and their threads cannot do with {files}");
        assert_eq!(server.health()["status"], "healthy");
        assert_eq!(get(server.address(), "/").status, 200);
        chat(&server);
        break;
    }
}
