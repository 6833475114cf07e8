//! How many connections a server says that it holds, and how many it does hold.
//!
//! In:    a server; as many clients as it takes.
//! Out:   both numbers.
//! Never: counts a client that was not answered.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Client, Server};

/// What a server says at its start.
#[derive(Debug)]
pub struct Promise {
    /// `connections_max`.
    pub connections: usize,
    /// What binds first.
    pub bounded_by: String,
    /// `shards`.
    pub shards: usize,
}

/// Reads it from the server's one line of log.
///
/// # Panics
/// If it is not there.
#[track_caller]
pub fn logged(server: &Server) -> Promise {
    let line = server.wait_log("ringhall is open");
    let behind = |key: &str| {
        let at = line.find(key).unwrap_or_else(|| panic!("no {key}: {line}"));
        &line[at + key.len()..]
    };
    let number = |key: &str| {
        let digits: String = behind(key).chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap_or_else(|_| panic!("{key} is no number: {line}"))
    };
    let said = behind(" bounded_by=");
    let end = said.find(" config=").unwrap_or(said.len());
    Promise {
        connections: number(" connections_max="),
        bounded_by: said[..end].to_owned(),
        shards: number(" shards="),
    }
}

/// Members of rooms of their own, as many as are let in.
#[derive(Debug)]
pub struct Fill {
    /// How many were, before the first was refused.
    pub members: usize,
    /// The code of the refusal.
    pub refusal: String,
    _clients: Vec<Client>,
}

impl Fill {
    /// Comes until somebody is refused.
    ///
    /// # Panics
    /// If nobody of `most` is, or a refusal is none that asks to come back later.
    #[track_caller]
    pub fn until_refused(server: &Server, most: usize) -> Self {
        let mut clients = Vec::new();
        for n in 0..most {
            let mut client = Client::raw(server.address());
            let response = client.upgrade(&format!("/ws/fill{n}/user"), &[]);
            if response.status != 101 {
                assert_eq!(response.status, 503, "{n}");
                let seconds = response.header("retry-after").and_then(|text| text.parse().ok());
                assert!(seconds.is_some_and(|seconds: u32| (1..=10).contains(&seconds)), "{n}");
                let refusal = response.json()["error"].as_str().expect("a code").to_owned();
                return Self { members: clients.len(), refusal, _clients: clients };
            }
            clients.push(client);
        }
        panic!("none of {most} was refused");
    }
}

/// # Panics
/// If the two are further apart.
#[track_caller]
pub fn expect_within_a_tenth(held: usize, promised: usize) {
    assert!(held.abs_diff(promised) * 10 <= promised, "{held} were held, {promised} promised");
}

/// Lets this process open as many files as it may.
///
/// # Panics
/// If the limit cannot be set to what it may be set to.
pub fn raise_own_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).expect("a limit may be raised to its maximum");
}
