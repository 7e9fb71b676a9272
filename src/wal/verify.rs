//! Checking what opening believes: every frame of a segment, and its footer against them.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::WalError;
use super::files::{self, Found};
use super::format::{self, HEAD_BYTES, HEADER_BYTES};
use super::index::{Index, Segment};
use super::recover;
use super::scan::{self, Walk};
use crate::types::LogIndex;
use crate::vfs::Disk;

/// How a segment leaves the log: what the Start frame of the next one must say.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Left {
    last: LogIndex,
    last_mark: u64,
    floor: LogIndex,
    floor_mark: u64,
}

/// Reads every frame of a segment in use, and its footer if it is said to have one. `before` is how the segment
/// before it left the log, where that is known.
pub(super) fn verify(
    disk: &dyn Disk,
    dir: &Path,
    segment: &Segment,
    has_footer: bool,
    before: Option<Left>,
) -> Result<Left, WalError> {
    let file = open(disk, dir, segment)?;
    let bytes = file.bytes()?;
    let mut check = Check::begin(&file, segment.published(), before)?;
    check.take(&file, &bytes[check.rest()])?;
    check.finish(&file, has_footer)
}

/// Opens the file of a segment, which must be that one still.
pub(super) fn open(disk: &dyn Disk, dir: &Path, segment: &Segment) -> Result<Found, WalError> {
    let file = files::open_segment(disk, dir, segment.sequence)?;
    files::check_file(&file, &[])?;
    if file.segment.id != segment.id {
        return Err(file.damaged(0, "another segment than when the log was opened"));
    }
    Ok(file)
}

/// A segment of which all frames up to some place were read, one after another, and were good.
pub(super) struct Check {
    id: u64,
    limit: usize,
    walk: Walk,
    index: Index,
    state: Option<Vec<u8>>,
}

impl Check {
    /// Of a segment whose frames end at `limit`, none is read yet.
    pub(super) fn begin(file: &Found, limit: u64, before: Option<Left>) -> Result<Self, WalError> {
        let Some((head, start)) = &file.start else {
            return Err(file.bad_start());
        };
        let begins = Left {
            last: head.index,
            last_mark: head.mark,
            floor: start.floor,
            floor_mark: start.floor_mark,
        };
        if before.is_some_and(|before| before != begins) {
            let what = "a segment that does not begin where the one before it ends";
            return Err(file.damaged(HEADER_BYTES, what));
        }
        let mut index = recover::index_at(head, start);
        index.begin(Arc::clone(&file.segment));
        Ok(Self {
            id: file.segment.id,
            limit: usize::try_from(limit.min(file.segment.size)).unwrap_or(usize::MAX),
            walk: Walk::new(file.segment.sequence),
            index,
            state: None,
        })
    }

    /// Whether it is one of this segment.
    pub(super) fn is_of(&self, segment: &Segment) -> bool {
        self.id == segment.id
    }

    /// Where in the file the frames stand that were not read.
    pub(super) const fn rest(&self) -> Range<usize> {
        self.walk.end..self.limit
    }

    /// Reads the frames at the front of `bytes`, which are the file's from where the rest begins. Returns how
    /// long they would have to be for one more frame; 0 if there is none.
    pub(super) fn take(&mut self, file: &Found, bytes: &[u8]) -> Result<usize, WalError> {
        let from = self.walk.end;
        while self.walk.end < self.limit {
            let rest = &bytes[self.walk.end - from..];
            match scan::frame_at(rest, self.id, self.walk.end) {
                Ok(frame) => self.walk.take(&frame, &mut self.index, &mut self.state)?,
                Err(stop) => {
                    let head = format::read_head(rest, self.id, self.walk.end as u64);
                    let need = head.map_or(HEAD_BYTES, |head| format::frame_bytes(head.len));
                    if rest.len() < need && need <= self.rest().len() {
                        return Ok(need);
                    }
                    self.walk.stop = stop;
                    return Err(recover::damaged_frame(file, &self.index, &self.walk));
                }
            }
        }
        Ok(0)
    }

    /// All frames were read: now the footer, if it has one, and how it leaves the log.
    pub(super) fn finish(self, file: &Found, has_footer: bool) -> Result<Left, WalError> {
        let (expected, offsets) = self.index.footer(self.limit as u64, self.state);
        if has_footer {
            let (footer, table) = file.footer_and_table()?;
            if expected != footer || table != offsets {
                let what = "the segment's footer does not say what its frames say";
                return Err(file.damaged(self.limit as u64, what));
            }
        }
        Ok(Left {
            last: self.index.last,
            last_mark: self.index.last_mark,
            floor: self.index.floor,
            floor_mark: self.index.floor_mark,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::types::{ClusterId, Identity, NodeId};
    use crate::vfs::{Access, StdDisk};
    use crate::wal::footer::Footer;
    use crate::wal::format::{Ending, Head, Header, Kind, StartInfo};
    use crate::wal::index::Index;

    const ID: u64 = 77;
    const SIZE: u64 = 64 << 10;

    /// The first segment of a log, which holds entries 1, 2, 3, then 2 again, and its footer as `change`
    /// left it.
    fn segment(change: impl FnOnce(&mut Footer, &mut Vec<u32>)) -> Vec<u8> {
        let header = Header {
            id: ID,
            sequence: 1,
            identity: Identity {
                cluster: ClusterId(0),
                node: NodeId(0),
                incarnation: 0,
            },
            size: SIZE,
        };
        let mut bytes = header.encode();
        let mut put = |kind, index, mark, payload: &[u8]| {
            let offset = bytes.len() as u32;
            let head = Head {
                kind,
                tag: Ending::Sealed as u8,
                index: LogIndex(index),
                mark,
            };
            format::put_frame(&mut bytes, ID, u64::from(offset), head, payload);
            offset
        };
        put(Kind::Start, 0, 0, &StartInfo::default().encode());
        put(Kind::State, 0, 0, b"state");
        let mut offsets = vec![1, 2, 3];
        for offset in &mut offsets {
            let index = u64::from(*offset);
            *offset = put(Kind::Record, index, index, b"payload");
        }
        put(Kind::Truncate, 2, 1, b"");
        offsets.truncate(1);
        offsets.push(put(Kind::Record, 2, 4, b"again"));
        let run = |mark, first| super::super::footer::Run {
            mark,
            first: LogIndex(first),
        };
        let mut footer = Footer {
            end: bytes.len() as u64,
            lo: LogIndex(1),
            last: LogIndex(2),
            last_mark: 4,
            floor: LogIndex(0),
            floor_mark: 0,
            state: Some(b"state".to_vec()),
            runs: vec![run(1, 1), run(4, 2)],
            count: 2,
        };
        change(&mut footer, &mut offsets);
        let footer = footer.encode(&offsets, ID, SIZE, Vec::new());
        bytes.resize(SIZE as usize - footer.len(), 0);
        bytes.extend_from_slice(&footer);
        bytes
    }

    fn verified(change: impl FnOnce(&mut Footer, &mut Vec<u32>)) -> Result<Left, WalError> {
        let dir = tempfile::tempdir().unwrap();
        let path: PathBuf = dir.path().join(format::segment_name(1));
        let bytes = segment(change);
        std::fs::write(&path, &bytes).unwrap();
        let footer = Footer::decode(&bytes, ID).unwrap();
        let segment = std::sync::Arc::new(Segment::new(1, ID, SIZE, path.clone()));
        let _ = segment.file.set(StdDisk.open(&path, Access::Read).unwrap());
        segment.publish(footer.end);
        let mut index = Index::default();
        assert!(index.push_sealed(segment, &footer));
        let span = &index.spans[0];
        verify(&StdDisk, dir.path(), &span.segment, span.is_sealed(), None)
    }

    #[test]
    fn a_footer_with_good_checksums_that_says_something_else_than_the_frames_is_named() {
        assert!(verified(|_, _| ()).is_ok());
        type Change = fn(&mut Footer, &mut Vec<u32>);
        let changes: [(&str, Change); 6] = [
            ("the place of an entry that was truncated", |_, offsets| {
                offsets[1] = offsets[0] + 40;
            }),
            ("places that were swapped", |_, offsets| offsets.swap(0, 1)),
            ("another state", |footer, _| {
                footer.state = Some(b"stale".to_vec())
            }),
            ("no state", |footer, _| footer.state = None),
            ("another run", |footer, _| footer.runs[0].mark = 2),
            ("another mark", |footer, _| {
                footer.runs[1].mark = 5;
                footer.last_mark = 5;
            }),
        ];
        for (name, change) in changes {
            match verified(change).map(drop) {
                Err(WalError::Corruption { segment, what, .. }) => {
                    assert_eq!(segment, "0000000000000001.wal", "{name}");
                    assert!(what.contains("footer does not say"), "{name}: {what}");
                }
                other => panic!("{name}: {other:?}"),
            }
        }
    }

    fn opened(bytes: &[u8]) -> Result<(crate::wal::Wal, tempfile::TempDir), WalError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(format::segment_name(1)), bytes).unwrap();
        let options = crate::wal::WalOptions::new(dir.path()).segment_bytes(SIZE);
        options.open().map(|(wal, _)| (wal, dir))
    }

    #[test]
    fn opening_a_log_that_ends_with_such_a_footer_names_it_too() {
        let (wal, _dir) = opened(&segment(|_, _| ())).unwrap();
        assert_eq!(wal.reader().last(), LogIndex(2));
        match opened(&segment(|footer, _| footer.state = None)).map(drop) {
            Err(WalError::Corruption { what, .. }) => {
                assert!(what.contains("footer does not say"), "{what}");
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_log_goes_on_behind_a_segment_whose_frames_leave_no_room_for_a_footer() {
        let mut end = 0;
        let mut bytes = segment(|footer, _| end = footer.end as usize);
        bytes.truncate(end);
        let head = Head {
            kind: Kind::Record,
            tag: 0,
            index: LogIndex(3),
            mark: 4,
        };
        let payload = vec![7; SIZE as usize - end - format::HEAD_BYTES - 64];
        format::put_frame(&mut bytes, ID, end as u64, head, &payload);
        bytes.resize(SIZE as usize, 0);
        let (wal, dir) = opened(&bytes).unwrap();
        wal.sync(wal.append(&[b"behind"]).unwrap()).unwrap();
        drop(wal);
        let options = crate::wal::WalOptions::new(dir.path()).segment_bytes(SIZE);
        let (wal, _) = options.open().unwrap();
        assert_eq!(&*wal.reader().get(LogIndex(3)).unwrap().payload, payload);
        assert_eq!(&*wal.reader().get(LogIndex(4)).unwrap().payload, b"behind");
    }
}
