//! The directory of a node's snapshots.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::error::SnapshotError;
use super::format::Meta;
use super::incoming::{Ask, IncomingSnapshot, Piece};
use super::reader::{SnapshotId, Whole};
use super::writer::SnapshotWriter;
use crate::error::Fault;
use crate::types::{ClusterId, LogId, LogIndex, NodeId, Term};
use crate::vfs::{Disk, DiskFile};

const SUFFIX: &str = ".snap";
const TEMPORARY: &str = ".snap.tmp";

/// The snapshots of one node. Clones are handles of the same store; one of them at a time writes.
#[derive(Clone)]
pub struct SnapshotStore {
    inner: Arc<Inner>,
}

struct Inner {
    disk: Arc<dyn Disk>,
    dir: PathBuf,
    cluster: ClusterId,
    newest: Mutex<Option<Arc<Whole>>>,
    /// What members fetch: kept though newer ones are there, until [`SnapshotStore::release`].
    lent: Mutex<BTreeMap<NodeId, Arc<Whole>>>,
}

/// What was found when a store was opened.
pub struct Found {
    /// The newest that is whole.
    pub newest: Option<Arc<Whole>>,
    /// Those that are newer and damaged, by the last entry that their name tells, the newest first. Their files are
    /// left where they are.
    pub damaged: Vec<(LogId, SnapshotError)>,
}

impl SnapshotStore {
    /// Opens the directory, which is created if need be. Removes what a crash left half written, and reads
    /// snapshots through, from the newest on, until one is whole.
    ///
    /// # Errors
    /// [`SnapshotError::Io`]; [`SnapshotError::NewerFormat`], [`SnapshotError::UnknownFeatures`],
    /// [`SnapshotError::Foreign`] and [`SnapshotError::NotASnapshot`] if a file is not for this version or
    /// this node.
    pub fn open(
        disk: Arc<dyn Disk>,
        dir: impl Into<PathBuf>,
        cluster: ClusterId,
    ) -> Result<(Self, Found), SnapshotError> {
        let dir = dir.into();
        disk.create_dir_all(&dir)
            .map_err(Fault::at("create", &dir))?;
        let inner = Inner {
            disk,
            dir,
            cluster,
            newest: Mutex::new(None),
            lent: Mutex::default(),
        };
        let store = Self {
            inner: Arc::new(inner),
        };
        for name in store.list()? {
            if name.ends_with(TEMPORARY) {
                store.remove(&store.inner.dir.join(name))?;
            }
        }
        // A killed process may have left a name that no sync covered, and the log may rest on it from now on.
        store.sync_dir()?;
        let found = store.find_newest()?;
        store.inner.newest.lock().clone_from(&found.newest);
        Ok((store, found))
    }

    /// The newest snapshot.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Whole>> {
        self.inner.newest.lock().clone()
    }

    /// The last entry that the newest snapshot has in it.
    #[must_use]
    pub fn last(&self) -> Option<LogId> {
        let newest = self.inner.newest.lock();
        newest.as_ref().map(|whole| whole.meta().last)
    }

    /// Begins a snapshot of the state that `meta` tells of.
    ///
    /// # Errors
    /// [`SnapshotError::ConfigurationTooLong`] and [`SnapshotError::Io`].
    pub fn begin(&self, meta: Meta) -> Result<SnapshotWriter, SnapshotError> {
        SnapshotWriter::new(self.clone(), meta)
    }

    /// Begins to take in a snapshot of another member. There may be one such at a time.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn receive(&self, id: SnapshotId) -> Result<IncomingSnapshot, SnapshotError> {
        IncomingSnapshot::new(self.clone(), id)
    }

    /// The bytes that a member asks for, at most `most` of them: of the snapshot that it has a part of, if this is
    /// the newest or the one that it was given last; else the first of the newest. None if there is none.
    ///
    /// # Errors
    /// [`SnapshotError::Io`].
    pub fn lend(&self, to: NodeId, ask: Ask, most: usize) -> Result<Option<Piece>, SnapshotError> {
        let mut lent = self.inner.lent.lock();
        let Some((whole, offset)) = self.choose(lent.get(&to), ask) else {
            return Ok(None);
        };
        lent.insert(to, Arc::clone(&whole));
        drop(lent);
        whole.piece(offset, most).map(Some)
    }

    /// Of which snapshot [`SnapshotStore::lend`] would give bytes now, by its last entry, and from which byte on.
    #[must_use]
    pub fn lends(&self, to: NodeId, ask: Ask) -> Option<(LogId, u64)> {
        let lent = self.inner.lent.lock();
        let (whole, offset) = self.choose(lent.get(&to), ask)?;
        Some((whole.id().last, offset))
    }

    fn choose(&self, before: Option<&Arc<Whole>>, ask: Ask) -> Option<(Arc<Whole>, u64)> {
        let newest = self.newest()?;
        let known = ask.have.and_then(|(id, offset)| {
            let mut both = [Some(&newest), before].into_iter().flatten();
            let whole = both.find(|whole| whole.id() == id)?;
            Some((Arc::clone(whole), offset)).filter(|_| offset < id.bytes)
        });
        Some(known.unwrap_or((newest, 0)))
    }

    /// Lets go of snapshots that were lent to members who no longer fetch. The files of older ones go with that.
    pub fn release(&self, fetches: impl Fn(NodeId) -> bool) {
        self.inner.lent.lock().retain(|&to, _| fetches(to));
    }

    /// The cluster whose state is kept here.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.inner.cluster
    }

    fn find_newest(&self) -> Result<Found, SnapshotError> {
        let mut named = self.list_whole()?;
        named.sort_by_key(|(last, _)| last.index);
        let mut damaged = Vec::new();
        for (last, name) in named.into_iter().rev() {
            let path = self.inner.dir.join(name);
            match self.open_one(&path, last) {
                Ok(whole) => {
                    return Ok(Found {
                        newest: Some(Arc::new(whole)),
                        damaged,
                    });
                }
                Err(error @ SnapshotError::Damaged { .. }) => damaged.push((last, error)),
                Err(error) => return Err(error),
            }
        }
        Ok(Found {
            newest: None,
            damaged,
        })
    }

    fn open_one(&self, path: &Path, last: LogId) -> Result<Whole, SnapshotError> {
        let whole = Whole::open(&*self.inner.disk, path, self.inner.cluster)?;
        if whole.meta().last != last {
            let what = "the header names another last entry than the file's name";
            return Err(SnapshotError::damaged(path, 40, what));
        }
        Ok(whole)
    }

    fn list(&self) -> Result<Vec<String>, SnapshotError> {
        let dir = &self.inner.dir;
        Ok(self.inner.disk.list(dir).map_err(Fault::at("list", dir))?)
    }

    /// The snapshots that have their name, with the entry that it tells.
    fn list_whole(&self) -> Result<Vec<(LogId, String)>, SnapshotError> {
        let named = self.list()?.into_iter();
        Ok(named
            .filter_map(|name| Some((parse_name(&name)?, name)))
            .collect())
    }

    pub(super) fn temporary_path(&self, last: LogId) -> PathBuf {
        self.inner.dir.join(format!("{}.tmp", name_of(last)))
    }

    pub(super) fn incoming_path(&self) -> PathBuf {
        self.inner.dir.join(format!("incoming{TEMPORARY}"))
    }

    pub(super) fn create(&self, path: &Path) -> Result<Arc<dyn DiskFile>, SnapshotError> {
        let created = self.inner.disk.create(path);
        Ok(created.map_err(Fault::at("create", path))?)
    }

    /// Reads a durable file through, gives it its name, and makes that durable. From here on it is what a
    /// restart begins with.
    pub(super) fn publish(
        &self,
        temporary: &Path,
        last: LogId,
        id: Option<SnapshotId>,
    ) -> Result<Arc<Whole>, SnapshotError> {
        let Inner { disk, dir, .. } = &*self.inner;
        let whole = self.open_one(temporary, last)?;
        if id.is_some_and(|id| id != whole.id()) {
            let what = "the file is not the snapshot that was fetched";
            return Err(SnapshotError::damaged(temporary, 0, what));
        }
        let path = dir.join(name_of(last));
        disk.rename(temporary, &path)
            .map_err(Fault::at("rename", temporary))?;
        self.sync_dir()?;
        let whole = Arc::new(whole.renamed(path));
        *self.inner.newest.lock() = Some(Arc::clone(&whole));
        for (of, name) in self.list_whole().unwrap_or_default() {
            if of.index < last.index {
                self.forget(&dir.join(name));
            }
        }
        Ok(whole)
    }

    fn sync_dir(&self) -> Result<(), SnapshotError> {
        let dir = &self.inner.dir;
        let synced = self.inner.disk.sync_dir(dir);
        Ok(synced.map_err(Fault::at("sync", dir))?)
    }

    fn remove(&self, path: &Path) -> Result<(), SnapshotError> {
        let removed = self.inner.disk.remove(path);
        Ok(removed.map_err(Fault::at("remove", path))?)
    }

    /// Removes what nothing rests on. If that fails it costs room, and the next open or snapshot tries again.
    pub(super) fn forget(&self, path: &Path) {
        if let Err(error) = self.remove(path) {
            crate::trace::warn!(%error, "a file is left behind");
        }
    }
}

fn name_of(last: LogId) -> String {
    let LogId { term, index } = last;
    format!("{:016x}-{:016x}{SUFFIX}", index.0, term.0)
}

fn parse_name(name: &str) -> Option<LogId> {
    let (index, term) = name.strip_suffix(SUFFIX)?.split_once('-')?;
    let number = |text: &str| u64::from_str_radix(text, 16).ok();
    let last = LogId::new(Term(number(term)?), LogIndex(number(index)?));
    (name_of(last) == name).then_some(last)
}
