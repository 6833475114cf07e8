//! The names in a room, each once, with the number of its connections.
//!
//! In:    names that enter, ids that leave.
//! Out:   stable ids while a name has a connection.
//! Never: knows which connections these are.
//!
//! # Invariants
//! - An id in use names the same user until its last connection has left.
//! - `index` holds each name in use exactly once, or is empty while the room is small.

use hashbrown::HashTable;
use std::hash::{BuildHasher, RandomState};

/// Names up to which a search through all of them is cheaper than an index.
const SMALL: usize = 16;

/// Places that a small room grows by.
const STEP: usize = 2;

/// A user's place in the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UserId(pub u32);

#[derive(Debug)]
struct User {
    name: Box<str>,
    tabs: u32,
}

/// The names.
#[derive(Debug, Default)]
pub struct Users {
    entries: Vec<User>,
    free: Vec<u32>,
    index: Option<Box<Index>>,
}

#[derive(Debug, Default)]
struct Index {
    table: HashTable<u32>,
    hasher: RandomState,
}

impl Users {
    /// One more connection of `name`; how many it has now.
    ///
    /// # Panics
    /// Beyond 2^32 users, which no table's connections are.
    pub fn enter(&mut self, name: &str) -> (UserId, u32) {
        if let Some(at) = self.find(name) {
            let user = &mut self.entries[at as usize];
            user.tabs += 1;
            return (UserId(at), user.tabs);
        }
        let user = User { name: name.into(), tabs: 1 };
        let at = if let Some(at) = self.free.pop() {
            self.entries[at as usize] = user;
            at
        } else {
            self.reserve();
            self.entries.push(user);
            u32::try_from(self.entries.len() - 1).expect("members are bounded by the tables")
        };
        self.insert_into_index(at);
        (UserId(at), 1)
    }

    /// One connection less; the name where it was the last.
    ///
    /// # Panics
    /// If the id is not in use: a programming error.
    pub fn leave(&mut self, id: UserId) -> Option<Box<str>> {
        let user = &mut self.entries[id.0 as usize];
        assert!(user.tabs > 0, "a user left more often than it entered");
        user.tabs -= 1;
        if user.tabs > 0 {
            return None;
        }
        let name = std::mem::take(&mut user.name);
        if let Some(index) = &mut self.index {
            let hash = index.hasher.hash_one(&*name);
            if let Ok(entry) = index.table.find_entry(hash, |&at| at == id.0) {
                entry.remove();
            }
        }
        self.free.push(id.0);
        Some(name)
    }

    /// The name behind an id.
    #[must_use]
    pub fn name(&self, id: UserId) -> &str {
        &self.entries[id.0 as usize].name
    }

    /// Whether a name has a connection.
    #[must_use]
    pub fn contains(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// Distinct names.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether nobody is in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Small rooms are most of them, and grow by a few: doubling would leave half of it empty.
    fn reserve(&mut self) {
        if self.entries.len() < SMALL && self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(STEP);
        }
    }

    fn find(&self, name: &str) -> Option<u32> {
        if let Some(index) = &self.index {
            let hash = index.hasher.hash_one(name);
            let same = |&at: &u32| &*self.entries[at as usize].name == name;
            return index.table.find(hash, same).copied();
        }
        let at = self.entries.iter().position(|user| user.tabs > 0 && &*user.name == name)?;
        u32::try_from(at).ok()
    }

    fn insert_into_index(&mut self, at: u32) {
        let entries = &self.entries;
        if self.index.is_none() && entries.len() > SMALL {
            let mut index = Box::<Index>::default();
            for (other, user) in (0u32..).zip(entries) {
                if user.tabs > 0 && other != at {
                    let hash = index.hasher.hash_one(&*user.name);
                    let hasher = &index.hasher;
                    let rehash = |&at: &u32| hasher.hash_one(&*entries[at as usize].name);
                    index.table.insert_unique(hash, other, rehash);
                }
            }
            self.index = Some(index);
        }
        if let Some(index) = &mut self.index {
            let hash = index.hasher.hash_one(&*entries[at as usize].name);
            let hasher = &index.hasher;
            let rehash = |&at: &u32| hasher.hash_one(&*entries[at as usize].name);
            index.table.insert_unique(hash, at, rehash);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    #[test]
    fn agrees_with_a_map_through_thousands_of_steps() {
        let mut random = fastrand::Rng::with_seed(11);
        let (mut users, mut model) = (Users::default(), HashMap::<String, (UserId, u32)>::new());
        for _ in 0..20_000 {
            let name = format!("user-{}", random.u32(0..40));
            if random.bool() {
                let (id, tabs) = users.enter(&name);
                let entry = model.entry(name.clone()).or_insert((id, 0));
                entry.1 += 1;
                assert_eq!((entry.0, entry.1), (id, tabs));
                assert_eq!(users.name(id), name);
            } else if let Some((id, tabs)) = model.get(&name).copied() {
                let gone = users.leave(id);
                assert_eq!(gone.is_some(), tabs == 1);
                if tabs == 1 {
                    assert_eq!(gone.as_deref(), Some(&*name));
                    model.remove(&name);
                } else {
                    model.insert(name, (id, tabs - 1));
                }
            }
            assert_eq!(users.len(), model.len());
        }
    }
}
