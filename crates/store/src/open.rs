//! Making and opening a store.
//!
//! An open reads the manifest and the runs that it names, newest entry first, and builds each table in bulk: never
//! from bodies, never key by key. What the manifest does not name is left over from a crash, and removed.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_disk::{Disk, MemoryDisk, Mode};
use quorate_ids::{ClusterId, Incarnation, MemberId};

use crate::checkpoint::{Keeper, remove_if_there};
use crate::config::{Identity, run_name, segment_name};
use crate::manifest::{COPY_NAME, Found, MANIFEST_NAME, Manifest};
use crate::rows::{Rows, RowsBuilder};
use crate::run::{Merge, RunReader};
use crate::segment::{Segment, SegmentSource};
use crate::suspects::Suspects;
use crate::{CheckpointMeta, OpenError, Store, StoreConfig, StoreError, TableId, Tables, generation_folder};

/// What an open found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The durable checkpoint.
    pub meta: CheckpointMeta,
    /// Each table's hash at that index.
    pub hashes: BTreeMap<TableId, u128>,
    /// The manifest was damaged, in this way; its copy stood in for it, and it was written anew.
    pub repaired: Option<String>,
}

impl Store {
    /// Makes an empty store, durable when this returns. Fails where the generation's folder holds one.
    pub fn create(
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        identity: Identity,
        generation: u64,
    ) -> Result<Self, OpenError> {
        if Manifest::read(disk.as_ref(), generation)?.is_some() {
            return Err(OpenError::Exists { folder: generation_folder(generation) });
        }
        let manifest = Manifest::empty(identity, generation);
        remove_strays(disk.as_ref(), &manifest)?;
        manifest.commit(disk.as_ref())?;
        disk.sync_dir("").map_err(|e| StoreError::io(".", e))?;
        let source = SegmentSource::new(disk.clone(), identity, generation);
        let tables = Tables::new(config, source, 0);
        Ok(Self::assemble(disk, tables, manifest))
    }

    /// Opens the store of a generation, under the identity that made it.
    pub fn open(
        disk: Arc<dyn Disk>,
        config: StoreConfig,
        identity: Identity,
        generation: u64,
    ) -> Result<(Self, Opened), OpenError> {
        let (tables, Found { manifest, damaged }) = load(&disk, config, identity, generation, 0)?;
        let opened = opened(&tables, &manifest, damaged);
        Ok((Self::assemble(disk, tables, manifest), opened))
    }

    /// An empty store on a disk in memory, for tests and memory-only members.
    #[must_use]
    pub fn in_memory() -> Self {
        let identity = Identity { cluster: ClusterId(1), member: MemberId(1), incarnation: Incarnation(1) };
        Self::create(Arc::new(MemoryDisk::new()), StoreConfig::default(), identity, 0)
            .expect("an empty disk in memory takes a store")
    }

    /// Lets the store of `generation`, installed by a transfer, take this one's place behind the same handle.
    /// Locations given out before are [`crate::BodyError::Gone`] from then on; a frozen front is void. The
    /// generation before stays on disk until [`Self::remove_generation`].
    pub fn replace_with(&self, generation: u64) -> Result<Opened, OpenError> {
        let mut keeper = self.keeper();
        let (config, base) = {
            let tables = self.read();
            (tables.config.clone(), tables.segment_base + tables.segment_next)
        };
        let identity = self.durable().identity;
        let (new, Found { manifest, damaged }) =
            load(self.shared_disk(), config, identity, generation, base)?;
        let opened = opened(&new, &manifest, damaged);
        let old = {
            let mut durable = self.durable_mut();
            let mut tables = self.write();
            *keeper = Keeper::new(&manifest);
            *self.suspects() = Suspects::default();
            *durable = Arc::new(manifest);
            std::mem::replace(&mut *tables, new)
        };
        drop(keeper);
        drop(old);
        Ok(opened)
    }

    /// Removes the files of a generation that this store does not use. False, and nothing is removed, while a pin
    /// or an export may still read from it.
    pub fn remove_generation(&self, generation: u64) -> Result<bool, StoreError> {
        let keeper = self.keeper();
        if keeper.generation == generation {
            return Err(StoreError::Superseded { asked: generation, current: keeper.generation });
        }
        // A later generation than this store's was received and never used: no reader can hold anything of it. Waiting
        // for readers there would let a busy member never receive another snapshot.
        if generation < keeper.generation && !self.pins().is_unpinned() {
            return Ok(false);
        }
        Self::erase(self.disk(), generation)?;
        Ok(true)
    }

    /// Removes the files of a generation that no store has open, for a member that gives up its data. A crash in
    /// between leaves no store, and this may be called again.
    pub fn erase(disk: &dyn Disk, generation: u64) -> Result<(), StoreError> {
        let folder = generation_folder(generation);
        // The manifest first: a folder without one is no store, whatever else is left in it.
        remove_if_there(disk, &Manifest::path(generation))?;
        disk.sync_dir(&folder).or_else(missing_is_fine).map_err(|e| StoreError::io(&folder, e))?;
        for listed in disk.list(&folder).map_err(|e| StoreError::io(&folder, e))? {
            remove_if_there(disk, &listed.path)?;
        }
        Ok(())
    }
}

fn missing_is_fine(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn opened(tables: &Tables, manifest: &Manifest, repaired: Option<String>) -> Opened {
    Opened { meta: manifest.meta.clone(), hashes: tables.hashes.clone(), repaired }
}

fn load(
    disk: &Arc<dyn Disk>,
    config: StoreConfig,
    identity: Identity,
    generation: u64,
    base: u32,
) -> Result<(Tables, Found), OpenError> {
    let Some(Found { manifest, damaged }) = Manifest::read(disk.as_ref(), generation)? else {
        return Err(OpenError::Missing { folder: generation_folder(generation) });
    };
    check_identity(&manifest, identity)?;
    check_segments(disk.as_ref(), &manifest)?;
    let source = SegmentSource::new(disk.clone(), identity, generation);
    let mut tables = Tables::new(config, source, base);
    load_rows(disk.as_ref(), &manifest, &mut tables)?;
    for (&number, info) in &manifest.segments {
        let mut segment = Segment::new(tables.source.existing(number, info.salt));
        (segment.weight_total, segment.weight_live) = (info.weight_total, info.weight_live);
        (segment.durable_bytes, segment.durable_records) = (info.len, info.records);
        tables.segments.insert(number, segment);
    }
    tables.segment_next = manifest.segment_next;
    // Only now: a store that cannot be opened is left as it was found.
    remove_strays(disk.as_ref(), &manifest)?;
    if damaged.is_some() {
        manifest.commit(disk.as_ref())?;
    }
    Ok((tables, Found { manifest, damaged }))
}

fn check_identity(manifest: &Manifest, expected: Identity) -> Result<(), OpenError> {
    let found = manifest.identity;
    let pairs = [
        ("cluster", found.cluster.0, expected.cluster.0),
        ("member", found.member.0, expected.member.0),
        ("incarnation", found.incarnation.0, expected.incarnation.0),
    ];
    match pairs.into_iter().find(|(_, found, expected)| found != expected) {
        None => Ok(()),
        Some((what, found, expected)) => {
            Err(OpenError::Identity { path: Manifest::path(manifest.generation), what, found, expected })
        }
    }
}

/// Every segment is there and long enough. What is inside is checked when it is read.
fn check_segments(disk: &dyn Disk, manifest: &Manifest) -> Result<(), OpenError> {
    let folder = generation_folder(manifest.generation);
    let listed = disk.list(&folder).map_err(|e| StoreError::io(&folder, e))?;
    let lengths: BTreeMap<&str, u64> = listed.iter().map(|file| (file.path.as_str(), file.len)).collect();
    for (&number, info) in &manifest.segments {
        let path = format!("{folder}/{}", segment_name(number));
        match lengths.get(path.as_str()) {
            Some(&len) if len >= u64::from(info.len) => {}
            Some(&len) => {
                return Err(
                    StoreError::corrupt(&path, len, "the segment is shorter than its manifest says").into()
                );
            }
            None => {
                return Err(
                    StoreError::corrupt(&path, 0, "the manifest names this file; it is missing").into()
                );
            }
        }
    }
    Ok(())
}

fn load_rows(disk: &dyn Disk, manifest: &Manifest, tables: &mut Tables) -> Result<(), OpenError> {
    let folder = generation_folder(manifest.generation);
    let readers = manifest
        .runs
        .iter()
        .map(|&info| RunReader::open(disk, &format!("{folder}/{}", run_name(info.number)), info))
        .collect::<Result<Vec<_>, _>>()?;
    let mut merge = Merge::new(readers)?;
    let path = Manifest::path(manifest.generation);
    let mut building: Option<(TableId, RowsBuilder)> = None;
    let mut rows: BTreeMap<TableId, (Rows, u64, u128)> = BTreeMap::new();
    while merge.advance()? {
        let (table, key, value) = merge.current();
        let Some(value) = value else { continue };
        if let Some((done, builder)) = building.take_if(|(current, _)| *current != table) {
            rows.insert(done, builder.finish());
        }
        let (_, builder) = building.get_or_insert_with(|| (table, RowsBuilder::default()));
        builder.push(key, value).ok_or_else(|| StoreError::corrupt(&path, 0, "rows are out of order"))?;
    }
    if let Some((done, builder)) = building {
        rows.insert(done, builder.finish());
    }
    if let Some(table) = rows.keys().find(|table| !manifest.tables.contains_key(table)) {
        return Err(OpenError::Hash { path, table: table.0, found: rows[table].2, expected: 0 });
    }
    for (&table, info) in &manifest.tables {
        let (found, count, hash) = rows.remove(&table).unwrap_or_default();
        if (count, hash) != (info.rows, info.hash) {
            return Err(OpenError::Hash { path, table: table.0, found: hash, expected: info.hash });
        }
        tables.rows.insert(table, found);
        tables.hashes.insert(table, hash);
    }
    Ok(())
}

/// Removes every file of the generation's folder that the manifest does not name, and cuts off what was reserved behind
/// the end of a segment: it is not written to any more, and each start on a full disk would take some space for good.
fn remove_strays(disk: &dyn Disk, manifest: &Manifest) -> Result<(), StoreError> {
    let folder = generation_folder(manifest.generation);
    let runs = manifest.runs.iter().map(|run| (run_name(run.number), None));
    let segments = manifest.segments.iter();
    let segments = segments.map(|(&number, info)| (segment_name(number), Some(u64::from(info.len))));
    let manifests = [MANIFEST_NAME, COPY_NAME].map(|name| (name.to_owned(), None));
    let named: BTreeMap<String, Option<u64>> = runs.chain(segments).chain(manifests).collect();
    for listed in disk.list(&folder).map_err(|e| StoreError::io(&folder, e))? {
        match named.get(listed.path.rsplit('/').next().unwrap_or_default()) {
            None => remove_if_there(disk, &listed.path)?,
            Some(Some(len)) if *len < listed.len => {
                // Only space depends on it, and the next start tries again.
                let _ = disk.open(&listed.path, Mode::default()).and_then(|file| file.truncate(*len));
            }
            Some(_) => {}
        }
    }
    Ok(())
}
