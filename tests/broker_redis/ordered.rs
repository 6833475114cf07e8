//! The log is the room's order, the same on every box.

use ringhall::bridge::Delivery;
use ringhall::bridge::envelope::partition;
use ringhall::broker::Lane;
use ringhall::id::Mode;

use crate::scene::{Box, Came, on_bridge, options, publish, room};
use crate::servers::Redis;

fn two(redis: &Redis) -> [Box; 2] {
    [1, 2].map(|id| Box::new(id, options(&redis.url(), Delivery::Ordered)))
}

fn of_room<'a>(came: &'a [Came], room: &str) -> Vec<&'a Came> {
    came.iter().filter(|came| came.room() == room).collect()
}

#[test]
fn each_room_counts_from_1_under_its_own_epoch_and_every_box_hears_the_same() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let sessions = [all[0].connect().await, all[1].connect().await];
        publish(&*sessions[0], &[all[0].says("a", 1), all[0].says("b", 1)]).await;
        publish(&*sessions[1], &[all[1].says("a", 1), all[1].says("a", 2)]).await;
        publish(&*sessions[0], &[all[0].says_in(Mode::Raw, "a", 2), all[0].probe(1)]).await;
        let mut came = [all[0].heard.next(6).await, all[1].heard.next(6).await];
        for came in &mut came {
            // Pub/sub and log are two ways: the probe may come before what was said.
            let probe = came.iter().position(|came| came.lane == Lane::Control);
            came.remove(probe.expect("the probe came"));
        }
        for name in ["a", "b"] {
            assert_eq!(of_room(&came[0], name), of_room(&came[1], name), "{name}");
        }
        let offsets =
            |name| of_room(&came[0], name).iter().map(|came| came.offset()).collect::<Vec<_>>();
        assert_eq!(offsets("a"), [1, 2, 3, 1], "a raw room of the same name is another room");
        assert_eq!(offsets("b"), [1]);
    });
}

#[test]
fn a_room_is_placed_before_its_first_message_and_after() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let sessions = [all[0].connect().await, all[1].connect().await];
        let key = room(Mode::Json, "lobby");
        let first = sessions[0].place(&key).await.expect("a place");
        assert_eq!(first.offset, 0);
        assert_eq!(sessions[1].place(&key).await, Ok(first.clone()));
        publish(&*sessions[0], &[1, 2, 3].map(|number| all[0].says("lobby", number))).await;
        let placed = sessions[1].place(&key).await.expect("a place");
        assert_eq!((placed.epoch, placed.offset), (first.epoch.clone(), 3));
        let came = all[1].heard.next(3).await;
        assert!(came.iter().all(|came| came.place.as_ref().expect("placed").epoch == first.epoch));
        let raw = sessions[0].place(&room(Mode::Raw, "lobby")).await.expect("a place");
        assert_eq!(raw.offset, 0);
        assert_ne!(raw.epoch, first.epoch);
    });
}

#[test]
fn batches_of_256_over_many_rooms_keep_each_partitions_order() {
    const BATCHES: u64 = 40;
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let sessions = [all[0].connect().await, all[1].connect().await];
        let rooms: Vec<_> = (0..10).map(|number| format!("room-{number}")).collect();
        for batch in 0..BATCHES {
            let numbers = batch * 256..(batch + 1) * 256;
            let parcels: Vec<_> =
                numbers.map(|number| all[0].says(&rooms[number as usize % 10], number)).collect();
            publish(&*sessions[0], &parcels).await;
        }
        let count = 256 * usize::try_from(BATCHES).expect("few");
        let came = [all[0].heard.next(count).await, all[1].heard.next(count).await];
        for name in &rooms {
            let (here, there) = (of_room(&came[0], name), of_room(&came[1], name));
            assert_eq!(here, there, "{name}");
            assert!(here.iter().map(|came| came.offset()).eq(1..=here.len() as u64), "{name}");
            assert!(here.is_sorted_by_key(|came| came.sequence()), "{name}");
        }
    });
}

#[test]
fn the_first_session_begins_at_the_end_and_the_next_where_the_last_stopped() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let one = all[0].connect().await;
        publish(&*one, &[all[0].says("lobby", 1)]).await;
        let two = all[1].connect().await;
        publish(&*one, &[all[0].says("lobby", 2)]).await;
        assert_eq!(all[1].heard.next(1).await[0].sequence(), 2);
        drop(two);
        let parcels: Vec<_> = (3..=300).map(|number| all[0].says("lobby", number)).collect();
        publish(&*one, &parcels).await;
        let _two = all[1].connect().await;
        let came = all[1].heard.next(298).await;
        assert!(came.iter().map(Came::sequence).eq(3..=300));
        assert!(came.iter().map(Came::offset).eq(3..=300));
    });
}

#[test]
fn what_is_refused_is_offered_again_and_holds_up_nobody_else() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let session = all[0].connect().await;
        let (slow, fast) = ("slow", "fast");
        assert_ne!(partition(slow), partition(fast));
        all[0].heard.block(Some(partition(slow)));
        let parcels: Vec<_> = (1..=100)
            .map(|number| all[0].says(if number % 2 == 0 { slow } else { fast }, number))
            .collect();
        publish(&*session, &parcels).await;
        let came = all[0].heard.next(50).await;
        assert!(came.iter().all(|came| came.lane == Lane::Partition(partition(fast))));
        all[0].heard.refused().await;
        all[0].heard.block(None);
        let came = all[0].heard.next(50).await;
        assert!(came.iter().map(Came::sequence).eq((1..=50).map(|number| 2 * number)));
    });
}

#[test]
fn a_server_that_forgot_the_script_is_told_again() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let session = all[0].connect().await;
        for number in [1, 4] {
            redis.command(&["SCRIPT", "FLUSH"]);
            let rooms = ["a", "b", "c"];
            let parcels: Vec<_> =
                (0..3).map(|at| all[0].says(rooms[at], number + at as u64)).collect();
            publish(&*session, &parcels).await;
        }
        redis.command(&["SCRIPT", "FLUSH"]);
        let placed = session.place(&room(Mode::Json, "a")).await.expect("a place");
        assert_eq!(placed.offset, 2);
        let came = all[0].heard.next(6).await;
        assert!(came.iter().all(|came| came.offset() == came.sequence().div_ceil(3)));
    });
}

#[test]
fn an_entry_that_somebody_else_wrote_is_passed_over() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let session = all[0].connect().await;
        let log = format!("{{ringhall:{:02}}}:log", partition("lobby"));
        redis.command(&["XADD", &log, "*", "hello", "world"]);
        publish(&*session, &[all[0].says("lobby", 1)]).await;
        assert_eq!(all[0].heard.next(1).await[0].offset(), 1);
    });
}

#[test]
fn numberings_and_logs_are_kept_for_a_time_and_logs_are_bounded() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let session = all[0].connect().await;
        let at = partition("lobby");
        let parcels: Vec<_> = (1..=256).map(|number| all[0].says("lobby", number)).collect();
        for _ in 0..300 {
            publish(&*session, &parcels).await;
            all[0].heard.next(256).await;
        }
        let number = |words: &[&str]| match redis.command(words) {
            redis::Value::Int(number) => number,
            other => panic!("{other:?}"),
        };
        let log = format!("{{ringhall:{at:02}}}:log");
        let entries = number(&["XLEN", &log]);
        assert!((65_536..70_000).contains(&entries), "{entries}");
        let keep = number(&["PTTL", &log]);
        assert!((200_000..=300_000).contains(&keep), "{keep}");
        let keep = number(&["PTTL", &format!("{{ringhall:{at:02}}}:room:j:lobby")]);
        assert!((86_000_000..=86_400_000).contains(&keep), "{keep}");
    });
}

#[test]
fn entries_that_are_too_old_go_with_the_next_message() {
    let redis = Redis::start();
    on_bridge(async {
        let all = two(&redis);
        let log = format!("{{ringhall:{:02}}}:log", partition("lobby"));
        let fill = "for i = 1, 1000 do redis.call('XADD', KEYS[1], '5-' .. i, 'e', 'old') end";
        redis.command(&["EVAL", fill, "1", &log]);
        let session = all[0].connect().await;
        publish(&*session, &[all[0].says("lobby", 1)]).await;
        assert_eq!(all[0].heard.next(1).await[0].offset(), 1);
        let left = redis.command(&["XLEN", &log]);
        // Whole nodes of the stream go, 100 entries each.
        assert!(matches!(left, redis::Value::Int(1..=101)), "{left:?}");
    });
}
