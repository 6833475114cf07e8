//! Turns what the kernel lets this process do with io_uring into checks: by doing it.
//!
//! In:    the kernel.
//! Out:   its version, whether a ring works, each feature that the server uses.
//! Never: concludes from a version what can be tried.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::check::Check;
use super::patient::Patient;
use crate::id::ConnId;
use crate::io::{Completion, Io as _, Patience, Wait};
use crate::limits::RingUse;
use crate::net::{ListenOptions, listen};
use crate::probe::check_kernel;
use crate::uring::{self, ENTERS_MAX, Setup, SetupError, UringIo};

/// How long the ring has to answer: what it does takes microseconds.
const PATIENCE: Duration = Duration::from_secs(2);
/// What goes through the ring and back.
const WORD: &[u8] = b"ringhall";
const ALLOW: &str = "sysctl -w kernel.io_uring_disabled=0";
const CONFINED: &str = "SystemCallFilter=@aio   # in the unit; of a container: allow \
    io_uring_setup, io_uring_enter and io_uring_register in its seccomp profile";

/// Whether the kernel is new enough.
pub(super) fn version(_: &Patient) -> Vec<Check> {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let check = Check::of("kernel").measured(format!("Linux {release}"));
    let least = format!("{} or newer", uring::KERNEL_MIN);
    let check = check.limit(least);
    vec![match check_kernel() {
        Ok(()) => check.pass("every operation that the server uses can be there"),
        Err(said) => check.breaks_at(0).fail(said, "apt-get install linux-image-amd64"),
    }]
}

/// Whether a ring can be made, and carries bytes.
pub(super) fn io_uring(patient: &Patient) -> Vec<Check> {
    let check = Check::of("io_uring");
    if let Err(error) = uring::try_out() {
        return vec![refused(
            patient,
            check.breaks_at(0),
            error.raw_os_error(),
            &error.to_string(),
        )];
    }
    let check = match carry(&patient.config.ring) {
        Ok(said) => check.measured(said),
        Err(Fault::Setup(SetupError::Forbidden)) => {
            let errno = Some(Errno::PERM.raw_os_error());
            return vec![refused(patient, check.breaks_at(0), errno, "EPERM")];
        }
        // This process's own memory is looked at by `memlock`, as the service's user has it.
        Err(Fault::Setup(error @ SetupError::Memory { .. })) => {
            let check = check.breaks_at(0).measured("a ring was refused");
            return vec![check.fail(error.to_string(), super::locked::FIX)];
        }
        Err(fault) => {
            let check = check.breaks_at(0).measured("a ring was tried");
            let fix = "dmesg | tail   # what the kernel says about it";
            return vec![check.fail(fault.to_string(), fix)];
        }
    };
    if patient.root.sysctl("kernel.io_uring_disabled") == Some(1) && patient.is_root {
        let message = "root may use it, and whoever is in kernel.io_uring_group; a service's \
                       user may not";
        return vec![check.limit("kernel.io_uring_disabled = 1").warn(message, ALLOW)];
    }
    vec![check.pass("a ring was made and used as a shard does")]
}

/// Why io_uring is refused, and by whom.
fn refused(patient: &Patient, check: Check, errno: Option<i32>, said: &str) -> Check {
    let check = check.measured(format!("refused: {said}"));
    let status = patient.root.text("proc/self/status").unwrap_or_default();
    let seccomp = status.lines().find_map(|line| line.strip_prefix("Seccomp:"));
    let confined = seccomp.is_some_and(|mode| mode.trim() != "0");
    match (patient.root.sysctl("kernel.io_uring_disabled"), errno.map(Errno::from_raw_os_error)) {
        (_, Some(Errno::NOMEM)) => {
            let message = "rings are charged to RLIMIT_MEMLOCK, and this user's is used up";
            check.fail(message, super::locked::FIX)
        }
        (Some(2), Some(Errno::PERM)) => {
            let check = check.limit("kernel.io_uring_disabled = 2");
            check.fail("io_uring is off for everybody: the server does not start", ALLOW)
        }
        (Some(1), Some(Errno::PERM)) => {
            let group = patient.root.text("proc/sys/kernel/io_uring_group").unwrap_or_default();
            let message = format!(
                "io_uring is only for root and the group {} (kernel.io_uring_group), which the \
                 unit can have with SupplementaryGroups=",
                group.trim()
            );
            check.limit("kernel.io_uring_disabled = 1").fail(message, ALLOW)
        }
        (_, Some(Errno::PERM | Errno::ACCESS | Errno::NOSYS)) if confined => {
            let message = "a seccomp filter forbids io_uring to this process (a container's \
                           profile, or SystemCallFilter= of a unit): the server does not start";
            check.limit("Seccomp: 2 in /proc/self/status").fail(message, CONFINED)
        }
        (_, Some(Errno::NOSYS)) => check.fail(
            "this kernel was built without io_uring: the server does not start",
            "apt-get install linux-image-amd64",
        ),
        _ => check.fail(
            "the kernel forbids io_uring to this process, and no sysctl or seccomp filter says \
             so: a security module may",
            "dmesg | tail   # what forbade it",
        ),
    }
}

/// Each feature, a line each.
pub(super) fn features(_: &Patient) -> Vec<Check> {
    let Ok(features) = uring::features() else {
        return vec![Check::of("feature").skip("no ring, no features: see io_uring")];
    };
    let line = |feature: &uring::Feature| {
        let check = Check::of(format!("feature.{}", feature.name));
        let check = check.limit(format!("since Linux {}", feature.since));
        match feature.works {
            Some(true) => check.measured("works").pass(format!("without it: {}", feature.lost)),
            None => check.skip("not tried: this user may lock no memory for it, see memlock"),
            Some(false) => check.measured("missing").breaks_at(0).fail(
                format!("{}: the server needs it and does not start", feature.lost),
                format!("apt-get install linux-image-amd64   # {} or newer", uring::KERNEL_MIN),
            ),
        }
    };
    features.iter().map(line).collect()
}

/// Why a ring did not carry a word.
#[derive(Debug)]
enum Fault {
    Setup(SetupError),
    Io(std::io::Error),
    Silent(&'static str),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Setup(error) => error.fmt(f),
            Self::Io(error) => error.fmt(f),
            Self::Silent(what) => write!(f, "the ring did not {what} within {PATIENCE:?}"),
        }
    }
}

/// Accepts, receives and sends through a ring as a shard has it; says what was done.
fn carry(how: &RingUse) -> Result<String, Fault> {
    let anywhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    // A namespace without a loopback device has nothing to connect through.
    let listener = listen(anywhere, &ListenOptions::default()).ok();
    let address = listener.as_ref().and_then(|listener| listener.local_addr().ok());
    let mut io = UringIo::new(Setup {
        listeners: listener.into_iter().collect(),
        table_slots: 4,
        entries: u32::try_from(how.entries).unwrap_or(u32::MAX),
        buffers: 4,
        buffer_bytes: how.buffer_bytes,
        stride: how.stride,
        send: how.send,
        ring_bytes_max: 0,
        defer_accept: false,
        enters_max: ENTERS_MAX,
    })
    .map_err(Fault::Setup)?;
    let client = address.and_then(|at| TcpStream::connect_timeout(&at, PATIENCE).ok());
    let Some(mut client) = client else {
        return Ok("a ring was made (no loopback device to try it with)".to_owned());
    };
    client.set_read_timeout(Some(PATIENCE)).map_err(Fault::Io)?;
    client.write_all(WORD).map_err(Fault::Io)?;
    io.accept();
    let conn = await_one(&mut io, "accept", |completion| match completion {
        Completion::Accepted { slot } => Some(ConnId { slot: *slot, generation: 1 }),
        _ => None,
    })?;
    io.recv(conn, Patience::Wait);
    let (buffer, len) = await_one(&mut io, "receive", |completion| match completion {
        Completion::Received { outcome: Ok(input), .. } => Some((input.buffer?, input.len)),
        _ => None,
    })?;
    io.send_back(conn, buffer, 0..len);
    io.submit(Wait::No);
    let mut back = [0; WORD.len()];
    client.read_exact(&mut back).map_err(Fault::Io)?;
    match back == WORD {
        true => Ok("accepted, received and sent through a ring".to_owned()),
        false => Err(Fault::Silent("send what it received")),
    }
}

/// Waits for the completion of which `pick` makes something.
fn await_one<T>(
    io: &mut UringIo,
    what: &'static str,
    mut pick: impl FnMut(&Completion) -> Option<T>,
) -> Result<T, Fault> {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        io.submit(Wait::Gather { count: 1, at_most: Duration::from_millis(100) });
        while let Some(completion) = io.reap() {
            if let Some(picked) = pick(&completion) {
                return Ok(picked);
            }
        }
    }
    Err(Fault::Silent(what))
}
