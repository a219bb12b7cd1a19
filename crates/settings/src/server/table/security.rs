//! Flags of TLS, of browsers' origins, and of users.

use crate::server::Group::{Auth, Security};
use crate::server::Kind::{Bool, List, Text, Uint};
use crate::server::Status::{Ignored, NotYet, Supported};
use crate::server::{Flag, Group, Kind};

const fn f(group: Group, name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag::new(group, name, kind, default, NotYet, help)
}

/// A flag that does what its help says.
const fn s(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag::new(Security, name, kind, default, Supported, help)
}

/// A flag that is accepted and has no effect, for the reason given.
const fn ignored(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    why: &'static str,
    help: &'static str,
) -> Flag {
    Flag::new(Security, name, kind, default, Ignored(why), help)
}

const NO_CLIENT: &str = "a member does not call its own client port";

pub(super) const FLAGS: &[Flag] = &[
    s("cert-file", Text, "", "Certificate for the client port, PEM, then those up to its CA."),
    s("key-file", Text, "", "Key of the certificate for the client port."),
    ignored(
        "client-cert-file",
        Text,
        "",
        NO_CLIENT,
        "Certificate for a member's calls to its own client port.",
    ),
    ignored("client-key-file", Text, "", NO_CLIENT, "Key of client-cert-file."),
    s("client-cert-auth", Bool, "false", "Demand a certificate of every client."),
    s("client-crl-file", Text, "", "Revoked client certificates, PEM or DER."),
    s("client-cert-allowed-hostname", List, "", "Host names that a client certificate may have."),
    s(
        "trusted-ca-file",
        Text,
        "",
        "CA certificates that clients' certificates are checked against; demands them.",
    ),
    s("auto-tls", Bool, "false", "TLS on the client port with a certificate made at start."),
    s("peer-cert-file", Text, "", "Certificate for the peer port and for dialling peers, PEM."),
    s("peer-key-file", Text, "", "Key of the certificate for the peer port."),
    s(
        "peer-client-cert-file",
        Text,
        "",
        "Certificate to show to peers that are dialled; peer-cert-file if empty.",
    ),
    s("peer-client-key-file", Text, "", "Key of peer-client-cert-file."),
    s("peer-client-cert-auth", Bool, "false", "Demand a certificate of every peer."),
    s(
        "peer-trusted-ca-file",
        Text,
        "",
        "CA certificates that peers' certificates are checked against; demands them.",
    ),
    s(
        "peer-auto-tls",
        Bool,
        "false",
        "TLS between peers with certificates made at start; nobody is checked.",
    ),
    s("peer-crl-file", Text, "", "Revoked peer certificates, PEM or DER."),
    s("peer-cert-allowed-cn", List, "", "Common names that a peer certificate may have."),
    s("peer-cert-allowed-hostname", List, "", "Host names that a peer certificate may have."),
    s(
        "peer-skip-client-san-verification",
        Bool,
        "false",
        "Don't compare the hosts in a peer's certificate with the address that it comes from.",
    ),
    s("self-signed-cert-validity", Uint, "1", "Years that certificates made at start are valid."),
    s(
        "cipher-suites",
        List,
        "",
        "Cipher suites of TLS 1.2, by their IANA names; all that are safe if empty.",
    ),
    s("tls-min-version", Text, "TLS1.2", "Lowest TLS version: TLS1.2 or TLS1.3."),
    s("tls-max-version", Text, "", "Highest TLS version: TLS1.2 or TLS1.3; TLS1.3 if empty."),
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
