//! `ringhall tune`: from what is asked for to files, with a quiet box in between.
//!
//! In:    a `Request`; the measuring half, behind `Measure`.
//! Out:   a `Report`, files, sentences.
//! Never: prints; changes the box's settings; writes a configuration that does not pass its check.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bar::Bar;
use super::diff::diff;
use super::lock::Lock;
use super::provenance::Provenance;
use super::quiet::{self, Look, Moment};
use super::report::Report;
use super::run::{self, Outcome};
use super::scrap::Scrap;
use super::sizes::{Basis, Sizes};
use super::write::{Folder, Output};
use super::{Bench, Fault, Knob, Plan, Probes, files, picture};
use crate::config::{self, Problem, Sources};
use crate::limits::{Limits, RingUse};
use crate::probe::capacity::CONNECTION_BYTES;
use crate::probe::{Capacity, Facts, memory_reserve};

/// From the command to the last trial; what remains of 90 seconds is for the end of servers, the
/// files, and a box slower than the ones this was tried on.
const QUICK_TIME: Duration = Duration::from_secs(80);
/// The same of `--full`.
const FULL_TIME: Duration = Duration::from_secs(15 * 60);
/// What the project ships.
const SYSCTL_TEMPLATE: &str = include_str!("../../tuning/sysctl.d/90-ringhall.conf");
const SOCKET_UNIT: &str = include_str!("../../tuning/systemd/ringhall.socket");

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// `--quick`, not `--full`.
    pub quick: bool,
    /// `--connections`.
    pub connections: Option<u64>,
    /// `--write`.
    pub write: Option<PathBuf>,
    /// `--force`.
    pub force: bool,
    /// `--dry-run`.
    pub dry_run: bool,
    /// Whether a terminal may be told how far it is.
    pub progress: bool,
    /// The command as it was given, for the files.
    pub command: String,
}

/// Who measures.
pub trait Measure {
    /// Looks at the box; says what it is at.
    ///
    /// # Errors
    /// If a server does not start.
    fn probes(&mut self, plan: &Plan, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault>;

    /// Gets ready to run trials.
    ///
    /// # Errors
    /// If that is not possible here.
    fn bench(&mut self, plan: &Plan) -> Result<Box<dyn Bench>, Fault>;
}

/// What came of it.
#[derive(Debug)]
pub struct Done {
    /// Figures and decisions.
    pub report: Report,
    /// What was done to files, or would be: for people.
    pub said: String,
}

/// Waits for a quiet box; measures, decides, writes.
///
/// # Errors
/// A sentence that says what to do: the box is not quiet, a run is under way, a folder holds what
/// is not ours, a server does not start.
pub fn run(request: &Request, knobs: &[Knob], measure: &mut dyn Measure) -> Result<Done, Fault> {
    let begin = Instant::now();
    let _lock = Lock::take()?;
    // What nobody could write is said before anybody waits for it.
    let folder = prepared(request)?;
    let cpus = crate::probe::cpus();
    let before = quiet::look(&cpus);
    let reasons = before.reasons(cpus.len());
    let done = match reasons.is_empty() || request.force {
        true => tune(request, knobs, measure, before, begin),
        false => Err(Fault::new(format!(
            "this box is not quiet, so its figures would say little: {}; end that or wait, or \
             measure anyway with --force",
            reasons.join("; ")
        ))),
    };
    if let (Err(_), Some(folder)) = (&done, folder.filter(Folder::is_empty)) {
        // Nothing was written: the folders that were made for it go again.
        folder.revert(false)?;
    }
    done
}

/// The folder, ready to be written into; `None` where nothing will be.
fn prepared(request: &Request) -> Result<Option<Folder>, Fault> {
    let Some(path) = request.write.as_deref() else { return Ok(None) };
    let mut folder = Folder::open(path)?;
    if request.dry_run {
        return Ok(None);
    }
    folder.prepare(&NAMES, request.force)?;
    Ok(Some(folder))
}

/// Measures, decides, writes, on a box that was as `before`.
fn tune(
    request: &Request,
    knobs: &[Knob],
    measure: &mut dyn Measure,
    before: Look,
    begin: Instant,
) -> Result<Done, Fault> {
    let facts = Facts::read();
    let measured = measured(request, knobs, measure, &facts, begin)?;
    let (probes, outcome, plan, others_percent) = measured;
    let sizes = Sizes::of(&basis(request, &facts, &probes, &outcome));
    let provenance = Provenance::now(request.command.clone());
    let seconds = begin.elapsed().as_secs_f64();
    let report =
        Report { provenance, plan, probes, outcome, sizes, before, others_percent, seconds };
    let outputs = outputs(&report);
    check_toml(&outputs[0].text)?;
    let said = put(request, &outputs)?;
    Ok(Done { report, said })
}

/// Everything that needs the box to itself.
fn measured(
    request: &Request,
    knobs: &[Knob],
    measure: &mut dyn Measure,
    facts: &Facts,
    begin: Instant,
) -> Result<(Probes, Outcome, Plan, f64), Fault> {
    let quick = request.quick;
    let plan = plan(quick, &facts.cpus);
    let mut bar = Bar::new(request.progress, run::planned(knobs, quick));
    let (from, own) = (Moment::now(&facts.cpus), own_time());
    let probes = measure.probes(&plan, &mut |doing| bar.say(doing))?;
    let mut bench = measure.bench(&plan)?;
    let last = begin + if quick { QUICK_TIME } else { FULL_TIME };
    let outcome = run::run(&mut *bench, knobs, quick, last, &mut bar)?;
    // Its children's time is ours once they have ended.
    drop(bench);
    let own = own_time().saturating_sub(own);
    let others = from.others_percent(&Moment::now(&facts.cpus), own);
    Ok((probes, outcome, plan, others))
}

fn plan(quick: bool, cpus: &[usize]) -> Plan {
    let (trial, warmup) = if quick { (400, 100) } else { (1000, 300) };
    Plan {
        quick,
        server_cpu: cpus.first().copied().unwrap_or(0),
        generator_cpu: cpus.get(1).or_else(|| cpus.first()).copied().unwrap_or(0),
        trial: Duration::from_millis(trial),
        warmup: Duration::from_millis(warmup),
    }
}

/// CPU time of this process and of its children that have ended.
fn own_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
    // User and system time, and the children's.
    let ticks: u64 =
        fields.split(' ').skip(11).take(4).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn basis(request: &Request, facts: &Facts, probes: &Probes, outcome: &Outcome) -> Basis {
    let measured = probes.kernel_bytes.zip(probes.user_bytes).map(|(kernel, user)| kernel + user);
    // No less than what the server itself reckons with: an idle connection is the least that one
    // takes.
    let each = measured.map_or(CONNECTION_BYTES, |bytes| (bytes as u64).max(CONNECTION_BYTES));
    let cpus = facts.cpus.len();
    let reserve = memory_reserve(&facts.memory, &Limits::default());
    let capacity = Capacity::of(facts, &RingUse::default(), cpus, reserve);
    let memory = u64::try_from(capacity.memory).unwrap_or(u64::MAX / CONNECTION_BYTES);
    let shards = outcome.chosen.iter().find(|(key, _)| *key == "server.shards");
    Basis {
        wanted: request.connections,
        memory_holds: memory.saturating_mul(CONNECTION_BYTES) / each,
        cpus,
        shards: shards.and_then(|(_, shards)| shards.parse().ok()),
        memory_bytes: facts.memory.group_limit.unwrap_or(u64::MAX).min(facts.memory.total),
    }
}

/// Every file that a run writes.
const NAMES: [&str; 6] =
    [files::TOML, files::SYSCTL, files::SERVICE, files::SOCKET, files::REPORT, files::PICTURE];

fn outputs(report: &Report) -> [Output; 6] {
    let Report { outcome, sizes, provenance, .. } = report;
    let box_said = provenance.fingerprint.to_string();
    let subtitle = format!("operations a CPU-second over the default's; {box_said}");
    let texts = [
        files::toml(outcome, sizes, provenance),
        files::sysctl(SYSCTL_TEMPLATE, sizes, provenance),
        files::service(sizes, provenance),
        files::socket(SOCKET_UNIT, sizes, provenance),
        format!("{:#}\n", report.to_json()),
        picture::svg(&provenance.command, &subtitle, outcome),
    ];
    let mut texts = texts.into_iter();
    NAMES.map(|name| Output { name, text: texts.next().unwrap_or_default() })
}

/// Checks the configuration as `ringhall config check` does.
fn check_toml(text: &str) -> Result<(), Fault> {
    let scrap = Scrap::of(text).map_err(|error| {
        Fault::new(format!("cannot make a file in memory to check what was chosen: {error}"))
    })?;
    let sources = Sources::new(Some(scrap.path()), std::iter::empty(), Vec::new());
    let checked = config::load(sources);
    let wrong = |problems: Vec<Problem>| {
        let lines: Vec<_> = problems.iter().map(Problem::to_string).collect();
        Fault::new(format!(
            "what was chosen is no configuration, which is a fault of Ringhall's: {}",
            lines.join("; ")
        ))
    };
    checked.map(|_| ()).map_err(wrong)
}

/// Writes, or says what would be written.
fn put(request: &Request, outputs: &[Output]) -> Result<String, Fault> {
    let Some(path) = &request.write else {
        let toml = &outputs[0].text;
        return Ok(format!(
            "nothing is written without --write DIR; ringhall.toml would be:\n\n{toml}"
        ));
    };
    if request.dry_run {
        return Ok(outputs.iter().map(|output| would_be(path, output)).collect());
    }
    Folder::open(path)?.write(outputs, request.force)?;
    let path = path.display();
    let mut said: String =
        outputs.iter().map(|output| format!("wrote {path}/{}\n", output.name)).collect();
    said.push_str(&format!(
        "serve with it: ringhall serve --config {path}/{}\ntake it back: ringhall tune revert \
         --write {path}\n",
        files::TOML
    ));
    Ok(said)
}

fn would_be(path: &Path, output: &Output) -> String {
    let path = path.join(output.name);
    let shown = path.display();
    match std::fs::read_to_string(&path) {
        Err(_) => format!("would write {shown}\n{}", diff("", &output.text)),
        Ok(old) if old == output.text => format!("would leave {shown} as it is\n"),
        Ok(old) => format!("would change {shown}\n{}", diff(&old, &output.text)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::tests::{Known, knobs};
    use super::*;

    /// A box on which a longer wait is better.
    struct Fake;

    impl Measure for Fake {
        fn probes(&mut self, _: &Plan, say: &mut dyn FnMut(&str)) -> Result<Probes, Fault> {
            say("probes");
            Ok(Probes::default())
        }

        fn bench(&mut self, _: &Plan) -> Result<Box<dyn Bench>, Fault> {
            Ok(Box::new(Known::new(|setting, _| match setting {
                "2ms,512" => 1.25,
                _ => 1.0,
            })))
        }
    }

    fn request(folder: &Path) -> Request {
        Request {
            quick: true,
            connections: Some(100_000),
            write: Some(folder.to_owned()),
            force: false,
            dry_run: false,
            progress: false,
            command: "ringhall tune --quick".to_owned(),
        }
    }

    fn tuned(request: &Request) -> Result<Done, Fault> {
        tune(request, &knobs(), &mut Fake, Look::default(), Instant::now())
    }

    #[test]
    fn every_file_is_written_and_the_configuration_is_right() {
        let folder = tempfile::tempdir().unwrap();
        let done = tuned(&request(folder.path())).unwrap();
        for name in NAMES {
            let path = folder.path().join(name);
            assert!(path.is_file() && done.said.contains(name), "{name}: {}", done.said);
        }
        let file = Some(folder.path().join(files::TOML));
        let loaded = config::load(Sources::new(file, std::iter::empty(), Vec::new())).unwrap();
        assert_eq!(loaded.config.limits.gather_wait, Duration::from_millis(2));
        assert_eq!(loaded.config.limits.gather_max, 512);
    }

    #[test]
    fn the_sysctl_file_has_every_setting_that_is_shipped() {
        let folder = tempfile::tempdir().unwrap();
        tuned(&request(folder.path())).unwrap();
        let keys = |text: &str| -> BTreeSet<String> {
            let lines = text.lines().map(|line| line.strip_prefix("#:").unwrap_or(line).trim());
            let settings = lines.filter(|line| !line.starts_with('#'));
            let keys = settings.filter_map(|line| line.split_once(" = "));
            keys.map(|(key, _)| key.to_owned()).collect()
        };
        let text = std::fs::read_to_string(folder.path().join(files::SYSCTL)).unwrap();
        assert_eq!(keys(&text), keys(SYSCTL_TEMPLATE));
        assert!(!text.contains("pages/4") && !text.contains("kib/100"), "{text}");
    }

    #[test]
    fn a_dry_run_writes_nothing_and_says_what_it_would() {
        let folder = tempfile::tempdir().unwrap();
        let dry = Request { dry_run: true, ..request(folder.path()) };
        let done = tuned(&dry).unwrap();
        assert!(done.said.contains("+ gather_wait = \"2ms\""), "{}", done.said);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        tuned(&request(folder.path())).unwrap();
        let again = tuned(&dry).unwrap();
        assert!(again.said.contains("would change"), "the date: {}", again.said);
    }

    #[test]
    fn without_a_folder_the_configuration_is_shown() {
        let nowhere = Request { write: None, ..request(Path::new("")) };
        assert!(tuned(&nowhere).unwrap().said.contains("gather_wait = \"2ms\""));
    }

    #[test]
    fn a_folder_that_holds_others_files_is_refused_before_anybody_waits() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(files::TOML), "[log]\n").unwrap();
        let refused = prepared(&request(folder.path())).unwrap_err().to_string();
        assert!(refused.contains("--force"), "{refused}");
        let dry = Request { dry_run: true, ..request(folder.path()) };
        assert!(prepared(&dry).unwrap().is_none());
    }

    #[test]
    fn a_value_that_no_configuration_takes_is_found() {
        let wrong = check_toml("[server]\ngather_wait = \"soon\"\n").unwrap_err().to_string();
        assert!(wrong.contains("gather_wait"), "{wrong}");
        check_toml("[server]\ngather_wait = \"2ms\"\n").unwrap();
    }
}
