//! Who a client is, and whether it may do what it asks for.
//!
//! Invariants: the records are looked at under one hold of the tables' lock, and what is allowed names their revision;
//! nobody is turned away for records that this member has not caught up with; while authentication is off, nothing but
//! the revision is looked at.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use http::{HeaderMap, request};
use quorate_models::tree::{self, AuthRevision, Authority, Role, User};

use super::super::errors::{Error, RAFT_INTERNAL, UNAUTHORISED};
use super::super::{Thread, is_read};
use super::passwords::Busy;
use super::rules;
use crate::listener::ClientNames;

/// How often records that change while they are looked at are looked at again.
pub const TRIES_MAX: usize = 16;

/// What a request needs a right for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    /// Everything.
    Root,
    Key {
        key: Vec<u8>,
        write: bool,
        recursive: bool,
    },
}

impl Need {
    /// What a request for a key needs. `key` is the path as it was asked for: one that ends in a slash is another one to
    /// patterns, as it always was to servers of this protocol. `path` is what it means.
    pub fn of_key(head: &request::Parts, key: &[u8], path: &tree::Path, recursive: bool) -> Self {
        let mut named = if key.is_empty() { Vec::new() } else { path.as_bytes().to_vec() };
        if key.ends_with(b"/") && !path.is_root() {
            named.push(b'/');
        }
        Self::Key { key: named, write: !is_read(&head.method), recursive }
    }
}

/// Why somebody is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    Unauthorised,
    Busy,
}

impl From<Busy> for Denied {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthorised => Self::new(UNAUTHORISED, "Insufficient credentials"),
            Denied::Busy => Self::new(RAFT_INTERNAL, "too many passwords are being checked; ask again"),
        }
    }
}

/// What a client says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Claim {
    Nothing,
    Password {
        user: String,
        password: Vec<u8>,
    },
    /// The names in its certificate, which was checked when it connected.
    Certificate(Vec<String>),
    /// What it says makes no sense.
    Unreadable,
}

impl Claim {
    fn of(head: &request::Parts, certificates_count: bool) -> Self {
        if head.headers.get(AUTHORIZATION).is_some_and(|value| !value.is_empty()) {
            return match basic(&head.headers) {
                Some((user, password)) => Self::Password { user, password },
                None => Self::Unreadable,
            };
        }
        match head.extensions.get::<ClientNames>().filter(|_| certificates_count) {
            Some(names) => Self::Certificate(names.0.to_vec()),
            None => Self::Nothing,
        }
    }
}

/// User and password of HTTP's basic authentication.
fn basic(headers: &HeaderMap) -> Option<(String, Vec<u8>)> {
    let (scheme, encoded) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = STANDARD.decode(encoded).ok()?;
    let at = decoded.iter().position(|byte| *byte == b':')?;
    Some((String::from_utf8(decoded[..at].to_vec()).ok()?, decoded[at + 1..].to_vec()))
}

/// Who a client turned out to be, as the records of one revision have it.
struct Known {
    revision: AuthRevision,
    who: Who,
}

enum Who {
    /// Nobody is asked.
    Anybody,
    Nobody,
    Guest(Option<Role>),
    User {
        user: User,
        roles: Vec<Role>,
        proven: bool,
    },
}

impl Thread {
    /// What the records say of a client.
    fn known(&self, claim: &Claim) -> Known {
        let tables = self.handle().store().read();
        let state = tree::auth_state(&tables);
        let named = |name: &str, proven| {
            let user = rules::with_root_role(tree::user(&tables, name)?);
            let names = user.roles.iter().flatten();
            let roles = names.filter_map(|name| {
                if name == rules::ROOT { Some(rules::root_role()) } else { tree::role(&tables, name) }
            });
            Some(Who::User { roles: roles.collect(), user, proven })
        };
        let guest = || Who::Guest(tree::role(&tables, rules::GUEST));
        let who = match claim {
            _ if !state.enabled => Who::Anybody,
            Claim::Nothing => guest(),
            Claim::Unreadable => Who::Nobody,
            Claim::Password { user, .. } => named(user, false).unwrap_or(Who::Nobody),
            Claim::Certificate(names) => {
                names.iter().find_map(|name| named(name, true)).unwrap_or_else(guest)
            }
        };
        Known { revision: state.revision, who }
    }

    async fn judge(&self, claim: &Claim, need: &Need) -> (AuthRevision, Result<Option<String>, Denied>) {
        let Known { revision, who } = self.known(claim);
        let allowed = |role: &Role| match need {
            Need::Root => role.name == rules::ROOT,
            Need::Key { key, write, recursive } => rules::allows(role, key, *write, *recursive),
        };
        let verdict = match who {
            Who::Anybody => Ok(None),
            Who::Nobody | Who::Guest(None) => Err(Denied::Unauthorised),
            // To guests, one key is as good as all below it.
            Who::Guest(Some(role)) => match need {
                Need::Key { key, write, .. } if rules::allows(&role, key, *write, false) => Ok(None),
                _ => Err(Denied::Unauthorised),
            },
            Who::User { user, roles, proven } => {
                let proven = match claim {
                    Claim::Password { password, .. } if !proven => {
                        let passwords = &self.shared.passwords;
                        passwords.check(revision, &user.name, password, &user.password).await
                    }
                    _ => Ok(proven),
                };
                match proven {
                    Err(busy) => Err(busy.into()),
                    Ok(true) if roles.iter().any(allowed) => Ok(Some(user.name)),
                    Ok(_) => Err(Denied::Unauthorised),
                }
            }
        };
        (revision, verdict)
    }

    /// Whether a client may do this: on whose behalf, and by which records.
    pub async fn authorise(&self, head: &request::Parts, need: &Need) -> Result<Authority, Denied> {
        let claim = Claim::of(head, self.shared.config.client_cert_auth);
        let mut refused_at = None;
        for _ in 0..TRIES_MAX {
            let (revision, verdict) = self.judge(&claim, need).await;
            match verdict {
                Ok(user) => return Ok(Authority { revision, user }),
                Err(Denied::Unauthorised) if refused_at != Some(revision) => {
                    // Others may know of a user that this member has not heard of yet.
                    if self.handle().read_index().await.is_err() {
                        return Err(Denied::Unauthorised);
                    }
                    refused_at = Some(revision);
                    if tree::auth_state(&self.handle().store().read()).revision == revision {
                        return Err(Denied::Unauthorised);
                    }
                }
                Err(denied) => return Err(denied),
            }
        }
        Err(Denied::Unauthorised)
    }

    /// The same, by records that hold everything which was acknowledged anywhere before.
    pub async fn authorise_anew(&self, head: &request::Parts, need: &Need) -> Result<Authority, Error> {
        self.handle().read_index().await?;
        Ok(self.authorise(head, need).await?)
    }
}

#[cfg(test)]
mod tests {
    use http::Method;

    use super::*;

    fn head(authorization: Option<&str>) -> request::Parts {
        let mut builder = http::Request::builder().method(Method::PUT).uri("/v2/keys/a");
        if let Some(value) = authorization {
            builder = builder.header(AUTHORIZATION, value);
        }
        builder.body(()).expect("a request").into_parts().0
    }

    #[test]
    fn a_client_says_who_it_is_in_its_header() {
        let said = |user: &str, password: &str| Claim::Password {
            user: user.to_owned(),
            password: password.as_bytes().to_vec(),
        };
        for (value, claim) in [
            ("Basic dTpwOnE=", said("u", "p:q")),
            ("basic Og==", said("", "")),
            ("Basic dQ==", Claim::Unreadable),
            ("Basic !", Claim::Unreadable),
            ("Basic", Claim::Unreadable),
            ("Bearer dTpw", Claim::Unreadable),
            ("Basic /zpw", Claim::Unreadable),
        ] {
            assert_eq!(Claim::of(&head(Some(value)), false), claim, "{value}");
        }
        assert_eq!(Claim::of(&head(None), true), Claim::Nothing);
        assert_eq!(Claim::of(&head(Some("")), true), Claim::Nothing);
    }

    #[test]
    fn names_of_a_certificate_count_where_that_is_asked_for_and_nothing_else_was_said() {
        let mut with = head(None);
        with.extensions.insert(ClientNames(vec!["u".to_owned()].into()));
        assert_eq!(Claim::of(&with, true), Claim::Certificate(vec!["u".to_owned()]));
        assert_eq!(Claim::of(&with, false), Claim::Nothing);
        with.headers.insert(AUTHORIZATION, "Basic !".parse().expect("a value"));
        assert_eq!(Claim::of(&with, true), Claim::Unreadable);
    }

    #[test]
    fn a_key_is_matched_as_it_was_asked_for_without_its_dots() {
        for (asked, named) in [
            ("", ""),
            ("/", "/"),
            ("/a", "/a"),
            ("/a/", "/a/"),
            ("/a/../b//", "/b/"),
            ("/a/..", "/"),
            ("/a/.", "/a"),
        ] {
            let path = tree::Path::clean(asked.as_bytes()).expect("a path");
            let need = Need::of_key(&head(None), asked.as_bytes(), &path, true);
            assert_eq!(
                need,
                Need::Key { key: named.as_bytes().to_vec(), write: true, recursive: true },
                "{asked}"
            );
        }
    }
}
