//! Turns a run's texts into files of a folder, and takes them back.
//!
//! In:    a folder; texts by name.
//! Out:   the files, each whole or not at all; a record of them; the folder as it was (`revert`).
//! Never: overwrites or removes what it did not write, unless it is forced to: then what was there
//!        is kept beside it, and `revert` puts it back.
//!
//! The record, `.ringhall-tune.json`, holds a hash of each file: one that was edited since is no
//! longer ours.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::Fault;

/// The record's name.
pub const RECORD: &str = ".ringhall-tune.json";
/// Endings of what was there before, the first that is free.
const BACKUPS: usize = 1000;

/// A text and the name, below the folder, that it is to have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Such as `ringhall.service.d/10-tuned.conf`.
    pub name: &'static str,
    /// The text.
    pub text: String,
}

/// A folder, and what was written into it before.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    entries: BTreeMap<String, Entry>,
    /// Folders that are there because of us, the outermost first.
    made: Vec<PathBuf>,
}

/// A file of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    /// Of its text; two while it is being replaced.
    hashes: Vec<String>,
    /// What was there before, by its name beside it.
    backup: Option<String>,
}

/// What became of a file in a `revert`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reverted {
    /// It is gone.
    Removed(String),
    /// What was there before is back.
    Restored(String),
    /// It was edited since, and stays.
    Kept(String),
}

impl Folder {
    /// Reads the record, if there is one.
    ///
    /// # Errors
    /// If it cannot be read, or is none.
    pub fn open(path: &Path) -> Result<Self, Fault> {
        // Folders that are made are remembered, whoever comes from where to take them back.
        let path = std::path::absolute(path).map_err(|error| cannot("find", path, &error))?;
        let record = path.join(RECORD);
        let mut folder = Self { path, entries: BTreeMap::new(), made: Vec::new() };
        let text = match fs::read_to_string(&record) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(folder),
            Err(error) => return Err(cannot("read", &record, &error)),
        };
        let parsed = serde_json::from_str(&text).ok();
        match parsed.and_then(|json| folder.parse(&json)) {
            Some(()) => Ok(folder),
            None => Err(Fault::new(format!(
                "{} is not what `ringhall tune` writes: remove it, and by hand what an earlier run \
                 wrote here",
                record.display()
            ))),
        }
    }

    /// Whether no file here is ours.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a run has been here, though it may have been ended before it wrote a file.
    #[must_use]
    pub fn has_record(&self) -> bool {
        self.path.join(RECORD).exists()
    }

    /// Sees to it that these can be written, before anybody has waited for them.
    ///
    /// # Errors
    /// If one of them is there and not ours (unless forced), or the folder takes no files.
    pub fn prepare(&mut self, names: &[&'static str], force: bool) -> Result<(), Fault> {
        let foreign: Vec<_> = names.iter().copied().filter(|name| self.is_foreign(name)).collect();
        if !foreign.is_empty() && !force {
            let folder = self.path.display();
            return Err(Fault::new(format!(
                "{folder} holds {}, which `ringhall tune` did not write, or which was edited \
                 since: give another folder with --write, or --force (what is there is kept as \
                 NAME.bak, and `ringhall tune revert --write {folder}` puts it back)",
                foreign.join(" and "),
            )));
        }
        self.make(&self.path.clone())?;
        for name in names {
            self.make(&self.parent(name))?;
        }
        self.record()
    }

    /// Writes the texts.
    ///
    /// # Errors
    /// As `prepare`, or where the disk is full: what was there is still there.
    pub fn write(&mut self, outputs: &[Output], force: bool) -> Result<(), Fault> {
        let names: Vec<_> = outputs.iter().map(|output| output.name).collect();
        self.prepare(&names, force)?;
        for output in outputs {
            self.keep(output.name)?;
            let entry = self.entries.entry(output.name.to_owned()).or_default();
            entry.hashes.push(hash(output.text.as_bytes()));
        }
        // From here on the old texts and the new ones are both ours, whenever it ends.
        self.record()?;
        let mut ready = Vec::new();
        for output in outputs {
            ready.push(Ready::new(&self.path.join(output.name), &output.text)?);
        }
        for file in ready {
            file.put()?;
        }
        for output in outputs {
            let entry = self.entries.entry(output.name.to_owned()).or_default();
            entry.hashes = vec![hash(output.text.as_bytes())];
        }
        self.record()
    }

    /// Takes everything back; what was edited since stays, unless forced.
    ///
    /// # Errors
    /// Where a file cannot be removed or renamed.
    pub fn revert(mut self, force: bool) -> Result<Vec<Reverted>, Fault> {
        let mut done = Vec::new();
        for (name, entry) in self.entries.clone() {
            if self.is_foreign(&name) && self.path.join(&name).exists() && !force {
                done.push(Reverted::Kept(name));
                continue;
            }
            done.push(self.take_back(&name, &entry)?);
            self.entries.remove(&name);
        }
        if self.entries.is_empty() {
            remove(&self.path.join(RECORD))?;
            for folder in self.made.iter().rev() {
                // Somebody else's files keep it.
                let _kept = fs::remove_dir(folder);
            }
        } else {
            self.record()?;
        }
        Ok(done)
    }

    fn take_back(&self, name: &str, entry: &Entry) -> Result<Reverted, Fault> {
        let path = self.path.join(name);
        let backup = entry.backup.as_ref().map(|backup| self.parent(name).join(backup));
        match backup.filter(|backup| backup.exists()) {
            Some(backup) => {
                fs::rename(&backup, &path).map_err(|error| cannot("restore", &path, &error))?;
                Ok(Reverted::Restored(name.to_owned()))
            }
            None => remove(&path).map(|()| Reverted::Removed(name.to_owned())),
        }
    }

    /// Whether a file is there that we did not write, or that was edited since.
    fn is_foreign(&self, name: &str) -> bool {
        let path = self.path.join(name);
        let Ok(text) = fs::read(&path) else { return fs::symlink_metadata(&path).is_ok() };
        let hash = hash(&text);
        !self.entries.get(name).is_some_and(|entry| entry.hashes.contains(&hash))
    }

    /// Keeps what is there and is not ours.
    fn keep(&mut self, name: &str) -> Result<(), Fault> {
        if !self.is_foreign(name) {
            return Ok(());
        }
        let path = self.path.join(name);
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let endings = std::iter::once(".bak".to_owned());
        let mut endings = endings.chain((2..BACKUPS).map(|number| format!(".bak{number}")));
        let free = endings.find_map(|ending| {
            let backup = format!("{file}{ending}");
            let taken = fs::symlink_metadata(self.parent(name).join(&backup)).is_ok();
            (!taken).then_some(backup)
        });
        let Some(backup) = free else {
            return Err(Fault::new(format!("{} has too many .bak files", path.display())));
        };
        let kept = self.parent(name).join(&backup);
        // A copy: until the new text is there, the old one stays in force.
        fs::copy(&path, &kept).map_err(|error| cannot("keep", &path, &error))?;
        // The first is the operator's; a later one is an edit of what we wrote.
        let entry = self.entries.entry(name.to_owned()).or_default();
        entry.backup.get_or_insert(backup);
        Ok(())
    }

    fn parent(&self, name: &str) -> PathBuf {
        self.path.join(name).parent().map_or_else(|| self.path.clone(), Path::to_path_buf)
    }

    /// Makes a folder and those around it, and remembers which were missing.
    fn make(&mut self, folder: &Path) -> Result<(), Fault> {
        let mut missing: Vec<_> = folder
            .ancestors()
            .take_while(|above| !above.as_os_str().is_empty() && !above.exists())
            .map(Path::to_path_buf)
            .collect();
        fs::create_dir_all(folder).map_err(|error| cannot("make", folder, &error))?;
        missing.reverse();
        self.made.extend(missing);
        Ok(())
    }

    fn record(&self) -> Result<(), Fault> {
        let files = self.entries.iter().map(|(name, entry)| {
            let Entry { hashes, backup } = entry;
            (name.clone(), json!({"hashes": hashes, "backup": backup}))
        });
        let made: Vec<_> = self.made.iter().map(|path| path.to_string_lossy()).collect();
        let record = json!({
            "written_by": "ringhall tune",
            "files": files.collect::<serde_json::Map<_, _>>(),
            "folders": made,
        });
        Ready::new(&self.path.join(RECORD), &format!("{record:#}\n"))?.put()
    }

    fn parse(&mut self, record: &Value) -> Option<()> {
        for (name, file) in record["files"].as_object()? {
            let hashes = file["hashes"].as_array()?.iter();
            let hashes = hashes.map(|hash| hash.as_str().map(str::to_owned)).collect::<Option<_>>();
            let backup = file["backup"].as_str().map(str::to_owned);
            // What leads out of the folder is not from us.
            let inside = |name: &str| !name.starts_with('/') && !name.contains("..");
            if !inside(name) || !backup.as_deref().is_none_or(inside) {
                return None;
            }
            self.entries.insert(name.clone(), Entry { hashes: hashes?, backup });
        }
        let made = record["folders"].as_array()?.iter();
        self.made = made.map(|path| path.as_str().map(PathBuf::from)).collect::<Option<_>>()?;
        Some(())
    }
}

/// A text on the disk that has not its name yet.
struct Ready {
    draft: PathBuf,
    path: PathBuf,
}

impl Ready {
    fn new(path: &Path, text: &str) -> Result<Self, Fault> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let draft = path.with_file_name(format!(".{name}.{}", std::process::id()));
        let ready = Self { draft, path: path.to_owned() };
        let written = File::create(&ready.draft).and_then(|mut file| {
            file.write_all(text.as_bytes())?;
            file.sync_all()
        });
        match written {
            Ok(()) => Ok(ready),
            Err(error) => Err(cannot("write", path, &error)),
        }
    }

    fn put(self) -> Result<(), Fault> {
        fs::rename(&self.draft, &self.path).map_err(|error| cannot("write", &self.path, &error))
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // Nothing to remove where it has its name.
        let _gone = fs::remove_file(&self.draft);
    }
}

fn remove(path: &Path) -> Result<(), Fault> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(cannot("remove", path, &error))
        }
        _ => Ok(()),
    }
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Fault {
    let remedy = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            ": give a folder of your own with --write, or run as its owner"
        }
        io::ErrorKind::StorageFull => ": make room on the disk",
        _ => "",
    };
    Fault::new(format!("cannot {what} {}: {error}{remedy}", path.display()))
}

/// FNV-1a with 64 bits: it tells an edit from none, and nobody gains by deceiving it.
fn hash(bytes: &[u8]) -> String {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in bytes {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests;
