//! What the apply thread of a node does.

use super::super::birth::Watch;
use super::super::clients::NUMBER_BYTES;
use super::super::trace::What;
use super::super::violation::Property;
use super::{Halt, Process};
use crate::driver::next_batch;
use crate::state_machine::StateMachine;
use crate::types::{Entry, EntryKind};

/// An entry that was applied.
pub(in crate::sim) struct Applied<R> {
    pub(in crate::sim) number: u64,
    /// As the state machine saw it.
    pub(in crate::sim) entry: Entry,
    pub(in crate::sim) reply: R,
}

impl<M: StateMachine> Process<M> {
    /// Applies some of what is committed, as the apply thread does, and answers who waits for it.
    ///
    /// # Errors
    /// What stops the node, or is violated.
    pub(in crate::sim) fn apply(
        &mut self,
        limits: (usize, usize),
        watch: &mut Watch,
    ) -> Result<Vec<Applied<M::Reply>>, Halt> {
        let mut applied = Vec::new();
        self.restore(watch)?;
        if self.applied < self.committed {
            let upto = self.committed.min(self.snapshots.limit(self.applied));
            let batch = next_batch(&self.reader, self.applied, upto, limits)?;
            for entry in &batch {
                watch.checker.applied(self.node, entry)?;
            }
            for run in batch.chunk_by(|a, b| a.kind == b.kind) {
                if run[0].kind == EntryKind::Normal {
                    self.apply_normal(run, &mut applied)?;
                }
            }
            if let Some(last) = batch.last().map(|entry| entry.id) {
                drop(self.replies.take(last));
                self.applied = last.index;
                watch.trace.add(Some(self.id), What::Applied(last.index));
            }
            self.freeze(&batch, watch)?;
        }
        let upto = self.applied;
        for (_, read) in self.ready.extract_if(.., |(index, _)| *index <= upto) {
            read.saw(upto);
        }
        Ok(applied)
    }

    fn apply_normal(
        &mut self,
        entries: &[Entry],
        applied: &mut Vec<Applied<M::Reply>>,
    ) -> Result<(), Halt> {
        let stripped: Vec<Entry> = entries.iter().filter_map(without_number).collect();
        let replies = self.machine.apply(&stripped);
        if replies.len() != entries.len() || stripped.len() != entries.len() {
            let (replies, entries) = (replies.len(), entries.len());
            return Err(Property::Workload
                .violated(format!(
                    "the state machine gave {replies} replies to {entries} entries"
                ))
                .into());
        }
        for ((entry, stripped), reply) in entries.iter().zip(stripped).zip(replies) {
            applied.push(Applied {
                number: number_of(&entry.payload).unwrap_or(u64::MAX),
                entry: stripped,
                reply,
            });
            if let Some(slot) = self.replies.take(entry.id) {
                slot.applied(entry.id.index);
            }
        }
        Ok(())
    }
}

fn number_of(payload: &[u8]) -> Option<u64> {
    let number = payload.first_chunk::<NUMBER_BYTES>()?;
    Some(u64::from_le_bytes(*number))
}

fn without_number(entry: &Entry) -> Option<Entry> {
    let rest = entry.payload.len().checked_sub(NUMBER_BYTES)?;
    Some(Entry {
        id: entry.id,
        kind: entry.kind,
        payload: entry.payload.slice(NUMBER_BYTES, rest),
    })
}
