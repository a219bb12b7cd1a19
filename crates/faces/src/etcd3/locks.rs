//! Service Lock: who holds a lock is first in the queue of its name.

use quorate_models::keys::{Command, DeleteRange, RangeEnd, Reply};
use quorate_wire::v3lockpb as pb;

use super::Thread;
use super::call::Answer;
use super::errors::{EMPTY_KEY, SESSION_EXPIRED, Status};
use super::kv::unexpected;
use super::queues::Name;

impl Thread {
    /// Waits for the lock. A call that ends before it has it leaves the queue.
    pub(super) async fn lock(&self, request: pb::LockRequest) -> Result<Answer, Status> {
        self.check_space()?;
        let name = Name::new(&request.name);
        let lease = self.session(request.lease).await?;
        let place = self.take_place(&name, lease, bytes::Bytes::new()).await?;
        let Some(revision) = self.wait_for_turn(&name, &place).await? else { return Err(SESSION_EXPIRED) };
        let (header, key) = (Some(self.header(revision)), place.key.clone());
        place.keep();
        Ok(Answer::message(&pb::LockResponse { header, key }))
    }

    pub(super) async fn unlock(&self, request: pb::UnlockRequest) -> Result<Answer, Status> {
        if request.key.is_empty() {
            return Err(EMPTY_KEY);
        }
        let delete = DeleteRange { key: request.key, end: RangeEnd::Single, prev_kv: false };
        match self.propose(&Command::DeleteRange(delete)).await? {
            Reply::DeleteRange(reply) => {
                Ok(Answer::message(&pb::UnlockResponse { header: Some(self.header(reply.revision)) }))
            }
            other => Err(unexpected(&other)),
        }
    }
}
