//! Term, vote and commit as bytes.
//!
//! ```text
//! 0        8        9                17        25
//! | term   | voted  | vote, 0 if not | commit  |
//! ```

use crate::codec::{Malformed, Put, Reader};
use crate::types::{HardState, LogIndex, NodeId, Term};

pub(super) fn encode(state: HardState) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(25);
    bytes.put_u64(state.term.0);
    bytes.put_u8(u8::from(state.vote.is_some()));
    bytes.put_u64(state.vote.map_or(0, |vote| vote.0));
    bytes.put_u64(state.commit.0);
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<HardState, Malformed> {
    let mut reader = Reader::new(bytes);
    let term = Term(reader.u64("term")?);
    let voted = reader.u8("voted")?;
    let vote = NodeId(reader.u64("vote")?);
    let vote = match voted {
        0 => None,
        1 => Some(vote),
        _ => return Err(reader.malformed("voted")),
    };
    let commit = LogIndex(reader.u64("commit")?);
    reader.finish("hard state")?;
    Ok(HardState { term, vote, commit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hard_state_survives_its_encoding() {
        for vote in [None, Some(NodeId(0)), Some(NodeId(u64::MAX))] {
            let state = HardState {
                term: Term(7),
                vote,
                commit: LogIndex(9),
            };
            assert_eq!(decode(&encode(state)), Ok(state));
        }
    }

    #[test]
    fn a_damaged_hard_state_is_refused() {
        let bytes = encode(HardState {
            term: Term(7),
            vote: None,
            commit: LogIndex(9),
        });
        assert!(decode(&bytes[..24]).is_err(), "cut short");
        let mut odd = bytes.clone();
        odd[8] = 2;
        assert!(decode(&odd).is_err(), "neither voted nor not");
        let long = [bytes.as_slice(), &[0]].concat();
        assert!(decode(&long).is_err(), "too long");
    }
}
