//! A network within one process, which tests can cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::RwLock;

use super::{Connect, Context, Inbox, Incoming, Transport, TransportError};
use crate::raft::message::Message;
use crate::snapshot::Ask;
use crate::types::{Identity, NodeId};

/// A network of nodes in one process. Cheap to clone; all clones are one network.
///
/// Messages are handed over in the sender's thread, at once and in order. Nodes of different clusters do
/// not hear each other.
#[derive(Clone, Default)]
pub struct InMemory {
    net: Arc<RwLock<Net>>,
}

#[derive(Default)]
struct Net {
    nodes: BTreeMap<NodeId, Node>,
    /// Pairs that cannot reach each other, the lower id first.
    cut: BTreeSet<(NodeId, NodeId)>,
    isolated: BTreeSet<NodeId>,
}

struct Node {
    identity: Identity,
    inbox: Arc<dyn Inbox>,
    /// Tells a node from another that took its place.
    endpoint: Arc<AtomicBool>,
}

impl InMemory {
    /// A network with no nodes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What one node is given as its transport. A node that connects under an id in use takes its place.
    #[must_use]
    pub fn endpoint(&self) -> impl Connect + use<> {
        Endpoint {
            net: Arc::clone(&self.net),
        }
    }

    /// Loses every message between `a` and `b`, both ways.
    pub fn cut(&self, a: NodeId, b: NodeId) {
        self.net.write().cut.insert((a.min(b), a.max(b)));
    }

    /// Ends [`InMemory::cut`].
    pub fn heal(&self, a: NodeId, b: NodeId) {
        self.net.write().cut.remove(&(a.min(b), a.max(b)));
    }

    /// Loses every message to and from `id`.
    pub fn isolate(&self, id: NodeId) {
        self.net.write().isolated.insert(id);
    }

    /// Ends every cut and isolation.
    pub fn heal_all(&self) {
        let mut net = self.net.write();
        net.cut.clear();
        net.isolated.clear();
    }
}

impl Net {
    fn is_cut(&self, a: NodeId, b: NodeId) -> bool {
        self.isolated.contains(&a)
            || self.isolated.contains(&b)
            || self.cut.contains(&(a.min(b), a.max(b)))
    }
}

struct Endpoint {
    net: Arc<RwLock<Net>>,
}

impl Connect for Endpoint {
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError> {
        let open = Arc::new(AtomicBool::new(true));
        let node = Node {
            identity: context.identity,
            inbox: Arc::clone(&context.inbox),
            endpoint: Arc::clone(&open),
        };
        self.net.write().nodes.insert(context.identity.node, node);
        Ok(Arc::new(Connected {
            net: self.net,
            context,
            open,
        }))
    }
}

struct Connected {
    net: Arc<RwLock<Net>>,
    context: Context,
    open: Arc<AtomicBool>,
}

impl Connected {
    /// Where messages to `to` go; None if it is not there or cannot be reached.
    fn route(&self, to: NodeId) -> Option<Arc<dyn Inbox>> {
        if !self.open.load(Ordering::Acquire) {
            return None;
        }
        let me = self.context.identity;
        let net = self.net.read();
        let node = net
            .nodes
            .get(&to)
            .filter(|node| node.identity.cluster == me.cluster)?;
        (!net.is_cut(me.node, to)).then(|| Arc::clone(&node.inbox))
    }
}

impl Transport for Connected {
    fn send(&self, to: NodeId, message: Message) {
        let Some(inbox) = self.route(to) else { return };
        let from = self.context.identity.node;
        super::fill(&self.context, message, |message, entries| {
            inbox.deliver(Incoming {
                from,
                message,
                entries,
            });
        });
        inbox.rouse();
    }

    fn ask(&self, to: NodeId, ask: Ask) {
        if let Some(inbox) = self.route(to) {
            inbox.asked(self.context.identity.node, ask);
            inbox.rouse();
        }
    }

    fn answer(&self, to: NodeId, ask: Ask) {
        let Some(inbox) = self.route(to) else { return };
        if let Some(piece) = self.context.snapshots.read(to, ask) {
            inbox.answered(self.context.identity.node, piece);
            inbox.rouse();
        }
    }

    fn close(&self) {
        self.open.store(false, Ordering::Release);
        let mut net = self.net.write();
        let Identity { cluster, node, .. } = self.context.identity;
        let own = net.nodes.get(&node);
        if !own.is_some_and(|own| Arc::ptr_eq(&own.endpoint, &self.open)) {
            return;
        }
        net.nodes.remove(&node);
        let others = net.nodes.iter().filter(|(id, other)| {
            // Who could not hear it cannot hear that it is gone.
            other.identity.cluster == cluster && !net.is_cut(node, **id)
        });
        let others: Vec<_> = others.map(|(_, other)| Arc::clone(&other.inbox)).collect();
        drop(net);
        for inbox in others {
            inbox.lost(node);
            inbox.rouse();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Piece;
    use crate::transport::{EntrySource, Limits, SnapshotSource};
    use crate::types::{ClusterId, Entry, EntryRange};
    use parking_lot::Mutex;

    /// Remembers who was lost, and has nothing to say.
    #[derive(Default)]
    struct Quiet(Mutex<Vec<NodeId>>);

    impl Inbox for Quiet {
        fn deliver(&self, _: Incoming) {}

        fn asked(&self, _: NodeId, _: Ask) {}

        fn answered(&self, _: NodeId, _: Piece) {}

        fn lost(&self, from: NodeId) {
            self.0.lock().push(from);
        }

        fn attend(&self) {}

        fn rouse(&self) {}
    }

    impl EntrySource for Quiet {
        fn read(&self, _: EntryRange, _: usize) -> Option<Vec<Entry>> {
            None
        }
    }

    impl SnapshotSource for Quiet {
        fn read(&self, _: NodeId, _: Ask) -> Option<Piece> {
            None
        }
    }

    fn connect(net: &InMemory, cluster: u64, node: u64) -> (Arc<dyn Transport>, Arc<Quiet>) {
        let inbox = Arc::new(Quiet::default());
        let context = Context {
            identity: Identity {
                cluster: ClusterId(cluster),
                node: NodeId(node),
                incarnation: 1,
            },
            members: Vec::new(),
            inbox: Arc::clone(&inbox) as Arc<dyn Inbox>,
            entries: Arc::new(Quiet::default()),
            snapshots: Arc::new(Quiet::default()),
            limits: Limits {
                max_entry_bytes: 1,
                max_append_bytes: 1,
                max_append_entries: 1,
            },
        };
        let transport = Box::new(net.endpoint()).connect(context).unwrap();
        (transport, inbox)
    }

    #[test]
    fn who_closes_is_lost_to_those_that_could_hear_it() {
        let net = InMemory::new();
        let (first, _) = connect(&net, 7, 1);
        let (_, heard) = connect(&net, 7, 2);
        let (_, cut) = connect(&net, 7, 3);
        let (_, foreign) = connect(&net, 8, 4);
        // Its place is taken, which is no loss.
        let (again, _) = connect(&net, 7, 1);
        first.close();
        assert!(heard.0.lock().is_empty());
        net.cut(NodeId(1), NodeId(3));
        again.close();
        again.close();
        assert_eq!(*heard.0.lock(), [NodeId(1)]);
        assert!(cut.0.lock().is_empty() && foreign.0.lock().is_empty());
    }
}
