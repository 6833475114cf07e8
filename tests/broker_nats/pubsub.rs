//! Core pub/sub: what one box publishes, all hear, it too, in order.

use std::time::Instant;

use ringhall::bridge::Delivery::LocalFirst;
use ringhall::broker::{Lane, Session, nats};

use crate::ear::{self, Ear, connect, options, parcel, within};
use crate::engine;
use crate::server::Nats;

async fn publish(session: &dyn Session, lane: Lane, number: u64, sequence: u64) {
    let parcels = [parcel(lane, number, sequence)];
    within("publish", session.publish(&parcels)).await.expect("published");
}

#[tokio::test]
async fn what_one_box_publishes_comes_to_the_other_and_back() {
    let server = Nats::start();
    let (one, two) = (engine(&server, LocalFirst, 1), engine(&server, LocalFirst, 2));
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
    assert_eq!(ear_one.heard()[0].envelope, parcel(Lane::Control, 1, 10).envelope);
}

#[tokio::test]
async fn batches_of_256_keep_their_order() {
    let server = Nats::start();
    let (one, two) = (engine(&server, LocalFirst, 1), engine(&server, LocalFirst, 2));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session = connect(&*one, &ear_one).await;
    let _listening = connect(&*two, &ear_two).await;
    let (batches, since) = (ear::batches(), Instant::now());
    for batch in 0..batches {
        let numbers = batch * 256..(batch + 1) * 256;
        let parcels: Vec<_> = numbers
            .map(|number| {
                let lane = if number % 16 == 0 {
                    Lane::Control
                } else {
                    Lane::Partition(usize::try_from(number % 5).expect("small"))
                };
                parcel(lane, 1, number)
            })
            .collect();
        within("publish", session.publish(&parcels)).await.expect("published");
    }
    for ear in [&ear_one, &ear_two] {
        ear.wait(usize::try_from(batches * 256).expect("small")).await;
        ear::tell_pace("published, heard twice", batches, since);
        let in_order = |lane| ear.sequences(lane).is_sorted();
        assert!((0..5).all(|partition| in_order(Lane::Partition(partition))));
        assert!(in_order(Lane::Control));
    }
}

#[tokio::test]
async fn clusters_of_other_names_hear_nothing_of_one_another() {
    let server = Nats::start();
    let mut elsewhere = options(&server.url(), LocalFirst, 2);
    elsewhere.prefix = "ringhall.other".into();
    let (one, two) = (engine(&server, LocalFirst, 1), nats::engine(&elsewhere).expect("an engine"));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session_one = connect(&*one, &ear_one).await;
    let session_two = connect(&*two, &ear_two).await;
    publish(&*session_one, Lane::Partition(1), 1, 1).await;
    publish(&*session_two, Lane::Partition(1), 2, 2).await;
    // What comes second must have come after what came first, where that comes at all.
    publish(&*session_one, Lane::Partition(1), 1, 3).await;
    ear_one.wait(2).await;
    ear_two.wait(1).await;
    assert_eq!(ear_one.sequences(Lane::Partition(1)), [1, 3]);
    assert_eq!(ear_two.sequences(Lane::Partition(1)), [2]);
}

#[tokio::test]
async fn a_message_that_the_server_never_takes_is_dropped_and_the_session_goes_on() {
    let server = Nats::with("max_payload: 4096");
    let one = engine(&server, LocalFirst, 1);
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    let mut large = parcel(Lane::Partition(1), 1, 2);
    large.envelope = [&large.envelope[..], &[0; 5000]].concat().into();
    let parcels = [parcel(Lane::Partition(1), 1, 1), large, parcel(Lane::Partition(1), 1, 3)];
    assert_eq!(within("publish", session.publish(&parcels)).await, Ok(vec![1]));
    ear.wait(2).await;
    assert_eq!(ear.sequences(Lane::Partition(1)), [1, 3]);
}
