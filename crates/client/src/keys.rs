//! Which keys a request is about.

use bytes::Bytes;

/// A key, or a range of keys. Anything that is bytes stands for the one key that it spells.
///
/// ```
/// use quorate_client::Keys;
///
/// assert_eq!(Keys::from("a"), Keys::one("a"));
/// assert_eq!(Keys::prefix("a"), Keys::range("a", "b"));
/// assert_eq!(Keys::prefix(""), Keys::all());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    pub(crate) key: Bytes,
    pub(crate) range_end: Bytes,
}

/// As a start the least key, as an end none.
const LEAST: &[u8] = b"\0";

impl Keys {
    /// The one key.
    #[must_use]
    pub fn one(key: impl AsRef<[u8]>) -> Self {
        Self { key: Bytes::copy_from_slice(key.as_ref()), range_end: Bytes::new() }
    }

    /// From `start` to before `end`.
    #[must_use]
    pub fn range(start: impl AsRef<[u8]>, end: impl AsRef<[u8]>) -> Self {
        Self { range_end: Bytes::copy_from_slice(end.as_ref()), ..Self::one(start) }
    }

    /// All keys that begin with these bytes; with none, all keys.
    #[must_use]
    pub fn prefix(prefix: impl AsRef<[u8]>) -> Self {
        let prefix = prefix.as_ref();
        if prefix.is_empty() {
            return Self::all();
        }
        // The end is the prefix with its last byte that can grow grown by one; without such a byte there is no end.
        let end = prefix.iter().rposition(|byte| *byte < u8::MAX).map(|last| {
            let mut end = prefix[..=last].to_vec();
            end[last] += 1;
            end
        });
        Self::range(prefix, end.as_deref().unwrap_or(LEAST))
    }

    /// The keys that begin with `prefix`, from `start` on. To page through a prefix, start at the last key and a zero
    /// byte.
    #[must_use]
    pub fn prefix_from(prefix: impl AsRef<[u8]>, start: impl AsRef<[u8]>) -> Self {
        let all = Self::prefix(prefix);
        let start = start.as_ref();
        if *start <= all.key[..] { all } else { Self { key: Bytes::copy_from_slice(start), ..all } }
    }

    /// This key and all that come after it.
    #[must_use]
    pub fn starting_at(key: impl AsRef<[u8]>) -> Self {
        let key = key.as_ref();
        Self::range(if key.is_empty() { LEAST } else { key }, LEAST)
    }

    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self::range(LEAST, LEAST)
    }
}

impl<K: AsRef<[u8]>> From<K> for Keys {
    fn from(key: K) -> Self {
        Self::one(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_end_where_the_next_key_without_them_begins() {
        assert_eq!(Keys::prefix(b"a\xff\xff"), Keys::range(b"a\xff\xff", b"b"));
        assert_eq!(Keys::prefix(b"\xff\xff"), Keys::range(b"\xff\xff", b"\0"));
        assert_eq!(Keys::starting_at(""), Keys::all());
        assert_eq!(Keys::prefix_from("ab", "abc\0"), Keys::range("abc\0", "ac"));
        assert_eq!(Keys::prefix_from("ab", "a"), Keys::prefix("ab"));
        assert_eq!(Keys::prefix_from("", "x"), Keys::starting_at("x"));
    }
}
