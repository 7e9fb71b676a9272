//! What is to be appended, and by whom.

use std::fmt;
use std::str::FromStr;

/// Random bytes, so that nobody gains by compressing them. Entries are slices of it.
pub(crate) struct Payload(Vec<u8>);

impl Payload {
    pub(crate) fn new() -> Self {
        let mut random = Random(1);
        let words = std::iter::repeat_with(|| random.next().to_le_bytes());
        Self(words.take((1 << 20) / 8).flatten().collect())
    }

    /// `count` entries of `len` bytes, which begin at different places.
    pub(crate) fn entries(&self, count: usize, len: usize) -> Vec<&[u8]> {
        let start = |nth| nth * 64 % (self.0.len() - len);
        (0..count)
            .map(|nth| &self.0[start(nth)..start(nth) + len])
            .collect()
    }
}

/// xorshift, which is good enough to choose what is read.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}

/// Threads or clients that append, entries an append, and their length.
#[derive(Clone, Copy)]
pub(crate) struct Work {
    pub(crate) threads: usize,
    pub(crate) batch: usize,
    pub(crate) entry_bytes: usize,
}

impl FromStr for Work {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const EXPECTED: &str =
            "expected tN-BYTES or bN-BYTES, as t16-128; N to 1000, BYTES from 1 to 65536";
        let (who, entry_bytes) = text.split_once('-').ok_or(EXPECTED)?;
        let entry_bytes = entry_bytes.parse().map_err(|_| EXPECTED)?;
        let (kind, count) = who.split_at_checked(1).ok_or(EXPECTED)?;
        let count = count.parse().map_err(|_| EXPECTED)?;
        if !(1..=65536).contains(&entry_bytes) || !(1..=1000).contains(&count) {
            return Err(EXPECTED);
        }
        let (threads, batch) = match kind {
            "t" => (count, 1),
            "b" => (1, count),
            _ => return Err(EXPECTED),
        };
        Ok(Self {
            threads,
            batch,
            entry_bytes,
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.batch {
            1 => write!(to, "t{} {} B", self.threads, self.entry_bytes),
            batch => write!(to, "b{batch} {} B", self.entry_bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_named_by_who_and_how_many_bytes() {
        let shown = |text: &str| text.parse::<Work>().map(|work| work.to_string());
        assert_eq!(shown("t16-128").as_deref(), Ok("t16 128 B"));
        assert_eq!(shown("b100-1024").as_deref(), Ok("b100 1024 B"));
        for wrong in [
            "", "t", "t-", "t16", "x1-1", "t0-128", "t1-0", "t1001-1", "t1-65537", "t1-1-1",
        ] {
            assert!(shown(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn entries_have_their_length_and_differ() {
        let payload = Payload::new();
        let entries = payload.entries(100, 65_536);
        assert!(entries.iter().all(|entry| entry.len() == 65_536));
        assert!((1..100).all(|nth| entries[nth] != entries[nth - 1]));
    }
}
