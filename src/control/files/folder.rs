//! Turns a folder of the operator's into files of `ServeDir`.
//!
//! In:    paths below the folder, already decoded.
//! Out:   regular files and folders that lie inside.
//! Never: follows a link out of the folder; waits for a device or a pipe; blocks the shard.
//!
//! # Invariants
//! - The kernel resolves each path beneath the folder (`RESOLVE_BENEATH`): there is no moment
//!   between a check and an open in which a link could be swapped.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use rustix::io::Errno;
use tokio::task::spawn_blocking;
use tower_http::services::fs::Backend;

use super::opened::{About, Opened};

type Later<T> = Pin<Box<dyn Future<Output = io::Result<T>> + Send>>;

/// The folder, by the path that the operator gave: opened for each request, so that a new release
/// may take its place by a rename.
#[derive(Clone, Debug)]
pub(super) struct Folder(Arc<Path>);

impl Folder {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        // Not only the folder: a sandbox that forbids openat2 is told of at start, too.
        open_beneath(&path, Path::new("."), OFlags::PATH)?;
        Ok(Self(path.into()))
    }
}

fn enter(folder: &Path) -> rustix::io::Result<rustix::fd::OwnedFd> {
    open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens what lies at `path` beneath `folder`.
fn open_beneath(folder: &Path, path: &Path, flags: OFlags) -> io::Result<(File, About)> {
    let path = path.strip_prefix(".").unwrap_or(path);
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let file = enter(folder)
        .and_then(|folder| openat2(folder, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve))
        .map_err(plain)?;
    let file = File::from(file);
    let meta = file.metadata()?;
    // A pipe, a socket or a device is no file to send.
    if !meta.is_file() && !meta.is_dir() {
        return Err(io::ErrorKind::NotFound.into());
    }
    let about = About { is_dir: meta.is_dir(), len: meta.len(), modified: meta.modified().ok() };
    Ok((file, about))
}

/// What is outside (XDEV), a circle of links, or no possible name: for the client, not there.
fn plain(errno: Errno) -> io::Error {
    match errno {
        Errno::XDEV | Errno::LOOP | Errno::NAMETOOLONG | Errno::INVAL | Errno::NXIO => {
            io::ErrorKind::NotFound.into()
        }
        other => other.into(),
    }
}

/// Runs file system calls on tokio's blocking pool: a slow disk must not hold up a shard.
fn later<T: Send + 'static>(work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Later<T> {
    Box::pin(async move {
        let done = spawn_blocking(work).await.map_err(io::Error::other)?;
        done.inspect_err(|error| tracing::debug!(%error, "a file could not be opened"))
    })
}

impl Backend for Folder {
    type File = Opened<tokio::fs::File>;
    type Metadata = About;
    type OpenFuture = Later<Self::File>;
    type MetadataFuture = Later<About>;

    fn open(&self, path: PathBuf) -> Self::OpenFuture {
        let folder = self.0.clone();
        later(move || {
            // NONBLOCK: opening a pipe would wait for its writer.
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
            let (file, about) = open_beneath(&folder, &path, flags)?;
            if about.is_dir {
                return Err(io::ErrorKind::NotFound.into());
            }
            Ok(Opened { about, bytes: tokio::fs::File::from_std(file) })
        })
    }

    fn metadata(&self, path: PathBuf) -> Self::MetadataFuture {
        let folder = self.0.clone();
        later(move || open_beneath(&folder, &path, OFlags::PATH).map(|(_, about)| about))
    }
}
