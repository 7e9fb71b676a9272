//! A transport whose appends of entries wait at a gate, in the thread that takes the leader's step.

use std::sync::Arc;

use catamaran::Member;
use catamaran::NodeId;
use catamaran::raft::message::{Body, Message};
use catamaran::snapshot::Ask;
use catamaran::transport::{Connect, Context, Transport, TransportError};
use parking_lot::{Condvar, Mutex};

/// Clones are one gate.
#[derive(Clone, Default)]
pub(crate) struct Gate {
    shared: Arc<(Mutex<Where>, Condvar)>,
}

#[derive(Default)]
struct Where {
    closed: bool,
    /// Whether somebody stands at it.
    stands: bool,
}

impl Gate {
    pub(crate) fn close(&self) {
        self.shared.0.lock().closed = true;
    }

    pub(crate) fn open(&self) {
        self.shared.0.lock().closed = false;
        self.shared.1.notify_all();
    }

    pub(crate) fn wait_for_one_who_stands_at_it(&self) {
        let mut at = self.shared.0.lock();
        while !at.stands {
            self.shared.1.wait(&mut at);
        }
    }

    fn pass(&self) {
        let mut at = self.shared.0.lock();
        while at.closed {
            at.stands = true;
            self.shared.1.notify_all();
            self.shared.1.wait(&mut at);
        }
        at.stands = false;
    }
}

/// A transport behind a gate.
pub(crate) struct Gated<C> {
    connect: C,
    gate: Gate,
}

impl<C> Gated<C> {
    pub(crate) const fn new(connect: C, gate: Gate) -> Self {
        Self { connect, gate }
    }
}

impl<C: Connect> Connect for Gated<C> {
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError> {
        let Self { connect, gate } = *self;
        let inner = Box::new(connect).connect(context)?;
        Ok(Arc::new(Connected { inner, gate }))
    }
}

struct Connected {
    inner: Arc<dyn Transport>,
    gate: Gate,
}

impl Transport for Connected {
    fn send(&self, to: NodeId, message: Message) {
        let has_entries = matches!(&message.body, Body::Append { range, .. } if !range.is_empty());
        if has_entries {
            self.gate.pass();
        }
        self.inner.send(to, message);
    }

    fn ask(&self, to: NodeId, ask: Ask) {
        self.inner.ask(to, ask);
    }

    fn answer(&self, to: NodeId, ask: Ask) {
        self.inner.answer(to, ask);
    }

    fn set_members(&self, members: &[Member]) {
        self.inner.set_members(members);
    }

    fn close(&self) {
        self.inner.close();
    }
}
