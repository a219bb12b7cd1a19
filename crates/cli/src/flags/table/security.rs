//! Flags of TLS, of browsers' origins, and of users.

use crate::flags::Group::{Auth, Security};
use crate::flags::Kind::{Bool, List, Text, Uint};
use crate::flags::Status::NotYet;
use crate::flags::{Flag, Group, Kind};

const fn f(group: Group, name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag::new(group, name, kind, default, NotYet, help)
}

pub(super) const FLAGS: &[Flag] = &[
    f(Security, "cert-file", Text, "", "Certificate for the client port."),
    f(Security, "key-file", Text, "", "Key of the certificate for the client port."),
    f(
        Security,
        "client-cert-file",
        Text,
        "",
        "Certificate to show when this member is a client of its own port.",
    ),
    f(Security, "client-key-file", Text, "", "Key of client-cert-file."),
    f(Security, "client-cert-auth", Bool, "false", "Demand a certificate of every client."),
    f(Security, "client-crl-file", Text, "", "Revoked client certificates."),
    f(Security, "client-cert-allowed-hostname", List, "", "Host names that a client certificate may have."),
    f(Security, "trusted-ca-file", Text, "", "CA certificates that clients are checked against."),
    f(Security, "auto-tls", Bool, "false", "TLS on the client port with a certificate made at start."),
    f(Security, "peer-cert-file", Text, "", "Certificate for the peer port."),
    f(Security, "peer-key-file", Text, "", "Key of the certificate for the peer port."),
    f(Security, "peer-client-cert-file", Text, "", "Certificate to show to peers."),
    f(Security, "peer-client-key-file", Text, "", "Key of peer-client-cert-file."),
    f(Security, "peer-client-cert-auth", Bool, "false", "Demand a certificate of every peer."),
    f(Security, "peer-trusted-ca-file", Text, "", "CA certificates that peers are checked against."),
    f(Security, "peer-auto-tls", Bool, "false", "TLS between peers with certificates made at start."),
    f(Security, "peer-crl-file", Text, "", "Revoked peer certificates."),
    f(Security, "peer-cert-allowed-cn", List, "", "Common names that a peer certificate may have."),
    f(Security, "peer-cert-allowed-hostname", List, "", "Host names that a peer certificate may have."),
    f(
        Security,
        "peer-skip-client-san-verification",
        Bool,
        "false",
        "Don't check the host names of peers' certificates.",
    ),
    f(Security, "self-signed-cert-validity", Uint, "1", "Years that certificates made at start are valid."),
    f(Security, "cipher-suites", List, "", "TLS cipher suites, by their IANA names."),
    f(Security, "tls-min-version", Text, "TLS1.2", "Lowest TLS version: TLS1.2 or TLS1.3."),
    f(Security, "tls-max-version", Text, "", "Highest TLS version; the library's if empty."),
    f(Security, "cors", List, "*", "Web origins that may call; * or empty: all."),
    f(
        Security,
        "host-whitelist",
        List,
        "*",
        "Host names that HTTP requests may be addressed to; * or empty: all.",
    ),
    f(Auth, "auth-token", Text, "simple", "Kind of token: simple, or jwt with its options."),
    f(Auth, "auth-token-ttl", Uint, "300", "Seconds that a simple token lives after its last use."),
    f(Auth, "bcrypt-cost", Uint, "10", "Cost of password hashes, 4 to 31."),
];
