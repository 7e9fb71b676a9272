//! The log on raft-log, and a state machine that counts.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::path::Path;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::entry::EntryPayload;
use openraft::impls::leader_id_adv::LeaderId;
use openraft::storage::{EntryResponder, IOFlushed, LogState, RaftLogStorage, RaftStateMachine};
use openraft::type_config::alias::{
    EntryOf, LogIdOf, SnapshotMetaOf, SnapshotOf, StoredMembershipOf, VoteOf,
};
use openraft::{
    BasicNode, LogId, Membership, RaftLogReader, RaftSnapshotBuilder, StoredMembership, Vote,
};
use parking_lot::RwLock;
use raft_log::api::raft_log_writer::RaftLogWriter;
use raft_log::codeq::{Decode, Encode};
use raft_log::{Callback, RaftLog};
use tokio::sync::oneshot;

use super::{Data, Types};
use crate::engine::raft_log::gather;

/// Term, leader and index.
type StoredId = ((u64, u64), u64);

/// What raft-log stores.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
struct Stored;

impl raft_log::Types for Stored {
    type LogId = StoredId;
    type LogPayload = Payload;
    /// Term, candidate and whether a quorum granted it.
    type Vote = ((u64, u64), bool);
    type Callback = Flushed;
    type UserData = String;

    fn log_index(log_id: &Self::LogId) -> u64 {
        log_id.1
    }

    fn payload_size(payload: &Payload) -> u64 {
        match &payload.0 {
            EntryPayload::Normal(data) => data.0.len() as u64,
            _ => 0,
        }
    }
}

#[derive(Clone, Debug)]
struct Payload(EntryPayload<Data, u64, BasicNode>);

impl Encode for Payload {
    fn encode<W: io::Write>(&self, mut to: W) -> io::Result<usize> {
        match &self.0 {
            EntryPayload::Blank => 0_u8.encode(to),
            EntryPayload::Normal(Data(data)) => {
                let len = u32::try_from(data.len()).map_err(io::Error::other)?;
                let head = 1_u8.encode(&mut to)? + len.encode(&mut to)?;
                to.write_all(data)?;
                Ok(head + data.len())
            }
            EntryPayload::Membership(membership) => {
                let ids: Vec<u8> = membership.voter_ids().flat_map(u64::to_be_bytes).collect();
                Ok(2_u8.encode(&mut to)? + ids.encode(to)?)
            }
        }
    }
}

impl Decode for Payload {
    fn decode<R: io::Read>(mut from: R) -> io::Result<Self> {
        let kind = u8::decode(&mut from)?;
        Ok(Self(match kind {
            0 => EntryPayload::Blank,
            1 => EntryPayload::Normal(Data(Vec::decode(from)?.into())),
            2 => {
                let ids = Vec::decode(from)?;
                let (ids, _) = ids.as_chunks();
                let ids: BTreeSet<u64> = ids.iter().map(|id| u64::from_be_bytes(*id)).collect();
                EntryPayload::Membership(Membership::new_with_defaults(vec![ids], []))
            }
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }))
    }
}

enum Flushed {
    Append(IOFlushed<Types>),
    Vote(oneshot::Sender<io::Result<()>>),
}

impl Callback for Flushed {
    fn send(self, result: io::Result<()>) {
        match self {
            Self::Append(flushed) => flushed.io_completed(result),
            // Who does not wait any more does not care.
            Self::Vote(sender) => drop(sender.send(result)),
        }
    }
}

#[derive(Clone)]
pub(super) struct Store {
    log: Arc<RwLock<RaftLog<Stored>>>,
}

fn log_id(&((term, node_id), index): &StoredId) -> LogIdOf<Types> {
    LogId {
        leader_id: LeaderId { term, node_id },
        index,
    }
}

fn stored_id(id: &LogIdOf<Types>) -> StoredId {
    ((id.leader_id.term, id.leader_id.node_id), id.index)
}

impl Store {
    pub(super) fn open(dir: &Path, clients: usize) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut config = raft_log::Config::new(dir.display());
        config.wal.flush_batch_wait = Some(gather(clients));
        let log = RaftLog::open(Arc::new(config))?;
        Ok(Self {
            log: Arc::new(RwLock::new(log)),
        })
    }
}

impl RaftLogReader<Types> for Store {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + Send>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<EntryOf<Types>>> {
        let first = match range.start_bound() {
            Bound::Included(first) => *first,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(end) => *end,
            Bound::Unbounded => u64::MAX,
        };
        let entry = |read: io::Result<(StoredId, Payload)>| {
            let (id, Payload(payload)) = read?;
            Ok(openraft::Entry {
                log_id: log_id(&id),
                payload,
            })
        };
        self.log.read().read(first, end).map(entry).collect()
    }

    async fn read_vote(&mut self) -> io::Result<Option<VoteOf<Types>>> {
        let log = self.log.read();
        let vote = log.log_state().vote();
        Ok(vote.map(|&((term, node_id), committed)| Vote {
            leader_id: LeaderId { term, node_id },
            committed,
        }))
    }
}

impl RaftLogStorage<Types> for Store {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<Types>> {
        let log = self.log.read();
        let last_purged_log_id = log.log_state().purged().map(log_id);
        let last_log_id = log.log_state().last().map(log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &VoteOf<Types>) -> io::Result<()> {
        let (sender, durable) = oneshot::channel();
        {
            let mut log = self.log.write();
            log.save_vote((
                (vote.leader_id.term, vote.leader_id.node_id),
                vote.committed,
            ))?;
            log.flush(true, Some(Flushed::Vote(sender)))?;
        }
        durable.await.map_err(io::Error::other)?
    }

    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<Types>) -> io::Result<()>
    where
        I: IntoIterator<Item = EntryOf<Types>> + Send,
        I::IntoIter: Send,
    {
        let mut log = self.log.write();
        log.append(
            entries
                .into_iter()
                .map(|entry| (stored_id(&entry.log_id), Payload(entry.payload))),
        )?;
        log.flush(true, Some(Flushed::Append(flushed)))
    }

    async fn truncate_after(&mut self, last: Option<LogIdOf<Types>>) -> io::Result<()> {
        let mut log = self.log.write();
        log.truncate(last.map_or(0, |last| last.index + 1))?;
        log.flush(true, None)
    }

    async fn purge(&mut self, upto: LogIdOf<Types>) -> io::Result<()> {
        let mut log = self.log.write();
        log.purge(stored_id(&upto))?;
        log.flush(true, None)
    }
}

/// Answers each entry.
#[derive(Default)]
pub(super) struct Counter {
    entries: u64,
    applied: Option<LogIdOf<Types>>,
    members: StoredMembershipOf<Types>,
}

/// There are none: the log is kept.
pub(super) struct NoSnapshots;

fn no_snapshots<T>() -> io::Result<T> {
    Err(io::ErrorKind::Unsupported.into())
}

impl RaftSnapshotBuilder<Types> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> io::Result<SnapshotOf<Types, ()>> {
        no_snapshots()
    }
}

impl RaftStateMachine<Types> for Counter {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(
        &mut self,
    ) -> io::Result<(Option<LogIdOf<Types>>, StoredMembershipOf<Types>)> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<S>(&mut self, mut entries: S) -> io::Result<()>
    where
        S: Stream<Item = io::Result<EntryResponder<Types>>> + Unpin + Send,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            self.entries += 1;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                self.members = StoredMembership::new(self.applied, members);
            }
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<Types>,
        _snapshot: (),
    ) -> io::Result<()> {
        no_snapshots()
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<SnapshotOf<Types, ()>>> {
        Ok(None)
    }
}
