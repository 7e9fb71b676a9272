//! `bench catch-up`: a member that was away gets what it lacks from the others' log.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::{Duration, Instant};

use catamaran::raft::message::{AppendOutcome, Body};
use catamaran::snapshot::{Ask, Piece};
use catamaran::transport::{Connect, Context, Inbox, Incoming, Tcp, Transport, TransportError};
use catamaran::{Bytes, LogIndex, Member, Node, NodeId, Options};
use clap::Args;
use clap::builder::RangedU64ValueParser;

use super::copy::Copy;
use super::nodes::{Count, PATIENCE, leader, member};
use super::{below, count};
use crate::Failure;
use crate::json::Object;
use crate::serve::with_segments;

/// Bytes of proposals that are under way while the log is filled.
const FILL_BYTES: usize = 8 << 20;

#[derive(Args)]
pub(crate) struct CatchUp {
    /// Where to write; a new directory below it is used, and removed
    #[arg(long)]
    dir: PathBuf,
    /// How many bytes of entries the member lacks when it comes back
    #[arg(long, value_name = "N", default_value = "1073741824", value_parser = RangedU64ValueParser::<u64>::new().range(1..=1 << 36))]
    bytes: u64,
    /// The length of an entry
    #[arg(long, value_name = "N", default_value = "1024", value_parser = count())]
    entry_bytes: usize,
    #[arg(long, value_name = "N", default_value = "67108864")]
    segment_bytes: u64,
    /// Prints one object
    #[arg(long)]
    json: bool,
}

impl CatchUp {
    pub(crate) fn run(self) -> Result<(), Failure> {
        below(&self.dir, |dir| self.measure(dir))
    }

    fn measure(&self, dir: &Path) -> Result<(), Failure> {
        let mut loopback = Loopback::new(dir, self.options())?;
        let entries = self.bytes.div_ceil(self.entry_bytes as u64);
        let bytes = entries * self.entry_bytes as u64;
        loopback.leave()?;
        loopback.fill(&vec![7; self.entry_bytes], entries)?;
        let copy = Copy::create(&dir.join("from"), bytes).map_err(Failure::runtime)?;
        let raw = |path| copy.to_new(&dir.join(path)).map_err(Failure::runtime);
        // Before and after, so that a change of the machine falls on both.
        let before = raw("before")?;
        let ours = loopback.come_back()?;
        let after = raw("after")?;
        let prepared = copy.to_prepared(&dir.join("prepared"));
        self.report(
            bytes,
            ours,
            (before + after) / 2,
            prepared.map_err(Failure::runtime)?,
        );
        Ok(())
    }

    /// The defaults, but that the log is kept, and that a machine with more to do than it can changes no leader.
    fn options(&self) -> Options {
        Options {
            snapshot_entries: None,
            snapshot_bytes: None,
            election_timeout: Duration::from_secs(5),
            ..with_segments(self.segment_bytes)
        }
    }

    fn report(&self, bytes: u64, ours: Duration, raw: Duration, prepared: Duration) {
        #[expect(clippy::cast_precision_loss, reason = "a length far below 2^52")]
        let rate = |time: Duration| bytes as f64 / time.as_secs_f64();
        let ratio = |raw: Duration| raw.as_secs_f64() / ours.as_secs_f64();
        if self.json {
            let mut object = Object::new();
            object
                .number("bytes_per_s", format!("{:.0}", rate(ours)))
                .number("raw_bytes_per_s", format!("{:.0}", rate(raw)))
                .number("ratio_to_raw", format!("{:.3}", ratio(raw)))
                .number("raw_prepared_bytes_per_s", format!("{:.0}", rate(prepared)))
                .number("ratio_to_raw_prepared", format!("{:.3}", ratio(prepared)));
            println!("{}", object.finish());
            return;
        }
        println!("catch-up                    {:>8.1} MB/s", rate(ours) / 1e6);
        for (to, time) in [("a new file  ", raw), ("a zeroed one", prepared)] {
            let (rate, ratio) = (rate(time) / 1e6, ratio(time));
            println!("bare copy to {to}   {rate:>8.1} MB/s  ratio {ratio:.3}");
        }
    }
}

/// Three nodes in this process, which reach each other over loopback.
struct Loopback {
    dir: PathBuf,
    options: Options,
    members: Vec<Member>,
    /// Those that run, the leader first.
    nodes: Vec<Node<Count>>,
    /// Who is away.
    away: Option<Member>,
    /// Up to where who said that its log is durable, as the others heard it.
    durable: Receiver<(NodeId, LogIndex)>,
    tell: Sender<(NodeId, LogIndex)>,
}

impl Loopback {
    fn new(dir: &Path, options: Options) -> Result<Self, Failure> {
        let bind = |_| Tcp::bind("127.0.0.1:0");
        let bound = (0..3).map(bind).collect::<Result<Vec<_>, _>>();
        let bound = bound.map_err(Failure::runtime)?;
        let addrs = bound.iter().map(|tcp| tcp.local_addr().to_string());
        let members = (1..).zip(addrs).map(|(id, addr)| member(id, &addr));
        let (tell, durable) = mpsc::channel();
        let mut loopback = Self {
            dir: dir.to_path_buf(),
            options,
            members: members.collect(),
            nodes: Vec::new(),
            away: None,
            durable,
            tell,
        };
        for (id, tcp) in (1..).map(NodeId).zip(bound) {
            let node = loopback.start(id, tcp)?;
            loopback.nodes.push(node);
        }
        let leader = leader(&loopback.nodes).map_err(Failure::runtime)?;
        loopback.nodes.swap(0, leader);
        Ok(loopback)
    }

    fn start(&self, id: NodeId, tcp: Tcp) -> Result<Node<Count>, Failure> {
        let tell = self.tell.clone();
        Node::builder(id, self.dir.join(format!("n{id}")))
            .options(self.options.clone())
            .bootstrap(self.members.clone())
            .transport(Watched { tcp, tell })
            .start(Count::default())
            .map_err(Failure::usage)
    }

    /// Stops a follower.
    fn leave(&mut self) -> Result<(), Failure> {
        if let Some(node) = self.nodes.pop() {
            let id = node.status().id;
            node.shutdown().map_err(Failure::runtime)?;
            self.away = self.members.iter().find(|member| member.id == id).cloned();
        }
        Ok(())
    }

    /// Commits so many entries.
    fn fill(&self, entry: &[u8], entries: u64) -> Result<(), Failure> {
        let window = (FILL_BYTES / entry.len()).clamp(1, 4_096);
        let mut begun = VecDeque::with_capacity(window);
        for _ in 0..entries {
            if begun.len() == window
                && let Some(proposal) = begun.pop_front()
            {
                wait(proposal)?;
            }
            let proposal = self.nodes[0].propose(Bytes::from(entry));
            begun.push_back(proposal.map_err(Failure::runtime)?);
        }
        begun.into_iter().try_for_each(wait)
    }

    /// Starts who is away, and says how long it was until the leader had heard that all of its own log is durable
    /// there.
    fn come_back(&mut self) -> Result<Duration, Failure> {
        let Some(Member { id, addr, .. }) = self.away.take() else {
            return Err(Failure::runtime("nobody is away"));
        };
        let last = self.nodes[0].status().last;
        let start = Instant::now();
        let tcp = Tcp::bind(&addr).map_err(Failure::runtime)?;
        let node = self.start(id, tcp)?;
        self.nodes.push(node);
        loop {
            let heard = self.durable.recv_timeout(PATIENCE);
            let (from, upto) = heard.map_err(|_| {
                Failure::runtime("the member that came back got nothing for a minute")
            })?;
            if from == id && upto >= last {
                return Ok(start.elapsed());
            }
        }
    }
}

fn wait(proposal: catamaran::Proposal<u64>) -> Result<(), Failure> {
    proposal.wait().map(drop).map_err(Failure::runtime)
}

/// A transport whose acknowledgements are heard by the benchmark too.
struct Watched {
    tcp: Tcp,
    tell: Sender<(NodeId, LogIndex)>,
}

impl Connect for Watched {
    fn connect(self: Box<Self>, context: Context) -> Result<Arc<dyn Transport>, TransportError> {
        let inbox = Arc::new(Watch {
            inbox: Arc::clone(&context.inbox),
            tell: self.tell,
        });
        Box::new(self.tcp).connect(Context { inbox, ..context })
    }
}

struct Watch {
    inbox: Arc<dyn Inbox>,
    tell: Sender<(NodeId, LogIndex)>,
}

impl Inbox for Watch {
    fn deliver(&self, incoming: Incoming) {
        if let Body::AppendReply {
            outcome: AppendOutcome::Matched { upto },
            ..
        } = incoming.message.body
        {
            // Nobody listens any more once it is measured.
            let _ = self.tell.send((incoming.from, upto));
        }
        self.inbox.deliver(incoming);
    }

    fn asked(&self, from: NodeId, ask: Ask) {
        self.inbox.asked(from, ask);
    }

    fn answered(&self, from: NodeId, piece: Piece) {
        self.inbox.answered(from, piece);
    }

    fn lost(&self, from: NodeId) {
        self.inbox.lost(from);
    }

    fn attend(&self) {
        self.inbox.attend();
    }

    fn rouse(&self) {
        self.inbox.rouse();
    }
}
