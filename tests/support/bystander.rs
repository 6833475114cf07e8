//! A member of a room who must not notice what happens to the others in it.
//!
//! In:    a room; the moment at which everything has happened.
//! Out:   what the member heard meanwhile; a panic where a message is missing, doubled or out of
//!        order, or where the member itself is cut.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::client::Client;

/// The member.
#[derive(Debug)]
pub struct Bystander {
    client: Client,
    offset: u64,
    said: u64,
}

impl Bystander {
    /// Joins a JSON room as `bystander`, and waits until it is in.
    ///
    /// # Panics
    /// If it is not let in.
    #[track_caller]
    pub fn join(address: SocketAddr, room: &str) -> Self {
        let (mut client, joined) = Client::join(address, room, "bystander");
        client.recv_content("bystander has joined the room");
        let offset = joined["offset"].as_u64().expect("an offset");
        Self { client, offset, said: 0 }
    }

    /// Says something and waits to hear it. Gives everything heard before it, in order: messages
    /// with offsets without a gap, announcements without one.
    ///
    /// # Panics
    /// If that is not what comes.
    #[track_caller]
    pub fn heard(&mut self) -> Vec<Value> {
        self.said += 1;
        let said = json!(format!("undisturbed {}", self.said));
        self.client.send_json(&json!({ "content": said }));
        self.hear(&said)
    }

    /// Waits until it has heard this; gives what came before it, as [`Bystander::heard`].
    ///
    /// # Panics
    /// If that is not what comes.
    #[track_caller]
    pub fn heard_until(&mut self, content: impl Into<Value>) -> Vec<Value> {
        self.hear(&content.into())
    }

    /// Waits until it has heard that `user` left, and then as [`Bystander::heard`]. Gives what
    /// members said meanwhile, without the announcements.
    ///
    /// # Panics
    /// If something else than messages and announcements comes.
    #[track_caller]
    pub fn heard_until_left(&mut self, user: &str) -> Vec<Value> {
        let mut heard = self.heard_until(format!("{user} has left the room"));
        heard.append(&mut self.heard());
        heard.retain(|message| message["sender"] != "system");
        heard
    }

    /// Waits until it has heard that `user` left.
    ///
    /// # Panics
    /// If anybody said anything meanwhile, or as [`Bystander::heard`].
    #[track_caller]
    pub fn expect_only_left(&mut self, user: &str) {
        let heard = self.heard_until_left(user);
        assert!(heard.is_empty(), "was said: {heard:?}");
    }

    #[track_caller]
    fn hear(&mut self, content: &Value) -> Vec<Value> {
        let mut heard = self.client.recv_until(|message| message["content"] == *content);
        for message in &heard {
            match message["offset"].as_u64() {
                Some(offset) => {
                    self.offset += 1;
                    assert_eq!(offset, self.offset, "offsets grow by one: {message}");
                }
                None => assert_eq!(message["sender"], "system", "no offset: {message}"),
            }
        }
        heard.pop();
        heard
    }
}
