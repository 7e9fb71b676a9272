//! Term, vote and commit as bytes, and where the configurations are.
//!
//! ```text
//! 0        8        9                17        25          26
//! | term   | voted  | vote, 0 if not | commit  | count u8  | count times u64: index
//! ```
//! The indices are those of all configurations that may count after this write or, should a crash keep the
//! state of a write and lose its truncation or its entries, after the one before: so opening a log finds the
//! last configuration without reading what is between. An index whose entry is none, or not there, is none.

use crate::codec::{Malformed, Put, Reader};
use crate::types::{HardState, LogIndex, NodeId, Term};

/// As many as ever fit. A leader appends no configuration before the last one is committed, and says so with
/// it, so there are hardly ever more than three.
const MAX_CONFIGS: usize = 64;

pub(super) fn encode(state: HardState, configs: &[LogIndex]) -> Vec<u8> {
    let configs = &configs[configs.len().saturating_sub(MAX_CONFIGS)..];
    let mut bytes = Vec::with_capacity(26 + 8 * configs.len());
    bytes.put_u64(state.term.0);
    bytes.put_u8(u8::from(state.vote.is_some()));
    bytes.put_u64(state.vote.map_or(0, |vote| vote.0));
    bytes.put_u64(state.commit.0);
    bytes.put_u8(u8::try_from(configs.len()).unwrap_or(u8::MAX));
    for index in configs {
        bytes.put_u64(index.0);
    }
    bytes
}

pub(super) fn decode(bytes: &[u8]) -> Result<(HardState, Vec<LogIndex>), Malformed> {
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
    let count = reader.u8("number of configurations")?;
    let configs = (0..count).map(|_| reader.u64("index of a configuration").map(LogIndex));
    let configs = configs.collect::<Result<Vec<_>, _>>()?;
    reader.finish("hard state")?;
    Ok((HardState { term, vote, commit }, configs))
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
            for configs in [&[][..], &[LogIndex(1), LogIndex(7)]] {
                let decoded = decode(&encode(state, configs));
                assert_eq!(decoded, Ok((state, configs.to_vec())));
            }
        }
    }

    #[test]
    fn a_damaged_hard_state_is_refused() {
        let state = HardState {
            term: Term(7),
            vote: None,
            commit: LogIndex(9),
        };
        let bytes = encode(state, &[LogIndex(1)]);
        for len in 0..bytes.len() {
            assert!(decode(&bytes[..len]).is_err(), "cut short at {len}");
        }
        let mut odd = bytes.clone();
        odd[8] = 2;
        assert!(decode(&odd).is_err(), "neither voted nor not");
        let long = [bytes.as_slice(), &[0]].concat();
        assert!(decode(&long).is_err(), "too long");
    }
}
