//! Redis servers of a test's own: one, a cluster, sentinels, one with TLS.
//!
//! In:    settings as on the command line; signals.
//! Out:   addresses as `broker.url` takes them.
//! Never: outlives the test, or uses a fixed port.
//!
//! The program is `redis-server`, or what `REDIS_SERVER` names.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use redis::Value;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::support::{DEADLINE, eventually};

/// How often another port is tried where somebody took the one that was free.
const TRIES: usize = 5;

/// What a process of the program is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Plain,
    Sentinel,
    Tls,
}

/// One server.
#[derive(Debug)]
pub struct Redis {
    form: Form,
    child: Option<Child>,
    port: u16,
    folder: TempDir,
    settings: Vec<String>,
}

impl Redis {
    /// A server that writes everything down at once (AOF), so that it has its data after a kill.
    ///
    /// # Panics
    /// If it does not start; so do all that start one.
    #[track_caller]
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same with further settings: `["--requirepass", "secret"]`.
    #[track_caller]
    pub fn with(settings: &[&str]) -> Self {
        Self::launch(Form::Plain, settings, |_, _| Vec::new())
    }

    /// A server that speaks TLS alone, for the name `localhost`.
    #[track_caller]
    pub fn tls() -> Self {
        Self::launch(Form::Tls, &[], |folder, port| {
            make_certificates(folder);
            let file = |name: &str| folder.join(name).display().to_string();
            vec![
                "--tls-port".into(),
                port.to_string(),
                "--tls-cert-file".into(),
                file("server.pem"),
                "--tls-key-file".into(),
                file("server.key"),
                "--tls-ca-cert-file".into(),
                file("ca.pem"),
                "--tls-auth-clients".into(),
                "no".into(),
            ]
        })
    }

    /// A sentinel that watches a primary under the name `main` and acts alone, after half a second.
    #[track_caller]
    pub fn sentinel(primary: &Self) -> Self {
        let watched = format!(
            "sentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n",
            primary.port
        );
        Self::launch(Form::Sentinel, &[], |folder, _| {
            std::fs::write(folder.join("sentinel.conf"), &watched).expect("a folder of our own");
            Vec::new()
        })
    }

    #[track_caller]
    fn launch(form: Form, settings: &[&str], further: impl Fn(&Path, u16) -> Vec<String>) -> Self {
        for _ in 0..TRIES {
            let folder = TempDir::new().expect("a folder for the server");
            let port = free_port();
            let mut settings: Vec<_> = settings.iter().map(ToString::to_string).collect();
            settings.extend(further(folder.path(), port));
            let mut server = Self { form, child: None, port, folder, settings };
            if server.spawn() {
                return server;
            }
        }
        panic!("redis-server did not start on any of {TRIES} ports");
    }

    /// `false`: it ended before it was ready.
    #[track_caller]
    fn spawn(&mut self) -> bool {
        let program = std::env::var_os("REDIS_SERVER").unwrap_or_else(|| "redis-server".into());
        let mut command = Command::new(program);
        let port = self.port.to_string();
        if self.form == Form::Sentinel {
            command.arg(self.folder.path().join("sentinel.conf"));
        }
        command.args(["--bind", "127.0.0.1", "--daemonize", "no", "--dir"]);
        command.arg(self.folder.path());
        command.args(["--port", if self.form == Form::Tls { "0" } else { &port }]);
        if self.form == Form::Sentinel {
            command.arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]);
        }
        command.args(&self.settings);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn();
        let child = child.expect("redis-server runs: apt-get install redis-server (7 or later)");
        self.child = Some(child);
        let mut ended = false;
        eventually(DEADLINE, "redis-server is ready", || {
            let child = self.child.as_mut().expect("just started");
            ended = child.try_wait().expect("our own child").is_some();
            ended || self.is_ready()
        });
        if ended {
            self.child = None;
        }
        !ended
    }

    fn is_ready(&self) -> bool {
        if self.form == Form::Tls {
            return TcpStream::connect(("127.0.0.1", self.port)).is_ok();
        }
        let answer = self.try_command(&["PING"]);
        match answer {
            Ok(_) => true,
            Err(error) => matches!(error.code(), Some("NOAUTH")),
        }
    }

    /// `broker.url` of it.
    pub fn url(&self) -> String {
        match self.form {
            Form::Plain => format!("redis://127.0.0.1:{}", self.port),
            Form::Tls => format!("rediss://localhost:{}", self.port),
            Form::Sentinel => format!("redis+sentinel://127.0.0.1:{}/main", self.port),
        }
    }

    /// Its port on 127.0.0.1, the same after a restart.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The authority that signed its certificate.
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// Ends it with SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // An error means that it has ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Ends it in order.
    #[track_caller]
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(mut child) = self.child.take() {
            eventually(DEADLINE, "redis-server ends", || {
                child.try_wait().expect("our own child").is_some()
            });
        }
    }

    /// Starts it again on its port, after [`Redis::kill`] or [`Redis::stop`].
    #[track_caller]
    pub fn restart(&mut self, keep_data: bool) {
        self.kill();
        if !keep_data {
            let data = self.folder.path().join("appendonlydir");
            if data.exists() {
                std::fs::remove_dir_all(data).expect("the folder is ours");
            }
        }
        assert!(self.spawn(), "redis-server did not start again on port {}", self.port);
    }

    /// Stops it where it stands (SIGSTOP).
    #[track_caller]
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    #[track_caller]
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    #[track_caller]
    fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("it runs");
        kill_process(Pid::from_child(child), signal).expect("our own child, not yet waited for");
    }

    /// Sends a command over a connection of its own.
    ///
    /// # Panics
    /// If it is refused.
    #[track_caller]
    pub fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn try_command(&self, words: &[&str]) -> redis::RedisResult<Value> {
        let client = redis::Client::open(format!("redis://127.0.0.1:{}", self.port))?;
        let mut connection = client.get_connection_with_timeout(DEADLINE)?;
        connection.set_read_timeout(Some(DEADLINE))?;
        let (name, arguments) = words.split_first().expect("a command has a name");
        redis::cmd(name).arg(arguments).query(&mut connection)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Servers that share the slots.
#[derive(Debug)]
pub struct Cluster {
    /// They; each has an equal part of the slots.
    pub nodes: Vec<Redis>,
}

impl Cluster {
    /// So many servers, without replicas, that know each other.
    #[track_caller]
    pub fn start(servers: usize) -> Self {
        let nodes: Vec<_> = (0..servers).map(|_| clustered()).collect();
        for (at, node) in nodes.iter().enumerate() {
            let (from, to) = (16384 * at / servers, 16384 * (at + 1) / servers - 1);
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()]);
            let (port, bus) = (node.port.to_string(), bus_port(node));
            if at > 0 {
                nodes[0].command(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]);
            }
        }
        for node in &nodes {
            eventually(DEADLINE, "all slots of the cluster are held", || {
                let info = text(&node.command(&["CLUSTER", "INFO"]));
                info.contains("cluster_state:ok")
                    && info.contains(&format!("cluster_known_nodes:{servers}\r"))
            });
        }
        Self { nodes }
    }

    /// `broker.url` of it: the first server alone, who knows the others.
    pub fn url(&self) -> String {
        format!("redis+cluster://127.0.0.1:{}", self.nodes[0].port)
    }
}

#[track_caller]
fn clustered() -> Redis {
    Redis::launch(Form::Plain, &["--cluster-enabled", "yes"], |_, _| {
        vec!["--cluster-port".into(), free_port().to_string()]
    })
}

fn bus_port(node: &Redis) -> String {
    let at = node.settings.iter().position(|setting| setting == "--cluster-port");
    at.map(|at| node.settings[at + 1].clone()).expect("every server of a cluster has one")
}

/// The text of an answer, or nothing where it is none.
pub fn text(answer: &Value) -> String {
    match answer {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) | Value::VerbatimString { text, .. } => text.clone(),
        _ => String::new(),
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// An authority and a server's certificate for `localhost`, by the `openssl` program.
fn make_certificates(folder: &Path) {
    let openssl = |arguments: &[&str]| {
        let mut command = Command::new("openssl");
        let done = command.args(arguments).current_dir(folder).output();
        let done = done.expect("openssl runs: apt-get install openssl");
        assert!(done.status.success(), "openssl: {}", String::from_utf8_lossy(&done.stderr));
    };
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let with_key = |arguments: &[&'static str]| [&["req"], arguments, &key[..]].concat();
    openssl(&with_key(&[
        "-x509",
        "-days",
        "2",
        "-subj",
        "/CN=authority",
        "-keyout",
        "ca.key",
        "-out",
        "ca.pem",
    ]));
    openssl(&with_key(&["-subj", "/CN=localhost", "-keyout", "server.key", "-out", "server.csr"]));
    std::fs::write(folder.join("names"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        .expect("a folder of our own");
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-days",
        "2",
        "-CAcreateserial",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ]);
}
