//! Turns arguments into a command, and its outcome into an exit code.
//!
//! In:    the arguments of the process, its environment.
//! Out:   exit code 0; 1 for a failure at run time; 2 for bad usage or configuration.
//! Never: serves or checks anything itself: a command is a thin file that calls who does.

mod bench;
mod config;
mod doctor;
mod logging;
mod serve;
mod tune;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::config::{Flag, Loaded, Problem, Sources};

/// What a supervisor need not retry: the operator has to change something first.
const BAD_USAGE: u8 = 2;

/// A WebSocket rooms server for one Linux box.
#[derive(Debug, Parser)]
#[command(name = "ringhall", version, args_conflicts_with_subcommands = true)]
#[command(after_help = "\
Examples:
  ringhall                                  serve: chat on http://127.0.0.1:8000
  ringhall serve --listen 0.0.0.0:8000 --log debug
  ringhall --set client.queue_bytes=2MiB    set any key
  ringhall config default                   every key, with its default and range
  ringhall config check --config F          is this file right?
  ringhall doctor                           how many connections does this box hold?
  ringhall tune --write ./tuned             what does this box want other than the defaults?
  ringhall bench echo --url ws://127.0.0.1:8000   how fast is it, and is every byte right?")]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ServeFlags,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serves (what `ringhall` alone does too).
    #[command(after_help = "\
Examples:
  ringhall serve
  ringhall serve --listen 0.0.0.0:8000 --listen '[::]:8000'
  ringhall serve --config ./ringhall.toml --shards 4 --log-format json
  ringhall serve --set heartbeat.ping_after=25s --set heartbeat.timeout=35s

Signals: SIGTERM or SIGINT shuts down gracefully, a second one at once; SIGHUP re-reads limits.")]
    Serve(ServeFlags),
    /// Puts load on a server that runs, and checks every byte that comes back.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Measures this box, and writes configuration, sysctl and systemd drop-ins from it.
    #[command(after_help = "\
Examples:
  ringhall tune --write ./tuned             less than 90 seconds, on a box that is quiet
  ringhall tune --full --connections 1000000 --write ./tuned
  ringhall tune revert --write ./tuned

Nothing of the box is changed: the files say what to put where.")]
    Tune(tune::TuneFlags),
    /// Examines this box: how many connections it holds, what stops it first, what to do.
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorFlags),
    /// Checks, explains and prints configuration.
    #[command(subcommand)]
    Config(ConfigCommand),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Says whether the configuration is right; if not, what to change and where.
    #[command(after_help = "Example:\n  ringhall config check --config ./ringhall.toml")]
    Check(SharedFlags),
    /// Prints every key, commented out, with its default and range.
    #[command(after_help = "Example:\n  ringhall config default > ringhall.toml")]
    Default,
    /// Prints what is in force and where each value came from.
    #[command(after_help = "Example:\n  RINGHALL_LOG_LEVEL=debug ringhall config show")]
    Show(SharedFlags),
}

/// What every command takes that reads the configuration.
#[derive(Args, Debug)]
struct SharedFlags {
    /// Configuration file [default: /etc/ringhall/ringhall.toml where it exists]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Sets any key, such as client.queue_bytes=2MiB; may be repeated
    #[arg(long, value_name = "SECTION.KEY=VALUE", value_parser = assignment)]
    set: Vec<(String, String)>,
}

#[derive(Args, Debug)]
struct ServeFlags {
    #[command(flatten)]
    shared: SharedFlags,
    /// Where clients connect; may be repeated; port 0 picks a free one
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Vec<String>,
    /// Where the operator connects (metrics, health)
    #[arg(long, value_name = "ADDRESS:PORT")]
    admin: Option<String>,
    /// Threads, each with its own ring: a number, or auto for one a CPU
    #[arg(long, value_name = "N")]
    shards: Option<String>,
    /// Least important lines to log: error, warn, info or debug
    #[arg(long, value_name = "LEVEL")]
    log: Option<String>,
    /// Form of the log: text or json
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<String>,
    /// Ends with stdin: for a server that `tune` starts, which must not outlive it
    #[arg(long, hide = true)]
    until_stdin_ends: bool,
}

/// Parts `section.key=value`.
fn assignment(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write SECTION.KEY=VALUE")?;
    Ok((key.trim().to_owned(), value.to_owned()))
}

impl SharedFlags {
    fn sources(self, mut named: Vec<Flag>) -> Sources {
        let set = self.set.into_iter().map(|(key, value)| Flag { name: "--set", key, value });
        // A flag of its own name is the more deliberate one.
        let mut flags: Vec<Flag> = set.collect();
        flags.append(&mut named);
        // A name or value that is no UTF-8 is nobody's key: it fails where it is read.
        let lossy = |text: OsString| text.to_string_lossy().into_owned();
        let environment = std::env::vars_os().map(|(name, value)| (lossy(name), lossy(value)));
        Sources::new(self.config, environment, flags)
    }
}

impl ServeFlags {
    fn run(self) -> ExitCode {
        if self.until_stdin_ends {
            serve::end_with_stdin();
        }
        serve::run(self.sources())
    }

    fn sources(self) -> Sources {
        let listen = (!self.listen.is_empty()).then(|| self.listen.join(","));
        let named = [
            ("--listen", "server.listen", listen),
            ("--admin", "admin.listen", self.admin),
            ("--shards", "server.shards", self.shards),
            ("--log", "log.level", self.log),
            ("--log-format", "log.format", self.log_format),
        ];
        let flag = |(name, key, value): (&'static str, &str, Option<String>)| {
            value.map(|value| Flag { name, key: key.to_owned(), value })
        };
        self.shared.sources(named.into_iter().filter_map(flag).collect())
    }
}

/// Runs the command that the arguments name (the first is the program itself).
#[must_use]
pub fn run(arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(help_or_error) => {
            // Nobody is left to tell where the terminal is gone.
            let _ = help_or_error.print();
            return match help_or_error.use_stderr() {
                true => ExitCode::from(BAD_USAGE),
                false => ExitCode::SUCCESS,
            };
        }
    };
    match arguments.command {
        None => arguments.serve.run(),
        Some(Command::Serve(flags)) => flags.run(),
        Some(Command::Bench(command)) => bench::run(command),
        Some(Command::Tune(flags)) => tune::run(flags),
        Some(Command::Doctor(flags)) => doctor::run(flags),
        Some(Command::Config(ConfigCommand::Check(flags))) => config::check(flags.sources(vec![])),
        Some(Command::Config(ConfigCommand::Default)) => config::default(),
        Some(Command::Config(ConfigCommand::Show(flags))) => config::show(flags.sources(vec![])),
    }
}

/// Loads, or tells the operator everything that is wrong.
fn load(sources: Sources) -> Result<Loaded, ExitCode> {
    crate::config::load(sources).map_err(|problems| report(&problems))
}

/// Tells the operator what is wrong with a configuration.
fn report(problems: &[Problem]) -> ExitCode {
    let lines: Vec<String> = problems.iter().map(Problem::to_string).collect();
    let count = match problems.len() {
        1 => "1 problem".to_owned(),
        more => format!("{more} problems"),
    };
    complain(&format!("{}\nringhall: {count} in the configuration", lines.join("\n")));
    ExitCode::from(BAD_USAGE)
}

/// Prints an answer. Whoever closed the pipe has read enough.
fn answer(text: &str) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            complain(&format!("ringhall: cannot write the answer: {error}"));
            ExitCode::FAILURE
        }
        _ => ExitCode::SUCCESS,
    }
}

/// Prints a line to stderr; there is nobody to tell where that fails.
fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;
    use crate::config::{Amount, LogFormat, LogLevel};

    #[test]
    fn the_arguments_are_well_formed() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn an_assignment_parts_at_its_first_equals_sign() {
        assert_eq!(assignment("admin.key=a=b"), Ok(("admin.key".into(), "a=b".into())));
        assert!(assignment("admin.key").is_err());
    }

    #[test]
    fn flags_of_their_own_name_set_their_keys_and_beat_set() {
        let line = "ringhall --listen 127.0.0.1:0 --listen [::1]:0 --admin 127.0.0.1:0 --shards 3 \
                    --log warn --log-format json --set server.shards=2 --set rooms.max=9";
        let arguments = Arguments::try_parse_from(line.split_whitespace()).unwrap();
        let config = crate::config::load(arguments.serve.sources()).unwrap().config;
        assert_eq!(config.listen.len(), 2);
        assert_eq!(config.admin_listen.port(), 0);
        assert_eq!(config.shards, Amount::Count(3));
        assert_eq!(config.log_level, LogLevel::Warn);
        assert_eq!(config.log_format, LogFormat::Json);
        assert_eq!(config.limits.rooms_max, Some(9));
    }
}
