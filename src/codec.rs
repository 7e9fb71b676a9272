//! Little-endian numbers in byte strings, read within bounds.
//!
//! What is read comes from disks and networks: a length is checked against what is there before anything
//! is allocated by it.

use std::fmt;

/// The bytes ended before the value did, or went on after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed {
    /// What was being read.
    pub what: &'static str,
    /// How far into the bytes.
    pub offset: usize,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "malformed {} at byte {}", self.what, self.offset)
    }
}

impl std::error::Error for Malformed {}

/// Reads values from the front of a byte string; each says in errors what it was.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    /// A reader at the start of `bytes`.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    /// How many bytes were read.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.offset
    }

    /// How many bytes are left.
    #[must_use]
    pub const fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    /// An error about the value at this place.
    #[must_use]
    pub const fn malformed(&self, what: &'static str) -> Malformed {
        Malformed {
            what,
            offset: self.offset,
        }
    }

    /// The next `len` bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn take(&mut self, len: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let end = self
            .offset
            .checked_add(len)
            .filter(|&end| end <= self.bytes.len());
        let end = end.ok_or(Malformed {
            what,
            offset: self.offset,
        })?;
        let taken = &self.bytes[self.offset..end];
        self.offset = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], Malformed> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// [`Malformed`] if none is left.
    pub fn u8(&mut self, what: &'static str) -> Result<u8, Malformed> {
        Ok(u8::from_le_bytes(self.array(what)?))
    }

    /// The next two bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u16(&mut self, what: &'static str) -> Result<u16, Malformed> {
        Ok(u16::from_le_bytes(self.array(what)?))
    }

    /// The next four bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u32(&mut self, what: &'static str) -> Result<u32, Malformed> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    /// The next eight bytes.
    ///
    /// # Errors
    /// [`Malformed`] if fewer are left.
    pub fn u64(&mut self, what: &'static str) -> Result<u64, Malformed> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A byte string behind its length in four bytes, which must not exceed `limit`.
    ///
    /// # Errors
    /// [`Malformed`] if the length is over the limit or past the end.
    pub fn bytes(&mut self, limit: usize, what: &'static str) -> Result<&'a [u8], Malformed> {
        let start = self.offset;
        let len = self.u32(what)? as usize;
        if len > limit {
            return Err(Malformed {
                what,
                offset: start,
            });
        }
        self.take(len, what)
    }

    /// A text behind its length, as [`Reader::bytes`].
    ///
    /// # Errors
    /// [`Malformed`] likewise, or if it is not UTF-8.
    pub fn text(&mut self, limit: usize, what: &'static str) -> Result<&'a str, Malformed> {
        let start = self.offset;
        let bytes = self.bytes(limit, what)?;
        std::str::from_utf8(bytes).map_err(|_| Malformed {
            what,
            offset: start,
        })
    }

    /// Nothing may be left.
    ///
    /// # Errors
    /// [`Malformed`] if something is.
    pub const fn finish(self, what: &'static str) -> Result<(), Malformed> {
        if self.left() == 0 {
            Ok(())
        } else {
            Err(self.malformed(what))
        }
    }
}

/// Appends values to a byte string, as [`Reader`] reads them.
pub trait Put {
    /// Appends one byte.
    fn put_u8(&mut self, value: u8);
    /// Appends two bytes.
    fn put_u16(&mut self, value: u16);
    /// Appends four bytes.
    fn put_u32(&mut self, value: u32);
    /// Appends eight bytes.
    fn put_u64(&mut self, value: u64);
    /// Appends the length in four bytes, then the bytes. Panics at 4 GiB, which no caller's limit allows.
    fn put_bytes(&mut self, value: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_le_bytes());
    }

    fn put_bytes(&mut self, value: &[u8]) {
        assert!(
            value.len() < u32::MAX as usize,
            "a byte string of 4 GiB or more"
        );
        #[expect(clippy::cast_possible_truncation, reason = "asserted above")]
        self.put_u32(value.len() as u32);
        self.extend_from_slice(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_is_read_back() {
        let mut bytes = Vec::new();
        bytes.put_u8(1);
        bytes.put_u16(0x0203);
        bytes.put_u32(0x0405_0607);
        bytes.put_u64(0x0809_0a0b_0c0d_0e0f);
        bytes.put_bytes(b"tail");
        let mut reader = Reader::new(&bytes);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16("b"), Ok(0x0203));
        assert_eq!(reader.u32("c"), Ok(0x0405_0607));
        assert_eq!(reader.u64("d"), Ok(0x0809_0a0b_0c0d_0e0f));
        assert_eq!(reader.bytes(4, "e"), Ok(&b"tail"[..]));
        assert_eq!(reader.finish("end"), Ok(()));
    }

    #[test]
    fn a_length_is_not_believed() {
        let bytes = [0xff, 0xff, 0xff, 0x7f, 1, 2, 3];
        assert_eq!(
            Reader::new(&bytes).bytes(usize::MAX, "value"),
            Err(Malformed {
                what: "value",
                offset: 4
            }),
            "past the end"
        );
        assert_eq!(
            Reader::new(&[4, 0, 0, 0, 1, 2, 3, 4]).bytes(3, "value"),
            Err(Malformed {
                what: "value",
                offset: 0
            }),
            "over the limit"
        );
    }

    #[test]
    fn bytes_left_over_are_an_error() {
        let mut reader = Reader::new(&[1, 2]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(
            reader.finish("end"),
            Err(Malformed {
                what: "end",
                offset: 1
            })
        );
    }
}
