//! A full disk: each protocol's own word for it, and what goes on nevertheless.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_faces::balsa::{self, Balsa};
use quorate_faces::etcd2::{self, Dialect, Etcd2};
use quorate_faces::etcd3::{self, Etcd3};
use quorate_faces::listener::{Face, ListenConfig, Serving, serve};
use quorate_member::{MemoryDisk, start};
use quorate_store::StoreConfig;
use quorate_wire::etcdserverpb as pb;
use quorate_wire::etcdserverpb::kv_client::KvClient;
use quorate_wire::etcdserverpb::lease_client::LeaseClient;
use quorate_wire::etcdserverpb::maintenance_client::MaintenanceClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::etcd2::{ask, until};

const MIB: u64 = 1 << 20;
const WAL_SEGMENT_BYTES: u64 = 5 * MIB;

fn port(face: impl Face + 'static) -> Serving {
    let mut listen = ListenConfig::new(vec![SocketAddr::from(([127, 0, 0, 1], 0))]);
    listen.stop_timeout = Duration::from_millis(100);
    listen.net_threads = 1;
    serve(listen, vec![Arc::new(face)]).expect("a free port")
}

async fn put(keys: &mut KvClient<Channel>, key: String) -> Result<(), Status> {
    let put = pb::PutRequest { key: key.into(), value: vec![7; 60_000].into(), ..Default::default() };
    keys.put(put).await.map(drop)
}

fn is_full(status: &Status) -> bool {
    let said = (status.code(), status.message());
    said == (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded")
}

#[tokio::test]
async fn a_full_disk_refuses_in_each_protocols_words_and_lets_through_what_empties_it() {
    let memory = MemoryDisk::new();
    memory.set_capacity(40 * MIB);
    let member = quorate_member::Config {
        heartbeat_interval: Duration::from_millis(10),
        election_timeout: Duration::from_millis(100),
        memory: Some(memory),
        wal_segment_bytes: WAL_SEGMENT_BYTES,
        store: StoreConfig { front_bytes_max: MIB, segment_bytes_max: MIB as u32, ..StoreConfig::default() },
        reserve_bytes: 3 * WAL_SEGMENT_BYTES,
        checkpoint_entries: 50,
        log_retained_bytes: 0,
        ..quorate_member::Config::new("machine1")
    };
    let running = start(member).expect("a member in memory starts");
    let handle = running.handle();
    handle.read_index().await.expect("a cluster of one elects itself");
    let etcd3 = port(Etcd3::new(running.handle(), etcd3::Config::default()));
    let etcd2 = port(Etcd2::new(running.handle(), etcd2::Config::new(Dialect::V2, "machine1")));
    let balsa = port(Balsa::new(running.handle(), balsa::Config::default()));
    let (v2, sets) = (etcd2.addrs()[0], balsa.addrs()[0]);
    let endpoint = Endpoint::from_shared(format!("http://{}", etcd3.addrs()[0])).expect("an address");
    let channel = endpoint.connect().await.expect("the port is open");
    let mut keys = KvClient::new(channel.clone());
    let mut leases = LeaseClient::new(channel.clone());

    let old = ask(v2, "PUT", "/v2/keys/old", "value=v").await;
    assert_eq!(old.status, 201, "{}", old.body);
    assert_eq!(ask(sets, "POST", "/set", "key=old&value=v").await.status, 200);
    leases.lease_grant(pb::LeaseGrantRequest { ttl: 1000, id: 7 }).await.expect("a lease");

    // Somebody goes on filling what comes free: of the log, for instance.
    let mut filler = keys.clone();
    let filling = tokio::spawn(async move {
        for number in 0.. {
            if put(&mut filler, format!("filled/{number}")).await.is_err() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    let (probe, granting) = (keys.clone(), leases.clone());
    until("a put is refused", async || put(&mut probe.clone(), "p".into()).await.is_err_and(|e| is_full(&e)))
        .await;
    until("a lease is refused", async || {
        granting
            .clone()
            .lease_grant(pb::LeaseGrantRequest { ttl: 1000, id: 0 })
            .await
            .is_err_and(|error| is_full(&error))
    })
    .await;
    until("v2 says so", async || {
        let refused = ask(v2, "PUT", "/v2/keys/new", "value=v").await;
        refused.status == 500
            && refused.body.contains("\"errorCode\":300")
            && refused.body.contains("no space is left on the disk")
    })
    .await;
    until("balsa says so", async || {
        let refused = ask(sets, "POST", "/set", "key=new&value=v").await;
        refused.status == 507 && refused.body.contains("no space is left on the disk")
    })
    .await;
    until("endpoint status says so", async || {
        let status = MaintenanceClient::new(channel.clone()).status(pb::StatusRequest {}).await;
        status.expect("a status").into_inner().errors.iter().any(|error| error.contains("disk is full"))
    })
    .await;

    leases.lease_revoke(pb::LeaseRevokeRequest { id: 7 }).await.expect("revocations go on");
    assert_eq!(ask(v2, "GET", "/v2/keys/old", "").await.status, 200);
    let deleted = ask(v2, "DELETE", "/v2/keys/old", "").await;
    assert_eq!(deleted.status, 200, "{}", deleted.body);
    let got = ask(sets, "POST", "/get", "key=old").await;
    assert!(got.status == 200 && got.body.contains('v'), "{}", got.body);
    assert_eq!(ask(sets, "POST", "/remove", "key=old").await.status, 200);

    filling.abort();
    let everything =
        pb::DeleteRangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let deleted = keys.delete_range(everything).await.expect("deletes go on").into_inner();
    let revision = deleted.header.expect("a header").revision;
    let compact = pb::CompactionRequest { revision, physical: false };
    keys.compact(compact).await.expect("compaction goes on");
    until("puts are taken again", async || put(&mut keys.clone(), "new".into()).await.is_ok()).await;
    until("v2 takes them", async || ask(v2, "PUT", "/v2/keys/again", "value=v").await.status == 201).await;
    assert_eq!(ask(sets, "POST", "/set", "key=again&value=v").await.status, 200);

    [etcd3, etcd2, balsa].into_iter().for_each(Serving::stop);
    running.stop();
}
