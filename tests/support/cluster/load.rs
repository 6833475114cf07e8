//! Rooms full of members on every node, and 1 000 messages a second among them.
//!
//! In:    where the nodes are; when to begin, rest and settle; which node was killed.
//! Out:   the book of everything that was said and heard.
//! Never: paces by what comes back: it says what is due, whatever the boxes do.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::book::{Book, Life, Member, Message, Micros, Mode, Room, Speaker};
use crate::support::{DEADLINE, encode, eventually, opcode, upgrade_request};

/// Rooms.
pub const ROOMS: usize = 30;
/// Every so many is a raw room.
const RAW_EVERY: usize = 5;
/// In every so many the speakers do not hear themselves.
const DEAF_EVERY: usize = 4;
/// Messages a second, of all speakers together.
pub const PER_SECOND: u64 = 1000;
/// Times that everybody may say a last word until everybody has heard it.
const ROUNDS: usize = 8;
/// How long a last word may travel; a slow broker takes less.
const ROUND: Duration = Duration::from_secs(3);

/// A seat that is to be taken.
#[derive(Clone, Debug)]
struct Seat {
    member: usize,
    speaker: Option<usize>,
    address: SocketAddr,
    path: String,
    mode: Mode,
}

#[derive(Debug)]
enum Order {
    /// Takes the seats, one after another, and answers when all are in.
    Join(Vec<Seat>, mpsc::Sender<()>),
    /// Everybody who can says one thing; answers when it is said.
    Round(mpsc::Sender<()>),
}

#[derive(Debug)]
struct Shared {
    book: Mutex<Book>,
    began: Instant,
    pacing: AtomicBool,
    said: AtomicU64,
    over: AtomicBool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Micros {
        micros(self.began.elapsed())
    }
}

fn micros(time: Duration) -> Micros {
    Micros::try_from(time.as_micros()).expect("a test is short")
}

/// The load, on a thread of its own.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    orders: UnboundedSender<Order>,
    thread: Option<JoinHandle<()>>,
}

impl Load {
    /// Puts two members of every room on every node: one speaks, one listens. Returns when all are
    /// in; nobody speaks yet.
    ///
    /// # Panics
    /// If they cannot join.
    #[track_caller]
    pub fn start(nodes: &[SocketAddr]) -> Self {
        let rooms = (0..ROOMS).map(|number| Room {
            name: format!("room{number}"),
            mode: if number % RAW_EVERY == RAW_EVERY - 1 { Mode::Raw } else { Mode::Json },
        });
        let book = Book { rooms: rooms.collect(), ..Book::default() };
        let shared = Arc::new(Shared {
            book: Mutex::new(book),
            began: Instant::now(),
            pacing: AtomicBool::new(false),
            said: AtomicU64::new(0),
            over: AtomicBool::new(false),
        });
        let (orders, taken) = unbounded_channel();
        let inner = Arc::clone(&shared);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.expect("a runtime");
            tokio::task::LocalSet::new().block_on(&runtime, drive(inner, taken));
        });
        let load = Self { shared, orders, thread: Some(thread) };
        for &address in nodes {
            load.add_node(address);
        }
        load
    }

    /// Fills every room on one more node.
    ///
    /// # Panics
    /// If they cannot join.
    #[track_caller]
    pub fn add_node(&self, address: SocketAddr) -> usize {
        let mut book = self.shared.lock();
        let node = book.nodes.len();
        book.nodes.push(Life::default());
        let mut seats = Vec::new();
        for speaks in [true, false] {
            for room in 0..ROOMS {
                seats.push(reserve(&mut book, room, node, speaks, address));
            }
        }
        drop(book);
        let (done, wait) = mpsc::channel();
        self.order(Order::Join(seats, done));
        wait.recv_timeout(DEADLINE * 2).expect("everybody joins; who cannot says why above");
        node
    }

    fn order(&self, order: Order) {
        self.orders.send(order).expect("the load's thread runs; why not stands above");
    }

    /// The book as it is now.
    pub fn book(&self) -> Book {
        self.shared.lock().clone()
    }

    /// Looks into the book.
    pub fn read<T>(&self, look: impl FnOnce(&Book) -> T) -> T {
        look(&self.shared.lock())
    }

    /// The load's time.
    pub fn now(&self) -> Micros {
        self.shared.now()
    }

    /// A moment in the load's time.
    pub fn time_of(&self, moment: Instant) -> Micros {
        micros(moment.saturating_duration_since(self.shared.began))
    }

    /// Speaks from now on.
    pub fn begin(&self) {
        self.shared.pacing.store(true, Ordering::Relaxed);
    }

    /// Speaks no more.
    pub fn rest(&self) {
        self.shared.pacing.store(false, Ordering::Relaxed);
    }

    /// Waits until so many seconds' messages more are said.
    ///
    /// # Panics
    /// If the load cannot keep up by far.
    #[track_caller]
    pub fn pass(&self, seconds: f64) {
        let target = self.shared.said.load(Ordering::Relaxed) as f64 + seconds * PER_SECOND as f64;
        let deadline = DEADLINE + Duration::from_secs_f64(seconds * 2.0);
        eventually(deadline, "the load says what is due", || {
            self.shared.said.load(Ordering::Relaxed) as f64 >= target
        });
    }

    /// Writes down that a node was killed.
    pub fn lose_node(&self, node: usize, at: Instant) {
        let at = self.time_of(at);
        self.shared.lock().nodes[node].until = Some(at);
    }

    /// Lets everybody who lives say a last word, again and again, until everybody has heard one of
    /// everybody: whatever was said before it has been heard then, or never will be.
    ///
    /// # Panics
    /// If that does not come to pass.
    #[track_caller]
    pub fn settle(&self) {
        self.rest();
        for round in 1..=ROUNDS {
            let (done, wait) = mpsc::channel();
            self.order(Order::Round(done));
            wait.recv_timeout(DEADLINE).expect("the load's thread runs");
            let wanted: Vec<usize> =
                self.read(|book| book.speakers.iter().map(|each| each.said.len()).collect());
            let until = Instant::now() + ROUND;
            let mut open = Vec::new();
            while Instant::now() < until {
                open = self.read(|book| unheard(book, &wanted));
                if open.is_empty() {
                    return;
                }
                std::thread::park_timeout(Duration::from_millis(5));
            }
            assert!(round < ROUNDS, "after {ROUNDS} last words, not heard: {open:?}");
        }
    }
}

/// Who has not heard the last word of whom.
fn unheard(book: &Book, wanted: &[usize]) -> Vec<String> {
    let lives = |member: &Member| book.nodes[member.node].until.is_none();
    let mut open = Vec::new();
    for (speaker, count) in wanted.iter().enumerate() {
        let from = &book.members[book.speakers[speaker].member];
        if !lives(from) || *count == 0 {
            continue;
        }
        let listeners = book.members.iter().filter(|member| {
            let deaf = member.speaker == Some(speaker) && !member.echo;
            member.room == from.room && lives(member) && !deaf
        });
        let missing = listeners
            .filter(|member| member.newest.get(&speaker).is_none_or(|newest| newest + 1 < *count));
        open.extend(missing.map(|to| format!("{} by {} on {}", from.user, to.user, to.node)));
    }
    open
}

/// Writes a member into the book before it connects.
fn reserve(book: &mut Book, room: usize, node: usize, speaks: bool, address: SocketAddr) -> Seat {
    let member = book.members.len();
    let speaker = speaks.then_some(book.speakers.len());
    if speaks {
        book.speakers.push(Speaker { member, said: Vec::new(), refused: Default::default() });
    }
    let mode = book.rooms[room].mode;
    let echo = !speaks || mode == Mode::Raw || !room.is_multiple_of(DEAF_EVERY);
    let user = format!("u{member}");
    let query = if echo { "" } else { "?echo=false" };
    let path = format!("/ws/{}/{user}{query}", book.rooms[room].name);
    book.members.push(Member { room, node, user, echo, speaker, ..Member::default() });
    Seat { member, speaker, address, path, mode }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the load panicked");
        }
    }
}

/// A member who can speak.
struct Talker {
    speaker: usize,
    out: UnboundedSender<Vec<u8>>,
}

impl Talker {
    /// Says the next thing; `false` where the connection has ended.
    fn say(&self, shared: &Shared) -> bool {
        if self.out.is_closed() {
            return false;
        }
        let at = shared.now();
        let (Message { .. }, text) = shared.lock().say(self.speaker, at);
        self.out.send(encode(true, 0, opcode::TEXT, true, text.as_bytes())).is_ok()
    }
}

async fn drive(shared: Arc<Shared>, mut orders: UnboundedReceiver<Order>) {
    let period = Duration::from_secs(1) / u32::try_from(PER_SECOND).expect("a small number");
    let mut talkers: Vec<Talker> = Vec::new();
    let mut due = tokio::time::Instant::now();
    let mut turn = 0;
    while !shared.over.load(Ordering::Relaxed) {
        tokio::select! {
            biased;
            order = orders.recv() => match order {
                Some(Order::Join(seats, done)) => {
                    for seat in seats {
                        talkers.extend(take_seat(&shared, &seat).await);
                    }
                    let _ = done.send(());
                    due = tokio::time::Instant::now();
                }
                Some(Order::Round(done)) => {
                    talkers.retain(|talker| talker.say(&shared));
                    let _ = done.send(());
                }
                None => return,
            },
            () = tokio::time::sleep_until(due) => {
                due += period;
                if !shared.pacing.load(Ordering::Relaxed) {
                    due = tokio::time::Instant::now() + period;
                } else if !talkers.is_empty() {
                    turn = (turn + 1) % talkers.len();
                    if talkers[turn].say(&shared) {
                        shared.said.fetch_add(1, Ordering::Relaxed);
                    } else {
                        talkers.swap_remove(turn);
                    }
                }
            }
        }
    }
}

/// Connects a member and waits until it is in.
async fn take_seat(shared: &Arc<Shared>, seat: &Seat) -> Option<Talker> {
    let stream = TcpStream::connect(seat.address).await.expect("the node listens");
    stream.set_nodelay(true).expect("TCP_NODELAY");
    let (mut from, mut to) = stream.into_split();
    let raw = [("Sec-WebSocket-Protocol", "ringhall.raw")];
    let headers: &[_] = if seat.mode == Mode::Raw { &raw } else { &[] };
    to.write_all(&upgrade_request(&seat.path, headers)).await.expect("the node reads");
    let mut received = Vec::new();
    let head = loop {
        let end = received.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            break end + 4;
        }
        let count = from.read_buf(&mut received).await.expect("the node answers");
        assert!(count > 0, "{}: no answer: {}", seat.path, String::from_utf8_lossy(&received));
    };
    let answer = String::from_utf8_lossy(&received).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{}: {answer}", seat.path);
    received.drain(..head);
    let (out, frames) = unbounded_channel();
    if seat.mode == Mode::Raw {
        let now = shared.now();
        shared.lock().members[seat.member].joined = Some(now);
    }
    let (pongs, member) = (out.clone(), seat.member);
    tokio::task::spawn_local(write(to, frames));
    tokio::task::spawn_local(listen(Arc::clone(shared), member, from, received, pongs));
    let until = tokio::time::Instant::now() + DEADLINE;
    while shared.lock().members[seat.member].joined.is_none() {
        assert!(tokio::time::Instant::now() < until, "{}: not in", seat.path);
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    seat.speaker.map(|speaker| Talker { speaker, out })
}

async fn write(mut to: OwnedWriteHalf, mut frames: UnboundedReceiver<Vec<u8>>) {
    while let Some(frame) = frames.recv().await {
        // A connection that is gone is noticed by its reader.
        if to.write_all(&frame).await.is_err() {
            return;
        }
    }
}

/// Writes down the end, however the reading ends.
struct Ending {
    shared: Arc<Shared>,
    member: usize,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let now = self.shared.now();
        if !self.shared.over.load(Ordering::Relaxed) {
            self.shared.lock().members[self.member].ended = Some(now);
        }
    }
}

async fn listen(
    shared: Arc<Shared>,
    member: usize,
    mut from: OwnedReadHalf,
    mut received: Vec<u8>,
    pongs: UnboundedSender<Vec<u8>>,
) {
    let _ending = Ending { shared: Arc::clone(&shared), member };
    loop {
        let mut taken = 0;
        while let Some((frame, len)) = crate::support::decode(&received[taken..]) {
            taken += len;
            match frame.opcode {
                opcode::TEXT | opcode::BINARY => {
                    let now = shared.now();
                    shared.lock().hear(member, now, &frame.payload);
                }
                opcode::PING => {
                    let _ = pongs.send(encode(true, 0, opcode::PONG, true, &frame.payload));
                }
                opcode::CLOSE => {
                    let (code, reason) = frame.close_code();
                    let what = format!("close {code} {reason}");
                    shared.lock().members[member].strange.push(what);
                }
                _ => {}
            }
        }
        received.drain(..taken);
        match from.read_buf(&mut received).await {
            Ok(1..) => {}
            _ => return,
        }
    }
}
