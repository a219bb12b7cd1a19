//! `/v2/auth`: users, roles, and whether clients are asked who they are, as in 2.3 and 3.4.
//!
//! Invariants: a change is judged by the records of one revision and takes effect on those alone; passwords are hashed
//! before they go into the log, and none comes back in an answer.

mod access;
mod document;
mod passwords;
mod rules;

use http::{Method, Response, StatusCode, request};
use hyper::body::Incoming;
use quorate_models::tree::{self, AuthChange, Role, User};

pub(super) use self::access::{Denied, Need, TRIES_MAX};
use self::document::{RoleDocument, UserDocument};
pub(super) use self::passwords::Passwords;
use self::rules::Refused;
use super::errors::Error;
use super::routes::{not_allowed, said};
use super::{JSON, Thread, form, not_found, reply};
use crate::listener::Body;

/// A user or a role in a request is at most this long.
const REQUEST_BYTES_MAX: usize = 1 << 20;

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self(error.status(), error.cause.into_owned())
    }
}

impl From<Denied> for Refused {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Unauthorised => Self::new(StatusCode::UNAUTHORIZED, "Insufficient credentials"),
            Denied::Busy => {
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "too many passwords are being checked; ask again")
            }
        }
    }
}

/// What a path below `/v2/auth` names.
enum Subject<'a> {
    Enable,
    Users,
    User(&'a str),
    Roles,
    Role(&'a str),
}

/// A change, and the answer once it is made.
type Wished = Result<(AuthChange, StatusCode, String), Refused>;

impl Thread {
    /// Answers a request for `/v2/auth` and what is below it.
    pub(super) async fn auth(&self, head: &request::Parts, path: &[u8], body: Incoming) -> Response<Body> {
        let Ok(path) = std::str::from_utf8(path) else { return not_found() };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let (subject, methods) = match *parts {
            ["enable"] if !path.ends_with('/') => (Subject::Enable, "GET,PUT,DELETE"),
            ["users"] => (Subject::Users, "GET"),
            ["users", user] => (Subject::User(user), "GET,PUT,DELETE"),
            ["roles"] => (Subject::Roles, "GET"),
            ["roles", role] => (Subject::Role(role), "GET,PUT,DELETE"),
            ["users" | "roles", ..] => return said(StatusCode::BAD_REQUEST, "Invalid path"),
            _ => return not_found(),
        };
        if !methods.split(',').any(|method| method == head.method.as_str()) {
            return not_allowed(methods);
        }
        match self.auth_request(head, &subject, body).await {
            // Who has no right is told no more than that.
            Err(Refused(status @ StatusCode::UNAUTHORIZED, message)) => said(status, &message),
            Err(Refused(status, message)) => self.of_cluster(said(status, &message)),
            Ok((status, body)) => self.of_cluster(reply(status, JSON, body)),
        }
    }

    async fn auth_request(
        &self,
        head: &request::Parts,
        subject: &Subject<'_>,
        body: Incoming,
    ) -> Result<(StatusCode, String), Refused> {
        let is_public = matches!(subject, Subject::Enable) && head.method == Method::GET;
        if head.method == Method::GET {
            self.may_read().await?;
            if !is_public {
                self.authorise(head, &Need::Root).await?;
            }
            return self.tell(subject).map(|text| (StatusCode::OK, text));
        }
        self.authorise(head, &Need::Root).await?;
        let asked = self.asked(head, subject, body).await?;
        for _ in 0..TRIES_MAX {
            // Judged by all that was acknowledged before, and refused unchanged by anything later.
            let authority = self.authorise_anew(head, &Need::Root).await?;
            let (change, status, text) = self.wished(&asked)?;
            let command = tree::Command::ChangeAuth { at: authority.revision, change };
            match self.propose(&command).await?.0 {
                tree::Reply::AuthChanged { revision, .. } => {
                    tracing::info!(
                        revision = revision.0,
                        what = asked.what(),
                        "users or roles of the v2 API changed"
                    );
                    return Ok((status, text));
                }
                tree::Reply::Refused { error, .. } => {
                    return Err(Refused::new(StatusCode::FORBIDDEN, format!("auth: {error}")));
                }
                _ => {}
            }
        }
        let message = "auth: users and roles change faster than this can be judged; ask again";
        Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, message))
    }

    // ---- what there is ----

    fn tell(&self, subject: &Subject<'_>) -> Result<String, Refused> {
        let tables = self.handle().store().read();
        let stored = |name: &str| {
            if name == rules::ROOT { Some(rules::root_role()) } else { tree::role(&tables, name) }
        };
        let missing = |what: &str, name: &str| {
            Refused::new(StatusCode::NOT_FOUND, format!("auth: {what} {name} does not exist."))
        };
        let mut out = String::new();
        match subject {
            Subject::Enable => {
                out.push_str(&format!("{{\"enabled\":{}}}", tree::auth_state(&tables).enabled));
            }
            Subject::Role(name) => {
                let role = stored(name).ok_or_else(|| missing("Role", name))?;
                RoleDocument::from(role).write(&mut out);
            }
            Subject::Roles => {
                let mut names = tree::role_names(&tables);
                names.push(rules::ROOT.to_owned());
                names.sort();
                out.push_str("{\"roles\":");
                document::shown_roles(&mut out, names.iter().filter_map(|name| stored(name)).collect());
                out.push('}');
            }
            Subject::User(name) => {
                let user = tree::user(&tables, name).ok_or_else(|| missing("User", name))?;
                let names = rules::with_root_role(user).roles.unwrap_or_default();
                let roles: Result<Vec<Role>, Refused> =
                    names.iter().map(|name| stored(name).ok_or_else(|| missing("Role", name))).collect();
                document::shown_user(&mut out, name, roles?);
            }
            Subject::Users => {
                let names = tree::user_names(&tables);
                out.push_str(if names.is_empty() { "{\"users\":null" } else { "{\"users\":[" });
                for (at, name) in names.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    let user = tree::user(&tables, name).map(rules::with_root_role).unwrap_or_default();
                    // A role that is not there (any more) grants nothing, and is not shown.
                    let roles = user.roles.iter().flatten().filter_map(|role| stored(role)).collect();
                    document::shown_user(&mut out, name, roles);
                }
                out.push_str(if names.is_empty() { "}" } else { "]}" });
            }
        }
        out.push('\n');
        Ok(out)
    }

    // ---- what is to change ----

    async fn asked<'a>(
        &self,
        head: &request::Parts,
        subject: &Subject<'a>,
        body: Incoming,
    ) -> Result<Asked<'a>, Refused> {
        let deletes = head.method == Method::DELETE;
        let bad = |message| Err(Refused::new(StatusCode::BAD_REQUEST, message));
        Ok(match subject {
            Subject::Enable => Asked::Enable(!deletes),
            Subject::User(name) if deletes => Asked::NoUser(name),
            Subject::Role(name) if deletes => Asked::NoRole(name),
            Subject::User(name) => {
                let body = form::whole(body, REQUEST_BYTES_MAX, &self.share(head)).await?;
                let Some(asked) = UserDocument::read(&body) else {
                    return bad("Invalid JSON in request body.");
                };
                if asked.user != *name {
                    return bad("User JSON name does not match the name in the URL");
                }
                let hash = self.hashed(&asked.password).await?;
                Asked::User(asked, hash)
            }
            Subject::Role(name) => {
                let body = form::whole(body, REQUEST_BYTES_MAX, &self.share(head)).await?;
                let Some(asked) = RoleDocument::read(&body) else {
                    return bad("Invalid JSON in request body.");
                };
                if asked.role != *name {
                    return bad("Role JSON name does not match the name in the URL");
                }
                Asked::Role(asked)
            }
            Subject::Users | Subject::Roles => unreachable!("lists are told, not changed"),
        })
    }

    async fn hashed(&self, password: &str) -> Result<Option<String>, Refused> {
        if password.is_empty() {
            return Ok(None);
        }
        let refused = |message| Err(Refused::new(StatusCode::BAD_REQUEST, message));
        if password.len() > rules::PASSWORD_BYTES_MAX {
            return refused(format!(
                "auth: the password has {} bytes; at most {} count",
                password.len(),
                rules::PASSWORD_BYTES_MAX
            ));
        }
        match self.shared.passwords.hash(password.to_owned()).await.map_err(Denied::from)? {
            Some(hash) => Ok(Some(hash)),
            None => refused("auth: the password can't be hashed; take one without zero bytes".to_owned()),
        }
    }

    /// What a wish comes to with the records as they are.
    fn wished(&self, asked: &Asked<'_>) -> Wished {
        let tables = self.handle().store().read();
        let state = tree::auth_state(&tables);
        let user = |name: &str| tree::user(&tables, name);
        let nothing = String::new;
        Ok(match asked {
            Asked::Enable(true) => {
                rules::enable(state, user(rules::ROOT).is_some())?;
                (AuthChange::Enable { role: Some(rules::guest_role()) }, StatusCode::OK, nothing())
            }
            Asked::Enable(false) if !state.enabled => {
                return Err(Refused::new(StatusCode::CONFLICT, "auth: already disabled"));
            }
            Asked::Enable(false) => (AuthChange::Disable, StatusCode::OK, nothing()),
            Asked::NoUser(name) => {
                if state.enabled && *name == rules::ROOT {
                    let message = "auth: Cannot delete root user while auth is enabled.";
                    return Err(Refused::new(StatusCode::FORBIDDEN, message));
                }
                if user(name).is_none() {
                    let message = format!("auth: User {name} does not exist");
                    return Err(Refused::new(StatusCode::NOT_FOUND, message));
                }
                (AuthChange::RemoveUser((*name).to_owned()), StatusCode::OK, nothing())
            }
            Asked::NoRole(name) => {
                rules::not_root(name)?;
                if tree::role(&tables, name).is_none() {
                    let message = format!("auth: Role {name} doesn't exist.");
                    return Err(Refused::new(StatusCode::NOT_FOUND, message));
                }
                (AuthChange::RemoveRole((*name).to_owned()), StatusCode::OK, nothing())
            }
            Asked::User(asked, hash) => {
                let old = user(&asked.user).map(rules::with_root_role);
                let (new, status): (User, _) = rules::user(old, asked, hash.as_deref())?;
                rules::check_user(&new)?;
                let text = document::changed_user(&new);
                (AuthChange::PutUser(new), status, text)
            }
            Asked::Role(asked) => {
                let (new, status) = rules::role(tree::role(&tables, &asked.role), asked)?;
                rules::check_role(&new)?;
                let mut text = String::new();
                if status == StatusCode::CREATED {
                    asked.write(&mut text);
                } else {
                    RoleDocument::from(new.clone()).write(&mut text);
                }
                text.push('\n');
                (AuthChange::PutRole(new), status, text)
            }
        })
    }
}

/// A change as it is asked for, read and hashed once.
enum Asked<'a> {
    Enable(bool),
    NoUser(&'a str),
    NoRole(&'a str),
    User(UserDocument, Option<String>),
    Role(RoleDocument),
}

impl Asked<'_> {
    /// For the log of this program.
    fn what(&self) -> String {
        match self {
            Self::Enable(true) => "authentication is on".to_owned(),
            Self::Enable(false) => "authentication is off".to_owned(),
            Self::NoUser(name) => format!("user {name:?} is gone"),
            Self::NoRole(name) => format!("role {name:?} is gone"),
            Self::User(asked, _) => format!("user {:?}", asked.user),
            Self::Role(asked) => format!("role {:?}", asked.role),
        }
    }
}
