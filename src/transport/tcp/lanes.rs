//! The two ways to a peer: one for words, one for entries and the bytes of snapshots. However large an entry is, and
//! however slow the network, a heartbeat, a vote or an answer does not stand behind it.

use std::sync::Arc;

use parking_lot::Mutex;

use super::Parcel;
use super::lane::Lane;
use super::wire::LaneKind;
use crate::raft::message::{Body, Message};
use crate::snapshot::Ask;
use crate::transport::Context;
use crate::types::LogId;

pub(super) struct Lanes {
    words: Arc<Lane>,
    entries: Arc<Lane>,
    /// The end of the last append that went by the way of entries.
    sent: Mutex<LogId>,
}

impl Lanes {
    pub(super) fn new() -> Self {
        Self {
            words: Arc::new(Lane::new()),
            entries: Arc::new(Lane::new()),
            sent: Mutex::default(),
        }
    }

    pub(super) fn lane(&self, kind: LaneKind) -> Arc<Lane> {
        Arc::clone(match kind {
            LaneKind::Words => &self.words,
            LaneKind::Entries => &self.entries,
        })
    }

    /// Sends a parcel, queues it, or drops it. Never waits for the network.
    ///
    /// A heartbeat at the end of what was sent goes behind it, since it asks whether that came: if it overtook
    /// the entries, they would be taken for lost and be sent again. One at a place before may overtake them.
    pub(super) fn send(&self, parcel: Parcel, context: &Context) {
        let Parcel::Message(Message {
            body: Body::Append { range, .. },
            ..
        }) = &parcel
        else {
            self.words.send(parcel, context);
            return;
        };
        let range = *range;
        let mut sent = self.sent.lock();
        if !range.is_empty() {
            if self.entries.send(parcel, context) {
                *sent = range.last;
            }
        } else if *sent == range.prev && !self.entries.is_down() {
            self.entries.send(parcel, context);
        } else {
            self.words.send(parcel, context);
        }
    }

    /// Queues an ask to be answered, or drops it.
    pub(super) fn answer(&self, ask: Ask) {
        self.entries.answer(ask);
    }

    /// Looks whether the peer has ended its connections. A sender would not notice before it has something to say,
    /// and that would be lost.
    pub(super) fn look(&self) {
        self.words.look();
        self.entries.look();
    }

    /// The peer is gone, and has yet to end its connections.
    pub(super) fn lose(&self) {
        self.words.lose();
        self.entries.lose();
    }

    /// Ends both senders once they have sent what waits.
    pub(super) fn end(&self) {
        self.words.end();
        self.entries.end();
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.words.queued() + self.entries.queued()
    }
}
