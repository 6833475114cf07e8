//! Turns the small files in which a kernel shows itself into words and numbers.
//!
//! In:    paths below a root: the box's own, or a test's folder.
//! Out:   text, numbers, names; `None` where there is nothing to read.
//! Never: writes.

use std::path::PathBuf;

/// Where `proc` and `sys` are.
pub(super) struct Root(PathBuf);

impl Root {
    pub(super) fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// A file's text.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.0.join(path)).ok()
    }

    /// The first word of a file, as a number.
    pub(super) fn number(&self, path: &str) -> Option<u64> {
        self.text(path)?.split_whitespace().next()?.parse().ok()
    }

    /// `net.core.somaxconn` and the like.
    pub(super) fn sysctl(&self, name: &str) -> Option<u64> {
        self.number(&format!("proc/sys/{}", name.replace('.', "/")))
    }

    /// What is in a folder, in order.
    pub(super) fn names(&self, folder: &str) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.join(folder)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort_unstable();
        names
    }

    /// The value of a counter in the paired lines of `/proc/net/netstat`.
    pub(super) fn netstat(&self, counter: &str) -> Option<u64> {
        let text = self.text("proc/net/netstat")?;
        let lines: Vec<_> = text.lines().collect();
        lines.chunks_exact(2).find_map(|pair| {
            let place = pair[0].split_whitespace().position(|name| name == counter)?;
            pair[1].split_whitespace().nth(place)?.parse().ok()
        })
    }

    /// The folders of this process's control group and of those above it, for a controller; its
    /// own first.
    pub(super) fn groups(&self, controller: &str) -> Vec<String> {
        let membership = self.text("proc/self/cgroup").unwrap_or_default();
        let mut unified = None;
        for line in membership.lines() {
            let mut parts = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (parts.next(), parts.next()) else { continue };
            if names.split(',').any(|name| name == controller) {
                return upwards(&format!("sys/fs/cgroup/{controller}"), path);
            }
            if names.is_empty() {
                unified = Some(upwards("sys/fs/cgroup", path));
            }
        }
        unified.unwrap_or_default()
    }
}

/// The folders from `mount` and `path` up to `mount`.
fn upwards(mount: &str, path: &str) -> Vec<String> {
    let mut path = path.trim_end_matches('/');
    let mut folders = Vec::new();
    while let Some((above, _)) = path.rsplit_once('/') {
        folders.push(format!("{mount}{path}"));
        path = above;
    }
    folders.push(mount.to_owned());
    folders
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_group_is_followed_up_to_its_mount() {
        assert_eq!(upwards("m", "/"), ["m"]);
        assert_eq!(upwards("m", "/a/b"), ["m/a/b", "m/a", "m"]);
    }
}
