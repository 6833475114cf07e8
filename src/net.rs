//! Turns an address into listening sockets, one a shard, with every option connections inherit.
//!
//! In:    an address; options.
//! Out:   blocking `TcpListener`s that share the port.
//! Never: accepts.
//!
//! # Invariants
//! - Options are set before `listen`, so that every accepted socket has them without a call of
//!   its own.
//! - The port is shared only among the sockets of one call.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::remedy::remedy;

/// How long an address may stay taken before that is an error: the sockets of a server that was
/// killed are closed after its end, when the kernel has taken its rings apart.
const TAKEN_FOR: Duration = Duration::from_millis(500);
/// Pause before a taken address is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(10);

/// What listening sockets, and the connections accepted from them, are set to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted; the kernel caps it at `net.core.somaxconn`.
    pub backlog: i32,
    /// Bytes a socket may hold unsent before it stops being writable (`TCP_NOTSENT_LOWAT`): what
    /// is queued beyond that waits with us, where policy can see it.
    pub notsent_lowat: Option<u32>,
    /// How long sent bytes may stay unacknowledged before the kernel gives the peer up.
    pub user_timeout: Option<Duration>,
    /// The flag that chooses the address: what an error's remedy names.
    pub flag: &'static str,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { backlog: 65_535, notsent_lowat: None, user_timeout: None, flag: "--listen" }
    }
}

/// Opens one listening socket. See [`listen_all`]. An address that somebody listens on is waited
/// for, half a second.
///
/// # Errors
/// See [`listen_all`].
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let until = Instant::now() + TAKEN_FOR;
    let wait = || {
        pause();
        Instant::now() < until
    };
    let opened = while_taken(|| claim(address).and_then(|()| open(address, options)), wait);
    opened.map_err(|error| explain(address, options.flag, error))
}

/// Opens `count` listening sockets that share one port; the kernel spreads connections over them.
/// Port 0 picks a free one, the same for all.
///
/// # Errors
/// If somebody listens there already, even one who would share the port, or the address cannot be
/// had; the message says what to do.
pub fn listen_all(
    address: SocketAddr,
    count: usize,
    options: &ListenOptions,
) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::with_capacity(count);
    for _ in 0..count {
        let listener = match listeners.first() {
            None => listen(address, options)?,
            Some(first) => {
                let shared = TcpListener::local_addr(first)?;
                open(shared, options).map_err(|error| explain(shared, options.flag, error))?
            }
        };
        listeners.push(listener);
    }
    Ok(listeners)
}

#[expect(clippy::disallowed_methods, reason = "no shard runs before the sockets are there")]
fn pause() {
    std::thread::sleep(TRY_AGAIN);
}

/// Tries again while somebody has the address and `wait` says so.
fn while_taken<T>(
    mut attempt: impl FnMut() -> io::Result<T>,
    mut wait: impl FnMut() -> bool,
) -> io::Result<T> {
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && wait() => {}
            outcome => return outcome,
        }
    }
}

/// Prepares a listening socket that a supervisor opened: what its unit cannot set is set here, and
/// holds for connections from now on. Whoever waited to be accepted before has the box's defaults.
///
/// # Errors
/// If it does not listen, or an option cannot be set; the message says what to do.
pub fn adopt(listener: &TcpListener, options: &ListenOptions) -> io::Result<()> {
    let socket = SockRef::from(listener);
    if !socket.is_listener()? {
        let text = "an inherited socket does not listen: the socket unit must have Accept=no, and \
                    pass its own sockets";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    // A ring would answer "try again" for a socket that must not wait, instead of waiting.
    socket.set_nonblocking(false)?;
    inherit(&socket, options)
}

/// Sets what accepted sockets inherit.
fn inherit(socket: &Socket, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    if let Some(bytes) = options.notsent_lowat {
        socket.set_tcp_notsent_lowat(bytes)?;
    }
    socket.set_tcp_user_timeout(options.user_timeout)
}

/// Fails where anybody listens already. `SO_REUSEPORT` alone would let a second process of the
/// same user in, and each would get half of the connections.
fn claim(address: SocketAddr) -> io::Result<()> {
    if address.port() == 0 {
        return Ok(());
    }
    let socket = socket(address)?;
    socket.bind(&address.into())?;
    socket.listen(1)
}

fn open(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = socket(address)?;
    socket.set_reuse_port(true)?;
    inherit(&socket, options)?;
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // What the last process's connections left behind (TIME_WAIT) does not hold the port.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // `[::]` means everybody, whatever `net.ipv6.bindv6only` says.
        socket.set_only_v6(false)?;
    }
    Ok(socket)
}

fn explain(address: SocketAddr, flag: &str, error: io::Error) -> io::Error {
    let why = match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "another process listens on it (`ss -ltnp 'sport = :{}'` shows which); stop it, or \
             choose another address with {flag}",
            address.port()
        ),
        io::ErrorKind::PermissionDenied => format!(
            "port {} is reserved; grant CAP_NET_BIND_SERVICE, lower the sysctl \
             net.ipv4.ip_unprivileged_port_start, or choose another port with {flag}",
            address.port()
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "no interface of this box has that address (`ip addr` shows which there are); choose \
             another with {flag}"
        ),
        _ => format!("{error}{}", remedy(&error)),
    };
    io::Error::new(error.kind(), format!("cannot listen on {address}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;

    fn anywhere() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[test]
    fn shards_share_one_port() {
        let listeners = listen_all(anywhere(), 3, &ListenOptions::default()).unwrap();
        let port = listeners[0].local_addr().unwrap().port();
        assert_ne!(port, 0);
        assert!(listeners.iter().all(|one| one.local_addr().unwrap().port() == port));
    }

    #[test]
    fn a_port_that_somebody_would_share_is_still_taken() {
        let first = listen(anywhere(), &ListenOptions::default()).unwrap();
        let error = listen(first.local_addr().unwrap(), &ListenOptions::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        let said = error.to_string();
        assert!(said.contains("another process listens") && said.contains("--listen"), "{said}");
        assert!(said.contains(&first.local_addr().unwrap().to_string()), "{said}");
    }

    #[test]
    fn a_port_that_is_given_up_meanwhile_is_had() {
        let mut holder = Some(listen(anywhere(), &ListenOptions::default()).unwrap());
        let address = holder.as_ref().unwrap().local_addr().unwrap();
        let mut waits = 0;
        let wait = || {
            waits += 1;
            drop(holder.take());
            waits < 3
        };
        while_taken(|| claim(address), wait).unwrap();
        assert_eq!(waits, 1);
    }

    #[test]
    fn only_a_taken_port_is_waited_for() {
        let elsewhere = SocketAddr::from(([192, 0, 2, 1], 1));
        let error = while_taken(|| claim(elsewhere), || unreachable!("it will never be ours"));
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
    }

    #[test]
    fn a_port_is_free_again_though_connections_linger() {
        let first = listen(anywhere(), &ListenOptions::default()).unwrap();
        let address = first.local_addr().unwrap();
        let client = TcpStream::connect(address).unwrap();
        // The side that closes first keeps the port in TIME_WAIT.
        drop(first.accept().unwrap());
        drop(client);
        drop(first);
        listen(address, &ListenOptions::default()).unwrap();
    }

    #[test]
    fn an_address_of_another_box_is_explained() {
        let error = listen(SocketAddr::from(([192, 0, 2, 1], 0)), &ListenOptions::default());
        assert!(error.unwrap_err().to_string().contains("`ip addr`"));
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let options = ListenOptions {
            notsent_lowat: Some(12_345),
            user_timeout: Some(Duration::from_millis(4321)),
            ..ListenOptions::default()
        };
        let listener = listen(anywhere(), &options).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 12_345);
        assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
    }

    #[test]
    fn a_socket_that_others_opened_is_set_as_ours_are() {
        let options = ListenOptions {
            notsent_lowat: Some(12_345),
            user_timeout: Some(Duration::from_millis(4321)),
            ..ListenOptions::default()
        };
        let listener = TcpListener::bind(anywhere()).unwrap();
        listener.set_nonblocking(true).unwrap();
        adopt(&listener, &options).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert!(!SockRef::from(&listener).nonblocking().unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let socket = SockRef::from(&accepted);
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap(), 12_345);
        assert_eq!(socket.tcp_user_timeout().unwrap(), options.user_timeout);
        let connected = TcpListener::from(std::os::fd::OwnedFd::from(client));
        let error = adopt(&connected, &options).unwrap_err().to_string();
        assert!(error.contains("Accept=no"), "{error}");
    }
}
