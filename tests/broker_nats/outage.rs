//! The server dies, comes back, stands still.

use std::time::Duration;

use ringhall::bridge::Delivery::LocalFirst;
use ringhall::broker::{CONNECT_TIMEOUT, Lane, PUBLISH_TIMEOUT};
use tokio::time::timeout;

use crate::ear::{Ear, connect, parcel, reconnect, refusal, within};
use crate::engine;
use crate::server::Nats;

const LANE: Lane = Lane::Partition(9);

#[tokio::test]
async fn a_killed_server_is_noticed_at_once_and_nothing_of_before_is_sent_after_it_is_back() {
    let mut server = Nats::start();
    let (one, two) = (engine(&server, LocalFirst, 1), engine(&server, LocalFirst, 2));
    let session = connect(&*one, &Ear::new()).await;
    let listening = connect(&*two, &Ear::new()).await;
    server.kill();
    within("the loss", session.lost()).await;
    within("the loss", listening.lost()).await;
    let parcels = [parcel(LANE, 1, 1)];
    let published = within("the end of it", session.publish(&parcels)).await;
    assert!(published.is_err(), "nobody took it");
    let error = refusal(&*one).await;
    assert!(error.contains("is the server running?"), "{error}");

    server.restart();
    // The lost session is still held: were its client to reconnect, it would send now.
    let ear = Ear::new();
    let listening = reconnect(&*two, &ear).await;
    let again = reconnect(&*one, &Ear::new()).await;
    for sequence in 2..4 {
        let parcels = [parcel(LANE, 1, sequence)];
        within("publish", again.publish(&parcels)).await.expect("published");
    }
    ear.wait(2).await;
    assert_eq!(ear.sequences(LANE), [2, 3]);
    assert!(within("an error", session.publish(&parcels)).await.is_err(), "lost is lost");
    drop(listening);
}

#[tokio::test]
async fn a_publish_to_a_server_that_stands_still_hangs_and_a_later_session_keeps_the_order() {
    let server = Nats::start();
    let (one, two) = (engine(&server, LocalFirst, 1), engine(&server, LocalFirst, 2));
    let ear = Ear::new();
    let session = connect(&*one, &Ear::new()).await;
    let listening = connect(&*two, &ear).await;
    server.pause();
    let parcels: Vec<_> = (1..=256).map(|sequence| parcel(LANE, 1, sequence)).collect();
    let hung = timeout(PUBLISH_TIMEOUT, session.publish(&parcels)).await;
    assert!(hung.is_err(), "the server cannot have taken them: {hung:?}");
    drop(session);
    let refused = timeout(CONNECT_TIMEOUT + Duration::from_secs(1), one.connect(Ear::new())).await;
    let error = refused.expect("in time").err().expect("no session").0;
    assert!(error.contains("does not answer"), "{error}");
    // Its pings are not answered either.
    within("the loss", listening.lost()).await;
    server.resume();
    let _listening = reconnect(&*two, &ear).await;
    let session = reconnect(&*one, &Ear::new()).await;
    let parcels = [parcel(LANE, 1, 1000)];
    within("publish", session.publish(&parcels)).await.expect("published");
    let heard = async {
        while ear.sequences(LANE).last() != Some(&1000) {
            ear.wait(ear.heard().len() + 1).await;
        }
    };
    within("the last", heard).await;
    let heard = ear.sequences(LANE);
    assert!(heard.is_sorted_by(|one, next| one < next), "each once and in order: {heard:?}");
}
