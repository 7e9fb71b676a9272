//! Frames on their way to a socket, gathered so that one call writes many.

use std::io::{self, ErrorKind, IoSlice, Write};

use crate::types::Bytes;

/// Payloads of so many bytes are written from where they are; smaller ones are cheaper copied.
const APART: usize = 16 << 10;
/// How much room is kept for the next frames.
const KEPT: usize = 1 << 20;
/// Pieces written at once.
const SLICES: usize = 64;

/// Bytes to be written, and large payloads in between that are not copied.
#[derive(Default)]
pub(super) struct Gathered {
    bytes: Vec<u8>,
    /// Payloads, and how many of `bytes` stand before each.
    apart: Vec<(usize, Bytes)>,
    /// Of both together.
    len: usize,
    written: usize,
}

/// A place in what is gathered.
#[derive(Clone, Copy)]
pub(super) struct Place {
    bytes: usize,
    apart: usize,
    len: usize,
}

impl Gathered {
    /// How many bytes are left to write.
    pub(super) const fn left(&self) -> usize {
        self.len - self.written
    }

    /// The end.
    pub(super) const fn end(&self) -> Place {
        Place {
            bytes: self.bytes.len(),
            apart: self.apart.len(),
            len: self.len,
        }
    }

    /// Appends what `put` does.
    pub(super) fn put(&mut self, put: impl FnOnce(&mut Vec<u8>)) {
        let before = self.bytes.len();
        put(&mut self.bytes);
        self.len += self.bytes.len() - before;
    }

    /// Appends a payload.
    pub(super) fn put_payload(&mut self, payload: &Bytes) {
        if payload.len() < APART {
            self.put(|bytes| bytes.extend_from_slice(payload));
        } else {
            self.apart.push((self.bytes.len(), payload.clone()));
            self.len += payload.len();
        }
    }

    /// Writes over bytes that were put at `place`, without a payload among them.
    pub(super) fn overwrite(&mut self, place: Place, with: &[u8]) {
        self.bytes[place.bytes..][..with.len()].copy_from_slice(with);
    }

    /// Length and crc of what was put since `place` and `skip` bytes more.
    pub(super) fn since(&self, place: Place, skip: usize) -> (usize, u32) {
        let mut crc = crc32fast::Hasher::new();
        for slice in self.slices(place.bytes + skip, place.apart) {
            crc.update(slice);
        }
        (self.len - place.len - skip, crc.finalize())
    }

    /// All from this byte of `bytes` and this payload on.
    fn slices(&self, bytes: usize, apart: usize) -> impl Iterator<Item = &[u8]> {
        let mut from = bytes;
        let parts = self.apart[apart..]
            .iter()
            .flat_map(move |(before, payload)| {
                let own = &self.bytes[from..*before];
                from = *before;
                [own, payload]
            });
        let last = self.apart.last().filter(|_| apart < self.apart.len());
        let last = last.map_or(bytes, |(before, _)| *before);
        parts.chain([&self.bytes[last..]])
    }

    /// Writes until all is written, or `to` takes no more at the moment; tells whether all is.
    ///
    /// # Errors
    /// Those of `to`; how much it took is not known then.
    pub(super) fn write_to(&mut self, to: &mut impl Write) -> io::Result<bool> {
        while self.left() > 0 {
            let wrote = if self.apart.is_empty() {
                to.write(&self.bytes[self.written..])
            } else {
                to.write_vectored(&self.unwritten())
            };
            match wrote {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(wrote) => self.written += wrote,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.clear();
        Ok(true)
    }

    /// The first of what is left.
    fn unwritten(&self) -> Vec<IoSlice<'_>> {
        let mut skip = self.written;
        let left = self.slices(0, 0).filter_map(|slice| {
            let skipped = skip.min(slice.len());
            skip -= skipped;
            (skipped < slice.len()).then(|| IoSlice::new(&slice[skipped..]))
        });
        left.take(SLICES).collect()
    }

    /// Forgets what is left to write.
    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.bytes.shrink_to(KEPT);
        self.apart.clear();
        (self.len, self.written) = (0, 0);
    }

    #[cfg(test)]
    pub(super) fn to_vec(&self) -> Vec<u8> {
        self.slices(0, 0).flatten().copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Takes some bytes at a time, and nothing at times.
    struct Slow {
        taken: Vec<u8>,
        turns: std::vec::IntoIter<usize>,
    }

    impl Slow {
        fn take(&mut self, slices: &[&[u8]]) -> io::Result<usize> {
            let mut left = match self.turns.next() {
                Some(0) => return Err(ErrorKind::WouldBlock.into()),
                most => most.unwrap_or(usize::MAX),
            };
            let before = self.taken.len();
            for slice in slices {
                let some = left.min(slice.len());
                self.taken.extend_from_slice(&slice[..some]);
                left -= some;
            }
            Ok(self.taken.len() - before)
        }
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.take(&[bytes])
        }

        fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
            let slices: Vec<&[u8]> = slices.iter().map(|slice| &**slice).collect();
            self.take(&slices)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_large_payload_is_written_from_where_it_is() {
        let payload = Bytes::from(vec![1; APART]);
        let mut gathered = Gathered::default();
        gathered.put(|bytes| bytes.push(0));
        gathered.put_payload(&payload);
        let unwritten = gathered.unwritten();
        assert_eq!(unwritten[1].as_ptr(), payload.as_ptr());
        assert_eq!(unwritten[1].len(), APART);
    }

    proptest! {
        #[test]
        fn all_is_written_once_and_in_order_however_little_is_taken(
            parts in prop::collection::vec((any::<u8>(), prop::sample::select(vec![0, 1, 100, APART - 1, APART, 2 * APART])), 1..8),
            more in any::<bool>(),
            turns in prop::collection::vec(prop::sample::select(vec![0, 1, 7, 1_000, APART, 40_000]), 0..40),
        ) {
            let mut gathered = Gathered::default();
            let mut expected = Vec::new();
            let mut slow = Slow { taken: Vec::new(), turns: turns.into_iter() };
            for (byte, len) in parts {
                gathered.put(|bytes| bytes.push(byte));
                expected.push(byte);
                let place = gathered.end();
                gathered.put(|bytes| bytes.extend_from_slice(&[1, 2]));
                let payload = vec![byte; len];
                gathered.put_payload(&payload.clone().into());
                gathered.overwrite(place, &[3]);
                prop_assert_eq!(gathered.since(place, 2), (len, crc32fast::hash(&payload)));
                expected.extend_from_slice(&[3, 2]);
                expected.extend(payload);
                if more {
                    let all = gathered.write_to(&mut slow).unwrap();
                    prop_assert_eq!(all, gathered.left() == 0);
                }
            }
            while !gathered.write_to(&mut slow).unwrap() {}
            prop_assert_eq!(slow.taken, expected);
        }
    }
}
