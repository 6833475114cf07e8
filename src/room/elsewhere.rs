//! Who is in the room on other boxes.
//!
//! In:    what the cluster knows of the room, whole or change by change.
//! Out:   whether a user is on another box; how many members are.
//! Never: knows on which.
//!
//! # Invariants
//! - Nothing is held while nobody is elsewhere: most rooms never have anybody there.

use std::collections::HashSet;

/// Users and members on other boxes.
#[derive(Debug, Default)]
pub struct Elsewhere(Option<Box<Crowd>>);

#[derive(Debug, Default)]
struct Crowd {
    users: HashSet<Box<str>>,
    members: usize,
}

impl Elsewhere {
    /// What the cluster knows, in place of what was known.
    #[must_use]
    pub fn new(users: Vec<Box<str>>, members: usize) -> Self {
        let mut elsewhere =
            Self(Some(Box::new(Crowd { users: users.into_iter().collect(), members })));
        elsewhere.tidy_up();
        elsewhere
    }

    /// Members on other boxes.
    #[must_use]
    pub fn members(&self) -> usize {
        self.0.as_ref().map_or(0, |crowd| crowd.members)
    }

    /// Whether a user is on another box.
    #[must_use]
    pub fn contains(&self, user: &str) -> bool {
        self.0.as_ref().is_some_and(|crowd| crowd.users.contains(user))
    }

    /// Other boxes have so many members now.
    pub fn set_members(&mut self, members: usize) {
        self.0.get_or_insert_default().members = members;
        self.tidy_up();
    }

    /// A user is on another box now; `false` where it was known.
    pub fn enter(&mut self, user: &str) -> bool {
        self.0.get_or_insert_default().users.insert(user.into())
    }

    /// A user is on no other box any more; `false` where it was on none.
    pub fn leave(&mut self, user: &str) -> bool {
        let was_there = self.0.as_mut().is_some_and(|crowd| crowd.users.remove(user));
        self.tidy_up();
        was_there
    }

    fn tidy_up(&mut self) {
        if self.0.as_ref().is_some_and(|crowd| crowd.users.is_empty() && crowd.members == 0) {
            self.0 = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_crowd_is_not_held() {
        assert!(Elsewhere::new(Vec::new(), 0).0.is_none());
        let mut elsewhere = Elsewhere::new(vec!["ann".into()], 2);
        assert!(elsewhere.contains("ann") && !elsewhere.enter("ann"));
        assert!(elsewhere.leave("ann") && !elsewhere.leave("ann"));
        assert_eq!(elsewhere.members(), 2);
        elsewhere.set_members(0);
        assert!(elsewhere.0.is_none());
    }
}
