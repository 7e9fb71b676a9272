//! The footer that ends a sealed segment: what its frames made of the log, and where each entry stands.
//!
//! ```text
//!  summary                                              table                               tail
//! +---------------------+------------------------------+-----------------------------------+----------+
//! | state, padded to 8  | runs: u64 mark, u64 first    | offsets, u32 each, zeros up to 8  | 80 bytes |
//! +---------------------+------------------------------+-----------------------------------+----------+
//!
//! tail: 0 u32 crc over bytes 4..80, seeded as a head   40 u64 last index
//!       4 u32 magic "FOOT"                             48 u64 last mark
//!       8 u32 summary crc   12 u32 table crc           56 u64 floor
//!      16 u32 frames end    20 u32 offsets             64 u64 floor mark
//!      24 u32 runs          28 u32 state length        72 u64 zero
//!      32 u64 lo
//! ```
//! The table has a checksum of its own, so that a log is opened without reading it: it is checked before its
//! first use. An entry's own checksums and index do not tell that its offset was right: a segment may hold
//! two records of one index, the older of them truncated.

use std::ops::Range;

use super::format::{MAX_STATE_BYTES, seed};
use crate::codec::{Put, Reader};
use crate::types::LogIndex;

/// How long the fixed end of the footer is.
pub(super) const TAIL_BYTES: usize = 80;

const MAGIC: u32 = 0x544f_4f46;
const NO_STATE: u32 = u32::MAX;

/// A stretch of entries with one mark, from `first` up to where the next run begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Run {
    pub(super) mark: u64,
    pub(super) first: LogIndex,
}

/// What a footer says; its table of offsets is read where it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Footer {
    /// Where the frames end.
    pub(super) end: u64,
    /// The lowest index written or truncated in the segment: from here on it supersedes earlier ones.
    pub(super) lo: LogIndex,
    /// The last index after the segment.
    pub(super) last: LogIndex,
    pub(super) last_mark: u64,
    pub(super) floor: LogIndex,
    pub(super) floor_mark: u64,
    pub(super) state: Option<Vec<u8>>,
    pub(super) runs: Vec<Run>,
    /// How many offsets there are: those of `lo..=last`.
    pub(super) count: usize,
}

/// How long a footer may get with so many entries and runs, whatever the state.
pub(super) const fn footer_bytes(count: usize, runs: usize) -> usize {
    MAX_STATE_BYTES + runs * 16 + table_bytes(count) + TAIL_BYTES
}

const fn table_bytes(count: usize) -> usize {
    (count * 4).next_multiple_of(8)
}

impl Footer {
    /// How long the state and the runs are.
    fn summary_bytes(&self) -> usize {
        let state = self.state.as_ref().map_or(0, Vec::len);
        state.next_multiple_of(8) + self.runs.len() * 16
    }

    /// Whether the runs are those of the entries `lo..=last` above the floor.
    pub(super) fn has_sound_runs(&self) -> bool {
        let first = self.lo.max(self.floor.next());
        let Some(last) = self.runs.last() else {
            return first > self.last;
        };
        let rises = |pair: &[Run]| pair[0].first < pair[1].first && pair[0].mark < pair[1].mark;
        self.runs[0].first == first
            && self.runs.windows(2).all(rises)
            && last.first <= self.last
            && last.mark == self.last_mark
    }

    /// Where in a segment of `size` bytes the footer's table of offsets begins.
    pub(super) const fn table_at(&self, size: u64) -> u64 {
        size - (TAIL_BYTES + table_bytes(self.count)) as u64
    }

    /// Encodes the footer; it stands at the very end of a segment of `size` bytes. Of `out` only the room is used.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a segment is at most 1 GiB, and all of this lies in it"
    )]
    pub(super) fn encode(&self, offsets: &[u32], id: u64, size: u64, mut out: Vec<u8>) -> Vec<u8> {
        debug_assert_eq!(self.count, offsets.len());
        out.clear();
        let summary = self.summary_bytes();
        let body = summary + table_bytes(self.count);
        out.reserve(body + TAIL_BYTES);
        if let Some(state) = &self.state {
            out.extend_from_slice(state);
            out.resize(state.len().next_multiple_of(8), 0);
        }
        for run in &self.runs {
            out.put_u64(run.mark);
            out.put_u64(run.first.0);
        }
        for &offset in offsets {
            out.put_u32(offset);
        }
        out.resize(body, 0);
        out.put_u32(0);
        out.put_u32(MAGIC);
        let crc = crc32fast::hash(&out[..summary]);
        out.put_u32(crc);
        let crc = crc32fast::hash(&out[summary..body]);
        out.put_u32(crc);
        out.put_u32(self.end as u32);
        out.put_u32(self.count as u32);
        out.put_u32(self.runs.len() as u32);
        out.put_u32(self.state.as_ref().map_or(NO_STATE, |s| s.len() as u32));
        out.put_u64(self.lo.0);
        out.put_u64(self.last.0);
        out.put_u64(self.last_mark);
        out.put_u64(self.floor.0);
        out.put_u64(self.floor_mark);
        out.put_u64(0);
        let crc = tail_crc(id, size, &out[body..]);
        out[body..body + 4].copy_from_slice(&crc.to_le_bytes());
        out
    }

    /// Reads the footer at the end of a segment's bytes, its table too. None if there is no whole one.
    pub(super) fn decode(segment: &[u8], id: u64) -> Option<Self> {
        let size = segment.len();
        let tail = segment.last_chunk()?;
        let tail = FooterTail::decode(tail, id, size as u64)?;
        let footer = tail.footer(&segment[tail.summary.clone()])?;
        tail.holds_table(&segment[tail.table.clone()])
            .then_some(footer)
    }
}

/// The fixed end of a footer: it says where the rest stands.
pub(super) struct FooterTail {
    /// Where in the segment the state and the runs stand.
    pub(super) summary: Range<usize>,
    /// Where the table of offsets stands.
    pub(super) table: Range<usize>,
    summary_crc: u32,
    table_crc: u32,
    state_len: Option<usize>,
    /// All but the state and the runs.
    bare: Footer,
}

impl FooterTail {
    /// Reads the end of a segment of `size` bytes. None if it is not that of a footer.
    pub(super) fn decode(bytes: &[u8; TAIL_BYTES], id: u64, size: u64) -> Option<Self> {
        let mut reader = Reader::new(bytes);
        let crc = reader.u32("tail crc").ok()?;
        if reader.u32("magic").ok()? != MAGIC || crc != tail_crc(id, size, bytes) {
            return None;
        }
        let mut u32 = || reader.u32("footer").ok();
        let (summary_crc, table_crc, end) = (u32()?, u32()?, u32()?);
        let (count, run_count) = (u32()? as usize, u32()? as usize);
        let state_len = Some(u32()?).filter(|&len| len != NO_STATE);
        let state_len = state_len.map(|len| len as usize);
        let mut u64 = || reader.u64("footer").ok();
        let (lo, last, last_mark) = (LogIndex(u64()?), LogIndex(u64()?), u64()?);
        let (floor, floor_mark) = (LogIndex(u64()?), u64()?);
        let table_end = usize::try_from(size).ok()?.checked_sub(TAIL_BYTES)?;
        let table_at = table_end.checked_sub(table_bytes(count))?;
        let summary = state_len.unwrap_or(0).next_multiple_of(8) + run_count * 16;
        let summary_at = table_at.checked_sub(summary)?;
        let holds = lo.prev().0.checked_add(count as u64) == Some(last.0);
        if (summary_at as u64) < u64::from(end) || !holds || last.0 == u64::MAX {
            return None;
        }
        Some(Self {
            summary: summary_at..table_at,
            table: table_at..table_end,
            summary_crc,
            table_crc,
            state_len,
            bare: Footer {
                end: u64::from(end),
                lo,
                last,
                last_mark,
                floor,
                floor_mark,
                state: None,
                runs: Vec::new(),
                count,
            },
        })
    }

    /// The whole footer, with its summary. None if that does not match its checksum.
    pub(super) fn footer(&self, summary: &[u8]) -> Option<Footer> {
        if summary.len() != self.summary.len() || crc32fast::hash(summary) != self.summary_crc {
            return None;
        }
        let state = self.state_len.unwrap_or(0);
        let (state, runs) = (&summary[..state], &summary[state.next_multiple_of(8)..]);
        let mut footer = self.bare.clone();
        footer.state = self.state_len.map(|_| state.to_vec());
        let runs = runs.as_chunks::<16>().0.iter().map(|run| Run {
            mark: u64::from_le_bytes(*run.first_chunk().unwrap_or(&[0; 8])),
            first: LogIndex(u64::from_le_bytes(*run.last_chunk().unwrap_or(&[0; 8]))),
        });
        footer.runs.extend(runs);
        Some(footer)
    }

    /// Whether these are the bytes of the table, as it was written.
    pub(super) fn holds_table(&self, table: &[u8]) -> bool {
        crc32fast::hash(table) == self.table_crc
    }
}

fn tail_crc(id: u64, size: u64, tail: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(seed(id, size));
    hasher.update(&tail[4..]);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_footer_is_read_back_and_its_damage_noticed() {
        let footer = Footer {
            end: 4200,
            lo: LogIndex(5),
            last: LogIndex(7),
            last_mark: 2,
            floor: LogIndex(3),
            floor_mark: 1,
            state: Some(b"state".to_vec()),
            runs: vec![Run {
                mark: 2,
                first: LogIndex(5),
            }],
            count: 3,
        };
        let size = 65536;
        let encoded = footer.encode(&[4096, 4136, 4168], 11, size as u64, vec![7; 1000]);
        let mut segment = vec![0; size];
        let starts = size - encoded.len();
        segment[starts..].copy_from_slice(&encoded);
        assert_eq!(Footer::decode(&segment, 11).unwrap(), footer);
        let table_at = footer.table_at(size as u64) as usize;
        assert_eq!(segment[table_at..][..4], 4096_u32.to_le_bytes());
        assert!(Footer::decode(&segment, 12).is_none(), "of another segment");
        for at in starts..size {
            segment[at] ^= 0x40;
            assert!(Footer::decode(&segment, 11).is_none(), "byte {at}");
            segment[at] ^= 0x40;
        }
    }

    #[test]
    fn runs_that_cannot_be_those_of_the_entries_are_told() {
        let run = |mark, first| Run {
            mark,
            first: LogIndex(first),
        };
        let sound = |floor, (lo, last), runs: &[Run]| {
            let footer = Footer {
                end: 4200,
                lo: LogIndex(lo),
                last: LogIndex(last),
                last_mark: 4,
                floor: LogIndex(floor),
                floor_mark: 1,
                state: None,
                runs: runs.to_vec(),
                count: 0,
            };
            footer.has_sound_runs()
        };
        assert!(sound(0, (5, 9), &[run(1, 5), run(4, 9)]));
        assert!(sound(6, (5, 9), &[run(4, 7)]), "cut by the floor");
        assert!(sound(0, (5, 4), &[]) && sound(9, (5, 9), &[]), "no entries");
        for runs in [
            vec![],
            vec![run(4, 4)],
            vec![run(4, 6)],
            vec![run(1, 5), run(4, 10)],
            vec![run(1, 5), run(3, 9)],
            vec![run(1, 5), run(2, 8), run(4, 7)],
            vec![run(1, 5), run(1, 7), run(4, 9)],
        ] {
            assert!(!sound(0, (5, 9), &runs), "{runs:?}");
        }
        assert!(!sound(0, (5, 4), &[run(4, 5)]), "runs of no entries");
    }
}
