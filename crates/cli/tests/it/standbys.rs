//! Who votes in a cluster of `quorate etcd2`: standbys take the place of silent machines, and the active size counts.

use std::path::Path;

use quorate_interop::{Machine, http_send, wait_until};

use super::{binary, scratch};

fn machines(folder: &Path, count: usize, flags: &[&str]) -> Vec<Machine> {
    let mut all: Vec<Machine> =
        (1..=count).map(|n| Machine::new(binary(), folder, &format!("m{n}"))).collect();
    all[0].run(flags).expect("founded");
    let peer = all[0].peer.clone();
    all[1..].iter_mut().for_each(|machine| machine.run(&["-peers", &peer]).expect("joined"));
    all
}

/// Names of the machines that vote, and of those that stand by, as the tree has them.
fn listed(machine: &Machine) -> (Vec<String>, Vec<String>) {
    let names = |directory: &str| {
        let (_, body) = machine.get(&format!("/v2/keys/_etcd/{directory}?sorted=true")).expect("an answer");
        body.split(&format!("\"key\":\"/_etcd/{directory}/"))
            .skip(1)
            .filter_map(|rest| rest.split('"').next().map(str::to_owned))
            .collect()
    };
    (names("machines"), names("standbys"))
}

/// Writes through whichever machine leads.
fn put(all: &[Machine], value: &str) {
    wait_until("a machine takes a write", || {
        all.iter()
            .filter(|machine| machine.is_started())
            .any(|machine| machine.put("/foo", value).is_ok_and(|(status, _)| matches!(status, 200 | 201)))
    })
    .expect("written");
}

fn wait_for(machine: &Machine, voters: &[&str], standbys: &[&str]) {
    let mut last = Default::default();
    wait_until("who votes", || {
        last = listed(machine);
        last.0 == voters && last.1 == standbys
    })
    .unwrap_or_else(|error| panic!("{error:#}: {voters:?} {standbys:?}, but {last:?}"));
}

#[test]
fn a_machine_that_is_silent_for_longer_than_the_delay_gives_its_place_to_a_standby() {
    let (_guard, folder) = scratch();
    let mut all = machines(&folder, 4, &["-cluster-active-size", "3", "-cluster-remove-delay", "2"]);
    wait_for(&all[0], &["m1", "m2", "m3"], &["m4"]);
    put(&all, "before");
    all[2].kill();
    wait_for(&all[0], &["m1", "m2", "m4"], &["m3"]);
    put(&all, "while m3 is away");
    // It comes back as a standby, with what was written meanwhile.
    all[2].run(&[]).expect("back");
    wait_until("it has what it missed", || all[2].holds("/foo", "while m3 is away")).expect("caught up");
    wait_for(&all[2], &["m1", "m2", "m4"], &["m3"]);
    let (_, body) = all[0].get_peer("/v2/admin/machines/m3").expect("an answer");
    assert!(body.contains("\"mode\":\"standby\""), "{body}");
    // With no standby that is there, nobody loses a vote.
    all[2].kill();
    all[3].kill();
    let (_, before) = all[0].get("/v2/keys/_etcd/machines").expect("an answer");
    put(&all, "two of three");
    all[3].run(&[]).expect("back");
    wait_until("it votes as before", || all[3].holds("/foo", "two of three")).expect("caught up");
    let (_, after) = all[0].get("/v2/keys/_etcd/machines").expect("an answer");
    assert_eq!(before, after);
}

#[test]
fn a_smaller_active_size_takes_votes_and_a_larger_one_gives_them() {
    let (_guard, folder) = scratch();
    let mut all = machines(&folder, 5, &[]);
    wait_for(&all[0], &["m1", "m2", "m3", "m4", "m5"], &[]);
    let set = |machine: &Machine, size: u64| {
        let (status, body) =
            http_send(&machine.peer, "PUT", "/v2/admin/config", &format!("{{\"activeSize\":{size}}}"))
                .expect("an answer");
        assert_eq!(status, 200, "{body}");
    };
    set(&all[1], 3);
    let mut last = Default::default();
    wait_until("three machines vote", || {
        last = listed(&all[0]);
        (last.0.len(), last.1.len()) == (3, 2)
    })
    .unwrap_or_else(|error| panic!("{error:#}: {last:?}"));
    put(&all, "three vote");
    // Standbys do not count: with both and one of the three dead, writes go on.
    let voter = last.0.last().expect("three").clone();
    for machine in &mut all {
        if last.1.contains(&machine.name) || machine.name == voter {
            machine.kill();
        }
    }
    put(&all, "two of three");
    for machine in all.iter_mut().filter(|machine| !machine.is_started()) {
        machine.run(&[]).expect("back");
    }
    set(&all[0], 9);
    wait_for(&all[0], &["m1", "m2", "m3", "m4", "m5"], &[]);
}

#[test]
fn a_history_window_and_forwarding_are_asked_for_by_flag() {
    let (_guard, folder) = scratch();
    let mut first = Machine::new(binary(), &folder, "m1");
    first.run(&["-history-window", "5"]).expect("founded");
    for number in 0..20 {
        put(std::slice::from_ref(&first), &number.to_string());
    }
    wait_until("history is as short as was asked for", || {
        let answer = first.get("/v2/keys/foo?wait=true&waitIndex=10");
        answer.is_ok_and(|(status, body)| status == 400 && body.contains("\"errorCode\":401"))
    })
    .expect("cleared");
    let (status, body) = first.get("/v2/keys/foo?wait=true&waitIndex=19").expect("an answer");
    assert_eq!(status, 200, "{body}");
    let mut second = Machine::new(binary(), &folder, "m2");
    let peer = first.peer.clone();
    second.run(&["-peers", &peer, "-forward"]).expect("joined");
    let (status, body) = second.put("/bar", "through a follower").expect("an answer");
    assert_eq!(status, 201, "{body}");
    let told = super::quorate(&["etcd2", "-history-window", "2000000", "-data-dir", "/no/such"], &[]);
    let told = String::from_utf8_lossy(&told.stderr).into_owned();
    assert!(told.contains("-history-window: at most 1000000 events are possible"), "{told}");
}
