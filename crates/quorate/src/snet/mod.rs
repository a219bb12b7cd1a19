//! The payment channel storage of snet-daemon: its configuration as daemons have it, and what it describes.
//!
//! [`Settings::read`] takes the daemon's JSON file, the variables of its environment and the organization's metadata, and
//! says what they come to: configuration beats metadata, metadata beats the defaults. [`EmbeddedServer`] runs the member
//! that it describes inside the daemon, [`Settings::open`] opens the storage.
//!
//! ```
//! use quorate::snet::{Settings, Sources};
//!
//! let file = r#"{"payment_channel_storage_server": {"client_port": 0, "peer_port": 0}}"#;
//! let settings = Settings::read(&Sources::json(file)).expect("fine");
//! assert!(settings.server.enabled, "the section is there, and does not say otherwise");
//! assert_eq!(settings.client.endpoints, ["http://127.0.0.1:2379"]);
//! ```

mod client;
mod document;
mod duration;
mod embedded;
mod endpoints;
mod open;
mod server;
mod settings;

pub use client::ClientSettings;
pub use document::{Problem, SettingsError};
pub use embedded::{EmbeddedError, EmbeddedServer};
pub use open::{OpenError, OpenStorage};
pub use server::{LogLevel, ServerSettings};
pub use settings::{Settings, Sources, StorageKind, TlsFiles};
