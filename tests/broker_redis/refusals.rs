//! What cannot work is refused with the remedy.

use ringhall::bridge::Delivery;
use ringhall::broker::Options;

use crate::scene::{Box, lost, on_bridge, options, publish};
use crate::servers::{Cluster, Redis};

async fn refusal(url: &str) -> String {
    Box::new(1, options(url, Delivery::LocalFirst)).refusal().await
}

fn with_login(redis: &Redis, login: &str) -> String {
    format!("redis://{login}@127.0.0.1:{}", redis.port())
}

#[test]
fn a_password_that_is_missing_or_wrong() {
    let redis = Redis::with(&["--requirepass", "s3cret"]);
    on_bridge(async {
        let missing = refusal(&redis.url()).await;
        assert!(missing.contains("wants a password: write it into broker.url"), "{missing}");
        let wrong = refusal(&with_login(&redis, ":hunter2")).await;
        assert!(wrong.contains("Correct the user and the password in broker.url"), "{wrong}");
        assert!(!wrong.contains("hunter2"), "{wrong}");
        let right = Box::new(1, options(&with_login(&redis, ":s3cret"), Delivery::Ordered));
        let session = right.connect().await;
        publish(&*session, &[right.says("r", 1), right.probe(2)]).await;
        right.heard.next(2).await;
    });
}

#[test]
fn a_user_who_may_not_do_what_is_needed() {
    let redis = Redis::start();
    redis.command(&["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&none", "+@all"]);
    on_bridge(async {
        let channels = refusal(&with_login(&redis, "ann:pw")).await;
        assert!(channels.contains("ACL SETUSER"), "{channels}");
        redis.command(&["ACL", "SETUSER", "ann", "allchannels", "resetkeys", "~none"]);
        let ordered = Box::new(1, options(&with_login(&redis, "ann:pw"), Delivery::Ordered));
        let keys = ordered.refusal().await;
        assert!(keys.contains("ACL SETUSER"), "{keys}");
    });
}

#[test]
fn the_rights_that_the_remedy_names_are_enough() {
    let redis = Redis::start();
    let rights = ["~ringhall*", "~{ringhall*", "&ringhall*", "&{ringhall*", "+@all"];
    redis.command(&[&["ACL", "SETUSER", "ann", "on", ">pw"], &rights[..]].concat());
    on_bridge(async {
        for delivery in [Delivery::LocalFirst, Delivery::Ordered] {
            let ann = Box::new(1, options(&with_login(&redis, "ann:pw"), delivery));
            let session = ann.connect().await;
            publish(&*session, &[ann.says("r", 1), ann.probe(2)]).await;
            ann.heard.next(2).await;
        }
    });
}

#[test]
fn a_server_of_another_kind_than_the_address_says() {
    let (redis, cluster) = (Redis::start(), Cluster::start(1));
    let sentinel = Redis::sentinel(&redis);
    on_bridge(async {
        let single = refusal(&format!("redis+cluster://127.0.0.1:{}", redis.port())).await;
        assert!(
            single.contains("runs as standalone, not as cluster: write redis://HOST"),
            "{single}"
        );
        let clustered = refusal(&cluster.nodes[0].url()).await;
        assert!(clustered.contains("redis+cluster://"), "{clustered}");
        let watching = refusal(&format!("redis://127.0.0.1:{}", sentinel.port())).await;
        assert!(watching.contains("redis+sentinel://"), "{watching}");
        let unknown = refusal(&sentinel.url().replace("/main", "/nobody")).await;
        assert!(unknown.contains("watches no primary named \"nobody\""), "{unknown}");
    });
}

#[test]
fn a_replica_is_refused_and_a_primary_that_becomes_one_is_left() {
    let (primary, other) = (Redis::start(), Redis::start());
    on_bridge(async {
        let one = Box::new(1, options(&primary.url(), Delivery::LocalFirst));
        let session = one.connect().await;
        let port = other.port().to_string();
        primary.command(&["REPLICAOF", "127.0.0.1", &port]);
        let why = lost(&*session).await;
        assert!(why.contains("READONLY replica") || why.contains("closed the connection"), "{why}");
        drop(session);
        let refused = one.refusal().await;
        assert!(refused.contains("redis+sentinel://"), "{refused}");
    });
}

#[test]
fn an_authority_that_nobody_knows_and_a_server_without_tls() {
    let (secure, plain) = (Redis::tls(), Redis::start());
    on_bridge(async {
        let unknown = refusal(&secure.url()).await;
        assert!(unknown.contains("PEM file in broker.ca"), "{unknown}");
        let no_tls = refusal(&plain.url().replace("redis://", "rediss://")).await;
        assert!(no_tls.contains("does not speak TLS there (rediss:// in broker.url)"), "{no_tls}");
        let known = Options { ca: Some(secure.ca()), ..options(&secure.url(), Delivery::Ordered) };
        let known = Box::new(1, known);
        let session = known.connect().await;
        publish(&*session, &[known.says("r", 1), known.probe(2)]).await;
        known.heard.next(2).await;
    });
}

#[test]
fn a_prefix_that_would_choose_the_slot() {
    for prefix in ["", "a{b}", "a b"] {
        let with = options("redis://127.0.0.1:1", Delivery::LocalFirst);
        let refused = ringhall::broker::redis::engine(&Options { prefix: prefix.into(), ..with });
        assert!(refused.is_err_and(|error| error.0.contains("broker.prefix")), "{prefix:?}");
    }
}

#[test]
fn a_host_that_does_not_exist() {
    on_bridge(async {
        let nobody = refusal("redis://nobody.invalid:6379").await;
        assert!(nobody.contains("No such host: correct broker.url"), "{nobody}");
    });
}
