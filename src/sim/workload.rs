//! What an embedder brings into the world, and a state machine to try it with.

use std::io::{self, Read, Write};

use super::Rng;
use crate::state_machine::{Snapshot, StateMachine};
use crate::types::Entry;

/// A state machine to be run in the world, what clients propose to it, and what must hold of it.
///
/// Whatever this says, all members must give the same reply to the same entry: the world holds each reply
/// against the first.
pub trait Workload {
    /// The state machine.
    type Machine: StateMachine<Reply: Clone + PartialEq + std::fmt::Debug>;

    /// An empty state machine. Each node begins with one, and again after each restart; then it is restored from
    /// the node's newest snapshot, if there is one.
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

    /// A number that is the same for equal states, and hardly ever for others. With it the world holds each state
    /// against what its entries alone lead to, also what comes back from a snapshot; without it, only replies.
    fn digest(&self, machine: &Self::Machine) -> Option<u64> {
        let _ = machine;
        None
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

    fn freeze(&self) -> Option<impl Snapshot> {
        let (count, link) = self.state;
        Some(move |out: &mut dyn Write| {
            out.write_all(&count.to_le_bytes())?;
            out.write_all(&link.to_le_bytes())
        })
    }

    fn restore(&mut self, _: u32, from: &mut dyn Read) -> io::Result<()> {
        let mut number = || {
            let mut bytes = [0; 8];
            from.read_exact(&mut bytes)?;
            io::Result::Ok(u64::from_le_bytes(bytes))
        };
        self.state = (number()?, number()?);
        Ok(())
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

    fn digest(&self, machine: &Chain) -> Option<u64> {
        let (count, link) = machine.state;
        Some(link.wrapping_add(count))
    }

    fn proposal(&mut self, rng: &mut Rng) -> Vec<u8> {
        let most = if rng.chance(90) { 400 } else { 8_000 };
        let size = rng.below(most);
        let first = rng.next_u64();
        (0..size).map(|at| (first >> (at % 8)) as u8).collect()
    }
}
