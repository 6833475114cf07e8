//! The README says what the code does: its configuration table is the key table's.

#[test]
fn the_readme_has_a_row_for_every_key() {
    let readme = include_str!("../README.md");
    for row in ringhall::config::markdown().lines() {
        assert!(readme.contains(row), "the README lacks this row:\n{row}");
    }
}

#[test]
fn the_readme_has_a_row_for_every_metric() {
    let readme = include_str!("../README.md");
    let rows = ringhall::control::metrics::table::markdown();
    for row in rows.lines() {
        assert!(readme.contains(row), "the README lacks this row:\n{row}");
    }
    let told = readme
        .lines()
        .filter(|line| line.starts_with("| `ringhall_") || line.starts_with("| `process_"));
    assert_eq!(told.count(), rows.lines().count(), "the README has a row of no metric");
}

#[test]
fn the_two_commands_stand_at_the_top() {
    let top: Vec<_> = include_str!("../README.md").lines().take(12).collect();
    for command in ["cargo run --release", "tests/run"] {
        assert!(top.iter().any(|line| line.starts_with(command)), "{command} is not at the top");
    }
}
