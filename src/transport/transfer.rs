//! The bytes of snapshots between two members: frames as in [`wire`], of kinds of their own.
//!
//! ```text
//! id: last: u64 term, u64 index | u64 bytes of the file | u32 digest
//!
//! 12 Ask      u8 kind | u8 whether something is there | then: id | u64 how much of it
//! 13 Piece    u8 kind | id | u64 offset | bytes to the end of the frame
//! ```

use super::gather::Gathered;
use super::wire;
use crate::codec::{Malformed, Put, Reader};
use crate::snapshot::{Ask, MAX_PIECE_BYTES, Piece, SnapshotId};
use crate::types::Bytes;

const ASK: u8 = 12;
const PIECE: u8 = 13;
/// The longest body here.
pub(super) const MAX_BODY_BYTES: usize = 64 + MAX_PIECE_BYTES;

/// What a body says that is none of consensus.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Transfer {
    Ask(Ask),
    Piece(Piece),
}

/// Appends an ask to `out` as one frame.
pub(super) fn put_ask(out: &mut Gathered, ask: Ask) {
    let put = |out: &mut Vec<u8>| {
        out.put_u8(ASK);
        out.put_u8(u8::from(ask.have.is_some()));
        if let Some((id, have)) = ask.have {
            put_id(out, id);
            out.put_u64(have);
        }
    };
    wire::put_framed(out, |out| out.put(put));
}

/// Appends a piece to `out` as one frame.
pub(super) fn put_piece(out: &mut Gathered, piece: &Piece) {
    wire::put_framed(out, |out| {
        out.put(|out| {
            out.put_u8(PIECE);
            put_id(out, piece.id);
            out.put_u64(piece.offset);
        });
        out.put_payload(&piece.bytes);
    });
}

fn put_id(out: &mut Vec<u8>, id: SnapshotId) {
    wire::put_id(out, id.last);
    out.put_u64(id.bytes);
    out.put_u32(id.digest);
}

/// Reads a body whose crc is right. None if it is a message of consensus. The bytes of a piece are a slice of what
/// `keep` makes of the body.
pub(super) fn decode(
    body: &[u8],
    keep: impl FnOnce() -> Bytes,
) -> Result<Option<Transfer>, Malformed> {
    let mut reader = Reader::new(body);
    let transfer = match reader.u8("kind of message")? {
        ASK => {
            let have = match reader.u8("ask")? {
                0 => None,
                1 => Some((id(&mut reader)?, reader.u64("bytes of a snapshot")?)),
                _ => return Err(reader.malformed("ask")),
            };
            reader.finish("end of an ask")?;
            Transfer::Ask(Ask { have })
        }
        PIECE => {
            let id = id(&mut reader)?;
            let offset = reader.u64("offset in a snapshot")?;
            let (at, len) = (reader.offset(), reader.left());
            if len > MAX_PIECE_BYTES {
                return Err(reader.malformed("piece of a snapshot"));
            }
            let bytes = keep().slice(at, len);
            Transfer::Piece(Piece { id, offset, bytes })
        }
        _ => return Ok(None),
    };
    Ok(Some(transfer))
}

fn id(reader: &mut Reader<'_>) -> Result<SnapshotId, Malformed> {
    Ok(SnapshotId {
        last: wire::id(reader)?,
        bytes: reader.u64("length of a snapshot")?,
        digest: reader.u32("digest of a snapshot")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{LogId, LogIndex, Term};
    use proptest::prelude::*;

    fn any_id() -> impl Strategy<Value = SnapshotId> {
        let numbers = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        numbers.prop_map(|(term, index, bytes, digest)| SnapshotId {
            last: LogId::new(Term(term), LogIndex(index)),
            bytes,
            digest,
        })
    }

    fn any_transfer() -> impl Strategy<Value = Transfer> {
        let bytes = prop::collection::vec(any::<u8>(), 0..100);
        let piece = (any_id(), any::<u64>(), bytes).prop_map(|(id, offset, bytes)| {
            let bytes = bytes.into();
            Transfer::Piece(Piece { id, offset, bytes })
        });
        let have = prop::option::of((any_id(), any::<u64>()));
        prop_oneof![have.prop_map(|have| Transfer::Ask(Ask { have })), piece]
    }

    fn body(transfer: &Transfer) -> Vec<u8> {
        let mut frame = Gathered::default();
        match transfer {
            Transfer::Ask(ask) => put_ask(&mut frame, *ask),
            Transfer::Piece(piece) => put_piece(&mut frame, piece),
        }
        frame.to_vec().split_off(wire::FRAME_HEAD_BYTES)
    }

    fn decoded(body: &[u8]) -> Result<Option<Transfer>, Malformed> {
        decode(body, || body.into())
    }

    proptest! {
        #[test]
        fn a_transfer_survives_its_encoding(transfer in any_transfer()) {
            prop_assert_eq!(decoded(&body(&transfer)), Ok(Some(transfer)));
        }

        #[test]
        fn a_body_of_anything_is_refused_or_sound(mut bytes in prop::collection::vec(any::<u8>(), 1..100)) {
            bytes[0] = ASK + bytes[0] % 2;
            if let Ok(Some(transfer)) = decoded(&bytes.clone()) {
                prop_assert_eq!(body(&transfer), bytes);
            }
        }
    }

    #[test]
    fn a_piece_over_the_limit_is_refused() {
        let last = LogId::ORIGIN;
        let id = SnapshotId {
            last,
            bytes: 1 << 30,
            digest: 0,
        };
        let piece = |len| Piece {
            id,
            offset: 0,
            bytes: vec![0; len].into(),
        };
        let most = body(&Transfer::Piece(piece(MAX_PIECE_BYTES)));
        assert!(most.len() <= MAX_BODY_BYTES);
        assert!(decoded(&most).is_ok());
        let over = body(&Transfer::Piece(piece(MAX_PIECE_BYTES + 1)));
        assert!(decoded(&over).is_err());
    }
}
