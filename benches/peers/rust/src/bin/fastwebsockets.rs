//! Turns fastwebsockets, on hyper, into an echo and rooms server.
//!
//! A room's message is framed once; what is queued for a member is joined into one write. An echo
//! is one write a frame: the library's own loop.

use std::convert::Infallible;

use bytes::Bytes;
use fastwebsockets::upgrade::{UpgradeFut, is_upgrade_request, upgrade};
use fastwebsockets::{
    FragmentCollector, FragmentCollectorRead, Frame, OpCode, Payload, Role, WebSocketError,
    after_handshake_split,
};
use http_body_util::Empty;
use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringhall_peers::{MESSAGE_BYTES_MAX, RAW, Rooms, Route, route};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::mpsc::UnboundedReceiver;

fn main() {
    ringhall_peers::run(serve);
}

async fn serve(listener: TcpListener) {
    let rooms = Rooms::default();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        // A socket that is gone already says so when it is read.
        let _ = stream.set_nodelay(true);
        let rooms = rooms.clone();
        let answer = service_fn(move |request| {
            let response = answer(request, &rooms);
            async move { Ok::<_, Infallible>(response) }
        });
        tokio::spawn(
            hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), answer)
                .with_upgrades(),
        );
    }
}

fn answer(mut request: Request<Incoming>, rooms: &Rooms<Bytes>) -> Response<Empty<Bytes>> {
    let route = route(request.uri().path());
    let offered = request.headers().contains_key("Sec-WebSocket-Protocol");
    let upgraded = if is_upgrade_request(&request) { upgrade(&mut request).ok() } else { None };
    let (Some(route), Some((mut response, socket))) = (route, upgraded) else {
        let mut refusal = Response::new(Empty::new());
        *refusal.status_mut() = StatusCode::NOT_FOUND;
        return refusal;
    };
    if offered {
        let name = HeaderValue::from_static(RAW);
        response.headers_mut().insert("Sec-WebSocket-Protocol", name);
    }
    match route {
        Route::Echo => drop(tokio::spawn(echo(socket))),
        Route::Room(room) => drop(tokio::spawn(member(socket, rooms.clone(), room))),
    }
    response
}

fn is_data(frame: &Frame<'_>) -> bool {
    matches!(frame.opcode, OpCode::Text | OpCode::Binary)
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    socket.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        if is_data(&frame) {
            socket.write_frame(frame).await?;
        } else if frame.opcode == OpCode::Close {
            return Ok(());
        }
    }
}

fn framed(opcode: OpCode, payload: &[u8]) -> Bytes {
    let mut bytes = Vec::new();
    // The buffer is made longer than the frame.
    let length = Frame::new(true, opcode, None, Payload::Borrowed(payload)).write(&mut bytes).len();
    bytes.truncate(length);
    bytes.into()
}

async fn member(
    upgraded: UpgradeFut,
    rooms: Rooms<Bytes>,
    room: String,
) -> Result<(), WebSocketError> {
    let (read, write) = tokio::io::split(upgraded.await?.into_inner());
    let (mut read, _) = after_handshake_split(read, tokio::io::sink(), Role::Server);
    read.set_max_message_size(MESSAGE_BYTES_MAX);
    let mut read = FragmentCollectorRead::new(read);
    let (member, heard) = rooms.join(room);
    let writer = tokio::spawn(write_joined(heard, write));
    // Pongs and the answer to a close frame go the way of everything else.
    let mut obliged = |frame: Frame<'_>| {
        member.say_to_self(framed(frame.opcode, &frame.payload));
        async { Ok::<(), Infallible>(()) }
    };
    let ended = loop {
        match read.read_frame(&mut obliged).await {
            Ok(frame) if is_data(&frame) => member.say(&framed(frame.opcode, &frame.payload)),
            Ok(frame) if frame.opcode == OpCode::Close => break Ok(()),
            Ok(_) => {}
            Err(error) => break Err(error),
        }
    };
    // An empty piece is the last.
    member.say_to_self(Bytes::new());
    let _ = writer.await;
    ended
}

async fn write_joined(
    mut heard: UnboundedReceiver<Bytes>,
    mut write: impl AsyncWriteExt + Unpin,
) -> std::io::Result<()> {
    let mut joined = Vec::new();
    while let Some(first) = heard.recv().await {
        let mut over = first.is_empty();
        if heard.is_empty() {
            write.write_all(&first).await?;
        } else {
            joined.clear();
            joined.extend_from_slice(&first);
            while let Ok(next) = heard.try_recv() {
                over |= next.is_empty();
                joined.extend_from_slice(&next);
            }
            write.write_all(&joined).await?;
        }
        if over {
            break;
        }
    }
    write.shutdown().await
}
