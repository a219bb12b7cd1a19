//! Members that differed in who may do what.

use bytes::Bytes;
use quorate_models::tree::{
    AuthChange, AuthRevision, Authority, Command, Path, Reply, Role, User, Write, auth_state,
};

use super::Scenario;
use crate::disk::CrashKind;
use crate::oracle::{Checked, ensure};
use crate::world::script::Script;

pub const ALL: &[Scenario] = &[Scenario::new("members-differ-in-who-may-do-what", outdated)
    .tune(|_, settings| (settings.checkpoint_entries, settings.log_retained_bytes) = (15, 0))
    .finds(&["skip-auth-revision"])];

fn revision(s: &Script, member: usize) -> AuthRevision {
    s.store(member).map(|store| auth_state(&store.read()).revision).unwrap_or_default()
}

/// Changes users and roles, as one that knows those of this member.
fn change(s: &mut Script, member: usize, change: AuthChange) -> Checked {
    let at = revision(s, member);
    let reply = s.tree(member, &Command::ChangeAuth { at, change })?;
    ensure!(matches!(reply, Reply::AuthChanged { .. }), "{reply:?}");
    Ok(())
}

fn write(s: &mut Script, member: usize, revision: AuthRevision, value: &'static str) -> Checked<Reply> {
    let path = Path::clean(b"/a/b").expect("a short path");
    let value = Bytes::from_static(value.as_bytes());
    let write = Write { path, value, dir: false, ttl_seconds: None, refresh: false };
    let authority = Authority { revision, user: Some("u".to_owned()) };
    s.tree(member, &Command::Authorised { authority, command: Box::new(Command::Set(write)) })
}

fn role(patterns: &[&str]) -> Role {
    let list = || Some(patterns.iter().map(|pattern| (*pattern).to_owned()).collect());
    Role { name: "r".to_owned(), read: list(), write: list() }
}

/// A member is away while a right is taken back, and lets a command through by what it knew; then all start again, one of
/// them from a snapshot.
fn outdated(s: &mut Script) -> Checked {
    let leader = s.leader()?;
    let away = (leader + 1) % s.members();
    let roles = Some(vec!["r".to_owned()]);
    change(s, leader, AuthChange::PutRole(role(&["/a/*"])))?;
    change(
        s,
        leader,
        AuthChange::PutUser(User { name: "u".to_owned(), password: "hash".to_owned(), roles }),
    )?;
    change(s, leader, AuthChange::Enable { role: None })?;
    s.until("all know", Script::all_applied)?;
    let known = revision(s, away);
    let reply = write(s, away, known, "allowed")?;
    ensure!(matches!(reply, Reply::Changed(_)), "a command that users and roles allow: {reply:?}");

    s.cut_off(away);
    change(s, leader, AuthChange::PutRole(role(&["/nothing"])))?;
    s.heal();
    let reply = write(s, away, known, "no longer allowed")?;
    ensure!(matches!(reply, Reply::Outdated { .. }), "a right was taken back, and used: {reply:?}");

    s.cut_off(away);
    change(s, leader, AuthChange::RemoveUser("u".to_owned()))?;
    super::puts(s, leader, 80, 2_000)?;
    let installed = s.counted("snapshot: installed");
    s.heal();
    s.until("it installed a snapshot", |s| s.counted("snapshot: installed") > installed)?;
    s.until("all know", Script::all_applied)?;
    (0..s.members()).for_each(|member| s.crash(member, CrashKind::Power));
    for member in 0..s.members() {
        s.start(member)?;
    }
    s.leader()?;
    for member in 0..s.members() {
        let reply = write(s, member, known, "long gone")?;
        ensure!(matches!(reply, Reply::Outdated { .. }), "m{member}: {reply:?}");
        let now = revision(s, member);
        let reply = write(s, member, now, "by those of now")?;
        ensure!(matches!(reply, Reply::Changed(_)), "m{member}: {reply:?}");
    }
    Ok(())
}
