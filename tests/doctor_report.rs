//! The examination of this box: a line each, what it holds, and an exit code that says it all.

#[path = "support/doctor.rs"]
#[expect(dead_code, reason = "each test of the doctor uses its part of this")]
mod doctor;
mod support;

use std::process::Output;

use doctor::shell;
use serde_json::Value;
use support::Server;

/// Ports that nobody has, as a server of a test would.
const ANY: &str = "--set server.listen=127.0.0.1:0 --set admin.listen=127.0.0.1:0";

#[track_caller]
fn text(arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stdout, .. } =
        Server::command().arg("doctor").args(arguments).output().expect("the binary runs");
    (status.code(), String::from_utf8(stdout).expect("UTF-8"))
}

#[test]
fn each_check_has_every_field_and_the_worst_of_them_is_the_exit_code() {
    let told = shell(&format!("$doctor {ANY}"));
    let checks = told.report["checks"].as_array().expect("a list");
    let mut worst = 0;
    for check in checks {
        for field in ["id", "status", "measured", "message"] {
            assert!(check[field].is_string(), "{field}: {check:#}");
        }
        assert!(check["limit"].is_string() || check["limit"].is_null(), "{check:#}");
        assert!(check["breaks_at"].is_u64() || check["breaks_at"].is_null(), "{check:#}");
        let is_wrong = match check["status"].as_str() {
            Some("PASS" | "SKIP") => 0,
            Some("WARN") => 1,
            Some("FAIL") => 2,
            other => panic!("{other:?}: {check:#}"),
        };
        worst = worst.max(is_wrong);
        assert_eq!(is_wrong > 0, check["fix"].is_string(), "{check:#}");
        assert!(!check["message"].as_str().expect("a text").is_empty(), "{check:#}");
    }
    assert_eq!(told.report["exit"], worst);
    assert_eq!(told.code, Some(worst));
    for id in [
        "config",
        "kernel",
        "io_uring",
        "feature.DEFER_TASKRUN",
        "memlock",
        "nofile",
        "nr_open",
        "file_max",
        "memory",
        "memory_group",
        "tcp_mem",
        "somaxconn",
        "syn_backlog",
        "conntrack",
        "port_range",
        "cpu_quota",
        "cpu_steal",
        "clock",
        "tcp_migrate_req",
        "huge_pages",
        "swap",
    ] {
        told.check(id);
    }
    let working = told.check("io_uring");
    assert_eq!(working["status"], "PASS", "these tests need it: {working:#}");
    assert!(working["measured"].as_str().is_some_and(|said| said.contains("received")));
}

#[test]
fn the_last_line_says_how_many_connections_the_box_holds_and_what_stops_it_first() {
    let (_, said) = text(&ANY.split(' ').collect::<Vec<_>>());
    let told = shell(&format!("$doctor {ANY}"));
    let capacity = &told.report["capacity"];
    let last = said.lines().last().expect("a line");
    let promised = last.strip_prefix("This box holds ").expect(last);
    let (connections, first) = promised.split_once(" connections; first limit: ").expect(last);
    let connections: u64 = connections.parse().expect(last);
    assert!(connections > 0 && !first.is_empty(), "{last}");
    let each = capacity["each"].as_object().expect("an object");
    let first = capacity["first_limit"].as_str().expect("a word");
    assert_eq!(each[first], capacity["connections"], "{capacity:#}");
    let binding = each.iter().filter(|(part, _)| *part != "tcp_mem");
    assert_eq!(binding.filter_map(|(_, number)| number.as_u64()).min(), each[first].as_u64());
}

#[test]
fn what_is_asked_for_is_what_everything_is_judged_by() {
    let told = shell(&format!("$doctor {ANY} --connections 1000000000"));
    assert_eq!((told.code, &told.report["asked"]), (Some(2), &Value::from(1_000_000_000)));
    let memory = told.check("memory");
    assert_eq!(memory["status"], "FAIL", "{memory:#}");
    let holds = memory["breaks_at"].as_u64().expect("a number");
    assert!(holds < 1_000_000_000 && holds > 1000, "{memory:#}");
    let told = shell(&format!("$doctor {ANY} --connections 100"));
    for id in ["memory", "nofile", "file_max", "tcp_mem", "conntrack"] {
        assert_ne!(told.check(id)["status"], "FAIL", "{:#}", told.check(id));
    }
    let configured = shell(&format!("$doctor {ANY} --set limits.connections_max=123"));
    assert_eq!(configured.report["asked"], 123);
    assert_eq!(configured.report["capacity"]["connections"], 123);
    assert_eq!(configured.report["capacity"]["first_limit"], "connections_max");
}

#[test]
fn clients_on_this_box_cost_it_twice() {
    let holds = |more: &str| {
        let told = shell(&format!("$doctor {ANY} {more}"));
        told.check("memory")["breaks_at"].as_u64().expect("a number")
    };
    let (elsewhere, here) = (holds(""), holds("--loopback"));
    // Others use this box's memory meanwhile.
    assert!(here * 3 < elsewhere * 2 && here * 3 > elsewhere, "{here} of {elsewhere}");
    // Both promises are told; which is the last line's is asked for.
    let (_, said) = text(&ANY.split(' ').collect::<Vec<_>>());
    assert!(said.contains("Were the clients on this box too: "), "{said}");
    let told = shell(&format!("$doctor {ANY} --loopback"));
    let capacity = &told.report["capacity"];
    assert_eq!(capacity["connections"], capacity["connections_loopback"]);
}

#[test]
fn a_configuration_that_is_wrong_is_told_and_all_else_still_is() {
    let told = shell(&format!("$doctor {ANY} --set rooms.max=none_at_all"));
    assert_eq!(told.code, Some(2));
    let config = told.check("config");
    assert_eq!((&config["status"], &config["breaks_at"]), (&Value::from("FAIL"), &Value::from(0)));
    assert!(
        config["message"].as_str().is_some_and(|said| said.contains("rooms.max")),
        "{config:#}"
    );
    assert_eq!(told.report["capacity"]["connections"], 0);
    assert_eq!(told.check("io_uring")["status"], "PASS");
}

#[test]
fn before_a_start_warnings_stop_nobody_and_what_is_broken_does() {
    // On a box with any warning at all: a thousand millions are more than one may open.
    let few = "ulimit -n 4096;";
    let full = shell(&format!("{few} $doctor {ANY}"));
    let quick = shell(&format!("{few} $doctor {ANY} --preflight"));
    let count = |told: &doctor::Told| told.report["checks"].as_array().map_or(0, Vec::len);
    assert!(count(&quick) < count(&full) / 2, "it is quick");
    let nobody = shell(&format!("ulimit -n 20; $doctor {ANY} --preflight"));
    assert_eq!(nobody.code, Some(2), "{:#}", nobody.report);
    // A server that holds a hundred is better than none.
    let fewer = shell(&format!("ulimit -n 64; $doctor {ANY} --preflight"));
    assert_eq!(fewer.code, Some(0), "{:#}", fewer.report);
    assert_eq!(fewer.check("nofile")["status"], "WARN");
    let (code, said) = text(&[&ANY.split(' ').collect::<Vec<_>>()[..], &["--preflight"]].concat());
    assert!(code == Some(0), "{said}");
    assert!(!said.contains("PASS"), "only what matters: {said}");
}

#[test]
fn a_running_server_is_found_and_keeps_its_addresses() {
    let server = Server::start(&[]);
    let addresses =
        format!("--set server.listen={} --set admin.listen={}", server.address(), server.admin());
    let told = shell(&format!("$doctor {addresses}"));
    let check = told.check("server");
    assert_eq!(check["status"], "PASS", "{check:#}");
    assert!(check["measured"].as_str().is_some_and(|said| said.contains("shards alive")));
    for address in [server.address(), server.admin()] {
        let check = told.check(&format!("address.{address}"));
        assert_eq!((&check["measured"], &check["status"]), (&"taken".into(), &"PASS".into()));
    }
    // Somebody else's port is told.
    let told = shell(&format!(
        "$doctor --set server.listen={} --set admin.listen=127.0.0.1:0",
        server.address()
    ));
    let check = told.check(&format!("address.{}", server.address()));
    assert_eq!(check["status"], "WARN", "{check:#}");
    let foreign = shell(
        &format!("$doctor --set server.listen=192.0.2.1:80 {ANY}")
            .replace("--set server.listen=127.0.0.1:0 ", ""),
    );
    let check = foreign.check("address.192.0.2.1:80");
    assert_eq!((&check["status"], foreign.code), (&"FAIL".into(), Some(2)), "{check:#}");
}
