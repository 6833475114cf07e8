//! Turns figures and checks into lines for people, JSON, and a record in `benches/runs`.
//!
//! In:    figures with units, checks with their outcome.
//! Out:   text and JSON; whether everything passed.
//! Never: measures.

use std::fmt::{Display, Write as _};
use std::io;
use std::path::PathBuf;
use std::process::Command;

/// What a bench found out.
#[derive(Debug)]
pub struct Report {
    bench: &'static str,
    text: String,
    json: Vec<String>,
    passed: usize,
    failed: usize,
}

impl Report {
    /// Nothing yet.
    pub fn new(bench: &'static str) -> Self {
        Self { bench, text: String::new(), json: Vec::new(), passed: 0, failed: 0 }
    }

    /// Says something to people.
    pub fn say(&mut self, line: impl Display) {
        println!("{line}");
        // Writing to a string does not fail.
        let _ = writeln!(self.text, "{line}");
    }

    /// A measured number.
    pub fn figure(&mut self, name: &str, value: f64, unit: &str) {
        self.say(format_args!("     {name}: {value:.1} {unit}"));
        self.json.push(format!("\"{name}\":{{\"value\":{value:.3},\"unit\":\"{unit}\"}}"));
    }

    /// Something that has to be so.
    pub fn check(&mut self, what: &str, passed: bool, found: impl Display) {
        let word = if passed { "PASS" } else { "FAIL" };
        self.passed += usize::from(passed);
        self.failed += usize::from(!passed);
        self.say(format_args!("{word} {what}: {found}"));
        let found = found.to_string().replace('\\', "\\\\").replace('"', "\\\"");
        self.json.push(format!("\"{what}\":{{\"passed\":{passed},\"found\":\"{found}\"}}"));
    }

    /// Prints JSON and keeps a record, as asked; whether everything passed.
    ///
    /// # Errors
    /// If the record cannot be written.
    pub fn finish(mut self, json: bool, record: bool) -> io::Result<bool> {
        let passed = self.failed == 0;
        let counts = format!("{} passed, {} failed", self.passed, self.failed);
        self.say(counts);
        let how = ["--json", "--record"];
        let command: Vec<_> =
            std::env::args().skip(1).filter(|word| !how.contains(&word.as_str())).collect();
        let commit = output("git", &["rev-parse", "HEAD"]);
        let object = format!(
            "{{\"bench\":\"{}\",\"passed\":{passed},\"command\":\"benches/{}\",\
             \"commit\":\"{commit}\",\"kernel\":\"{}\",\"cpu\":\"{}\",\"results\":{{{}}}}}",
            self.bench,
            command.join(" "),
            kernel(),
            cpu(),
            self.json.join(",")
        );
        if record {
            let folder = PathBuf::from("benches/runs").join(format!(
                "{}-{}-{}",
                output("date", &["-u", "+%Y-%m-%d"]),
                slug(&kernel()),
                slug(&cpu())
            ));
            std::fs::create_dir_all(&folder)?;
            let name = slug(&command.join(" "));
            std::fs::write(folder.join(format!("{name}.json")), format!("{object}\n"))?;
            let head = format!("$ benches/{}\ncommit {commit}\n\n", command.join(" "));
            std::fs::write(folder.join(format!("{name}.txt")), head + &self.text)?;
            self.say(format_args!("recorded in {}", folder.display()));
        }
        if json {
            println!("{object}");
        }
        Ok(passed)
    }
}

fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn cpu() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    model.map_or("unknown", |(_, name)| name).to_owned()
}

fn output(command: &str, arguments: &[&str]) -> String {
    let output = Command::new(command).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_default()
}

fn slug(text: &str) -> String {
    let words: Vec<_> = text
        .to_lowercase()
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '.')
        .filter(|word| !word.is_empty())
        .map(str::to_owned)
        .collect();
    words.join("-")
}
