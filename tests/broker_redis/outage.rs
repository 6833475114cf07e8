//! A server that dies, hangs or forgets: the session is over, and the next one goes on.

use std::time::Instant;

use ringhall::bridge::Delivery;
use ringhall::bridge::envelope::partition;
use ringhall::broker::PUBLISH_TIMEOUT;
use ringhall::id::Mode;

use crate::scene::{Box, Came, lost, on_bridge, options, publish, room};
use crate::servers::Redis;

#[test]
fn a_kill_ends_the_session_and_the_next_goes_on_with_the_data_that_the_server_kept() {
    let mut redis = Redis::start();
    on_bridge(async {
        let [one, two] = [1, 2].map(|id| Box::new(id, options(&redis.url(), Delivery::Ordered)));
        let (first, second) = (one.connect().await, two.connect().await);
        publish(&*first, &[1, 2].map(|number| one.says("lobby", number))).await;
        let before = two.heard.next(2).await;
        redis.kill();
        assert!(lost(&*first).await.contains("closed the connection"));
        lost(&*second).await;
        assert!(first.publish(&[one.says("lobby", 3)]).await.is_err());
        let refusal = one.refusal().await;
        assert!(refusal.contains("start the server, or correct broker.url"), "{refusal}");
        drop((first, second));

        redis.restart(true);
        let first = one.connect_again().await;
        // The second box is late: what was said meanwhile is not lost.
        publish(&*first, &[3, 4].map(|number| one.says("lobby", number))).await;
        let _second = two.connect_again().await;
        let came = two.heard.next(2).await;
        assert!(came.iter().map(Came::sequence).eq([3, 4]));
        assert!(came.iter().map(Came::offset).eq([3, 4]));
        assert_eq!(came[0].place.as_ref().expect("placed").epoch, {
            before[0].place.as_ref().expect("placed").epoch.clone()
        });
        assert_eq!(one.heard.next(4).await.len(), 4);
    });
}

#[test]
fn a_server_that_came_back_empty_numbers_anew_and_nothing_new_is_skipped() {
    let mut redis = Redis::start();
    on_bridge(async {
        let one = Box::new(1, options(&redis.url(), Delivery::Ordered));
        let session = one.connect().await;
        let key = room(Mode::Json, "lobby");
        let before = session.place(&key).await.expect("a place");
        publish(&*session, &[1, 2].map(|number| one.says("lobby", number))).await;
        one.heard.next(2).await;
        redis.kill();
        lost(&*session).await;
        drop(session);

        redis.restart(false);
        // Somebody was sooner; and by the new server's clock it is long ago: its ids are below the
        // last one that was taken.
        let log = format!("{{ringhall:{:02}}}:log", partition("lobby"));
        let envelope = one.says("lobby", 3).envelope;
        let client = redis::Client::open(redis.url()).expect("a client");
        let mut connection = client.get_connection().expect("it is up");
        let mut add = redis::cmd("XADD");
        add.arg(&log).arg("5-1").arg("p").arg("other").arg("n").arg(1).arg("e").arg(&envelope[..]);
        add.exec(&mut connection).expect("it is written");

        let session = one.connect_again().await;
        let came = one.heard.next(1).await;
        assert_eq!((came[0].sequence(), came[0].offset()), (3, 1));
        let after = session.place(&key).await.expect("a place");
        assert_ne!(after.epoch, before.epoch);
        assert_eq!(after.offset, 0);
        publish(&*session, &[one.says("lobby", 4)]).await;
        let came = one.heard.next(1).await;
        assert_eq!(came[0].place.as_ref().expect("placed").epoch, after.epoch);
        assert_eq!(came[0].offset(), 1);
    });
}

#[test]
fn an_end_in_order_ends_a_session_of_pub_sub_and_the_next_hears_again() {
    let mut redis = Redis::start();
    on_bridge(async {
        let one = Box::new(1, options(&redis.url(), Delivery::LocalFirst));
        let session = one.connect().await;
        redis.stop();
        lost(&*session).await;
        assert!(session.publish(&[one.probe(1)]).await.is_err());
        drop(session);
        redis.restart(false);
        let session = one.connect_again().await;
        publish(&*session, &[one.says("r", 2), one.probe(3)]).await;
        assert!(one.heard.next(2).await.iter().map(Came::sequence).eq([2, 3]));
    });
}

#[test]
fn a_server_that_hangs_takes_no_batch_and_no_connection_and_is_noticed() {
    for delivery in [Delivery::LocalFirst, Delivery::Ordered] {
        let redis = Redis::start();
        on_bridge(async {
            let one = Box::new(1, options(&redis.url(), delivery));
            let session = one.connect().await;
            redis.pause();
            let batch = [one.says("r", 1)];
            let publishing = tokio::time::timeout(PUBLISH_TIMEOUT, session.publish(&batch));
            assert!(publishing.await.is_err(), "its fate is not known within the second");
            let began = Instant::now();
            let refusal = one.refusal().await;
            assert!(refusal.contains("stopped, overloaded or behind a firewall"), "{refusal}");
            assert!(began.elapsed() < ringhall::broker::CONNECT_TIMEOUT);
            // Nobody published: the session looks by itself.
            let noticed = lost(&*session).await;
            assert!(noticed.contains("stopped, overloaded"), "{noticed}");
            drop(session);
            redis.resume();
            let session = one.connect_again().await;
            publish(&*session, &[one.says("r", 2)]).await;
            one.heard.hears(2).await;
            if delivery == Delivery::Ordered {
                // A timeout is not a failure: the batch had been handed over, and is in the log.
                one.heard.hears(1).await;
            }
        });
    }
}

#[test]
fn a_server_that_lost_its_latest_entries_says_none_of_the_others_again() {
    let redis = Redis::start();
    on_bridge(async {
        let one = Box::new(1, options(&redis.url(), Delivery::Ordered));
        let session = one.connect().await;
        for number in 1..=3 {
            publish(&*session, &[one.says("lobby", number)]).await;
        }
        one.heard.next(3).await;
        drop(session);
        // As after a crash before it was written down.
        let log = format!("{{ringhall:{:02}}}:log", partition("lobby"));
        let lose = "local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)[1][1]
            return redis.call('XDEL', KEYS[1], last)";
        redis.command(&["EVAL", lose, "1", &log]);
        let session = one.connect_again().await;
        publish(&*session, &[one.says("lobby", 4)]).await;
        assert_eq!(one.heard.next(1).await[0].sequence(), 4);
    });
}
