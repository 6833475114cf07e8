//! From a configuration to running shards.
//!
//! In:    the configuration; what the box allows; sockets that a supervisor opened.
//! Out:   listening sockets, one thread a shard, the start's one line of log.
//! Never: runs after the first connection.
//!
//! Order: facts, limits, sockets, rings, then accept. Whatever fails says why before a client could
//! have connected.

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::thread::{CpuSet, sched_setaffinity};
use tokio::sync::{mpsc, watch};

use super::RunError;
use super::bridge::{self, Joined};
use super::health::Overseer;
use super::reserve;
use crate::bridge::Bridge;
use crate::config::{Config, Loaded, Placement as ConfigPlacement};
use crate::control::files::Files;
use crate::control::public::{Site, router};
use crate::control::{Bounds, Routes};
use crate::host::{Clock, Host, drive};
use crate::id::ShardId;
use crate::limits::{Limits, RingUse};
use crate::mesh::Mesh;
use crate::net::{ListenOptions, adopt, listen, listen_all};
use crate::probe::{Bound, Capacity, Facts, capacity, check_kernel, memory_reserve, shards_for};
use crate::proxy::Front;
use crate::remedy::remedy;
use crate::shard::shared::Shared;
use crate::shard::{Placement, Setup, Shard};
use crate::systemd::deal;
use crate::uring::{self, SetupError, UringIo};

/// Unacknowledged bytes for so long mean a dead peer (TCP_USER_TIMEOUT).
const USER_TIMEOUT: Duration = Duration::from_secs(60);
/// Entries of a runtime's own ring: timers and the odd file.
const RUNTIME_ENTRIES: u32 = 64;
/// Locked memory that is left for the runtimes' rings, in bytes a ring.
const RUNTIME_RING_BYTES: usize = 64 << 10;
/// Files that a server needs beside what its shards have: requests of plain HTTP, pages, the admin.
const SPARE_FILES: usize = 8;

/// A server whose shards run.
pub(super) struct Started {
    pub(super) shared: Arc<Shared>,
    pub(super) overseer: Arc<Overseer>,
    pub(super) capacity: Capacity,
    /// Where boxes share rooms.
    pub(super) joined: Option<Joined>,
    /// One a shard: writing to it wakes the shard.
    pub(super) eventfds: Arc<[OwnedFd]>,
    /// Turns true when plain HTTP should end.
    pub(super) closing: watch::Sender<bool>,
    /// One message a shard that has ended.
    pub(super) ended: mpsc::UnboundedReceiver<ShardId>,
}

/// What one shard's thread is given.
struct Task {
    id: ShardId,
    cpu: usize,
    listeners: Vec<TcpListener>,
    ring: RingSizes,
    eventfd: OwnedFd,
    placement: Placement,
    limits: Arc<Limits>,
    shared: Arc<Shared>,
    bridge: Option<Arc<Bridge>>,
    plain: PlainHttp,
    clock: Clock,
    ready: Sender<Result<(ShardId, RawFd), String>>,
    peers: Receiver<Vec<RawFd>>,
    ended: mpsc::UnboundedSender<ShardId>,
}

/// What a shard's plain HTTP connections are made of.
struct PlainHttp {
    routes: Routes,
    closes: watch::Receiver<bool>,
}

#[derive(Clone, Copy)]
struct RingSizes {
    table_slots: u32,
    buffers: u16,
    ring_bytes_max: usize,
    how: RingUse,
}

/// Starts everything; with it, the admin listener, which nobody serves yet.
///
/// `inherited` sockets, where there are any, are used instead of `server.listen`.
pub(super) fn boot(
    loaded: &Loaded,
    inherited: Vec<TcpListener>,
) -> Result<(Started, tokio::net::TcpListener), RunError> {
    check_kernel().map_err(RunError)?;
    abort_on_panic();
    raise(Resource::Nofile);
    raise(Resource::Memlock);
    let config = &loaded.config;
    bridge::check(config)?;
    let facts = Facts::read();
    let wanted = config.connections_max.number();
    let shards = shards_for(&facts, &config.ring, config.shards.number(), wanted)
        .map_err(|error| RunError(error.to_string()))?;
    spare_memory(shards, facts.cpus.len());
    let reserve = memory_reserve(&facts.memory, &config.limits);
    let capacity = Capacity::of(&facts, &config.ring, shards, reserve);
    let (connections_max, bound) = capacity.admit(wanted);
    let limits = Arc::new(Limits { connections_max, ..config.limits.clone() });
    let sizes = ring_sizes(&facts, shards, config.ring);
    let (listeners, addresses) = open_listeners(config, shards, inherited)?;
    let admin = open_admin(config)?;
    let mesh = Arc::new(Mesh::new(shards, config.mesh_messages, config.mesh_bytes));
    let front = Front::new(config.trusted_proxies.clone(), config.proxy_protocol);
    let shared = Shared::new(mesh, shards, fastrand::u64(..), limits.clone()).behind(front);
    let shared = Arc::new(shared);
    let clock = Clock::start();
    let eventfds = make_eventfds(shards)?;
    let bells = copy_eventfds(&eventfds)?;
    let joined = bridge::start(config, addresses[0], &shared.mesh, bells)?;
    let watched = joined.as_ref().map(Joined::watched);
    let overseer = Arc::new(Overseer::new(shared.clone(), clock, watched));
    let files = open_files(config)?;
    let (closing, closes) = watch::channel(false);
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let in_force = shared.clone();
    let routes = router(overseer.clone(), files, move || in_force.limits().echo_enabled);
    let (ready, readies) = channel();
    let mut mailers = Vec::new();
    let kicks = copy_eventfds(&eventfds)?;
    for ((index, listeners), eventfd) in listeners.into_iter().enumerate().zip(eventfds) {
        let (mailer, peers) = channel();
        mailers.push(mailer);
        spawn(Task {
            id: ShardId(u16::try_from(index).unwrap_or(u16::MAX)),
            cpu: facts.cpus[index % facts.cpus.len()],
            listeners,
            ring: sizes,
            eventfd,
            placement: placement(config),
            limits: limits.clone(),
            shared: shared.clone(),
            bridge: joined.as_ref().map(|joined| joined.bridge.clone()),
            plain: PlainHttp { routes: routes.clone(), closes: closes.clone() },
            clock,
            ready: ready.clone(),
            peers,
            ended: ended_sender.clone(),
        })?;
    }
    drop(ready);
    introduce(&readies, &mailers)?;
    afford(SPARE_FILES, "serve plain HTTP")?;
    tokio_uring::spawn(reserve::watch(shared.clone(), clock));
    overseer.set_ready();
    announce(loaded, &addresses, &admin, shards, &limits, bound);
    let eventfds: Arc<[OwnedFd]> = kicks.into();
    tokio_uring::spawn(overseer.clone().keep_watch(eventfds.clone()));
    Ok((Started { shared, overseer, capacity, joined, eventfds, closing, ended }, admin))
}

fn placement(config: &Config) -> Placement {
    match config.placement {
        ConfigPlacement::Home => Placement::Home,
        ConfigPlacement::Accept => Placement::Accept,
    }
}

fn open_files(config: &Config) -> Result<Files, RunError> {
    let Some(folder) = &config.static_dir else { return Ok(Files::built_in()) };
    Files::folder(folder)
        .map_err(|error| RunError(format!("static.dir {}: {error}", folder.display())))
}

fn make_eventfds(count: usize) -> Result<Vec<OwnedFd>, RunError> {
    let make = |_| eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
    let all: Result<Vec<_>, _> = (0..count).map(make).collect();
    all.map_err(|error| refused("make an eventfd", &error.into()))
}

fn copy_eventfds(eventfds: &[OwnedFd]) -> Result<Vec<OwnedFd>, RunError> {
    let all: Result<Vec<_>, _> = eventfds.iter().map(OwnedFd::try_clone).collect();
    all.map_err(|error| refused("copy an eventfd", &error))
}

/// Collects every ring's descriptor and tells it to all shards.
fn introduce(
    readies: &Receiver<Result<(ShardId, RawFd), String>>,
    mailers: &[Sender<Vec<RawFd>>],
) -> Result<(), RunError> {
    let mut rings = vec![-1; mailers.len()];
    for _ in 0..mailers.len() {
        match readies.recv() {
            Ok(Ok((id, ring))) => rings[id.index()] = ring,
            Ok(Err(error)) => return Err(RunError(error)),
            Err(_) => return Err(RunError("a shard ended before it began".to_owned())),
        }
    }
    for mailer in mailers {
        if mailer.send(rings.clone()).is_err() {
            return Err(RunError("a shard ended before it began".to_owned()));
        }
    }
    Ok(())
}

fn spawn(task: Task) -> Result<(), RunError> {
    let name = format!("shard-{}", task.id.0);
    let spawned = std::thread::Builder::new().name(name).spawn(move || {
        let mut cpus = CpuSet::new();
        cpus.set(task.cpu);
        if let Err(error) = sched_setaffinity(None, &cpus) {
            tracing::warn!(shard = task.id.0, cpu = task.cpu, %error, "the thread is not pinned");
        }
        let (id, ended, ready) = (task.id, task.ended.clone(), task.ready.clone());
        let outcome = run_on_runtime(async move { run_shard(task).await });
        if let Err(error) = outcome {
            tracing::error!(shard = id.0, error, "the shard has ended");
            let _told = ready.send(Err(error));
        }
        let _told = ended.send(id);
    });
    spawned.map(drop).map_err(|error| refused("start a shard's thread", &error))
}

/// What the kernel has refused, and what to do about it.
fn refused(what: &str, error: &std::io::Error) -> RunError {
    RunError(format!("cannot {what}: {error}{}", remedy(error)))
}

/// Checks that so many more files can be open: what comes next cannot say what it lacks.
pub(super) fn afford(files: usize, what: &str) -> Result<(), RunError> {
    let open = |_| eventfd(0, EventfdFlags::CLOEXEC);
    let opened: Result<Vec<_>, _> = (0..files).map(open).collect();
    opened.map(drop).map_err(|error| refused(what, &error.into()))
}

/// Runs a future on a tokio-uring runtime of this thread.
pub(super) fn run_on_runtime<T>(
    future: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let mut ring = tokio_uring::uring_builder();
    // Never DEFER_TASKRUN here: the runtime sleeps on the ring's descriptor and would not wake.
    ring.setup_coop_taskrun().setup_single_issuer();
    let mut builder = tokio_uring::builder();
    builder.entries(RUNTIME_ENTRIES).uring_builder(&ring);
    let runtime = tokio_uring::Runtime::new(&builder).map_err(|error| no_runtime(&error))?;
    runtime.block_on(future)
}

/// Why there is no runtime, and what to do about it.
fn no_runtime(error: &std::io::Error) -> String {
    let remedy = match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOMEM) => {
            "; rings are charged to RLIMIT_MEMLOCK: raise it (LimitMEMLOCK=infinity in the unit, \
             or `ulimit -l unlimited`), or use fewer --shards"
        }
        Some(Errno::PERM | Errno::ACCESS) => return SetupError::Forbidden.to_string(),
        _ => remedy(error),
    };
    format!("cannot set up a runtime's ring: {error}{remedy}")
}

async fn run_shard(task: Task) -> Result<(), String> {
    let mut io = UringIo::new(uring::Setup {
        listeners: task.listeners,
        table_slots: task.ring.table_slots,
        buffers: task.ring.buffers,
        buffer_bytes: task.ring.how.buffer_bytes,
        entries: u32::try_from(task.ring.how.entries).unwrap_or(u32::MAX),
        stride: task.ring.how.stride,
        send: task.ring.how.send,
        ring_bytes_max: task.ring.ring_bytes_max,
        defer_accept: true,
        enters_max: uring::ENTERS_MAX,
    })
    .map_err(|error| match &error {
        SetupError::Other { error: cause, .. } => format!("{error}{}", remedy(cause)),
        _ => error.to_string(),
    })?;
    // Before anybody accepts: else the first newcomers take this shard for full.
    let slots = task.ring.table_slots as usize;
    task.shared.neighbour(task.id).free_slots.store(slots, Ordering::Relaxed);
    let _told = task.ready.send(Ok((task.id, io.ring_fd())));
    let Ok(peers) = task.peers.recv() else { return Ok(()) };
    io.set_peers(peers);
    let setup = Setup {
        id: task.id,
        shared: task.shared.clone(),
        limits: task.limits,
        placement: task.placement,
        bridge: task.bridge,
        ring: task.ring.how,
        table_slots: slots,
        seed: fastrand::u64(..),
    };
    let PlainHttp { routes, closes } = task.plain;
    let in_force = task.shared.clone();
    let bounds = move || Bounds { head_bytes: in_force.limits().head_bytes, ..Bounds::default() };
    let site = Site::new(routes, bounds, closes).behind(task.shared.front.clone());
    let host = Host { clock: task.clock, shared: task.shared, eventfd: task.eventfd, site };
    drive(Shard::new(io, setup), host).await.map_err(|error| error.to_string())
}

fn ring_sizes(facts: &Facts, shards: usize, how: RingUse) -> RingSizes {
    let table_slots = capacity::table_slots(facts.nofile.soft);
    let memlock = usize::try_from(facts.memlock.soft).unwrap_or(usize::MAX);
    // Half is left for a second server of the same user; the runtimes' rings come first.
    let runtimes = (shards + 1) * RUNTIME_RING_BYTES;
    let share = (memlock / 2).saturating_sub(runtimes) / shards;
    RingSizes {
        table_slots: u32::try_from(table_slots).unwrap_or(u32::MAX),
        buffers: how.buffers_of(shards),
        ring_bytes_max: share,
        how,
    }
}

fn open_admin(config: &Config) -> Result<tokio::net::TcpListener, RunError> {
    let options = ListenOptions { flag: "--admin", ..ListenOptions::default() };
    let admin = listen(config.admin_listen, &options).map_err(|e| RunError(e.to_string()))?;
    let admin = admin.set_nonblocking(true).and_then(|()| tokio::net::TcpListener::from_std(admin));
    admin.map_err(|error| refused("serve on the admin listener", &error))
}

/// A shard's listeners, one an address; the addresses as the kernel gave them out.
type Listeners = (Vec<Vec<TcpListener>>, Vec<SocketAddr>);

fn open_listeners(
    config: &Config,
    shards: usize,
    inherited: Vec<TcpListener>,
) -> Result<Listeners, RunError> {
    let options = ListenOptions {
        notsent_lowat: u32::try_from(config.notsent_lowat).ok(),
        user_timeout: Some(USER_TIMEOUT),
        ..ListenOptions::default()
    };
    if !inherited.is_empty() {
        for listener in &inherited {
            adopt(listener, &options).map_err(|error| RunError(error.to_string()))?;
        }
        let dealt = deal(inherited, shards).map_err(RunError)?;
        tracing::info!("the supervisor's sockets are used, server.listen is not");
        return Ok((dealt.by_shard, dealt.addresses));
    }
    let mut by_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for address in &config.listen {
        let listeners =
            listen_all(*address, shards, &options).map_err(|error| RunError(error.to_string()))?;
        for (shard, listener) in by_shard.iter_mut().zip(listeners) {
            if shard.len() == addresses.len() {
                addresses.push(listener.local_addr().unwrap_or(*address));
            }
            shard.push(listener);
        }
    }
    Ok((by_shard, addresses))
}

/// Raises a limit as far as this user may. Descriptors cost nothing until they are used: a ring's
/// table may hold as many as are allowed. Locked memory is what the rings themselves are.
fn raise(resource: Resource) {
    let limit = getrlimit(resource);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(resource, raised) {
        tracing::warn!(?resource, %error, "a resource limit stays as it is");
    }
}

/// Shards beyond one a CPU are there for their tables' sake: each has a few megabytes, and huge
/// pages, half empty, were a third of what a connection cost (`benches/million`).
fn spare_memory(shards: usize, cpus: usize) {
    if shards > cpus
        && let Err(error) = uring::small_pages()
    {
        tracing::warn!(%error, "huge pages stay on: a connection costs more memory");
    }
}

/// A shard that panics has lost its connections' state: the process ends, its supervisor restarts
/// it, the clients come back.
fn abort_on_panic() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        default(panic);
        std::process::abort();
    }));
}

fn announce(
    loaded: &Loaded,
    addresses: &[SocketAddr],
    admin: &tokio::net::TcpListener,
    shards: usize,
    limits: &Limits,
    bound: Bound,
) {
    let listen: Vec<_> = addresses.iter().map(|address| format!("http://{address}")).collect();
    let admin = admin.local_addr().map(|address| format!("http://{address}")).unwrap_or_default();
    let file = loaded.file.as_ref().map(|file| file.display().to_string());
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        admin,
        shards,
        connections_max = limits.connections_max,
        bounded_by = %bound,
        config = file.as_deref().unwrap_or("none"),
        settings = settings(loaded),
        "ringhall is open: chat on {}",
        listen.join(" and ")
    );
}

/// Everything in force, as `key=value`.
fn settings(loaded: &Loaded) -> String {
    let all = loaded.settings().map(|(key, value, _)| format!("{}={value}", key.name));
    all.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_of_a_runtime_names_its_own_remedy() {
        let said = |errno: Errno| no_runtime(&errno.into());
        let files = said(Errno::MFILE);
        assert!(files.contains("LimitNOFILE") && !files.contains("MEMLOCK"), "{files}");
        assert!(said(Errno::NOMEM).contains("LimitMEMLOCK=infinity"));
        let forbidden = said(Errno::PERM);
        assert!(forbidden.contains("io_uring") && forbidden.contains("seccomp"), "{forbidden}");
    }
}
