//! What a server refuses is said with what to do; TLS; several hosts.

use async_nats::jetstream::stream::Config;
use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::broker::{BrokerError, Engine, Lane, nats};

use crate::ear::{Ear, connect, options, parcel, refusal, within};
use crate::engine;
use crate::server::Nats;

fn engine_at(url: &str) -> Box<dyn Engine> {
    nats::engine(&options(url, LocalFirst, 1)).expect("an engine")
}

#[tokio::test]
async fn a_wrong_password_is_told_and_not_shown() {
    let server = Nats::with("authorization { user: alice, password: 'pass word' }");
    let error = refusal(&*engine_at(&server.url_as("alice:s3cret@"))).await;
    assert!(error.contains("check user and password"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let error = refusal(&*engine_at(&server.url())).await;
    assert!(error.contains("check user and password"), "{error}");
    connect(&*engine_at(&server.url_as("alice:pass%20word@")), &Ear::new()).await;
}

#[tokio::test]
async fn a_token_is_a_login() {
    let server = Nats::with("authorization { token: t0ken }");
    let error = refusal(&*engine_at(&server.url_as("another@"))).await;
    assert!(error.contains("token"), "{error}");
    connect(&*engine_at(&server.url_as("t0ken@")), &Ear::new()).await;
}

#[tokio::test]
async fn a_subject_that_is_not_permitted_is_told() {
    let server = Nats::with(
        "authorization { users: [
            { user: a, password: a, permissions: { publish: '>', subscribe: 'other.>' } },
            { user: b, password: b, permissions: { publish: 'ringhall.ack.>', subscribe: '>' } }
        ] }",
    );
    let error = refusal(&*engine_at(&server.url_as("a:a@"))).await;
    assert!(error.contains("Permissions Violation") && error.contains("PREFIX.>"), "{error}");
    let session = connect(&*engine_at(&server.url_as("b:b@")), &Ear::new()).await;
    // The server says so beside the acknowledgement, not instead of it.
    let parcels = [parcel(Lane::Partition(1), 1, 1)];
    let _ = within("publish", session.publish(&parcels)).await;
    let BrokerError(error) = within("the loss", session.lost()).await;
    assert!(error.contains("Permissions Violation") && error.contains("PREFIX.>"), "{error}");
}

#[tokio::test]
async fn the_next_host_is_tried_where_one_is_dead() {
    let server = Nats::start();
    let mut dead = Nats::start();
    dead.kill();
    let hosts = format!("nats://{},{}", dead.address(), server.address());
    // In a drawn order: several attempts meet both.
    for _ in 0..8 {
        connect(&*engine_at(&hosts), &Ear::new()).await;
    }
    let error = refusal(&*engine_at(&dead.url())).await;
    assert!(error.contains("is the server running?"), "{error}");
}

#[tokio::test]
async fn tls_trusts_the_authority_that_is_named() {
    let server = Nats::tls();
    let url = format!("tls://localhost:{}", server.address().port());
    let error = refusal(&*engine_at(&url)).await;
    assert!(error.contains("broker.ca"), "{error}");
    let mut trusting = options(&url, LocalFirst, 1);
    trusting.ca = Some(server.authority());
    let one = nats::engine(&trusting).expect("an engine");
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    let parcels = [parcel(Lane::Partition(1), 1, 1)];
    within("publish", session.publish(&parcels)).await.expect("published");
    ear.wait(1).await;
    trusting.ca = Some(server.authority().with_file_name("missing.pem"));
    let error = nats::engine(&trusting).err().expect("no engine").0;
    assert!(error.contains("missing.pem"), "{error}");
}

#[tokio::test]
async fn ordered_delivery_without_jetstream_is_told() {
    let server = Nats::without_jetstream();
    let error = refusal(&*engine(&server, Ordered, 1)).await;
    assert!(error.contains("JetStream") && error.contains("-js"), "{error}");
    connect(&*engine(&server, LocalFirst, 1), &Ear::new()).await;
}

#[tokio::test]
async fn a_stream_of_the_same_name_that_holds_something_else_is_told() {
    let server = Nats::start();
    let client = async_nats::connect(server.url()).await.expect("connected");
    let name = "RINGHALL".to_owned();
    let other = Config { name, subjects: vec!["other".into()], ..Config::default() };
    async_nats::jetstream::new(client).create_stream(other).await.expect("a stream");
    let error = refusal(&*engine(&server, Ordered, 1)).await;
    assert!(error.contains("RINGHALL") && error.contains("broker.prefix"), "{error}");
}

#[tokio::test]
async fn prefixes_that_differ_in_dots_and_case_alone_share_a_server() {
    let server = Nats::start();
    let mut sessions = Vec::new();
    for prefix in ["ringhall", "ring.hall", "RINGHALL"] {
        let mut one = options(&server.url(), Ordered, 1);
        one.prefix = prefix.into();
        let one = nats::engine(&one).expect("an engine");
        sessions.push(connect(&*one, &Ear::new()).await);
    }
    assert_eq!(sessions.len(), 3);
}
