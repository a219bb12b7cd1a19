//! Service Election: who leads is first in the queue of an election's name; its key's value is its proclamation.

use std::sync::Arc;

use ::http::Response;
use bytes::Bytes;
use quorate_ids::Revision;
use quorate_models::keys::{KeyValue, Reply, TxnReply};
use quorate_wire::v3electionpb as pb;

use super::Thread;
use super::answers;
use super::call::Answer;
use super::errors::{
    Code, ELECTION_NO_LEADER, ELECTION_NOT_LEADER, MISSING_LEADER_KEY, NOT_SUPPORTED_FOR_LEARNER, STOPPED,
    Status,
};
use super::grpc::{self, CallBody, Messages};
use super::kv::unexpected;
use super::metrics::Started;
use super::queues::{Name, delete, if_created, put};
use crate::listener::{Body, Outgoing, outgoing};

/// Proclamations that wait for one client; a slower one gets the newest.
const QUEUED_BYTES_MAX: usize = 64 * 1024;

impl Thread {
    /// Waits until the campaign is won. A call that ends before leaves the election.
    pub(super) async fn campaign(&self, request: pb::CampaignRequest) -> Result<Answer, Status> {
        self.check_space()?;
        let name = Name::new(&request.name);
        let lease = self.session(request.lease).await?;
        let place = self.take_place(&name, lease, request.value.clone()).await?;
        if let Some(held) = &place.held {
            let value = answers::value(self.handle(), held.value.clone()).await?;
            if value != request.value {
                self.proclaim_as(&place.key, place.created, lease, request.value).await?;
            }
        }
        if self.wait_for_turn(&name, &place).await?.is_none() {
            return Err(ELECTION_NOT_LEADER);
        }
        let leader = pb::LeaderKey {
            name: request.name,
            key: place.key.clone(),
            rev: answers::signed(place.created),
            lease,
        };
        let header = Some(self.header(place.revision));
        place.keep();
        Ok(Answer::message(&pb::CampaignResponse { header, leader: Some(leader) }))
    }

    async fn proclaim_as(
        &self,
        key: &Bytes,
        created: Revision,
        lease: i64,
        value: Bytes,
    ) -> Result<Revision, Status> {
        let reply = self.if_leader(key, created, put(key, value, lease)).await?;
        if reply.succeeded { Ok(reply.revision) } else { Err(ELECTION_NOT_LEADER) }
    }

    async fn if_leader(
        &self,
        key: &Bytes,
        created: Revision,
        op: quorate_models::keys::Op,
    ) -> Result<TxnReply, Status> {
        if key.is_empty() {
            return Err(super::errors::EMPTY_KEY);
        }
        match self.propose(&if_created(key, created, op)).await? {
            Reply::Txn(reply) => Ok(reply),
            other => Err(unexpected(&other)),
        }
    }

    pub(super) async fn proclaim(&self, request: pb::ProclaimRequest) -> Result<Answer, Status> {
        self.check_space()?;
        let leader = request.leader.ok_or(MISSING_LEADER_KEY)?;
        let revision =
            self.proclaim_as(&leader.key, revision_of(&leader), leader.lease, request.value).await?;
        Ok(Answer::message(&pb::ProclaimResponse { header: Some(self.header(revision)) }))
    }

    /// Ends the leader's term. One that has ended already is no error.
    pub(super) async fn resign(&self, request: pb::ResignRequest) -> Result<Answer, Status> {
        let leader = request.leader.ok_or(MISSING_LEADER_KEY)?;
        let reply = self.if_leader(&leader.key, revision_of(&leader), delete(&leader.key)).await?;
        Ok(Answer::message(&pb::ResignResponse { header: Some(self.header(reply.revision)) }))
    }

    pub(super) async fn leader(&self, request: pb::LeaderRequest) -> Result<Answer, Status> {
        self.handle().read_index().await?;
        let (revision, leader) = self.first(&Name::new(&request.name)).await?;
        let kv = answers::key_value(self.handle(), leader.ok_or(ELECTION_NO_LEADER)?).await?;
        Ok(Answer::message(&pb::LeaderResponse { header: Some(self.header(revision)), kv: Some(kv) }))
    }

    async fn first(&self, name: &Name) -> Result<(Revision, Option<KeyValue>), Status> {
        let mut reply = self.read(&name.first()).await?;
        Ok((reply.revision, reply.kvs.pop()))
    }

    /// Tells the leader's proclamation, and each newer one that the client has time for.
    async fn observe(&self, name: &Name, outgoing: &Outgoing, started: &mut Started) -> Result<(), Status> {
        self.read_index_patiently().await?;
        let waiting = self.waits.on(name.prefix());
        let mut told = Revision::ZERO;
        loop {
            let change = waiting.change();
            let pin = self.handle().store().pin();
            let (revision, leader) = self.first(name).await?;
            // The next leader's key may be older than what the last one proclaimed: only equality says nothing new.
            if let Some(leader) = leader.filter(|leader| leader.meta.mod_revision != told) {
                told = leader.meta.mod_revision;
                let kv = answers::key_value(self.handle(), leader).await?;
                let response = pb::LeaderResponse { header: Some(self.header(revision)), kv: Some(kv) };
                let message = grpc::framed(&response);
                started.sent(message.len());
                outgoing.push(message);
            }
            drop(pin);
            if !outgoing.below(QUEUED_BYTES_MAX).await {
                return Err(Status::new(Code::Canceled, "context canceled"));
            }
            change.await;
        }
    }
}

fn revision_of(leader: &pb::LeaderKey) -> Revision {
    Revision(u64::try_from(leader.rev).unwrap_or(u64::MAX))
}

/// Serves one observer.
pub(super) async fn observe(
    thread: Arc<Thread>,
    mut messages: Messages<CallBody>,
    mut started: Started,
) -> Response<Body> {
    let request = async {
        let message = messages.only().await?;
        started.received(message.len());
        let request: pb::LeaderRequest = grpc::decode(message)?;
        if thread.handle().status().is_learner {
            return Err(NOT_SUPPORTED_FOR_LEARNER);
        }
        Ok(request)
    }
    .await;
    let request = match request {
        Ok(request) => request,
        Err(status) => {
            started.end(status.code);
            return grpc::response_status(&status);
        }
    };
    let (outgoing, body) = outgoing();
    tokio::spawn(async move {
        let name = Name::new(&request.name);
        let ended = tokio::select! {
            ended = thread.observe(&name, &outgoing, &mut started) => ended,
            () = thread.stopping.begun() => Err(STOPPED),
            () = outgoing.gone() => Err(Status::new(Code::Canceled, "context canceled")),
        };
        let status = ended.err().unwrap_or(Status::new(Code::Canceled, "context canceled"));
        started.end(status.code);
        outgoing.finish(grpc::trailers(&status));
    });
    grpc::response(body)
}
