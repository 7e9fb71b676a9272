//! What stands on the disk, and what becomes of it when a log is opened.
//!
//! [`survey`] only reads, and decides everything; [`recover`] then does to the disk what was decided. The
//! last segment in use is scanned, those before it say what they hold in their footers.
//!
//! A bad frame in the last segment is either what a crash left of writes that no fsync covered, or damage.
//! Each batch carries a fence: a place that was durable when the batch was written. A bad frame below a
//! fence that stands in a good frame behind it is damage. Above all fences it is a torn tail, which nobody
//! was told is durable, and which is cut: the log goes on in a fresh segment, so what was cut stays behind
//! the named end of its segment for good.

use std::path::Path;
use std::sync::Arc;

use super::core::Resume;
use super::error::WalError;
use super::files::{self, Found};
use super::footer::{self, Footer, TAIL_BYTES};
use super::format::{self, Ending, HEADER_BYTES, Head, Header, Position, StartInfo};
use super::index::{Index, Segment};
use super::options::WalOptions;
use super::prepare;
use super::scan::{Stop, Walk};
use super::stock::Plan;
use crate::error::Fault;
use crate::types::{Bytes, ClusterId, Identity, LogIndex, NodeId};
use crate::vfs::{Access, Disk, DiskFile};

/// What was found when a log was opened.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Recovery {
    /// Whose log it is.
    pub identity: Identity,
    /// Whether there was none before.
    pub created: bool,
    /// The state last written, if any was.
    pub state: Option<Vec<u8>>,
    /// The first entry; one past `last` if there is none.
    pub first: LogIndex,
    /// The last entry.
    pub last: LogIndex,
    /// What a crash left unfinished, and was cut.
    pub torn: Option<Torn>,
}

/// The unfinished end of a log, which no sync had covered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Torn {
    /// The name of the segment's file.
    pub segment: String,
    /// Where in the file the good part ends, in bytes.
    pub offset: u64,
    /// How many bytes behind it were written, or meant to be, and are not part of the log, as far as what is
    /// left of them tells.
    pub bytes: u64,
}

/// How the last segment in use ends.
pub(super) struct TailEnd {
    pub(super) segment: Arc<Segment>,
    file: Arc<dyn DiskFile>,
    end: u64,
    fenced: Position,
    /// Whether no frame of this segment is behind, so that writing may go on there.
    open: bool,
    ending: Ending,
}

/// Everything that the files of a log say.
pub(super) struct Survey {
    pub(super) identity: Option<Identity>,
    pub(super) index: Index,
    pub(super) state: Option<Vec<u8>>,
    tail: Option<TailEnd>,
    pub(super) torn: Option<Torn>,
    /// Prepared segments that nothing was written to.
    pub(super) unused: Vec<Header>,
    /// Sequences of segments to be removed, the last first: they hold unfinished writes or nothing.
    discard: Vec<u64>,
    /// Left by a preparation that did not end.
    temporary: Vec<String>,
}

/// Reads the log in `dir`. Changes nothing.
pub(super) fn survey(
    disk: &dyn Disk,
    dir: &Path,
    owner: Option<(ClusterId, NodeId)>,
) -> Result<Survey, WalError> {
    let names = disk.list(dir).map_err(Fault::at("list", dir))?;
    let mut found = Vec::new();
    for name in &names {
        if let Some(sequence) = format::parse_name(name) {
            found.push(files::open_segment(disk, dir, sequence)?);
        }
    }
    let temporary = names
        .into_iter()
        .filter(|name| name.ends_with(".wal.tmp"))
        .collect();
    files::check_set(&found, owner)?;
    let mut survey = Survey {
        identity: found.first().map(|first| first.header.identity),
        index: Index::default(),
        state: None,
        tail: None,
        torn: None,
        unused: Vec::new(),
        discard: Vec::new(),
        temporary,
    };
    let used = found
        .iter()
        .rposition(|file| file.begun)
        .map_or(0, |at| at + 1);
    let starts = read_starts(&found[..used])?;
    survey.read_used(&found[..starts.len()], &starts)?;
    let rest = &found[starts.len()..];
    survey.read_unused(rest)?;
    if !survey.index.is_covered() {
        return Err(WalError::MissingFirst {
            segment: found
                .first()
                .map_or_else(String::new, |first| first.segment.name.clone()),
            first: survey.index.first(),
        });
    }
    Ok(survey)
}

/// Reads and links the Start frames. Only the last may be bad, if nothing says that it was durable: then it
/// is left out.
fn read_starts(used: &[Found]) -> Result<Vec<(Head, StartInfo)>, WalError> {
    let mut starts: Vec<(Head, StartInfo)> = Vec::new();
    for (at, file) in used.iter().enumerate() {
        let Some((head, start)) = file.start else {
            let behind = &used[at + 1..];
            let only = at == 0 && file.segment.sequence > 1;
            if !behind.is_empty() || only {
                return Err(misread_start(file, behind).bad_start());
            }
            return Ok(starts);
        };
        let before = at.checked_sub(1).map(|before| &used[before].segment);
        if let Some(before) = before.filter(|before| before.id != start.previous_id) {
            return Err(WalError::Unlinked {
                segment: file.segment.name.clone(),
                previous: before.name.clone(),
            });
        }
        let fits = before.is_none_or(|before| start.previous.offset <= before.size);
        if !fits || start.previous.sequence != file.segment.sequence - 1 {
            let what = "the segment's first frame names a place where no segment ends";
            return Err(file.damaged(HEADER_BYTES, what));
        }
        starts.push((head, start));
    }
    Ok(starts)
}

/// Which of the segments from the first bad Start frame on to call damaged. Something stands at the head of the
/// last, so that all before it should have begun; but where the first begins with zeros and no Start frame
/// behind it is good, it is likelier that only the last is wrong.
fn misread_start<'a>(first: &'a Found, behind: &'a [Found]) -> &'a Found {
    let none_begun = !first.begun && behind.iter().all(|file| file.start.is_none());
    behind.last().filter(|_| none_begun).unwrap_or(first)
}

impl Survey {
    /// Reads the segments in use, whose Start frames are good: footers, and the frames of the last.
    fn read_used(&mut self, used: &[Found], starts: &[(Head, StartInfo)]) -> Result<(), WalError> {
        let Some((head, start)) = starts.first() else {
            return Ok(());
        };
        self.index = index_at(head, start);
        for (at, file) in used.iter().enumerate() {
            let (head, start) = &starts[at];
            if !self.index.stands_at(head, start) {
                let what = "a segment that does not begin where the one before it ends";
                return Err(file.damaged(HEADER_BYTES, what));
            }
            let Some((next, start)) = starts.get(at + 1) else {
                self.read_tail(file, &file.bytes()?)?;
                continue;
            };
            let end = start.previous.offset;
            if next.tag == Ending::Cut as u8 {
                self.read_cut(file, end)?;
            } else {
                self.read_sealed(file, end)?;
            }
            let _ = file.segment.file.set(Arc::clone(&file.file));
            file.segment.publish(end);
        }
        Ok(())
    }

    /// A segment that recovery cut at `end`, without a footer.
    fn read_cut(&mut self, file: &Found, end: u64) -> Result<(), WalError> {
        let bytes = file.bytes()?;
        self.index.begin(Arc::clone(&file.segment));
        let limit = usize::try_from(end).unwrap_or(usize::MAX);
        let walk = file
            .image(&bytes)
            .replay(limit, &mut self.index, &mut self.state)?;
        if walk.end as u64 == end {
            return Ok(());
        }
        Err(damaged_frame(file, &self.index, &walk))
    }

    /// A segment that ended with a footer. Nothing else of it is read, however much it holds.
    fn read_sealed(&mut self, file: &Found, end: u64) -> Result<(), WalError> {
        let footer = file.footer()?;
        if footer.end != end {
            let what = "the segment's footer does not end its frames where the next segment says";
            return Err(file.damaged(file.segment.size - TAIL_BYTES as u64, what));
        }
        if !self.index.push_sealed(Arc::clone(&file.segment), &footer) {
            let what = "the segment's footer does not follow the segments before";
            return Err(file.damaged(end, what));
        }
        self.state = footer.state;
        Ok(())
    }

    /// The last segment in use.
    fn read_tail(&mut self, file: &Found, bytes: &Bytes) -> Result<(), WalError> {
        let image = file.image(bytes);
        let footer = Footer::decode(bytes, file.segment.id);
        let footer_end = footer.and_then(|footer| usize::try_from(footer.end).ok());
        let limit = footer_end.unwrap_or(bytes.len());
        self.index.begin(Arc::clone(&file.segment));
        let walk = image.replay(limit, &mut self.index, &mut self.state)?;
        // Those before the first segment went when its first batch was durable.
        if self.index.spans.len() == 1 && file.segment.sequence > 1 && walk.batch_end == 0 {
            return Err(damaged_frame(file, &self.index, &walk));
        }
        let sealed = footer_end == Some(walk.end);
        if sealed && !self.is_footer(file, bytes, walk.end as u64) {
            let what = "the segment's footer does not say what its frames say";
            return Err(file.damaged(walk.end as u64, what));
        }
        let mut open = false;
        if !sealed {
            let behind = image.behind(walk.end);
            let here = Position {
                sequence: file.segment.sequence,
                offset: walk.end as u64,
            };
            if behind.fence > Some(here) {
                return Err(damaged_frame(file, &self.index, &walk));
            }
            let begun = match walk.stop {
                Stop::End => walk.end,
                Stop::Bad(_) => walk.end + format::HEAD_BYTES,
            };
            let meant = begun.max(behind.end).max(walk.batch_end);
            let (count, runs) = self.index.footer_counts();
            let ended = walk.end + footer::footer_bytes(count, runs);
            // Where its footer has no room it can only be cut. No writer leaves a segment so. One without a batch
            // carries over nothing for certain: what is before it may not go yet, as it may once one is open.
            open = meant == walk.end && ended <= bytes.len() && walk.batch_end > 0;
            if meant > walk.end {
                self.torn = Some(Torn {
                    segment: file.segment.name.clone(),
                    offset: walk.end as u64,
                    bytes: (meant - walk.end) as u64,
                });
            }
        }
        file.segment.publish(walk.end as u64);
        self.tail = Some(TailEnd {
            segment: Arc::clone(&file.segment),
            file: Arc::clone(&file.file),
            end: walk.end as u64,
            fenced: walk.fenced,
            open,
            ending: if sealed { Ending::Sealed } else { Ending::Cut },
        });
        Ok(())
    }

    /// Whether the last segment's bytes end with the footer that its frames make. Later opens go by it alone.
    fn is_footer(&self, file: &Found, bytes: &[u8], end: u64) -> bool {
        let (footer, offsets) = self.index.footer(end, self.state.clone());
        let Segment { id, size, .. } = *file.segment;
        bytes.ends_with(&footer.encode(offsets, id, size, Vec::new()))
    }

    /// The segments behind the last in use: prepared ones, or the first write to one that did not end.
    fn read_unused(&mut self, rest: &[Found]) -> Result<(), WalError> {
        // A segment is only written to when the one before has ended: if that one is open, and nothing is to be
        // seen of a write, none is looked for.
        let open = self.tail.as_ref().is_some_and(|tail| tail.open);
        if let Some(next) = rest.first().filter(|next| next.begun || !open) {
            let bytes = next.bytes()?;
            let image = next.image(&bytes);
            let start = HEADER_BYTES as usize;
            let behind = image.behind(start);
            if self.tail.is_none() && next.segment.sequence > 1 {
                if behind.end > start {
                    return Err(next.bad_start());
                }
                return Err(WalError::MissingSegment {
                    segment: format::segment_name(next.segment.sequence - 1),
                });
            }
            // Without a frame of its own it is only a byte that was changed, and will be written over.
            if behind.end > start || (next.begun && !open) {
                self.check_fence(next, behind.fence)?;
                self.torn.get_or_insert_with(|| Torn {
                    segment: next.segment.name.clone(),
                    offset: HEADER_BYTES,
                    bytes: (behind.end - start) as u64,
                });
                self.discard = rest
                    .iter()
                    .rev()
                    .map(|file| file.segment.sequence)
                    .collect();
                return Ok(());
            }
        }
        self.unused = rest.iter().map(|file| file.header).collect();
        Ok(())
    }

    /// No fence in the torn first write of `next` may be above what is kept.
    fn check_fence(&self, next: &Found, fence: Option<Position>) -> Result<(), WalError> {
        let begin = Position {
            sequence: next.segment.sequence,
            offset: HEADER_BYTES,
        };
        if fence > Some(begin) {
            return Err(next.bad_start());
        }
        match &self.tail {
            Some(tail) if tail.ending == Ending::Cut => {
                let end = Position {
                    sequence: tail.segment.sequence,
                    offset: tail.end,
                };
                if fence > Some(end) {
                    return Err(WalError::Corruption {
                        segment: tail.segment.name.clone(),
                        offset: tail.end,
                        index: Some(self.index.last.next()),
                        what: "a frame that was durable is damaged",
                    });
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// The log before the segment that begins so.
pub(super) fn index_at(head: &Head, start: &StartInfo) -> Index {
    Index::after(start.floor, start.floor_mark, (head.index, head.mark))
}

/// What the first bad frame of a walk is to be called.
pub(super) fn damaged_frame(file: &Found, index: &Index, walk: &Walk) -> WalError {
    WalError::Corruption {
        segment: file.segment.name.clone(),
        offset: walk.end as u64,
        index: Some(index.last.next()),
        what: match walk.stop {
            Stop::Bad(what) => what,
            Stop::End => "zeros where a frame was",
        },
    }
}

/// Surveys the log, and makes the disk what was decided: what is kept is durable then.
pub(super) fn recover(options: &WalOptions) -> Result<(Resume, Plan, Recovery), WalError> {
    let (disk, dir) = (&*options.disk, options.dir.as_path());
    let mut survey = survey(disk, dir, Some(options.owner))?;
    let other_size = |header: &Header| header.size != options.segment_bytes;
    if survey.unused.iter().any(other_size) {
        // An entry that fits a segment of the size asked for might not fit these.
        let unused = survey.unused.drain(..).rev();
        survey.discard.extend(unused.map(|header| header.sequence));
    }
    for name in &survey.temporary {
        let path = dir.join(name);
        disk.remove(&path).map_err(Fault::at("remove", &path))?;
    }
    for &sequence in &survey.discard {
        prepare::remove(disk, dir, &dir.join(format::segment_name(sequence)))?;
    }
    let seed = disk
        .entropy()
        .map_err(Fault::at("draw a number for", dir))?;
    let created = survey.identity.is_none();
    let identity = survey.identity.unwrap_or(Identity {
        cluster: options.owner.0,
        node: options.owner.1,
        incarnation: seed.rotate_left(32) ^ 0x6361_7461_6d61_7261,
    });
    let recovery = Recovery {
        identity,
        created,
        state: survey.state.clone(),
        first: survey.index.first(),
        last: survey.index.last,
        torn: survey.torn.clone(),
    };
    let plan = Plan {
        dir: dir.to_path_buf(),
        identity,
        segment_bytes: options.segment_bytes,
        seed,
        found: survey.unused.clone(),
    };
    // A killed process may have left names, and below bytes, that no fsync covered.
    disk.sync_dir(dir).map_err(Fault::at("sync", dir))?;
    let resume = survey.resume(disk)?;
    Ok((resume, plan, recovery))
}

impl Survey {
    /// Lets the entries of the last segment be read where they were scanned.
    pub(super) fn open_tail(&self) {
        if let Some(tail) = &self.tail {
            let _ = tail.segment.file.set(Arc::clone(&tail.file));
        }
    }

    /// How far batches, and segments that others follow, say that the log is durable.
    pub(super) fn fenced(&self) -> Option<Position> {
        let tail = self.tail.as_ref()?;
        let begun = Position {
            sequence: tail.segment.sequence,
            offset: HEADER_BYTES,
        };
        Some(tail.fenced.max(begun))
    }

    /// The segment that is being written.
    pub(super) fn active(&self) -> Option<u64> {
        let tail = self.tail.as_ref().filter(|tail| tail.open);
        tail.map(|tail| tail.segment.sequence)
    }

    fn resume(self, disk: &dyn Disk) -> Result<Resume, WalError> {
        let mut resume = Resume {
            index: self.index,
            state: self.state,
            end: None,
            ending: Ending::Sealed,
            fenced: Position::default(),
            active: None,
            next: 1,
        };
        let Some(tail) = self.tail else {
            return Ok(resume);
        };
        let TailEnd { segment, file, .. } = tail;
        // The map that was scanned goes before anything is written.
        drop(file);
        let path = &segment.path;
        let file = disk
            .open(path, Access::ReadWrite)
            .map_err(Fault::at("open", path))?;
        file.sync_data().map_err(Fault::at("sync", path))?;
        file.freeze(if tail.open { tail.end } else { segment.size });
        let _ = segment.file.set(file);
        let end = Position {
            sequence: segment.sequence,
            offset: tail.end,
        };
        resume.end = Some((end, segment.id));
        resume.ending = tail.ending;
        resume.fenced = tail.fenced;
        resume.next = segment.sequence + 1;
        resume.active = Some(segment).filter(|_| tail.open);
        Ok(resume)
    }
}
