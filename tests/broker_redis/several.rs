//! Several servers as one: a cluster of two, and a primary behind a sentinel.

use ringhall::bridge::Delivery;
use ringhall::broker::{Lane, Parcel};
use ringhall::limits::PARTITIONS;

use crate::scene::{Box, Came, lost, on_bridge, options, publish};
use crate::servers::{Cluster, Redis};
use crate::support::{DEADLINE, eventually};

#[test]
fn every_lane_of_a_cluster_reaches_every_box_by_sharded_pub_sub() {
    let cluster = Cluster::start(2);
    on_bridge(async {
        let all = [1, 2].map(|id| Box::new(id, options(&cluster.url(), Delivery::LocalFirst)));
        let sessions = [all[0].connect().await, all[1].connect().await];
        for batch in 0..40 {
            let mut parcels: Vec<Parcel> = (0..256_usize)
                .map(|number| {
                    let lane = Lane::Partition(number % PARTITIONS);
                    Parcel { lane, ..all[0].says("r", (batch * 256 + number) as u64) }
                })
                .collect();
            parcels.push(all[0].probe(batch as u64));
            publish(&*sessions[0], &parcels).await;
        }
        for each in &all {
            let came = each.heard.next(40 * 257).await;
            for lane in (0..PARTITIONS).map(Lane::Partition).chain([Lane::Control]) {
                let on_lane: Vec<_> = came.iter().filter(|came| came.lane == lane).collect();
                assert_eq!(on_lane.len(), if lane == Lane::Control { 40 } else { 160 });
                assert!(on_lane.is_sorted_by_key(|came| came.sequence()), "{lane:?}");
            }
        }
    });
}

#[test]
fn the_logs_of_a_cluster_give_every_box_the_same_places() {
    let cluster = Cluster::start(2);
    on_bridge(async {
        let all = [1, 2].map(|id| Box::new(id, options(&cluster.url(), Delivery::Ordered)));
        let sessions = [all[0].connect().await, all[1].connect().await];
        let rooms: Vec<_> = (0..40).map(|number| format!("room-{number}")).collect();
        for (from, session) in all.iter().zip(&sessions) {
            let parcels: Vec<_> =
                (0..240).map(|number| from.says(&rooms[number as usize % 40], number)).collect();
            publish(&**session, &parcels).await;
        }
        publish(&*sessions[0], &[all[0].probe(1)]).await;
        let mut came = [all[0].heard.next(481).await, all[1].heard.next(481).await];
        for came in &mut came {
            came.retain(|came| came.lane != Lane::Control);
        }
        for name in &rooms {
            let of = |came: &[Came]| {
                came.iter().filter(|came| came.room() == *name).cloned().collect::<Vec<_>>()
            };
            let here = of(&came[0]);
            assert_eq!(here, of(&came[1]), "{name}");
            assert!(here.iter().map(Came::offset).eq(1..=12), "{name}");
        }
    });
}

#[test]
fn a_cluster_that_lost_a_server_is_left_and_found_again() {
    let mut cluster = Cluster::start(2);
    on_bridge(async {
        let one = Box::new(1, options(&cluster.url(), Delivery::LocalFirst));
        let session = one.connect().await;
        cluster.nodes[1].kill();
        lost(&*session).await;
        drop(session);
        assert!(one.try_connect().await.is_err());
        cluster.nodes[1].restart(true);
        let session = one.connect_again().await;
        let parcels: Vec<_> = (0..PARTITIONS)
            .map(|at| Parcel { lane: Lane::Partition(at), ..one.says("r", at as u64) })
            .collect();
        publish(&*session, &parcels).await;
        one.heard.next(PARTITIONS).await;
    });
}

#[test]
fn a_sentinel_leads_to_the_primary_and_after_a_failover_to_the_new_one() {
    let mut primary = Redis::start();
    let port = primary.port().to_string();
    let replica = Redis::with(&["--replicaof", &format!("127.0.0.1 {port}")]);
    let sentinel = Redis::sentinel(&primary);
    eventually(DEADLINE, "the sentinel knows the replica", || {
        let known = format!("{:?}", sentinel.command(&["SENTINEL", "REPLICAS", "main"]));
        known.contains(&replica.port().to_string())
            && known.contains("master-link-status")
            && crate::servers::text(&replica.command(&["INFO", "replication"]))
                .contains("master_link_status:up")
    });
    on_bridge(async {
        let one = Box::new(1, options(&sentinel.url(), Delivery::Ordered));
        let session = one.connect().await;
        publish(&*session, &[one.says("r", 1)]).await;
        assert_eq!(one.heard.next(1).await[0].offset(), 1);
        primary.kill();
        lost(&*session).await;
        drop(session);
        let session = one.connect_again().await;
        publish(&*session, &[one.says("r", 2)]).await;
        let last = one.heard.next(1).await;
        assert_eq!(last[0].sequence(), 2);
        let known = format!("{:?}", replica.command(&["ROLE"]));
        assert!(known.contains("master"), "{known}");
    });
}
