//! Flags that only Quorate has.

use crate::server::Flag;
use crate::server::Group::Quorate;
use crate::server::Kind::{Bool, Text, Uint};
use crate::server::Status::Supported;

pub(super) const FLAGS: &[Flag] = &[
    Flag::new(
        Quorate,
        "give-up-data",
        Bool,
        "false",
        Supported,
        "The operator's word that this member's damaged log and store may be given up: it returns as a new \
         incarnation, which the cluster has to add again.",
    ),
    Flag::new(
        Quorate,
        "promote-learners",
        Bool,
        "false",
        Supported,
        "While this member leads, learners become voters by themselves once they have caught up.",
    ),
    Flag::new(
        Quorate,
        "v2-history-window",
        Uint,
        "0",
        Supported,
        "With --enable-v2: events that the cluster keeps for watchers that begin in the past; 0 leaves it as it is, 1000 \
         in a new cluster.",
    ),
    Flag::new(
        Quorate,
        "snet-config",
        Text,
        "",
        Supported,
        "Runs the member that an snet-daemon's configuration file describes (payment_channel_storage_server), with its \
         SNET_ variables. It takes no other flags.",
    ),
];
