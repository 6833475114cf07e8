//! What every server of ours does with plain requests, whatever stands in front of `control`.
//!
//! In:    the address of a server with the built-in page and an echo.
//! Out:   a panic that says what is wrong.
//! Never: needs anything else of the server.

use std::net::SocketAddr;

use crate::support::{Client, Response, get, http};

/// `GET path` with more headers.
#[track_caller]
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> Response {
    http(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{headers}\r\n"))
}

/// All of it.
#[track_caller]
pub fn check_static(address: SocketAddr) {
    check_page(address);
    check_ranges(address);
    check_outside(address);
    check_refusals(address);
}

/// The page, its validators, and HEAD.
#[track_caller]
pub fn check_page(address: SocketAddr) {
    let page = get(address, "/");
    assert_eq!(page.status, 200);
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert_eq!(page.header("cache-control"), Some("no-cache"));
    assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
    let policy = page.header("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'"), "{policy}");
    assert!(policy.contains("connect-src 'self' ws: wss:"), "{policy}");
    assert!(page.text().contains("Ringhall"));
    for name in ["/index.html", "/%69ndex.html"] {
        let same = get(address, name);
        assert_eq!(same.body, page.body, "{name}");
        assert_eq!(same.header("content-security-policy"), Some(policy), "{name}");
    }

    let etag = page.header("etag").expect("an entity tag");
    assert!(etag.starts_with('"'), "a strong one: {etag}");
    for known in [etag.to_owned(), format!("\"other\", W/{etag}"), "*".to_owned()] {
        let unchanged = get_with(address, "/", &format!("If-None-Match: {known}\r\n"));
        assert_eq!(unchanged.status, 304, "{known}");
        assert_eq!(unchanged.header("etag"), Some(etag), "{known}");
        assert!(unchanged.body.is_empty());
    }
    assert_eq!(get_with(address, "/", "If-None-Match: \"other\"\r\n").status, 200);
    get_with(address, "/", "If-Match: \"other\"\r\n").expect_refusal(412, "precondition_failed");
    assert_eq!(get_with(address, "/", &format!("If-Match: {etag}\r\n")).status, 200);

    let mut client = Client::raw(address);
    client.send_bytes(format!("HEAD / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    let head = client.recv_response(true);
    assert_eq!(head.status, 200);
    assert_eq!(head.header("content-length"), Some(page.body.len().to_string().as_str()));
    assert_eq!(head.header("etag"), Some(etag));
    // No body came: the next answer follows at once.
    client.send_bytes(format!("GET / HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes());
    assert_eq!(client.recv_response(false).body, page.body);
}

/// Parts of the page.
#[track_caller]
pub fn check_ranges(address: SocketAddr) {
    let page = get(address, "/");
    let len = page.body.len();
    let etag = page.header("etag").expect("an entity tag");
    let cases = [
        ("bytes=0-3", 0..4),
        ("bytes=4-", 4..len),
        ("bytes=-5", len - 5..len),
        ("bytes=7-99999999", 7..len),
    ];
    for (range, part) in cases {
        let answer = get_with(address, "/", &format!("Range: {range}\r\n"));
        assert_eq!(answer.status, 206, "{range}");
        assert_eq!(answer.body, &page.body[part.clone()], "{range}");
        let told = format!("bytes {}-{}/{len}", part.start, part.end - 1);
        assert_eq!(answer.header("content-range"), Some(told.as_str()), "{range}");
        assert_eq!(answer.header("etag"), Some(etag), "{range}");
    }
    for range in ["bytes=99999999-", "bytes=5-2"] {
        let answer = get_with(address, "/", &format!("Range: {range}\r\n"));
        answer.expect_refusal(416, "range_not_satisfiable");
        let told = format!("bytes */{len}");
        assert_eq!(answer.header("content-range"), Some(told.as_str()), "{range}");
    }
    // An unknown unit and several parts at once: all of it.
    for range in ["lines=1-2", "bytes=0-1,4-5"] {
        let answer = get_with(address, "/", &format!("Range: {range}\r\n"));
        assert_eq!((answer.status, answer.body.len()), (200, len), "{range}");
    }
    let same = get_with(address, "/", &format!("Range: bytes=0-3\r\nIf-Range: {etag}\r\n"));
    assert_eq!(same.status, 206);
    for other in ["\"other\"", &format!("W/{etag}"), "nonsense"] {
        let fields = format!("Range: bytes=0-3\r\nIf-Range: {other}\r\n");
        assert_eq!(get_with(address, "/", &fields).status, 200, "{other}");
    }
    // RFC 9110 section 14.2: "GET is the only method for which range handling is defined".
    let head = format!("HEAD / HTTP/1.1\r\nHost: {address}\r\nRange: bytes=0-3\r\n\r\n");
    assert_eq!(http(address, head).status, 200);
}

/// Ways out of the folder, none of which is one.
#[track_caller]
pub fn check_outside(address: SocketAddr) {
    let paths = [
        "/../Cargo.toml",
        "/../../../../etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/%2E%2E%2Fetc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/..%5c..%5cetc%5cpasswd",
        "/.%2e/etc/passwd",
        "/%252e%252e/etc/passwd",
        "//etc/passwd",
        "/%2fetc/passwd",
        "/./index.html",
        "/index.html/",
        "/index.html%00",
        "/index.html%00.txt",
        "/%ff%fe",
        "/.env",
        "/.git/config",
        "/proc/self/environ",
    ];
    for path in paths {
        let answer = get(address, path);
        answer.expect_refusal(404, "not_found");
        assert!(!answer.text().contains("root:"), "{path}");
    }
}

/// What is refused, and how.
#[track_caller]
pub fn check_refusals(address: SocketAddr) {
    get(address, "/nothing/here").expect_refusal(404, "not_found");
    get(address, "/ws").expect_refusal(404, "not_found");
    for (method, path) in [
        ("POST", "/"),
        ("PUT", "/index.html"),
        ("DELETE", "/nothing"),
        ("OPTIONS", "/"),
        ("POST", "/health"),
        ("POST", "/echo"),
        ("BREW", "/ws/a/b"),
    ] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n\r\n");
        let answer = http(address, request);
        answer.expect_refusal(405, "method_not_allowed");
        let allow = answer.header("allow").expect("Allow");
        assert!(allow.contains("GET"), "{method} {path}: {allow}");
    }
    for path in ["/echo", "/ws/room/user"] {
        let answer = get(address, path);
        answer.expect_refusal(426, "upgrade_required");
        assert_eq!(answer.header("sec-websocket-version"), Some("13"), "{path}");
        assert_eq!(answer.header("upgrade"), Some("websocket"), "{path}");
        let connection = answer.header("connection").expect("Connection");
        assert!(connection.to_ascii_lowercase().contains("upgrade"), "{path}: {connection}");
    }
    let health = get(address, "/health");
    assert_eq!(health.status, 200);
    assert_eq!(health.header("content-type"), Some("application/json"));
    let health = health.json();
    assert_eq!(health["status"], "healthy");
    assert_eq!(health["dependencies"]["shards"]["state"], "up");
    assert_eq!(health["dependencies"]["broker"]["state"], "in_process");
    let head = http(address, format!("HEAD /health HTTP/1.1\r\nHost: {address}\r\n\r\n"));
    assert_eq!(head.status, 200);
}
