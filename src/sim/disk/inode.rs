//! The two lives of a file's bytes.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What a disk writes as one.
pub(super) const SECTOR: usize = 512;

#[derive(Default)]
pub(super) struct Inode {
    pub(super) live: Arc<Vec<u8>>,
    pub(super) durable: Arc<Vec<u8>>,
    /// Sectors that differ, maybe.
    pub(super) dirty: BTreeSet<usize>,
    /// Held once more by each view, whoever opened the file for it.
    views: Arc<()>,
    /// No view that is held ends behind this.
    viewed: usize,
}

impl Inode {
    /// The same bytes on another disk, where nobody has a view of them.
    pub(super) fn copy(&self) -> Self {
        Self {
            live: Arc::clone(&self.live),
            durable: Arc::clone(&self.durable),
            dirty: self.dirty.clone(),
            views: Arc::default(),
            viewed: 0,
        }
    }

    /// Somebody looks at the bytes below `end`, until what this returns is dropped.
    pub(super) fn view(&mut self, end: usize) -> Arc<()> {
        self.viewed = if Arc::strong_count(&self.views) > 1 {
            self.viewed.max(end)
        } else {
            end
        };
        Arc::clone(&self.views)
    }

    /// Whether a write at `offset` would change what somebody looks at.
    pub(super) fn is_viewed(&self, offset: usize) -> bool {
        offset < self.viewed && Arc::strong_count(&self.views) > 1
    }

    pub(super) fn write(&mut self, offset: usize, bytes: &[u8]) {
        let end = offset + bytes.len();
        let live = Arc::make_mut(&mut self.live);
        if end > live.len() {
            live.resize(end, 0);
        }
        live[offset..end].copy_from_slice(bytes);
        self.dirty.extend(offset / SECTOR..end.div_ceil(SECTOR));
    }

    /// The length reaches the disk, and so far nothing of what is new there.
    pub(super) fn keep_len(&mut self) {
        if self.durable.len() != self.live.len() {
            Arc::make_mut(&mut self.durable).resize(self.live.len(), 0);
        }
    }

    pub(super) fn sync(&mut self) {
        self.keep_len();
        for sector in std::mem::take(&mut self.dirty) {
            self.keep(sector);
        }
    }

    /// A sector reaches the disk, as far as the durable length goes.
    pub(super) fn keep(&mut self, sector: usize) {
        let start = sector * SECTOR;
        let end = (start + SECTOR)
            .min(self.live.len())
            .min(self.durable.len());
        if start < end {
            let durable = Arc::make_mut(&mut self.durable);
            durable[start..end].copy_from_slice(&self.live[start..end]);
        }
    }
}
