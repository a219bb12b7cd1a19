//! Users and roles as clients write and read them in JSON.
//!
//! A list that a client does not name is `null`, which is told from an empty one: servers of this protocol keep the two
//! apart, and some clients look. Of a body the first value counts, as such servers read it.

use quorate_models::tree::{Role, User};
use serde_json::Value;

use super::super::json;

/// What a role may do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    pub read: Option<Vec<String>>,
    pub write: Option<Vec<String>>,
}

impl Permissions {
    pub fn is_empty(&self) -> bool {
        [&self.read, &self.write].into_iter().all(|list| list.as_ref().is_none_or(Vec::is_empty))
    }
}

/// A role, as it is asked for or told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RoleDocument {
    pub role: String,
    pub permissions: Permissions,
    pub grant: Option<Permissions>,
    pub revoke: Option<Permissions>,
}

/// A user, as it is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserDocument {
    pub user: String,
    pub password: String,
    pub roles: Option<Vec<String>>,
    pub grant: Vec<String>,
    pub revoke: Vec<String>,
}

/// The first JSON value of a body, if it is an object.
fn object(body: &[u8]) -> Option<serde_json::Map<String, Value>> {
    match serde_json::Deserializer::from_slice(body).into_iter::<Value>().next() {
        Some(Ok(Value::Object(fields))) => Some(fields),
        _ => None,
    }
}

/// A field, whatever the case of its name. `null` is as good as none.
fn field<'a>(fields: &'a serde_json::Map<String, Value>, name: &str) -> Option<&'a Value> {
    let exact = fields.get(name);
    let found = exact.or_else(|| {
        fields.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    });
    found.filter(|value| !value.is_null())
}

fn text(fields: &serde_json::Map<String, Value>, name: &str) -> Option<String> {
    match field(fields, name) {
        None => Some(String::new()),
        Some(value) => value.as_str().map(str::to_owned),
    }
}

/// `None`: it is no list of strings.
fn list(fields: &serde_json::Map<String, Value>, name: &str) -> Option<Option<Vec<String>>> {
    match field(fields, name) {
        None => Some(None),
        Some(Value::Array(items)) => {
            items.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<_>>().map(Some)
        }
        Some(_) => None,
    }
}

fn permissions(fields: &serde_json::Map<String, Value>, name: &str) -> Option<Option<Permissions>> {
    let Some(value) = field(fields, name) else { return Some(None) };
    let Some(keys) = field(value.as_object()?, "kv") else { return Some(Some(Permissions::default())) };
    let keys = keys.as_object()?;
    Some(Some(Permissions { read: list(keys, "read")?, write: list(keys, "write")? }))
}

impl RoleDocument {
    /// `None`: the body is no JSON, or not of this form.
    pub fn read(body: &[u8]) -> Option<Self> {
        let fields = object(body)?;
        Some(Self {
            role: text(&fields, "role")?,
            permissions: permissions(&fields, "permissions")?.unwrap_or_default(),
            grant: permissions(&fields, "grant")?,
            revoke: permissions(&fields, "revoke")?,
        })
    }

    pub fn write(&self, out: &mut String) {
        out.push_str("{\"role\":");
        json::string(out, self.role.as_bytes());
        out.push_str(",\"permissions\":");
        write_permissions(out, &self.permissions);
        for (name, asked) in [("grant", &self.grant), ("revoke", &self.revoke)] {
            if let Some(asked) = asked {
                out.push_str(&format!(",\"{name}\":"));
                write_permissions(out, asked);
            }
        }
        out.push('}');
    }
}

impl From<Role> for RoleDocument {
    fn from(role: Role) -> Self {
        let permissions = Permissions { read: role.read, write: role.write };
        Self { role: role.name, permissions, grant: None, revoke: None }
    }
}

impl UserDocument {
    /// `None`: the body is no JSON, or not of this form.
    pub fn read(body: &[u8]) -> Option<Self> {
        let fields = object(body)?;
        Some(Self {
            user: text(&fields, "user")?,
            password: text(&fields, "password")?,
            roles: list(&fields, "roles")?,
            grant: list(&fields, "grant")?.unwrap_or_default(),
            revoke: list(&fields, "revoke")?.unwrap_or_default(),
        })
    }
}

fn write_list(out: &mut String, items: Option<&[String]>) {
    let Some(items) = items else { return out.push_str("null") };
    out.push('[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        json::string(out, item.as_bytes());
    }
    out.push(']');
}

fn write_permissions(out: &mut String, permissions: &Permissions) {
    out.push_str("{\"kv\":{\"read\":");
    write_list(out, permissions.read.as_deref());
    out.push_str(",\"write\":");
    write_list(out, permissions.write.as_deref());
    out.push_str("}}");
}

/// A user as the answer to a change tells it: with the names of its roles.
pub fn changed_user(user: &User) -> String {
    let mut out = String::from("{\"user\":");
    json::string(&mut out, user.name.as_bytes());
    out.push_str(",\"roles\":");
    write_list(&mut out, user.roles.as_deref());
    out.push_str("}\n");
    out
}

/// A user as it is shown: with its roles as wholes.
pub fn shown_user(out: &mut String, name: &str, roles: Vec<Role>) {
    out.push_str("{\"user\":");
    json::string(out, name.as_bytes());
    if !roles.is_empty() {
        out.push_str(",\"roles\":");
        shown_roles(out, roles);
    }
    out.push('}');
}

pub fn shown_roles(out: &mut String, roles: Vec<Role>) {
    for (at, role) in roles.into_iter().enumerate() {
        out.push(if at == 0 { '[' } else { ',' });
        RoleDocument::from(role).write(out);
    }
    out.push(']');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(items: &[&str]) -> Option<Vec<String>> {
        Some(items.iter().map(|&item| item.to_owned()).collect())
    }

    #[test]
    fn a_role_is_read_and_written_with_lists_that_are_null_or_empty() {
        let body = br#"{"role":"r","permissions":{"kv":{"read":["/a*"],"write":[]}},"grant":{"kv":{"write":["/w"]}}} x"#;
        let read = RoleDocument::read(body).expect("the first value counts");
        let expected = RoleDocument {
            role: "r".to_owned(),
            permissions: Permissions { read: texts(&["/a*"]), write: texts(&[]) },
            grant: Some(Permissions { read: None, write: texts(&["/w"]) }),
            revoke: None,
        };
        assert_eq!(read, expected);
        let mut out = String::new();
        read.write(&mut out);
        assert_eq!(
            out,
            r#"{"role":"r","permissions":{"kv":{"read":["/a*"],"write":[]}},"grant":{"kv":{"read":null,"write":["/w"]}}}"#
        );
    }

    #[test]
    fn what_has_another_form_is_no_document() {
        for body in ["", "x", "[]", "7", r#"{"role":7}"#, r#"{"role":"r","permissions":[]}"#] {
            assert_eq!(RoleDocument::read(body.as_bytes()), None, "{body}");
        }
        for body in [r#"{"user":"u","roles":"x"}"#, r#"{"user":"u","grant":[1]}"#, r#"{"user":{}}"#] {
            assert_eq!(UserDocument::read(body.as_bytes()), None, "{body}");
        }
        assert_eq!(UserDocument::read(b"{}"), Some(UserDocument::default()));
        let named = UserDocument::read(br#"{"User":"u","PASSWORD":"p","roles":null}"#).expect("any case");
        assert_eq!((named.user.as_str(), named.password.as_str(), named.roles), ("u", "p", None));
    }

    #[test]
    fn a_user_without_roles_shows_none() {
        let mut out = String::new();
        shown_user(&mut out, "u", Vec::new());
        assert_eq!(out, r#"{"user":"u"}"#);
        let user = User { name: "u".to_owned(), password: "secret".to_owned(), roles: None };
        assert_eq!(changed_user(&user), "{\"user\":\"u\",\"roles\":null}\n");
    }
}
