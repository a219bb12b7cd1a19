//! The tree model on real members: beside keys, over restarts, with nodes that end by themselves.

use quorate_ids::TreeIndex;
use quorate_models::tree::{self, Action, Command, Get, Value, Write};

use super::*;

fn file(path: &str, value: &str) -> Write {
    let path = tree::Path::clean(path.as_bytes()).expect("a path");
    Write::file(path, Bytes::copy_from_slice(value.as_bytes()))
}

/// Writes, trying again for as long as no leader is there.
async fn write_node(handle: &Handle, write: Write) -> TreeIndex {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let command = tree::encode(&Command::Set(write.clone()));
        match handle.propose(ModelId::TREE, command).await {
            Ok(applied) => match applied.reply {
                ModelReply::Tree(tree::Reply::Changed(event)) => return event.index,
                other => panic!("a set answered {other:?}"),
            },
            Err(error) => assert!(Instant::now() < deadline, "no write went through: {error}"),
        }
    }
}

/// Waits for the first event at or after `from` that a member's live feed has for `path`.
async fn wait_for(handle: &Handle, path: &str, from: TreeIndex) -> tree::Event {
    let mut visible = handle.visible();
    let mut next = from;
    let look = async {
        loop {
            visible.borrow_and_update();
            for held in handle.tree_feed().since(next, 100).expect("a feed that holds so few") {
                next = held.event.index.next();
                if held.event.node.path.to_string() == path {
                    return tree::Event::clone(&held.event);
                }
            }
            visible.changed().await.expect("the member runs");
        }
    };
    tokio::time::timeout(PATIENCE, look).await.expect("an event")
}

#[test]
fn the_tree_and_the_keys_share_a_log_and_each_counts_its_own_changes() {
    let ports = [("a", free_port())];
    let member = start(config("a", &ports, None)).expect("started");
    run(async {
        let handle = member.handle();
        for round in 1..=3 {
            assert_eq!(write_soon(&handle, "k", "v").await, round + 1);
            assert_eq!(write_node(&handle, file("/foo", "bar")).await, TreeIndex(round));
        }
    });
    member.stop();
}

#[test]
fn a_node_ends_by_itself_on_every_member_and_those_who_watch_are_told() {
    let (_, members) = three(None);
    run(async {
        let short = Write { ttl_seconds: Some(1), ..file("/short", "bar") };
        let set = write_node(&members[0].handle(), short).await;
        for member in &members {
            let event = wait_for(&member.handle(), "/short", set.next()).await;
            assert_eq!((event.action, event.index), (Action::Expire, set.next()));
            assert!(event.wall_time.0 >= event.previous.expect("it was there").expiration.expect("a TTL").0);
        }
    });
    members.into_iter().for_each(Running::stop);
}

#[test]
fn a_restart_keeps_the_tree_its_index_and_its_history() {
    let folder = tempfile::tempdir().expect("a folder");
    let ports = [("a", free_port())];
    let start_it = || start(config("a", &ports, Some(folder.path()))).expect("started");
    let member = start_it();
    run(async {
        write_node(&member.handle(), file("/dir/one", "1")).await;
        write_node(&member.handle(), file("/dir/two", "2")).await;
    });
    member.stop();
    let member = start_it();
    run(async {
        let handle = member.handle();
        let third = write_node(&handle, file("/dir/three", "3")).await;
        assert_eq!(third, TreeIndex(3), "a restart takes no index");
        handle.read_index().await.expect("a read round");
        let path = tree::Path::clean(b"/dir").expect("a path");
        let reply = tree::get(handle.store(), &Get { path, recursive: false, bytes_max: 1 << 20 });
        let names: Vec<_> = reply.expect("there").below.iter().map(|node| node.path.to_string()).collect();
        assert_eq!(names, ["/dir/one", "/dir/three", "/dir/two"]);
        let first = tree::event(&handle.store().read(), TreeIndex(1)).expect("history is kept");
        let first = tree::load_event(handle.store(), &first).expect("its value");
        assert_eq!(first.node.value, Value::Here("1".into()));
    });
    member.stop();
}
