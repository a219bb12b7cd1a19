//! The messages of etcd 2 and 3, as far as the tree needs them. Texts are bytes: Go does not look whether they are UTF-8.

use prost::Message;

/// Of a log: what a frame holds.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Record {
    #[prost(int64, tag = "1")]
    pub kind: i64,
    #[prost(uint32, tag = "2")]
    pub crc: u32,
    #[prost(bytes = "vec", optional, tag = "3")]
    pub data: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct HardState {
    #[prost(uint64, tag = "1")]
    pub term: u64,
    #[prost(uint64, tag = "2")]
    pub vote: u64,
    #[prost(uint64, tag = "3")]
    pub commit: u64,
}

/// A log entry.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Entry {
    /// 0 a command, 1 and 2 a change of the members.
    #[prost(int32, tag = "1")]
    pub kind: i32,
    #[prost(uint64, tag = "2")]
    pub term: u64,
    #[prost(uint64, tag = "3")]
    pub index: u64,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub data: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ConfChange {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// 0 add a voter, 1 remove, 2 update, 3 add a learner.
    #[prost(int32, tag = "2")]
    pub kind: i32,
    #[prost(uint64, tag = "3")]
    pub node: u64,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub context: Option<Vec<u8>>,
}

/// A request of the v2 API.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Request {
    #[prost(uint64, tag = "1")]
    pub id: u64,
    #[prost(bytes = "vec", tag = "2")]
    pub method: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub path: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub value: Vec<u8>,
    #[prost(bool, tag = "5")]
    pub dir: bool,
    #[prost(bytes = "vec", tag = "6")]
    pub previous_value: Vec<u8>,
    #[prost(uint64, tag = "7")]
    pub previous_index: u64,
    #[prost(bool, optional, tag = "8")]
    pub previous_exist: Option<bool>,
    /// Nanoseconds since 1970; 0: never.
    #[prost(int64, tag = "9")]
    pub expiration: i64,
    #[prost(bool, tag = "12")]
    pub recursive: bool,
    /// Of a sync: what expired until then ends.
    #[prost(int64, tag = "15")]
    pub time: i64,
    #[prost(bool, optional, tag = "17")]
    pub refresh: Option<bool>,
}

/// What 3.x puts around its own requests.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct InternalRequest {
    #[prost(message, optional, tag = "2")]
    pub v2: Option<Request>,
    #[prost(bytes = "vec", optional, tag = "4")]
    pub put: Option<Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub txn: Option<Vec<u8>>,
    #[prost(message, optional, tag = "1300")]
    pub cluster_version: Option<ClusterVersionSet>,
    #[prost(message, optional, tag = "1301")]
    pub member_attributes: Option<MemberAttributesSet>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct ClusterVersionSet {
    #[prost(string, tag = "1")]
    pub version: String,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct MemberAttributesSet {
    #[prost(uint64, tag = "1")]
    pub member: u64,
}

/// A snapshot file.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotFile {
    #[prost(uint32, tag = "1")]
    pub crc: u32,
    #[prost(bytes = "vec", optional, tag = "2")]
    pub data: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct Snapshot {
    /// The store as JSON.
    #[prost(bytes = "vec", optional, tag = "1")]
    pub data: Option<Vec<u8>>,
    #[prost(message, optional, tag = "2")]
    pub metadata: Option<SnapshotMetadata>,
}

#[derive(Clone, PartialEq, Message)]
pub(crate) struct SnapshotMetadata {
    #[prost(uint64, tag = "2")]
    pub index: u64,
    #[prost(uint64, tag = "3")]
    pub term: u64,
}
