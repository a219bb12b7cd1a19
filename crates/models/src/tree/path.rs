//! Paths of nodes, in one normal form.
//!
//! Invariants: a [`Path`] starts with a slash, has no empty, `.` or `..` part and no slash at its end (the root is `/`
//! alone), and is within [`PATH_BYTES_MAX`] and [`DEPTH_MAX`]. Paths order as a walk through the tree does: a directory
//! stands right before all that is in it.

use std::cmp::Ordering;
use std::fmt;

use bytes::Bytes;

/// A path is at most this long, in bytes.
pub const PATH_BYTES_MAX: usize = 32 * 1024;
/// A path has at most this many parts.
pub const DEPTH_MAX: usize = 1024;

/// The path of a node. See the module.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Path(Bytes);

/// Why bytes can't be a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("the key has {len} bytes; at most {PATH_BYTES_MAX} are possible")]
    TooLong { len: usize },
    #[error("the key has {depth} parts; at most {DEPTH_MAX} are possible")]
    TooDeep { depth: usize },
}

impl Path {
    /// The root.
    #[must_use]
    pub fn root() -> Self {
        Self(Bytes::from_static(b"/"))
    }

    /// The path that `key` means, with or without a slash in front: empty parts and `.` mean nothing, `..` takes the
    /// part before it away and stops at the root.
    pub fn clean(key: &[u8]) -> Result<Self, PathError> {
        let mut parts: Vec<&[u8]> = Vec::new();
        for part in key.split(|byte| *byte == b'/') {
            match part {
                b"" | b"." => {}
                b".." => {
                    parts.pop();
                }
                part => parts.push(part),
            }
        }
        Self::of_parts(&parts)
    }

    fn of_parts(parts: &[&[u8]]) -> Result<Self, PathError> {
        if parts.len() > DEPTH_MAX {
            return Err(PathError::TooDeep { depth: parts.len() });
        }
        let len = parts.iter().map(|part| part.len() + 1).sum::<usize>();
        if len > PATH_BYTES_MAX {
            return Err(PathError::TooLong { len });
        }
        if parts.is_empty() {
            return Ok(Self::root());
        }
        let mut bytes = Vec::with_capacity(len);
        for part in parts {
            bytes.push(b'/');
            bytes.extend_from_slice(part);
        }
        Ok(Self(bytes.into()))
    }

    /// Bytes that are a path in normal form already; `None` if they are not.
    pub(super) fn of_normal(bytes: Bytes) -> Option<Self> {
        let path = Self::clean(&bytes).ok()?;
        (path.0 == bytes).then_some(Self(bytes))
    }

    /// The node `name` in this directory. `name` has no slash.
    pub fn child(&self, name: &[u8]) -> Result<Self, PathError> {
        let parts: Vec<&[u8]> = self.parts().chain(std::iter::once(name)).collect();
        Self::of_parts(&parts)
    }

    /// The same without the bounds of commands: for what the tables hold.
    pub(super) fn child_known(&self, name: &[u8]) -> Self {
        let parent: &[u8] = if self.is_root() { b"" } else { &self.0 };
        let mut bytes = Vec::with_capacity(parent.len() + 1 + name.len());
        bytes.extend_from_slice(parent);
        bytes.push(b'/');
        bytes.extend_from_slice(name);
        Self(bytes.into())
    }

    /// From what the tables hold.
    pub(super) fn known(bytes: &[u8]) -> Self {
        Self(Bytes::copy_from_slice(bytes))
    }

    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.len() == 1
    }

    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// The names on the way from the root, the node's own last.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> + Clone {
        self.0.split(|byte| *byte == b'/').filter(|part| !part.is_empty())
    }

    /// How many parts it has; the root has none.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.parts().count()
    }

    /// The node's own name; the root's is empty.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let slash = self.0.iter().rposition(|byte| *byte == b'/').expect("a path has a slash");
        &self.0[slash + 1..]
    }

    /// The directory that the node is in; `None` for the root.
    #[must_use]
    pub fn parent(&self) -> Option<Self> {
        if self.is_root() {
            return None;
        }
        let slash = self.0.iter().rposition(|byte| *byte == b'/').expect("a path has a slash");
        Some(if slash == 0 { Self::root() } else { Self(self.0.slice(..slash)) })
    }

    /// The path cut after its first `parts` parts.
    #[must_use]
    pub fn prefix(&self, parts: usize) -> Self {
        let slashes = self.0.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        match (parts, slashes.clone().nth(parts)) {
            (0, _) => Self::root(),
            (_, Some(end)) => Self(self.0.slice(..end)),
            (_, None) => self.clone(),
        }
    }

    /// What of this path lies below `above`, starting with a slash; `None` if it is not below it (or is it).
    fn rest_below(&self, above: &Self) -> Option<&[u8]> {
        if above.is_root() {
            return (!self.is_root()).then_some(&self.0);
        }
        let rest = self.0.strip_prefix(&above.0[..])?;
        rest.starts_with(b"/").then_some(rest)
    }

    /// Whether this node lies below `above`, at any depth.
    #[must_use]
    pub fn is_below(&self, above: &Self) -> bool {
        self.rest_below(above).is_some()
    }

    /// Whether someone who looks at `from` does not see this node: a part below `from` starts with an underscore.
    #[must_use]
    pub fn is_hidden_from(&self, from: &Self) -> bool {
        self.rest_below(from).is_some_and(|rest| rest.windows(2).any(|pair| pair == b"/_"))
    }
}

impl Ord for Path {
    fn cmp(&self, other: &Self) -> Ordering {
        if self.is_root() || other.is_root() {
            return other.is_root().cmp(&self.is_root());
        }
        // The slash comes before every other byte.
        let order = |byte: &u8| if *byte == b'/' { 0 } else { u16::from(*byte) + 1 };
        self.0.iter().map(order).cmp(other.0.iter().map(order))
    }
}

impl PartialOrd for Path {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        Path::clean(text.as_bytes()).expect("a path")
    }

    #[test]
    fn a_key_is_cleaned_as_a_unix_path_under_the_root() {
        for (key, clean) in [
            ("", "/"),
            ("/", "/"),
            ("//", "/"),
            ("foo", "/foo"),
            ("/foo/", "/foo"),
            ("//foo//bar", "/foo/bar"),
            ("/foo/./bar", "/foo/bar"),
            ("/foo/../bar", "/bar"),
            ("/../../bar", "/bar"),
            ("/foo/..", "/"),
        ] {
            assert_eq!(path(key).to_string(), clean, "{key}");
            assert!(Path::of_normal(path(key).as_bytes().clone()).is_some());
        }
        for wrong in ["", "foo", "/foo/", "//", "/a//b", "/a/./b", "/a/.."] {
            assert_eq!(Path::of_normal(Bytes::copy_from_slice(wrong.as_bytes())), None, "{wrong}");
        }
    }

    #[test]
    fn a_path_beyond_the_bounds_is_refused_with_its_size() {
        assert_eq!(
            Path::clean(&vec![b'x'; PATH_BYTES_MAX]),
            Err(PathError::TooLong { len: PATH_BYTES_MAX + 1 })
        );
        assert_eq!(
            Path::clean(&b"/x".repeat(DEPTH_MAX + 1)),
            Err(PathError::TooDeep { depth: DEPTH_MAX + 1 })
        );
        assert!(Path::clean(&b"/x".repeat(DEPTH_MAX)).is_ok());
    }

    #[test]
    fn a_directory_stands_right_before_what_is_in_it() {
        let mut sorted = ["/", "/a", "/a/b", "/a/b/c", "/a/z", "/a!", "/a-b", "/ab", "/b"].map(path);
        let wanted = sorted.clone();
        sorted.reverse();
        sorted.sort();
        assert_eq!(sorted, wanted);
    }

    #[test]
    fn an_underscore_hides_from_those_above_alone() {
        assert!(path("/_etcd/machines").is_hidden_from(&Path::root()));
        assert!(path("/a/_b/c").is_hidden_from(&path("/a")));
        assert!(!path("/a/_b/c").is_hidden_from(&path("/a/_b")));
        assert!(!path("/a/b_/c").is_hidden_from(&path("/a")));
        assert!(!path("/a").is_hidden_from(&path("/a/b")));
        assert!(!path("/ab/_c").is_hidden_from(&path("/a")), "not below it at all");
    }

    #[test]
    fn parents_prefixes_and_names_agree() {
        let deep = path("/a/bc/d");
        assert_eq!(deep.parent(), Some(path("/a/bc")));
        assert_eq!(path("/a").parent(), Some(Path::root()));
        assert_eq!(Path::root().parent(), None);
        assert_eq!(deep.name(), b"d");
        assert_eq!(deep.depth(), 3);
        assert_eq!([0, 1, 2, 3].map(|parts| deep.prefix(parts)), ["/", "/a", "/a/bc", "/a/bc/d"].map(path));
        assert!(deep.is_below(&path("/a")) && deep.is_below(&Path::root()) && !deep.is_below(&deep));
        assert!(!path("/ab").is_below(&path("/a")));
    }
}
