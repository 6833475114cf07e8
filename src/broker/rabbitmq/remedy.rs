//! What RabbitMQ's refusals mean, and what to do.
//!
//! In:    errors of the client.
//! Out:   one sentence for a person.
//! Never: shows a password.

use lapin::ErrorKind;

use super::BrokerError;

/// An error, with the remedy where one is known.
pub fn explain(server: &str, error: &lapin::Error) -> BrokerError {
    let text = match error.kind() {
        ErrorKind::ProtocolError(refusal) => refusal.get_message().to_string(),
        _ => error.to_string(),
    };
    let remedy = remedy(&text);
    BrokerError(format!("RabbitMQ at {server}: {text}; {remedy}"))
}

fn remedy(text: &str) -> &'static str {
    let holds = |part: &str| text.contains(part);
    if holds("Login was refused") || holds("login refused") {
        "check user and password in broker.url (`guest` may log in from the server's own host only)"
    } else if holds("vhost") && holds("not found") {
        "name another virtual host in broker.url (amqp://host/VHOST), or create it: \
         `rabbitmqctl add_vhost VHOST`"
    } else if holds("access to vhost") {
        "permit the user (PREFIX: broker.prefix): \
         `rabbitmqctl set_permissions -p VHOST USER '^PREFIX' '^PREFIX' '^PREFIX'`"
    } else if holds("ACCESS_REFUSED") {
        "permit the user all three on `^PREFIX` (broker.prefix): \
         `rabbitmqctl set_permissions -p VHOST USER '^PREFIX' '^PREFIX' '^PREFIX'`"
    } else if holds("PRECONDITION_FAILED") {
        "something of that name is there already and is another thing: delete it, or choose \
         another broker.prefix"
    } else if holds("refused") {
        "is the server running? check host and port in broker.url"
    } else if holds("certificate") {
        "the server's certificate is not trusted: name its authority in broker.ca, and the server \
         in broker.url as in the certificate"
    } else if holds("timed out") {
        "it does not answer: check broker.url, and the server"
    } else {
        "check broker.url, and the server's log"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_come_with_what_to_do() {
        for (text, word) in [
            ("ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN", "password"),
            ("NOT_ALLOWED - vhost chat not found", "add_vhost"),
            ("NOT_ALLOWED - access to vhost '/' refused for user 'a'", "set_permissions"),
            ("ACCESS_REFUSED - access to exchange 'x' in vhost '/' refused for user 'a'", "three"),
            ("PRECONDITION_FAILED - inequivalent arg 'type' for exchange 'x'", "prefix"),
            ("IO error: Connection refused (os error 111)", "running"),
            ("IO error: invalid peer certificate: UnknownIssuer", "broker.ca"),
        ] {
            assert!(remedy(text).contains(word), "{text}: {}", remedy(text));
        }
    }
}
