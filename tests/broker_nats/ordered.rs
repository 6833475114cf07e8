//! Ordered delivery: one log, the same order and places for all, nothing missed.

use std::time::Instant;

use ringhall::bridge::Delivery::Ordered;
use ringhall::bridge::Place;
use ringhall::broker::{Lane, Parcel, Session};
use ringhall::id::{Mode, RoomKey};

use crate::ear::{self, Ear, Heard, connect, parcel, reconnect, within};
use crate::engine;
use crate::server::Nats;

const LANE: Lane = Lane::Partition(9);

fn batch(number: u64, sequences: std::ops::Range<u64>) -> Vec<Parcel> {
    let lane = |sequence| Lane::Partition(usize::try_from(sequence % 3).expect("small"));
    sequences.map(|sequence| parcel(lane(sequence), number, sequence)).collect()
}

async fn publish(session: &dyn Session, parcels: &[Parcel]) {
    within("publish", session.publish(parcels)).await.expect("stored");
}

async fn place(session: &dyn Session) -> Place {
    let room = RoomKey { mode: Mode::Json, name: "lobby".into() };
    within("the place", session.place(&room)).await.expect("a place")
}

fn placed(ear: &Ear) -> Vec<Heard> {
    ear.heard().into_iter().filter(|heard| heard.place.is_some()).collect()
}

#[tokio::test]
async fn all_boxes_hear_one_order_with_the_same_places() {
    let server = Nats::start();
    let (one, two) = (engine(&server, Ordered, 1), engine(&server, Ordered, 2));
    let (ear_one, ear_two) = (Ear::new(), Ear::new());
    let session_one = connect(&*one, &ear_one).await;
    let session_two = connect(&*two, &ear_two).await;
    let before = place(&*session_two).await;
    let (rounds, since) = (ear::batches() / 2, Instant::now());
    let count = usize::try_from(rounds * 512).expect("small");
    for round in 0..rounds {
        let numbers = round * 256..(round + 1) * 256;
        let (mine, others) = (batch(1, numbers.clone()), batch(2, numbers));
        let both = async { tokio::join!(session_one.publish(&mine), session_two.publish(&others)) };
        let (stored, others_stored) = within("publish", both).await;
        stored.and(others_stored).expect("stored");
    }
    ear_one.wait(count).await;
    ear_two.wait(count).await;
    ear::tell_pace("stored by two, heard twice", rounds * 2, since);
    let heard = ear_one.heard();
    assert_eq!(heard, ear_two.heard());
    assert!(heard.is_sorted_by(|one, next| one.offset() < next.offset()));
    assert!(heard[0].offset() > before.offset);
    assert!(
        heard.iter().all(|heard| heard.place.as_ref().is_some_and(|p| p.epoch == before.epoch))
    );
    for number in [1, 2] {
        for partition in 0..3 {
            let of = |heard: &&Heard| {
                heard.lane == Lane::Partition(partition) && heard.envelope[2] == number
            };
            assert!(heard.iter().filter(of).map(Heard::sequence).is_sorted());
        }
    }
    let after = place(&*session_two).await;
    assert_eq!(after.offset, heard[count - 1].offset(), "the last that was taken");
}

#[tokio::test]
async fn the_control_lane_does_not_go_through_the_log() {
    let server = Nats::start();
    let one = engine(&server, Ordered, 1);
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    publish(&*session, &[parcel(Lane::Control, 1, 1), parcel(LANE, 1, 2)]).await;
    ear.wait(2).await;
    for heard in ear.heard() {
        assert_eq!(heard.place.is_none(), heard.lane == Lane::Control);
    }
}

#[tokio::test]
async fn a_box_that_was_away_reads_on_behind_what_it_took_even_after_a_killed_server() {
    let mut server = Nats::start();
    let (one, two) = (engine(&server, Ordered, 1), engine(&server, Ordered, 2));
    let ear = Ear::new();
    let session = connect(&*one, &Ear::new()).await;
    let listening = connect(&*two, &ear).await;
    publish(&*session, &batch(1, 0..100)).await;
    ear.wait(100).await;
    drop(listening);
    publish(&*session, &batch(1, 100..400)).await;
    server.kill();
    within("the loss", session.lost()).await;
    server.restart();
    let _listening = reconnect(&*two, &ear).await;
    let session = reconnect(&*one, &Ear::new()).await;
    publish(&*session, &batch(1, 400..500)).await;
    ear.wait(500).await;
    let heard = ear.heard();
    assert!(heard.iter().map(Heard::sequence).eq(0..500), "all, once, in order");
    let epoch = |heard: &Heard| heard.place.clone().map(|place| place.epoch);
    assert!(heard.iter().all(|each| epoch(each) == epoch(&heard[0])));
}

#[tokio::test]
async fn a_batch_that_is_published_again_is_heard_once() {
    let server = Nats::start();
    let one = engine(&server, Ordered, 1);
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    publish(&*session, &batch(1, 0..10)).await;
    drop(session);
    let session = connect(&*one, &ear).await;
    publish(&*session, &batch(1, 0..10)).await;
    publish(&*session, &batch(1, 10..11)).await;
    ear.wait(11).await;
    assert!(ear.heard().iter().map(Heard::sequence).eq(0..11));
}

#[tokio::test]
async fn a_stream_that_is_new_is_read_from_its_start_under_a_new_epoch() {
    let mut server = Nats::start();
    let (one, two) = (engine(&server, Ordered, 1), engine(&server, Ordered, 2));
    let ear = Ear::new();
    let session = connect(&*one, &Ear::new()).await;
    let listening = connect(&*two, &ear).await;
    publish(&*session, &batch(1, 0..50)).await;
    ear.wait(50).await;
    server.restart_empty();
    drop((session, listening));
    let session = reconnect(&*one, &Ear::new()).await;
    // Before the other is back: it must not miss the start of the new log.
    publish(&*session, &batch(1, 50..60)).await;
    let listening = reconnect(&*two, &ear).await;
    ear.wait(60).await;
    let heard = placed(&ear);
    assert!(heard.iter().map(Heard::sequence).eq(0..60));
    let epoch = |index: usize| heard[index].place.clone().expect("ordered").epoch;
    assert_ne!(epoch(49), epoch(50));
    assert_eq!(epoch(50), place(&*session).await.epoch, "both boxes know it by one name");
    assert_eq!(epoch(50), place(&*listening).await.epoch);
}

#[tokio::test]
async fn what_the_inlet_has_no_room_for_waits_at_the_server() {
    let server = Nats::start();
    let one = engine(&server, Ordered, 1);
    let ear = Ear::new();
    let session = connect(&*one, &ear).await;
    ear.set_full(true);
    for round in 0..8 {
        publish(&*session, &batch(1, round * 256..(round + 1) * 256)).await;
    }
    let before = place(&*session).await;
    assert_eq!(before.offset, 0, "nothing was taken");
    ear.set_full(false);
    ear.wait(2048).await;
    assert!(ear.heard().iter().map(Heard::sequence).eq(0..2048));
}

#[tokio::test]
async fn a_stream_that_is_deleted_ends_the_session() {
    let mut server = Nats::start();
    let one = engine(&server, Ordered, 1);
    let session = connect(&*one, &Ear::new()).await;
    server.restart_empty();
    within("the loss", session.lost()).await;
    let parcels = batch(1, 0..1);
    assert!(within("an error", session.publish(&parcels)).await.is_err());
}
