//! Newcomers that join by request, members that give up their founding, and the refusals of both.

use std::path::Path;
use std::time::{Duration, Instant};

use quorate_interop::free_port;
use quorate_member::{Config, Handle, JoinConfig, Running, Stopped, start};

use crate::{PATIENCE, read, run, write_soon};

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

/// A member that founds a cluster alone.
fn founder(name: &str, port: u16, folder: Option<&Path>) -> Config {
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

/// Waits until each of these votes and is nothing but a member.
async fn all_vote(handle: &Handle, names: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let members = handle.members();
        let votes = |name: &&str| {
            members.iter().any(|member| {
                member.name == *name && !member.is_learner && !member.wants_vote && !member.is_joining
            })
        };
        if names.iter().all(votes) && members.len() == names.len() {
            return;
        }
        assert!(Instant::now() < deadline, "not {names:?}, but {members:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
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
