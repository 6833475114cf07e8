//! How unkind the simulated world is, and the bugs that may be planted in it.
//!
//! In:    what the plan draws.
//! Out:   `Chaos`, `Plant`.
//! Never: does anything; the simulated kernel does.

/// How often the world is unkind, in percent; how long messages travel, in steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Chaos {
    /// Receives that bring a part of what is there.
    pub short_reads: u8,
    /// Sends that are cut although more would fit.
    pub short_sends: u8,
    /// Operations before which the submission queue is full.
    pub early_submits: u8,
    /// Pieces of task work that wait for the next enter.
    pub lulls: u8,
    /// Poll events that end the multishot.
    pub multishot_ends: u8,
    /// Steps that a message between rings travels at most.
    pub travel: u64,
    /// Departures that find the other table full.
    pub full_tables: u8,
    /// Detachments that find no descriptor.
    pub detach_errors: u8,
    /// Accepts that end by themselves.
    pub accept_errors: u8,
}

/// A planted bug: the simulation has to notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// One event that says that a socket takes bytes again is lost.
    LostWritable,
    /// One edge of a poll for input is lost.
    LostEdge,
    /// One send is carried out twice.
    DoubleSend,
    /// One short send is not reported.
    SilentShortSend,
    /// One bell does not ring.
    LostBell,
    /// One byte of a send is another.
    StaleByte,
}
