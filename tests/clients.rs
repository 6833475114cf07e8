//! Independent clients in one room: what each of them hears is the same, exactly once, in order.
//!
//! Two each of Python's `websockets`, Node's `ws` and Rust's `tokio-tungstenite`, none of which
//! shares a line with the server. `tests/run` installs them and runs this; plain `cargo test`
//! leaves it out, since it needs `RINGHALL_TEST_PYTHON` and `RINGHALL_TEST_NODE`.

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use support::{DEADLINE, Server};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

const ROOM: &str = "everybody";
const MEMBERS: usize = 6;
const MESSAGES: usize = 300;

/// A client on a thread of its own: says that it has joined, waits, and gives what it heard.
struct Member {
    joined: Receiver<()>,
    go: Sender<()>,
    heard: JoinHandle<Vec<String>>,
}

impl Member {
    fn on_thread(
        run: impl FnOnce(Sender<()>, Receiver<()>) -> Vec<String> + Send + 'static,
    ) -> Self {
        let (say_joined, joined) = channel();
        let (go, wait_go) = channel();
        Self { joined, go, heard: std::thread::spawn(move || run(say_joined, wait_go)) }
    }

    /// One of `tests/clients/room.*`.
    fn script(program: String, script: &'static str, address: SocketAddr, user: String) -> Self {
        Self::on_thread(move |joined, go| {
            let script = format!("{}/tests/clients/{script}", env!("CARGO_MANIFEST_DIR"));
            let numbers = [MEMBERS.to_string(), MESSAGES.to_string()];
            let mut child = Command::new(program)
                .args([&script, &address.to_string(), ROOM, &user])
                .args(numbers)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("the interpreter runs");
            let mut output = BufReader::new(child.stdout.take().expect("piped"));
            let mut line = String::new();
            output.read_line(&mut line).expect("its first line");
            assert_eq!(line, "joined\n", "{user}");
            joined.send(()).expect("the test waits");
            go.recv().expect("everybody has joined");
            child.stdin.take().expect("piped").write_all(b"go\n").expect("it listens");
            let mut text = String::new();
            output.read_to_string(&mut text).expect("what it heard");
            assert!(child.wait().expect("our own child").success(), "{user} says why above");
            text.lines().map(str::to_owned).collect()
        })
    }

    /// tokio-tungstenite, in this process.
    fn rust(address: SocketAddr, user: String) -> Self {
        Self::on_thread(move |joined, go| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            runtime.block_on(async {
                let heard = hear(address, &user, joined, go);
                tokio::time::timeout(DEADLINE * 3, heard).await.expect("heard in time")
            })
        })
    }
}

async fn hear(
    address: SocketAddr,
    user: &str,
    joined: Sender<()>,
    go: Receiver<()>,
) -> Vec<String> {
    let url = format!("ws://{address}/ws/{ROOM}/{user}");
    let (socket, _) = tokio_tungstenite::connect_async(url).await.expect("an upgrade");
    let (mut out, mut inward) = socket.split();
    let first = inward.next().await.expect("a message").expect("a message");
    let first: Value = serde_json::from_str(first.to_text().expect("text")).expect("JSON");
    assert_eq!(first["type"], "joined");
    joined.send(()).expect("the test waits");
    // Blocks this client alone: it has a thread to itself.
    go.recv().expect("everybody has joined");
    let mut heard = Vec::new();
    let say = async {
        for n in 0..MESSAGES {
            let message = json!({"content": {"from": user, "n": n}}).to_string();
            out.send(Message::text(message)).await.expect("said");
        }
        out
    };
    let listen = async {
        let mut transcript = Transcript::starting_at(first["offset"].as_u64().expect("an offset"));
        while heard.len() < MEMBERS * MESSAGES {
            let message = inward.next().await.expect("more").expect("a message");
            let text = message.into_text().expect("text").to_string();
            if transcript.take(&text) {
                heard.push(text);
            }
        }
    };
    let (mut out, ()) = tokio::join!(say, listen);
    let normal = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    out.send(Message::Close(Some(normal.clone()))).await.expect("close");
    while let Some(Ok(message)) = inward.next().await {
        if let Message::Close(frame) = message {
            assert_eq!(frame, Some(normal.clone()), "the close is answered with its code");
        }
    }
    heard
}

/// Checks what the room says as it comes.
struct Transcript {
    offset: u64,
    next: std::collections::HashMap<String, u64>,
}

impl Transcript {
    fn starting_at(offset: u64) -> Self {
        Self { offset, next: std::collections::HashMap::new() }
    }

    /// Whether it was something that a member said.
    fn take(&mut self, text: &str) -> bool {
        let message: Value = serde_json::from_str(text).expect("JSON");
        if message["sender"] == "system" {
            assert!(message.get("offset").is_none(), "an announcement with an offset: {text}");
            return false;
        }
        self.offset += 1;
        assert_eq!(message["offset"], self.offset, "a hole or a repetition before {text}");
        let from = message["content"]["from"].as_str().expect("a name");
        assert_eq!(message["sender"], from, "somebody else's name: {text}");
        let next = self.next.entry(from.to_owned()).or_default();
        assert_eq!(message["content"]["n"], *next, "out of the sender's order: {text}");
        *next += 1;
        true
    }
}

/// What `tests/run` says where to find.
fn interpreter(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run tests/run"))
}

#[test]
fn clients_of_three_languages_hear_the_same_exactly_once_and_in_order() {
    let (python, node) = (interpreter("RINGHALL_TEST_PYTHON"), interpreter("RINGHALL_TEST_NODE"));
    let server = Server::start(&[]);
    let address = server.address();
    let members: Vec<_> = (0..MEMBERS / 3)
        .flat_map(|n| {
            [
                Member::script(python.clone(), "room.py", address, format!("python{n}")),
                Member::script(node.clone(), "room.mjs", address, format!("node{n}")),
                Member::rust(address, format!("rust{n}")),
            ]
        })
        .collect();
    for member in &members {
        member.joined.recv_timeout(DEADLINE).expect("a member that cannot join says why above");
    }
    for member in &members {
        member.go.send(()).expect("a member that has joined waits for this");
    }
    let heard: Vec<_> =
        members.into_iter().map(|member| member.heard.join().expect("see above")).collect();
    for (n, other) in heard.iter().enumerate() {
        assert_eq!(other.len(), MEMBERS * MESSAGES, "messages of member {n}");
        let differs = heard[0].iter().zip(other).find(|(one, other)| one != other);
        assert_eq!(differs, None, "members 0 and {n} hear the same bytes");
    }
    assert_eq!(server.counter("said"), (MEMBERS * MESSAGES) as u64);
}
