//! Turns bytes that can be read and sought, and what is known of them, into a file of `ServeDir`.
//!
//! In:    a reader, a length, perhaps a modification time.
//! Out:   `Opened`.
//! Never: opens anything.

use std::future::{Ready, ready};
use std::io::{self, SeekFrom};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use tokio::io::{AsyncRead, AsyncSeek, ReadBuf};
use tower_http::services::fs::{File, Metadata};

/// What is known of a file without reading it.
#[derive(Clone, Copy, Debug)]
pub(super) struct About {
    pub(super) is_dir: bool,
    pub(super) len: u64,
    /// `None` for what is built in: it has a hash instead.
    pub(super) modified: Option<SystemTime>,
}

impl Metadata for About {
    fn is_dir(&self) -> bool {
        self.is_dir
    }

    fn modified(&self) -> io::Result<SystemTime> {
        self.modified.ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

/// A file about to be sent.
#[derive(Debug)]
pub(super) struct Opened<R> {
    pub(super) about: About,
    pub(super) bytes: R,
}

impl<R: AsyncRead + Unpin> AsyncRead for Opened<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.bytes).poll_read(cx, buf)
    }
}

impl<R: AsyncSeek + Unpin> AsyncSeek for Opened<R> {
    fn start_seek(mut self: Pin<&mut Self>, position: SeekFrom) -> io::Result<()> {
        Pin::new(&mut self.bytes).start_seek(position)
    }

    fn poll_complete(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
        Pin::new(&mut self.bytes).poll_complete(cx)
    }
}

impl<R: AsyncRead + AsyncSeek + Unpin + Send + Sync> File for Opened<R> {
    type Metadata = About;
    type MetadataFuture<'a>
        = Ready<io::Result<About>>
    where
        R: 'a;

    fn metadata(&self) -> Self::MetadataFuture<'_> {
        ready(Ok(self.about))
    }
}
