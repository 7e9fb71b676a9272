//! All damage of a log, for people who must know what is left of it.
//!
//! A survey stops at the first. Here each segment is looked at by itself: its frames are found by their
//! checksums alone, also behind bad ones, and its Start frame says where it stands in the log.

use std::io::ErrorKind;
use std::path::Path;

use super::error::WalError;
use super::files::{self, Found};
use super::footer::Footer;
use super::format::{self, Ending, HEADER_BYTES, Kind};

use super::scan::{Frame, Image, Stop};
use crate::error::Fault;
use crate::types::LogIndex;
use crate::vfs::Disk;

/// Lists what is damaged in the log in `dir`, among it `first`, which was found already. Calls `progress`
/// with the bytes read and the bytes there are.
pub(super) fn list(
    disk: &dyn Disk,
    dir: &Path,
    first: WalError,
    mut progress: impl FnMut(u64, u64),
) -> Result<Vec<WalError>, WalError> {
    let mut damage = Vec::new();
    let found = open_all(disk, dir, &mut damage)?;
    let begun = found.iter().rposition(|file| file.begun);
    let used = begun.map_or(0, |at| at + 1);
    let total = found[..used].iter().map(|file| file.segment.size).sum();
    let mut read = 0;
    for at in 0..used {
        let mut here = Vec::new();
        segment(&found[..used], at, &mut here)?;
        // If it was dropped meanwhile, its file may be used again.
        if files::is_there(disk, dir, &found[at].segment) {
            damage.append(&mut here);
        }
        read += found[at].segment.size;
        progress(read, total);
    }
    if !damage.iter().any(|error| is_same(error, &first)) {
        damage.insert(0, first);
    }
    Ok(damage)
}

/// Whether both tell of the same place.
fn is_same(one: &WalError, other: &WalError) -> bool {
    let place = |error: &WalError| match error {
        WalError::Corruption {
            segment, offset, ..
        } => Some((segment.clone(), *offset)),
        _ => None,
    };
    match (place(one), place(other)) {
        (None, None) => one.to_string() == other.to_string(),
        (one, other) => one == other,
    }
}

/// The segment files that can be looked into, in order.
fn open_all(
    disk: &dyn Disk,
    dir: &Path,
    damage: &mut Vec<WalError>,
) -> Result<Vec<Found>, WalError> {
    let names = disk.list(dir).map_err(Fault::at("list", dir))?;
    let mut found: Vec<Found> = Vec::new();
    let mut expected = None;
    for sequence in names.iter().filter_map(|name| format::parse_name(name)) {
        if let Some(missing) = expected.filter(|&expected| expected != sequence) {
            damage.push(WalError::MissingSegment {
                segment: format::segment_name(missing),
            });
        }
        expected = Some(sequence + 1);
        let opened = files::open_segment(disk, dir, sequence).and_then(|file| {
            files::check_file(&file, &found)?;
            Ok(file)
        });
        match opened {
            Ok(file) => found.push(file),
            Err(WalError::Io(fault)) if fault.source.kind() == ErrorKind::NotFound => {}
            Err(error) if error.is_damage() => damage.push(error),
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// What the segment after says of how one ends.
struct Successor {
    end: u64,
    sealed: bool,
}

/// Looks at one of the segments in use.
fn segment(used: &[Found], at: usize, damage: &mut Vec<WalError>) -> Result<(), WalError> {
    let file = &used[at];
    let bytes = file.bytes()?;
    let image = file.image(&bytes);
    // The fence before the frames: what it covers was written before it, also beside a running writer.
    let fence = image.behind(HEADER_BYTES as usize).fence;
    let fence = fence.filter(|fence| fence.sequence == file.segment.sequence);
    let footer = Footer::decode(&bytes, file.segment.id);
    let successor = used.get(at + 1).and_then(|next| successor(file, next));
    let fenced = fence.map_or(HEADER_BYTES, |fence| fence.offset);
    let is_last = at + 1 == used.len();
    let limit = match (&successor, &footer) {
        // Of the last, what no fence covers may be torn.
        _ if is_last => fenced,
        (Some(next), _) => next.end,
        (None, Some(footer)) => footer.end,
        (None, None) => fenced,
    };
    let limit = usize::try_from(limit.min(file.segment.size)).unwrap_or(usize::MAX);
    if !is_last || limit > HEADER_BYTES as usize {
        frames(file, &image, limit, damage);
    }
    if let Some(next) = successor.filter(|next| next.sealed) {
        match file.footer() {
            Err(error) => damage.push(error),
            Ok(summary) if summary.end != next.end || footer.is_none() => {
                damage.push(file.damaged(next.end, "the segment's footer is damaged"));
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

fn successor(file: &Found, next: &Found) -> Option<Successor> {
    let (head, info) = next.start.as_ref()?;
    (info.previous_id == file.segment.id).then_some(Successor {
        end: info.previous.offset,
        sealed: head.tag == Ending::Sealed as u8,
    })
}

/// Looks for bad frames below `limit`: each is told once, with the entry that it probably was.
fn frames(file: &Found, image: &Image<'_>, limit: usize, damage: &mut Vec<WalError>) {
    let mut next = None;
    let mut offset = HEADER_BYTES as usize;
    if file.start.is_none() {
        damage.push(file.damaged(HEADER_BYTES, "the segment's first frame is damaged"));
        let Some(frame) = image.next_frame(offset + 8, limit) else {
            return;
        };
        offset = frame.offset;
    }
    while offset < limit {
        match image.frame(offset, limit) {
            Ok(frame) => {
                next = after(&frame, next);
                offset = frame.end();
            }
            Err(stop) => {
                damage.push(WalError::Corruption {
                    segment: file.segment.name.clone(),
                    offset: offset as u64,
                    index: next,
                    what: match stop {
                        Stop::Bad(what) => what,
                        Stop::End => "zeros where a frame was",
                    },
                });
                let Some(frame) = image.next_frame(offset + 8, limit) else {
                    return;
                };
                offset = frame.offset;
            }
        }
    }
}

/// The entry that may follow a frame, if `next` might follow those before it.
fn after(frame: &Frame<'_>, next: Option<LogIndex>) -> Option<LogIndex> {
    let index = frame.head.index;
    let following = Some(LogIndex(index.0.saturating_add(1)));
    match frame.head.kind {
        Kind::Start | Kind::Record => following,
        Kind::Truncate => Some(index),
        Kind::Drop => next.max(following),
        Kind::Batch | Kind::State => next,
    }
}
