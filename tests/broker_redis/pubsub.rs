//! What is published by pub/sub reaches every box, in order.

use ringhall::bridge::Delivery;
use ringhall::broker::{Lane, Options, Parcel};
use ringhall::limits::PARTITIONS;

use crate::scene::{Box, on_bridge, options, publish};
use crate::servers::Redis;

#[test]
fn every_lane_reaches_every_box_and_its_sender() {
    let redis = Redis::start();
    on_bridge(async {
        let all = [1, 2].map(|id| Box::new(id, options(&redis.url(), Delivery::LocalFirst)));
        let sessions = [all[0].connect().await, all[1].connect().await];
        let mut parcels: Vec<Parcel> = (0..PARTITIONS)
            .map(|at| Parcel { lane: Lane::Partition(at), ..all[0].says("r", at as u64) })
            .collect();
        parcels.push(all[0].probe(99));
        publish(&*sessions[0], &parcels).await;
        for each in &all {
            let came = each.heard.next(PARTITIONS + 1).await;
            let lanes: Vec<_> = came.iter().map(|came| (came.lane, came.sequence())).collect();
            let wanted = (0..PARTITIONS).map(|at| (Lane::Partition(at), at as u64));
            assert_eq!(lanes, wanted.chain([(Lane::Control, 99)]).collect::<Vec<_>>());
            assert_eq!(came[5].envelope, parcels[5].envelope);
        }
    });
}

#[test]
fn batches_of_256_arrive_whole_and_in_order() {
    const BATCHES: u64 = 100;
    let redis = Redis::start();
    on_bridge(async {
        let all = [1, 2].map(|id| Box::new(id, options(&redis.url(), Delivery::LocalFirst)));
        let sessions = [all[0].connect().await, all[1].connect().await];
        for batch in 0..BATCHES {
            let numbers = batch * 256..(batch + 1) * 256;
            let parcels: Vec<_> = numbers.map(|number| all[0].says("lobby", number)).collect();
            publish(&*sessions[0], &parcels).await;
        }
        for each in &all {
            let came = each.heard.next(256 * usize::try_from(BATCHES).expect("few")).await;
            let numbers = came.iter().map(crate::scene::Came::sequence);
            assert!(numbers.eq(0..BATCHES * 256), "re-ordered");
        }
    });
}

#[test]
fn clusters_with_other_prefixes_do_not_hear_each_other() {
    apart(|here| Options { prefix: "other".into(), ..here });
}

#[test]
fn clusters_in_other_databases_do_not_hear_each_other() {
    apart(|here| Options { url: format!("{}/1", here.url), ..here });
}

fn apart(other: impl FnOnce(Options) -> Options) {
    let redis = Redis::start();
    on_bridge(async {
        let here = options(&redis.url(), Delivery::LocalFirst);
        let there = other(here.clone());
        let (here, there) = (Box::new(1, here), Box::new(2, there));
        let sessions = [here.connect().await, there.connect().await];
        publish(&*sessions[0], &[here.says("r", 1), here.probe(1)]).await;
        // Behind the foreign ones on the same connection: had they come, they had come before.
        publish(&*sessions[1], &[there.probe(2)]).await;
        assert_eq!(there.heard.next(1).await[0].sequence(), 2);
        here.heard.next(2).await;
    });
}

#[test]
fn a_session_that_was_dropped_receives_nothing_more() {
    let redis = Redis::start();
    on_bridge(async {
        let all = [1, 2].map(|id| Box::new(id, options(&redis.url(), Delivery::LocalFirst)));
        let (one, two) = (all[0].connect().await, all[1].connect().await);
        drop(two);
        let clients = || {
            let list = crate::servers::text(&redis.command(&["CLIENT", "LIST", "TYPE", "pubsub"]));
            list.lines().count()
        };
        let gone = tokio::time::timeout(crate::support::DEADLINE, async {
            while clients() > 1 {
                tokio::task::yield_now().await;
            }
        });
        gone.await.expect("the connection ends with its session");
        publish(&*one, &[all[0].says("r", 1)]).await;
        all[0].heard.next(1).await;
        assert_eq!(all[1].heard.take(), []);
    });
}
