//! Turns tokio-tungstenite into an echo and rooms server: a task a connection, one write a batch.
//!
//! What has arrived is answered, and what is queued is sent, before the one flush that writes it.

use futures_util::{FutureExt, SinkExt, StreamExt};
use ringhall_peers::{MESSAGE_BYTES_MAX, RAW, READ_BUFFER_BYTES, Rooms, Route, route};
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

type Socket = WebSocketStream<TcpStream>;

fn main() {
    ringhall_peers::run(serve);
}

async fn serve(listener: TcpListener) {
    let rooms = Rooms::default();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(connection(stream, rooms.clone()));
        }
    }
}

async fn connection(stream: TcpStream, rooms: Rooms<Message>) -> Result<(), Error> {
    stream.set_nodelay(true)?;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(MESSAGE_BYTES_MAX))
        .max_frame_size(Some(MESSAGE_BYTES_MAX));
    let mut chosen = None;
    #[expect(clippy::result_large_err, reason = "the type is the library's")]
    let head = |request: &Request, mut response: Response| {
        chosen = route(request.uri().path());
        if chosen.is_none() {
            let mut refusal = ErrorResponse::new(None);
            *refusal.status_mut() = StatusCode::NOT_FOUND;
            return Err(refusal);
        }
        if request.headers().contains_key("Sec-WebSocket-Protocol") {
            let name = HeaderValue::from_static(RAW);
            response.headers_mut().insert("Sec-WebSocket-Protocol", name);
        }
        Ok(response)
    };
    let socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, head, Some(config)).await?;
    match chosen {
        Some(Route::Room(room)) => member(socket, &rooms, room).await,
        _ => echo(socket).await,
    }
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}

async fn echo(mut socket: Socket) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        let mut arrived = Some(Some(message));
        while let Some(Some(message)) = arrived {
            let message = message?;
            if is_data(&message) {
                socket.feed(message).await?;
            }
            arrived = socket.next().now_or_never();
        }
        socket.flush().await?;
    }
    Ok(())
}

async fn member(mut socket: Socket, rooms: &Rooms<Message>, room: String) -> Result<(), Error> {
    let (member, mut heard) = rooms.join(room);
    loop {
        tokio::select! {
            received = socket.next() => match received {
                Some(message) => {
                    let message = message?;
                    if is_data(&message) {
                        member.say(&message);
                    }
                }
                None => return Ok(()),
            },
            Some(message) = heard.recv() => {
                socket.feed(message).await?;
                while let Ok(message) = heard.try_recv() {
                    socket.feed(message).await?;
                }
                socket.flush().await?;
            }
        }
    }
}
