//! Turns `tracing` events into lines on stderr.
//!
//! In:    `log.level`, `log.format`.
//! Out:   a global subscriber; a guard that writes out what waits when it is dropped.
//! Never: lets a blocked stderr block a shard: lines beyond a bounded queue are lost.

use std::io::{self, IsTerminal as _};

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{LogFormat, LogLevel};

/// Lines that may wait for stderr: a few MiB at most.
const LINES_MAX: usize = 16 * 1024;

/// Starts logging for the life of the guard.
///
/// # Panics
/// If logging was started before in this process.
pub(super) fn start(level: LogLevel, format: LogFormat) -> WorkerGuard {
    let level = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    // Libraries speak up when something is wrong; their debug lines would drown ours.
    // Kafka's warns of every attempt in an outage, which the bridge reports once by itself.
    let kafka = if level == LevelFilter::DEBUG { LevelFilter::WARN } else { LevelFilter::ERROR };
    let ours = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("krafka", kafka)
        .with_target(env!("CARGO_CRATE_NAME"), level);
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let registry = tracing_subscriber::registry().with(ours);
    match format {
        LogFormat::Text => {
            // https://no-color.org: "when present and not an empty string".
            let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
            let colours = io::stderr().is_terminal() && !plain;
            registry.with(lines.with_ansi(colours).with_target(false)).init();
        }
        LogFormat::Json => {
            let json = lines.json().flatten_event(true).with_current_span(false);
            registry.with(json.with_span_list(false)).init();
        }
    }
    guard
}
