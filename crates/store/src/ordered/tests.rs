//! The index against a `BTreeMap`, its bytes a key, and that memory comes back.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use proptest::collection::vec;
use proptest::prelude::*;

use super::node::{Child, Node};
use super::{Builder, Ordered, OutOfOrder};

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

/// What [`Ordered::check`] has seen so far.
#[derive(Default)]
struct Seen {
    pages: Vec<u32>,
    longs: Vec<u32>,
    keys: usize,
    page_depths: Vec<usize>,
}

impl Ordered {
    /// Panics unless everything holds that the module says.
    fn check(&self) {
        let mut seen = Seen::default();
        if !self.root.children.is_empty() {
            self.check_below(&self.root, 0, None, None, &mut seen);
        }
        assert_eq!(seen.keys, self.len());
        seen.pages.sort_unstable();
        assert!(seen.pages.iter().copied().eq(0..self.leaves.pages.len() as u32));
        seen.longs.sort_unstable();
        seen.longs.dedup();
        assert_eq!(seen.longs.len(), self.leaves.longs.len());
        seen.page_depths.dedup();
        assert!(seen.page_depths.len() <= 1);
    }

    fn check_below(
        &self,
        node: &Node,
        depth: usize,
        from: Option<&[u8]>,
        to: Option<&[u8]>,
        seen: &mut Seen,
    ) {
        node.check();
        let separators = node.separators();
        for (at, child) in node.children.iter().enumerate() {
            let from = at.checked_sub(1).map_or(from, |before| Some(&separators[before]));
            let to = separators.get(at).map_or(to, |separator| Some(separator));
            let keys_before = seen.keys;
            match child {
                Child::Node(below) => self.check_below(below, depth + 1, from, to, seen),
                Child::Page(handle) => {
                    seen.page_depths.push(depth);
                    self.check_page(*handle, from, to, seen);
                }
            }
            assert_eq!(seen.keys - keys_before, node.counts[at] as usize);
        }
    }

    fn check_page(&self, handle: u32, from: Option<&[u8]>, to: Option<&[u8]>, seen: &mut Seen) {
        let page = self.leaves.pages.get(handle);
        page.check(&self.leaves.longs);
        let mut last: Option<Vec<u8>> = None;
        for at in 0..page.count() {
            let mut key = Vec::new();
            page.key_into(at, &self.leaves.longs, &mut key);
            assert!(from.is_none_or(|from| from <= key.as_slice()) && to.is_none_or(|to| &key[..] < to));
            assert!(last.is_none_or(|last| last < key));
            assert_eq!(page.locate(&key, &self.leaves.longs), Ok(at));
            seen.longs.extend(page.entry(at, &self.leaves.longs).long);
            last = Some(key);
        }
        assert!(page.count() > 0);
        seen.pages.push(handle);
        seen.keys += page.count();
    }
}

#[derive(Clone, Debug)]
enum Step {
    Insert(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    /// Removes the keys of a stretch, given as parts of 256 of the whole.
    RemoveStretch(u8, u8),
    Read(Vec<u8>, Option<Vec<u8>>),
    Rebuild,
}

/// Keys that collide, nest, share long prefixes, end in zeros and outgrow a page.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let awkward = prop_oneof![Just(0u8), Just(0xff), Just(b'a'), any::<u8>()];
    prop_oneof![
        6 => vec(awkward.clone(), 0..5),
        6 => (0u16..2000).prop_map(|n| format!("/registry/pods/default/pod-{n:04}").into_bytes()),
        3 => (0u8..3, vec(any::<u8>(), 0..3)).prop_map(|(shared, tail)| [vec![shared; 300], tail].concat()),
        2 => (prop_oneof![Just(0u8), Just(0xff)], 0usize..600).prop_map(|(byte, len)| vec![byte; len]),
        1 => (vec(any::<u8>(), 0..2), 0usize..3000).prop_map(|(head, len)| [head, vec![7; len]].concat()),
        1 => any::<u8>().prop_map(|tail| [vec![b'k'; 65_535], vec![tail]].concat()),
    ]
}

fn row() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        8 => vec(any::<u8>(), 0..24),
        1 => (any::<u8>(), 0usize..=400).prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 0usize..=1024).prop_map(|(byte, len)| vec![byte; len]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        40 => (key(), row()).prop_map(|(key, row)| Step::Insert(key, row)),
        12 => key().prop_map(Step::Remove),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, parts)| Step::RemoveStretch(from, parts)),
        8 => (key(), proptest::option::of(key())).prop_map(|(from, to)| Step::Read(from, to)),
        1 => Just(Step::Rebuild),
    ]
}

fn range<'a>(
    model: &'a Model,
    from: &'a [u8],
    to: Option<&'a [u8]>,
) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> {
    let low = to.map_or(from, |to| from.min(to));
    model
        .range::<[u8], _>((Bound::Included(low), to.map_or(Bound::Unbounded, Bound::Excluded)))
        .map(|(key, row)| (&key[..], &row[..]))
}

fn collect(index: &Ordered, from: &[u8], to: Option<&[u8]>, limit: usize) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    index.scan(from, to, &mut |key, row| {
        if seen.len() == limit {
            return ControlFlow::Break(());
        }
        seen.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    });
    seen
}

fn collect_reverse(index: &Ordered, from: &[u8], to: Option<&[u8]>) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut seen = Vec::new();
    index.scan_reverse(from, to, &mut |key, row| {
        seen.push((key.to_vec(), row.to_vec()));
        ControlFlow::Continue(())
    });
    seen
}

fn expect_reads(index: &Ordered, model: &Model, from: &[u8], to: Option<&[u8]>) {
    let mut wanted: Vec<_> = range(model, from, to).map(|(key, row)| (key.to_vec(), row.to_vec())).collect();
    assert_eq!(index.count(from, to), wanted.len());
    assert_eq!(index.rank(from), model.range::<[u8], _>((Bound::Unbounded, Bound::Excluded(from))).count());
    assert_eq!(index.get(from), model.get(from).map(Vec::as_slice));
    assert_eq!(collect(index, from, to, 3), wanted[..wanted.len().min(3)]);
    assert_eq!(collect(index, from, to, usize::MAX), wanted);
    wanted.reverse();
    assert_eq!(collect_reverse(index, from, to), wanted);
}

fn insert(index: &mut Ordered, model: &mut Model, key: &[u8], row: &[u8]) {
    let mut old = b"left over".to_vec();
    let wanted = model.insert(key.to_vec(), row.to_vec());
    assert_eq!(index.insert(key, row, &mut old), wanted.is_some());
    assert_eq!(old, wanted.unwrap_or_default());
}

fn remove(index: &mut Ordered, model: &mut Model, key: &[u8]) {
    let mut old = b"left over".to_vec();
    let wanted = model.remove(key);
    assert_eq!(index.remove(key, &mut old), wanted.is_some());
    assert_eq!(old, wanted.unwrap_or_default());
}

fn run(steps: &[Step]) {
    let (mut index, mut model) = (Ordered::new(), Model::new());
    for (number, step) in steps.iter().enumerate() {
        match step {
            Step::Insert(key, row) => insert(&mut index, &mut model, key, row),
            Step::Remove(key) => remove(&mut index, &mut model, key),
            Step::RemoveStretch(from, parts) => {
                let skip = model.len() * usize::from(*from) / 256;
                let take = model.len() * usize::from(*parts) / 256;
                let keys: Vec<_> = model.keys().skip(skip).take(take).cloned().collect();
                for key in keys {
                    remove(&mut index, &mut model, &key);
                }
            }
            Step::Read(from, to) => expect_reads(&index, &model, from, to.as_deref()),
            Step::Rebuild => index = Ordered::from_sorted(&model).expect("a BTreeMap is in order"),
        }
        assert_eq!(index.len(), model.len());
        if number % 4 == 0 {
            index.check();
        }
    }
    index.check();
    expect_reads(&index, &model, b"", None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_steps_answer_as_an_ordered_map_does(steps in vec(step(), 1..700)) {
        run(&steps);
    }
}

#[test]
fn a_builder_refuses_a_key_out_of_order_and_goes_on() {
    let mut builder = Builder::new();
    assert_eq!(builder.push(b"", b"0"), Ok(()));
    assert_eq!(builder.push(b"b", b"1"), Ok(()));
    assert_eq!(builder.push(b"b", b"2"), Err(OutOfOrder { position: 2 }));
    assert_eq!(builder.push(b"a", b"2"), Err(OutOfOrder { position: 2 }));
    assert_eq!(builder.push(b"b\0", b"3"), Ok(()));
    let index = builder.finish();
    index.check();
    let wanted =
        [(b"".to_vec(), b"0".to_vec()), (b"b".to_vec(), b"1".to_vec()), (b"b\0".to_vec(), b"3".to_vec())];
    assert_eq!(collect(&index, b"", None, usize::MAX), wanted);
}

/// SplitMix64: different numbers give different keys, in no order.
fn mixed(number: u64) -> u64 {
    let mut bits = number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

const ROW: [u8; 14] = *b"a row of 14 by";

fn filled(keys: impl Iterator<Item = Vec<u8>>) -> Ordered {
    let (mut index, mut old) = (Ordered::new(), Vec::new());
    for key in keys {
        assert!(!index.insert(&key, &ROW, &mut old));
    }
    index.check();
    index
}

fn bytes_a_key(index: &Ordered) -> usize {
    index.memory_bytes() / index.len()
}

#[test]
fn keys_in_random_order_take_less_than_52_bytes_each() {
    let binary = |number| [mixed(number).to_be_bytes(), mixed(!number).to_be_bytes()].concat();
    assert!(bytes_a_key(&filled((0..60_000).map(binary))) < 52);
    assert!(
        bytes_a_key(&filled((0..60_000).map(|number| format!("{:016x}", mixed(number)).into_bytes()))) < 52
    );
}

#[test]
fn a_long_shared_prefix_costs_next_to_nothing() {
    let key =
        |number| format!("/registry/pods/namespace-{:02}/{:016x}", number % 20, mixed(number)).into_bytes();
    assert!(bytes_a_key(&filled((0..40_000).map(key))) < 52);
}

#[test]
fn keys_in_order_fill_their_pages_from_either_end_and_amid_others() {
    let key = |number: u64| format!("key-{number:012}").into_bytes();
    let full =
        bytes_a_key(&Ordered::from_sorted((0..40_000).map(|number| (key(number), ROW))).expect("sorted"));
    assert!(full < 25, "{full}");
    assert!(bytes_a_key(&filled((0..40_000).map(key))) <= full + 1);
    assert!(bytes_a_key(&filled((0..40_000).rev().map(key))) <= full + 1);
    let around = (0..1000).map(|number| key(mixed(number) % 500)).chain((0..1000).map(|_| b"z".to_vec()));
    let mut seen = std::collections::BTreeSet::new();
    let around: Vec<_> = around.filter(|key| seen.insert(key.clone())).collect();
    let amid = filled(around.into_iter().chain((0..40_000).map(|number| key(1_000_000 + number))));
    assert!(bytes_a_key(&amid) <= full + 2, "{}", bytes_a_key(&amid));
}

#[test]
fn memory_comes_back_as_keys_are_removed_in_any_order() {
    let key = |number| mixed(number).to_be_bytes();
    let mut index = filled((0..60_000).map(|number| key(number).to_vec()));
    let (full, mut old) = (index.memory_bytes(), Vec::new());
    for number in 0..54_000 {
        assert!(index.remove(&key(number), &mut old));
        assert_eq!(old, ROW);
    }
    index.check();
    assert!(index.memory_bytes() < full / 4, "{} of {full}", index.memory_bytes());
    for number in 54_000..60_000 {
        assert!(index.remove(&key(number), &mut old));
    }
    index.check();
    assert!(index.memory_bytes() < 64 * 1024, "{}", index.memory_bytes());
    assert!(!index.remove(&key(0), &mut old));
}

#[test]
fn memory_of_long_entries_comes_back_too() {
    let (mut index, mut old) = (Ordered::new(), Vec::new());
    let key = |number: u64| [&mixed(number).to_be_bytes()[..], &[b'x'; 5000]].concat();
    for number in 0..1000 {
        index.insert(&key(number), &[1; 1024], &mut old);
    }
    assert!(index.memory_bytes() > 6_000_000);
    for number in 0..1000 {
        assert!(index.insert(&key(number), &[2; 512], &mut old));
        assert_eq!(old, [1; 1024]);
        assert!(index.remove(&key(number), &mut old));
        assert_eq!(old, [2; 512]);
    }
    index.check();
    assert!(index.memory_bytes() < 64 * 1024);
}

#[test]
fn counts_and_ranks_hold_over_several_levels() {
    let key = |number: u64| (number * 2).to_be_bytes();
    let bulk = Ordered::from_sorted((0..300_000).map(|number| (key(number), []))).expect("sorted");
    bulk.check();
    for number in (0..299_000).step_by(997) {
        assert_eq!(bulk.rank(&key(number)), number as usize);
        assert_eq!(bulk.rank(&(number * 2 + 1).to_be_bytes()), number as usize + 1);
        assert_eq!(bulk.count(&key(number), Some(&key(number + 1000))), 1000);
        assert_eq!(bulk.count(&key(number + 1000), Some(&key(number))), 0);
    }
    assert_eq!(bulk.count(b"", None), 300_000);
}

#[test]
fn threads_may_share_an_index() {
    fn shared<T: Send + Sync>() {}
    shared::<Ordered>();
    shared::<Builder>();
}
