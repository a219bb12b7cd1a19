//! Service Cluster: the members, and changes of their list. Its headers carry no revision.

use std::time::{SystemTime, UNIX_EPOCH};

use quorate_ids::MemberId;
use quorate_member::membership::member_id;
use quorate_member::{Member, MembershipRequest};
use quorate_wire::etcdserverpb as pb;

use super::Thread;
use super::call::Answer;
use super::errors::{BAD_MEMBER_URLS, Status};

fn message(member: &Member) -> pb::Member {
    pb::Member {
        id: member.id.0,
        name: member.name.clone(),
        peer_ur_ls: member.peer_urls.clone(),
        client_ur_ls: member.client_urls.clone(),
        is_learner: member.is_learner,
    }
}

fn messages(members: &[Member]) -> Vec<pb::Member> {
    members.iter().map(message).collect()
}

/// Checks peer URLs as etcd does: at least one, each with a known scheme, a host and a port, and nothing behind.
fn check_urls(urls: &[String]) -> Result<(), Status> {
    let good = |url: &String| {
        let Some((scheme, rest)) = url.split_once("://") else { return false };
        match scheme {
            "http" | "https" => rest.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && !host.contains('/') && !port.is_empty() && port.parse::<u16>().is_ok()
            }),
            "unix" | "unixs" => !rest.is_empty(),
            _ => false,
        }
    };
    if urls.is_empty() || !urls.iter().all(good) { Err(BAD_MEMBER_URLS) } else { Ok(()) }
}

impl Thread {
    pub(super) async fn member_list(&self, request: &pb::MemberListRequest) -> Result<Answer, Status> {
        if request.linearizable {
            self.handle().read_index().await?;
        }
        let header = Some(self.header_without_revision());
        Ok(Answer::message(&pb::MemberListResponse { header, members: messages(&self.handle().members()) }))
    }

    pub(super) async fn member_add(&self, request: pb::MemberAddRequest) -> Result<Answer, Status> {
        check_urls(&request.peer_ur_ls)?;
        // Finer than etcd's seconds: the same URLs, added twice within one, are then refused for what they are.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64);
        let id = member_id(&request.peer_ur_ls, &self.shared.config.initial_cluster_token, Some(now));
        let add = MembershipRequest::Add {
            id,
            name: String::new(),
            peer_urls: request.peer_ur_ls,
            is_learner: request.is_learner,
        };
        let members = self.handle().change_membership(add).await?;
        let member = members.iter().find(|member| member.id == id).map(message);
        let header = Some(self.header_without_revision());
        Ok(Answer::message(&pb::MemberAddResponse { header, member, members: messages(&members) }))
    }

    pub(super) async fn member_remove(&self, request: &pb::MemberRemoveRequest) -> Result<Answer, Status> {
        let members = self.change(MembershipRequest::Remove { id: MemberId(request.id) }).await?;
        let header = Some(self.header_without_revision());
        Ok(Answer::message(&pb::MemberRemoveResponse { header, members }))
    }

    pub(super) async fn member_update(&self, request: pb::MemberUpdateRequest) -> Result<Answer, Status> {
        check_urls(&request.peer_ur_ls)?;
        let update = MembershipRequest::Update { id: MemberId(request.id), peer_urls: request.peer_ur_ls };
        let members = self.change(update).await?;
        let header = Some(self.header_without_revision());
        Ok(Answer::message(&pb::MemberUpdateResponse { header, members }))
    }

    pub(super) async fn member_promote(&self, request: &pb::MemberPromoteRequest) -> Result<Answer, Status> {
        let members = self.change(MembershipRequest::Promote { id: MemberId(request.id) }).await?;
        let header = Some(self.header_without_revision());
        Ok(Answer::message(&pb::MemberPromoteResponse { header, members }))
    }

    async fn change(&self, request: MembershipRequest) -> Result<Vec<pb::Member>, Status> {
        Ok(messages(&self.handle().change_membership(request).await?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_without_scheme_host_or_port_are_refused() {
        let check = |url: &str| check_urls(&[url.to_owned()]);
        for good in ["http://10.0.0.1:2380", "https://node.example:2380", "http://[::1]:2380", "unix://sock"]
        {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "10.0.0.1:2380",
            "http://10.0.0.1",
            "ftp://a:1",
            "http://:2380",
            "http://a:x",
            "http://a:1/b",
        ] {
            assert_eq!(check(bad), Err(BAD_MEMBER_URLS), "{bad}");
        }
        assert_eq!(check_urls(&[]), Err(BAD_MEMBER_URLS));
    }
}
