//! Turns what `ringhall tune` wrote down about the box it measured into a check.
//!
//! In:    `tune-report.json` beside the configuration; this box.
//! Out:   whether what was measured there still speaks of this box.
//! Never: judges what was decided.

use super::check::Check;
use super::patient::Patient;
use crate::probe::Fingerprint;

/// What `tune --write` calls its report.
pub(super) const REPORT: &str = "tune-report.json";

/// Whether the configuration was tuned for this box.
pub(super) fn fingerprint(patient: &Patient) -> Vec<Check> {
    let check = Check::of("tuned");
    let path = &patient.tune_report;
    let Ok(text) = std::fs::read_to_string(path) else {
        let message = format!("there is no {}: the defaults are in force", path.display());
        return vec![check.skip(message)];
    };
    let folder = path.parent().unwrap_or(path).display();
    let again = format!("ringhall tune --write {folder}");
    let report = serde_json::from_str::<serde_json::Value>(&text);
    let tuned = report.ok().and_then(|report| Fingerprint::from_json(&report["fingerprint"]));
    let Some(tuned) = tuned else {
        let message = format!("{} names no box: it was cut or edited", path.display());
        return vec![check.measured("unreadable").warn(message, again)];
    };
    let differences = tuned.differences(&patient.box_now);
    let check = check.measured(path.display().to_string());
    if differences.is_empty() {
        return vec![check.pass("it was measured on this box")];
    }
    vec![check.warn(format!("it was measured elsewhere: {}", differences.join("; ")), again)]
}
