//! `tuning/cluster-demo` starts a broker, three servers and nginx, says where, and leaves nothing.
//!
//! Wants Debian's `redis-server` and `nginx-light`, which `tests/run` installs; plain `cargo test`
//! leaves it out.

mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use support::{Client, DEADLINE, eventually, get};

/// The demo, ended with the test.
struct Demo {
    child: Child,
    said: String,
}

impl Demo {
    /// Starts it with its files in this folder, and waits until it says where to chat.
    fn start(folder: &std::path::Path, arguments: &[&str]) -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/cluster-demo");
        let mut command = Command::new(script);
        command.args(arguments).env("TMPDIR", folder);
        command.env("DEMO_BINARY", env!("CARGO_BIN_EXE_ringhall"));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let mut child = command.spawn().expect("bash runs it");
        let mut output = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut said = String::new();
        // Ends with the demo, if that never says so.
        while !said.contains("chat at") && output.read_line(&mut said).expect("text") > 0 {}
        let demo = Self { child, said };
        // Whatever else it says must not block it.
        std::thread::spawn(move || output.read_to_string(&mut String::new()));
        assert!(demo.said.contains("chat at"), "{}", demo.said);
        demo
    }

    /// The address in the line that begins with this word.
    fn address(&self, word: &str) -> SocketAddr {
        let line = self.said.lines().find(|line| line.starts_with(word)).expect(word);
        let behind = line.split("//").nth(1).expect("a URL");
        behind.split([' ', '/']).next().and_then(|text| text.parse().ok()).expect("an address")
    }

    fn wait(&mut self) -> Option<i32> {
        eventually(DEADLINE, "the demo ends", || matches!(self.child.try_wait(), Ok(Some(_))));
        self.child.wait().expect("our own child").code()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // By TERM it ends what it has started; nothing to do where it has ended.
        if let Ok(None) = self.child.try_wait() {
            let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
            let _ended = self.child.wait();
        }
    }
}

#[test]
fn it_opens_an_address_and_leaves_nothing_when_it_is_interrupted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut demo = Demo::start(folder.path(), &[]);
    let front = demo.address("chat at");
    assert_eq!(get(front, "/health").status, 200);
    assert!(get(front, "/").text().contains("<html"), "the chat page");
    let (mut ann, _) = Client::join(front, "room", "ann");
    let (mut bob, _) = Client::join(front, "room", "bob");
    ann.send_json(&json!({ "content": "through nginx" }));
    assert_eq!(bob.recv_content("through nginx")["sender"], "ann");
    let all = ["chat at", "broker", "box1", "box2", "box3"].map(|word| demo.address(word));
    for address in all {
        assert!(TcpStream::connect(address).is_ok(), "{address}");
    }
    kill_process(Pid::from_child(&demo.child), Signal::INT).expect("our own child");
    assert_eq!(demo.wait(), Some(0));
    for address in all {
        assert!(TcpStream::connect(address).is_err(), "{address} still listens");
    }
    let left = std::fs::read_dir(folder.path()).expect("a folder").count();
    assert_eq!(left, 0, "files are left");
}

#[test]
fn it_ends_by_itself_after_its_seconds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut demo = Demo::start(folder.path(), &["--seconds", "1"]);
    assert_eq!(demo.wait(), Some(0));
    assert!(TcpStream::connect(demo.address("chat at")).is_err());
}
