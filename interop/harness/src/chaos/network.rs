//! What lies between the members: one link for each ordered pair, which is open, cut or slow.
//!
//! Two kinds. In *namespaces*, each member has a network of its own and the links are routes in the middle: what a cut
//! link carries is lost, packet by packet. With *proxies*, members are on loopback and reach each other through this
//! process: what a cut link carries is held until it is open again, or its connection ends.

use std::path::Path;
use std::time::Duration;

use quorate_interop::{Cluster, Home, Member, free_port};

use super::namespaces::Namespaces;
use super::proxies::Proxies;

/// What happens to what one member sends to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Link {
    #[default]
    Open,
    Cut,
    /// Each piece takes this long.
    Slow(Duration),
}

const SLOW: Duration = Duration::from_millis(60);

#[derive(Debug)]
pub enum Network {
    Namespaces(Namespaces),
    Proxies(Proxies),
}

impl Network {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Namespaces(_) => "network namespaces",
            Self::Proxies(_) => "proxies on loopback",
        }
    }

    /// Whether links can be slow.
    pub fn slows(&self) -> bool {
        match self {
            Self::Namespaces(namespaces) => namespaces.slows(),
            Self::Proxies(_) => true,
        }
    }

    /// Makes all slow that one member sends to the others and gets from them, or as fast again as it was.
    pub fn slow(&mut self, place: usize, slow: bool) -> anyhow::Result<()> {
        match self {
            Self::Namespaces(namespaces) => namespaces.slow(place, slow),
            Self::Proxies(proxies) => {
                let link = if slow { Link::Slow(SLOW) } else { Link::Open };
                proxies.set_around(place, link);
                Ok(())
            }
        }
    }

    /// Where the members live; data goes below `folder`.
    pub fn homes(&self, folder: &Path, size: usize) -> Vec<Home> {
        (0..size)
            .map(|place| {
                let data_dir = folder.join(format!("m{}/data", place + 1));
                match self {
                    Self::Namespaces(namespaces) => namespaces.home(place, data_dir),
                    Self::Proxies(proxies) => Home {
                        client: format!("127.0.0.1:{}", free_port()),
                        peer: proxies.front(place),
                        peer_listen: proxies.back(place),
                        data_dir,
                        launcher: Vec::new(),
                    },
                }
            })
            .collect()
    }

    /// Changes what happens to what `from` sends to `to`.
    pub fn set(&mut self, from: usize, to: usize, link: Link) -> anyhow::Result<()> {
        match self {
            Self::Namespaces(namespaces) => namespaces.set(from, to, link),
            Self::Proxies(proxies) => {
                proxies.set(from, to, link);
                Ok(())
            }
        }
    }

    /// Tells which process is which member.
    pub fn note_pids(&self, cluster: &Cluster) {
        if let Self::Proxies(proxies) = self {
            proxies.note_pids(cluster.members.iter().map(Member::pid).collect());
        }
    }
}
