//! What machines tell of their appends: fields, their order, and when they are left out.

use serde_json::Value;

use quorate_faces::etcd2::{Config, Dialect};

use super::etcd2::{Machine, roles, three_of, until};

async fn stats(machine: &Machine, path: &str) -> (String, Value) {
    let (status, body) = machine.said("GET", path, "").await;
    assert_eq!(status, 200, "{path}: {body}");
    let value = serde_json::from_str(&body).expect("JSON");
    (body, value)
}

/// The names of an object's fields, as they stand in the text.
fn fields(text: &str, names: &[&str]) -> Vec<String> {
    let mut found: Vec<(usize, String)> = names
        .iter()
        .filter_map(|name| Some((text.find(&format!("\"{name}\":"))?, (*name).to_owned())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, name)| name).collect()
}

const FLOW: [&str; 6] = [
    "recvAppendRequestCnt",
    "recvPkgRate",
    "recvBandwidthRate",
    "sendAppendRequestCnt",
    "sendPkgRate",
    "sendBandwidthRate",
];
const FOLLOWER: [&str; 9] =
    ["latency", "current", "average", "standardDeviation", "minimum", "maximum", "counts", "fail", "success"];

async fn a_leader_measures_its_followers(dialect: Dialect) {
    let machines = three_of(|name| Config { forward: true, ..Config::new(dialect, name) }).await;
    let (leader, follower) = roles(&machines).await;
    let before = stats(&machines[leader], "/v2/stats/leader").await.1;
    for number in 0..20 {
        let written = machines[leader].said("PUT", &format!("/v2/keys/{number}"), "value=1").await;
        assert_eq!(written.0, 201, "{written:?}");
    }
    until("both followers have acknowledged", async || {
        let (_, now) = stats(&machines[leader], "/v2/stats/leader").await;
        let followers = now["followers"].as_object().expect("followers");
        assert_eq!(followers.len(), 2, "{now}");
        followers.iter().all(|(name, figures)| {
            let count = |value: &Value| value["counts"]["success"].as_u64().expect("a count");
            // Appends may carry several entries where the machine is slow, never fewer than one.
            count(figures) > count(&before["followers"][name])
        })
    })
    .await;
    let (text, told) = stats(&machines[leader], "/v2/stats/leader").await;
    assert!(text.starts_with("{\"leader\":\""), "{text}");
    for (name, figures) in told["followers"].as_object().expect("followers") {
        let at = text.find(&format!("\"{name}\":{{")).expect("its name");
        assert_eq!(fields(&text[at..], &FOLLOWER), FOLLOWER, "{text}");
        let latency = |field: &str| figures["latency"][field].as_f64().expect("milliseconds");
        let (minimum, maximum) = (latency("minimum"), latency("maximum"));
        assert!(minimum > 0.0 && minimum <= maximum, "{text}");
        assert!((minimum..=maximum).contains(&latency("current")), "{text}");
        assert!((minimum..=maximum).contains(&latency("average")), "{text}");
        assert!((0.0..=maximum).contains(&latency("standardDeviation")), "{text}");
    }

    // Rates end a second after the last message: tried again where the machine is as slow as that.
    until("there are rates", async || {
        machines[leader].said("PUT", "/v2/keys/a", "value=1").await;
        machines[leader].said("PUT", "/v2/keys/a", "value=2").await;
        let (sending, _) = stats(&machines[leader], "/v2/stats/self").await;
        let (receiving, _) = stats(&machines[follower], "/v2/stats/self").await;
        let (sending, receiving) = (fields(&sending, &FLOW), fields(&receiving, &FLOW));
        let sent = sending.ends_with(&FLOW[3..].iter().map(ToString::to_string).collect::<Vec<_>>());
        let received = receiving.starts_with(&FLOW[..3].iter().map(ToString::to_string).collect::<Vec<_>>());
        sent && received
    })
    .await;
    let (_, own) = stats(&machines[leader], "/v2/stats/self").await;
    assert!(own["sendAppendRequestCnt"].as_u64().expect("a count") > 0, "{own}");
}

#[tokio::test]
async fn a_leader_of_04_measures_its_followers() {
    a_leader_measures_its_followers(Dialect::V04).await;
}

#[tokio::test]
async fn a_leader_of_2_measures_its_followers() {
    a_leader_measures_its_followers(Dialect::V2).await;
}

#[tokio::test]
async fn heartbeats_count_in_04_only() {
    for (dialect, counted) in [(Dialect::V04, true), (Dialect::V2, false)] {
        let machines = three_of(|name| Config { forward: true, ..Config::new(dialect, name) }).await;
        let (leader, _) = roles(&machines).await;
        let handle = machines[leader].running().handle();
        let sent = async || {
            let (_, own) = stats(&machines[leader], "/v2/stats/self").await;
            own["sendAppendRequestCnt"].as_u64().expect("a count")
        };
        let before = handle.statistics().await.expect("it runs");
        let heartbeats = |statistics: &quorate_member::Statistics| {
            statistics.with_heartbeats.sent.count - statistics.appends.sent.count
        };
        let heartbeats_before = heartbeats(&before);
        until("twenty heartbeats", async || {
            heartbeats(&handle.statistics().await.expect("it runs")) > heartbeats_before + 20
        })
        .await;
        let now = sent().await;
        let appends = handle.statistics().await.expect("it runs").appends.sent.count;
        if counted {
            assert!(now > before.with_heartbeats.sent.count, "{now} after {before:?}");
        } else {
            assert!(now <= appends, "{now} of {appends} appends");
            let rateless = async || {
                let (text, _) = stats(&machines[leader], "/v2/stats/self").await;
                fields(&text, &FLOW) == ["recvAppendRequestCnt", "sendAppendRequestCnt"]
            };
            until("a cluster at rest has no rates", rateless).await;
        }
    }
}

#[tokio::test]
async fn a_machine_alone_has_no_followers_and_no_rates() {
    for dialect in [Dialect::V04, Dialect::V2] {
        let machine = Machine::of(dialect).await;
        let (text, told) = stats(&machine, "/v2/stats/leader").await;
        assert_eq!(told["followers"], serde_json::json!({}), "{text}");
        let (text, _) = stats(&machine, "/v2/stats/self").await;
        assert_eq!(fields(&text, &FLOW), ["recvAppendRequestCnt", "sendAppendRequestCnt"], "{text}");
    }
}
