//! Names of channels and keys at a Redis.
//!
//! In:    `broker.prefix`, partitions, rooms.
//! Out:   names whose hash tag is the partition, so that a script's keys lie in one slot.
//! Never: the same name for two things, or for two prefixes.

use std::collections::HashMap;

use crate::broker::Lane;
use crate::id::Mode;
use crate::limits::PARTITIONS;

/// All names that do not depend on a room.
#[derive(Debug)]
pub struct Names {
    /// Channel of what is said, by partition.
    pub said: Vec<String>,
    /// Stream of what is said in order, by partition.
    pub log: Vec<String>,
    /// Channel of the control lane.
    pub control: String,
    tags: Vec<String>,
    lanes: HashMap<Vec<u8>, Lane>,
    partitions: HashMap<Vec<u8>, usize>,
}

impl Names {
    /// The names under a prefix.
    #[must_use]
    pub fn new(prefix: &str) -> Self {
        let tags: Vec<_> = (0..PARTITIONS).map(|at| format!("{{{prefix}:{at:02}}}")).collect();
        let said: Vec<_> = tags.iter().map(|tag| format!("{tag}:said")).collect();
        let log: Vec<_> = tags.iter().map(|tag| format!("{tag}:log")).collect();
        let control = format!("{prefix}:control");
        let bytes = |name: &String| name.clone().into_bytes();
        let mut lanes: HashMap<_, _> =
            said.iter().enumerate().map(|(at, name)| (bytes(name), Lane::Partition(at))).collect();
        lanes.insert(bytes(&control), Lane::Control);
        let partitions = log.iter().enumerate().map(|(at, name)| (bytes(name), at)).collect();
        Self { said, log, control, tags, lanes, partitions }
    }

    /// The channel of a lane.
    #[must_use]
    pub fn channel(&self, lane: Lane) -> &str {
        match lane {
            Lane::Partition(at) => &self.said[at],
            Lane::Control => &self.control,
        }
    }

    /// The lane of a channel, where it is one of ours.
    #[must_use]
    pub fn lane(&self, channel: &[u8]) -> Option<Lane> {
        self.lanes.get(channel).copied()
    }

    /// The partition of a stream, where it is one of ours.
    #[must_use]
    pub fn partition(&self, log: &[u8]) -> Option<usize> {
        self.partitions.get(log).copied()
    }

    /// The hash that numbers a room's messages.
    #[must_use]
    pub fn room(&self, partition: usize, mode: Mode, room: &str) -> String {
        let mode = match mode {
            Mode::Json => 'j',
            Mode::Raw => 'r',
        };
        format!("{}:room:{mode}:{room}", self.tags[partition])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_leads_back_to_what_it_names() {
        let names = Names::new("ringhall");
        assert_eq!(names.channel(Lane::Partition(7)), "{ringhall:07}:said");
        assert_eq!(names.room(63, Mode::Raw, "a{b}"), "{ringhall:63}:room:r:a{b}");
        for lane in (0..PARTITIONS).map(Lane::Partition).chain([Lane::Control]) {
            assert_eq!(names.lane(names.channel(lane).as_bytes()), Some(lane));
        }
        assert_eq!(names.partition(names.log[9].as_bytes()), Some(9));
        assert_eq!(names.lane(b"{other:07}:said"), None);
    }
}
