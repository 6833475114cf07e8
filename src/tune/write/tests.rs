//! What is written is all that is written, and all of it can be taken back.

use std::collections::BTreeMap;

use super::*;

const TOML: &str = "ringhall.toml";
const UNIT: &str = "ringhall.service.d/10-tuned.conf";

fn outputs(text: &str) -> Vec<Output> {
    [TOML, UNIT].map(|name| Output { name, text: format!("{name} {text}\n") }).to_vec()
}

fn write(path: &Path, text: &str, force: bool) -> Result<(), Fault> {
    Folder::open(path)?.write(&outputs(text), force)
}

fn revert(path: &Path, force: bool) -> Vec<Reverted> {
    Folder::open(path).unwrap().revert(force).unwrap()
}

/// Every file below, by name.
fn files(path: &Path) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    let mut folders = vec![path.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            if entry.file_type().unwrap().is_dir() {
                folders.push(entry.path());
            } else {
                let name = entry.path().strip_prefix(path).unwrap().display().to_string();
                all.insert(name, fs::read_to_string(entry.path()).unwrap());
            }
        }
    }
    all
}

#[test]
fn files_are_written_and_taken_back_with_the_folders_made_for_them() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("etc/tuned");
    write(&path, "one", false).unwrap();
    let names: Vec<_> = files(&path).into_keys().collect();
    assert_eq!(names, [RECORD, UNIT, TOML], "and no draft is left");
    assert_eq!(files(&path)[TOML], "ringhall.toml one\n");
    let removed = |name: &str| Reverted::Removed(name.to_owned());
    assert_eq!(revert(&path, false), [removed(UNIT), removed(TOML)]);
    assert!(!root.path().join("etc").exists());
}

#[test]
fn a_second_run_replaces_its_own_files() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "one", false).unwrap();
    write(root.path(), "two", false).unwrap();
    assert_eq!(files(root.path())[TOML], "ringhall.toml two\n");
    revert(root.path(), false);
    assert!(files(root.path()).is_empty() && root.path().exists(), "it was there before");
}

#[test]
fn what_it_did_not_write_is_left_alone() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(TOML), "the operator's\n").unwrap();
    let refused = write(root.path(), "one", false).unwrap_err().to_string();
    assert!(refused.contains(TOML) && refused.contains("--force"), "{refused}");
    assert_eq!(files(root.path()).len(), 1, "nothing was written");
}

#[test]
fn by_force_it_is_kept_and_comes_back() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(TOML), "the operator's\n").unwrap();
    write(root.path(), "one", true).unwrap();
    write(root.path(), "two", false).unwrap();
    let all = files(root.path());
    assert_eq!(all["ringhall.toml.bak"], "the operator's\n");
    assert_eq!(all[TOML], "ringhall.toml two\n");
    assert!(revert(root.path(), false).contains(&Reverted::Restored(TOML.to_owned())));
    let all = files(root.path());
    assert_eq!(all.into_iter().collect::<Vec<_>>(), [(TOML.to_owned(), "the operator's\n".into())]);
}

#[test]
fn what_was_edited_since_stays() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "one", false).unwrap();
    fs::write(root.path().join(TOML), "edited\n").unwrap();
    assert!(write(root.path(), "two", false).is_err());
    assert!(revert(root.path(), false).contains(&Reverted::Kept(TOML.to_owned())));
    let names: Vec<_> = files(root.path()).into_keys().collect();
    assert_eq!(names, [RECORD, TOML], "the record knows what is left");
    assert_eq!(revert(root.path(), true), [Reverted::Removed(TOML.to_owned())]);
    assert!(files(root.path()).is_empty());
}

#[test]
fn a_name_that_is_taken_is_no_backup() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join(TOML), "new\n").unwrap();
    fs::write(root.path().join("ringhall.toml.bak"), "old\n").unwrap();
    write(root.path(), "one", true).unwrap();
    assert_eq!(files(root.path())["ringhall.toml.bak2"], "new\n");
    revert(root.path(), false);
    assert_eq!(files(root.path())[TOML], "new\n");
    assert_eq!(files(root.path())["ringhall.toml.bak"], "old\n");
}

#[test]
fn an_end_between_record_and_files_is_no_edit() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "one", false).unwrap();
    let mut folder = Folder::open(root.path()).unwrap();
    let entry = folder.entries.get_mut(TOML).unwrap();
    entry.hashes.push(hash(b"ringhall.toml two\n"));
    folder.record().unwrap();
    write(root.path(), "three", false).expect("the old text is still ours");
}

#[test]
fn a_record_that_leads_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    for name in ["../victim", "/victim"] {
        let record = json!({"files": {name: {"hashes": [], "backup": null}}, "folders": []});
        fs::write(root.path().join(RECORD), record.to_string()).unwrap();
        assert!(Folder::open(root.path()).is_err(), "{name}");
    }
}

#[test]
fn a_folder_that_takes_nothing_is_known_before_the_run() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    let mut folder = Folder::open(&file.join("below")).unwrap_or_else(|_| Folder {
        path: file.join("below"),
        entries: BTreeMap::new(),
        made: Vec::new(),
    });
    assert!(folder.prepare(&[TOML], false).is_err());
}

#[test]
fn preparing_leaves_only_what_revert_takes_back() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("new");
    Folder::open(&path).unwrap().prepare(&[TOML, UNIT], false).unwrap();
    assert!(Folder::open(&path).unwrap().has_record(), "there is something to take back");
    assert!(revert(&path, false).is_empty());
    assert!(!path.exists());
}
