//! A broker that is killed, comes back empty, or stands still.

use std::time::Duration;

use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::broker::PUBLISH_TIMEOUT;

use crate::peer::{Peer, local, publish, room_of, until, within};
use crate::tansu::Tansu;

/// A session that was dropped has nothing left after its longest deadline.
const LEFT_OVER: Duration = Duration::from_secs(4);

fn tasks() -> usize {
    tokio::runtime::Handle::current().metrics().num_alive_tasks()
}

#[test]
fn a_killed_broker_is_noticed_and_connecting_says_what_to_look_at() {
    local(async {
        let mut broker = Tansu::start();
        let one = Peer::new(&broker.url(), LocalFirst, 1);
        let session = one.connect().await;
        let lost = session.lost();
        broker.kill();
        let reason = tokio::time::timeout(Duration::from_secs(1), lost).await.expect("noticed");
        assert!(reason.0.contains("check that the brokers"), "{reason}");
        assert!(publish(&*session, &[one.words(0, "x")]).await.is_err());
        drop(session);
        let error = one.try_connect().await.err().expect("nobody is there");
        assert!(error.0.starts_with("connecting: "), "{error}");
        assert!(error.0.contains("check that the brokers of broker.url run"), "{error}");
    });
}

#[test]
fn a_broker_that_comes_back_empty_is_a_new_epoch_on_all_boxes_and_is_read_from_its_start() {
    local(async {
        let mut broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), Ordered, id));
        let sessions = (one.connect().await, two.connect().await);
        let old: Vec<_> = (0..100).map(|_| one.words(9, "old")).collect();
        publish(&*sessions.0, &old).await.expect("published");
        let ears = [&one.ear, &two.ear];
        until("all is heard", || ears.iter().all(|ear| ear.count() == 100)).await;
        let before = sessions.1.place(&room_of(9)).await.expect("a place");
        assert!(before.offset >= 100, "{before:?}");
        broker.kill();
        sessions.0.lost().await;
        sessions.1.lost().await;
        drop(sessions);
        broker.restart();

        let first = one.reconnect().await;
        // Said before the other box is back, at offsets that it has had before.
        publish(&*first, &[one.words(9, "new 1"), one.words(9, "new 2")]).await.expect("published");
        let second = two.reconnect().await;
        publish(&*second, &[two.words(9, "new 3")]).await.expect("published");
        let new = ["new 1", "new 2", "new 3"];
        for ear in ears {
            until("what is new is heard", || ear.count() == 103).await;
            assert_eq!(ear.texts(9)[100..], new);
        }
        let places = ears.map(|ear| {
            let new = ear.heard().into_iter().skip(100);
            new.filter_map(|heard| heard.place).collect::<Vec<_>>()
        });
        assert_eq!(places[0], places[1]);
        assert!(places[0].iter().all(|place| place.epoch != before.epoch), "{places:?}");
        assert!(places[0].is_sorted_by(|one, next| one.offset < next.offset), "{places:?}");
        assert!(places[0][0].offset < before.offset, "{places:?}");
        let now = second.place(&room_of(9)).await.expect("a place");
        assert_eq!(Some(&now), places[0].last());
    });
}

#[test]
fn in_local_first_a_broker_that_comes_back_empty_goes_on() {
    local(async {
        let mut broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), LocalFirst, id));
        drop((one.connect().await, two.connect().await));
        broker.kill();
        broker.restart();
        let (first, _second) = (one.reconnect().await, two.reconnect().await);
        publish(&*first, &[one.words(9, "new")]).await.expect("published");
        until("what is new is heard", || two.ear.count() == 1).await;
    });
}

#[test]
fn a_broker_that_stands_still_loses_its_sessions_and_no_message() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), Ordered, id));
        let (first, second) = (one.connect().await, two.connect().await);
        let texts: Vec<_> = (0..60).map(|at| at.to_string()).collect();
        let parcels: Vec<_> = texts.iter().map(|text| one.words(4, text)).collect();
        publish(&*first, &parcels[..20]).await.expect("published");
        broker.pause();
        // Its fate is not known: it is published again, first of all.
        publish(&*first, &parcels[20..40]).await.expect_err("nobody answers");
        let end = PUBLISH_TIMEOUT * 3;
        tokio::time::timeout(end, second.lost()).await.expect("a silent broker is noticed");
        drop((first, second));
        assert!(one.try_connect().await.is_err(), "nobody answers");
        broker.resume();
        let (first, _second) = (one.reconnect().await, two.reconnect().await);
        publish(&*first, &parcels[20..]).await.expect("published");
        for ear in [&one.ear, &two.ear] {
            until("all is heard", || ear.fresh(4).len() >= 60).await;
            assert_eq!(ear.fresh(4), texts);
        }
    });
}

#[test]
fn a_session_that_is_dropped_leaves_no_task_behind() {
    local(async {
        let broker = Tansu::start();
        let one = Peer::new(&broker.url(), LocalFirst, 1);
        let none = tasks();
        let session = one.connect().await;
        publish(&*session, &[one.words(0, "x")]).await.expect("published");
        assert!(tasks() > none);
        drop(session);
        within(LEFT_OVER, "nothing is left of a well session", || tasks() <= none).await;

        let session = one.connect().await;
        broker.pause();
        publish(&*session, &[one.words(0, "x")]).await.expect_err("nobody answers");
        drop(session);
        within(LEFT_OVER, "nothing is left of a stuck session", || tasks() <= none).await;

        // An attempt that is given up halfway.
        let attempt = tokio::time::timeout(Duration::from_millis(300), one.try_connect()).await;
        assert!(attempt.is_err(), "nobody answers");
        within(LEFT_OVER, "nothing is left of an attempt", || tasks() <= none).await;
        broker.resume();
        one.reconnect().await;
    });
}
