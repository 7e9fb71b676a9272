//! The store's snapshot.
//!
//! ```text
//! | u64 keys | keys times: u32 length, key, u32 length, value | u64 records | records times: u32 length, record |
//! ```
//! The keys are in order, so that equal stores are equal bytes.

use std::io::{self, Read, Write};
use std::sync::Arc;

use catamaran::Snapshot;

use crate::kv::Kv;

const FORMAT: u32 = 1;

/// A store that no longer changes.
pub(crate) struct Frozen(pub(crate) Kv);

impl Snapshot for Frozen {
    fn format(&self) -> u32 {
        FORMAT
    }

    fn write_to(self, out: &mut dyn Write) -> io::Result<()> {
        let Self(Kv { map, log }) = self;
        let mut map: Vec<_> = map.into_iter().collect();
        map.sort_unstable();
        out.write_all(&(map.len() as u64).to_le_bytes())?;
        for (key, value) in map {
            put(out, &key)?;
            put(out, &value)?;
        }
        out.write_all(&(log.len() as u64).to_le_bytes())?;
        for record in log {
            put(out, &record)?;
        }
        Ok(())
    }
}

/// Reads what was written, to its end.
pub(crate) fn read(format: u32, from: &mut dyn Read) -> io::Result<Kv> {
    if format != FORMAT {
        let what = format!("a store of format {format}, where {FORMAT} is read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    let mut kv = Kv::default();
    for _ in 0..number(from)? {
        let key = take(from)?;
        kv.map.insert(key.into(), Arc::new(take(from)?));
    }
    for _ in 0..number(from)? {
        kv.log.push(take(from)?.into());
    }
    if from.read(&mut [0])? > 0 {
        let what = "something follows the store";
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    Ok(kv)
}

fn put(out: &mut dyn Write, bytes: &[u8]) -> io::Result<()> {
    let len = u32::try_from(bytes.len()).map_err(io::Error::other)?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(bytes)
}

fn number(from: &mut dyn Read) -> io::Result<u64> {
    let mut number = [0; 8];
    from.read_exact(&mut number)?;
    Ok(u64::from_le_bytes(number))
}

/// Grows with what is there, whatever the length says.
fn take(from: &mut dyn Read) -> io::Result<Vec<u8>> {
    let mut len = [0; 4];
    from.read_exact(&mut len)?;
    let len = u64::from(u32::from_le_bytes(len));
    let mut bytes = Vec::new();
    if from.take(len).read_to_end(&mut bytes)? as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(kv: &Kv) -> Vec<u8> {
        let mut bytes = Vec::new();
        Frozen(kv.clone()).write_to(&mut bytes).unwrap();
        bytes
    }

    fn store(keys: impl Iterator<Item = u32>) -> Kv {
        let mut kv = Kv::default();
        for key in keys {
            let value = Arc::new(vec![7; key as usize]);
            kv.map.insert(key.to_string().into_bytes().into(), value);
        }
        kv.log.push(Arc::new(b"record".to_vec()));
        kv
    }

    #[test]
    fn a_store_survives_its_snapshot() {
        let kv = store(0..100);
        let back = read(FORMAT, &mut bytes(&kv).as_slice()).unwrap();
        assert_eq!((back.map, back.log), (kv.map, kv.log));
    }

    #[test]
    fn equal_stores_are_equal_bytes() {
        assert_eq!(bytes(&store(0..100)), bytes(&store((0..100).rev())));
    }

    #[test]
    fn a_snapshot_cut_short_or_followed_by_more_or_of_another_format_is_refused() {
        let whole = bytes(&store(0..3));
        for end in 0..whole.len() {
            assert!(read(FORMAT, &mut &whole[..end]).is_err(), "{end}");
        }
        let long = [whole.as_slice(), &[0]].concat();
        assert!(read(FORMAT, &mut long.as_slice()).is_err());
        assert!(read(FORMAT + 1, &mut whole.as_slice()).is_err());
    }
}
