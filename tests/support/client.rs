//! A blocking WebSocket client with total control, over a plain socket.
//!
//! In:    frames, right or wrong, or bare bytes.
//! Out:   frames, one by one, exactly as they came.
//! Never: answers a ping, a close or anything else by itself; waits for ever.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, SockRef, Socket, Type};

use super::DEADLINE;
use super::frame::{self, Frame, opcode};
use super::http::Response;

/// Why nothing more comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed the connection in order (FIN).
    Eof,
    /// The server reset the connection (RST).
    Reset,
    /// Nothing came within the deadline.
    TimedOut,
}

/// One connection.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of `received` has been taken.
    taken: usize,
    deadline: Duration,
    pings: u64,
}

impl Client {
    /// Connects and says nothing.
    ///
    /// # Panics
    /// If the connection is refused.
    #[track_caller]
    pub fn raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).expect("connect");
        Self::over(stream)
    }

    /// As [`Client::raw`], from this address of the loopback network.
    ///
    /// # Panics
    /// If the connection is refused.
    #[track_caller]
    pub fn raw_from(source: [u8; 4], address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let source = SocketAddr::from((source, 0));
        socket.bind(&source.into()).expect("all of 127.0.0.0/8 is ours");
        socket.connect_timeout(&address.into(), DEADLINE).expect("connect");
        Self::over(socket.into())
    }

    /// As [`Client::raw`], with a receive buffer of `bytes` in the kernel (which doubles it, and
    /// takes at least some 2 KiB): a reader that stops is soon noticed.
    ///
    /// # Panics
    /// If the connection is refused.
    #[track_caller]
    pub fn raw_small(address: SocketAddr, bytes: usize) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None);
        let socket = socket.expect("a socket");
        socket.set_recv_buffer_size(bytes).expect("SO_RCVBUF");
        socket.connect_timeout(&address.into(), DEADLINE).expect("connect");
        Self::over(socket.into())
    }

    /// Takes over a connected socket.
    ///
    /// # Panics
    /// If the socket does not take its options.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("TCP_NODELAY");
        stream.set_write_timeout(Some(DEADLINE)).expect("SO_SNDTIMEO");
        Self { stream, received: Vec::new(), taken: 0, deadline: DEADLINE, pings: 0 }
    }

    /// Connects and upgrades.
    ///
    /// # Panics
    /// If the answer is not 101.
    #[track_caller]
    pub fn connect(address: SocketAddr, path: &str) -> Self {
        Self::connect_with(address, path, &[])
    }

    /// As [`Client::connect`], with more headers.
    ///
    /// # Panics
    /// If the answer is not 101.
    #[track_caller]
    pub fn connect_with(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut client = Self::raw(address);
        client.upgrade_expecting_101(path, headers);
        client
    }

    /// As [`Client::connect`], with a small receive buffer, for a reader that is to be too slow.
    ///
    /// # Panics
    /// If the answer is not 101.
    #[track_caller]
    pub fn connect_small(address: SocketAddr, path: &str, receive_bytes: usize) -> Self {
        let mut client = Self::raw_small(address, receive_bytes);
        client.upgrade_expecting_101(path, &[]);
        client
    }

    /// Connects to a room and waits until it is in: `joined`, then its own announcement where the
    /// room has any. Gives the `joined` message.
    ///
    /// # Panics
    /// If the answer is not 101, or the first message is not `joined`.
    #[track_caller]
    pub fn join(address: SocketAddr, room: &str, user: &str) -> (Self, Value) {
        let mut client = Self::connect(address, &format!("/ws/{room}/{user}"));
        let joined = client.recv_json();
        assert_eq!(joined["type"], "joined", "{joined}");
        (client, joined)
    }

    /// Sends an upgrade request, well-formed but for what path and headers say, and takes the
    /// answer, whatever it is.
    ///
    /// # Panics
    /// If no whole answer comes.
    #[track_caller]
    pub fn upgrade(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        self.send_bytes(&upgrade_request(path, headers));
        self.recv_response(false)
    }

    #[track_caller]
    fn upgrade_expecting_101(&mut self, path: &str, headers: &[(&str, &str)]) -> Response {
        let response = self.upgrade(path, headers);
        assert_eq!(response.status, 101, "{path}: {}", String::from_utf8_lossy(&response.body));
        let accept = response.header("sec-websocket-accept");
        assert_eq!(accept, Some(ACCEPT), "RFC 6455 section 1.3: the answer to the sample key");
        response
    }

    /// Changes how long receiving may take.
    pub fn set_deadline(&mut self, deadline: Duration) {
        self.deadline = deadline;
    }

    /// This end's address.
    ///
    /// # Panics
    /// If the socket has none.
    pub fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().expect("a connected socket")
    }

    /// The socket itself.
    pub fn stream(&self) -> &TcpStream {
        &self.stream
    }

    // Sending.

    /// Sends a text message.
    #[track_caller]
    pub fn send_text(&mut self, text: &str) {
        self.send_frame(true, 0, opcode::TEXT, true, text.as_bytes());
    }

    /// Sends a text message of JSON.
    #[track_caller]
    pub fn send_json(&mut self, value: &Value) {
        self.send_text(&value.to_string());
    }

    /// Sends a binary message.
    #[track_caller]
    pub fn send_binary(&mut self, bytes: &[u8]) {
        self.send_frame(true, 0, opcode::BINARY, true, bytes);
    }

    /// Sends a ping.
    #[track_caller]
    pub fn send_ping(&mut self, payload: &[u8]) {
        self.send_frame(true, 0, opcode::PING, true, payload);
    }

    /// Sends a close frame with a code and no reason.
    #[track_caller]
    pub fn send_close(&mut self, code: u16) {
        self.send_frame(true, 0, opcode::CLOSE, true, &code.to_be_bytes());
    }

    /// Sends one frame, right or wrong. A masked one gets a key drawn for it.
    #[track_caller]
    pub fn send_frame(&mut self, fin: bool, rsv: u8, opcode: u8, masked: bool, payload: &[u8]) {
        self.send_bytes(&frame::encode(fin, rsv, opcode, masked, payload));
    }

    /// Sends bytes as they are.
    ///
    /// # Panics
    /// If the connection does not take them within the deadline.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.try_send_bytes(bytes).expect("send");
    }

    /// As [`Client::send_bytes`], where the server may have closed already.
    ///
    /// # Errors
    /// What the socket said.
    pub fn try_send_bytes(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends FIN; receiving goes on.
    ///
    /// # Panics
    /// If the connection is gone already.
    #[track_caller]
    pub fn shutdown_write(&mut self) {
        self.stream.shutdown(Shutdown::Write).expect("FIN");
    }

    /// Ends the connection with RST.
    ///
    /// # Panics
    /// If the socket does not take the option.
    pub fn reset(self) {
        SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)).expect("SO_LINGER");
    }

    // Receiving.

    /// Takes the next frame.
    ///
    /// # Panics
    /// If none comes.
    #[track_caller]
    pub fn recv(&mut self) -> Frame {
        self.try_recv().unwrap_or_else(|end| panic!("no frame: {end:?}"))
    }

    /// Takes the next frame.
    ///
    /// # Errors
    /// Why none came.
    pub fn try_recv(&mut self) -> Result<Frame, End> {
        let until = Instant::now() + self.deadline;
        loop {
            if let Some((frame, len)) = frame::decode(&self.received[self.taken..]) {
                self.taken += len;
                return Ok(frame);
            }
            self.fill(until)?;
        }
    }

    /// Takes the next frame, which is a whole text message of JSON.
    ///
    /// # Panics
    /// If something else comes.
    #[track_caller]
    pub fn recv_json(&mut self) -> Value {
        self.recv().json()
    }

    /// Takes messages up to the first for which `wanted` holds; gives them all, that one last.
    ///
    /// # Panics
    /// If something else than JSON comes, or nothing more.
    #[track_caller]
    pub fn recv_until(&mut self, mut wanted: impl FnMut(&Value) -> bool) -> Vec<Value> {
        let mut messages = Vec::new();
        loop {
            let message = self.recv_json();
            let found = wanted(&message);
            messages.push(message);
            if found {
                return messages;
            }
        }
    }

    /// Takes messages up to the first whose `type` is `kind`, and gives that one.
    ///
    /// # Panics
    /// If something else than JSON comes, or nothing more.
    #[track_caller]
    pub fn recv_type(&mut self, kind: &str) -> Value {
        self.recv_until(|message| message["type"] == kind).pop().expect("the last one")
    }

    /// Takes messages up to the first with this content, and gives that one.
    ///
    /// # Panics
    /// If something else than JSON comes, or nothing more.
    #[track_caller]
    pub fn recv_content(&mut self, content: impl Into<Value>) -> Value {
        let content = content.into();
        self.recv_until(|message| message["content"] == content).pop().expect("the last one")
    }

    /// Pings, and gives everything that came before the pong: what was on its way is here then,
    /// and on `/echo` what has not come will not come for anything sent before this call. In a room
    /// a pong may pass what was said just before it: there, say something and wait for that.
    ///
    /// # Panics
    /// If no pong comes.
    #[track_caller]
    pub fn sync(&mut self) -> Vec<Frame> {
        self.pings += 1;
        let payload = format!("sync {}", self.pings).into_bytes();
        self.send_ping(&payload);
        let pong = Frame::new(opcode::PONG, payload);
        let mut before = Vec::new();
        loop {
            let frame = self.recv();
            if frame == pong {
                return before;
            }
            before.push(frame);
        }
    }

    /// Takes everything up to the close frame, which must carry `code`; gives its reason.
    ///
    /// # Panics
    /// If none comes, or another code.
    #[track_caller]
    pub fn expect_close(&mut self, code: u16) -> String {
        loop {
            let frame = self.recv();
            if frame.opcode == opcode::CLOSE {
                let (got, reason) = frame.close_code();
                assert_eq!(got, code, "{reason}");
                return reason;
            }
        }
    }

    /// Takes everything up to the end of the connection; gives how it ended and what came.
    ///
    /// # Panics
    /// If it does not end within the deadline.
    #[track_caller]
    pub fn expect_end(&mut self) -> (End, Vec<Frame>) {
        let mut frames = Vec::new();
        loop {
            match self.try_recv() {
                Ok(frame) => frames.push(frame),
                Err(End::TimedOut) => panic!("still open after {:?}", self.deadline),
                Err(end) => return (end, frames),
            }
        }
    }

    /// Closes as RFC 6455 section 7.1.2 wants it, and waits for the server's end of it.
    ///
    /// # Panics
    /// If the server does not answer with the same code and FIN.
    #[track_caller]
    pub fn close(mut self) {
        self.send_close(1000);
        self.expect_close(1000);
        let (end, after) = self.expect_end();
        assert_eq!((end, after), (End::Eof, Vec::new()), "nothing follows a close frame");
    }

    // Bytes.

    /// Takes all bytes until the server ends the connection in order.
    ///
    /// # Errors
    /// Where it ends otherwise.
    pub fn take_all(&mut self) -> Result<Vec<u8>, End> {
        let until = Instant::now() + self.deadline;
        loop {
            match self.fill(until) {
                Ok(()) => {}
                Err(End::Eof) => return Ok(self.taken_to(self.received.len())),
                Err(end) => return Err(end),
            }
        }
    }

    /// Takes so many bytes.
    ///
    /// # Errors
    /// Why they did not come.
    pub fn take(&mut self, count: usize) -> Result<Vec<u8>, End> {
        let until = Instant::now() + self.deadline;
        while self.received.len() - self.taken < count {
            self.fill(until)?;
        }
        Ok(self.taken_to(self.taken + count))
    }

    /// Takes all bytes up to and with the mark.
    ///
    /// # Errors
    /// Why it did not come.
    pub fn take_until(&mut self, mark: &[u8]) -> Result<Vec<u8>, End> {
        let until = Instant::now() + self.deadline;
        loop {
            let mut windows = self.received[self.taken..].windows(mark.len());
            if let Some(at) = windows.position(|window| window == mark) {
                return Ok(self.taken_to(self.taken + at + mark.len()));
            }
            self.fill(until)?;
        }
    }

    /// Receives so many bytes more, and leaves them to be taken: a reader that reads a little.
    ///
    /// # Errors
    /// Why they did not come.
    pub fn receive(&mut self, count: usize) -> Result<(), End> {
        let until = Instant::now() + self.deadline;
        let wanted = self.received.len() - self.taken + count;
        while self.received.len() - self.taken < wanted {
            self.fill(until)?;
        }
        Ok(())
    }

    fn taken_to(&mut self, end: usize) -> Vec<u8> {
        let bytes = self.received[self.taken..end].to_vec();
        self.taken = end;
        bytes
    }

    fn fill(&mut self, until: Instant) -> Result<(), End> {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::TimedOut);
        }
        self.stream.set_read_timeout(Some(left)).expect("SO_RCVTIMEO");
        self.received.drain(..self.taken);
        self.taken = 0;
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(End::Eof),
            Ok(count) => {
                self.received.extend_from_slice(&chunk[..count]);
                Ok(())
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => Err(End::TimedOut),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => Err(End::Reset),
                io::ErrorKind::Interrupted => Ok(()),
                _ => panic!("receive: {error}"),
            },
        }
    }
}

/// RFC 6455 section 1.3: the sample key and its answer.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// The bytes of an upgrade request. A header of the caller's takes the place of ours of that name;
/// one with an empty value takes it away.
pub fn upgrade_request(path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let ours = [
        ("Host", "ringhall.test"),
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
    ];
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    let replaced = |name: &str| headers.iter().any(|header| header.0.eq_ignore_ascii_case(name));
    let kept = ours.iter().filter(|header| !replaced(header.0));
    for (name, value) in kept.chain(headers.iter().filter(|header| !header.1.is_empty())) {
        request.push_str(&format!("{name}: {value}\r\n"));
    }
    request.push_str("\r\n");
    request.into_bytes()
}
