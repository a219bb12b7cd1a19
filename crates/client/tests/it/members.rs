//! The client and the death of members: three in this process, and the one that it hangs on goes away.

use std::time::Duration;

use quorate::{Config, Server};
use quorate_client::{Client, Keys, RangeOptions, SortBy, WatchOptions};
use quorate_interop::free_port;

const PATIENCE: Duration = Duration::from_secs(60);

async fn three() -> Vec<Server> {
    let ports: Vec<u16> = (0..3).map(|_| free_port()).collect();
    let founders: Vec<String> =
        ports.iter().enumerate().map(|(number, port)| format!("m{number}=http://127.0.0.1:{port}")).collect();
    let member = |(number, port): (usize, &u16)| {
        let config = Config::new(format!("m{number}"))
            .memory_only()
            .listen_client_urls(["http://127.0.0.1:0"])
            .listen_peer_urls([format!("http://127.0.0.1:{port}")])
            .initial_cluster(founders.join(","));
        Server::start(config).expect("a member")
    };
    let members: Vec<Server> = ports.iter().enumerate().map(member).collect();
    for member in &members {
        member.ready().await.expect("ready");
    }
    members
}

fn endpoint(server: &Server) -> String {
    server.client_addrs()[0].to_string()
}

/// Takes out the leader, or the first of the others.
async fn take(members: &mut Vec<Server>, leader: bool) -> Server {
    let client = Client::new(members.iter().map(endpoint)).expect("endpoints");
    let leading = client.leader_endpoint().await.expect("a leader");
    let chosen = members.iter().position(|member| (endpoint(member) == leading) == leader);
    members.remove(chosen.expect("there is one"))
}

/// Without handing leadership over, as far as that can be had within a process.
async fn die(member: Server) {
    tokio::task::spawn_blocking(move || drop(member)).await.expect("it ends");
}

/// A watch that hangs on a member which dies, under load: what it delivers is what the store holds in the end.
async fn a_watch_outlives(leader: bool) {
    const PUTS: usize = 600;
    let mut members = three().await;
    let dying = take(&mut members, leader).await;
    let staying: Vec<String> = members.iter().map(endpoint).collect();
    // With the dying one first, the watch hangs on it.
    let client = Client::new([vec![endpoint(&dying)], staying.clone()].concat()).expect("endpoints");
    let mut watch = client.watch(Keys::prefix("k/"), WatchOptions::new()).await.expect("a watch");
    let writer = tokio::spawn(async move {
        let client = Client::builder(staying).request_timeout(PATIENCE).build().expect("endpoints");
        let mut unknown = 0;
        for number in 0..PUTS {
            // The outcome of one that was under way as the leader died may be unknown: the store knows it.
            unknown += usize::from(client.put(format!("k/{number}"), number.to_string()).await.is_err());
        }
        let by_revision = RangeOptions::new().ascending(SortBy::ModRevision);
        let all = client.range(Keys::prefix("k/"), by_revision).await.expect("the store answers");
        assert!(all.kvs.len() + unknown >= PUTS, "an acknowledged put is lost");
        all.kvs.into_iter().map(|kv| (kv.mod_revision, kv.key)).collect::<Vec<_>>()
    });
    let mut seen = Vec::new();
    let mut dying = Some(dying);
    let mut death = None;
    let mut writer = Some(writer);
    let mut stored = None;
    while stored.as_ref().is_none_or(|stored: &Vec<_>| seen.len() < stored.len()) {
        tokio::select! {
            response = tokio::time::timeout(PATIENCE, watch.next()) => {
                let response = response.expect("the watch goes on").expect("open").expect("a response");
                seen.extend(response.events.into_iter().map(|event| (event.kv.mod_revision, event.kv.key)));
            }
            found = async { writer.as_mut().expect("it runs").await }, if writer.is_some() => {
                writer = None;
                stored = Some(found.expect("the writer ends"));
            }
        }
        if seen.len() > PUTS / 6
            && let Some(dying) = dying.take()
        {
            death = Some(tokio::spawn(die(dying)));
        }
    }
    assert_eq!(Some(seen), stored, "each event once, in order, without a gap");
    death.expect("the member was taken away").await.expect("it ended");
    // It hangs on another one now.
    client.put("k/last", "x").await.expect("put");
    let last =
        tokio::time::timeout(PATIENCE, watch.next()).await.expect("in time").expect("open").expect("fine");
    assert_eq!(last.events[0].kv.key, "k/last");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_gap_or_repeat_when_its_member_dies() {
    a_watch_outlives(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_goes_on_without_gap_or_repeat_when_its_member_led() {
    a_watch_outlives(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_and_a_lock_under_it_outlive_the_member_that_renewed_them() {
    let mut members = three().await;
    let dying = take(&mut members, true).await;
    let staying: Vec<String> = members.iter().map(endpoint).collect();
    let client = Client::new([vec![endpoint(&dying)], staying].concat()).expect("endpoints");
    let lease = client.lease_grant(12).await.expect("a lease").id;
    let mut alive = client.lease_keep_alive(lease).await.expect("alive");
    let lock = client.lock("l", 12).await.expect("free");
    die(dying).await;
    for _ in 0..3 {
        let renewed = tokio::time::timeout(PATIENCE, alive.renewed()).await.expect("in time");
        assert_eq!(renewed, Ok(12));
    }
    let still_ours = client.get(lock.key()).await.expect("get").expect("the lock's key is there");
    assert_eq!(still_ours.create_revision, lock.revision());
    lock.unlock().await.expect("unlock");
}
