//! What an embedder brings into the world, and a state machine to try it with.

use super::Rng;
use crate::state_machine::StateMachine;
use crate::types::Entry;

/// A state machine to be run in the world, what clients propose to it, and what must hold of it.
///
/// Whatever this says, all members must give the same reply to the same entry: the world holds each reply
/// against the first.
pub trait Workload {
    /// The state machine.
    type Machine: StateMachine<Reply: Clone + PartialEq + std::fmt::Debug>;

    /// An empty state machine. Each node begins with one, and again after each restart.
    fn machine(&self) -> Self::Machine;

    /// What a client proposes next. All that is random in it must come from `rng`.
    fn proposal(&mut self, rng: &mut Rng) -> Vec<u8>;

    /// A client has this reply to what it proposed. Called in the order in which replies arrive, which need
    /// not be that of the entries.
    ///
    /// # Errors
    /// What is wrong with it, in words: the run ends there.
    fn acknowledged(
        &mut self,
        proposal: &[u8],
        reply: &<Self::Machine as StateMachine>::Reply,
    ) -> Result<(), String> {
        let _ = (proposal, reply);
        Ok(())
    }

    /// Looks at a node's state machine, each time it has applied entries.
    ///
    /// # Errors
    /// What is wrong with it, in words: the run ends there.
    fn inspect(&mut self, machine: &Self::Machine) -> Result<(), String> {
        let _ = machine;
        Ok(())
    }
}

/// A state machine whose replies depend on every byte of every entry before, and on their order.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// How many entries there were, and what they come to.
    state: (u64, u64),
}

impl StateMachine for Chain {
    type Reply = (u64, u64);

    fn apply(&mut self, entries: &[Entry]) -> Vec<(u64, u64)> {
        let apply = |entry: &Entry| {
            let (count, link) = self.state;
            let sum = crc32fast::hash(&entry.payload);
            let link = (link ^ u64::from(sum)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            self.state = (count + 1, link ^ (link >> 31));
            self.state
        };
        entries.iter().map(apply).collect()
    }
}

/// Proposals of all sizes to a [`Chain`], most of them small.
#[derive(Clone, Debug, Default)]
pub struct Chains;

impl Workload for Chains {
    type Machine = Chain;

    fn machine(&self) -> Chain {
        Chain::default()
    }

    fn proposal(&mut self, rng: &mut Rng) -> Vec<u8> {
        let most = if rng.chance(90) { 400 } else { 8_000 };
        let size = rng.below(most);
        let first = rng.next_u64();
        (0..size).map(|at| (first >> (at % 8)) as u8).collect()
    }
}
