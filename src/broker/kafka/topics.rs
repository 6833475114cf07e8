//! Makes sure that the topics are there.
//!
//! In:    their names, how long their records are kept.
//! Out:   the id of the topic of what is said, once every partition has a leader.
//! Never: changes a topic that is there.

use std::time::{Duration, Instant};

use krafka::KrafkaError;
use krafka::admin::{
    AdminClient, CreateTopicsOptions, DescribeTopicsOptions, NewTopic, TopicDescription,
};
use krafka::error::ErrorCode;

use super::fault::fault;
use super::positions::TopicId;
use crate::broker::BrokerError;
use crate::limits::PARTITIONS;

/// Pause between two looks at a topic whose leaders are being chosen.
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// How long that may take: within the time that a connection has.
const LEADERS_TIMEOUT: Duration = Duration::from_secs(4);
/// What nobody needs later is kept at least this long: a box may be slow, and a broker that clears
/// too often works for nothing.
const KEPT_MIN: Duration = Duration::from_secs(600);
/// The lowest that `broker.prefix` may leave of Kafka's 249 characters.
const PREFIX_MAX: usize = 200;

/// The names of the topics.
#[derive(Clone, Debug)]
pub(super) struct Topics {
    /// What is said: a partition of the topic for each of ours.
    pub(super) said: String,
    /// Signs of life, presence, probes: one partition.
    pub(super) control: String,
}

impl Topics {
    /// # Errors
    /// Where Kafka takes no such name.
    pub(super) fn named(prefix: &str) -> Result<Self, BrokerError> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if prefix.is_empty() || prefix.len() > PREFIX_MAX || !prefix.bytes().all(plain) {
            return Err(BrokerError(format!(
                "broker.prefix: `{prefix}` begins no name of a Kafka topic; 1 to {PREFIX_MAX} \
                 letters, digits, dots, dashes and underscores do"
            )));
        }
        Ok(Self { said: format!("{prefix}.said"), control: format!("{prefix}.control") })
    }

    fn wanted(&self) -> [(&str, usize); 2] {
        [(&self.said, PARTITIONS), (&self.control, 1)]
    }
}

/// What a look at a topic has shown.
enum Found {
    Ready(TopicId),
    Missing,
    /// Partitions without a leader yet.
    Leaderless(usize),
}

/// Looks at the topics and makes those that are missing; other boxes may do the same just now.
pub(super) async fn ensure(
    admin: &AdminClient,
    topics: &Topics,
    keep: Duration,
) -> Result<TopicId, BrokerError> {
    let began = Instant::now();
    loop {
        let options = DescribeTopicsOptions::default().timeout(LEADERS_TIMEOUT);
        let names = topics.wanted().map(|(name, _)| name.to_owned());
        let described = admin.describe_topics(names, options).await;
        let mut described = described.map_err(|error| fault("asking for the topics", &error))?;
        let mut said = None;
        let mut waits = None;
        for (name, partitions) in topics.wanted() {
            match judge(name, partitions, described.remove(name))? {
                Found::Ready(id) => said = said.or(Some(id)),
                Found::Leaderless(count) => waits = Some((name, count)),
                Found::Missing => {
                    create(admin, name, partitions, keep).await?;
                    waits = Some((name, partitions));
                }
            }
        }
        match (waits, said) {
            (None, Some(id)) => return Ok(id),
            (Some((name, count)), _) if began.elapsed() > LEADERS_TIMEOUT => {
                return Err(BrokerError(format!(
                    "topic {name}: {count} of its partitions have had no leader for \
                     {LEADERS_TIMEOUT:?}; see that enough brokers run"
                )));
            }
            _ => tokio::time::sleep(LOOK_AGAIN).await,
        }
    }
}

fn judge(
    name: &str,
    partitions: usize,
    described: Option<Result<TopicDescription, KrafkaError>>,
) -> Result<Found, BrokerError> {
    let topic = match described {
        Some(Ok(topic)) => topic,
        Some(Err(KrafkaError::Broker { code: ErrorCode::UnknownTopicOrPartition, .. })) | None => {
            return Ok(Found::Missing);
        }
        Some(Err(error)) => return Err(fault(&format!("asking for topic {name}"), &error)),
    };
    let there = topic.partitions.len();
    if there < partitions {
        return Err(BrokerError(format!(
            "topic {name} has {there} partitions, {partitions} are needed: give it as many \
             (kafka-topics.sh --alter --topic {name} --partitions {partitions}), or set another \
             broker.prefix"
        )));
    }
    let led = topic.partitions.iter().take(partitions).filter(|each| each.leader.is_some());
    match partitions - led.count() {
        0 => Ok(Found::Ready(topic.topic_id)),
        leaderless => Ok(Found::Leaderless(leaderless)),
    }
}

async fn create(
    admin: &AdminClient,
    name: &str,
    partitions: usize,
    keep: Duration,
) -> Result<(), BrokerError> {
    let making = |error: &KrafkaError| {
        let by_hand = format!("making topic {name} with {partitions} partitions");
        fault(&by_hand, error)
    };
    let count = i32::try_from(partitions).unwrap_or(i32::MAX);
    // As many replicas as the brokers give a topic by default.
    let topic = NewTopic::new(name, count, -1).map_err(|error| making(&error))?;
    let topic = topic
        .with_config("cleanup.policy", "delete")
        .with_config("retention.ms", keep.max(KEPT_MIN).as_millis().to_string());
    let options = CreateTopicsOptions::default().timeout(LEADERS_TIMEOUT);
    let made = admin.create_topics([topic], options).await.map_err(|error| making(&error))?;
    for outcome in made.into_values() {
        match outcome {
            Ok(()) => tracing::info!("topic {name} has been made, with {partitions} partitions"),
            // Another box was quicker.
            Err(KrafkaError::Broker { code: ErrorCode::TopicAlreadyExists, .. }) => {}
            Err(error) => return Err(making(&error)),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_that_kafka_cannot_name_a_topic_with_is_refused() {
        let topics = Topics::named("chat-1_a.b").expect("a name");
        assert_eq!((&*topics.said, &*topics.control), ("chat-1_a.b.said", "chat-1_a.b.control"));
        for prefix in ["", "a b", "a/b", "\u{e4}", &"x".repeat(PREFIX_MAX + 1)] {
            let error = Topics::named(prefix).expect_err("refused");
            assert!(error.0.starts_with("broker.prefix: "), "{error}");
        }
    }
}
