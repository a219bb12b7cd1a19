//! What a checkpoint holds beside the tables: members, membership, the greatest stamps, the hash of all commands.
//!
//! Layout, little-endian: version u8 = 1 | cluster time u64 | wall time u64 | chain u64 | voters: count u32, ids u64 |
//! learners: count u32, ids u64 | member list.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use quorate_consensus::Membership;
use quorate_ids::{ClusterTime, MemberId, WallTime};

use crate::membership::MemberList;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extra {
    pub cluster_time: ClusterTime,
    pub wall_time: WallTime,
    pub chain: u64,
    pub membership: Membership,
    pub members: MemberList,
}

/// Bytes that no known version of this program wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the checkpoint's member record is damaged or was written by a newer version of Quorate")]
pub struct ExtraError;

impl Extra {
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u8(1);
        out.put_u64_le(self.cluster_time.0);
        out.put_u64_le(self.wall_time.0);
        out.put_u64_le(self.chain);
        for ids in [&self.membership.voters, &self.membership.learners] {
            out.put_u32_le(ids.len() as u32);
            ids.iter().for_each(|id| out.put_u64_le(id.0));
        }
        out.put_slice(&self.members.encode());
        out.freeze()
    }

    pub fn decode(mut bytes: &[u8]) -> Result<Self, ExtraError> {
        const FIXED_BYTES: usize = 1 + 3 * 8;
        if bytes.len() < FIXED_BYTES || bytes.get_u8() != 1 {
            return Err(ExtraError);
        }
        let (cluster_time, wall_time) = (ClusterTime(bytes.get_u64_le()), WallTime(bytes.get_u64_le()));
        let chain = bytes.get_u64_le();
        let (voters, learners) = (take_ids(&mut bytes)?, take_ids(&mut bytes)?);
        let membership = Membership::new(voters, learners).map_err(|_| ExtraError)?;
        let members = MemberList::decode(bytes).map_err(|_| ExtraError)?;
        Ok(Self { cluster_time, wall_time, chain, membership, members })
    }
}

fn take_ids(bytes: &mut &[u8]) -> Result<Vec<MemberId>, ExtraError> {
    if bytes.len() < 4 {
        return Err(ExtraError);
    }
    let count = bytes.get_u32_le() as usize;
    if bytes.len() < count.saturating_mul(8) {
        return Err(ExtraError);
    }
    Ok((0..count).map(|_| MemberId(bytes.get_u64_le())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_reads_back_as_written_and_a_cut_one_is_refused() {
        let extra = Extra {
            cluster_time: ClusterTime(1),
            wall_time: WallTime(2),
            chain: 3,
            membership: Membership::new([MemberId(4), MemberId(5)], [MemberId(6)]).expect("disjoint"),
            members: MemberList::default(),
        };
        let bytes = extra.encode();
        assert_eq!(Extra::decode(&bytes), Ok(extra));
        for keep in 0..bytes.len() {
            assert_eq!(Extra::decode(&bytes[..keep]), Err(ExtraError));
        }
    }
}
