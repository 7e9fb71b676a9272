//! The members of a cluster as the payload of an [`EntryKind::Config`](crate::types::EntryKind) entry.
//!
//! ```text
//! | version u8 = 1 | count u32 | count times: id u64 | addr: len u32, UTF-8 | client_addr likewise |
//! ```

use crate::codec::{Malformed, Put, Reader};
use crate::types::{Member, NodeId};

const VERSION: u8 = 1;
const MAX_MEMBERS: u32 = 1_024;
const MAX_ADDR_BYTES: usize = 1_024;

/// Encodes members, in the order given. Panics on an address of 4 GiB.
#[must_use]
pub fn encode_members(members: &[Member]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u8(VERSION);
    bytes.put_u32(u32::try_from(members.len()).unwrap_or(u32::MAX));
    for member in members {
        bytes.put_u64(member.id.0);
        bytes.put_bytes(member.addr.as_bytes());
        bytes.put_bytes(member.client_addr.as_bytes());
    }
    bytes
}

/// Decodes what [`encode_members`] made.
///
/// # Errors
/// [`Malformed`] if it is something else, has over 1,024 members or an address over 1,024 bytes.
pub fn decode_members(bytes: &[u8]) -> Result<Vec<Member>, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8("version of members")? != VERSION {
        return Err(reader.malformed("version of members"));
    }
    let count = reader.u32("number of members")?;
    if count > MAX_MEMBERS {
        return Err(reader.malformed("number of members"));
    }
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member {
            id: NodeId(reader.u64("id of a member")?),
            addr: reader
                .text(MAX_ADDR_BYTES, "address of a member")?
                .to_owned(),
            client_addr: reader
                .text(MAX_ADDR_BYTES, "client address of a member")?
                .to_owned(),
        });
    }
    reader.finish("members")?;
    Ok(members)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_survive_their_encoding() {
        let member = |id| Member {
            id: NodeId(id),
            addr: format!("10.0.0.{id}:7000"),
            client_addr: String::new(),
        };
        let members = vec![member(3), member(1), member(2)];
        assert_eq!(decode_members(&encode_members(&members)), Ok(members));
    }

    #[test]
    fn a_count_is_not_believed() {
        let mut bytes = encode_members(&[]);
        bytes[1..5].copy_from_slice(&1_000u32.to_le_bytes());
        assert_eq!(decode_members(&bytes).unwrap_err().what, "id of a member");
        bytes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(
            decode_members(&bytes).unwrap_err().what,
            "number of members"
        );
    }
}
