//! Every metric: its name, kind, unit, labels and meaning. The one table.
//!
//! In:    a metric.
//! Out:   its row.
//! Never: is bypassed: `/metrics`, StatsD, README, board and alert rules use these names.

/// What a metric's number does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows, while the process lives.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Observations by size, with their sum and number.
    Histogram,
}

/// What a metric's number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, as the name says.
    Number,
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
    /// A share; 1 is all of it, or the same as others.
    Ratio,
    /// 1 for yes, 0 for no.
    Flag,
}

/// When a metric has values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Always.
    Always,
    /// Where boxes share rooms (`broker.url`).
    Broker,
    /// Where there are enough connections for it to mean something.
    Crowd,
}

/// What is known of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name as it is printed; a histogram's gets `_bucket`, `_sum` and `_count` behind it.
    pub name: &'static str,
    /// What its number does.
    pub kind: Kind,
    /// What its number counts.
    pub unit: Unit,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// When it has values.
    pub when: When,
    /// What it means and how it is known: one line.
    pub help: &'static str,
}

macro_rules! metrics {
    ($($metric:ident $name:literal $kind:ident $unit:ident [$($label:literal),*] $when:ident
        $help:literal;)+) => {
        /// A metric.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Metric { $(#[doc = $help] $metric),+ }

        /// All metrics, in the order in which they are shown.
        pub const ALL: &[Metric] = &[$(Metric::$metric),+];

        impl Metric {
            /// Its row.
            #[must_use]
            pub const fn row(self) -> Row {
                match self {
                    $(Self::$metric => Row {
                        name: $name,
                        kind: Kind::$kind,
                        unit: Unit::$unit,
                        labels: &[$($label),*],
                        when: When::$when,
                        help: $help,
                    }),+
                }
            }
        }
    };
}

metrics! {
    BuildInfo "ringhall_build_info" Gauge Flag ["version"] Always
        "1; its label is the version that runs.";
    Ready "ringhall_ready" Gauge Flag ["reason"] Always
        "1 for the reason that holds: ready, starting, draining, full or broker; /ready says the \
         same.";
    Shards "ringhall_shards" Gauge Number [] Always
        "Shards: threads with a ring each.";
    ShardAlive "ringhall_shard_alive" Gauge Flag ["shard"] Always
        "1 while the shard takes turns; one that sleeps is woken every two seconds to prove it.";
    ShardMoved "ringhall_shard_moved_seconds" Gauge Seconds ["shard"] Always
        "Time since the shard's last turn.";
    ShardBusy "ringhall_shard_busy_ratio" Gauge Ratio ["shard"] Always
        "Share of the last second or two that the shard's thread has spent on a CPU, plain HTTP \
         included.";
    ShardCpu "ringhall_shard_cpu_seconds_total" Counter Seconds ["shard"] Always
        "CPU time of the shard's thread, as it was within the last two seconds.";
    ShardConnections "ringhall_shard_connections" Gauge Number ["shard"] Always
        "Sockets in the shard's table.";
    Imbalance "ringhall_shard_imbalance_ratio" Gauge Ratio ["measure"] Always
        "The largest shard over the mean of all, by busy ratio and by connections; 1 is even.";

    Connections "ringhall_connections" Gauge Number ["state"] Always
        "Sockets: handshake (no upgrade yet), open (WebSockets), closing, http (plain requests).";
    ConnectionsLimit "ringhall_connections_limit" Gauge Number [] Always
        "Connections that are admitted at most: limits.connections_max, or what the box holds.";
    ConnectionBytes "ringhall_connection_bytes" Gauge Bytes ["part"] Crowd
        "Memory a connection, from 1000 connections on: what has grown since the start, over all \
         sockets. user: the process's resident memory; kernel: the box's unreclaimable slab, its \
         sockets' inodes and its TCP buffers, everybody's, so a client on the same box counts too.";
    Accepts "ringhall_accepts_total" Counter Number [] Always
        "Sockets accepted.";
    AcceptPauses "ringhall_accept_pauses_total" Counter Number ["reason"] Always
        "Times that a shard stopped accepting for a while, so that newcomers waited in the listen \
         queue: table (full), rate (handshake.rate), memory, files (no descriptors left).";
    Upgrades "ringhall_upgrades_total" Counter Number [] Always
        "Upgrades answered with 101.";
    Refusals "ringhall_refusals_total" Counter Number ["reason"] Always
        "Requests refused, by the code in the answer's body.";
    Closes "ringhall_closes_total" Counter Number ["reason"] Always
        "Sockets that left a shard's table, by reason; departed ones live on in another shard's.";
    Moves "ringhall_moves_total" Counter Number ["outcome"] Always
        "Connections handed to their room's shard: moved, or stayed since its table was full.";
    HttpHandoffs "ringhall_http_handoffs_total" Counter Number [] Always
        "Sockets handed to plain HTTP: pages, /health.";
    Handshake "ringhall_handshake_seconds" Histogram Seconds [] Always
        "From the turn that accepted a connection to the end of the turn that sent its 101. A \
         client that says nothing is accepted a second late and does not count until it does.";
    ShutdownCut "ringhall_shutdown_cut_total" Counter Number [] Always
        "Connections cut at the end of shutdown.grace.";

    MessagesReceived "ringhall_messages_received_total" Counter Number [] Always
        "Messages received whole from clients, echoes included.";
    ReceivedBytes "ringhall_received_bytes_total" Counter Bytes [] Always
        "Bytes received from clients' sockets: heads, frames and all.";
    RoomMessages "ringhall_room_messages_total" Counter Number [] Always
        "Messages that were given a place in their room's order.";
    Deliveries "ringhall_deliveries_total" Counter Number [] Always
        "Messages and announcements of rooms put on their way to a member: one a member and \
         message.";
    Sends "ringhall_sends_total" Counter Number [] Always
        "Send operations; several messages of a turn are one.";
    SentBytes "ringhall_sent_bytes_total" Counter Bytes [] Always
        "Bytes that the kernel took to send to clients.";
    ShortSends "ringhall_short_sends_total" Counter Number [] Always
        "Sends that the socket did not take whole: the rest waits in the connection's queue.";
    Publish "ringhall_publish_seconds" Histogram Seconds [] Always
        "A room's messages: from the start of the turn in which the room took one, to the end of \
         that in which its sends were submitted (the little wait of server.gather_wait included). \
         Members on other shards hear a turn later.";
    Drops "ringhall_drops_total" Counter Number ["policy"] Always
        "Queued messages that slow readers did not get: drop_oldest, disconnect (client.policy), \
         overload (limits.queue_bytes).";
    QueueBytes "ringhall_queue_bytes" Gauge Bytes [] Always
        "Bytes that clients make the process hold: queues of slow readers, half messages, input \
         that waits.";
    QueueLimitBytes "ringhall_queue_limit_bytes" Gauge Bytes [] Always
        "As much as that may be: limits.queue_bytes.";
    Errors "ringhall_errors_total" Counter Number [] Always
        "Errors answered to speakers in a message of type error.";
    Pauses "ringhall_pauses_total" Counter Number [] Always
        "Times that a speaker was not read from since a room, a queue between shards or a budget \
         was full.";
    Pings "ringhall_pings_total" Counter Number [] Always
        "Heartbeat pings sent.";

    Rooms "ringhall_rooms" Gauge Number [] Always
        "Rooms that have members.";
    Members "ringhall_members" Gauge Number [] Always
        "Memberships of connections here.";

    MeshQueue "ringhall_mesh_queue_messages" Gauge Number ["shard"] Always
        "Mail that waits for the shard in its queues from the others.";
    MeshMessages "ringhall_mesh_messages_total" Counter Number [] Always
        "Mail between shards: joins, leaves, speech, payloads, acknowledgements.";

    Turns "ringhall_turns_total" Counter Number [] Always
        "Turns that did work.";
    Turn "ringhall_turn_seconds" Histogram Seconds [] Always
        "Length of the turns that did work, the little wait of server.gather_wait included.";
    ReceiveBuffers "ringhall_receive_buffers" Gauge Number ["shard"] Always
        "Receive buffers of the shard's ring.";
    ReceiveBuffersLow "ringhall_receive_buffers_free_low" Gauge Number ["shard"] Always
        "Fewest of these that were free at once in the last one to two minutes.";
    ReceiveBuffersExhausted "ringhall_receive_buffers_exhausted_total" Counter Number [] Always
        "Receives that found no buffer and waited a turn.";
    CompletionOverflows "ringhall_completion_overflows_total" Counter Number [] Always
        "Times that the completion queue was full: the kernel keeps the rest, at a cost.";

    BrokerUp "ringhall_broker_up" Gauge Flag [] Broker
        "1 while the broker carries messages.";
    BrokerState "ringhall_broker_state" Gauge Flag ["state"] Broker
        "1 for where the breaker stands: closed (messages go), half_open, open.";
    BrokerRoundTrip "ringhall_broker_round_trip_seconds" Gauge Seconds [] Broker
        "Round trip of the last probe through the broker.";
    BrokerNodes "ringhall_broker_nodes" Gauge Number [] Broker
        "Boxes that are alive, this one included.";
    BridgeQueue "ringhall_bridge_queue_messages" Gauge Number ["direction"] Broker
        "Mail between shards and the broker's thread that waits: out, in.";
    BrokerDropped "ringhall_broker_dropped_total" Counter Number [] Broker
        "Messages heard here that were never handed to the broker: other boxes missed them.";
    BrokerRejected "ringhall_broker_rejected_total" Counter Number [] Broker
        "Messages answered with unavailable, heard by nobody.";
    BrokerUnconfirmed "ringhall_broker_unconfirmed_total" Counter Number [] Broker
        "Messages handed to the broker that it did not confirm: others may have heard them.";
    BrokerGaps "ringhall_broker_gaps_total" Counter Number [] Broker
        "Messages of other boxes that were missed here, counted exactly by their sequences.";
    BrokerDuplicates "ringhall_broker_duplicates_total" Counter Number [] Broker
        "Messages of other boxes that came a second time and were dropped.";
    BrokerUnreadable "ringhall_broker_unreadable_total" Counter Number [] Broker
        "Envelopes of another version, or that are none.";
    BrokerRereads "ringhall_broker_rereads_total" Counter Number [] Broker
        "Times that a log showed a message before an earlier one, and was read again for it.";
    BrokerReconnects "ringhall_broker_reconnects_total" Counter Number [] Broker
        "Times that the broker was lost and found again.";

    StartTime "process_start_time_seconds" Gauge Seconds [] Always
        "When the process started, in seconds since 1970.";
    ProcessCpu "process_cpu_seconds_total" Counter Seconds [] Always
        "CPU time of all threads, in user space and in the kernel.";
    ResidentMemory "process_resident_memory_bytes" Gauge Bytes [] Always
        "Resident memory of the process.";
}

/// The table as rows of Markdown; the README has the same.
#[must_use]
pub fn markdown() -> String {
    let line = |metric: &Metric| {
        let Row { name, kind, labels, when, help, .. } = metric.row();
        let labels = match labels {
            [] => String::new(),
            labels => format!("{{{}}}", labels.join(",")),
        };
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let when = match when {
            When::Broker => " Only with a broker.",
            When::Always | When::Crowd => "",
        };
        format!("| `{name}{labels}` | {kind} | {help}{when} |\n")
    };
    ALL.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_end_as_their_kind_and_unit_ask() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.row().name).collect();
        for metric in ALL {
            let Row { name, kind, unit, help, .. } = metric.row();
            let stem = name.strip_suffix("_total");
            assert_eq!(stem.is_some(), kind == Kind::Counter, "{name}");
            let stem = stem.unwrap_or(name);
            for (of, suffix) in
                [(Unit::Bytes, "_bytes"), (Unit::Seconds, "_seconds"), (Unit::Ratio, "_ratio")]
            {
                assert_eq!(stem.ends_with(suffix), unit == of, "{name}");
            }
            assert!(name.starts_with("ringhall_") || name.starts_with("process_"), "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '|', '"']), "{name}: {help}");
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
    }
}
