//! Answers as JSON, field by field in the order and with the escapes that clients of a Go server know.

use bytes::Bytes;

use super::Dialect;
use super::go_time::rfc3339_nano;

/// Writes a string. What is no UTF-8 becomes U+FFFD, as a Go server would write it.
pub fn string(out: &mut String, text: &[u8]) {
    out.push('"');
    for part in text.utf8_chunks() {
        for letter in part.valid().chars() {
            match letter {
                '"' => out.push_str("\\\""),
                '\\' => out.push_str("\\\\"),
                '\n' => out.push_str("\\n"),
                '\r' => out.push_str("\\r"),
                '\t' => out.push_str("\\t"),
                '\0'..='\u{1f}' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    out.push_str(&format!("\\u{:04x}", u32::from(letter)));
                }
                other => out.push(other),
            }
        }
        out.extend(part.invalid().iter().map(|_| "\\ufffd"));
    }
    out.push('"');
}

/// A node as it is shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    pub key: Bytes,
    /// A file's value; a node that an event deleted has none.
    pub value: Option<Bytes>,
    pub dir: bool,
    pub lifetime: Option<Lifetime>,
    /// What is in a directory that was listed.
    pub nodes: Vec<Self>,
    pub modified: u64,
    pub created: u64,
}

/// When a node ends, and how far that is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime {
    /// Nanoseconds since 1970.
    pub expiration: u64,
    /// Seconds, rounded up; below zero once it is over.
    pub ttl: i64,
}

impl Lifetime {
    /// What is shown of `expiration` at `now`, both in nanoseconds since 1970.
    #[must_use]
    pub fn at(expiration: u64, now: u64) -> Self {
        const NANOS_PER_SECOND: i128 = 1_000_000_000;
        let left = i128::from(expiration) - i128::from(now);
        // Towards zero, and up where a part of a second is left.
        let ttl = left / NANOS_PER_SECOND + i128::from(left % NANOS_PER_SECOND > 0);
        Self { expiration, ttl: i64::try_from(ttl).unwrap_or(i64::MAX) }
    }
}

/// An event, or the answer to a get.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Event {
    pub action: &'static str,
    pub node: Option<Node>,
    pub previous: Option<Node>,
}

impl Event {
    /// Whether it made a node that was not there: the status of its answer.
    #[must_use]
    pub fn created(&self) -> bool {
        self.action == "create" || self.action == "set" && self.previous.is_none()
    }

    /// The whole object, with the line's end that a dialect has.
    #[must_use]
    pub fn text(&self, dialect: Dialect) -> String {
        let mut out = String::with_capacity(256);
        out.push_str("{\"action\":");
        string(&mut out, self.action.as_bytes());
        for (name, node) in [("node", &self.node), ("prevNode", &self.previous)] {
            if let Some(node) = node {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                node.write(&mut out, dialect);
            }
        }
        out.push('}');
        if dialect == Dialect::V2 {
            out.push('\n');
        }
        out
    }
}

/// Writes an object's fields with commas in between.
struct Fields<'a> {
    out: &'a mut String,
    first: bool,
}

impl Fields<'_> {
    fn name(&mut self, name: &str) -> &mut String {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        self.out.push('"');
        self.out.push_str(name);
        self.out.push_str("\":");
        self.out
    }

    fn number(&mut self, name: &str, number: impl Into<i128>) {
        let number = number.into();
        if number != 0 {
            self.name(name).push_str(&number.to_string());
        }
    }

    fn lifetime(&mut self, lifetime: Option<Lifetime>) {
        if let Some(lifetime) = lifetime {
            string(self.name("expiration"), rfc3339_nano(lifetime.expiration).as_bytes());
            self.number("ttl", lifetime.ttl);
        }
    }
}

impl Node {
    /// How deep it nests is bounded by the depth that a path may have.
    fn write(&self, out: &mut String, dialect: Dialect) {
        out.push('{');
        let mut fields = Fields { out, first: true };
        // 2.x does not name the root.
        if dialect == Dialect::V04 || &self.key[..] != b"/" {
            string(fields.name("key"), &self.key);
        }
        if let Some(value) = &self.value {
            string(fields.name("value"), value);
        }
        if self.dir {
            fields.name("dir").push_str("true");
        }
        fields.lifetime(self.lifetime);
        if !self.nodes.is_empty() {
            let out = fields.name("nodes");
            out.push('[');
            for (at, node) in self.nodes.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                node.write(out, dialect);
            }
            out.push(']');
        }
        fields.number("modifiedIndex", self.modified);
        fields.number("createdIndex", self.created);
        out.push('}');
    }
}

/// The same in the form of the first version of the protocol, where a directory is a list. `index` is what every
/// answer tells; without it, each node tells its own.
#[must_use]
pub fn first_version(event: &Event, index: Option<u64>) -> String {
    let mut out = String::with_capacity(128);
    let Some(node) = &event.node else { return "null".to_owned() };
    if node.dir {
        out.push('[');
        for (at, child) in node.nodes.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            out.push('{');
            let mut fields = Fields { out: &mut out, first: true };
            string(fields.name("action"), event.action.as_bytes());
            string(fields.name("key"), &child.key);
            if child.dir {
                fields.name("dir").push_str("true");
            }
            if let Some(value) = &child.value {
                string(fields.name("value"), value);
            }
            fields.name("index").push_str(&index.unwrap_or(child.modified).to_string());
            out.push('}');
        }
        out.push(']');
        return out;
    }
    let previous = event.previous.as_ref().and_then(|previous| previous.value.as_ref());
    let action = match event.action {
        "compareAndSwap" | "create" => "testAndSet",
        other => other,
    };
    out.push('{');
    let mut fields = Fields { out: &mut out, first: true };
    string(fields.name("action"), action.as_bytes());
    string(fields.name("key"), &node.key);
    if let Some(previous) = previous {
        string(fields.name("prevValue"), previous);
    }
    if let Some(value) = &node.value {
        string(fields.name("value"), value);
    }
    if action == "set" && previous.is_none() {
        fields.name("newKey").push_str("true");
    }
    fields.lifetime(node.lifetime);
    fields.name("index").push_str(&index.unwrap_or(node.modified).to_string());
    out.push('}');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(key: &'static str, value: &'static str, modified: u64, created: u64) -> Node {
        Node {
            key: Bytes::from_static(key.as_bytes()),
            value: Some(Bytes::from_static(value.as_bytes())),
            modified,
            created,
            ..Node::default()
        }
    }

    #[test]
    fn strings_are_escaped_as_go_escapes_them() {
        for (text, written) in [
            (&b"plain"[..], "\"plain\""),
            (b"<a&b>", "\"\\u003ca\\u0026b\\u003e\""),
            (b"\"\\/", "\"\\\"\\\\/\""),
            (b"\n\r\t\x01\x1f\x7f", "\"\\n\\r\\t\\u0001\\u001f\x7f\""),
            ("\u{2028}\u{2029}é".as_bytes(), "\"\\u2028\\u2029é\""),
            (b"a\xffb\xc3(", "\"a\\ufffdb\\ufffd(\""),
        ] {
            let mut out = String::new();
            string(&mut out, text);
            assert_eq!(out, written);
        }
    }

    #[test]
    fn an_event_is_written_field_by_field() {
        let set = Event { action: "set", node: Some(file("/foo", "bar", 4, 4)), previous: None };
        let text =
            r#"{"action":"set","node":{"key":"/foo","value":"bar","modifiedIndex":4,"createdIndex":4}}"#;
        assert_eq!(set.text(Dialect::V04), text);
        assert_eq!(set.text(Dialect::V2), format!("{text}\n"));
        assert!(set.created());
        let again = Event { previous: Some(file("/foo", "", 4, 4)), ..set };
        assert!(!again.created());
        assert!(
            again
                .text(Dialect::V04)
                .ends_with(r#""prevNode":{"key":"/foo","value":"","modifiedIndex":4,"createdIndex":4}}"#)
        );
    }

    #[test]
    fn a_directory_shows_its_lifetime_before_what_is_in_it() {
        let lifetime = Lifetime::at(1_386_455_652_500_000_000, 1_386_455_650_400_000_000);
        let dir = Node {
            key: Bytes::from_static(b"/d"),
            dir: true,
            lifetime: Some(lifetime),
            nodes: vec![file("/d/x", "1", 5, 5)],
            modified: 4,
            created: 4,
            ..Node::default()
        };
        let get = Event { action: "get", node: Some(dir), previous: None };
        assert_eq!(
            get.text(Dialect::V04),
            r#"{"action":"get","node":{"key":"/d","dir":true,"expiration":"2013-12-07T22:34:12.5Z","ttl":3,"nodes":[{"key":"/d/x","value":"1","modifiedIndex":5,"createdIndex":5}],"modifiedIndex":4,"createdIndex":4}}"#
        );
    }

    #[test]
    fn the_root_has_a_name_in_one_dialect_and_no_index_in_either() {
        let root = Node { key: Bytes::from_static(b"/"), dir: true, ..Node::default() };
        let get = Event { action: "get", node: Some(root), previous: None };
        assert_eq!(get.text(Dialect::V04), r#"{"action":"get","node":{"key":"/","dir":true}}"#);
        assert_eq!(get.text(Dialect::V2), "{\"action\":\"get\",\"node\":{\"dir\":true}}\n");
    }

    #[test]
    fn what_is_left_of_a_lifetime_is_rounded_up_and_goes_below_zero() {
        const SECOND: u64 = 1_000_000_000;
        for (expiration, now, ttl) in [
            (10 * SECOND, 5 * SECOND, 5),
            (10 * SECOND, 5 * SECOND + 1, 5),
            (10 * SECOND, 5 * SECOND - 1, 6),
            (10 * SECOND, 10 * SECOND, 0),
            (5 * SECOND, 10 * SECOND, -5),
        ] {
            assert_eq!(Lifetime::at(expiration, now).ttl, ttl);
        }
    }

    #[test]
    fn the_first_version_has_names_of_its_own() {
        let set = Event { action: "set", node: Some(file("/foo", "1", 7, 7)), previous: None };
        assert_eq!(
            first_version(&set, None),
            r#"{"action":"set","key":"/foo","value":"1","newKey":true,"index":7}"#
        );
        let swap = Event {
            action: "compareAndSwap",
            node: Some(file("/foo", "3", 8, 7)),
            previous: Some(file("/foo", "2", 7, 7)),
        };
        assert_eq!(
            first_version(&swap, None),
            r#"{"action":"testAndSet","key":"/foo","prevValue":"2","value":"3","index":8}"#
        );
        let sub =
            Node { key: Bytes::from_static(b"/d/s"), dir: true, modified: 3, created: 3, ..Node::default() };
        let dir = Node {
            key: Bytes::from_static(b"/d"),
            dir: true,
            nodes: vec![file("/d/a", "3", 2, 2), sub],
            ..Node::default()
        };
        let list = Event { action: "get", node: Some(dir), previous: None };
        assert_eq!(
            first_version(&list, Some(41)),
            r#"[{"action":"get","key":"/d/a","value":"3","index":41},{"action":"get","key":"/d/s","dir":true,"index":41}]"#
        );
    }
}
