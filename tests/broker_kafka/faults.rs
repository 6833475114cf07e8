//! Faults of a broker that is there: answers that are errors, late, lost, and logs that change.

use std::time::Duration;

use krafka::error::ErrorCode;
use krafka::testing::{ApiKey, Control, FakeBroker};
use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::limits::PARTITIONS;

use crate::peer::{Peer, local, publish, room_of, until};

async fn cluster(brokers: usize) -> (FakeBroker, String) {
    let broker = FakeBroker::start_cluster(brokers).await.expect("fake brokers");
    let url = format!("kafka://{}", broker.bootstrap_servers());
    (broker, url)
}

#[test]
fn a_leader_that_has_moved_is_found_and_the_order_is_kept() {
    local(async {
        let (broker, url) = cluster(3).await;
        let one = Peer::new(&url, LocalFirst, 1);
        let session = one.connect().await;
        let texts: Vec<_> = (0..90).map(|at| at.to_string()).collect();
        for (leader, texts) in texts.chunks(30).enumerate() {
            let leader = i32::try_from(leader).expect("small");
            assert!(broker.set_leader("test.said", 6, leader));
            let parcels: Vec<_> = texts.iter().map(|text| one.words(6, text)).collect();
            publish(&*session, &parcels).await.expect("published");
        }
        broker.on_once(ApiKey::Produce, |_| Control::Error(ErrorCode::NotLeaderForPartition));
        publish(&*session, &[one.words(6, "last")]).await.expect("published");
        until("all is heard", || one.ear.count() == 91).await;
        assert_eq!(one.ear.texts(6)[..90], texts);
    });
}

#[test]
fn one_broker_of_three_crashes_and_the_others_carry_on() {
    local(async {
        let (broker, url) = cluster(3).await;
        let [one, two] = [1, 2].map(|id| Peer::new(&url, Ordered, id));
        let (first, second) = (one.connect().await, two.connect().await);
        publish(&*first, &[one.words(6, "before")]).await.expect("published");
        until("it is heard", || two.ear.count() == 1).await;
        broker.crash(0);
        for (topic, partitions) in [("test.said", PARTITIONS), ("test.control", 1)] {
            for partition in 0..i32::try_from(partitions).expect("small") {
                assert!(broker.set_leader(topic, partition, 1 + partition % 2));
            }
        }
        broker.set_broker_online(0, false);
        broker.set_controller(1);
        drop((first, second));
        let (first, _second) = (one.reconnect().await, two.reconnect().await);
        publish(&*first, &[one.words(6, "behind"), one.control("x")]).await.expect("published");
        until("it is heard", || two.ear.count() == 3).await;
        assert_eq!(two.ear.texts(6), ["before", "behind"]);
    });
}

#[test]
fn an_answer_that_is_lost_costs_a_duplicate_and_never_the_order() {
    local(async {
        let (broker, url) = cluster(1).await;
        let one = Peer::new(&url, Ordered, 1);
        let session = one.connect().await;
        broker.on_once(ApiKey::Produce, |_| Control::ApplyThen(Box::new(Control::Disconnect)));
        let texts: Vec<_> = (0..20).map(|at| at.to_string()).collect();
        let parcels: Vec<_> = texts.iter().map(|text| one.words(6, text)).collect();
        publish(&*session, &parcels[..10]).await.expect("published");
        publish(&*session, &parcels[10..]).await.expect("published");
        until("all is heard", || one.ear.count() >= 30).await;
        assert_eq!(one.ear.texts(6)[..10], texts[..10]);
        assert_eq!(one.ear.texts(6)[10..], texts);
        assert_eq!(one.ear.fresh(6), texts);
    });
}

#[test]
fn a_message_that_the_broker_will_never_take_holds_nothing_up() {
    local(async {
        let (broker, url) = cluster(1).await;
        let one = Peer::new(&url, Ordered, 1);
        let session = one.connect().await;
        broker.on_once(ApiKey::Produce, |_| Control::Error(ErrorCode::MessageTooLarge));
        let given_up = publish(&*session, &[one.words(6, "refused")]).await;
        assert_eq!(given_up, Ok(vec![0]));
        assert_eq!(publish(&*session, &[one.words(6, "next")]).await, Ok(vec![]));
        until("the next is heard", || one.ear.count() == 1).await;
        assert_eq!(one.ear.texts(6), ["next"]);
    });
}

#[test]
fn a_broker_that_crashes_with_its_log_is_gone_on_with() {
    local(async {
        let (broker, url) = cluster(1).await;
        let [one, two] = [1, 2].map(|id| Peer::new(&url, Ordered, id));
        let (first, second) = (one.connect().await, two.connect().await);
        let epoch = first.place(&room_of(6)).await.expect("a place").epoch;
        two.ear.give_room(6, 5);
        let texts: Vec<_> = (0..30).map(|at| at.to_string()).collect();
        let parcels: Vec<_> = texts.iter().map(|text| one.words(6, text)).collect();
        publish(&*first, &parcels[..20]).await.expect("published");
        until("what there is room for", || two.ear.count() == 5).await;
        broker.crash(0);
        for session in [&first, &second] {
            let lost = tokio::time::timeout(Duration::from_secs(1), session.lost()).await;
            let reason = lost.expect("a lost connection is noticed");
            assert!(reason.0.contains("check that the brokers"), "{reason}");
        }
        drop((first, second));
        assert!(one.try_connect().await.is_err(), "nobody is there");
        broker.restart(0);
        two.ear.give_room(6, usize::MAX);
        let (first, second) = (one.reconnect().await, two.reconnect().await);
        publish(&*first, &parcels[20..]).await.expect("published");
        for (ear, session) in [(&one.ear, &first), (&two.ear, &second)] {
            until("all is heard", || ear.count() == 30).await;
            assert_eq!(ear.texts(6), texts);
            assert_eq!(session.place(&room_of(6)).await.expect("a place").epoch, epoch);
        }
    });
}

#[test]
fn a_log_whose_start_was_cleared_away_goes_on_in_its_epoch() {
    local(async {
        let (broker, url) = cluster(1).await;
        let one = Peer::new(&url, Ordered, 1);
        let session = one.connect().await;
        let old: Vec<_> = (0..20).map(|_| one.words(6, "old")).collect();
        publish(&*session, &old).await.expect("published");
        until("all is heard", || one.ear.count() == 20).await;
        let before = session.place(&room_of(6)).await.expect("a place");
        drop(session);
        broker.with_state(|state| {
            let topic = state.topics.get_mut("test.said").expect("the topic");
            topic.partitions[6].log.clear();
            topic.partitions[6].log_start_offset = topic.partitions[6].next_offset;
        });
        let session = one.connect().await;
        publish(&*session, &[one.words(6, "new")]).await.expect("published");
        until("what is new is heard", || one.ear.count() == 21).await;
        let now = session.place(&room_of(6)).await.expect("a place");
        assert!(now.epoch == before.epoch && now.offset > before.offset, "{before:?} {now:?}");
    });
}

/// As after an election that lost what was acknowledged: the topic keeps its id.
#[test]
fn a_log_that_lost_its_end_is_a_new_epoch_even_where_it_has_grown_again() {
    for grown in [0, 50] {
        local(async {
            let (broker, url) = cluster(1).await;
            let [one, two] = [1, 2].map(|id| Peer::new(&url, Ordered, id));
            let (first, second) = (one.connect().await, two.connect().await);
            let other = Peer::new(&url, Ordered, 3);
            let third = other.connect().await;
            let old: Vec<_> = (0..20).map(|_| one.words(6, "old")).collect();
            publish(&*first, &old).await.expect("published");
            let ears = [&one.ear, &two.ear];
            until("all is heard", || ears.iter().all(|ear| ear.count() == 20)).await;
            let before = second.place(&room_of(6)).await.expect("a place");
            drop((first, second, third));
            broker.with_state(|state| {
                let topic = state.topics.get_mut("test.said").expect("the topic");
                topic.partitions[6].log.clear();
                topic.partitions[6].next_offset = 0;
            });
            let third = other.connect().await;
            let more: Vec<_> = (0..grown).map(|_| other.words(6, "new")).collect();
            publish(&*third, &more).await.expect("published");
            let (first, _second) = (one.connect().await, two.connect().await);
            publish(&*first, &[one.words(6, "last")]).await.expect("published");
            let count = 20 + grown + 1;
            until("what is new is heard", || ears.iter().all(|ear| ear.count() == count)).await;
            let places = ears.map(|ear| {
                let new = ear.heard().into_iter().skip(20);
                new.filter_map(|heard| heard.place).collect::<Vec<_>>()
            });
            assert_eq!(places[0], places[1], "{grown}");
            assert!(places[0].iter().all(|place| place.epoch != before.epoch), "{places:?}");
            assert!(places[0].is_sorted_by(|one, next| one.offset < next.offset), "{places:?}");
        });
    }
}

#[test]
fn a_topic_that_is_made_anew_under_the_session_ends_it() {
    local(async {
        let (broker, url) = cluster(1).await;
        let one = Peer::new(&url, Ordered, 1);
        let session = one.connect().await;
        let before = session.place(&room_of(6)).await.expect("a place");
        assert!(broker.delete_topic("test.said"));
        assert!(broker.create_topic("test.said", i32::try_from(PARTITIONS).expect("small")));
        let lost = tokio::time::timeout(Duration::from_secs(6), session.lost()).await;
        let reason = lost.expect("it is noticed");
        assert!(reason.0.contains("topic test.said"), "{reason}");
        drop(session);
        let session = one.connect().await;
        assert_ne!(session.place(&room_of(6)).await.expect("a place").epoch, before.epoch);
        publish(&*session, &[one.words(6, "new")]).await.expect("published");
        until("it is heard", || one.ear.count() == 1).await;
    });
}
