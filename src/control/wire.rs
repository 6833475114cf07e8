//! Turns a socket whose first bytes were read elsewhere into one that hyper reads from the start.
//!
//! In:    a tokio socket and the bytes already read from it.
//! Out:   the same stream of bytes; the socket and the unread rest, when it is taken back.
//! Never: understands a byte.
//!
//! # Invariants
//! - The prefix is read to its end before the socket is.
//! - A write that makes no progress for `stall_timeout` fails, whoever waits for it.
//! - A shutdown ends after `linger_timeout`, or `LINGER_BYTES_MAX` of input.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::{Bounds, LINGER_BYTES_MAX};

/// Bytes that one read of a closing socket takes and drops.
const DROP_BYTES: usize = 4096;

/// The socket of one plain HTTP connection.
pub(super) struct Wire {
    prefix: Bytes,
    stream: TcpStream,
    bounds: Bounds,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs while the closing socket listens on.
    lingering: Option<Pin<Box<Sleep>>>,
    dropped: usize,
}

impl Wire {
    pub(super) fn new(stream: TcpStream, prefix: Vec<u8>, bounds: Bounds) -> Self {
        Self { prefix: prefix.into(), stream, bounds, stalled: None, lingering: None, dropped: 0 }
    }

    /// The socket, and what nobody has read of the prefix.
    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream, self.prefix)
    }

    /// Lets a write through, or gives it up once it has waited for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            self.stalled = None;
            return progress;
        }
        let timeout = self.bounds.stall_timeout;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep(timeout)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buf);
        }
        let len = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix[..len]);
        self.prefix.advance(len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.watched(cx, progress)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let progress = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.watched(cx, progress)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// RFC 9112 section 9.6: "To avoid the TCP reset problem, servers typically close a connection
    /// in stages. First, the server performs a half-close [...]. The server then continues to read
    /// from the connection until it receives a corresponding close by the client".
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        let this = &mut *self;
        let timeout = this.bounds.linger_timeout;
        let lingering = this.lingering.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if lingering.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let mut space = [0; DROP_BYTES];
        while this.dropped < LINGER_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.stream).poll_read(cx, &mut buf))?;
            if buf.filled().is_empty() {
                break;
            }
            this.dropped += buf.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}
