//! Where memory is what binds, newcomers are refused by the reserve about where the promise says;
//! whoever is in notices nothing, nothing is killed, and with memory newcomers are let in again.
//!
//! Takes nearly all of the box's memory: `tests/run doctor` runs it, where nobody else is.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::time::Duration;

use ringhall::probe::capacity::{PAIR_BYTES, table_connections};
use ringhall::probe::{Facts, Memory};
use support::promise::expect_within_a_tenth;
use support::{Bystander, Client, Server, eventually, get};

/// Bytes that the balloon leaves to everybody else.
const LEFT: u64 = 1 << 30;
/// Bytes that it takes at a time.
const BREATH: usize = 8 << 20;
/// Says how many bytes to leave, to the process that is the balloon.
const VARIABLE: &str = "BALLOON_LEAVES";
/// How long the generator may take until it is refused.
const LONG: Duration = Duration::from_secs(120);

/// A process that holds memory, as long as this lives; and what it says, for the harness in it ends
/// where nobody listens.
struct Balloon {
    child: Child,
    _stdout: BufReader<ChildStdout>,
}

impl Balloon {
    fn leaving(bytes: u64) -> Self {
        let mut command = Command::new(std::env::current_exe().expect("this binary"));
        command.args(["--exact", "newcomers_are_refused_where_the_promise_says"]);
        command.arg("--nocapture").env(VARIABLE, bytes.to_string());
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("this binary runs");
        let mut stdout = BufReader::new(child.stdout.take().expect("it was asked for"));
        let mut lines = stdout.by_ref().lines().map_while(Result::ok);
        let full = lines.any(|line| line.ends_with("full"));
        let balloon = Self { child, _stdout: stdout };
        assert!(full, "the balloon is not full");
        balloon
    }

    /// How it ended, where it was ended.
    fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("our own child")
    }
}

impl Drop for Balloon {
    fn drop(&mut self) {
        // It holds memory and nothing else; where it is gone already, that is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The balloon: takes memory until so much is left, and holds it until its parent is gone.
fn inflate(leaves: u64) {
    // If anything is killed for want of memory, this is.
    std::fs::write("/proc/self/oom_score_adj", "1000").expect("more may be asked for");
    let mut held = Vec::new();
    while Memory::now().expect("/proc/meminfo").available() > leaves + BREATH as u64 {
        held.push(vec![1u8; BREATH]);
    }
    let mut stdout = std::io::stdout();
    stdout.write_all(b"full\n").and_then(|()| stdout.flush()).expect("the parent reads");
    let _until_its_end = std::io::stdin().read(&mut [0]);
    assert!(held.iter().all(|breath| breath[0] == 1));
}

/// What the doctor says of clients on this box, with so many shards; and what binds first.
fn promise(shards: usize) -> (usize, String) {
    let mut doctor = Server::command();
    let shards = format!("server.shards={shards}");
    doctor.args(["doctor", "--json", "--loopback", "--set", &shards]);
    let output = doctor.output().expect("it runs");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let capacity = &report["capacity"];
    let number = capacity["connections"].as_u64().expect("a number");
    let first = capacity["first_limit"].as_str().expect("a word");
    (usize::try_from(number).expect("it fits"), first.to_owned())
}

/// Shards whose tables hold half as many again as the memory that the balloon leaves.
fn shards() -> usize {
    let each = table_connections(Facts::read().as_service().nofile.soft);
    let memory = usize::try_from(LEFT / PAIR_BYTES).expect("it fits");
    (memory * 3 / 2).div_ceil(each).max(1)
}

#[test]
fn newcomers_are_refused_where_the_promise_says() {
    if let Ok(leaves) = std::env::var(VARIABLE) {
        return inflate(leaves.parse().expect("bytes"));
    }
    let mut balloon = Balloon::leaving(LEFT);
    let shards = shards();
    let (promised, first) = promise(shards);
    assert_eq!(first, "memory", "{promised}");
    let server = Server::start(&["--shards", &shards.to_string()]);
    let mut bystander = Bystander::join(server.address(), "room");
    // On `/echo`, in no room: what a member costs beside is measured elsewhere (`benches/idle`).
    let mut generator = Server::command();
    generator.args(["bench", "idle", "--no-progress", "--members", "0", "--seconds", "1"]);
    generator.args(["--url", &format!("ws://{}", server.address())]);
    generator.args(["--connections", &(promised * 3 / 2).to_string()]);
    generator.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut generator = generator.spawn().expect("the generator runs");
    let mut ended = None;
    eventually(LONG, "the generator is refused", || {
        bystander.heard();
        ended = generator.try_wait().expect("our own child");
        ended.is_some()
    });
    let mut said = String::new();
    let mut stderr = generator.stderr.take().expect("it was asked for");
    stderr.read_to_string(&mut said).expect("UTF-8");
    assert_eq!(ended.and_then(|status| status.code()), Some(1), "not killed: {said}");
    assert!(said.contains("503"), "{said}");
    let line = server.wait_log("memory is short");
    let digits = line.split("connections=").nth(1).expect("how many there were");
    let digits: String = digits.chars().take_while(char::is_ascii_digit).collect();
    println!("{promised} were promised; {line}");
    expect_within_a_tenth(digits.parse().expect("a number"), promised);
    assert_eq!(balloon.ended(), None, "nothing is killed");
    bystander.heard();
    // The generator is gone and so are its connections: there is memory again.
    server.wait_log("memory is free again");
    assert_eq!(get(server.admin(), "/ready").status, 200);
    let mut late = Client::connect(server.address(), "/ws/room/late");
    late.recv_content("late has joined the room");
    bystander.heard_until("late has joined the room");
    server.wait_counter("connections", |connections| connections == 2);
}
