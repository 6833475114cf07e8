//! What boxes hear of each other, and in which order.

use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::broker::Lane;
use ringhall::limits::PARTITIONS;

use crate::peer::{Peer, local, publish, room_of, until};
use crate::tansu::Tansu;

/// Messages of one batch, as the bridge takes them at most.
const BATCH: usize = 256;

#[test]
fn what_one_box_publishes_every_box_hears_itself_included() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), LocalFirst, id));
        let (first, second) = (one.connect().await, two.connect().await);
        let said = [one.words(0, "a"), one.words(63, "b"), one.control("c")];
        publish(&*first, &said).await.expect("published");
        publish(&*second, &[two.words(0, "d")]).await.expect("published");
        for ear in [&one.ear, &two.ear] {
            until("everything is heard", || ear.count() == 4).await;
            assert_eq!(
                (ear.texts(0), ear.texts(63)),
                (vec!["a".into(), "d".into()], vec!["b".into()])
            );
            let control: Vec<_> = ear.heard().into_iter().filter(|it| it.lane.is_none()).collect();
            assert_eq!(control.len(), 1);
            assert_eq!((control[0].from, &*control[0].text, &control[0].place), (1, "c", &None));
        }
    });
}

#[test]
fn batches_keep_the_order_of_each_partition() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), LocalFirst, id));
        let (first, _second) = (one.connect().await, two.connect().await);
        let mut expected = vec![Vec::new(); PARTITIONS];
        for batch in 0..20 {
            let mut parcels = Vec::new();
            for at in 0..BATCH {
                // Most of it in few partitions, as rooms are.
                let partition = if at % 2 == 0 { batch % 3 } else { (at * 7) % PARTITIONS };
                let text = format!("{batch}-{at}");
                parcels.push(one.words(partition, &text));
                expected[partition].push(text);
            }
            publish(&*first, &parcels).await.expect("published");
        }
        until("everything is heard", || two.ear.count() >= 20 * BATCH).await;
        for (partition, expected) in expected.iter().enumerate() {
            assert_eq!(&two.ear.texts(partition), expected, "partition {partition}");
        }
    });
}

/// Tansu gives the end of a log up to a batch short.
#[test]
fn a_box_hears_nothing_older_than_itself() {
    for delivery in [LocalFirst, Ordered] {
        local(async {
            let broker = Tansu::start();
            let one = Peer::new(&broker.url(), delivery, 1);
            let first = one.connect().await;
            for _ in 0..4 {
                let old: Vec<_> = (0..BATCH).map(|at| one.words(at % 2, "old")).collect();
                publish(&*first, &old).await.expect("published");
            }
            publish(&*first, &[one.control("old")]).await.expect("published");
            let two = Peer::new(&broker.url(), delivery, 2);
            let _second = two.connect().await;
            let new = [one.words(0, "new"), one.words(1, "new"), one.control("new")];
            publish(&*first, &new).await.expect("published");
            until("what is new is heard", || two.ear.count() >= new.len()).await;
            let heard = two.ear.heard();
            assert!(heard.iter().all(|heard| heard.text == "new"), "{delivery:?}: {heard:?}");
            until("the other hears all", || one.ear.count() == 4 * BATCH + 4).await;
        });
    }
}

#[test]
fn in_ordered_delivery_every_box_hears_the_same_places() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), Ordered, id));
        let (first, second) = (one.connect().await, two.connect().await);
        let before = first.place(&room_of(5)).await.expect("a place");
        for _ in 0..30 {
            let batch: Vec<_> = (0..8).map(|at| one.words(5 + at % 2, "from one")).collect();
            let other: Vec<_> = (0..8).map(|at| two.words(5 + at % 2, "from two")).collect();
            let both = tokio::join!(publish(&*first, &batch), publish(&*second, &other));
            assert_eq!(both, (Ok(vec![]), Ok(vec![])));
        }
        let heard = [&one.ear, &two.ear];
        until("everything is heard", || heard.iter().all(|ear| ear.count() == 480)).await;
        for partition in [5, 6] {
            let [ours, theirs] = heard.map(|ear| {
                let of_it = ear.heard().into_iter().filter(|it| it.lane == Some(partition));
                of_it.collect::<Vec<_>>()
            });
            assert_eq!(ours, theirs);
            let places: Vec<_> = ours.into_iter().filter_map(|heard| heard.place).collect();
            assert_eq!(places.len(), 240);
            assert!(places.is_sorted_by(|one, next| one.offset < next.offset), "{places:?}");
            assert!(places.iter().all(|place| place.epoch == before.epoch), "{places:?}");
        }
        let last = one.ear.heard().into_iter().rfind(|heard| heard.lane == Some(5));
        let newest = last.and_then(|heard| heard.place).expect("a place");
        for session in [&first, &second] {
            assert_eq!(session.place(&room_of(5)).await, Ok(newest.clone()));
        }
        assert!(before.offset < newest.offset - 239);
    });
}

#[test]
fn a_partition_without_room_waits_and_holds_nobody_up() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), Ordered, id));
        let (first, _second) = (one.connect().await, two.connect().await);
        two.ear.give_room(7, 10);
        let mut expected = Vec::new();
        for batch in 0..6 {
            let texts: Vec<_> = (0..BATCH).map(|at| format!("{batch}-{at}")).collect();
            let parcels: Vec<_> = texts.iter().map(|text| one.words(7, text)).collect();
            publish(&*first, &parcels).await.expect("published");
            expected.extend(texts);
            publish(&*first, &[one.words(8, "other"), one.control("other")])
                .await
                .expect("published");
        }
        until("the other lanes are heard", || {
            let heard = two.ear.heard();
            heard.iter().filter(|heard| heard.text == "other").count() == 12
        })
        .await;
        assert_eq!(two.ear.texts(7), expected[..10]);
        two.ear.give_room(7, 700);
        until("as much as there is room for", || two.ear.texts(7).len() == 710).await;
        two.ear.give_room(7, usize::MAX);
        until("the rest", || two.ear.texts(7).len() == expected.len()).await;
        assert_eq!(two.ear.texts(7), expected);
    });
}

#[test]
fn the_next_session_goes_on_behind_what_the_inlet_has_taken() {
    local(async {
        let broker = Tansu::start();
        let [one, two] = [1, 2].map(|id| Peer::new(&broker.url(), Ordered, id));
        let first = one.connect().await;
        let second = two.connect().await;
        let epoch = second.place(&room_of(7)).await.expect("a place").epoch;
        two.ear.give_room(7, 10);
        let texts: Vec<_> = (0..40).map(|at| at.to_string()).collect();
        let parcels: Vec<_> = texts.iter().map(|text| one.words(7, text)).collect();
        publish(&*first, &parcels[..20]).await.expect("published");
        until("what there is room for", || two.ear.count() == 10).await;
        drop(second);
        publish(&*first, &parcels[20..]).await.expect("published");
        two.ear.give_room(7, usize::MAX);
        let again = two.connect().await;
        until("the rest", || two.ear.count() == 40).await;
        assert_eq!(two.ear.texts(7), texts);
        assert_eq!(again.place(&room_of(7)).await.expect("a place").epoch, epoch);
    });
}

#[test]
fn a_parcel_may_be_large() {
    local(async {
        let broker = Tansu::start();
        let one = Peer::new(&broker.url(), LocalFirst, 1);
        let session = one.connect().await;
        let large = "x".repeat(700 << 10);
        let parcels = [one.words(3, "before"), one.words(3, &large), one.words(3, "behind")];
        assert_eq!(parcels[1].lane, Lane::Partition(3));
        publish(&*session, &parcels).await.expect("published");
        until("all three are heard", || one.ear.count() == 3).await;
        assert_eq!(one.ear.texts(3), ["before".to_owned(), large, "behind".to_owned()]);
    });
}
