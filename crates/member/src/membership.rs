//! The cluster's members, and how their list changes.
//!
//! Invariants: an id is never used again once removed; no two members share a peer URL; one change at a time.

use quorate_ids::MemberId;

/// A member as the log knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Member {
    pub id: MemberId,
    /// Empty until the member has started once and published it.
    pub name: String,
    pub peer_urls: Vec<String>,
    /// Empty until the member has started once and published them.
    pub client_urls: Vec<String>,
    pub is_learner: bool,
}

/// A wish to change the member list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MembershipRequest {
    /// A new member with these peer URLs; its id is `id`, made by [`new_member_id`].
    Add { id: MemberId, name: String, peer_urls: Vec<String>, is_learner: bool },
    Remove { id: MemberId },
    /// New peer URLs for a member.
    Update { id: MemberId, peer_urls: Vec<String> },
    /// A learner becomes a voter.
    Promote { id: MemberId },
    /// A member says its name and client URLs once it has started.
    Publish { id: MemberId, name: String, client_urls: Vec<String> },
}
