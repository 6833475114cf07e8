//! What it costs a shard that `/metrics` is scraped ten times a second.
//!
//! In:    how many pairs of windows.
//! Out:   CPU time of the shard's thread with and without, and of the main thread; the median of
//!        all pairs. The numbers that are scraped agree with what was said.
//! Never: compares windows that are not neighbours in time.
//!
//! The load is an open loop, so that each window has the same work in it, and CPU time alone
//! differs. It runs without a pause, and the windows change places from pair to pair: what the box
//! does meanwhile is on both accounts. The server has core 0, the load and the scrapes core 1.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use ringhall::bench::{self, Bench, Format, Shape, Span, Target};

use crate::Options;
use crate::boxes::neighbours::Neighbours;
use crate::report::Report;
use crate::server::{Server, pin};

/// Pairs of windows, where none are asked for.
const PAIRS: usize = 40;
/// Fewer pairs than these say that scraping works, and nothing of its cost.
const JUDGED_PAIRS: usize = 20;
/// Pairs at rest, where CPU time hardly spreads.
const REST_PAIRS: usize = 5;
/// Scrapes of a window, and how far apart they begin: ten a second.
const SCRAPES: u32 = 5;
const EVERY: Duration = Duration::from_millis(100);
/// What is said: rooms, members, messages a second. Less than half a core on a box with nothing
/// else to do, so that nothing waits.
const ROOMS: usize = 100;
const MEMBERS: usize = 10;
const RATE: f64 = 12_000.0;
/// What a server touches first, it touches within this.
const WARMUP: Duration = Duration::from_secs(1);
/// How long the load may take to connect, and its last message to be counted.
const DEADLINE: Duration = Duration::from_secs(20);
/// Target, in percent of the shard's CPU time.
const COST_MAX: f64 = 1.0;

/// Standard error of a median, of many, in units of MAD / sqrt(n): sqrt(pi / 2) times the 1.4826
/// that make a MAD a standard deviation (both for normal errors).
const MEDIAN_ERROR: f64 = 1.858;

/// CPU seconds a second.
#[derive(Clone, Copy, Debug)]
struct Window {
    shard: f64,
    main: f64,
}

/// Measures, and checks what was scraped.
///
/// # Errors
/// Where the box or the server fails, a message is lost, or a scrape is wrong.
pub fn run(options: &Options) -> io::Result<Report> {
    let mut report = Report::new("scrape");
    let pairs = options.rounds.unwrap_or(PAIRS);
    pin(0)?;
    let server = Server::start(&options.binary, &["--log", "info", "--shards", "1"])?;
    pin(1)?;
    report.say(format_args!(
        "{ROOMS} rooms x {MEMBERS}, {RATE} messages a second; {pairs} pairs of windows of {:?}, \
         one of each with a scrape every {EVERY:?}",
        EVERY * SCRAPES
    ));
    let windows = 2 * u32::try_from(pairs).map_err(io::Error::other)?;
    let load = load(&server, EVERY * SCRAPES * windows)?;
    let mut scraper = Scraper::connect(&server)?;
    let said_before = scraper.scrape()?;
    say_rest(&mut report, &server, &mut scraper)?;
    let loading = std::thread::spawn(move || bench::run(&load));
    if !server.wait("websockets", (ROOMS * MEMBERS) as u64, DEADLINE)? {
        return Err(io::Error::other("the load has not connected in time"));
    }
    std::thread::park_timeout(WARMUP);
    let neighbours = Neighbours::watch()?;
    let mut measured = Vec::with_capacity(pairs);
    for pair in 0..pairs {
        let is_first_scraped = pair % 2 == 0;
        let first = window(&server, is_first_scraped.then_some(&mut scraper))?;
        let second = window(&server, (!is_first_scraped).then_some(&mut scraper))?;
        measured.push(if is_first_scraped { (first, second) } else { (second, first) });
    }
    let others = neighbours.percent()?;
    let found = loading.join().map_err(|_| io::Error::other("the load has panicked"))?;
    let sent = found.map_err(io::Error::other)?.messages;
    say(&mut report, &measured);
    report.figure("the box was busy with others", others, "%");
    // The load has outlasted the windows by more than an idle connection is kept.
    let scrapes = scraper.scrapes;
    let mut scraper = Scraper::connect(&server)?;
    let until = Instant::now() + DEADLINE;
    let mut counted = scraper.scrape()? - said_before;
    while counted != sent && Instant::now() < until {
        std::thread::park_timeout(EVERY);
        counted = scraper.scrape()? - said_before;
    }
    let found =
        format_args!("{sent} said, {counted} scraped in {} scrapes", scrapes + scraper.scrapes);
    report.check("what is scraped is what was said", counted == sent, found);
    Ok(report)
}

fn load(server: &Server, measured: Duration) -> io::Result<bench::Options> {
    let target = Target::parse(&format!("ws://127.0.0.1:{}", server.port));
    let shape = Shape {
        format: Format::Raw,
        rooms: ROOMS,
        members: MEMBERS,
        publishers: 1,
        window: 1,
        bytes: 64,
        rate: Some(RATE),
    };
    // It goes on until the last window is over, whatever the windows lose to the box.
    let measured = measured + measured / 4 + WARMUP;
    Ok(bench::Options {
        target: target.map_err(io::Error::other)?,
        bench: Bench::Fanout(shape),
        span: Span { warmup: WARMUP, measured, pid: None },
        cpu: None,
        progress: false,
    })
}

/// What scraping costs a shard that does nothing else: nobody wakes it for a scrape.
fn say_rest(report: &mut Report, server: &Server, scraper: &mut Scraper) -> io::Result<()> {
    std::thread::park_timeout(WARMUP);
    let mut costs = Vec::with_capacity(REST_PAIRS);
    for _ in 0..REST_PAIRS {
        let without = window(server, None)?;
        costs.push(window(server, Some(scraper))?.shard - without.shard);
    }
    let cost = middle(costs.into_iter()) * EVERY.as_secs_f64() * 1e6;
    report.figure("shard at rest", cost, "us of CPU a scrape");
    Ok(())
}

/// One window, with scrapes or without.
fn window(server: &Server, mut scraper: Option<&mut Scraper>) -> io::Result<Window> {
    let begun = Instant::now();
    let (shard, main) = (server.thread_seconds("shard")?, server.thread_seconds("ringhall")?);
    for scrape in 1..=SCRAPES {
        if let Some(scraper) = &mut scraper {
            scraper.scrape()?;
        }
        while let left @ 1.. = (begun + EVERY * scrape - Instant::now()).as_nanos() {
            std::thread::park_timeout(Duration::from_nanos(left as u64));
        }
    }
    let took = begun.elapsed().as_secs_f64();
    Ok(Window {
        shard: (server.thread_seconds("shard")? - shard) / took,
        main: (server.thread_seconds("ringhall")? - main) / took,
    })
}

/// The first of each pair was scraped.
fn say(report: &mut Report, pairs: &[(Window, Window)]) {
    let busy = |window: fn(&(Window, Window)) -> f64| 100.0 * middle(pairs.iter().map(window));
    report.figure("shard without scrapes", busy(|pair| pair.1.shard), "% of a core");
    report.figure("shard with scrapes", busy(|pair| pair.0.shard), "% of a core");
    let scrapes = 1.0 / EVERY.as_secs_f64();
    let main = middle(pairs.iter().map(|(with, without)| with.main - without.main));
    report.figure("main thread", main / scrapes * 1e6, "us of CPU a scrape");
    let costs: Vec<_> = pairs.iter().map(|(with, without)| with.shard / without.shard).collect();
    let cost = middle(costs.iter().copied());
    let spread = middle(costs.iter().map(|one| (one - cost).abs()));
    report.figure("spread of a pair (MAD)", 100.0 * spread, "% of the shard's CPU");
    let percent = 100.0 * (cost - 1.0);
    let error = 100.0 * MEDIAN_ERROR * spread / (pairs.len() as f64).sqrt();
    report.figure("standard error of the median", error, "% of the shard's CPU");
    if pairs.len() < JUDGED_PAIRS {
        report.figure("scraping (too few pairs to judge)", percent, "% of the shard's CPU");
    } else {
        let what = format!("scraping costs the shard < {COST_MAX} % of its CPU");
        let found =
            format_args!("{percent:.2} +- {error:.2} % (a large error wants a quieter box)");
        report.check(&what, percent < COST_MAX, found);
    }
}

fn middle(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    let (low, high) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
    f64::midpoint(low, high)
}

/// One connection that is kept, as Prometheus keeps it.
struct Scraper {
    stream: BufReader<TcpStream>,
    scrapes: u64,
    messages: u64,
}

impl Scraper {
    fn connect(server: &Server) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&server.admin(), DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream: BufReader::new(stream), scrapes: 0, messages: 0 })
    }

    /// `ringhall_messages_received_total`, out of a whole answer.
    fn scrape(&mut self) -> io::Result<u64> {
        let request = b"GET /metrics HTTP/1.1\r\nHost: bench\r\n\r\n";
        self.stream.get_mut().write_all(request)?;
        let (mut status, mut length) = (String::new(), None);
        self.stream.read_line(&mut status)?;
        loop {
            let mut line = String::new();
            self.stream.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            match line.split_once(": ") {
                Some(("content-length", number)) => length = number.parse().ok(),
                Some(_) => {}
                None if line.is_empty() => break,
                None => return Err(io::Error::other(format!("no header: {line}"))),
            }
        }
        let length: usize = length.ok_or_else(|| io::Error::other("an answer of no length"))?;
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body)?;
        let body = String::from_utf8_lossy(&body);
        if !status.starts_with("HTTP/1.1 200 ") {
            return Err(io::Error::other(format!("{}: {body}", status.trim_end())));
        }
        let name = "\nringhall_messages_received_total ";
        let number = body.split_once(name).and_then(|(_, rest)| rest.lines().next()?.parse().ok());
        let messages = number.ok_or_else(|| io::Error::other(format!("none received: {body}")))?;
        if messages < self.messages {
            let before = self.messages;
            return Err(io::Error::other(format!("a counter fell from {before} to {messages}")));
        }
        self.messages = messages;
        self.scrapes += 1;
        Ok(messages)
    }
}
