//! A broker that shows a later record before an earlier one, and logs whose offsets are missing.

use krafka::testing::{ApiKey, FakeBroker};
use ringhall::bridge::Delivery::{self, LocalFirst, Ordered};
use ringhall::broker::Session;

use crate::peer::{Peer, local, publish, until};

/// The partition with the gap; what is to be in it is written to the next two first.
const PARTITION: usize = 6;

/// A topic and its partition.
type Log = (&'static str, usize);
const SAID: Log = ("test.said", PARTITION);
const CONTROL: Log = ("test.control", 0);

/// A batch of one record.
type Batch = Vec<u8>;

/// One box at a broker, and a batch with each of two texts.
async fn scene(broker: &FakeBroker, delivery: Delivery) -> (Peer, Box<dyn Session>, [Batch; 2]) {
    let one = Peer::new(&format!("kafka://{}", broker.bootstrap_servers()), delivery, 1);
    let session = one.connect().await;
    let batches = [(PARTITION + 1, "earlier"), (PARTITION + 2, "later")];
    publish(&*session, &batches.map(|(at, text)| one.words(at, text))).await.expect("published");
    until("it is heard", || one.ear.count() == 2).await;
    let batches = batches.map(|(at, _)| {
        broker.with_state(|state| {
            let topic = state.topics.get_mut("test.said").expect("the topic");
            topic.partitions[at].log.last().expect("a batch").to_vec()
        })
    });
    (one, session, batches)
}

/// Puts a batch into the log so many places behind its end; the log ends behind all of them.
fn show(broker: &FakeBroker, log: Log, batch: &Batch, offset: i64) {
    let mut batch = batch.clone();
    // A batch begins with its offset, which its checksum does not cover.
    batch[..8].copy_from_slice(&offset.to_be_bytes());
    broker.with_state(|state| {
        let topic = state.topics.get_mut(log.0).expect("the topic");
        let partition = &mut topic.partitions[log.1];
        partition.log.push(batch.into());
        partition.log.sort_by_key(|batch| batch[..8].to_vec());
        partition.next_offset = partition.next_offset.max(offset + 1);
    });
}

fn end(broker: &FakeBroker, log: Log) -> i64 {
    broker.next_offset(log.0, i32::try_from(log.1).expect("small")).expect("the partition")
}

#[test]
fn what_is_shown_before_an_earlier_message_waits_for_it() {
    local(async {
        let broker = FakeBroker::start_cluster(1).await.expect("a fake broker");
        let (one, session, [earlier, later]) = scene(&broker, Ordered).await;
        let next = end(&broker, SAID);
        show(&broker, SAID, &later, next + 1);
        until("it is read again", || one.ear.rereads() >= 2).await;
        // The other partitions go on meanwhile.
        publish(&*session, &[one.words(1, "elsewhere")]).await.expect("published");
        until("it is heard", || one.ear.texts(1) == ["elsewhere"]).await;
        assert!(one.ear.texts(PARTITION).is_empty());
        show(&broker, SAID, &earlier, next);
        until("both are heard", || one.ear.texts(PARTITION).len() == 2).await;
        assert_eq!(one.ear.texts(PARTITION), ["earlier", "later"]);
        let heard = one.ear.heard().into_iter().filter(|heard| heard.lane == Some(PARTITION));
        let offsets: Vec<_> = heard.filter_map(|heard| Some(heard.place?.offset)).collect();
        assert_eq!(offsets, [next, next + 1].map(|offset| u64::try_from(offset).expect("whole")));
    });
}

#[test]
fn the_gap_may_come_while_there_is_no_room() {
    local(async {
        let broker = FakeBroker::start_cluster(1).await.expect("a fake broker");
        let (one, _session, [earlier, later]) = scene(&broker, Ordered).await;
        one.ear.give_room(PARTITION, 0);
        let next = end(&broker, SAID);
        show(&broker, SAID, &earlier, next);
        show(&broker, SAID, &later, next + 2);
        let fetches = broker.request_count(ApiKey::Fetch);
        until("it was read", || broker.request_count(ApiKey::Fetch) > fetches + 3).await;
        assert!(one.ear.texts(PARTITION).is_empty());
        one.ear.give_room(PARTITION, usize::MAX);
        until("it is read again", || one.ear.rereads() >= 2).await;
        assert_eq!(one.ear.texts(PARTITION), ["earlier"]);
        show(&broker, SAID, &earlier, next + 1);
        until("all are heard", || one.ear.texts(PARTITION).len() == 3).await;
        assert_eq!(one.ear.texts(PARTITION), ["earlier", "earlier", "later"]);
    });
}

#[test]
fn what_is_missing_for_good_is_given_up_after_a_while() {
    local(async {
        let broker = FakeBroker::start_cluster(1).await.expect("a fake broker");
        let (one, session, [_, later]) = scene(&broker, Ordered).await;
        show(&broker, SAID, &later, end(&broker, SAID) + 1);
        publish(&*session, &[one.words(PARTITION, "behind")]).await.expect("published");
        until("what is there is heard", || one.ear.texts(PARTITION).len() == 2).await;
        assert_eq!(one.ear.texts(PARTITION), ["later", "behind"]);
        let rereads = one.ear.rereads();
        assert!(rereads > 1);
        publish(&*session, &[one.words(PARTITION, "on")]).await.expect("published");
        until("it is heard", || one.ear.texts(PARTITION).len() == 3).await;
        assert_eq!(one.ear.rereads(), rereads);
    });
}

#[test]
fn in_local_first_and_on_the_control_lane_it_waits_too() {
    local(async {
        let broker = FakeBroker::start_cluster(1).await.expect("a fake broker");
        let (one, _session, [earlier, later]) = scene(&broker, LocalFirst).await;
        for (log, lane) in [(SAID, Some(PARTITION)), (CONTROL, None)] {
            let texts = || {
                let heard = one.ear.heard().into_iter().filter(|heard| heard.lane == lane);
                heard.map(|heard| heard.text).collect::<Vec<_>>()
            };
            let (next, rereads) = (end(&broker, log), one.ear.rereads());
            show(&broker, log, &later, next + 1);
            until("it is read again", || one.ear.rereads() >= rereads + 2).await;
            assert!(texts().is_empty(), "{log:?}");
            show(&broker, log, &earlier, next);
            until("both are heard", || texts().len() == 2).await;
            assert_eq!(texts(), ["earlier", "later"], "{log:?}");
        }
    });
}
