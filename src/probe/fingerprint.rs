//! Turns a box into the few facts that figures measured on it depend on, and two boxes into what
//! differs.
//!
//! In:    `/proc`, `uname`, the affinity mask; such facts as JSON.
//! Out:   `Fingerprint`; sentences.
//! Never: calls a box another one for less than what moves figures: the kernel's last digits, a
//!        few pages of memory.

use std::path::Path;

use serde_json::{Value, json};

use super::{cpus, text};

/// Parts of memory by which two boxes may differ and count as one: what a kernel keeps for itself
/// changes with every build.
const MEMORY_PERCENT: u64 = 5;

/// What a box is, as far as figures depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    /// The CPU's name, as its maker calls it.
    pub cpu: String,
    /// CPUs that this process may run on.
    pub cpus: usize,
    /// Bytes of memory (`MemTotal`).
    pub memory_bytes: u64,
    /// The kernel's release.
    pub kernel: String,
    /// The version of Ringhall.
    pub version: String,
}

impl Fingerprint {
    /// Of this box.
    #[must_use]
    pub fn read() -> Self {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        Self::below(Path::new("/"), cpus().len(), release)
    }

    /// Of the box whose files lie below `root`.
    #[must_use]
    pub fn below(root: &Path, cpus: usize, kernel: String) -> Self {
        let proc = root.join("proc");
        let cpuinfo = text(&proc.join("cpuinfo")).unwrap_or_default();
        let model =
            cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        let meminfo = text(&proc.join("meminfo")).unwrap_or_default();
        let total = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kib = total.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
        Self {
            cpu: model.map_or_else(|| "unknown".to_owned(), |(_, name)| name.trim().to_owned()),
            cpus,
            memory_bytes: kib.unwrap_or(0) << 10,
            kernel,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// As it stands in a report.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cpus": self.cpus,
            "memory_bytes": self.memory_bytes,
            "kernel": self.kernel,
            "version": self.version,
        })
    }

    /// From a report; `None` where a part is missing.
    #[must_use]
    pub fn from_json(json: &Value) -> Option<Self> {
        let words = |name: &str| json[name].as_str().map(str::to_owned);
        Some(Self {
            cpu: words("cpu")?,
            cpus: usize::try_from(json["cpus"].as_u64()?).ok()?,
            memory_bytes: json["memory_bytes"].as_u64()?,
            kernel: words("kernel")?,
            version: words("version")?,
        })
    }

    /// What is no longer as it was, a few words each: `16 CPUs, now 8`. Empty where what was
    /// measured on `self` still fits `now`.
    #[must_use]
    pub fn differences(&self, now: &Self) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: &str, was: &str, is: &str| {
            differences.push(format!("{what}{was}, now {is}"));
        };
        if self.cpus != now.cpus {
            let count = |cpus| format!("{cpus} CPU{}", if cpus == 1 { "" } else { "s" });
            differ("", &count(self.cpus), &now.cpus.to_string());
        }
        if self.cpu != now.cpu {
            differ("CPU ", &self.cpu, &now.cpu);
        }
        let apart = self.memory_bytes.abs_diff(now.memory_bytes);
        if apart > self.memory_bytes / 100 * MEMORY_PERCENT {
            differ("", &format!("{} of memory", gib(self.memory_bytes)), &gib(now.memory_bytes));
        }
        if series(&self.kernel) != series(&now.kernel) {
            differ("Linux ", &self.kernel, &now.kernel);
        }
        if self.version != now.version {
            differ("Ringhall ", &self.version, &now.version);
        }
        differences
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cpu, cpus, kernel, .. } = self;
        let plural = if *cpus == 1 { "" } else { "s" };
        write!(f, "{cpu}, {cpus} CPU{plural}, {}, Linux {kernel}", gib(self.memory_bytes))
    }
}

/// Bytes for people.
fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// `6.18` of `6.18.44-cloud-amd64`.
fn series(release: &str) -> Vec<&str> {
    release.split(|c: char| !c.is_ascii_digit()).take(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tuned() -> Fingerprint {
        Fingerprint {
            cpu: "AMD EPYC 7B13".to_owned(),
            cpus: 16,
            memory_bytes: 64 << 30,
            kernel: "6.18.44-fc".to_owned(),
            version: "0.1.0".to_owned(),
        }
    }

    #[test]
    fn this_box_has_one_and_it_survives_a_report() {
        let here = Fingerprint::read();
        assert!(here.cpus > 0 && here.memory_bytes > 0 && here.kernel.contains('.'), "{here:?}");
        assert_eq!(Fingerprint::from_json(&here.to_json()), Some(here.clone()));
        assert_eq!(Fingerprint::from_json(&json!({"cpu": "x"})), None);
        assert!(here.differences(&here).is_empty());
    }

    #[test]
    fn files_are_read() {
        let root = tempfile::tempdir().unwrap();
        let proc = root.path().join("proc");
        std::fs::create_dir(&proc).unwrap();
        std::fs::write(proc.join("cpuinfo"), "processor\t: 0\nmodel name\t: Some CPU @ 2GHz\n")
            .unwrap();
        std::fs::write(proc.join("meminfo"), "MemTotal:       1048576 kB\n").unwrap();
        let read = Fingerprint::below(root.path(), 3, "6.8.1".to_owned());
        assert_eq!((read.cpu.as_str(), read.cpus), ("Some CPU @ 2GHz", 3));
        assert_eq!(read.to_string(), "Some CPU @ 2GHz, 3 CPUs, 1.0 GiB, Linux 6.8.1");
    }

    #[test]
    fn what_moves_figures_is_a_difference_and_the_rest_is_none() {
        let was = tuned();
        let patched = Fingerprint { kernel: "6.18.60-fc".to_owned(), ..tuned() };
        assert!(was.differences(&patched).is_empty());
        let grown = Fingerprint { memory_bytes: (64 << 30) + (1 << 30), ..tuned() };
        assert!(was.differences(&grown).is_empty());
        let other = Fingerprint {
            cpus: 8,
            memory_bytes: 32 << 30,
            kernel: "6.19.0".to_owned(),
            version: "0.2.0".to_owned(),
            ..tuned()
        };
        assert_eq!(
            was.differences(&other),
            [
                "16 CPUs, now 8",
                "64.0 GiB of memory, now 32.0 GiB",
                "Linux 6.18.44-fc, now 6.19.0",
                "Ringhall 0.1.0, now 0.2.0",
            ]
        );
    }
}
