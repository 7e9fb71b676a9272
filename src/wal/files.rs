//! The segment files of a log as they are found: each opened and its head read, all checked to be one log's.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use super::error::WalError;
use super::footer::{Footer, FooterTail, TAIL_BYTES};
use super::format::{self, HEADER_BYTES, Head, Header, HeaderError, START_BYTES, StartInfo};
use super::index::Segment;
use super::scan::Image;
use crate::error::Fault;
use crate::types::{Bytes, ClusterId, NodeId};
use crate::vfs::{Access, Disk, DiskFile};

/// One segment file, opened for reading.
pub(super) struct Found {
    pub(super) header: Header,
    pub(super) segment: Arc<Segment>,
    pub(super) file: Arc<dyn DiskFile>,
    /// Whether anything was written to it.
    pub(super) begun: bool,
    /// Its Start frame, if that is a good one.
    pub(super) start: Option<(Head, StartInfo)>,
}

impl Found {
    fn is_misplaced(&self) -> bool {
        self.header.sequence != self.segment.sequence
    }

    pub(super) fn bytes(&self) -> Result<Bytes, WalError> {
        let len = usize::try_from(self.segment.size).unwrap_or(usize::MAX);
        Ok(self
            .file
            .view(0, len)
            .map_err(Fault::at("read", &self.segment.path))?)
    }

    pub(super) fn image<'a>(&self, bytes: &'a [u8]) -> Image<'a> {
        Image {
            bytes,
            id: self.segment.id,
            sequence: self.segment.sequence,
        }
    }

    pub(super) fn damaged(&self, offset: u64, what: &'static str) -> WalError {
        WalError::Corruption {
            segment: self.segment.name.clone(),
            offset,
            index: None,
            what,
        }
    }

    pub(super) fn bad_start(&self) -> WalError {
        let what = if self.begun {
            "the segment's first frame is damaged"
        } else {
            "zeros where the segment's first frame was"
        };
        self.damaged(HEADER_BYTES, what)
    }

    /// Reads bytes of the file that lie within its size.
    pub(super) fn read(&self, range: Range<usize>) -> Result<Vec<u8>, WalError> {
        let mut bytes = vec![0; range.len()];
        self.file
            .read_at(range.start as u64, &mut bytes)
            .map_err(Fault::at("read", &self.segment.path))?;
        Ok(bytes)
    }

    /// The footer, without its table of offsets.
    pub(super) fn footer(&self) -> Result<Footer, WalError> {
        self.footer_by(&self.footer_tail()?)
    }

    /// The footer, and its table of offsets.
    pub(super) fn footer_and_table(&self) -> Result<(Footer, Vec<u32>), WalError> {
        let tail = self.footer_tail()?;
        let footer = self.footer_by(&tail)?;
        let mut table = self.read(tail.table.clone())?;
        if !tail.holds_table(&table) {
            let what = "the table of the segment's footer does not match its checksum";
            return Err(self.damaged(tail.table.start as u64, what));
        }
        table.truncate(footer.count * 4);
        let table = table.as_chunks().0.iter();
        Ok((
            footer,
            table.map(|four| u32::from_le_bytes(*four)).collect(),
        ))
    }

    fn footer_tail(&self) -> Result<FooterTail, WalError> {
        let size = self.segment.size;
        let at = size - TAIL_BYTES as u64;
        let mut bytes = [0; TAIL_BYTES];
        self.file
            .read_at(at, &mut bytes)
            .map_err(Fault::at("read", &self.segment.path))?;
        FooterTail::decode(&bytes, self.segment.id, size).ok_or_else(|| {
            let what = if bytes == [0; TAIL_BYTES] {
                "zeros where the segment's footer was"
            } else {
                "the end of the segment's footer does not match its checksum"
            };
            self.damaged(at, what)
        })
    }

    fn footer_by(&self, tail: &FooterTail) -> Result<Footer, WalError> {
        let summary = self.read(tail.summary.clone())?;
        tail.footer(&summary).ok_or_else(|| {
            let what = "the segment's footer does not match its checksum";
            self.damaged(tail.summary.start as u64, what)
        })
    }
}

/// Opens a segment, and reads its header and its first frame.
pub(super) fn open_segment(disk: &dyn Disk, dir: &Path, sequence: u64) -> Result<Found, WalError> {
    let name = format::segment_name(sequence);
    let path = dir.join(&name);
    let damaged = |what| WalError::Corruption {
        segment: name.clone(),
        offset: 0,
        index: None,
        what,
    };
    let file = disk
        .open(&path, Access::Read)
        .map_err(Fault::at("open", &path))?;
    let size = file.size().map_err(Fault::at("measure", &path))?;
    let mut block = vec![0; HEADER_BYTES as usize + START_BYTES];
    let there = block
        .len()
        .min(usize::try_from(size).unwrap_or(block.len()));
    file.read_at(0, &mut block[..there])
        .map_err(Fault::at("read", &path))?;
    if block[..HEADER_BYTES as usize].iter().all(|&byte| byte == 0) {
        return Err(damaged("zeros where the header was"));
    }
    let header = Header::decode(&block).map_err(|error| match error {
        HeaderError::NotALog => WalError::NotALog { path: path.clone() },
        HeaderError::Damaged => damaged("the header does not match its checksum"),
        HeaderError::Newer(found) => WalError::NewerFormat {
            path: path.clone(),
            found,
            supported: format::VERSION,
        },
        HeaderError::Features(bits) => WalError::UnknownFeatures {
            path: path.clone(),
            bits,
        },
    })?;
    if !(2 * HEADER_BYTES..=1 << 30).contains(&header.size) {
        return Err(damaged("the header names a size that no segment has"));
    }
    if header.size != size {
        // Nothing is mapped before this is known: a page that is not there would end the process.
        return Err(WalError::WrongSize {
            segment: name,
            expected: header.size,
            found: size,
        });
    }
    let head = &block[HEADER_BYTES as usize..][..format::HEAD_BYTES];
    let image = Image {
        bytes: &block,
        id: header.id,
        sequence,
    };
    Ok(Found {
        header,
        begun: head.iter().any(|&byte| byte != 0),
        start: image.start(),
        segment: Arc::new(Segment::new(sequence, header.id, size, path)),
        file,
    })
}

/// Whether a segment that was surveyed still has its name.
pub(super) fn is_there(disk: &dyn Disk, dir: &Path, segment: &Segment) -> bool {
    match open_segment(disk, dir, segment.sequence) {
        Ok(found) => found.header.id == segment.id,
        Err(WalError::Io(fault)) => fault.source.kind() != std::io::ErrorKind::NotFound,
        Err(_) => true,
    }
}

/// Checks one file against those before it, for who wants to go on after the first that is wrong.
pub(super) fn check_file(file: &Found, before: &[Found]) -> Result<(), WalError> {
    let (expected, found) = (
        before.first().unwrap_or(file).header.identity,
        file.header.identity,
    );
    if found != expected {
        return Err(WalError::ForeignSegment {
            path: file.segment.path.clone(),
            expected,
            found,
        });
    }
    if let Some(twin) = before.iter().find(|twin| twin.header.id == file.header.id) {
        return Err(duplicates(twin, file));
    }
    check_place(file)
}

fn duplicates(one: &Found, other: &Found) -> WalError {
    let mut twins = [one, other];
    twins.sort_by_key(|twin| twin.is_misplaced());
    WalError::DuplicateSegment {
        segments: twins.map(|twin| twin.segment.name.clone()),
    }
}

fn check_place(file: &Found) -> Result<(), WalError> {
    if file.is_misplaced() {
        return Err(WalError::Misplaced {
            segment: file.segment.name.clone(),
            named: format::segment_name(file.header.sequence),
        });
    }
    Ok(())
}

/// Checks that the files are one log's, each under its name, and that none is missing between others.
pub(super) fn check_set(
    found: &[Found],
    owner: Option<(ClusterId, NodeId)>,
) -> Result<(), WalError> {
    let Some(first) = found.first() else {
        return Ok(());
    };
    check_identity(found, owner)?;
    // Each of these would look like one of those after it.
    let mut ids = BTreeMap::new();
    for file in found {
        if let Some(twin) = ids.insert(file.header.id, file) {
            return Err(duplicates(twin, file));
        }
    }
    found.iter().try_for_each(check_place)?;
    let expected = first.segment.sequence..;
    match expected
        .zip(found)
        .find(|(at, file)| file.segment.sequence != *at)
    {
        Some((missing, _)) => Err(WalError::MissingSegment {
            segment: format::segment_name(missing),
        }),
        None => Ok(()),
    }
}

/// Checks whose the log is, which most of the files say, and that they all are of it.
fn check_identity(found: &[Found], owner: Option<(ClusterId, NodeId)>) -> Result<(), WalError> {
    let identity = |file: &Found| file.header.identity;
    let votes = |of: &Found| {
        found
            .iter()
            .filter(|file| identity(file) == identity(of))
            .count()
    };
    let mut log = &found[0];
    for file in found {
        // Not each against each, where all agree.
        if identity(file) != identity(log) && votes(file) > votes(log) {
            log = file;
        }
    }
    let ours = identity(log);
    let expected = owner.unwrap_or((ours.cluster, ours.node));
    if (ours.cluster, ours.node) != expected {
        return Err(WalError::Foreign {
            path: log.segment.path.clone(),
            expected,
            found: ours,
        });
    }
    match found.iter().find(|file| identity(file) != ours) {
        Some(stranger) => Err(WalError::ForeignSegment {
            path: stranger.segment.path.clone(),
            expected: ours,
            found: identity(stranger),
        }),
        None => Ok(()),
    }
}
