//! Turns a socket whose first bytes were read elsewhere into one that hyper reads from the start,
//! a proper head at a time.
//!
//! In:    a tokio socket and the bytes already read from it.
//! Out:   the same stream of bytes; the socket and the unread rest, when it is taken back.
//! Never: judges a head (`http` does), answers one.
//!
//! # Invariants
//! - The bytes come in order: the prefix, then the socket's.
//! - hyper sees no malformed head and none that is late: `gate::REFUSED` comes in its place, and
//!   nothing after. A connection that says nothing for as long has ended, to hyper.
//! - A write that makes no progress for `stall_timeout` fails, whoever waits for it.
//! - A shutdown ends after `linger_timeout`, or `LINGER_BYTES_MAX` of input; at once where the
//!   place is wanted.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::gate::{Gate, Passage, REFUSED};
use super::{Bounds, BoundsInForce, LINGER_BYTES_MAX};
use crate::http::{HeadLimits, HeadProgress, HeadVerdict, Refusal, RefusalKind, read_head};

/// Bytes that one read takes while it looks for a head, or of a closing socket.
const READ_BYTES: usize = 4096;

/// What hyper may buffer beyond a request head: a response's chunk on its way.
const BUFFER_BYTES: usize = 48 << 10;

/// What became of waiting for more of a head.
enum More {
    /// There is more.
    Came,
    /// The peer has ended its stream, or we have had what was there and leave.
    Ended,
    /// Nothing in time.
    Late,
}

/// The socket of one plain HTTP connection.
pub(super) struct Wire {
    /// Read, and not handed over: at most a head and a read.
    prefix: BytesMut,
    stream: TcpStream,
    in_force: BoundsInForce,
    /// Those of the head that is awaited or under way.
    bounds: Bounds,
    buffer_bytes: usize,
    gate: Gate,
    progress: HeadProgress,
    /// Runs while a head is awaited, and anew from its first byte.
    awaited: Option<Pin<Box<Sleep>>>,
    /// Bytes at the start of the prefix that are a proper head on its way to hyper.
    head_bytes: usize,
    /// Runs while a write waits for the client.
    stalled: Option<Pin<Box<Sleep>>>,
    /// Runs while the closing socket listens on.
    lingering: Option<Pin<Box<Sleep>>>,
    dropped: usize,
}

impl Wire {
    pub(super) fn new(
        stream: TcpStream,
        prefix: &[u8],
        in_force: BoundsInForce,
        gate: Gate,
    ) -> Self {
        let bounds = in_force();
        Self {
            prefix: prefix.into(),
            stream,
            in_force,
            bounds,
            buffer_bytes: bounds.head_bytes.saturating_add(BUFFER_BYTES),
            gate,
            progress: HeadProgress::default(),
            awaited: None,
            head_bytes: 0,
            stalled: None,
            lingering: None,
            dropped: 0,
        }
    }

    /// Its gate.
    pub(super) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What hyper may buffer of this connection, in bytes. Where the bound on heads is raised while
    /// it lasts, no head is longer.
    pub(super) fn buffer_bytes(&self) -> usize {
        self.buffer_bytes
    }

    /// The socket, and what nobody has read of the prefix.
    pub(super) fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, self.prefix)
    }

    fn hand_over(&mut self, len: usize, buf: &mut ReadBuf<'_>) -> usize {
        let len = len.min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(len));
        len
    }

    /// Hands over (more of) the next head once it is whole and proper.
    fn poll_head(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.head_bytes == 0 {
            if self.awaited.is_none() {
                self.bounds = (self.in_force)();
            }
            let head_bytes = self.bounds.head_bytes.min(self.buffer_bytes);
            let verdict = read_head(&self.prefix, &mut self.progress, HeadLimits { head_bytes });
            match (verdict, self.progress.end()) {
                (HeadVerdict::Incomplete, _) => match ready!(self.poll_more(cx))? {
                    More::Came => {}
                    More::Ended => return Poll::Ready(Ok(())),
                    More::Late if self.prefix.is_empty() => {
                        // To hyper, the end of the stream. No answer is on its way.
                        self.gate.hurry();
                        return Poll::Ready(Ok(()));
                    }
                    More::Late => return Poll::Ready(self.refuse(too_slow(self.bounds), buf)),
                },
                (HeadVerdict::Refuse(refusal), _) if spoils_the_connection(refusal.kind) => {
                    return Poll::Ready(self.refuse(refusal, buf));
                }
                (_, end) => {
                    self.head_bytes = end.unwrap_or(self.prefix.len());
                    self.progress = HeadProgress::default();
                    self.awaited = None;
                }
            }
        }
        self.head_bytes -= self.hand_over(self.head_bytes, buf);
        if self.head_bytes == 0 {
            self.gate.shut();
        }
        Poll::Ready(Ok(()))
    }

    /// Reads more of a head, as long as one waits for it.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<More>> {
        let mut space = [0; READ_BYTES];
        let mut more = ReadBuf::new(&mut space);
        if Pin::new(&mut self.stream).poll_read(cx, &mut more)?.is_pending() {
            if self.gate.is_leaving() {
                return Poll::Ready(Ok(More::Ended));
            }
            let timeout = self.bounds.head_timeout;
            let awaited = self.awaited.get_or_insert_with(|| Box::pin(sleep(timeout)));
            ready!(awaited.as_mut().poll(cx));
            return Poll::Ready(Ok(More::Late));
        }
        if more.filled().is_empty() {
            return Poll::Ready(Ok(More::Ended));
        }
        if self.prefix.is_empty() {
            self.awaited = None;
        }
        self.prefix.extend_from_slice(more.filled());
        Poll::Ready(Ok(More::Came))
    }

    /// Hands over what stands for a head that hyper is not to see.
    fn refuse(&mut self, refusal: Refusal, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        self.gate.refuse(refusal);
        // hyper offers 8 KiB at least.
        buf.put_slice(REFUSED);
        Ok(())
    }

    /// Lets a write through, or gives it up once it has waited for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        progress: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if progress.is_ready() {
            if self.stalled.take().is_some() {
                // Who reads waits for that, too.
                cx.waker().wake_by_ref();
            }
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
        let this = &mut *self;
        match ready!(this.gate.poll_open(cx)) {
            Passage::Body if this.prefix.is_empty() => {
                Pin::new(&mut this.stream).poll_read(cx, buf)
            }
            Passage::Body => {
                this.hand_over(this.prefix.len(), buf);
                Poll::Ready(Ok(()))
            }
            // To hyper, a connection that ends between two requests is over, and what the socket
            // has not taken of the last answer forgotten.
            _ if this.stalled.is_some() => Poll::Pending,
            _ => this.poll_head(cx, buf),
        }
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
        let mut space = [0; READ_BYTES];
        while this.dropped < LINGER_BYTES_MAX {
            let mut buf = ReadBuf::new(&mut space);
            let progress = Pin::new(&mut this.stream).poll_read(cx, &mut buf);
            if progress.is_pending() && this.gate.is_hurried() {
                break;
            }
            ready!(progress)?;
            if buf.filled().is_empty() {
                break;
            }
            this.dropped += buf.filled().len();
        }
        Poll::Ready(Ok(()))
    }
}

fn too_slow(bounds: Bounds) -> Refusal {
    let seconds = bounds.head_timeout.as_secs_f32();
    let message = format!("The request head has to be complete {seconds} s after it has begun.");
    Refusal::new(RefusalKind::HandshakeTimeout, message)
}

/// Whether hyper must not see the head. Any other refusal is for what a well-formed head asks; the
/// service comes to it by itself, and the connection goes on.
fn spoils_the_connection(kind: RefusalKind) -> bool {
    matches!(kind, RefusalKind::BadRequest | RefusalKind::UriTooLong | RefusalKind::HeadTooLarge)
}
