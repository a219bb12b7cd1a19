//! Members in one process: founding, replication, forwarding, restarts.

mod full_disk;
mod joining;
mod membership;
mod tree;

use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_interop::free_port;
use quorate_member::{Config, Handle, LeaseAnswer, ModelReply, RequestError, Running, start};
use quorate_models::ModelId;
use quorate_models::keys::{self, Command, Put, RangeQuery, Reply};

const PATIENCE: Duration = Duration::from_secs(20);

fn config(name: &str, ports: &[(&str, u16)], folder: Option<&Path>) -> Config {
    let mut config = Config::new(name);
    let port = ports.iter().find(|(n, _)| *n == name).expect("a port").1;
    config.listen_peer = vec![([127, 0, 0, 1], port).into()];
    config.advertise_peer_urls = vec![format!("http://127.0.0.1:{port}")];
    config.initial_cluster =
        ports.iter().map(|(name, port)| ((*name).to_owned(), format!("http://127.0.0.1:{port}"))).collect();
    config.heartbeat_interval = Duration::from_millis(50);
    config.election_timeout = Duration::from_millis(500);
    config.data_dir = folder.map(|folder| folder.join(name));
    config.wal_segment_bytes = 8 * 1024 * 1024;
    config
}

fn put(key: &str, value: &str) -> Bytes {
    keys::encode(&Command::Put(Put {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Bytes::copy_from_slice(value.as_bytes()),
        lease: 0,
        prev_kv: false,
        ignore_value: false,
        ignore_lease: false,
    }))
}

async fn write(handle: &Handle, key: &str, value: &str) -> Result<u64, RequestError> {
    let applied = handle.propose(ModelId::KEYS, put(key, value)).await?;
    match applied.reply {
        ModelReply::Keys(Reply::Put(reply)) => Ok(reply.revision.0),
        other => panic!("a put answered {other:?}"),
    }
}

/// Writes, trying again for as long as no leader is there.
async fn write_soon(handle: &Handle, key: &str, value: &str) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match write(handle, key, value).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < deadline, "no write went through: {error}"),
        }
    }
}

async fn read(handle: &Handle, key: &str) -> Option<String> {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = handle.read_index().await {
        assert!(Instant::now() < deadline, "no read went through: {error}");
    }
    let query = RangeQuery::point(Bytes::copy_from_slice(key.as_bytes()));
    let reply = keys::range(handle.store(), &query).expect("a readable revision");
    let kv = reply.kvs.first()?;
    let value = keys::load_value(handle.store(), &kv.value).expect("a readable value");
    Some(String::from_utf8(value.to_vec()).expect("text"))
}

fn run<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

fn three(folder: Option<&Path>) -> (Vec<(&'static str, u16)>, Vec<Running>) {
    let ports = vec![("a", free_port()), ("b", free_port()), ("c", free_port())];
    let members =
        ports.iter().map(|(name, _)| start(config(name, &ports, folder)).expect("started")).collect();
    (ports, members)
}

#[test]
fn one_member_in_memory_takes_a_write_and_reads_it() {
    let ports = [("a", 0)];
    let mut alone = config("a", &ports, None);
    alone.advertise_peer_urls.clear();
    alone.initial_cluster.clear();
    let member = start(alone).expect("started");
    run(async {
        assert_eq!(write_soon(&member.handle(), "k", "v").await, 2);
        assert_eq!(read(&member.handle(), "k").await.as_deref(), Some("v"));
    });
    member.stop();
}

#[test]
fn while_a_member_stops_requests_that_need_a_leader_are_not_waited_for_where_none_is() {
    // The two others were never started.
    let ports = [("a", free_port()), ("b", free_port()), ("c", free_port())];
    let member = start(config("a", &ports, None)).expect("started");
    run(async {
        let handle = member.handle();
        let mut last = handle.last_requests();
        let requests = async {
            let (write, read) = tokio::join!(write(&handle, "k", "v"), handle.read_index());
            for error in [write.expect_err("no majority"), read.expect_err("no majority")] {
                assert!(matches!(error, RequestError::Stopped { .. }), "{error}");
            }
        };
        let looks = async {
            loop {
                last.look();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::select! {
            () = requests => {}
            () = looks => {}
        }
    });
    member.stop();
}

#[test]
fn every_member_of_three_takes_writes_and_reads_what_another_acknowledged() {
    let (_, members) = three(None);
    run(async {
        for round in 0..10 {
            for (at, member) in members.iter().enumerate() {
                let (key, value) = (format!("k{at}"), format!("v{round}"));
                write_soon(&member.handle(), &key, &value).await;
                for reader in &members {
                    assert_eq!(read(&reader.handle(), &key).await.as_deref(), Some(value.as_str()));
                }
            }
        }
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_restarted_member_has_what_it_had_from_the_log_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = [("a", free_port())];
    let member = start(config("a", &ports, Some(folder.path()))).expect("started");
    run(async {
        for i in 0..100 {
            write_soon(&member.handle(), &format!("k{i}"), "v").await;
        }
    });
    drop(member);
    let member = start(config("a", &ports, Some(folder.path()))).expect("started again");
    run(async {
        assert_eq!(write_soon(&member.handle(), "more", "v").await, 102);
        assert_eq!(read(&member.handle(), "k99").await.as_deref(), Some("v"));
    });
    member.stop();
}

#[test]
fn the_leader_stops_and_the_others_go_on_with_everything() {
    let (_, mut members) = three(None);
    run(async {
        for i in 0..50 {
            write_soon(&members[i % 3].handle(), &format!("k{i}"), "v").await;
        }
        let leader = members.iter().position(|member| member.handle().status().is_leader).expect("a leader");
        members.remove(leader).stop();
        for member in &members {
            write_soon(&member.handle(), "after", "v").await;
            for i in 0..50 {
                assert_eq!(read(&member.handle(), &format!("k{i}")).await.as_deref(), Some("v"));
            }
        }
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_member_that_was_away_for_long_catches_up_by_snapshot() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = [("a", free_port()), ("b", free_port()), ("c", free_port())];
    let begin = |name: &str| {
        let mut config = config(name, &ports, Some(folder.path()));
        config.checkpoint_entries = 200;
        config.log_retained_bytes = 0;
        start(config).expect("started")
    };
    let (a, b, c) = (begin("a"), begin("b"), begin("c"));
    run(async {
        write_soon(&a.handle(), "first", "v").await;
        assert_eq!(read(&c.handle(), "first").await.as_deref(), Some("v"));
        c.stop();
        for i in 0..2000 {
            write_soon(&a.handle(), &format!("k{i}"), "value").await;
        }
        let c = begin("c");
        assert_eq!(read(&c.handle(), "k1999").await.as_deref(), Some("value"));
        assert_eq!(read(&c.handle(), "k0").await.as_deref(), Some("value"));
        write_soon(&c.handle(), "last", "v").await;
        c.stop();
        let c = begin("c");
        assert_eq!(read(&c.handle(), "k1000").await.as_deref(), Some("value"));
        assert_eq!(read(&c.handle(), "last").await.as_deref(), Some("v"));
        c.stop();
    });
    a.stop();
    b.stop();
}

#[test]
fn a_lease_kept_alive_stays_and_one_that_is_not_ends_with_its_keys() {
    let (_, members) = three(None);
    run(async {
        let grant = |id| keys::encode(&Command::LeaseGrant { id, ttl_seconds: 2 });
        let put = |key: &'static str, lease| {
            keys::encode(&Command::Put(Put {
                key: Bytes::from_static(key.as_bytes()),
                value: Bytes::from_static(b"v"),
                lease,
                prev_kv: false,
                ignore_value: false,
                ignore_lease: false,
            }))
        };
        write_soon(&members[0].handle(), "first", "v").await;
        for (at, lease) in [(0, 7), (1, 8)] {
            let handle = members[at].handle();
            handle.propose(ModelId::KEYS, grant(lease)).await.expect("granted");
        }
        let handle = members[2].handle();
        handle.propose(ModelId::KEYS, put("kept", 7)).await.expect("put");
        handle.propose(ModelId::KEYS, put("ends", 8)).await.expect("put");
        let deadline = Instant::now() + PATIENCE;
        while read(&members[1].handle(), "ends").await.is_some() {
            assert!(Instant::now() < deadline, "the lease never ended");
            for member in &members {
                let answer = member.handle().lease(7, true).await.expect("a leader answers");
                assert!(matches!(answer, LeaseAnswer::Alive { ttl_seconds: 2, .. }), "{answer:?}");
            }
        }
        assert_eq!(read(&members[1].handle(), "kept").await.as_deref(), Some("v"));
        assert_eq!(members[0].handle().lease(8, true).await, Ok(LeaseAnswer::Missing));
        assert_eq!(members[1].handle().lease(8, false).await, Ok(LeaseAnswer::Missing));
    });
    members.into_iter().for_each(Running::stop);
}
