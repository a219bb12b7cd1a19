//! Newcomers that join by request, members that give up their founding, and the refusals of both.

use std::path::Path;
use std::time::{Duration, Instant};

use quorate_interop::free_port;
use quorate_member::{
    AbsorbRefusal, Config, Handle, JoinConfig, JoinError, JoinRefusal, Member, MembershipRefusal,
    MembershipRequest, Newcomer, RequestError, Running, StartError, Stopped, start,
};

use crate::membership::change;
use crate::{PATIENCE, read, run, write_soon};

pub fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A member that founds a cluster alone.
pub fn founder(name: &str, port: u16, folder: Option<&Path>) -> Config {
    let mut config = Config::new(name);
    config.listen_peer = vec![([127, 0, 0, 1], port).into()];
    config.advertise_peer_urls = vec![url(port)];
    config.heartbeat_interval = Duration::from_millis(50);
    config.election_timeout = Duration::from_millis(500);
    config.data_dir = folder.map(|folder| folder.join(name));
    config.wal_segment_bytes = 8 * 1024 * 1024;
    config
}

/// A member that asks the one at `peer` to admit it.
fn newcomer(name: &str, port: u16, peer: u16, folder: Option<&Path>) -> Config {
    let mut config = founder(name, port, folder);
    config.join = Some(JoinConfig::new([url(peer)]));
    config
}

/// Waits until the members are as they should be.
pub async fn until(handle: &Handle, what: &str, are: impl Fn(&[Member]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = handle.members();
        if are(&members) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {members:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until these and no others are members, and each of them votes.
async fn all_vote(handle: &Handle, names: &[&str]) {
    let votes = |member: &Member| !member.is_learner && !member.wants_vote && !member.is_joining;
    until(handle, &format!("{names:?} vote"), |members| {
        let voting = |name: &&str| members.iter().any(|member| member.name == *name && votes(member));
        members.len() == names.len() && names.iter().all(voting)
    })
    .await;
}

async fn leads(handle: &Handle) {
    write_soon(handle, "first", "v").await;
}

/// Waits until a member has given up its cluster, and goes on with it in the other.
async fn moved(member: Running) -> Running {
    let mut stopped = member.stopped();
    let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await.expect("it moves");
    assert_eq!(*why.expect("it says why"), Some(Stopped::Absorbed));
    member.resume().expect("it goes on")
}

#[test]
fn newcomers_that_ask_become_voters_and_hold_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b, c) = (free_port(), free_port(), free_port());
    let first = start(founder("a", a, Some(folder.path()))).expect("started");
    run(async {
        leads(&first.handle()).await;
        let second = start(newcomer("b", b, a, Some(folder.path()))).expect("admitted");
        all_vote(&first.handle(), &["a", "b"]).await;
        // A follower passes the question on to its leader.
        let third = start(newcomer("c", c, b, Some(folder.path()))).expect("admitted");
        all_vote(&first.handle(), &["a", "b", "c"]).await;
        write_soon(&third.handle(), "k", "v").await;
        assert_eq!(read(&second.handle(), "first").await.as_deref(), Some("v"));
        let (of_first, of_third) = (first.handle().identity(), third.handle().identity());
        assert_eq!(of_first.cluster, of_third.cluster);
        // With data it asks nobody: it is who it was, and the first may be gone.
        third.stop();
        first.stop();
        let third = start(newcomer("c", c, a, Some(folder.path()))).expect("started again");
        assert_eq!(third.handle().identity(), of_third);
        write_soon(&third.handle(), "after", "v").await;
        assert_eq!(read(&second.handle(), "k").await.as_deref(), Some("v"));
    });
}

#[test]
fn a_member_that_holds_only_its_founding_is_absorbed_behind_its_ports() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (free_port(), free_port());
    let host = start(founder("n1", a, Some(folder.path()))).expect("started");
    let node = start(founder("n2", b, Some(folder.path()))).expect("started");
    run(async {
        leads(&host.handle()).await;
        node.handle().read_index().await.expect("it leads its own");
        node.publish("n2", &["http://127.0.0.1:1".to_owned()]).await.expect("published");
        let incarnation = node.handle().identity().incarnation;
        let admitted = host.handle().absorb("n2", &url(b), true).await.expect("absorbed");
        assert_eq!(admitted.members.len(), 2);
        let node = moved(node).await;
        let now = node.handle().identity();
        assert_eq!((now.cluster, now.member), (admitted.cluster, admitted.member));
        assert_eq!(now.incarnation, incarnation);
        all_vote(&host.handle(), &["n1", "n2"]).await;
        write_soon(&node.handle(), "k", "v").await;
        assert_eq!(read(&node.handle(), "first").await.as_deref(), Some("v"));
        // Asking again changes nothing.
        let again = host.handle().absorb("n2", &url(b), true).await.expect("the same member");
        assert_eq!(again.member, admitted.member);
        // It stays what it is over a restart, with the settings of its founding.
        node.stop();
        let node = start(founder("n2", b, Some(folder.path()))).expect("started again");
        assert_eq!(node.handle().identity(), now);
        write_soon(&node.handle(), "after", "v").await;
        assert_eq!(read(&host.handle(), "after").await.as_deref(), Some("v"));
    });
}

#[test]
fn a_member_that_ever_held_anything_is_not_absorbed_and_loses_nothing() {
    let (a, b, c) = (free_port(), free_port(), free_port());
    let host = start(founder("n1", a, None)).expect("started");
    let holds = start(founder("n2", b, None)).expect("started");
    let third = start(newcomer("n3", c, b, None)).expect("admitted");
    run(async {
        leads(&host.handle()).await;
        all_vote(&holds.handle(), &["n2", "n3"]).await;
        let refused = host.handle().absorb("n2", &url(b), true).await;
        assert_eq!(refused, Err(JoinRefusal::Newcomer(AbsorbRefusal::HadMembers).into()));
        let alone = start(founder("n4", free_port(), None)).expect("started");
        let at = url(alone.peer_addrs()[0].port());
        leads(&alone.handle()).await;
        let error = host.handle().absorb("n4", &at, true).await.expect_err("it holds a key");
        assert_eq!(error, JoinRefusal::Newcomer(AbsorbRefusal::HoldsCommands).into());
        assert!(error.to_string().contains("remove its data folder"), "{error}");
        assert_eq!(read(&alone.handle(), "first").await.as_deref(), Some("v"));
        assert_eq!(host.handle().members().len(), 1, "nobody was admitted");
    });
    drop((third, holds, host));
}

#[test]
fn absorptions_that_make_no_sense_are_refused_by_their_reason() {
    let (a, b) = (free_port(), free_port());
    let host = start(founder("n1", a, None)).expect("started");
    let node = start(founder("n2", b, None)).expect("started");
    run(async {
        leads(&host.handle()).await;
        let handle = host.handle();
        assert_eq!(handle.absorb("n1", &url(a), true).await, Err(JoinRefusal::Itself.into()));
        let wrong = JoinRefusal::WrongName { expected: "n9".to_owned(), found: "n2".to_owned() };
        assert_eq!(handle.absorb("n9", &url(b), true).await, Err(wrong.into()));
        let nobody = handle.absorb("n2", &url(free_port()), true).await.expect_err("nobody is there");
        assert!(matches!(nobody, JoinError::Unreachable { .. }), "{nobody}");
        let nameless = Newcomer {
            name: String::new(),
            incarnation: quorate_ids::Incarnation(1),
            peer_urls: vec![url(b)],
            client_urls: Vec::new(),
            wants_vote: true,
        };
        assert_eq!(handle.join(&nameless).await, Err(JoinRefusal::Nameless.into()));
        assert_eq!(handle.members().len(), 1);
        let unknown = handle.remove_named("n2").await;
        assert_eq!(unknown, Err(RequestError::Refused { reason: MembershipRefusal::NotFound }));
    });
    drop((host, node));
}

#[test]
fn a_name_that_comes_back_empty_replaces_its_holder_once_that_is_silent() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (free_port(), free_port());
    let others = [start(founder("n1", a, None)), start(newcomer("n3", free_port(), a, None))];
    let [first, third] = others.map(|member| member.expect("started"));
    run(async {
        let handle = first.handle();
        all_vote(&handle, &["n1", "n3"]).await;
        let second = start(newcomer("n2", b, a, Some(folder.path()))).expect("admitted");
        all_vote(&handle, &["n1", "n2", "n3"]).await;
        let old = second.handle().identity();
        // While it answers, another one of that name is refused with the reason.
        let twin = start(newcomer("n2", free_port(), a, None)).err();
        let answers = JoinRefusal::Cluster(MembershipRefusal::NameAnswers);
        assert!(
            matches!(&twin, Some(StartError::JoinRefused { refusal, .. }) if *refusal == answers),
            "{twin:?}"
        );
        second.stop();
        std::fs::remove_dir_all(folder.path().join("n2")).expect("wiped");
        let second = start(newcomer("n2", b, a, Some(folder.path()))).expect("admitted again");
        let new = second.handle().identity();
        assert!(new.member != old.member && new.incarnation != old.incarnation);
        all_vote(&handle, &["n1", "n2", "n3"]).await;
        assert!(handle.members().iter().all(|member| member.id != old.member));
        write_soon(&second.handle(), "k", "v").await;
        // A node that founded its cluster on an empty folder takes its place, too.
        second.stop();
        let founded = start(founder("n2", b, None)).expect("started");
        let admitted = handle.absorb("n2", &url(b), true).await.expect("absorbed");
        assert_ne!(admitted.member, new.member);
        let founded = moved(founded).await;
        all_vote(&handle, &["n1", "n2", "n3"]).await;
        assert_eq!(read(&founded.handle(), "k").await.as_deref(), Some("v"));
        drop(founded);
    });
    drop((first, third));
}

#[test]
fn a_member_that_was_removed_joins_again_under_a_new_id_where_it_may() {
    let folder = tempfile::tempdir().expect("a folder");
    let (a, b) = (free_port(), free_port());
    let first = start(founder("n1", a, None)).expect("started");
    run(async {
        leads(&first.handle()).await;
        let second = start(newcomer("n2", b, a, Some(folder.path()))).expect("admitted");
        all_vote(&first.handle(), &["n1", "n2"]).await;
        let before = second.handle().identity();
        first.handle().remove_named("n2").await.expect("removed");
        let mut stopped = second.stopped();
        let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await;
        assert_eq!(*why.expect("it hears of it").expect("a reason"), Some(Stopped::Removed));
        second.stop();
        let mut again = newcomer("n2", b, a, Some(folder.path()));
        again.join = Some(JoinConfig { rejoin_if_removed: true, ..JoinConfig::new([url(a)]) });
        let second = start(again).expect("admitted again");
        assert_ne!(second.handle().identity().member, before.member);
        all_vote(&first.handle(), &["n1", "n2"]).await;
        assert_eq!(read(&second.handle(), "first").await.as_deref(), Some("v"));
        second.stop();
    });
    first.stop();
}

/// What a host commits before it tells the newcomer.
fn admission(id: u64, of: &Running, name: &str) -> MembershipRequest {
    MembershipRequest::Join {
        id: quorate_ids::MemberId(id),
        name: name.to_owned(),
        incarnation: of.handle().identity().incarnation,
        peer_urls: vec![url(of.peer_addrs()[0].port())],
        client_urls: Vec::new(),
        wants_vote: true,
    }
}

#[test]
fn an_admission_that_its_host_left_half_done_is_finished_or_undone_by_the_leader() {
    let host = start(founder("n1", free_port(), None)).expect("started");
    let willing = start(founder("n2", free_port(), None)).expect("started");
    let unwilling = start(founder("n3", free_port(), None)).expect("started");
    run(async {
        let handle = host.handle();
        leads(&handle).await;
        leads(&unwilling.handle()).await;
        change(&handle, admission(70, &unwilling, "n3")).await;
        until(&handle, "n3 refuses and is removed", |members| members.len() == 1).await;
        assert_eq!(read(&unwilling.handle(), "first").await.as_deref(), Some("v"));
        change(&handle, admission(71, &willing, "n2")).await;
        let willing = moved(willing).await;
        all_vote(&handle, &["n1", "n2"]).await;
        assert_eq!(willing.handle().identity().member.0, 71);
        drop(willing);
    });
    drop((host, unwilling));
}

#[test]
fn a_newcomer_whom_nobody_answers_founds_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut config = newcomer("n2", free_port(), free_port(), Some(folder.path()));
    config.join.as_mut().expect("it joins").patience = Duration::ZERO;
    assert!(matches!(start(config).err(), Some(StartError::NoPeers { .. })));
    // Nothing of it is left: it may found a cluster of its own.
    let member = start(founder("n2", free_port(), Some(folder.path()))).expect("started");
    run(async { leads(&member.handle()).await });
    member.stop();
}
