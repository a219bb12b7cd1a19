//! How many connections the process's limit on open files has room for.
//!
//! Invariant: clients' connections alone never take the last file descriptor: the log, the store, the other members and
//! whatever else runs in this process keep a share.

/// What is kept for everything but clients' connections, where the limit allows that much.
const KEPT: usize = 512;

/// Connections for which there is room.
pub(super) fn connections_max() -> usize {
    #[cfg(unix)]
    if let Some(limit) = rustix::process::getrlimit(rustix::process::Resource::Nofile).current {
        return room(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    usize::MAX
}

fn room(open_files_max: usize) -> usize {
    open_files_max - KEPT.min(open_files_max / 2)
}

/// Whether a call failed because no file descriptor was left.
pub(super) fn none_left(error: &std::io::Error) -> bool {
    #[cfg(unix)]
    {
        let number = error.raw_os_error();
        number == Some(rustix::io::Errno::MFILE.raw_os_error())
            || number == Some(rustix::io::Errno::NFILE.raw_os_error())
    }
    #[cfg(not(unix))]
    {
        let _ = error;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_kept_under_any_limit() {
        assert_eq!(room(1 << 20), (1 << 20) - KEPT);
        assert_eq!(room(1024), 512);
        assert_eq!(room(64), 32);
        assert_eq!(room(0), 0);
    }
}
