//! What must hold of snapshots, and of logs that begin behind one.

use super::{Checked, Checker, Replaced, Shadow, Write, id_of, place, term_at, terms_of};
use crate::log::Recovered;
use crate::sim::violation::{Property, Violated};
use crate::snapshot::Configuration;
use crate::types::{EntryKind, LogId, LogIndex, Term, WriteSeq};

/// How many snapshots in a row may take the place of a node's log, once nothing fails, before it is sent an entry: one
/// that was under way, one of a leader that does not know yet that it was deposed, and one of who leads then.
const IN_A_ROW: u64 = 3;

fn broken<T>(what: String) -> Result<T, Violated> {
    Err(Property::Snapshot.violated(what))
}

impl Shadow {
    /// Whether the durable log goes through the snapshot, so that a start keeps it.
    fn goes_through(&self) -> bool {
        term_at(&self.durable, self.snapshot.index) == Some(self.snapshot.term)
    }
}

impl Checker {
    /// The terms of the committed entries up to `last`.
    fn committed_terms(&self, last: LogIndex) -> Vec<Term> {
        let committed = self.committed.iter().take(place(last));
        committed.map(|entry| entry.term).collect()
    }

    pub(super) fn is_committed(&self, id: LogId) -> bool {
        match place(id.index) {
            0 => id == LogId::ORIGIN,
            at => self.committed.get(at - 1).map(|entry| entry.term) == Some(id.term),
        }
    }

    /// The term of the entry that a node has at `index` whatever happens to it: in its log or in its snapshot.
    pub(super) fn durable_term(&self, node: usize, index: LogIndex) -> Option<Term> {
        let shadow = &self.nodes[node];
        if shadow.goes_through() {
            return term_at(&shadow.durable, index);
        }
        let Some(at) = place(index).checked_sub(1) else {
            return Some(Term::ZERO);
        };
        let covered = index <= shadow.snapshot.index;
        let entry = self.committed.get(at).filter(|_| covered);
        entry.map(|entry| entry.term)
    }

    pub(super) fn has_durably(&self, node: usize, id: LogId) -> bool {
        self.durable_term(node, id.index) == Some(id.term)
    }

    /// The last entry that a node has whatever happens to it.
    pub(super) fn last_durable(&self, node: usize) -> LogId {
        let shadow = &self.nodes[node];
        if !shadow.goes_through() {
            return shadow.snapshot;
        }
        let term = shadow.durable.last().copied().unwrap_or_default();
        LogId::new(term, LogIndex(shadow.durable.len() as u64))
    }

    /// Faults have ended.
    pub(in crate::sim) const fn calm(&mut self) {
        self.is_calm = true;
    }

    /// A node freezes its state, which is to be that behind `last`.
    pub(in crate::sim) fn froze(&self, node: usize, last: LogId) -> Checked {
        let applied = self.nodes[node].applied;
        if last.index == applied && self.is_committed(last) {
            return Ok(());
        }
        broken(format!(
            "node {} freezes its state as that behind {last}, and has applied up to {applied}",
            id_of(node)
        ))
    }

    /// A node has made a snapshot durable, of its own state or another's.
    pub(in crate::sim) fn published(
        &mut self,
        node: usize,
        last: LogId,
        configuration: &Configuration,
    ) -> Checked {
        let (id, known) = (id_of(node), self.nodes[node].snapshot);
        if last.index <= known.index {
            return broken(format!(
                "node {id} has a snapshot up to {known}, and puts one up to {last} in its place"
            ));
        }
        self.is_sound(node, last, configuration)?;
        self.nodes[node].snapshot = last;
        self.snapshots += 1;
        Ok(())
    }

    /// A snapshot ends with what is committed, and tells the configuration as of then.
    fn is_sound(&self, node: usize, last: LogId, configuration: &Configuration) -> Checked {
        let id = id_of(node);
        if !self.is_committed(last) {
            return broken(format!(
                "node {id} has a snapshot up to {last}, which nobody has committed"
            ));
        }
        let config = self.config_at(last.index);
        let digest = super::digest(EntryKind::Config, &configuration.bytes);
        let entries = self.entries.get(place(config.index).wrapping_sub(1));
        let mut entries = entries.into_iter().flatten();
        let same = configuration.index == config.index
            && entries.any(|known| known.term == config.term && known.digest == digest);
        if same {
            return Ok(());
        }
        broken(format!(
            "node {id} has a snapshot up to {last} with the members of entry {}, or some that were \
             never those, where the last configuration is entry {config}",
            configuration.index
        ))
    }

    /// A node drops its entries up to `upto`, with write `seq`.
    pub(in crate::sim) fn dropped(
        &mut self,
        node: usize,
        seq: WriteSeq,
        upto: LogIndex,
    ) -> Checked {
        let shadow = &mut self.nodes[node];
        if upto > shadow.snapshot.index || upto > shadow.applied {
            return Err(Property::Compaction.violated(format!(
                "node {} drops its entries up to {upto}, has applied up to {}, and its newest durable \
                 snapshot is up to {}",
                id_of(node),
                shadow.applied,
                shadow.snapshot
            )));
        }
        shadow.before = shadow.before.max(upto);
        shadow.push(seq, Replaced::Prefix(upto));
        Ok(())
    }

    /// A node's log goes on behind `last`, with write `seq`, and its state will come from the snapshot.
    pub(in crate::sim) fn installed(&mut self, node: usize, seq: WriteSeq, last: LogId) -> Checked {
        let id = id_of(node);
        let terms = self.committed_terms(last.index);
        let shadow = &mut self.nodes[node];
        if last != shadow.snapshot {
            return broken(format!(
                "node {id} installs a snapshot up to {last}, and the newest that is durable here is up to {}",
                shadow.snapshot
            ));
        }
        if last.index <= shadow.committed || shadow.has(last) || shadow.leads.is_some() {
            return broken(format!(
                "node {id} installs a snapshot up to {last} over a log that ends at {} and is committed up \
                 to {}",
                shadow.staged.len(),
                shadow.committed
            ));
        }
        shadow.staged = terms;
        shadow.before = last.index;
        shadow.push(seq, Replaced::All(last));
        self.installs += 1;
        shadow.installs += u64::from(self.is_calm);
        if shadow.installs > IN_A_ROW {
            return Err(Property::Progress.violated(format!(
                "node {id} installs snapshot after snapshot, {} in a row, and is sent no entry",
                shadow.installs
            )));
        }
        Ok(())
    }

    /// A node's state machine becomes what the snapshot up to `last` says.
    pub(in crate::sim) fn restored(&mut self, node: usize, last: LogId) -> Checked {
        let shadow = &mut self.nodes[node];
        if last.index <= shadow.applied || last.index > shadow.committed {
            return broken(format!(
                "node {} restores a snapshot up to {last}, and has applied up to {} and committed up to {}",
                id_of(node),
                shadow.applied,
                shadow.committed
            ));
        }
        shadow.applied = last.index;
        Ok(())
    }

    /// A process begins with this snapshot, and brings its log, which is known already, in line with it.
    pub(in crate::sim) fn began_with(
        &mut self,
        node: usize,
        snapshot: Option<(LogId, &Configuration)>,
    ) -> Checked {
        let id = id_of(node);
        let last = snapshot.map_or(LogId::ORIGIN, |(last, _)| last);
        // One that was damaged since may be passed over, if the log has what it was of.
        let known = self.nodes[node].snapshot;
        if last.index < known.index && !self.nodes[node].goes_through() {
            return broken(format!(
                "node {id} begins with a snapshot up to {last}, and had one up to {known}"
            ));
        }
        if let Some((last, configuration)) = snapshot {
            self.is_sound(node, last, configuration)?;
        }
        let terms = self.committed_terms(last.index);
        let shadow = &mut self.nodes[node];
        shadow.snapshot = last;
        shadow.applied = last.index;
        if !shadow.goes_through() {
            shadow.durable.clone_from(&terms);
            shadow.staged = terms;
            (shadow.before, shadow.dropped) = (last.index, last.index);
        }
        let ends = LogIndex(shadow.staged.len() as u64);
        // Of a write that was cut short, the commit index may be there and its entries not.
        shadow.committed = shadow.committed.max(last.index).min(ends);
        Ok(())
    }

    /// The terms of all entries of a log that was found, and of those before it.
    pub(super) fn terms_found(
        &self,
        node: usize,
        found: &Recovered,
    ) -> Result<Vec<Term>, Violated> {
        if !self.is_committed(found.before) {
            return Err(Property::Recovery.violated(format!(
                "node {} finds a log that begins behind {}, which nobody has committed",
                id_of(node),
                found.before
            )));
        }
        let mut terms = self.committed_terms(found.before.index);
        terms_of(&mut terms, &found.runs, found.last.index);
        Ok(terms)
    }

    /// Whether a node's log can be found like this after a crash: what is durable, then some of the writes that
    /// were on their way, and of the next one its term and vote, its truncation, or some of its entries too.
    pub(super) fn could_be(&self, node: usize, found: &[Term], recovered: &Recovered) -> bool {
        let shadow = &self.nodes[node];
        let (hard_state, before) = (recovered.hard_state, recovered.before.index);
        let (mut terms, mut dropped) = (shadow.durable.clone(), shadow.dropped);
        let same = |terms: &[Term], dropped| terms == found && dropped == before;
        if same(&terms, dropped) && hard_state == shadow.hard_state {
            return true;
        }
        for write in &shadow.writes {
            let cut = match write.replaced {
                Some(Replaced::All(_)) => Some(place(dropped)),
                _ => write.truncate_from.map(|from| place(from.prev())),
            };
            if hard_state == write.hard_state && dropped == before {
                if terms == found {
                    return true;
                }
                let kept = &terms[..cut.unwrap_or(terms.len()).min(terms.len())];
                let rest = found.strip_prefix(kept);
                if rest.is_some_and(|rest| write.terms.starts_with(rest)) {
                    return true;
                }
            }
            if let Some(cut) = cut {
                terms.truncate(cut);
            }
            terms.extend(&write.terms);
            match write.replaced {
                Some(Replaced::Prefix(upto)) => dropped = dropped.max(upto),
                Some(Replaced::All(last)) => {
                    terms = self.committed_terms(last.index);
                    dropped = last.index;
                }
                None => {}
            }
            if write.replaced.is_some() && hard_state == write.hard_state && same(&terms, dropped) {
                return true;
            }
        }
        self.has_followed(node, recovered)
    }

    /// Whether a start that failed may have left the log so: in line with a snapshot that the log did not go through.
    /// That may be a newer one than was ever told of, if the node ended when it had just become durable.
    fn has_followed(&self, node: usize, found: &Recovered) -> bool {
        let (shadow, last) = (&self.nodes[node], found.last);
        let writes = shadow.writes.iter().map(|write| write.hard_state);
        let mut states = std::iter::once(shadow.hard_state).chain(writes);
        found.before == last
            && last.index >= shadow.snapshot.index
            && self.is_committed(last)
            && term_at(&shadow.durable, last.index) != Some(last.term)
            && states.any(|state| state == found.hard_state)
    }

    /// A write that a snapshot takes the place of entries with is durable.
    pub(super) fn replaced(&mut self, node: usize, replaced: Replaced) {
        match replaced {
            Replaced::Prefix(upto) => {
                let shadow = &mut self.nodes[node];
                shadow.dropped = shadow.dropped.max(upto);
            }
            Replaced::All(last) => {
                let terms = self.committed_terms(last.index);
                let shadow = &mut self.nodes[node];
                shadow.durable = terms;
                shadow.dropped = last.index;
            }
        }
    }
}

impl Shadow {
    fn push(&mut self, seq: WriteSeq, replaced: Replaced) {
        let before = self.writes.back();
        let hard_state = before.map_or(self.hard_state, |write| write.hard_state);
        self.writes.push_back(Write {
            seq,
            hard_state,
            truncate_from: None,
            terms: Vec::new(),
            replaced: Some(replaced),
        });
    }
}
