//! Turns what an operation in flight must keep into an index for its tag, and back.
//!
//! In:    a thing, when its operation is queued; the index, when it has completed.
//! Out:   the index; the thing.
//! Never: moves what a kept `Box` points to.
//!
//! # Invariants
//! - An index is given out once until its thing has been taken back.

/// Things in flight, by index. Memory follows the most that ever were in flight at once.
#[derive(Debug)]
pub(super) struct Slots<T> {
    things: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    /// Empty.
    pub(super) fn new() -> Self {
        Self { things: Vec::new(), free: Vec::new() }
    }

    /// Keeps a thing.
    ///
    /// # Panics
    /// At 2^32 things in flight.
    pub(super) fn keep(&mut self, thing: T) -> u32 {
        if let Some(index) = self.free.pop() {
            self.things[index as usize] = Some(thing);
            return index;
        }
        let index = u32::try_from(self.things.len()).expect("fewer than 2^32 things in flight");
        self.things.push(Some(thing));
        index
    }

    /// The thing of an index.
    pub(super) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        self.things.get_mut(index as usize)?.as_mut()
    }

    /// Takes a thing back.
    pub(super) fn take(&mut self, index: u32) -> Option<T> {
        let thing = self.things.get_mut(index as usize)?.take();
        if thing.is_some() {
            self.free.push(index);
        }
        thing
    }

    /// Things in flight.
    pub(super) fn len(&self) -> usize {
        self.things.len() - self.free.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_is_reused_only_after_its_thing_is_gone() {
        let mut slots = Slots::new();
        let (a, b) = (slots.keep('a'), slots.keep('b'));
        assert_ne!(a, b);
        assert_eq!(slots.take(a), Some('a'));
        assert_eq!(slots.take(a), None);
        assert_eq!(slots.keep('c'), a);
        assert_eq!((slots.take(b), slots.take(a), slots.len()), (Some('b'), Some('c'), 0));
    }
}
