//! The leader's lease clock, and leases as commands.

use quorate_ids::{ClusterTime, Monotonic, Revision, Term};
use quorate_models::keys::{
    Command, KeysError, Lease, LeaseClock, Put, RangeQuery, Reply, alarms, lease, lease_keys, leases,
};

use crate::machine::{Machine, bytes, put};

fn seconds(number: u64) -> Monotonic {
    Monotonic(number * 1_000_000_000)
}

#[test]
fn a_new_leader_grants_every_lease_its_full_ttl_again() {
    let leases = (1..=3).map(|id| Lease { id, ttl_seconds: 10 * id, granted: ClusterTime(5) });
    let mut clock = LeaseClock::start(leases, seconds(100));
    assert_eq!(clock.next_deadline(), Some(seconds(110)));
    assert!(clock.due(seconds(109), 10).is_empty());
    assert_eq!(clock.renew(1, seconds(109)), Some(10));
    assert_eq!(clock.due(seconds(120), 10), [1, 2]);
    assert_eq!(clock.remaining_nanos(3, seconds(120)), Some(10_000_000_000));
}

#[test]
fn an_expiry_is_handed_out_once_and_keep_alives_wait_for_its_outcome() {
    let mut clock = LeaseClock::default();
    clock.granted(7, 5, seconds(0));
    assert_eq!(clock.due(seconds(5), 10), [7]);
    assert_eq!(clock.due(seconds(6), 10), Vec::<i64>::new());
    assert!(clock.is_expiring(7));
    assert_eq!(clock.renew(7, seconds(6)), None);
    clock.take_back(7, seconds(6));
    assert_eq!(clock.renew(7, seconds(6)), Some(5));
    assert_eq!(clock.due(seconds(11), 10), [7]);
    clock.ended(7);
    assert!(clock.is_empty());
    assert_eq!(clock.remaining_nanos(7, seconds(12)), None);
}

#[test]
fn a_hundred_thousand_leases_are_renewed_and_expire_without_a_scan() {
    let mut clock = LeaseClock::default();
    for id in 0..100_000 {
        clock.granted(id, 60, seconds(0));
    }
    for id in 0..100_000 {
        if id % 10 != 0 {
            assert_eq!(clock.renew(id, seconds(30)), Some(60));
        }
    }
    let due = clock.due(seconds(60), 100_000);
    assert_eq!(due.len(), 10_000);
    assert!(due.iter().all(|id| id % 10 == 0));
}

fn leased(key: &str, lease: i64) -> Command {
    Command::Put(Put { lease, ..put(key, "value") })
}

#[test]
fn a_revoked_lease_takes_its_keys_in_one_revision() {
    let mut machine = Machine::new();
    machine.apply(&Command::LeaseGrant { id: 9, ttl_seconds: 60 });
    for key in ["a", "b", "c"] {
        machine.apply(&leased(key, 9));
    }
    // Moves away: a later put without the lease detaches.
    machine.put("b", "value");
    assert_eq!(lease_keys(&machine.store.read(), 9, None, 10), [bytes("a"), bytes("c")]);
    assert_eq!(machine.apply(&Command::LeaseRevoke { id: 9 }), Reply::LeaseRevoke { revision: Revision(6) });
    assert_eq!(machine.range(&RangeQuery::point(bytes("a"))).count, 0);
    assert_eq!(machine.range(&RangeQuery::point(bytes("b"))).count, 1);
    assert_eq!(lease(&machine.store.read(), 9), None);
    let error = KeysError::LeaseNotFound { id: 9 };
    let refused = Reply::Refused { revision: Revision(6), error };
    assert_eq!(machine.apply(&Command::LeaseRevoke { id: 9 }), refused);
    assert_eq!(machine.apply(&leased("d", 9)), refused);
}

#[test]
fn an_expiry_decided_in_an_earlier_term_changes_nothing() {
    let mut machine = Machine::new();
    for id in [1, 2, -3] {
        machine.apply(&Command::LeaseGrant { id, ttl_seconds: 60 });
        let error = KeysError::LeaseExists { id };
        let again = machine.apply(&Command::LeaseGrant { id, ttl_seconds: 60 });
        assert_eq!(again, Reply::Refused { revision: Revision(1), error });
    }
    machine.apply(&leased("a", 1));
    machine.apply(&leased("b", 2));
    machine.term = 2;
    let expire = |term| Command::LeaseExpire { term: Term(term), ids: vec![1, 5, 2] };
    let stale = Reply::LeaseExpire { revision: Revision(3), expired: vec![] };
    assert_eq!(machine.apply(&expire(1)), stale);
    let done = Reply::LeaseExpire { revision: Revision(4), expired: vec![1, 2] };
    assert_eq!(machine.apply(&expire(2)), done);
    let left: Vec<_> = leases(&machine.store.read(), None, 10).iter().map(|lease| lease.id).collect();
    assert_eq!(left, [-3]);
    assert!(leases(&machine.store.read(), Some(-3), 10).is_empty());
}

#[test]
fn alarms_are_raised_and_cleared() {
    let mut machine = Machine::new();
    let alarm = |activate, member, alarm| Command::Alarm { activate, member, alarm };
    for command in [alarm(true, 7, 1), alarm(true, 3, 2), alarm(true, 7, 1)] {
        assert_eq!(machine.apply(&command), Reply::Alarm { revision: Revision(1) });
    }
    assert_eq!(alarms(&machine.store.read()), [(3, 2), (7, 1)]);
    machine.apply(&alarm(false, 7, 1));
    assert_eq!(alarms(&machine.store.read()), [(3, 2)]);
    let unknown = Reply::Refused { revision: Revision(1), error: KeysError::UnknownAlarm { alarm: 9 } };
    assert_eq!(machine.apply(&alarm(true, 7, 9)), unknown);
}
