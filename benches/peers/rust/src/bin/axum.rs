//! Turns axum's WebSocket into an echo and rooms server, as its own chat example does it.
//!
//! A member is two tasks, one for each half; an echo is sent and flushed by itself.

use axum::Router;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::get;
use axum::serve::ListenerExt;
use futures_util::{SinkExt, StreamExt};
use ringhall_peers::{MESSAGE_BYTES_MAX, RAW, READ_BUFFER_BYTES, Rooms};
use tokio::net::TcpListener;

fn main() {
    ringhall_peers::run(serve);
}

async fn serve(listener: TcpListener) {
    let routes = Router::new()
        .route("/echo", get(async |upgrade: WebSocketUpgrade| set(upgrade).on_upgrade(echo)))
        .route("/ws/{room}/{user}", get(join))
        .with_state(Rooms::default());
    let listener = listener.tap_io(|stream| {
        // A socket that is gone already says so when it is read.
        let _ = stream.set_nodelay(true);
    });
    axum::serve(listener, routes).await.expect("a server");
}

fn set(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .protocols([RAW])
}

fn is_data(message: &Message) -> bool {
    matches!(message, Message::Text(_) | Message::Binary(_))
}

async fn echo(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if is_data(&message) && socket.send(message).await.is_err() {
            return;
        }
    }
}

async fn join(
    upgrade: WebSocketUpgrade,
    Path((room, _user)): Path<(String, String)>,
    State(rooms): State<Rooms<Message>>,
) -> Response {
    set(upgrade).on_upgrade(move |socket| member(socket, rooms, room))
}

async fn member(socket: WebSocket, rooms: Rooms<Message>, room: String) {
    let (member, mut heard) = rooms.join(room);
    let (mut sink, mut stream) = socket.split();
    let writer = tokio::spawn(async move {
        while let Some(message) = heard.recv().await {
            sink.feed(message).await?;
            while let Ok(message) = heard.try_recv() {
                sink.feed(message).await?;
            }
            sink.flush().await?;
        }
        Ok::<(), axum::Error>(())
    });
    while let Some(Ok(message)) = stream.next().await {
        if is_data(&message) {
            member.say(&message);
        }
    }
    writer.abort();
}
