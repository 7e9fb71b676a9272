//! Starting a node: options checked, directory opened, members found, threads started.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use crate::config::{Config, Options};
use crate::driver::{RestoreError, restore};
use crate::error::{Fault, OptionError};
use crate::log::{Log, LogError, NewEntry, Recovered, encode_membership};
use crate::node::Node;
use crate::runtime::{Parts, Runtime};
use crate::snapshot::SnapshotError;
use crate::state_machine::StateMachine;
use crate::transport::{Connect, TransportError};
use crate::types::{
    ClusterId, EntryKind, HardState, LogId, LogIndex, Member, Membership, NodeId, Payload, Roster,
    Term,
};
use crate::vfs::{Disk, StdDisk};
use crate::wal::{WalError, WalOptions};

/// The term of the entry that every member writes by itself when its directory is new: the members.
const BOOTSTRAP: LogId = LogId::new(Term(1), LogIndex(1));

/// Builds a [`Node`]; made by [`Node::builder`].
pub struct Builder {
    id: NodeId,
    dir: PathBuf,
    members: Option<Vec<Member>>,
    contacts: Option<Vec<Member>>,
    cluster: Option<ClusterId>,
    options: Options,
    connect: Option<Box<dyn Connect>>,
    disk: Arc<dyn Disk>,
}

impl Builder {
    pub(super) fn new(id: NodeId, dir: PathBuf) -> Self {
        Self {
            id,
            dir,
            members: None,
            contacts: None,
            cluster: None,
            options: Options::default(),
            connect: None,
            disk: Arc::new(StdDisk),
        }
    }

    /// The first members of the cluster, this node among them. Written to the log when the directory is new;
    /// later the log is the truth, and this only proves that the directory is of the same cluster. Start
    /// every one of them with the same list every time. Without it, this is a cluster of one.
    #[must_use]
    pub fn bootstrap(mut self, members: impl Into<Vec<Member>>) -> Self {
        self.members = Some(members.into());
        self
    }

    /// This node is not one of the first members: it waits until a leader sends it the log, which a change
    /// of members on that side begins (thesis, section 4.2.1; see
    /// [`Node::add_voter`](crate::Node::add_voter)). `contacts` are members of the cluster. Unless they are
    /// exactly its first ones, name the cluster too: [`Node::identity`](crate::Node::identity) of any member
    /// tells. Takes the place of [`Builder::bootstrap`]; start the node so every time.
    #[must_use]
    pub fn join(mut self, contacts: impl Into<Vec<Member>>) -> Self {
        self.contacts = Some(contacts.into());
        self
    }

    /// Names the cluster. By default the name is derived from the ids and addresses of its first members.
    #[must_use]
    pub const fn cluster(mut self, cluster: ClusterId) -> Self {
        self.cluster = Some(cluster);
        self
    }

    /// How the members reach each other. A cluster of one needs none.
    #[must_use]
    pub fn transport(mut self, connect: impl Connect) -> Self {
        self.connect = Some(Box::new(connect));
        self
    }

    /// Times, sizes and limits.
    #[must_use]
    pub fn options(mut self, options: Options) -> Self {
        self.options = options;
        self
    }

    /// The disk to run on, by default this machine's.
    #[must_use]
    pub fn disk(mut self, disk: Arc<dyn Disk>) -> Self {
        self.disk = disk;
        self
    }

    /// Opens the log, recovers term, vote and entries, restores the state machine from the newest snapshot, and
    /// starts the node's threads. The state machine must be empty: without a snapshot it is fed every
    /// committed entry from the first. A cluster of one leads when this returns; in others, see
    /// [`Node::wait_leader`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running, and nothing was changed but that a new directory may have
    /// been created, or a torn last write cut off.
    pub fn start<M: StateMachine>(self, mut machine: M) -> Result<Node<M>, StartError> {
        let config = Config::try_from(self.options.clone())?;
        let members = self.sorted_members()?;
        let mut contacts = self.contacts.clone().unwrap_or_default();
        contacts.sort_by_key(|contact| contact.id);
        let first = self.contacts.as_ref().map(|_| contacts.as_slice());
        let (log, mut recovered) = self.open(&config, members.as_deref(), first)?;
        if let Some(torn) = &recovered.torn {
            crate::trace::warn!(?torn, "a write that a crash cut short was cut off");
        }
        let (disk, dir) = (Arc::clone(&self.disk), self.dir.join("snapshots"));
        let restored = restore(disk, dir, &log, &mut recovered, &mut machine)?;
        for error in &restored.damaged {
            crate::trace::warn!(%error, "a damaged snapshot is passed over");
        }
        if recovered.last == LogId::ORIGIN && self.contacts.is_none() {
            let members = members.unwrap_or_else(|| self.sole_member());
            bootstrap(&log, &mut recovered, &members)?;
        }
        let configs = restored.configs(&log, &recovered)?;
        if configs.is_empty() && self.contacts.is_none() {
            return Err(StartError::NoMembers);
        }
        let alone = configs
            .last()
            .is_some_and(|(_, membership)| *membership.roster() == Roster::of_voters([self.id]));
        if !alone && self.connect.is_none() {
            return Err(StartError::NoTransport);
        }
        let entropy = || {
            self.disk
                .entropy()
                .map_err(Fault::at("draw a number for", &self.dir))
        };
        let seed = config.seed.map_or_else(entropy, Ok)?;
        let life = entropy()?;
        let identity = recovered.identity;
        let runtime = Runtime::start(Parts {
            config,
            identity,
            configs,
            contacts,
            log,
            recovered,
            snapshots: restored.store,
            seed,
            life,
            connect: self.connect,
            machine,
        })?;
        if alone {
            // Nobody else can lead, and nothing but the disk is waited for.
            let _ = runtime.progress().wait_leader(None);
        }
        Ok(Node { runtime, identity })
    }

    /// The members to bootstrap with, in the order of their ids.
    fn sorted_members(&self) -> Result<Option<Vec<Member>>, StartError> {
        let Some(mut members) = self.members.clone() else {
            return Ok(None);
        };
        members.sort_by_key(|member| member.id);
        if members.windows(2).any(|pair| pair[0].id == pair[1].id) {
            return Err(StartError::DuplicateMember);
        }
        if !members.iter().any(|member| member.id == self.id) {
            return Err(StartError::NotAMember(self.id));
        }
        Ok(Some(members))
    }

    fn sole_member(&self) -> Vec<Member> {
        vec![Member {
            id: self.id,
            addr: String::new(),
            client_addr: String::new(),
        }]
    }

    fn open(
        &self,
        config: &Config,
        members: Option<&[Member]>,
        contacts: Option<&[Member]>,
    ) -> Result<(Log, Recovered), StartError> {
        let cluster = self.cluster.unwrap_or_else(|| match (members, contacts) {
            (Some(members), _) => derive_cluster(members),
            (None, Some(contacts)) => derive_cluster(contacts),
            (None, None) => derive_cluster(&self.sole_member()),
        });
        let options = WalOptions::new(self.dir.join("wal"))
            .segment_bytes(config.segment_bytes)
            .max_entry_bytes(config.max_entry_bytes)
            .owner(cluster, self.id)
            .disk(Arc::clone(&self.disk));
        Ok(Log::open(options)?)
    }
}

/// Writes the members as the first entry, committed from the start since every member writes the same.
fn bootstrap(log: &Log, recovered: &mut Recovered, members: &[Member]) -> Result<(), StartError> {
    let hard_state = HardState {
        term: BOOTSTRAP.term,
        vote: None,
        commit: BOOTSTRAP.index,
    };
    let payload = encode_membership(&Membership::of_voters(members.to_vec()));
    let entry = NewEntry {
        term: BOOTSTRAP.term,
        kind: EntryKind::Config,
        payload: Payload::Borrowed(&payload),
    };
    let staged = log.stage(hard_state, None, &[entry])?;
    log.wal().sync(staged)?;
    recovered.hard_state = hard_state;
    recovered.last = BOOTSTRAP;
    recovered.runs = log.reader().runs();
    recovered.configs = vec![BOOTSTRAP.index];
    Ok(())
}

/// The same members give the same cluster (FNV-1a over their encoding).
fn derive_cluster(members: &[Member]) -> ClusterId {
    let hash = encode_membership(&Membership::of_voters(members.to_vec()))
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    ClusterId(hash)
}

/// Why a node could not be started.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// An option has a value that cannot be used.
    Option(OptionError),
    /// The log cannot be opened or read: locked, foreign, newer or damaged, as the error says.
    Log(LogError),
    /// A snapshot that is needed cannot be read, or the state machine cannot restore it.
    Snapshot(SnapshotError),
    /// The log begins behind its first entry, and no snapshot has what was before.
    MissingSnapshot {
        /// Where snapshots are kept.
        dir: PathBuf,
        /// The first entry of the log.
        first: LogIndex,
    },
    /// The disk failed otherwise.
    Io(Fault),
    /// The transport, or a thread, could not be started.
    Transport(TransportError),
    /// This node is not among the members.
    NotAMember(NodeId),
    /// Two members have the same id.
    DuplicateMember,
    /// There are other members, and no transport to reach them.
    NoTransport,
    /// The log says of no members, or in words that this version does not know: the directory holds another
    /// kind of log, or that of a node which is to [join](Builder::join).
    NoMembers,
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Option(error) => error.fmt(f),
            Self::Log(error) => error.fmt(f),
            Self::Snapshot(error) => error.fmt(f),
            Self::MissingSnapshot { dir, first } => write!(
                f,
                "the log begins with entry {first}, and {} has no snapshot of what was before: bring back its \
                 files, or remove the node's directory and let it join anew",
                dir.display()
            ),
            Self::Io(error) => error.fmt(f),
            Self::Transport(error) => error.fmt(f),
            Self::NotAMember(id) => write!(f, "node {id} is not among the members of its cluster"),
            Self::DuplicateMember => f.write_str("two members have the same id"),
            Self::NoTransport => {
                f.write_str("the cluster has other members, and the node was given no transport")
            }
            Self::NoMembers => f.write_str(
                "the log does not say who the members of the cluster are: this is another kind of log, \
                 or that of a node that has yet to join",
            ),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Option(error) => Some(error),
            Self::Log(error) => Some(error),
            Self::Snapshot(error) => Some(error),
            Self::Io(error) => Some(error),
            Self::Transport(error) => Some(error),
            _ => None,
        }
    }
}

impl From<OptionError> for StartError {
    fn from(error: OptionError) -> Self {
        Self::Option(error)
    }
}

impl From<LogError> for StartError {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl From<WalError> for StartError {
    fn from(error: WalError) -> Self {
        Self::Log(error.into())
    }
}

impl From<SnapshotError> for StartError {
    fn from(error: SnapshotError) -> Self {
        Self::Snapshot(error)
    }
}

impl From<RestoreError> for StartError {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Snapshot(error) => Self::Snapshot(error),
            RestoreError::Log(error) => Self::Log(error),
            RestoreError::Missing { dir, first } => Self::MissingSnapshot { dir, first },
            RestoreError::Configuration => Self::NoMembers,
        }
    }
}

impl From<Fault> for StartError {
    fn from(error: Fault) -> Self {
        Self::Io(error)
    }
}

impl From<TransportError> for StartError {
    fn from(error: TransportError) -> Self {
        Self::Transport(error)
    }
}
