//! The members of a cluster as the payload of an [`EntryKind::Config`](crate::types::EntryKind) entry.
//!
//! ```text
//! | version u8 = 2 | count u32 | count times: id u64 | role u8 | addr: len u32, UTF-8 | client_addr likewise |
//!
//! role: 1 voter | 2 learner | 4 joiner, or none of these; with 8 one that leaves: it votes as long as the
//!       configuration is joint, which it is if there is one of these
//! ```
//! Members are in ascending order of their ids, so one configuration has one encoding.

use crate::codec::{Malformed, Put, Reader};
use crate::types::{Member, MemberRole, Membership, NodeId, Roster};

const VERSION: u8 = 2;
const MAX_MEMBERS: u32 = 1_024;
const MAX_ADDR_BYTES: usize = 1_024;
const LEAVES: u8 = 8;

const fn role_bit(role: MemberRole) -> u8 {
    match role {
        MemberRole::Voter => 1,
        MemberRole::Learner => 2,
        MemberRole::Joiner => 4,
    }
}

/// Encodes a configuration. Panics on an address of 4 GiB.
#[must_use]
pub fn encode_membership(membership: &Membership) -> Vec<u8> {
    let (members, roster) = (membership.members(), membership.roster());
    let mut bytes = Vec::new();
    bytes.put_u8(VERSION);
    bytes.put_u32(u32::try_from(members.len()).unwrap_or(u32::MAX));
    for Member {
        id,
        addr,
        client_addr,
    } in members
    {
        let leaves = roster.outgoing().contains(id);
        bytes.put_u64(id.0);
        bytes.put_u8(roster.role(*id).map_or(0, role_bit) | if leaves { LEAVES } else { 0 });
        bytes.put_bytes(addr.as_bytes());
        bytes.put_bytes(client_addr.as_bytes());
    }
    bytes
}

/// Decodes what [`encode_membership`] made.
///
/// # Errors
/// [`Malformed`] if it is something else, has over 1,024 members or an address over 1,024 bytes.
pub fn decode_membership(bytes: &[u8]) -> Result<Membership, Malformed> {
    let mut reader = Reader::new(bytes);
    if reader.u8("version of members")? != VERSION {
        return Err(reader.malformed("version of members"));
    }
    let count = reader.u32("number of members")?;
    if count > MAX_MEMBERS {
        return Err(reader.malformed("number of members"));
    }
    let mut members: Vec<Member> = Vec::new();
    let mut roster = Roster::default();
    let mut leaving = Roster::default();
    for _ in 0..count {
        let id = NodeId(reader.u64("id of a member")?);
        if members.last().is_some_and(|before| before.id >= id) {
            return Err(reader.malformed("order of members"));
        }
        let bits = reader.u8("role of a member")?;
        let role = match bits & !LEAVES {
            1 => Some(MemberRole::Voter),
            2 => Some(MemberRole::Learner),
            4 => Some(MemberRole::Joiner),
            0 if bits == LEAVES => None,
            _ => return Err(reader.malformed("role of a member")),
        };
        if let Some(role) = role {
            roster = roster.with(id, role);
        }
        if bits & LEAVES != 0 {
            leaving = leaving.with(id, MemberRole::Voter);
        }
        members.push(Member {
            id,
            addr: reader
                .text(MAX_ADDR_BYTES, "address of a member")?
                .to_owned(),
            client_addr: reader
                .text(MAX_ADDR_BYTES, "client address of a member")?
                .to_owned(),
        });
    }
    reader.finish("members")?;
    Ok(Membership::new(roster.leaving(&leaving), &members))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        Member {
            id: NodeId(id),
            addr: format!("10.0.0.{id}:7000"),
            client_addr: String::new(),
        }
    }

    /// Every combination of roles that three members can have.
    #[test]
    fn a_configuration_survives_its_encoding() {
        let roles = [
            None,
            Some(MemberRole::Voter),
            Some(MemberRole::Learner),
            Some(MemberRole::Joiner),
        ];
        let known = [member(1), member(2), member(3)];
        for case in 0..8_usize.pow(3) {
            let mut roster = Roster::default();
            let mut leaving = Roster::default();
            for (member, place) in known.iter().zip(0..) {
                let digit = case / 8_usize.pow(place) % 8;
                if let Some(role) = roles[digit % 4] {
                    roster = roster.with(member.id, role);
                }
                if digit >= 4 {
                    leaving = leaving.with(member.id, MemberRole::Voter);
                }
            }
            let membership = Membership::new(roster.leaving(&leaving), &known);
            let encoded = encode_membership(&membership);
            assert_eq!(decode_membership(&encoded), Ok(membership), "case {case}");
        }
    }

    #[test]
    fn a_count_is_not_believed() {
        let mut bytes = encode_membership(&Membership::default());
        bytes[1..5].copy_from_slice(&1_000u32.to_le_bytes());
        let refused = decode_membership(&bytes).unwrap_err();
        assert_eq!(refused.what, "id of a member");
        bytes[1..5].copy_from_slice(&u32::MAX.to_le_bytes());
        let refused = decode_membership(&bytes).unwrap_err();
        assert_eq!(refused.what, "number of members");
    }

    #[test]
    fn a_configuration_that_contradicts_itself_is_refused() {
        let bytes = encode_membership(&Membership::of_voters([member(1), member(2)]));
        let changed = |at: usize, value: u8| {
            let mut bytes = bytes.clone();
            bytes[at] = value;
            decode_membership(&bytes).map_err(|error| error.what)
        };
        assert_eq!(changed(0, 1), Err("version of members"));
        assert_eq!(changed(5, 2), Err("order of members"), "2 twice");
        assert_eq!(changed(5, 9), Err("order of members"), "9, then 2");
        for role in [0, 3, 5, 7, 16, 255] {
            assert_eq!(changed(13, role), Err("role of a member"), "role {role}");
        }
    }
}
