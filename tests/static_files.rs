//! Files come whole, in parts or not at all, and never from outside the folder.

#[path = "support/plain_site.rs"]
mod plain_site;
#[path = "support/static_checks.rs"]
mod static_checks;
mod support;

use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, SystemTime};

use plain_site::{Plain, Setup};
use ringhall::control::files::Files;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use static_checks::{check_outside, check_static, get_with};
use support::{Bystander, Client, Server, get, open_folder};
use tempfile::TempDir;

#[test]
fn the_built_in_page_is_served_and_nothing_else() {
    check_static(Plain::start(Setup::default()).address());
}

#[test]
fn the_whole_server_serves_the_same() {
    check_static(Server::start(&[]).address());
}

#[test]
fn the_whole_server_serves_a_folder_and_its_own_routes_before_it() {
    let dir = open_folder();
    let folder = dir.path().join("public");
    fs::create_dir_all(folder.join("ws/lobby")).expect("folders");
    fs::write(dir.path().join("secret.txt"), "root: the secret").expect("a secret");
    let big: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
    fs::write(folder.join("big.bin"), &big).expect("a file");
    for (name, text) in
        [("index.html", "<p>mine"), ("health", "a file"), ("echo", "a file"), ("ws/lobby/ann", "")]
    {
        fs::write(folder.join(name), text).expect("a file");
    }
    symlink("../secret.txt", folder.join("outside.txt")).expect("a link");
    let server = Server::start(&["--set", &format!("static.dir={}", folder.display())]);
    let address = server.address();
    assert_eq!(get(address, "/").text(), "<p>mine");
    assert_eq!(get(address, "/health").json()["status"], "healthy");
    get(address, "/echo").expect_refusal(426, "upgrade_required");
    get(address, "/ws/lobby/ann").expect_refusal(426, "upgrade_required");
    let missing = server.number("refused", "not_found");
    check_outside(address);
    for outside in ["/outside.txt", "/../secret.txt"] {
        get(address, outside).expect_refusal(404, "not_found");
    }
    assert!(server.number("refused", "not_found") >= missing + 2, "refusals are counted");

    // A large file to a reader that takes its time, while a room beside it goes on.
    let mut slow = Client::raw_small(address, 4096);
    slow.send_bytes(b"GET /big.bin HTTP/1.1\r\nHost: a\r\n\r\n");
    let mut bystander = Bystander::join(address, "lobby");
    assert!(bystander.heard().is_empty());
    assert_eq!(slow.recv_response(false).body, big);
    // On the same connection: a part, then a WebSocket.
    slow.send_bytes(b"GET /big.bin HTTP/1.1\r\nHost: a\r\nRange: bytes=2999990-\r\n\r\n");
    let part = slow.recv_response(false);
    assert_eq!((part.status, &part.body[..]), (206, &big[2_999_990..]));
    assert_eq!(slow.upgrade("/ws/lobby/ann", &[]).status, 101);
    slow.recv_content("ann has joined the room");
    slow.close();
    bystander.expect_only_left("ann");
}

/// A folder of files, a secret beside it, and a server of the folder.
struct Served {
    plain: Plain,
    dir: TempDir,
}

fn served(fill: impl FnOnce(&std::path::Path)) -> Served {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("public");
    fs::create_dir(&folder).expect("a folder");
    fs::write(dir.path().join("secret.txt"), "root: the secret").expect("a secret");
    fill(&folder);
    let files = Files::folder(&folder).expect("a folder to serve");
    Served { plain: Plain::start(Setup { files, ..Setup::default() }), dir }
}

#[test]
fn a_folder_is_served_with_types_and_validators() {
    let big: Vec<u8> = (0..1_000_003_u32).map(|i| (i % 251) as u8).collect();
    let served = served(|folder| {
        fs::write(folder.join("index.html"), "<p>hello").unwrap();
        fs::write(folder.join("big.bin"), &big).unwrap();
        fs::write(folder.join("style.css"), "p{}").unwrap();
        fs::write(folder.join("a name.txt"), "text").unwrap();
        fs::write(folder.join("empty"), "").unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        fs::write(folder.join("sub/index.html"), "<p>sub").unwrap();
        fs::create_dir(folder.join("bare")).unwrap();
    });
    let address = served.plain.address();
    for (path, kind, text) in [
        ("/", "text/html; charset=utf-8", "<p>hello"),
        ("/style.css", "text/css; charset=utf-8", "p{}"),
        ("/a%20name.txt", "text/plain; charset=utf-8", "text"),
        ("/empty", "application/octet-stream", ""),
        ("/sub/", "text/html; charset=utf-8", "<p>sub"),
    ] {
        let answer = get(address, path);
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("content-type"), Some(kind), "{path}");
        assert_eq!(answer.text(), text, "{path}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(answer.header("content-security-policy").is_none(), "the operator's own pages");
    }
    assert_eq!(get(address, "/big.bin").body, big);
    let part = get_with(address, "/big.bin", "Range: bytes=999000-\r\n");
    assert_eq!((part.status, &part.body[..]), (206, &big[999_000..]));
    let redirect = get(address, "/sub");
    assert_eq!((redirect.status, redirect.header("location")), (307, Some("/sub/")));
    // A redirect to `//sub/` would be one to the host `sub`.
    get(address, "//sub").expect_refusal(404, "not_found");
    get(address, "/%2fsub").expect_refusal(404, "not_found");
    // No listing.
    get(address, "/bare/").expect_refusal(404, "not_found");
    check_outside(address);
}

#[test]
fn a_changed_file_is_sent_anew_and_an_unchanged_one_is_not() {
    let served = served(|folder| fs::write(folder.join("page.html"), "old").unwrap());
    let address = served.plain.address();
    let old = get(address, "/page.html");
    let etag = old.header("etag").expect("an entity tag");
    let date = old.header("last-modified").expect("a date");
    for known in [format!("If-None-Match: {etag}\r\n"), format!("If-Modified-Since: {date}\r\n")] {
        assert_eq!(get_with(address, "/page.html", &known).status, 304, "{known}");
    }
    let part_of = |version: &str| {
        let fields = format!("Range: bytes=0-0\r\nIf-Range: {version}\r\n");
        get_with(address, "/page.html", &fields).status
    };
    assert_eq!((part_of(etag), part_of(date)), (206, 206));

    let path = served.dir.path().join("public/page.html");
    fs::write(&path, "new").unwrap();
    let later = SystemTime::now() + Duration::from_secs(3600);
    fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_eq!((part_of(etag), part_of(date)), (200, 200));
    let new = get_with(address, "/page.html", &format!("If-None-Match: {etag}\r\n"));
    assert_eq!((new.status, new.text()), (200, "new"));
}

#[test]
fn links_lead_inside_the_folder_or_nowhere() {
    let served = served(|folder| {
        fs::write(folder.join("page.html"), "inside").unwrap();
        fs::create_dir(folder.join("sub")).unwrap();
        symlink("../page.html", folder.join("sub/inside.html")).unwrap();
        symlink("../secret.txt", folder.join("outside.txt")).unwrap();
        symlink("/etc/passwd", folder.join("absolute.txt")).unwrap();
        symlink("..", folder.join("up")).unwrap();
        symlink("/", folder.join("slash")).unwrap();
        symlink("circle", folder.join("circle")).unwrap();
        symlink("nowhere", folder.join("dangling")).unwrap();
    });
    let address = served.plain.address();
    assert_eq!(get(address, "/sub/inside.html").text(), "inside");
    for path in [
        "/outside.txt",
        "/absolute.txt",
        "/up/secret.txt",
        "/up/public/page.html",
        "/up",
        "/slash/etc/passwd",
        "/circle",
        "/dangling",
    ] {
        get(address, path).expect_refusal(404, "not_found");
    }
}

#[test]
fn what_is_no_file_is_not_there() {
    let served = served(|folder| {
        fs::write(folder.join(".env"), "root: the secret").unwrap();
        fs::create_dir(folder.join(".git")).unwrap();
        fs::write(folder.join(".git/config"), "root: the secret").unwrap();
        let mode = Mode::from_raw_mode(0o644);
        mknodat(CWD, folder.join("pipe"), FileType::Fifo, mode, 0).unwrap();
        std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
    });
    let address = served.plain.address();
    let long = format!("/{}", "n".repeat(300));
    for path in ["/.env", "/.git/config", "/%2eenv", "/pipe", "/socket", &long, "/"] {
        get(address, path).expect_refusal(404, "not_found");
    }
}

#[test]
fn a_folder_may_be_replaced_while_it_is_served() {
    let served = served(|folder| fs::write(folder.join("index.html"), "first").unwrap());
    let address = served.plain.address();
    assert_eq!(get(address, "/").text(), "first");
    let dir = served.dir.path();
    fs::create_dir(dir.join("next")).unwrap();
    fs::write(dir.join("next/index.html"), "second").unwrap();
    fs::rename(dir.join("public"), dir.join("last")).unwrap();
    get(address, "/").expect_refusal(404, "not_found");
    fs::rename(dir.join("next"), dir.join("public")).unwrap();
    assert_eq!(get(address, "/").text(), "second");
}

#[test]
fn a_folder_that_is_none_is_told_at_start() {
    let dir = tempfile::tempdir().unwrap();
    assert!(Files::folder(dir.path().join("missing")).is_err());
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(Files::folder(dir.path().join("file")).is_err());
}
