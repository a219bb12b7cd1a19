//! A look into the log, for people.

use bytes::Bytes;
use quorate_ids::{LogIndex, Term};
use quorate_models::ModelId;

use crate::membership::MembershipRequest;

/// A part of the log, and where the log begins and ends. What a checkpoint took the place of is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogView {
    /// The first index that is still there.
    pub first: LogIndex,
    /// The last one, durable or not.
    pub last: LogIndex,
    pub committed: LogIndex,
    /// In order; the first is at the index that was asked for, or the first that is still there.
    pub entries: Vec<LogEntry>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    pub index: LogIndex,
    pub term: Term,
    pub content: LogContent,
}

/// What an entry is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogContent {
    /// A new leader's first entry.
    NewTerm,
    Membership(MembershipRequest),
    /// A model's command, in its own encoding.
    Command {
        model: ModelId,
        command: Bytes,
    },
    /// This program can't read it.
    Unknown {
        reason: String,
    },
}
