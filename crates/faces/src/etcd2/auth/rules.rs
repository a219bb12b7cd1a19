//! What a change of users and roles comes to, and why it may be refused: pure.
//!
//! Statuses, texts and the order of checks are those that 2.3 and 3.4 have.

use std::collections::BTreeSet;

use http::StatusCode;
use quorate_models::tree::{
    AUTH_LIST_MAX, AUTH_NAME_BYTES_MAX, AUTH_PATTERN_BYTES_MAX, AuthState, Role, User,
};

use super::document::{Permissions, RoleDocument, UserDocument};

/// The role that may do everything. It is there without a record, and nobody changes it.
pub const ROOT: &str = "root";
/// The role of those who do not say who they are.
pub const GUEST: &str = "guest";
/// More of a password would not count: the hash does not look at it.
pub const PASSWORD_BYTES_MAX: usize = 72;

/// Why a request is refused: a status and what is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(pub StatusCode, pub String);

impl Refused {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self(status, message.into())
    }

    fn conflict(message: String) -> Self {
        Self(StatusCode::CONFLICT, message)
    }
}

/// All keys.
fn everything() -> Option<Vec<String>> {
    Some(vec!["/*".to_owned()])
}

pub fn root_role() -> Role {
    Role { name: ROOT.to_owned(), read: everything(), write: everything() }
}

/// What guests may do where nobody said otherwise before authentication was switched on.
pub fn guest_role() -> Role {
    Role { name: GUEST.to_owned(), read: everything(), write: everything() }
}

/// The user as it counts: the one called root has the role of that name whatever else.
pub fn with_root_role(mut user: User) -> User {
    if user.name == ROOT {
        let roles = user.roles.get_or_insert_default();
        if !roles.iter().any(|role| role == ROOT) {
            roles.push(ROOT.to_owned());
        }
    }
    user
}

/// What a wish for a user makes of the one that is there (with the role that root has), and the status of the answer.
/// `hash`: what is to be kept of the password, where one is given.
pub fn user(
    old: Option<User>,
    asked: &UserDocument,
    hash: Option<&str>,
) -> Result<(User, StatusCode), Refused> {
    let name = &asked.user;
    let names_roles = asked.roles.as_ref().is_some_and(|roles| !roles.is_empty());
    if !asked.grant.is_empty() || !asked.revoke.is_empty() {
        if names_roles {
            let message = "User JSON contains both roles and grant/revoke";
            return Err(Refused::new(StatusCode::BAD_REQUEST, message));
        }
        let missing = || Refused::new(StatusCode::NOT_FOUND, format!("auth: User {name} does not exist."));
        return Ok((updated_user(old.ok_or_else(missing)?, asked, hash)?, StatusCode::OK));
    }
    match old {
        Some(old) if !names_roles => Ok((updated_user(old, asked, hash)?, StatusCode::OK)),
        old => {
            let Some(hash) = hash else {
                let message = format!("auth: Cannot create user {name} with an empty password");
                return Err(Refused::new(StatusCode::BAD_REQUEST, message));
            };
            if old.is_some() {
                return Err(Refused::conflict(format!("auth: User {name} already exists.")));
            }
            let made = User { name: name.clone(), password: hash.to_owned(), roles: asked.roles.clone() };
            // One with roles is answered as if it had been there.
            let status = if names_roles { StatusCode::OK } else { StatusCode::CREATED };
            Ok((with_root_role(made), status))
        }
    }
}

fn updated_user(old: User, asked: &UserDocument, hash: Option<&str>) -> Result<User, Refused> {
    let name = &asked.user;
    let mut roles: BTreeSet<String> = old.roles.iter().flatten().cloned().collect();
    for role in &asked.grant {
        if !roles.insert(role.clone()) {
            return Err(Refused::conflict(format!("auth: Granting duplicate role {role} for user {name}")));
        }
    }
    for role in &asked.revoke {
        if !roles.remove(role) {
            return Err(Refused::conflict(format!("auth: Revoking ungranted role {role} for user {name}")));
        }
    }
    let password = hash.map_or_else(|| old.password.clone(), str::to_owned);
    let new = User { name: old.name.clone(), password, roles: Some(roles.into_iter().collect()) };
    if new == old {
        let message = "auth: User not updated. Use grant/revoke/password to update the user.";
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    Ok(new)
}

/// What a wish for a role makes of the one that is there, and the status of the answer.
pub fn role(old: Option<Role>, asked: &RoleDocument) -> Result<(Role, StatusCode), Refused> {
    let name = &asked.role;
    let empty = |asked: &Option<Permissions>| asked.as_ref().is_none_or(Permissions::is_empty);
    if empty(&asked.grant) && empty(&asked.revoke) {
        not_root(name)?;
        if old.is_some() {
            return Err(Refused::conflict(format!("auth: Role {name} already exists.")));
        }
        let Permissions { read, write } = asked.permissions.clone();
        return Ok((Role { name: name.clone(), read, write }, StatusCode::CREATED));
    }
    if !asked.permissions.is_empty() {
        let message = "Role JSON contains both permissions and grant/revoke";
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    not_root(name)?;
    let missing = || Refused::new(StatusCode::NOT_FOUND, format!("auth: Role {name} does not exist."));
    let old = old.ok_or_else(missing)?;
    let mut new = old.clone();
    if let Some(grant) = &asked.grant {
        new.read = Some(granted(new.read, grant.read.as_deref(), "read")?);
        new.write = Some(granted(new.write, grant.write.as_deref(), "write")?);
    }
    if let Some(revoke) = &asked.revoke {
        new.read = Some(revoked(new.read, revoke.read.as_deref()));
        new.write = Some(revoked(new.write, revoke.write.as_deref()));
    }
    if new == old {
        let message = "auth: Role not updated. Use grant/revoke to update the role.";
        return Err(Refused::new(StatusCode::BAD_REQUEST, message));
    }
    Ok((new, StatusCode::OK))
}

pub fn not_root(name: &str) -> Result<(), Refused> {
    if name == ROOT {
        let message = format!("auth: Cannot modify role {name}: is root role.");
        return Err(Refused::new(StatusCode::FORBIDDEN, message));
    }
    Ok(())
}

fn granted(list: Option<Vec<String>>, more: Option<&[String]>, kind: &str) -> Result<Vec<String>, Refused> {
    let mut list: BTreeSet<String> = list.into_iter().flatten().collect();
    for pattern in more.unwrap_or_default() {
        if !list.insert(pattern.clone()) {
            return Err(Refused::conflict(format!("auth: Granting duplicate {kind} permission {pattern}")));
        }
    }
    Ok(list.into_iter().collect())
}

/// One that was not granted is no mistake.
fn revoked(list: Option<Vec<String>>, less: Option<&[String]>) -> Vec<String> {
    let mut list: BTreeSet<String> = list.into_iter().flatten().collect();
    for pattern in less.unwrap_or_default() {
        list.remove(pattern);
    }
    list.into_iter().collect()
}

/// Whether authentication may be switched on.
pub fn enable(state: AuthState, has_root: bool) -> Result<(), Refused> {
    if state.enabled {
        return Err(Refused::conflict("auth: already enabled".to_owned()));
    }
    if !has_root {
        return Err(Refused::conflict("auth: No root user available, please create one".to_owned()));
    }
    Ok(())
}

/// Whether a user fits where it is kept.
pub fn check_user(user: &User) -> Result<(), Refused> {
    let roles = user.roles.as_deref().unwrap_or_default();
    bounded(&user.name, &[(roles, AUTH_NAME_BYTES_MAX, "role")])
}

/// Whether a role fits where it is kept.
pub fn check_role(role: &Role) -> Result<(), Refused> {
    let list = |list: &'_ Option<Vec<String>>| list.clone().unwrap_or_default();
    let (read, write) = (list(&role.read), list(&role.write));
    bounded(
        &role.name,
        &[(&read, AUTH_PATTERN_BYTES_MAX, "pattern"), (&write, AUTH_PATTERN_BYTES_MAX, "pattern")],
    )
}

fn bounded(name: &str, lists: &[(&[String], usize, &str)]) -> Result<(), Refused> {
    let refused = |message| Err(Refused::new(StatusCode::BAD_REQUEST, message));
    if name.len() > AUTH_NAME_BYTES_MAX {
        return refused(format!(
            "auth: the name has {} bytes; at most {AUTH_NAME_BYTES_MAX} are possible",
            name.len()
        ));
    }
    for (list, bytes_max, what) in lists {
        if list.len() > AUTH_LIST_MAX {
            return refused(format!(
                "auth: a list has {} {what}s; at most {AUTH_LIST_MAX} are possible",
                list.len()
            ));
        }
        if let Some(long) = list.iter().find(|item| item.len() > *bytes_max) {
            return refused(format!(
                "auth: a {what} has {} bytes; at most {bytes_max} are possible",
                long.len()
            ));
        }
    }
    Ok(())
}

/// A pattern that ends in a star stands for all keys that begin with what is before it.
fn matches(pattern: &str, key: &[u8], recursive: bool) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => key.starts_with(prefix.as_bytes()),
        // Only a star grants what lies below a key.
        None => !recursive && key == pattern.as_bytes(),
    }
}

/// Whether a role may read or write a key, or all that lies below it.
pub fn allows(role: &Role, key: &[u8], write: bool, recursive: bool) -> bool {
    let patterns = if write { &role.write } else { &role.read };
    role.name == ROOT || patterns.iter().flatten().any(|pattern| matches(pattern, key, recursive))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|&item| item.to_owned()).collect())
    }

    fn asked(name: &str) -> UserDocument {
        UserDocument { user: name.to_owned(), ..UserDocument::default() }
    }

    fn known(name: &str, roles: Option<Vec<String>>) -> User {
        User { name: name.to_owned(), password: "h".to_owned(), roles }
    }

    #[test]
    fn a_user_is_made_with_a_password_and_not_twice() {
        let refused = user(None, &asked("u"), None).expect_err("no password");
        assert_eq!(
            refused,
            Refused::new(StatusCode::BAD_REQUEST, "auth: Cannot create user u with an empty password")
        );
        let made = user(None, &asked("u"), Some("h")).expect("made");
        assert_eq!(made, (known("u", None), StatusCode::CREATED));
        let with_roles = UserDocument { roles: texts(&["b", "a"]), ..asked("u") };
        let made = user(None, &with_roles, Some("h")).expect("made");
        assert_eq!(made, (known("u", texts(&["b", "a"])), StatusCode::OK));
        let again = user(Some(known("u", None)), &with_roles, Some("h")).expect_err("there already");
        assert_eq!(again, Refused::new(StatusCode::CONFLICT, "auth: User u already exists."));
        let root = user(None, &asked("root"), Some("h")).expect("made").0;
        assert_eq!(root.roles, texts(&["root"]));
    }

    #[test]
    fn roles_of_a_user_are_granted_and_revoked_as_sets() {
        let old = known("u", texts(&["b"]));
        let grant = UserDocument { grant: vec!["a".to_owned()], ..asked("u") };
        assert_eq!(user(Some(old.clone()), &grant, None).expect("granted").0.roles, texts(&["a", "b"]));
        let twice = UserDocument { grant: vec!["b".to_owned()], ..asked("u") };
        assert_eq!(user(Some(old.clone()), &twice, None).expect_err("twice").0, StatusCode::CONFLICT);
        let revoke = UserDocument { revoke: vec!["x".to_owned()], ..asked("u") };
        assert_eq!(
            user(Some(old.clone()), &revoke, None).expect_err("not granted").1,
            "auth: Revoking ungranted role x for user u"
        );
        assert_eq!(user(None, &grant, None).expect_err("no such user").0, StatusCode::NOT_FOUND);
        let nothing = user(Some(old.clone()), &asked("u"), None).expect_err("nothing to do");
        assert_eq!(nothing.0, StatusCode::BAD_REQUEST);
        let both = UserDocument { roles: texts(&["c"]), ..grant };
        assert_eq!(user(Some(old), &both, None).expect_err("both").0, StatusCode::BAD_REQUEST);
    }

    #[test]
    fn a_role_is_made_granted_and_revoked_but_never_the_one_called_root() {
        let asked = |name: &str| RoleDocument { role: name.to_owned(), ..RoleDocument::default() };
        let some = |read: &[&str]| Some(Permissions { read: texts(read), write: None });
        let (made, status) = role(None, &asked("r")).expect("made");
        assert_eq!((status, &made.read), (StatusCode::CREATED, &None));
        assert_eq!(role(Some(made.clone()), &asked("r")).expect_err("twice").0, StatusCode::CONFLICT);
        let grant = RoleDocument { grant: some(&["/b", "/a"]), ..asked("r") };
        let (granted, status) = role(Some(made), &grant).expect("granted");
        assert_eq!(
            (status, &granted.read, &granted.write),
            (StatusCode::OK, &texts(&["/a", "/b"]), &texts(&[]))
        );
        let again = role(Some(granted.clone()), &grant).expect_err("granted twice");
        assert_eq!(again, Refused::conflict("auth: Granting duplicate read permission /b".to_owned()));
        let revoke = RoleDocument { revoke: some(&["/x", "/a"]), ..asked("r") };
        assert_eq!(role(Some(granted.clone()), &revoke).expect("revoked").0.read, texts(&["/b"]));
        let nothing = RoleDocument { revoke: some(&["/x"]), ..asked("r") };
        assert_eq!(role(Some(granted), &nothing).expect_err("nothing to do").0, StatusCode::BAD_REQUEST);
        assert_eq!(role(None, &grant).expect_err("no such role").0, StatusCode::NOT_FOUND);
        for document in [asked(ROOT), RoleDocument { grant: some(&["/"]), ..asked(ROOT) }] {
            assert_eq!(role(None, &document).expect_err("root").0, StatusCode::FORBIDDEN);
        }
    }

    #[test]
    fn a_pattern_stands_for_one_key_or_for_all_that_begin_with_it() {
        for (pattern, key, one, all) in [
            ("/a", "/a", true, false),
            ("/a", "/a/b", false, false),
            ("/a*", "/a", true, true),
            ("/a*", "/ab/c", true, true),
            ("/a/*", "/a/", true, true),
            ("/a/*", "/a", false, false),
            ("/a/*", "/b/a/", false, false),
            ("*", "", true, true),
            ("/*", "", false, false),
            ("", "", true, false),
            ("/*a", "/*a", true, false),
            ("/*a", "/xa", false, false),
        ] {
            let role = Role { name: "r".to_owned(), read: texts(&[pattern]), write: None };
            assert_eq!(allows(&role, key.as_bytes(), false, false), one, "{pattern} {key}");
            assert_eq!(allows(&role, key.as_bytes(), false, true), all, "{pattern} {key}, and below");
            assert!(!allows(&role, key.as_bytes(), true, false), "{pattern} {key}: to read is not to write");
        }
        let root = Role { name: ROOT.to_owned(), ..Role::default() };
        assert!(allows(&root, b"/any", true, true));
    }

    #[test]
    fn what_would_not_fit_is_refused_with_its_bound() {
        let long = User { name: "n".repeat(AUTH_NAME_BYTES_MAX + 1), ..User::default() };
        assert!(check_user(&long).expect_err("too long").1.contains("at most 255"));
        let many = Role { read: Some(vec!["/".to_owned(); AUTH_LIST_MAX + 1]), ..Role::default() };
        assert!(check_role(&many).expect_err("too many").1.contains("at most 1000"));
    }
}
