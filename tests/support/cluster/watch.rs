//! Looks at `/health` of every node all the time, and notes when it changed.
//!
//! In:    admin addresses.
//! Out:   when a node was first seen in a state.
//! Never: outlives its handle.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::DEADLINE;

/// Pause between two looks: far below the shortest time that a test asks for.
const PAUSE: Duration = Duration::from_millis(20);

/// A node's state, new at that moment.
#[derive(Clone, Debug)]
pub struct Sighting {
    /// When the answer had come.
    pub at: Instant,
    /// Which node.
    pub node: usize,
    /// `status` of `/health`; empty where it does not answer.
    pub status: String,
}

/// Watches on a thread of its own.
#[derive(Debug)]
pub struct Watch {
    sightings: Arc<Mutex<Vec<Sighting>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Watches these.
    pub fn start(admins: Vec<(usize, SocketAddr)>) -> Self {
        let (sightings, over) =
            (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let (into, end) = (Arc::clone(&sightings), Arc::clone(&over));
        let thread = std::thread::spawn(move || {
            let mut last = vec![String::new(); admins.len()];
            while !end.load(Ordering::Relaxed) {
                let mut news = changes(&admins, &mut last);
                into.lock().unwrap_or_else(PoisonError::into_inner).append(&mut news);
                std::thread::park_timeout(PAUSE);
            }
        });
        Self { sightings, over, thread: Some(thread) }
    }

    /// When a node was first seen with this status from `after` on.
    pub fn first(&self, node: usize, status: &str, after: Instant) -> Option<Instant> {
        let sightings = self.sightings.lock().unwrap_or_else(PoisonError::into_inner);
        let found = sightings.iter().find(|sighting| {
            sighting.node == node && sighting.status == status && sighting.at >= after
        });
        found.map(|sighting| sighting.at)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the watch panicked");
        }
    }
}

/// Looks at each once; who is not as it was at the last look.
fn changes(admins: &[(usize, SocketAddr)], last: &mut [String]) -> Vec<Sighting> {
    let mut news = Vec::new();
    for ((node, admin), last) in admins.iter().zip(last) {
        let status = look(*admin).unwrap_or_default();
        if status != *last {
            last.clone_from(&status);
            news.push(Sighting { at: Instant::now(), node: *node, status });
        }
    }
    news
}

fn look(admin: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&admin, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    write!(stream, "GET /health HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let health: Value = serde_json::from_str(body)?;
    Ok(health["status"].as_str().unwrap_or_default().to_owned())
}
