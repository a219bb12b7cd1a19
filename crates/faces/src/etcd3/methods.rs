//! Every call that etcd v3's services have, by its path.

/// Who sends how many messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Unary,
    ServerStream,
    Bidi,
}

impl Kind {
    /// The name that etcd's metrics give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unary => "unary",
            Self::ServerStream => "server_stream",
            Self::Bidi => "bidi_stream",
        }
    }
}

/// Where a method is found.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    pub path: &'static str,
    pub service: &'static str,
    pub name: &'static str,
    pub kind: Kind,
}

macro_rules! methods {
    ($($service:literal { $($method:ident = $name:literal $kind:ident,)* })*) => {
        /// A call.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Method {
            $($($method,)*)*
        }

        /// All of them, in the order of [`Method`].
        pub const METHODS: &[Entry] = &[
            $($(Entry {
                path: concat!("/", $service, "/", $name),
                service: $service,
                name: $name,
                kind: Kind::$kind,
            },)*)*
        ];

        /// The call at a path.
        #[must_use]
        pub fn at_path(path: &str) -> Option<Method> {
            match path {
                $($(concat!("/", $service, "/", $name) => Some(Method::$method),)*)*
                _ => None,
            }
        }
    };
}

methods! {
    "etcdserverpb.KV" {
        Range = "Range" Unary,
        Put = "Put" Unary,
        Txn = "Txn" Unary,
        DeleteRange = "DeleteRange" Unary,
        Compact = "Compact" Unary,
        RangeStream = "RangeStream" ServerStream,
    }
    "etcdserverpb.Watch" {
        Watch = "Watch" Bidi,
    }
    "etcdserverpb.Lease" {
        LeaseGrant = "LeaseGrant" Unary,
        LeaseRevoke = "LeaseRevoke" Unary,
        LeaseKeepAlive = "LeaseKeepAlive" Bidi,
        LeaseTimeToLive = "LeaseTimeToLive" Unary,
        LeaseLeases = "LeaseLeases" Unary,
    }
    "etcdserverpb.Cluster" {
        MemberAdd = "MemberAdd" Unary,
        MemberRemove = "MemberRemove" Unary,
        MemberUpdate = "MemberUpdate" Unary,
        MemberList = "MemberList" Unary,
        MemberPromote = "MemberPromote" Unary,
    }
    "etcdserverpb.Maintenance" {
        Alarm = "Alarm" Unary,
        Status = "Status" Unary,
        Defragment = "Defragment" Unary,
        Hash = "Hash" Unary,
        HashKv = "HashKV" Unary,
        Snapshot = "Snapshot" ServerStream,
        MoveLeader = "MoveLeader" Unary,
        Downgrade = "Downgrade" Unary,
    }
    "grpc.health.v1.Health" {
        HealthCheck = "Check" Unary,
        HealthList = "List" Unary,
        HealthWatch = "Watch" ServerStream,
    }
    "etcdserverpb.Auth" {
        AuthEnable = "AuthEnable" Unary,
        AuthDisable = "AuthDisable" Unary,
        AuthStatus = "AuthStatus" Unary,
        Authenticate = "Authenticate" Unary,
        UserAdd = "UserAdd" Unary,
        UserGet = "UserGet" Unary,
        UserList = "UserList" Unary,
        UserDelete = "UserDelete" Unary,
        UserChangePassword = "UserChangePassword" Unary,
        UserGrantRole = "UserGrantRole" Unary,
        UserRevokeRole = "UserRevokeRole" Unary,
        RoleAdd = "RoleAdd" Unary,
        RoleGet = "RoleGet" Unary,
        RoleList = "RoleList" Unary,
        RoleDelete = "RoleDelete" Unary,
        RoleGrantPermission = "RoleGrantPermission" Unary,
        RoleRevokePermission = "RoleRevokePermission" Unary,
    }
    "v3lockpb.Lock" {
        Lock = "Lock" Unary,
        Unlock = "Unlock" Unary,
    }
    "v3electionpb.Election" {
        Campaign = "Campaign" Unary,
        Proclaim = "Proclaim" Unary,
        Leader = "Leader" Unary,
        Observe = "Observe" ServerStream,
        Resign = "Resign" Unary,
    }
}

impl Method {
    #[must_use]
    pub fn entry(self) -> &'static Entry {
        &METHODS[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found_at_its_path() {
        assert_eq!(METHODS.len(), 42 + 3 + 2 + 5, "etcd's calls, health, locks, elections");
        for entry in METHODS {
            let found = at_path(entry.path).map(|method| method.entry().path);
            assert_eq!(found, Some(entry.path));
        }
        assert_eq!(at_path("/etcdserverpb.KV/range"), None);
    }
}
