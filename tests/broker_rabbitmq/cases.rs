//! The cases, each on the same server, with a prefix of its own.

use std::time::{Duration, Instant};

use lapin::options::{ExchangeDeclareOptions, ExchangeDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::broker::{CONNECT_TIMEOUT, Engine, Lane, PUBLISH_TIMEOUT, Session, rabbitmq};
use tokio::time::timeout;

use crate::ear::{self, Ear, connect, options, parcel, reconnect, refusal, within};
use crate::server::RabbitMq;

const LANE: Lane = Lane::Partition(9);

fn engine(server: &RabbitMq, prefix: &str, number: u64) -> Box<dyn Engine> {
    let mut options = options(&server.url(), LocalFirst, number);
    options.prefix = prefix.into();
    rabbitmq::engine(&options).expect("an engine")
}

fn engine_at(url: &str) -> Box<dyn Engine> {
    rabbitmq::engine(&options(url, LocalFirst, 1)).expect("an engine")
}

async fn publish(session: &dyn Session, lane: Lane, number: u64, sequence: u64) {
    let parcels = [parcel(lane, number, sequence)];
    within("publish", session.publish(&parcels)).await.expect("confirmed");
}

pub async fn what_one_box_publishes_comes_to_the_other_and_back(server: &RabbitMq) {
    let (one, two) = (engine(server, "both", 1), engine(server, "both", 2));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session_one = connect(&*one, &ear_one).await;
    let session_two = connect(&*two, &ear_two).await;
    for lane in [Lane::Partition(0), Lane::Partition(63), Lane::Control] {
        publish(&*session_one, lane, 1, 10).await;
        publish(&*session_two, lane, 2, 20).await;
    }
    for ear in [&ear_one, &ear_two] {
        ear.wait(6).await;
        for lane in [Lane::Partition(0), Lane::Partition(63), Lane::Control] {
            assert_eq!(ear.sequences(lane), [10, 20], "{lane:?}");
        }
    }
}

pub async fn batches_of_256_keep_their_order(server: &RabbitMq) {
    let (one, two) = (engine(server, "order", 1), engine(server, "order", 2));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session = connect(&*one, &ear_one).await;
    let _listening = connect(&*two, &ear_two).await;
    let (batches, since) = (ear::batches(), Instant::now());
    for batch in 0..batches {
        let lane = |number: u64| Lane::Partition(usize::try_from(number % 5).expect("small"));
        let numbers = batch * 256..(batch + 1) * 256;
        let parcels: Vec<_> = numbers.map(|number| parcel(lane(number), 1, number)).collect();
        within("publish", session.publish(&parcels)).await.expect("confirmed");
    }
    for ear in [&ear_one, &ear_two] {
        ear.wait(usize::try_from(batches * 256).expect("small")).await;
        ear::tell_pace("published, heard twice", batches, since);
        let heard: Vec<_> = ear.heard().iter().map(ear::Heard::sequence).collect();
        assert!(heard.iter().copied().eq(0..batches * 256), "one queue, one order");
    }
}

pub async fn a_large_message_comes_whole(server: &RabbitMq) {
    let one = engine(server, "large", 1);
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    let mut large = parcel(LANE, 1, 2);
    // Several frames of AMQP.
    large.envelope = [&large.envelope[..], &vec![7; 1 << 20]].concat().into();
    let parcels = [parcel(LANE, 1, 1), large.clone(), parcel(LANE, 1, 3)];
    within("publish", session.publish(&parcels)).await.expect("confirmed");
    ear.wait(3).await;
    assert_eq!(ear.sequences(LANE), [1, 2, 3]);
    assert_eq!(ear.heard()[1].envelope, large.envelope);
}

pub async fn clusters_of_other_names_hear_nothing_of_one_another(server: &RabbitMq) {
    let (one, two) = (engine(server, "here", 1), engine(server, "there", 2));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session_one = connect(&*one, &ear_one).await;
    let session_two = connect(&*two, &ear_two).await;
    publish(&*session_one, LANE, 1, 1).await;
    publish(&*session_two, LANE, 2, 2).await;
    publish(&*session_one, LANE, 1, 3).await;
    ear_one.wait(2).await;
    ear_two.wait(1).await;
    assert_eq!(ear_one.sequences(LANE), [1, 3]);
    assert_eq!(ear_two.sequences(LANE), [2]);
}

pub async fn a_session_whose_queue_is_still_held_gets_another(server: &RabbitMq) {
    let one = engine(server, "held", 1);
    let (first, second) = (Ear::new(), Ear::new());
    let _held = connect(&*one, &first).await;
    let session = connect(&*one, &second).await;
    publish(&*session, LANE, 1, 1).await;
    first.wait(1).await;
    second.wait(1).await;
}

pub async fn refusals_are_told_with_what_to_do(server: &RabbitMq) {
    let at =
        |login: &str, host: &str| engine_at(&format!("amqp://{login}{}{host}", server.address()));
    let error = refusal(&*at("guest:s3cret@", "")).await;
    assert!(error.contains("check user and password"), "{error}");
    assert!(!error.contains("s3cret"), "{error}");
    let error = refusal(&*at("guest:guest@", "/nowhere")).await;
    assert!(error.contains("nowhere") && error.contains("add_vhost"), "{error}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").and_then(|one| one.local_addr());
    let nobody = nobody.expect("a port");
    let error = refusal(&*engine_at(&format!("amqp://{nobody}"))).await;
    assert!(error.contains("is the server running?"), "{error}");
    let ordered = rabbitmq::engine(&options(&server.url(), Ordered, 1));
    let error = ordered.err().expect("no engine").0;
    assert!(error.contains("local_first"), "{error}");
}

pub async fn an_exchange_of_another_kind_is_told(server: &RabbitMq) {
    let url = server.url();
    let direct = Connection::connect(&url, ConnectionProperties::default());
    let direct = within("connect", direct).await.expect("a connection");
    let channel = direct.create_channel().await.expect("a channel");
    let (options, none) = (ExchangeDeclareOptions::default(), FieldTable::default());
    let made = channel.exchange_declare("taken".into(), ExchangeKind::Fanout, options, none);
    made.await.expect("made");
    let error = refusal(&*engine(server, "taken", 1)).await;
    assert!(error.contains("taken") && error.contains("broker.prefix"), "{error}");
    let deleted = channel.exchange_delete("taken".into(), ExchangeDeleteOptions::default());
    deleted.await.expect("deleted");
    connect(&*engine(server, "taken", 1), &Ear::new()).await;
}

pub async fn tls_trusts_the_authority_that_is_named(server: &RabbitMq) {
    let error = refusal(&*engine_at(&server.tls_url())).await;
    assert!(error.contains("broker.ca"), "{error}");
    let mut trusting = options(&server.tls_url(), LocalFirst, 1);
    trusting.ca = Some(server.authority());
    let one = rabbitmq::engine(&trusting).expect("an engine");
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    publish(&*session, LANE, 1, 1).await;
    ear.wait(1).await;
}

pub async fn a_server_that_stands_still_hangs_a_publish_and_later_sessions_keep_the_order(
    server: &RabbitMq,
) {
    let (one, two) = (engine(server, "still", 1), engine(server, "still", 2));
    let ear = Ear::new();
    let session = connect(&*one, &Ear::new()).await;
    let _listening = connect(&*two, &ear).await;
    server.pause();
    let parcels: Vec<_> = (1..=256).map(|sequence| parcel(LANE, 1, sequence)).collect();
    let hung = timeout(PUBLISH_TIMEOUT, session.publish(&parcels)).await;
    assert!(hung.is_err(), "the server cannot have confirmed them: {hung:?}");
    drop(session);
    let given_up = timeout(CONNECT_TIMEOUT / 5, one.connect(Ear::new())).await;
    assert!(given_up.is_err(), "the handshake hangs");
    let error = refusal(&*one).await;
    assert!(error.contains("does not answer"), "asked over a plain socket first: {error}");
    server.resume();
    let session = reconnect(&*one, &Ear::new()).await;
    publish(&*session, LANE, 1, 1000).await;
    let heard = async {
        while ear.sequences(LANE).last() != Some(&1000) {
            ear.wait(ear.heard().len() + 1).await;
        }
    };
    within("the last", heard).await;
    let heard = ear.sequences(LANE);
    assert!(heard.is_sorted_by(|one, next| one < next), "each once and in order: {heard:?}");
}

pub async fn a_killed_server_is_noticed_at_once_and_carries_again_after_it_is_back(
    server: &mut RabbitMq,
) {
    let (one, two) = (engine(server, "killed", 1), engine(server, "killed", 2));
    let session = connect(&*one, &Ear::new()).await;
    let listening = connect(&*two, &Ear::new()).await;
    server.kill();
    within("the loss", session.lost()).await;
    within("the loss", listening.lost()).await;
    let parcels = [parcel(LANE, 1, 1)];
    assert!(within("the end of it", session.publish(&parcels)).await.is_err(), "nobody took it");
    let error = refusal(&*one).await;
    assert!(error.contains("is the server running?"), "{error}");

    server.restart();
    // The lost session is still held: were its client to recover, it would send now.
    let ear = Ear::new();
    let _listening = reconnect(&*two, &ear).await;
    let again = reconnect(&*one, &Ear::new()).await;
    for sequence in 2..4 {
        publish(&*again, LANE, 1, sequence).await;
    }
    ear.wait(2).await;
    assert_eq!(ear.sequences(LANE), [2, 3]);
    assert!(within("an error", session.publish(&parcels)).await.is_err(), "lost is lost");

    server.restart_empty();
    within("the loss", again.lost()).await;
    let again = reconnect(&*one, &ear).await;
    publish(&*again, LANE, 1, 4).await;
    ear.wait(3).await;
    assert_eq!(ear.sequences(LANE), [2, 3, 4]);
    // Once more without trouble, so that nothing is left that the end of the test has to wait for.
    let calm = timeout(Duration::from_millis(100), again.lost()).await;
    assert!(calm.is_err(), "well");
}
