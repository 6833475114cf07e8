//! One connection of the load generator, never blocking.
//!
//! In:    bytes to send; readiness that epoll reported.
//! Out:   received bytes, handed to a closure that says how many it has used.
//! Never: waits, or looks at what the bytes mean.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::event::{Timespec, epoll};
use rustix::net::{AddressFamily, SocketFlags, SocketType, connect, socket_with, sockopt};

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reading {
    /// Nothing more for now.
    Drained,
    /// The peer sent FIN.
    Ended,
}

/// A connection.
#[derive(Debug)]
pub struct Link {
    stream: TcpStream,
    /// Received, not used yet.
    rest: Vec<u8>,
    /// To be sent.
    out: Vec<u8>,
}

impl Link {
    /// Connects to `port` of one of the loopback addresses, chosen by `number`; the kernel picks
    /// the source port. `receive_bytes` bounds the receive buffer.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn connect(port: u16, number: usize, receive_bytes: Option<usize>) -> io::Result<Self> {
        // 127.0.0.2 and on: many destinations, so that source ports are not what runs out.
        let host = Ipv4Addr::new(127, 0, 0, 2 + (number % 16) as u8);
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
        if let Some(bytes) = receive_bytes {
            sockopt::set_socket_recv_buffer_size(&socket, bytes)?;
        }
        sockopt::set_tcp_nodelay(&socket, true)?;
        match connect(&socket, &SocketAddr::V4(SocketAddrV4::new(host, port))) {
            Ok(()) | Err(rustix::io::Errno::INPROGRESS) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self { stream: socket.into(), rest: Vec::new(), out: Vec::new() })
    }

    /// Registers with an epoll instance, edge by edge, under `number`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn register(&self, ready: &Ready, number: u64) -> io::Result<()> {
        let flags = epoll::EventFlags::IN
            | epoll::EventFlags::OUT
            | epoll::EventFlags::RDHUP
            | epoll::EventFlags::ET;
        let data = epoll::EventData::new_u64(number);
        Ok(epoll::add(&ready.epoll, &self.stream, data, flags)?)
    }

    /// Sends as much as the socket takes; the rest goes with the next call.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.out.is_empty() {
            let sent = match self.stream.write(bytes) {
                Ok(sent) => sent,
                Err(error) if is_for_later(&error) => 0,
                Err(error) => return Err(error),
            };
            self.out.extend_from_slice(&bytes[sent..]);
            return Ok(());
        }
        self.out.extend_from_slice(bytes);
        self.flush()
    }

    /// Sends what waits.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn flush(&mut self) -> io::Result<()> {
        while !self.out.is_empty() {
            match self.stream.write(&self.out) {
                Ok(sent) => drop(self.out.drain(..sent)),
                Err(error) if is_for_later(&error) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.out = Vec::new();
        Ok(())
    }

    /// Receives all there is. `take` is given what is unused so far and says how much it has used.
    ///
    /// # Errors
    /// What the kernel says, or what `take` says.
    pub fn receive(
        &mut self,
        scratch: &mut [u8],
        take: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Reading> {
        self.read(scratch, false, take)
    }

    /// As [`Link::receive`], with a system call less: a FIN right behind the bytes goes unnoticed.
    ///
    /// # Errors
    /// What the kernel says, or what `take` says.
    pub fn receive_bytes(
        &mut self,
        scratch: &mut [u8],
        take: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Reading> {
        self.read(scratch, true, take)
    }

    fn read(
        &mut self,
        scratch: &mut [u8],
        bytes_alone: bool,
        mut take: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<Reading> {
        loop {
            let received = match self.stream.read(scratch) {
                Ok(0) => return Ok(Reading::Ended),
                Ok(received) => received,
                Err(error) if is_for_later(&error) => return Ok(Reading::Drained),
                Err(error) => return Err(error),
            };
            let fresh = &scratch[..received];
            if self.rest.is_empty() {
                let used = take(fresh)?;
                if used < received {
                    self.rest = fresh[used..].to_vec();
                }
            } else {
                self.rest.extend_from_slice(fresh);
                let used = take(&self.rest)?;
                self.rest.drain(..used);
                if self.rest.is_empty() {
                    self.rest = Vec::new();
                }
            }
            if bytes_alone && received < scratch.len() {
                return Ok(Reading::Drained);
            }
        }
    }

    /// Whether a part of a frame, or of an answer, has been received.
    pub fn is_amid(&self) -> bool {
        !self.rest.is_empty()
    }

    /// Says FIN.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn finish(&self) -> io::Result<()> {
        self.stream.shutdown(std::net::Shutdown::Write)
    }

    /// Ends it with RST.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn reset(self) -> io::Result<()> {
        Ok(sockopt::set_socket_linger(&self.stream, Some(Duration::ZERO))?)
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected)
}

/// Who is ready.
pub struct Ready {
    epoll: rustix::fd::OwnedFd,
    events: Vec<epoll::Event>,
}

impl Ready {
    /// Nobody yet.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Self { epoll, events: Vec::with_capacity(1024) })
    }

    /// Waits at most so long, and gives the numbers of those who are ready.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn wait(&mut self, at_most: Duration) -> io::Result<Vec<u64>> {
        let at_most = Timespec::try_from(at_most).map_err(io::Error::other)?;
        self.events.clear();
        let into = rustix::buffer::spare_capacity(&mut self.events);
        match epoll::wait(&self.epoll, into, Some(&at_most)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(self.events.iter().map(|event| event.data.u64()).collect())
    }
}
