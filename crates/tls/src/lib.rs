//! TLS for the ports of a member and for what it dials: certificates from files, demanded of others where asked, read
//! again when the files change.
//!
//! Invariants:
//!
//! - One cryptographic provider (`ring`), handed to every configuration; nothing process-wide is installed.
//! - A port starts only with a certificate that belongs to its key. Files that turn bad later change nothing: what was
//!   read last goes on, and an error is logged.
//! - Where certificates are demanded, each connection shows one that is valid at that moment: there are no tickets that
//!   would skip the check.
//! - A handshake is bounded in time by its caller.

#![forbid(unsafe_code)]

mod accept;
mod address;
mod allowed;
mod ciphers;
mod connect;
mod error;
mod explain;
mod made;
mod pem;
mod reload;
mod settings;
mod stream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

pub use accept::{Acceptor, common_names_of};
pub use address::AddressError;
pub use connect::Connector;
pub use error::{HandshakeError, TlsError};
pub use made::SelfSigned;
pub use reload::LOOK_INTERVAL;
pub use settings::{Identity, Port, Settings, Version, Versions};
pub use stream::Stream;

/// The first byte of every TLS connection: a record of the handshake.
pub const FIRST_BYTE: u8 = 0x16;

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
