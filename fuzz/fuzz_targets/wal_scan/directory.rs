//! Directories written by `docs/FORMAT.md` alone: right in their checksums, and wrong wherever the input
//! says so. What the input does not touch is what a sane log would hold there, so that a reader gets past
//! it.

use arbitrary::Arbitrary;

const HEADER_BYTES: usize = 4096;
const HEAD_BYTES: usize = 32;
const TAIL_BYTES: usize = 80;
const FULL_BYTES: usize = 64 << 10;
/// The tail of a footer without a state says so in place of its length.
const NO_STATE: u64 = 0xffff_ffff;

/// What a field holds.
#[derive(Arbitrary, Clone, Copy, Debug)]
enum Number {
    Right,
    Off(i8),
    Any(u64),
}

impl Number {
    fn or(self, right: u64) -> u64 {
        match self {
            Self::Right => right,
            Self::Off(by) => right.wrapping_add_signed(i64::from(by)),
            Self::Any(number) => number,
        }
    }
}

/// Which checksum of a frame or footer is wrong.
#[derive(Arbitrary, Clone, Copy, PartialEq, Eq, Debug)]
enum Sums {
    Right,
    WrongHead,
    WrongPayload,
}

/// All files of a directory, by sequence.
#[derive(Arbitrary, Debug)]
pub(crate) struct Directory {
    first: u8,
    segments: Vec<Segment>,
    /// Bytes changed after all checksums were made: file, place, what is added.
    damage: Vec<(u8, u16, u8)>,
}

#[derive(Arbitrary, Debug)]
struct Segment {
    size: Size,
    header: Header,
    start: Option<Start>,
    frames: Vec<Frame>,
    ending: Ending,
}

#[derive(Arbitrary, Debug)]
enum Size {
    Full,
    /// So many bytes above two blocks.
    Small(u16),
}

#[derive(Arbitrary, Debug)]
enum Header {
    Right,
    /// One of the numbers that follow the magic, in u32 steps.
    Wrong { at: u8, number: Number },
    Bytes(Vec<u8>),
}

#[derive(Arbitrary, Debug)]
struct Start {
    tag: Number,
    index: Number,
    mark: Number,
    previous: [Number; 3],
    floor: [Number; 2],
    sums: Sums,
}

#[derive(Arbitrary, Debug)]
enum Frame {
    Batch {
        fence: [Number; 2],
        bytes: Number,
        sums: Sums,
    },
    State {
        len: u16,
        sums: Sums,
    },
    Truncate {
        back: u8,
        index: Number,
    },
    Record {
        index: Number,
        mark: Number,
        len: u16,
        sums: Sums,
    },
    Drop {
        upto: Number,
        mark: Number,
    },
    Other {
        kind: u8,
        index: u64,
        payload: Vec<u8>,
    },
    /// Bytes without any order.
    Bytes(Vec<u8>),
    Zeros(u8),
}

#[derive(Arbitrary, Debug)]
enum Ending {
    Open,
    /// The next segment says that this one was cut.
    Cut,
    Sealed(Footer),
}

#[derive(Arbitrary, Debug)]
struct Footer {
    sums: Sums,
    wrong_table: bool,
    counts: [Number; 3],
    state: Option<Number>,
    /// Frames end, lo, last, last mark, floor, floor mark.
    fields: [Number; 6],
    /// Changed in the body before its checksum was made: place, what is added.
    body: Vec<(u16, u8)>,
}

/// Where a log that took the input at its word would stand.
#[derive(Default)]
struct Log {
    last: u64,
    mark: u64,
    floor: u64,
    floor_mark: u64,
    /// The lowest index that the segment writes or truncates, and mark and place of each entry from there.
    lo: u64,
    entries: Vec<(u64, u32)>,
    state: Option<Vec<u8>>,
    /// Sequence, end and id of the segment before, and whether it was cut.
    previous: (u64, u64, u64),
    cut: bool,
}

impl Directory {
    /// The files' names and bytes.
    pub(crate) fn build(&self) -> Vec<(String, Vec<u8>)> {
        let mut log = Log::default();
        let mut files = Vec::new();
        let first = u64::from(self.first % 3) + 1;
        log.previous.0 = first - 1;
        for (sequence, segment) in (first..).zip(self.segments.iter().take(4)) {
            files.push((
                format!("{sequence:016x}.wal"),
                segment.build(sequence, &mut log),
            ));
        }
        for &(file, at, add) in &self.damage {
            let file = usize::from(file) % files.len().max(1);
            if let Some((_, bytes)) = files.get_mut(file) {
                let at = usize::from(at) % bytes.len();
                bytes[at] = bytes[at].wrapping_add(add);
            }
        }
        files
    }
}

/// Whether a segment looks as if nothing was written to it, and hides something behind that. A log writes to a
/// segment only when the one before it has ended, and while that one is open it does not look there.
pub(crate) fn hides_frames((_, bytes): &(String, Vec<u8>)) -> bool {
    let (head, behind) = bytes[HEADER_BYTES..].split_at(HEAD_BYTES);
    head.iter().all(|&byte| byte == 0) && behind.iter().any(|&byte| byte != 0)
}

impl Segment {
    fn build(&self, sequence: u64, log: &mut Log) -> Vec<u8> {
        let size = match self.size {
            Size::Full => FULL_BYTES,
            Size::Small(above) => 2 * HEADER_BYTES + usize::from(above),
        };
        let id = sequence.wrapping_mul(0x0123_4567_89ab_cdef);
        let mut bytes = self.header.build(sequence, id, size as u64);
        log.lo = log.last.wrapping_add(1);
        log.entries.clear();
        if let Some(start) = &self.start {
            start.put(&mut bytes, id, log);
            for frame in &self.frames {
                frame.put(&mut bytes, sequence, id, log);
            }
        }
        let end = bytes.len().min(size);
        bytes.resize(size, 0);
        if let Ending::Sealed(footer) = &self.ending {
            footer.put(&mut bytes, id, end as u64, log);
        }
        log.previous = (sequence, end as u64, id);
        log.cut = matches!(self.ending, Ending::Cut);
        bytes
    }
}

impl Header {
    fn build(&self, sequence: u64, id: u64, size: u64) -> Vec<u8> {
        let mut bytes = b"CATAMWAL".to_vec();
        if let Self::Bytes(raw) = self {
            bytes = raw.clone();
            bytes.resize(HEADER_BYTES, 0);
            return bytes;
        }
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        for number in [0, 0, id, sequence, 0, 0, 7, size] {
            bytes.extend(u64::to_le_bytes(number));
        }
        if let Self::Wrong { at, number } = self {
            let at = usize::from(*at) % 20 * 4;
            let right = u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
            let wrong = number.or(u64::from(right)) as u32;
            bytes[at..at + 4].copy_from_slice(&wrong.to_le_bytes());
        }
        bytes.extend(crc32fast::hash(&bytes).to_le_bytes());
        bytes.resize(HEADER_BYTES, 0);
        bytes
    }
}

impl Start {
    fn put(&self, bytes: &mut Vec<u8>, id: u64, log: &mut Log) {
        let mut payload = Vec::new();
        let previous = [log.previous.0, log.previous.1, log.previous.2];
        let previous = if log.previous.2 == 0 { [log.previous.0, 0, 0] } else { previous };
        for (number, right) in self.previous.iter().zip(previous) {
            payload.extend(number.or(right).to_le_bytes());
        }
        log.floor = self.floor[0].or(log.floor);
        log.floor_mark = self.floor[1].or(log.floor_mark);
        payload.extend(log.floor.to_le_bytes());
        payload.extend(log.floor_mark.to_le_bytes());
        log.last = self.index.or(log.last);
        log.mark = self.mark.or(log.mark);
        log.lo = log.last.wrapping_add(1);
        let tag = self.tag.or(u64::from(log.cut)) as u8;
        put_frame(bytes, id, (2, tag, log.last, log.mark), &payload, self.sums);
        if let Some(state) = log.state.clone() {
            put_frame(bytes, id, (3, 0, log.last, log.mark), &state, Sums::Right);
        }
    }
}

impl Frame {
    fn put(&self, bytes: &mut Vec<u8>, sequence: u64, id: u64, log: &mut Log) {
        match self {
            Self::Batch {
                fence,
                bytes: length,
                sums,
            } => {
                let mut payload = fence[0].or(sequence).to_le_bytes().to_vec();
                let offset = fence[1].or(bytes.len() as u64) as u32;
                payload.extend(offset.to_le_bytes());
                payload.extend((length.or(48) as u32).to_le_bytes());
                put_frame(bytes, id, (1, 0, log.last, 0), &payload, *sums);
            }
            Self::State { len, sums } => {
                let state = filled(*len % 1040);
                put_frame(bytes, id, (3, 0, 0, 0), &state, *sums);
                log.state = Some(state);
            }
            Self::Truncate { back, index } => {
                let from = log.last.wrapping_add(1).wrapping_sub(u64::from(*back));
                let from = index.or(from.max(log.floor.wrapping_add(1)));
                put_frame(bytes, id, (4, 0, from, 0), &[], Sums::Right);
                log.truncate(from);
            }
            Self::Record {
                index,
                mark,
                len,
                sums,
            } => {
                log.last = index.or(log.last.wrapping_add(1));
                log.mark = mark.or(log.mark);
                log.entries.push((log.mark, bytes.len() as u32));
                let head = (5, 0, log.last, log.mark);
                put_frame(bytes, id, head, &filled(*len % 20_000), *sums);
            }
            Self::Drop { upto, mark } => {
                let upto = upto.or(log.last);
                let mark = mark.or(log.mark);
                put_frame(bytes, id, (6, 0, upto, mark), &[], Sums::Right);
                log.drop(upto, mark);
            }
            Self::Other {
                kind,
                index,
                payload,
            } => put_frame(bytes, id, (*kind, 0, *index, 0), payload, Sums::Right),
            Self::Bytes(raw) => {
                bytes.extend(raw);
                bytes.resize(bytes.len().next_multiple_of(8), 0);
            }
            Self::Zeros(words) => bytes.resize(bytes.len() + usize::from(*words) * 8, 0),
        }
    }
}

impl Log {
    fn truncate(&mut self, from: u64) {
        match from.checked_sub(self.lo) {
            Some(keep) => self.entries.truncate(usize::try_from(keep).unwrap_or(0)),
            None => {
                self.entries.clear();
                self.lo = from;
            }
        }
        self.last = from.wrapping_sub(1);
    }

    fn drop(&mut self, upto: u64, mark: u64) {
        self.floor = upto;
        self.floor_mark = mark;
        if upto > self.last {
            self.last = upto;
            self.mark = mark;
            self.lo = upto.wrapping_add(1);
            self.entries.clear();
        }
    }

    /// Each mark with the first index that has it.
    fn runs(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for (at, (mark, _)) in (0..).zip(&self.entries) {
            let index = self.lo.wrapping_add(at);
            if index > self.floor && runs.last().is_none_or(|run| run.0 != *mark) {
                runs.push((*mark, index));
            }
        }
        runs
    }
}

impl Footer {
    fn put(&self, bytes: &mut [u8], id: u64, end: u64, log: &mut Log) {
        let mut body = Vec::new();
        let mut state_len = NO_STATE;
        if let Some(state) = &log.state {
            state_len = state.len() as u64;
            body.extend(state);
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let runs = log.runs();
        for (mark, first) in &runs {
            body.extend(mark.to_le_bytes());
            body.extend(first.to_le_bytes());
        }
        let summary = body.len();
        for (_, offset) in &log.entries {
            body.extend(offset.to_le_bytes());
        }
        body.resize(body.len().next_multiple_of(8), 0);
        for &(at, add) in &self.body {
            let at = usize::from(at) % body.len().max(1);
            if let Some(byte) = body.get_mut(at) {
                *byte = byte.wrapping_add(add);
            }
        }
        let mut tail = b"FOOT".to_vec();
        let wrong = u32::from(self.sums == Sums::WrongPayload);
        tail.extend((crc32fast::hash(&body[..summary]) ^ wrong).to_le_bytes());
        let wrong = u32::from(self.wrong_table);
        tail.extend((crc32fast::hash(&body[summary..]) ^ wrong).to_le_bytes());
        let state_len = self.state.map_or(state_len, |number| number.or(state_len));
        let [end_plan, fields @ ..] = &self.fields;
        for number in [
            end_plan.or(end),
            self.counts[0].or(log.entries.len() as u64),
            self.counts[1].or(runs.len() as u64),
            state_len,
        ] {
            tail.extend((number as u32).to_le_bytes());
        }
        let right = [log.lo, log.last, log.mark, log.floor, log.floor_mark];
        for (field, right) in fields.iter().zip(right) {
            tail.extend(field.or(right).to_le_bytes());
        }
        tail.extend([0; 8]);
        debug_assert_eq!(tail.len(), TAIL_BYTES - 4);
        let mut crc = seeded(id, bytes.len() as u64);
        crc.update(&tail);
        let crc = crc.finalize() ^ u32::from(self.sums == Sums::WrongHead);
        body.extend(crc.to_le_bytes());
        body.extend(tail);
        let starts = bytes.len().saturating_sub(body.len());
        let skip = body.len() - (bytes.len() - starts);
        bytes[starts..].copy_from_slice(&body[skip..]);
    }
}

fn seeded(id: u64, offset: u64) -> crc32fast::Hasher {
    let mixed = (id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32;
    crc32fast::Hasher::new_with_initial(mixed ^ (offset / 8) as u32)
}

/// The check of a head, of which these are the three words behind it.
fn check(id: u64, offset: u64, words: [u64; 3]) -> u32 {
    let factors = [0x94d0_49bb_1331_11eb, 0xff51_afd7_ed55_8ccd, 0xc4ce_b9fe_1a85_ec53];
    let place = id
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .wrapping_add(offset.wrapping_mul(0xbf58_476d_1ce4_e5b9));
    let products = words.iter().zip(factors).map(|(word, factor)| word.wrapping_mul(factor));
    (products.fold(place, u64::wrapping_add) >> 32) as u32
}

/// Appends a frame of (kind, tag, index, mark) at the place where `bytes` end.
fn put_frame(
    bytes: &mut Vec<u8>,
    id: u64,
    (kind, tag, index, mark): (u8, u8, u64, u64),
    payload: &[u8],
    sums: Sums,
) {
    let offset = bytes.len() as u64;
    let wrong = u32::from(sums == Sums::WrongPayload);
    let mut head = Vec::with_capacity(HEAD_BYTES);
    let words = [payload.len() as u64 | u64::from(kind) << 32 | u64::from(tag) << 40, index, mark];
    let check = check(id, offset, words) ^ u32::from(sums == Sums::WrongHead);
    head.extend(check.to_le_bytes());
    head.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let mut crc = seeded(id, offset);
    crc.update(&head);
    crc.update(payload);
    let crc = crc.finalize() ^ wrong;
    bytes.extend(crc.to_le_bytes());
    bytes.extend(head);
    bytes.extend(payload);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}

fn filled(len: u16) -> Vec<u8> {
    (0..len).map(|at| at as u8 | 1).collect()
}
