//! Passwords: hashed and compared off the net threads, because each takes tens of milliseconds.
//!
//! Invariants: no password is kept. One that was right is remembered, as a digest under a key that only this run has, until
//! users change. At a bound of those that wait, clients are turned away rather than queued.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use quorate_models::tree::AuthRevision;
use sha2::{Digest as _, Sha256};
use tokio::sync::Semaphore;

/// As strong as the hashes of etcd.
const COST: u32 = 10;
/// Hashes under way at a time.
const AT_A_TIME_MAX: usize = 2;
/// Clients that wait for one.
const WAITING_MAX: usize = 128;
/// Passwords that are remembered.
const REMEMBERED_MAX: usize = 4096;

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

type Tag = [u8; 32];

#[derive(Default)]
struct Remembered {
    revision: AuthRevision,
    tags: HashSet<Tag>,
}

/// See the module.
pub struct Passwords {
    key: [u8; 32],
    remembered: Mutex<Remembered>,
    turns: Semaphore,
    places: Semaphore,
}

impl Passwords {
    pub fn new() -> Self {
        let mut key = [0; 32];
        // Without random numbers, tags could be told from one another, but are in this process's memory alone.
        let _ = getrandom::fill(&mut key);
        Self {
            key,
            remembered: Mutex::default(),
            turns: Semaphore::new(AT_A_TIME_MAX),
            places: Semaphore::new(AT_A_TIME_MAX + WAITING_MAX),
        }
    }

    async fn turn<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let _place = self.places.try_acquire().map_err(|_| Busy)?;
        // Closed never.
        let _turn = self.turns.acquire().await.map_err(|_| Busy)?;
        tokio::task::spawn_blocking(work).await.map_err(|_| Busy)
    }

    /// What is to be kept of a password. `None`: it can't be hashed, because of a zero byte for one.
    pub async fn hash(&self, password: String) -> Result<Option<String>, Busy> {
        self.turn(move || bcrypt::hash(password, COST).ok()).await
    }

    /// Whether this is the password that `hash` was made of, for the records of `revision`.
    pub async fn check(
        &self,
        revision: AuthRevision,
        user: &str,
        password: &[u8],
        hash: &str,
    ) -> Result<bool, Busy> {
        let tag = self.tag(user, password, hash);
        {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.revision != revision {
                *remembered = Remembered { revision, tags: HashSet::new() };
            }
            if remembered.tags.contains(&tag) {
                return Ok(true);
            }
        }
        let (password, hash) = (password.to_vec(), hash.to_owned());
        let right = self.turn(move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        if right {
            let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
            if remembered.revision == revision && remembered.tags.len() < REMEMBERED_MAX {
                remembered.tags.insert(tag);
            }
        }
        Ok(right)
    }

    fn tag(&self, user: &str, password: &[u8], hash: &str) -> Tag {
        let mut digest = Sha256::new();
        digest.update(self.key);
        for part in [user.as_bytes(), password, hash.as_bytes()] {
            digest.update((part.len() as u64).to_le_bytes());
            digest.update(part);
        }
        digest.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::new();
        let hash = passwords.hash("right".to_owned()).await.expect("a turn").expect("a hash");
        assert!(hash.starts_with("$2"), "{hash}");
        for revision in [1, 1, 2] {
            let check = async |password: &[u8]| {
                passwords.check(AuthRevision(revision), "u", password, &hash).await.expect("a turn")
            };
            assert!(check(b"right").await);
            assert!(!check(b"wrong").await);
            assert!(!check(b"").await);
        }
        let remembered = passwords.remembered.lock().expect("unpoisoned");
        assert_eq!(
            (remembered.revision, remembered.tags.len()),
            (AuthRevision(2), 1),
            "the old are forgotten"
        );
    }

    #[tokio::test]
    async fn a_hash_of_etcd_is_known_and_what_is_no_hash_lets_nobody_in() {
        let passwords = Passwords::new();
        // Made by golang.org/x/crypto/bcrypt, which etcd uses.
        let theirs = "$2a$10$ZF03ZdEA3rSt5pov2pWILO93voDqZrjy6/dqHppuSkOTRot3/VJPC";
        for (hash, right) in [(theirs, true), ("", false), ("$2a$10$short", false), ("allmine", false)] {
            assert_eq!(passwords.check(AuthRevision(1), "u", b"allmine", hash).await, Ok(right), "{hash}");
        }
    }
}
