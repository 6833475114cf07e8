//! What an operator is told when a broker cannot be used as it is.

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;

use krafka::error::ErrorCode;
use krafka::testing::{ApiKey, Control, FakeBroker};
use ringhall::bridge::Delivery::{LocalFirst, Ordered};
use ringhall::broker::Options;
use ringhall::broker::kafka::engine;

use crate::peer::{Peer, local, options, publish, until};

async fn fake() -> (FakeBroker, String) {
    let broker = FakeBroker::start().await.expect("a fake broker");
    let url = format!("kafka://{}", broker.bootstrap_servers());
    (broker, url)
}

/// What connecting says.
async fn refused(url: &str) -> String {
    let error = Peer::new(url, LocalFirst, 1).try_connect().await;
    error.err().unwrap_or_else(|| panic!("{url} is refused")).0
}

#[test]
fn a_login_that_is_wrong_or_missing_names_the_address_and_shows_no_password() {
    local(async {
        let (broker, url) = fake().await;
        broker.require_sasl_plain("ann", "right");
        for login in ["ann:wrong@", "bob:right@"] {
            let error = refused(&url.replace("://", &format!("://{login}"))).await;
            assert!(error.contains("check the user, the password and `?sasl=`"), "{error}");
            assert!(!error.contains("right") && !error.contains("wrong"), "{error}");
        }
        refused(&url).await;
        let other = url.replace("://", "://ann:right@") + "/?sasl=scram-sha-256";
        let error = refused(&other).await;
        assert!(error.contains("`?sasl=`") && !error.contains("right"), "{error}");

        let one = Peer::new(&url.replace("://", "://ann:right@"), LocalFirst, 1);
        let session = one.connect().await;
        publish(&*session, &[one.words(0, "x")]).await.expect("published");
        until("it is heard", || one.ear.count() == 1).await;
    });
}

#[test]
fn a_topic_with_too_few_partitions_is_refused_with_the_command_that_mends_it() {
    local(async {
        let (broker, url) = fake().await;
        broker.create_topic("test.said", 12);
        let error = refused(&url).await;
        assert!(error.contains("test.said has 12 partitions, 64 are needed"), "{error}");
        assert!(error.contains("--alter --topic test.said --partitions 64"), "{error}");
        broker.add_partitions("test.said", 64);
        Peer::new(&url, Ordered, 1).connect().await;
    });
}

#[test]
fn a_broker_that_lets_nobody_make_topics_is_told_apart() {
    local(async {
        let (broker, url) = fake().await;
        for (code, says) in [
            (ErrorCode::TopicAuthorizationFailed, "Describe, Create, Read and Write"),
            (ErrorCode::PolicyViolation, "make it by hand"),
            (ErrorCode::InvalidReplicationFactor, "default.replication.factor"),
        ] {
            broker.on_once(ApiKey::CreateTopics, move |_| Control::Error(code));
            let error = refused(&url).await;
            assert!(error.contains("making topic test.said with 64 partitions"), "{error}");
            assert!(error.contains(says), "{error}");
        }
        // Another box was quicker.
        broker.create_topic("test.said", 64);
        broker.create_topic("test.control", 1);
        Peer::new(&url, LocalFirst, 1).connect().await;
    });
}

#[test]
fn a_topic_that_may_be_written_and_not_read_is_told_when_connecting() {
    local(async {
        let (broker, url) = fake().await;
        let denied = |_: &_| Control::Error(ErrorCode::TopicAuthorizationFailed);
        broker.on(ApiKey::Fetch, denied);
        let error = refused(&url).await;
        assert!(error.contains("allow the user of broker.url Read"), "{error}");
        broker.clear_hooks();
        broker.on(ApiKey::Produce, denied);
        let error = refused(&url).await;
        assert!(error.contains("Describe, Create, Read and Write"), "{error}");
    });
}

#[test]
fn a_port_where_nobody_or_somebody_else_listens_is_told_apart_from_a_login() {
    local(async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        // It takes connections and never answers.
        let error = refused(&format!("kafka://{address}")).await;
        assert!(error.contains("whether they speak TLS"), "{error}");
        drop(listener);
        let error = refused(&format!("kafka://{address}")).await;
        assert!(error.contains("check that the brokers of broker.url run"), "{error}");
    });
}

#[test]
fn options_that_make_no_engine_are_refused_before_a_broker_is_asked() {
    let plain = options("kafka://127.0.0.1:1", LocalFirst, 1);
    let ca = Some(PathBuf::from("/nowhere/ca.pem"));
    let tls = "kafka+tls://127.0.0.1:1".to_owned();
    for (options, says) in [
        (Options { url: "kafka://".to_owned(), ..plain.clone() }, "broker.url: "),
        (Options { prefix: "a b".to_owned(), ..plain.clone() }, "broker.prefix: "),
        (Options { ca: ca.clone(), ..plain.clone() }, "kafka:// speaks no TLS"),
        (Options { ca, url: tls, ..plain }, "broker.ca `/nowhere/ca.pem` cannot be read"),
    ] {
        let error = engine(&options).err().expect("refused");
        assert!(error.0.contains(says), "{error}");
    }
}
