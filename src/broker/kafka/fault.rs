//! Turns what the client library says into what an operator can do.
//!
//! In:    what was being done, and the library's error.
//! Out:   a [`BrokerError`] with both and a remedy.
//! Never: repeats a password: the library's errors hold none.

use krafka::KrafkaError;
use krafka::error::ErrorCode;

use crate::broker::BrokerError;

/// What went wrong while something was done.
pub(super) fn fault(doing: &str, error: &KrafkaError) -> BrokerError {
    BrokerError(format!("{doing}: {error}; {}", remedy(error)))
}

fn remedy(error: &KrafkaError) -> &'static str {
    match error {
        KrafkaError::Auth { .. } => {
            "check the user, the password and `?sasl=` of broker.url, and with kafka+tls:// \
             broker.ca and the name in the broker's certificate"
        }
        KrafkaError::Network(_) | KrafkaError::Timeout { .. } => {
            "check that the brokers of broker.url run, that they and the addresses they advertise \
             (advertised.listeners) can be reached from here, and whether they speak TLS"
        }
        KrafkaError::Broker { code, .. } => answered(*code),
        KrafkaError::DeliveryTimeout { .. } => {
            "the brokers are too slow or lack replicas in sync; their logs say which"
        }
        KrafkaError::Protocol { .. } => {
            "check that a broker of Kafka's protocol (3.9 or later) listens there, and whether it \
             speaks TLS: kafka:// does not, kafka+tls:// does"
        }
        _ => "the brokers' logs may say more",
    }
}

fn answered(code: ErrorCode) -> &'static str {
    match code {
        ErrorCode::TopicAuthorizationFailed | ErrorCode::ClusterAuthorizationFailed => {
            "allow the user of broker.url Describe, Create, Read and Write on the topics that \
             begin with broker.prefix"
        }
        ErrorCode::SaslAuthenticationFailed => {
            "check the user, the password and `?sasl=` of broker.url"
        }
        ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge => {
            "lower client.message_bytes, or raise max.message.bytes of the topic"
        }
        ErrorCode::NotEnoughReplicas | ErrorCode::NotEnoughReplicasAfterAppend => {
            "fewer replicas are in sync than the topic's min.insync.replicas: bring brokers back, \
             or lower it"
        }
        ErrorCode::InvalidReplicationFactor => {
            "set the brokers' default.replication.factor to no more than there are brokers, or \
             make the topics by hand"
        }
        ErrorCode::PolicyViolation | ErrorCode::InvalidConfig => {
            "the brokers' policy forbids such a topic: make it by hand"
        }
        _ => "the brokers' logs may say more",
    }
}

/// Whether the broker will never take this record, however often it is offered.
pub(super) fn refused_for_good(error: &KrafkaError) -> bool {
    match error {
        KrafkaError::Broker { code, .. } => matches!(
            code,
            ErrorCode::MessageTooLarge | ErrorCode::RecordListTooLarge | ErrorCode::InvalidRecord
        ),
        // Larger than what the library sends at all.
        KrafkaError::Config { .. } => true,
        _ => false,
    }
}
