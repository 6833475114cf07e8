//! `ringhall bench` counts what the server counts, and lets no wrong byte pass.
//!
//! Against the real server its figures have to agree with the server's own. Against servers that
//! spoil, lose, repeat or refuse it has to fail, and to say what was wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Output};
use std::thread;

use serde_json::Value;
use support::Server;
use tungstenite::{Bytes, Message};

/// Runs the load for a moment.
fn bench(address: SocketAddr, arguments: &[&str]) -> Output {
    let mut command = Server::command();
    command.arg("bench").args(arguments).args(["--url", &format!("ws://{address}")]);
    command.args(["--seconds", "0.2", "--warmup", "0.05"]).output().unwrap()
}

/// The last line of a run that went well.
#[track_caller]
fn figures(output: &Output) -> Value {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{err}");
    let figures: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    // How much of it falls into the window is a matter of who else is on the box.
    assert!(whole_run(&figures, "operations") > 0, "{figures}");
    assert!(figures["operations"].as_u64() <= figures["whole_run"]["operations"].as_u64());
    assert!(figures["generator"]["busy_percent"].as_f64().unwrap() <= 100.0, "{figures}");
    for name in ["cpu", "kernel"] {
        assert!(figures["machine"][name].is_string(), "{figures}");
    }
    figures
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn whole_run(figures: &Value, name: &str) -> u64 {
    figures["whole_run"][name].as_u64().unwrap()
}

/// What a run that failed says.
#[track_caller]
fn fault(output: &Output) -> String {
    let fault = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{fault}");
    assert!(output.stdout.is_empty(), "a run that failed has no figures");
    fault
}

#[test]
fn echoes_agree_with_the_servers_count() {
    let server = Server::start(&[]);
    let pid = server.pid().to_string();
    let arguments = ["echo", "--connections", "20", "--depth", "3", "--json", "--pid", &pid];
    let figures = figures(&bench(server.address(), &arguments));
    let sent = whole_run(&figures, "messages_sent");
    assert_eq!(whole_run(&figures, "operations"), sent, "all came back");
    server.wait_counter("messages_in", |count| count == sent);
    assert_eq!(figures["parameters"]["depth"], 3);
    let server = &figures["server"];
    assert!(server["cpu_seconds"].as_f64().unwrap() > 0.0, "{server}");
    assert!(server["rss_bytes"].as_u64().unwrap() > 1 << 20, "{server}");
    assert!(figures["latency_us"]["p99"].as_f64() >= figures["latency_us"]["p50"].as_f64());
}

#[test]
fn deliveries_agree_with_the_servers_count_in_both_modes_and_both_loops() {
    for mode in ["raw", "json"] {
        for rate in [&[][..], &["--rate", "2000"]] {
            let server = Server::start(&[]);
            let shape = ["fanout", "--rooms", "3", "--members", "7", "--publishers", "2"];
            let more = ["--window", "4", "--json", "--mode", mode];
            let figures = figures(&bench(server.address(), &[&shape[..], &more, rate].concat()));
            let sent = whole_run(&figures, "messages_sent");
            assert_eq!(whole_run(&figures, "operations"), 7 * sent, "everybody heard everything");
            server.wait_counter("said", |count| count == sent);
            server.wait_counter("upgraded", |count| count == 21);
        }
    }
}

#[test]
fn long_messages_come_in_pieces_and_are_compared_all_the_same() {
    let server = Server::start(&["--set", "client.message_bytes=1MiB"]);
    let long = ["--bytes", "300000", "--json"];
    for mode in ["raw", "json"] {
        let shape = ["fanout", "--members", "3", "--mode", mode];
        let figures = figures(&bench(server.address(), &[&shape[..], &long].concat()));
        assert_eq!(
            whole_run(&figures, "operations"),
            3 * whole_run(&figures, "messages_sent"),
            "{mode}"
        );
    }
    figures(&bench(server.address(), &[&["echo", "--connections", "3"][..], &long].concat()));
}

#[test]
fn handshakes_agree_with_the_servers_count() {
    let server = Server::start(&[]);
    let figures = figures(&bench(server.address(), &["churn", "--in-flight", "5", "--json"]));
    let done = whole_run(&figures, "operations");
    server.wait_counter("upgraded", |count| count == done);
    server.wait_counter("connections", |count| count == 0);
}

#[test]
fn idle_connections_are_held() {
    let server = Server::start(&[]);
    for place in [&["--members", "10"][..], &["--members", "0"], &["--mode", "raw"]] {
        let arguments = [&["idle", "--connections", "50", "--json"][..], place].concat();
        let figures = figures(&bench(server.address(), &arguments));
        assert_eq!(figures["operations"], 50);
    }
    server.wait_counter("upgraded", |count| count == 150);
}

#[test]
fn more_connections_than_one_table_holds_take_several_rings() {
    let server = Server::start(&["--set", "limits.connections_max=1000"]);
    let ringhall = Server::command();
    let mut command = Command::new("sh");
    // 400 descriptors: a table of 200 connections and what is spare.
    command.args(["-c", "ulimit -n 400 && exec \"$0\" \"$@\""]).arg(ringhall.get_program());
    for (name, _) in ringhall.get_envs() {
        command.env_remove(name);
    }
    let url = format!("ws://{}", server.address());
    command.args(["bench", "fanout", "--url", &url, "--rooms", "50", "--members", "10"]);
    command.args(["--seconds", "0.2", "--warmup", "0", "--json"]);
    let figures = figures(&command.output().unwrap());
    assert_eq!(whole_run(&figures, "operations"), 10 * whole_run(&figures, "messages_sent"));
    server.wait_counter("upgraded", |count| count == 500);
}

#[test]
fn people_get_a_table() {
    let server = Server::start(&[]);
    let output = bench(server.address(), &["echo", "--connections", "2"]);
    let table = text(&output.stdout);
    assert!(output.status.success() && table.contains("echoes a second"), "{table}");
    assert!(output.stderr.is_empty(), "no progress where there is no terminal");
}

/// A server that answers the messages of one connection as it is told; the number counts them.
fn server(answer: impl Fn(u32, Vec<u8>) -> Vec<Message> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut socket = tungstenite::accept(stream).unwrap();
        for number in 0.. {
            // An error is the end of the run.
            let Ok(Message::Text(text)) = socket.read() else { return };
            for message in answer(number, text.as_bytes().to_vec()) {
                if socket.send(message).is_err() {
                    return;
                }
            }
        }
    });
    address
}

fn say(bytes: Vec<u8>) -> Vec<Message> {
    vec![Message::text(String::from_utf8(bytes).unwrap())]
}

const ONE: [&str; 5] = ["echo", "--connections", "1", "--depth", "4"];

#[test]
fn a_right_server_of_another_make_is_no_fault() {
    let address = server(|_, bytes| say(bytes));
    figures(&bench(address, &[&ONE[..], &["--json"]].concat()));
}

#[test]
fn a_ping_is_answered() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let pinging = thread::spawn(move || {
        let mut socket = tungstenite::accept(listener.accept().unwrap().0).unwrap();
        let first = socket.read().unwrap();
        socket.send(Message::Ping(Bytes::from_static(b"there?"))).unwrap();
        let second = socket.read().unwrap();
        socket.send(first).unwrap();
        // Its messages come back as before, until it goes.
        while let Ok(Message::Text(text)) = socket.read() {
            socket.send(Message::Text(text)).unwrap();
        }
        second
    });
    figures(&bench(address, &["echo", "--connections", "1", "--json"]));
    assert_eq!(pinging.join().unwrap(), Message::Pong(Bytes::from_static(b"there?")));
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    for (at, bytes) in [(0, "64"), (15, "64"), (16, "64"), (63, "64"), (200_000, "300000")] {
        let address = server(move |number, mut message| {
            message[at] ^= u8::from(number == 5) * 2;
            say(message)
        });
        let fault = fault(&bench(address, &[&ONE[..], &["--bytes", bytes]].concat()));
        if at >= 16 {
            assert!(fault.contains("expected") && fault.contains("received"), "{fault}");
        }
        assert!(fault.contains("connection 0"), "{at}: {fault}");
    }
}

#[test]
fn a_lost_a_repeated_and_a_shortened_message_are_found() {
    let lost = server(|number, bytes| if number == 5 { Vec::new() } else { say(bytes) });
    let fault_of = |address| fault(&bench(address, &ONE));
    let fault = fault_of(lost);
    assert!(fault.contains("message 6") && fault.contains("5 is the next one"), "{fault}");
    assert!(fault.contains("lost"), "{fault}");
    let repeated = server(|number, bytes| match number {
        5 => [say(bytes.clone()), say(bytes)].concat(),
        _ => say(bytes),
    });
    let fault = fault_of(repeated);
    assert!(fault.contains("message 5") && fault.contains("twice"), "{fault}");
    let shortened = server(|_, bytes| say(bytes[..63].to_vec()));
    assert!(fault_of(shortened).contains("(63 bytes)"));
}

#[test]
fn a_message_that_nobody_sent_and_a_close_are_found() {
    let stranger = server(|_, _| say(b"0000000100000000".to_vec()));
    let short = [&ONE[..], &["--bytes", "16"]].concat();
    let fault_of = fault(&bench(stranger, &short));
    assert!(fault_of.contains("does not speak there"), "{fault_of}");
    let closing = server(|_, _| vec![Message::Close(None)]);
    let fault_of = fault(&bench(closing, &ONE));
    assert!(fault_of.contains("closed connection 0"), "{fault_of}");
    let short = server(|_, _| say(b"x".to_vec()));
    assert!(fault(&bench(short, &ONE)).contains("\"x\" (1 bytes)"));
    let binary = server(|_, bytes| vec![Message::Binary(Bytes::from(bytes))]);
    assert!(fault(&bench(binary, &ONE)).contains("binary"));
}

#[test]
fn a_wrong_answer_to_the_handshake_is_found() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let answering = thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\
                      Connection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
        stream.write_all(answer.as_bytes()).unwrap();
        stream.write_all(b"\r\n\r\n").unwrap();
        // Until the client goes.
        stream.read_to_end(&mut Vec::new()).unwrap();
    });
    let fault = fault(&bench(address, &ONE));
    assert!(fault.contains("Sec-WebSocket-Accept"), "{fault}");
    answering.join().unwrap();
}

#[test]
fn a_refusal_says_which_limit_to_raise() {
    let server = Server::start(&["--set", "limits.connections_max=3"]);
    let fault_of = fault(&bench(server.address(), &["echo", "--connections", "8"]));
    assert!(fault_of.contains("503") && fault_of.contains("limits.connections_max"), "{fault_of}");
}

#[test]
fn a_message_that_is_too_long_says_which_limit_to_raise() {
    let server = Server::start(&[]);
    let long = ["fanout", "--members", "2", "--bytes", "100000"];
    let fault_of = fault(&bench(server.address(), &long));
    assert!(fault_of.contains("1009") && fault_of.contains("client.message_bytes"), "{fault_of}");
}

#[test]
fn nobody_there_is_said_with_a_remedy() {
    // The port was free a moment ago.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    for load in ["echo", "fanout", "churn", "idle"] {
        let fault = fault(&bench(address, &[load]));
        assert!(fault.contains("start the server"), "{fault}");
        assert!(fault.contains(&address.to_string()), "{fault}");
    }
    let server = Server::start(&[]);
    let fault = fault(&bench(server.address(), &["echo", "--pid", "4194305"]));
    assert!(fault.contains("there is no process 4194305"), "{fault}");
}

#[test]
fn what_makes_no_sense_is_bad_usage() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    for wrong in [
        &["echo", "--bytes", "15"][..],
        &["echo", "--depth", "0"],
        &["echo", "--rate", "0"],
        &["fanout", "--members", "2", "--publishers", "3"],
        &["idle", "--connections", "15"],
        &["churn", "--depth", "1"],
    ] {
        let output = bench(address, wrong);
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
        assert!(!output.stderr.is_empty(), "{wrong:?}");
    }
    let url = format!("ws://{address}");
    let nothing = ["bench", "echo", "--url", &url, "--seconds", "0"];
    let output = Server::command().args(nothing).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("more than 0"), "{}", text(&output.stderr));
    let output = Server::command().args(["bench", "echo", "--url", "http://x"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("ws://HOST:PORT"));
}
