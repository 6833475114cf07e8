//! The RabbitMQ engine against a real server: Debian's `rabbitmq-server`, 3.10 or later.
//!
//! Not part of `cargo test`: `cargo test --test broker_rabbitmq`. One server for all cases, since
//! it takes ten seconds to start: they are one test, and the one that kills it comes last.
#![cfg(feature = "rabbitmq")]

mod support;

#[path = "broker_rabbitmq/cases.rs"]
mod cases;
#[path = "support/brokers/certificates.rs"]
mod certificates;
#[path = "support/brokers/ear.rs"]
mod ear;
#[path = "support/brokers/rabbitmq.rs"]
mod server;

use self::server::RabbitMq;

#[tokio::test]
async fn rabbitmq_carries_what_boxes_say_and_its_troubles_are_told() {
    let mut server = RabbitMq::start();
    cases::what_one_box_publishes_comes_to_the_other_and_back(&server).await;
    cases::batches_of_256_keep_their_order(&server).await;
    cases::a_large_message_comes_whole(&server).await;
    cases::clusters_of_other_names_hear_nothing_of_one_another(&server).await;
    cases::a_session_whose_queue_is_still_held_gets_another(&server).await;
    cases::refusals_are_told_with_what_to_do(&server).await;
    cases::an_exchange_of_another_kind_is_told(&server).await;
    cases::tls_trusts_the_authority_that_is_named(&server).await;
    cases::a_server_that_stands_still_hangs_a_publish_and_later_sessions_keep_the_order(&server)
        .await;
    cases::a_killed_server_is_noticed_at_once_and_carries_again_after_it_is_back(&mut server).await;
}
