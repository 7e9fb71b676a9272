//! Whom a node sends to: the members, and strangers of its cluster that have spoken to it.
//!
//! A stranger may be the leader, or a candidate, of a configuration that this node has yet to hear of. It must
//! be answered, or neither would ever learn of the other; so a hello says where its sender is reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use parking_lot::{Mutex, RwLock};

use super::lanes::Lanes;
use super::wire::LaneKind;
use super::{Shared, send};
use crate::transport::TransportError;
use crate::types::{Member, NodeId};

/// Strangers that are answered; one more takes the place of the one met first.
const MAX_STRANGERS: usize = 16;

/// The senders, and all threads that end with the transport.
pub(super) struct Peers {
    book: RwLock<Book>,
    /// All threads; None once the transport closes.
    threads: Mutex<Option<Vec<JoinHandle<()>>>>,
}

#[derive(Default)]
struct Book {
    members: Vec<Member>,
    strangers: Vec<Member>,
    sought: BTreeMap<NodeId, Sought>,
}

/// A node that is sent to.
struct Sought {
    member: Member,
    lanes: Arc<Lanes>,
}

impl Drop for Sought {
    fn drop(&mut self) {
        self.lanes.end();
    }
}

impl Peers {
    pub(super) fn new() -> Self {
        Self {
            book: RwLock::default(),
            threads: Mutex::new(Some(Vec::new())),
        }
    }

    /// The way to a node that is sent to.
    pub(super) fn lanes(&self, to: NodeId) -> Option<Arc<Lanes>> {
        let book = self.book.read();
        book.sought.get(&to).map(|sought| Arc::clone(&sought.lanes))
    }

    pub(super) fn is_member(&self, id: NodeId) -> bool {
        self.member(id).is_some()
    }

    pub(super) fn member(&self, id: NodeId) -> Option<Member> {
        let book = self.book.read();
        book.members.iter().find(|member| member.id == id).cloned()
    }

    /// How many nodes may have something to say.
    pub(super) fn count(&self) -> usize {
        self.book.read().members.len() + MAX_STRANGERS
    }

    /// Starts a thread that is joined at the end. Once that has come nothing is started any more.
    pub(super) fn spawn(
        &self,
        name: String,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), TransportError> {
        if let Some(threads) = self.threads.lock().as_mut() {
            let thread = thread::Builder::new().name(name).spawn(run);
            threads.retain(|thread| !thread.is_finished());
            threads.push(thread.map_err(TransportError::Thread)?);
        }
        Ok(())
    }

    /// Ends every sender, and gives the threads to be joined; None the second time.
    pub(super) fn end(&self) -> Option<Vec<JoinHandle<()>>> {
        let threads = self.threads.lock().take()?;
        for sought in self.book.read().sought.values() {
            sought.lanes.end();
        }
        Some(threads)
    }

    #[cfg(test)]
    pub(super) fn queued(&self, id: NodeId) -> Option<usize> {
        self.lanes(id).map(|lanes| lanes.queued())
    }
}

impl Shared {
    /// Sends to these members where they are now, and to no others but strangers.
    pub(super) fn set_members(self: &Arc<Self>, members: &[Member]) -> Result<(), TransportError> {
        let is_member = |id| members.iter().any(|member| member.id == id);
        // Who was removed may come back with another directory.
        self.incarnations.lock().retain(|id, _| is_member(*id));
        let mut book = self.peers.book.write();
        book.members = members.to_vec();
        book.strangers.retain(|stranger| !is_member(stranger.id));
        self.seek(&mut book)
    }

    /// A node of the cluster says where it is reached.
    pub(super) fn meet(self: &Arc<Self>, id: NodeId, addr: String) {
        let mut book = self.peers.book.write();
        let member = book.members.iter().any(|member| member.id == id);
        if member || addr.is_empty() {
            return;
        }
        book.strangers.retain(|stranger| stranger.id != id);
        if book.strangers.len() == MAX_STRANGERS {
            book.strangers.remove(0);
        }
        book.strangers.push(Member {
            id,
            addr,
            client_addr: String::new(),
        });
        if let Err(error) = self.seek(&mut book) {
            crate::trace::warn!(%error, "a stranger is not answered");
        }
    }

    /// Starts the senders that are missing, and ends those that nobody needs.
    fn seek(self: &Arc<Self>, book: &mut Book) -> Result<(), TransportError> {
        let me = self.context.identity.node;
        let wanted = book.members.iter().chain(&book.strangers);
        let wanted: Vec<Member> = wanted.filter(|member| member.id != me).cloned().collect();
        let is_wanted = |sought: &Sought| wanted.contains(&sought.member);
        book.sought.retain(|_, sought| is_wanted(sought));
        for member in wanted {
            let id = member.id;
            if book.sought.contains_key(&id) {
                continue;
            }
            let lanes = Arc::new(Lanes::new());
            for kind in [LaneKind::Words, LaneKind::Entries] {
                let peer = send::Peer::new(member.clone(), &lanes, kind, Arc::clone(self));
                let name = format!("catamaran-{kind}-{id}");
                self.peers.spawn(name, move || peer.run())?;
            }
            book.sought.insert(id, Sought { member, lanes });
        }
        Ok(())
    }
}
