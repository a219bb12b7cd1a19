//! Clusters that grow, shrink and lose members, and what is refused on the way.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_interop::free_port;
use quorate_member::frame::{Frame, Hello, Lane, PROTOCOL_VERSION};
use quorate_member::{
    Config, Handle, Identity, InitialState, Member, MembershipRefusal, MembershipRequest, RequestError,
    Running, StartError, Stopped, start,
};
use quorate_models::ModelId;

use crate::joining::{founder, url};
use crate::{PATIENCE, put, read, run, write, write_soon};

/// Tries a change again while it may pass in a moment.
pub(crate) async fn change(handle: &Handle, request: MembershipRequest) -> Vec<Member> {
    let deadline = Instant::now() + PATIENCE;
    // An outcome that was not known may have been a success.
    let (mut is_unknown, is_removal) = (false, matches!(request, MembershipRequest::Remove { .. }));
    loop {
        match handle.change_membership(request.clone()).await {
            Ok(members) => return members,
            Err(RequestError::Refused { reason: MembershipRefusal::NotFound })
                if is_unknown && is_removal =>
            {
                return handle.members().to_vec();
            }
            Err(RequestError::TimedOut | RequestError::LeaderChanged) if Instant::now() < deadline => {
                is_unknown = true;
            }
            Err(error) => assert!(Instant::now() < deadline, "{request:?} did not go through: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn add(id: u64, port: u16, is_learner: bool) -> MembershipRequest {
    MembershipRequest::Add {
        id: quorate_ids::MemberId(id),
        name: String::new(),
        peer_urls: vec![url(port)],
        is_learner,
    }
}

/// The settings of a member that was added before it starts.
fn added(name: &str, port: u16, others: &[(&str, u16)]) -> Config {
    let mut config = founder(name, port, None);
    config.initial_state = InitialState::Existing;
    config.initial_cluster =
        others.iter().chain([&(name, port)]).map(|(name, port)| ((*name).to_owned(), url(*port))).collect();
    config
}

/// Writes all the time; returns how many writes were acknowledged, once `stop` is set.
async fn load(handles: Vec<Handle>, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) {
    while !stop.load(Ordering::Acquire) {
        let next = acknowledged.load(Ordering::Acquire);
        for handle in &handles {
            if write(handle, &format!("load{next}"), "v").await.is_ok() {
                acknowledged.fetch_add(1, Ordering::AcqRel);
                break;
            }
        }
    }
}

#[test]
fn one_member_becomes_five_and_one_again_under_load() {
    let first_port = free_port();
    let first = start(founder("m0", first_port, None)).expect("started");
    let mut members: Vec<(u64, Running)> = Vec::new();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    run(async {
        let handle = first.handle();
        write_soon(&handle, "first", "v").await;
        let loading = tokio::spawn(load(vec![handle.clone()], Arc::clone(&stop), Arc::clone(&acknowledged)));
        let mut ports = vec![("m0", first_port)];
        for (id, name) in [(1, "m1"), (2, "m2"), (3, "m3"), (4, "m4")] {
            let port = free_port();
            change(&handle, add(id, port, true)).await;
            let config = added(name, port, &ports);
            let member = tokio::task::spawn_blocking(|| start(config)).await.expect("a thread");
            members.push((id, member.expect("started")));
            ports.push((name, port));
            change(&handle, MembershipRequest::Promote { id: quorate_ids::MemberId(id) }).await;
        }
        for (_, member) in &members {
            assert_eq!(read(&member.handle(), "first").await.as_deref(), Some("v"));
        }
        for (id, member) in members.drain(..) {
            change(&handle, MembershipRequest::Remove { id: quorate_ids::MemberId(id) }).await;
            let mut stopped = member.stopped();
            let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await;
            assert_eq!(*why.expect("it hears of it").expect("a reason"), Some(Stopped::Removed));
            tokio::task::spawn_blocking(|| member.stop()).await.expect("stopped");
        }
        assert_eq!(handle.members().len(), 1);
        stop.store(true, Ordering::Release);
        loading.await.expect("the load ends");
        let last = acknowledged.load(Ordering::Acquire);
        assert!(last > 0, "nothing was written meanwhile");
        for written in 0..last {
            assert_eq!(read(&handle, &format!("load{written}")).await.as_deref(), Some("v"));
        }
    });
    first.stop();
}

#[test]
fn the_leader_is_removed_and_a_new_member_takes_its_place() {
    let (ports, mut members) = crate::three(None);
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
        let at = members.iter().position(|member| member.handle().status().is_leader).expect("a leader");
        let leader = members.remove(at);
        let rest: Vec<(&str, u16)> =
            ports.iter().enumerate().filter(|(i, _)| *i != at).map(|(_, port)| *port).collect();
        let id = leader.handle().identity().member;
        change(&members[0].handle(), MembershipRequest::Remove { id }).await;
        let mut stopped = leader.stopped();
        let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await;
        assert_eq!(*why.expect("it hears of it").expect("a reason"), Some(Stopped::Removed));
        let error = write(&leader.handle(), "k", "late").await.expect_err("it does not serve any more");
        assert!(matches!(error, RequestError::Stopped { .. }), "{error}");
        leader.stop();
        write_soon(&members[1].handle(), "after", "v").await;
        let port = free_port();
        change(&members[0].handle(), add(77, port, false)).await;
        let new = start(added("d", port, &rest)).expect("started");
        write_soon(&new.handle(), "of the new one", "v").await;
        assert_eq!(read(&new.handle(), "k").await.as_deref(), Some("v"));
        new.stop();
    });
    members.into_iter().for_each(Running::stop);
}

/// Waits until a member says that it was removed.
async fn is_told(member: &Running) {
    let mut stopped = member.stopped();
    let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await;
    assert_eq!(*why.expect("it hears of it").expect("a reason"), Some(Stopped::Removed));
}

#[test]
fn a_member_that_was_removed_while_it_was_away_is_told_when_it_returns_and_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ports, mut members) = crate::three(Some(folder.path()));
    run(async { write_soon(&members[0].handle(), "k", "v").await });
    let away = members.pop().expect("three");
    let id = away.handle().identity().member;
    away.stop();
    run(async { change(&members[0].handle(), MembershipRequest::Remove { id }).await });
    let back = start(crate::config("c", &ports, Some(folder.path()))).expect("started");
    run(is_told(&back));
    back.stop();
    // Of the two that are left one goes, too: only the leader could tell it.
    let leads = members.iter().position(|member| member.handle().status().is_leader);
    let other = members.remove(1 - leads.unwrap_or(0));
    let id = other.handle().identity().member;
    run(async {
        change(&members[0].handle(), MembershipRequest::Remove { id }).await;
        is_told(&other).await;
        other.stop();
        write_soon(&members[0].handle(), "alone", "v").await;
    });
    members.into_iter().for_each(Running::stop);
}

/// Says hello to a member as `who`; returns what it answers.
fn hello(port: u16, who: Identity, to: Identity) -> Frame {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connected");
    let hello = Frame::Hello(Hello {
        version: PROTOCOL_VERSION,
        cluster: who.cluster,
        member: who.member,
        incarnation: who.incarnation,
        lane: Lane::Control,
        to: to.member,
    });
    stream.write_all(&hello.encode()).expect("written");
    let mut answer = Vec::new();
    let mut byte = [0];
    while Frame::len_of(&answer).expect("a frame") != Some(answer.len()) {
        stream.read_exact(&mut byte).expect("an answer");
        answer.extend(byte);
    }
    Frame::decode(Bytes::from(answer)).expect("a frame")
}

#[test]
fn strangers_and_wiped_members_are_refused_by_their_reason() {
    let (ports, members) = crate::three(None);
    run(async {
        for member in &members {
            write_soon(&member.handle(), "k", "v").await;
        }
    });
    let (me, peer) = (members[0].handle().identity(), members[1].handle().identity());
    let refused = |who: Identity| match hello(ports[0].1, who, me) {
        Frame::Refused { reason } => reason,
        other => panic!("{who:?} was answered {other:?}"),
    };
    assert!(matches!(hello(ports[0].1, peer, me), Frame::Hello(_)));
    let wiped = Identity { incarnation: quorate_ids::Incarnation(peer.incarnation.0 ^ 1), ..peer };
    let reason = refused(wiped);
    assert!(reason.contains("remove it from the cluster and add it again"), "{reason}");
    let stranger = Identity { cluster: quorate_ids::ClusterId(peer.cluster.0 ^ 1), ..peer };
    let reason = refused(stranger);
    assert!(reason.contains("cluster ID mismatch"), "{reason}");
    let unknown = Identity { member: quorate_ids::MemberId(1), ..peer };
    assert!(refused(unknown).contains("not known here"));
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_wiped_member_serves_again_once_it_was_removed_and_added() {
    let (ports, mut members) = crate::three(None);
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
        for member in &members {
            assert_eq!(read(&member.handle(), "k").await.as_deref(), Some("v"));
        }
        let gone = members.pop().expect("three");
        let id = gone.handle().identity().member;
        gone.stop();
        // In memory only: it comes back with nothing, under its old id.
        let wiped = start(crate::config("c", &ports, None)).expect("started");
        assert_eq!(wiped.handle().identity().member, id);
        let error = write(&wiped.handle(), "k", "forgotten").await.expect_err("nobody talks to it");
        assert!(matches!(error, RequestError::NoLeader | RequestError::TimedOut), "{error}");
        drop(wiped);
        change(&members[0].handle(), MembershipRequest::Remove { id }).await;
        change(&members[0].handle(), add(77, ports[2].1, false)).await;
        let back = start(added("c", ports[2].1, &ports[..2])).expect("started");
        write_soon(&back.handle(), "after", "v").await;
        assert_eq!(read(&back.handle(), "k").await.as_deref(), Some("v"));
        back.stop();
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_data_folder_is_used_once_at_a_time_and_given_up_only_when_asked() {
    let folder = tempfile::tempdir().expect("a folder");
    let port = free_port();
    let member = start(founder("a", port, Some(folder.path()))).expect("started");
    let mut second = founder("a", 0, Some(folder.path()));
    second.advertise_peer_urls.clear();
    assert!(matches!(start(second).err(), Some(StartError::InUse)));
    run(async { write_soon(&member.handle(), "k", "v").await });
    let before = member.handle().identity();
    member.stop();
    let mut again = founder("a", port, Some(folder.path()));
    again.give_up_data = true;
    let member = start(again).expect("started");
    assert_ne!(member.handle().identity().incarnation, before.incarnation);
    run(async {
        write_soon(&member.handle(), "new", "v").await;
        assert_eq!(read(&member.handle(), "k").await, None);
    });
    member.stop();
    // A folder that never was has nothing to give up.
    let mut fresh = founder("b", free_port(), Some(folder.path()));
    fresh.give_up_data = true;
    start(fresh).expect("started").stop();
}

#[test]
fn a_member_without_a_majority_stops() {
    let (_, mut members) = crate::three(None);
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
    });
    let last = members.pop().expect("three");
    drop(members);
    run(async {
        // A request that can't be settled does not hold the stop up.
        let handle = last.handle();
        let asked = tokio::spawn(async move { handle.propose(ModelId::KEYS, put("k", "lost")).await });
        let stopping = tokio::task::spawn_blocking(|| last.stop());
        tokio::time::timeout(PATIENCE, stopping).await.expect("in time").expect("stopped");
        assert!(asked.await.expect("answered").is_err());
    });
}

#[test]
fn changes_that_make_no_sense_are_refused_by_their_reason() {
    let port = free_port();
    let member = start(founder("a", port, None)).expect("started");
    run(async {
        let handle = member.handle();
        write_soon(&handle, "k", "v").await;
        let me = handle.identity().member;
        let unknown = quorate_ids::MemberId(99);
        change(&handle, add(5, 1, true)).await;
        for (request, expected) in [
            (MembershipRequest::Promote { id: me }, MembershipRefusal::NotLearner),
            (MembershipRequest::Promote { id: quorate_ids::MemberId(5) }, MembershipRefusal::LearnerNotReady),
            (MembershipRequest::Promote { id: unknown }, MembershipRefusal::NotFound),
            (add(6, 2, true), MembershipRefusal::TooManyLearners),
            (add(5, 2, false), MembershipRefusal::IdExists),
            (add(6, port, false), MembershipRefusal::PeerUrlExists),
            (MembershipRequest::Remove { id: unknown }, MembershipRefusal::NotFound),
            (MembershipRequest::Remove { id: me }, MembershipRefusal::LastVoter),
            (MembershipRequest::Demote { id: me, silent_nanos: 0 }, MembershipRefusal::Leads),
            (
                MembershipRequest::Demote { id: quorate_ids::MemberId(5), silent_nanos: 0 },
                MembershipRefusal::NotVoter,
            ),
        ] {
            let refused = handle.change_membership(request.clone()).await;
            assert_eq!(refused, Err(RequestError::Refused { reason: expected }), "{request:?}");
        }
    });
    member.stop();
}

#[test]
fn a_learner_becomes_a_voter_by_itself_where_that_is_asked_for() {
    let (a, b) = (free_port(), free_port());
    let mut config = founder("a", a, None);
    config.promote_learners = true;
    let first = start(config).expect("started");
    run(async {
        write_soon(&first.handle(), "k", "v").await;
        change(&first.handle(), add(5, b, true)).await;
        let learner = start(added("b", b, &[("a", a)])).expect("started");
        crate::joining::until(&first.handle(), "it votes", |members| {
            members.iter().any(|member| member.id.0 == 5 && !member.is_learner)
        })
        .await;
        write_soon(&learner.handle(), "after", "v").await;
        learner.stop();
    });
    first.stop();
}

/// Waits until every member says that it knows every member's data folder.
async fn all_are_met(members: &[&Running]) {
    let deadline = Instant::now() + PATIENCE;
    let met = |member: &&Running| {
        let list = member.handle().members();
        list.iter().all(|member| member.incarnation != quorate_ids::Incarnation::ZERO)
    };
    while !members.iter().all(met) {
        assert!(Instant::now() < deadline, "not every member's data folder is in the log");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[test]
fn the_log_has_the_data_folder_of_each_member_that_was_met() {
    let (ports, members) = crate::three(None);
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
        all_are_met(&members.iter().collect::<Vec<_>>()).await;
        let port = free_port();
        change(&members[0].handle(), add(77, port, true)).await;
        let new = start(added("d", port, &ports)).expect("started");
        all_are_met(&members.iter().chain([&new]).collect::<Vec<_>>()).await;
        let known = members[0].handle().members();
        let listed = known.iter().find(|member| member.id == new.handle().identity().member);
        assert_eq!(listed.map(|member| member.incarnation), Some(new.handle().identity().incarnation));
        new.stop();
        // In memory only: it would come back as another.
        let again = start(added("d", port, &ports)).err();
        assert!(matches!(again, Some(StartError::Wiped { .. })), "{again:?}");
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_member_that_was_away_lets_in_a_leader_that_joined_meanwhile() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ports, mut members) = crate::three(Some(folder.path()));
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
        all_are_met(&members.iter().collect::<Vec<_>>()).await;
        for member in &members {
            assert_eq!(read(&member.handle(), "k").await.as_deref(), Some("v"));
        }
        members.pop().expect("three").stop();
        let port = free_port();
        change(&members[0].handle(), add(77, port, true)).await;
        let new = start(added("d", port, &ports[..2])).expect("started");
        change(&members[0].handle(), MembershipRequest::Promote { id: quorate_ids::MemberId(77) }).await;
        write_soon(&new.handle(), "meanwhile", "v").await;
        let deadline = Instant::now() + PATIENCE;
        while !new.handle().status().is_leader {
            assert!(Instant::now() < deadline, "the new member does not lead");
            for member in &members {
                let _ = member.handle().transfer_leadership(quorate_ids::MemberId(77)).await;
            }
        }
        let back = start(crate::config("c", &ports, Some(folder.path()))).expect("started");
        assert_eq!(read(&back.handle(), "meanwhile").await.as_deref(), Some("v"));
        assert!(back.handle().members().iter().any(|member| member.id == quorate_ids::MemberId(77)));
        back.stop();
        new.stop();
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_joiner_whose_first_start_was_cut_short_starts_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let (ports, members) = crate::three(None);
    run(async {
        write_soon(&members[0].handle(), "k", "v").await;
        let port = free_port();
        change(&members[0].handle(), add(77, port, true)).await;
        let mut config = added("d", port, &ports);
        config.data_dir = Some(folder.path().to_owned());
        // Its store can't be made where a file stands: it gets as far as its log.
        std::fs::write(folder.path().join("store-0000000000000001"), b"in the way").expect("written");
        assert!(start(config.clone()).is_err());
        std::fs::remove_file(folder.path().join("store-0000000000000001")).expect("removed");
        let new = start(config).expect("it goes on");
        assert_eq!(read(&new.handle(), "k").await.as_deref(), Some("v"));
        new.stop();
    });
    members.into_iter().for_each(Running::stop);
}
