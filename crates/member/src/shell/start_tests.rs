//! A defect in one member, and the process that it runs in.

use std::io;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use quorate_disk::{File, Listed, MemoryDisk, Mode};
use quorate_models::{ModelId, keys};

use super::*;
use crate::handle::RequestError;
use crate::shell::Stopped;

const PATIENCE: Duration = Duration::from_secs(60);

/// A disk under which a stage panics at its next write, once it is told to.
struct Defective {
    disk: MemoryDisk,
    panics: Arc<AtomicBool>,
}

struct DefectiveFile {
    file: Arc<dyn File>,
    panics: Arc<AtomicBool>,
}

impl Disk for Defective {
    fn open(&self, path: &str, mode: Mode) -> io::Result<Arc<dyn File>> {
        let file = self.disk.open(path, mode)?;
        Ok(Arc::new(DefectiveFile { file, panics: self.panics.clone() }))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<Listed>> {
        self.disk.list(folder)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn sync_dir(&self, folder: &str) -> io::Result<()> {
        self.disk.sync_dir(folder)
    }

    fn free_bytes(&self) -> io::Result<u64> {
        self.disk.free_bytes()
    }
}

impl File for DefectiveFile {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buf, offset)
    }

    fn try_read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<bool> {
        self.file.try_read_at(buf, offset)
    }

    fn write_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        assert!(!self.panics.load(Ordering::Acquire), "a planted defect");
        self.file.write_at(data, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn preallocate(&self, len: u64) -> io::Result<()> {
        self.file.preallocate(len)
    }

    fn truncate(&self, len: u64) -> io::Result<()> {
        self.file.truncate(len)
    }

    fn is_direct(&self) -> bool {
        self.file.is_direct()
    }
}

/// A cluster of one member, with its log and its store on these disks.
fn member(wal_disk: Arc<dyn Disk>, disk: Arc<dyn Disk>) -> Running {
    let mut config = Config::new("alone");
    config.heartbeat_interval = Duration::from_millis(10);
    config.election_timeout = Duration::from_millis(100);
    let listeners = transport::bind(&[([127, 0, 0, 1], 0).into()], &config.peer_tls).expect("a free port");
    config.advertise_peer_urls = listeners.iter().map(transport::Bound::url).collect();
    config.initial_cluster = vec![(config.name.clone(), config.advertise_peer_urls[0].clone())];
    start_on(Base { config, listeners, wal_disk, disk, _lock: None }).expect("it starts")
}

async fn write(handle: &Handle) -> Result<(), RequestError> {
    let (key, value) = (Bytes::from_static(b"key"), Bytes::from_static(b"value"));
    let put = keys::Put { key, value, lease: 0, prev_kv: false, ignore_value: false, ignore_lease: false };
    handle.propose(ModelId::KEYS, keys::encode(&keys::Command::Put(put))).await.map(drop)
}

#[tokio::test]
async fn a_defect_of_one_stage_fails_its_member_alone() {
    let sound = || -> Arc<dyn Disk> { Arc::new(MemoryDisk::new()) };
    let bystander = member(sound(), sound());
    bystander.handle().read_index().await.expect("it leads");
    for thread in ["quorate-wal", "quorate-store"] {
        let panics = Arc::new(AtomicBool::new(false));
        let defective = Arc::new(Defective { disk: MemoryDisk::new(), panics: panics.clone() });
        let is_log = thread == "quorate-wal";
        let running = if is_log { member(defective, sound()) } else { member(sound(), defective) };
        let handle = running.handle();
        handle.read_index().await.expect("it leads");
        write(&handle).await.expect("it serves");
        panics.store(true, Ordering::Release);
        let unanswered = if is_log { write(&handle).await } else { handle.checkpoint().await.map(drop) };
        assert!(unanswered.is_err(), "{thread}: it was done all the same");
        let mut stopped = running.stopped();
        let why = tokio::time::timeout(PATIENCE, stopped.wait_for(Option::is_some)).await.expect("in time");
        let why = why.expect("it says why").clone();
        let told = format!("the thread {thread} hit a defect");
        assert!(matches!(&why, Some(Stopped::Failed { reason }) if reason.contains(&told)), "{why:?}");
        let refused = write(&handle).await.expect_err("it does not serve any more");
        assert!(matches!(refused, RequestError::Stopped { .. }), "{thread}: {refused}");
        running.stop();
        write(&bystander.handle()).await.expect("the other member goes on");
    }
    bystander.stop();
}
