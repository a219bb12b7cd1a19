//! The founding members as `initial-cluster` writes them: `name=peer-url`, separated by commas.
//!
//! A member with several peer URLs stands there once for each. No two members share a URL.

use crate::url::{Url, UrlError};

/// One founding member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Founder {
    pub name: String,
    pub peer_urls: Vec<Url>,
}

/// Why a text names no cluster.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClusterError {
    #[error("{0:?} must have the form name=url")]
    NotAPair(String),
    #[error("{text:?} is no usable URL: {reason}")]
    Url { text: String, reason: UrlError },
    #[error("{0:?}: Unix sockets between members are not supported yet; use http:// or https://")]
    NotSupportedYet(String),
    #[error("{0} is given twice")]
    UrlTwice(String),
}

/// Parses the founding members, in the order of their first mention.
pub fn parse(text: &str) -> Result<Vec<Founder>, ClusterError> {
    let mut founders: Vec<Founder> = Vec::new();
    for pair in text.split(',') {
        let (name, url_text) = pair.split_once('=').ok_or_else(|| ClusterError::NotAPair(pair.to_owned()))?;
        let (name, url_text) = (name.trim(), url_text.trim());
        if name.is_empty() || url_text.is_empty() {
            return Err(ClusterError::NotAPair(pair.to_owned()));
        }
        let bad = |reason| ClusterError::Url { text: url_text.to_owned(), reason };
        let url = Url::parse(url_text).map_err(bad)?;
        url.check_advertised().map_err(bad)?;
        if matches!(url, Url::Unix { .. }) {
            return Err(ClusterError::NotSupportedYet(url_text.to_owned()));
        }
        if founders.iter().any(|founder| founder.peer_urls.contains(&url)) {
            return Err(ClusterError::UrlTwice(url.to_string()));
        }
        match founders.iter_mut().find(|founder| founder.name == name) {
            Some(founder) => founder.peer_urls.push(url),
            None => founders.push(Founder { name: name.to_owned(), peer_urls: vec![url] }),
        }
    }
    Ok(founders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_in_order_and_several_urls_of_one() {
        let founders = parse("b=http://h:1, a=http://h:2,b=http://h:3").expect("fine");
        let shown: Vec<(String, usize)> = founders.into_iter().map(|f| (f.name, f.peer_urls.len())).collect();
        assert_eq!(shown, [("b".to_owned(), 2), ("a".to_owned(), 1)]);
    }

    #[test]
    fn malformed_lists_say_which_part_is_wrong() {
        for (text, expected) in [
            ("a", "\"a\" must have the form name=url"),
            ("a=http://h:1,", "\"\" must have the form name=url"),
            ("=http://h:1", "\"=http://h:1\" must have the form name=url"),
            ("a=", "\"a=\" must have the form name=url"),
            ("a=h:1", "\"h:1\" is no usable URL: it must start with http://, https://, unix:// or unixs://"),
            ("a=http://:1", "\"http://:1\" is no usable URL: a host is needed that others can reach"),
            ("a=http://h:1,b=http://h:1", "http://h:1 is given twice"),
            (
                "a=unix:///s",
                "\"unix:///s\": Unix sockets between members are not supported yet; use http:// or https://",
            ),
        ] {
            assert_eq!(parse(text).expect_err(text).to_string(), expected);
        }
    }
}
