//! What comes to a process, until it looks.

use super::clients::Read;
use super::operator::Order;
use super::process::Told;
use crate::raft::message::Message;
use crate::types::{Change, Durable, Entry, NodeId};

/// A message with its entries, as it arrives.
#[derive(Clone)]
pub(super) struct Incoming {
    pub(super) from: NodeId,
    pub(super) message: Message,
    pub(super) entries: Vec<Entry>,
}

/// All that came in since the last look, but for proposals.
#[derive(Default)]
pub(super) struct Mail {
    pub(super) durable: Option<Durable>,
    pub(super) snapshots: Told,
    pub(super) incoming: Vec<Incoming>,
    /// Whose connection has ended.
    pub(super) lost: Vec<NodeId>,
    pub(super) reads: Vec<Read>,
    /// To whom leadership is to be handed over: to somebody, or whoever is best.
    pub(super) transfers: Vec<(Option<NodeId>, Order)>,
    pub(super) changes: Vec<(Vec<Change>, Order)>,
}

impl Mail {
    pub(super) const fn is_empty(&self) -> bool {
        self.durable.is_none()
            && self.snapshots.is_empty()
            && self.incoming.is_empty()
            && self.lost.is_empty()
            && self.reads.is_empty()
            && self.transfers.is_empty()
            && self.changes.is_empty()
    }
}
