//! Files under a folder of the operating system.

use std::fs;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::{Disk, File, Listed, Mode};

/// The folder tree under one root.
#[derive(Clone, Debug)]
pub struct RealDisk {
    root: PathBuf,
}

impl RealDisk {
    /// A disk rooted at `root`; the folder is made where missing, readable by its owner alone.
    pub fn new(root: impl AsRef<Path>) -> io::Result<Self> {
        let root = root.as_ref().to_owned();
        if !root.is_dir() {
            use std::os::unix::fs::DirBuilderExt;
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&root)?;
        }
        Ok(Self { root })
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn full(&self, path: &str) -> io::Result<PathBuf> {
        let plain = Path::new(path).components().all(|c| matches!(c, std::path::Component::Normal(_)));
        if !plain {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{path}: not a plain relative path"),
            ));
        }
        Ok(self.root.join(path))
    }
}

impl Disk for RealDisk {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let full = self.full(path)?;
        if (mode.create || mode.create_new)
            && let Some(parent) = full.parent()
        {
            fs::create_dir_all(parent)?;
        }
        let open = |direct: bool| {
            let mut flags = 0;
            if mode.sync {
                flags |= libc::O_DSYNC;
            }
            if direct {
                flags |= libc::O_DIRECT;
            }
            fs::OpenOptions::new()
                .read(true)
                .write(!mode.read_only)
                .create(mode.create)
                .create_new(mode.create_new)
                .mode(0o600)
                .custom_flags(flags)
                .open(&full)
        };
        let (file, direct) = match open(mode.direct) {
            Ok(file) => (file, mode.direct),
            // tmpfs and some network file systems refuse O_DIRECT with EINVAL.
            Err(e) if mode.direct && e.raw_os_error() == Some(libc::EINVAL) => (
                fs::OpenOptions::new()
                    .read(true)
                    .write(!mode.read_only)
                    .create(mode.create || mode.create_new)
                    .mode(0o600)
                    .custom_flags(if mode.sync { libc::O_DSYNC } else { 0 })
                    .open(&full)?,
                false,
            ),
            Err(e) => return Err(e),
        };
        Ok(Arc::new(RealFile { file, direct }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        let full = if folder.is_empty() { self.root.clone() } else { self.full(folder)? };
        let entries = match fs::read_dir(&full) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(e),
        };
        let mut listed = Vec::new();
        for entry in entries {
            let entry = entry?;
            let meta = entry.metadata()?;
            let Some(name) = entry.file_name().to_str().map(str::to_owned) else { continue };
            if meta.is_file() {
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                listed.push(Listed { path, len: meta.len() });
            }
        }
        listed.sort();
        Ok(listed)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.full(from)?, self.full(to)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.full(path)?)
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        let full = if folder.is_empty() { self.root.clone() } else { self.full(folder)? };
        fs::File::open(full)?.sync_all()
    }

    fn free_bytes(&self) -> io::Result<u64> {
        use std::os::unix::ffi::OsStrExt;
        let path = std::ffi::CString::new(self.root.as_os_str().as_bytes())?;
        // SAFETY: an all-zero statvfs is a valid value for the kernel to overwrite.
        let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
        // SAFETY: `path` is NUL-terminated and `stat` outlives the call.
        if unsafe { libc::statvfs(path.as_ptr(), &mut stat) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

struct RealFile {
    file: fs::File,
    direct: bool,
}

impl File for RealFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        let iov = libc::iovec { iov_base: buf.as_mut_ptr().cast(), iov_len: buf.len() };
        let offset = libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        // SAFETY: `iov` points at `buf`, which is live and writable for the whole call.
        let read = unsafe { libc::preadv2(self.file.as_raw_fd(), &iov, 1, offset, libc::RWF_NOWAIT) };
        // A short read, EAGAIN and "not supported here" all mean: a plain read must decide.
        Ok(usize::try_from(read).is_ok_and(|read| read == buf.len()))
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        let want = libc::off_t::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        loop {
            // SAFETY: the descriptor is open for as long as `self` lives.
            let failed = unsafe { libc::posix_fallocate(self.file.as_raw_fd(), 0, want) };
            match failed {
                0 => return Ok(()),
                libc::EINTR => {}
                error => return Err(io::Error::from_raw_os_error(error)),
            }
        }
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn is_direct(&self) -> bool {
        self.direct
    }
}
