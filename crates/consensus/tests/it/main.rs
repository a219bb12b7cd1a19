//! Consensus as its callers see it: whole clusters in memory, every message through its bytes.

mod elections;
mod hostile;
mod leadership;
mod network;
mod observing;
mod scenarios;
mod snapshots;
mod wire;
