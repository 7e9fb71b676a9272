//! A transport whose appends of entries wait at a gate, in the thread that takes the leader's step.

use std::sync::Arc;
use std::time::Duration;

use catamaran::Member;
use catamaran::NodeId;
use catamaran::raft::message::{Body, Message};
use catamaran::snapshot::Ask;
use catamaran::transport::{Connect, Context, Transport, TransportError};
use parking_lot::{Condvar, Mutex};

/// Long enough for anything that is going to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);

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
    /// Until what it returns is dropped, by a test that fails too: a node whose thread stands there could not be.
    pub(crate) fn close(&self) -> Closed {
        self.shared.0.lock().closed = true;
        Closed(self.clone())
    }

    pub(crate) fn wait_for_one_who_stands_at_it(&self) {
        let mut at = self.shared.0.lock();
        let nobody = |at: &mut Where| !at.stands;
        let waited = self.shared.1.wait_while_for(&mut at, nobody, PATIENCE);
        assert!(!waited.timed_out(), "nobody came");
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

/// Opens the gate when it is dropped.
#[must_use]
pub(crate) struct Closed(Gate);

impl Drop for Closed {
    fn drop(&mut self) {
        self.0.shared.0.lock().closed = false;
        self.0.shared.1.notify_all();
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
