//! Transports on loopback, and peers that misbehave.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::frames::Frames;
use super::wire::{self, Hello, LaneKind, Refusal};
use super::{QUEUE, Tcp, TcpTransport};
use crate::raft::message::{Body, Message};
use crate::snapshot::{Ask, MAX_PIECE_BYTES, Piece, SnapshotId};
use crate::transport::gather::Gathered;
use crate::transport::transfer::Transfer;
use crate::transport::{Context, EntrySource, Inbox, Incoming, Limits, SnapshotSource, Transport};
use crate::types::{
    ClusterId, Entry, EntryKind, EntryRange, Identity, LogId, LogIndex, Member, NodeId, Term,
    TermRun,
};

/// Long enough for anything that is going to happen at all.
const PATIENCE: Duration = Duration::from_secs(60);
const LIMITS: Limits = Limits {
    max_entry_bytes: 1 << 16,
    max_append_bytes: 1 << 12,
    max_append_entries: 1 << 10,
};
mod lost;

const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);

struct Collect(Sender<Incoming>, Sender<Transfer>, Sender<NodeId>);

impl Inbox for Collect {
    fn deliver(&self, incoming: Incoming) {
        let _ = self.0.send(incoming);
    }

    fn asked(&self, _: NodeId, ask: Ask) {
        let _ = self.1.send(Transfer::Ask(ask));
    }

    fn answered(&self, _: NodeId, piece: Piece) {
        let _ = self.1.send(Transfer::Piece(piece));
    }

    fn lost(&self, from: NodeId) {
        let _ = self.2.send(from);
    }

    fn attend(&self) {}

    fn rouse(&self) {}
}

/// A snapshot whose every piece begins where it was asked for, and is as long as the longest.
struct Endless;

impl SnapshotSource for Endless {
    fn read(&self, _: NodeId, ask: Ask) -> Option<Piece> {
        let (id, offset) = ask.have?;
        let bytes = vec![7; MAX_PIECE_BYTES].into();
        Some(Piece { id, offset, bytes })
    }
}

/// A log in which every entry has its index as its payload, and 1,000 bytes.
struct Numbered;

impl EntrySource for Numbered {
    fn read(&self, range: EntryRange, max_bytes: usize) -> Option<Vec<Entry>> {
        let indices = range.prev.index.0 + 1..=range.last.index.0;
        Some(
            indices
                .map(numbered)
                .take(max_bytes.div_ceil(1_000))
                .collect(),
        )
    }
}

fn numbered(index: u64) -> Entry {
    let payload = format!("{index:01000}").into();
    Entry {
        id: LogId::new(Term(1), LogIndex(index)),
        kind: EntryKind::Normal,
        payload,
    }
}

fn identity(node: NodeId, incarnation: u64) -> Identity {
    Identity {
        cluster: ClusterId(7),
        node,
        incarnation,
    }
}

struct Peer {
    transport: TcpTransport,
    inbox: Receiver<Incoming>,
    transfers: Receiver<Transfer>,
    lost: Receiver<NodeId>,
    addr: SocketAddr,
}

/// Starts `node` on `listener`; the other member is at `other`.
fn start(identity: Identity, tcp: Tcp, other: SocketAddr) -> Peer {
    let addr = tcp.local_addr();
    let (me, you) = (identity.node, if identity.node == A { B } else { A });
    let member = |id, addr: SocketAddr| Member {
        id,
        addr: addr.to_string(),
        client_addr: String::new(),
    };
    let (sender, inbox) = unbounded();
    let (transfer, transfers) = unbounded();
    let (lose, lost) = unbounded();
    let context = Context {
        identity,
        members: vec![member(me, addr), member(you, other)],
        inbox: Arc::new(Collect(sender, transfer, lose)),
        entries: Arc::new(Numbered),
        snapshots: Arc::new(Endless),
        limits: LIMITS,
    };
    Peer {
        transport: tcp.start(context).unwrap(),
        inbox,
        transfers,
        lost,
        addr,
    }
}

fn bind() -> Tcp {
    Tcp::bind("127.0.0.1:0").unwrap()
}

/// Two members that know each other.
fn pair() -> (Peer, Peer) {
    let (one, other) = (bind(), bind());
    let (at_one, at_other) = (one.local_addr(), other.local_addr());
    (
        start(identity(A, 1), one, at_other),
        start(identity(B, 2), other, at_one),
    )
}

fn vote(term: u64) -> Message {
    Message {
        term: Term(term),
        body: Body::VoteReply { granted: true },
    }
}

/// Sends until one gets through, since what is sent without a connection is dropped; gives its term.
fn until_heard(from: &Peer, to: NodeId, at: &Receiver<Incoming>) -> u64 {
    for term in 1.. {
        from.transport.send(to, vote(term));
        match at.recv_timeout(Duration::from_millis(20)) {
            Ok(incoming) => return incoming.message.term.0,
            Err(_) => assert!(term < 3_000, "never heard"),
        }
    }
    unreachable!()
}

#[test]
fn messages_arrive_in_order_and_name_their_sender() {
    let (a, b) = pair();
    let first = until_heard(&a, B, &b.inbox);
    // Those sent before the first was heard may still come.
    a.transport.send(B, vote(1_000_000));
    while b.inbox.recv_timeout(PATIENCE).unwrap().message.term != Term(1_000_000) {}
    assert!(first < 1_000_000);
    for term in 1..=500 {
        a.transport.send(B, vote(term));
    }
    for term in 1..=500 {
        let incoming = b.inbox.recv_timeout(PATIENCE).unwrap();
        assert_eq!((incoming.from, incoming.message), (A, vote(term)));
    }
}

#[test]
fn bytes_of_snapshots_are_asked_for_and_answered_in_between() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    until_heard(&b, A, &a.inbox);
    let id = SnapshotId {
        last: LogId::new(Term(1), LogIndex(9)),
        bytes: 1 << 30,
        digest: 5,
    };
    for number in 0..20 {
        let offset = number * MAX_PIECE_BYTES as u64;
        let have = Some((id, offset));
        a.transport.ask(B, Ask { have });
        let asked = b.transfers.recv_timeout(PATIENCE).unwrap();
        assert_eq!(asked, Transfer::Ask(Ask { have }));
        b.transport.answer(A, Ask { have });
        b.transport.send(A, vote(1_000_000 + number));
        let bytes = vec![7; MAX_PIECE_BYTES].into();
        let piece = Transfer::Piece(Piece { id, offset, bytes });
        assert_eq!(a.transfers.recv_timeout(PATIENCE).unwrap(), piece);
        while a.inbox.recv_timeout(PATIENCE).unwrap().message != vote(1_000_000 + number) {}
    }
}

#[test]
fn a_large_append_is_split_into_consecutive_ones() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    let range = EntryRange {
        prev: LogId::ORIGIN,
        last: LogId::new(Term(1), LogIndex(22)),
    };
    let runs = vec![TermRun {
        term: Term(1),
        first: LogIndex(1),
    }];
    let body = Body::Append {
        range,
        runs,
        commit: LogIndex(3),
        round: 9,
    };
    a.transport.send(
        B,
        Message {
            term: Term(1),
            body,
        },
    );
    let mut next = LogId::ORIGIN;
    let mut parts = 0;
    while next != range.last {
        let incoming = b.inbox.recv_timeout(PATIENCE).unwrap();
        let Body::Append {
            range: part,
            commit,
            round,
            ..
        } = incoming.message.body
        else {
            continue;
        };
        assert_eq!((part.prev, commit, round), (next, LogIndex(3), 9));
        let expected: Vec<_> = (part.prev.index.0 + 1..=part.last.index.0)
            .map(numbered)
            .collect();
        assert_eq!(incoming.entries, expected);
        next = part.last;
        parts += 1;
    }
    assert_eq!(
        parts, 5,
        "22 kB in parts of about 4 KiB, which takes 5 entries each"
    );
}

#[test]
fn a_peer_that_comes_later_or_returns_is_connected() {
    let (one, other) = (bind(), bind());
    let (at_one, at_other) = (one.local_addr(), other.local_addr());
    let a = start(identity(A, 1), one, at_other);
    drop(other);
    for _ in 0..2 {
        let b = start(
            identity(B, 2),
            Tcp::bind(&at_other.to_string()).unwrap(),
            at_one,
        );
        until_heard(&a, B, &b.inbox);
        until_heard(&b, A, &a.inbox);
        b.transport.close();
    }
}

/// What a node says that connects for words.
fn hello(from: Identity, to: NodeId) -> Vec<u8> {
    let hello = Hello {
        from,
        to,
        addr: String::new(),
        lane: LaneKind::Words,
    };
    hello.encode()
}

/// Connects with a hello; gives what is answered.
fn greet(addr: SocketAddr, hello: &[u8]) -> (TcpStream, Result<u64, Refusal>) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(hello).unwrap();
    let mut answer = [0; wire::ANSWER_BYTES];
    stream.read_exact(&mut answer).unwrap();
    (stream, wire::decode_answer(&answer))
}

#[test]
fn strangers_are_refused_by_the_reason_and_logged_once() {
    let (a, b) = pair();
    until_heard(&b, A, &a.inbox);
    let foreign = Identity {
        cluster: ClusterId(8),
        ..identity(B, 2)
    };
    let mut newer = hello(identity(B, 2), A);
    newer[8] = 2;
    let cases = [
        (hello(foreign, A), Refusal::Cluster),
        (hello(identity(B, 2), B), Refusal::Node),
        (hello(identity(B, 3), A), Refusal::Incarnation),
        (newer, Refusal::Version),
        (vec![b'x'; wire::HELLO_BYTES], Refusal::Garbage),
    ];
    for (hello, refusal) in &cases {
        for _ in 0..3 {
            assert_eq!(greet(a.addr, hello).1, Err(*refusal));
        }
    }
    let logged = a.transport.running.shared.logged.lock();
    let logged: Vec<_> = logged.iter().copied().collect();
    let nobody = NodeId(u64::MAX);
    let expected = [
        (B, Refusal::Cluster),
        (B, Refusal::Node),
        (B, Refusal::Incarnation),
        (nobody, Refusal::Garbage),
        (nobody, Refusal::Version),
    ];
    assert_eq!(logged, expected);
}

#[test]
fn malformed_bytes_close_their_connection_and_no_other() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    let mut over_limit = (1u32 << 30).to_le_bytes().to_vec();
    over_limit.extend_from_slice(&[0; 4]);
    let mut damaged = Gathered::default();
    wire::put_frame(&mut damaged, &vote(1), &[]);
    let mut damaged = damaged.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    for bytes in [over_limit, damaged, vec![0xff; 64]] {
        // As node 1, whose own connection this one replaces.
        let (mut stream, _) = greet(b.addr, &hello(identity(A, 1), B));
        stream.write_all(&bytes).unwrap();
        let mut rest = Vec::new();
        // It is closed, in order or by force.
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
        until_heard(&a, B, &b.inbox);
    }
}

#[test]
fn what_is_sent_without_a_connection_is_dropped() {
    // Nobody listens there any more.
    let gone = bind().local_addr();
    let a = start(identity(A, 1), bind(), gone);
    for term in 0..100 {
        a.transport.send(B, vote(term));
    }
    let queued = a.transport.running.shared.peers.queued(B);
    assert_eq!(queued, Some(0));
}

/// A member whose peer has welcomed it, and reads nothing so far; its connections for words and for entries.
fn stalled() -> (Peer, TcpStream, TcpStream) {
    stalled_at(&TcpListener::bind("127.0.0.1:0").unwrap())
}

fn stalled_at(listener: &TcpListener) -> (Peer, TcpStream, TcpStream) {
    let a = start(identity(A, 1), bind(), listener.local_addr().unwrap());
    let mut streams = [0; 2].map(|_| welcome(listener));
    streams.sort_by_key(|(lane, _)| *lane);
    let [(LaneKind::Words, words), (LaneKind::Entries, entries)] = streams else {
        panic!("one connection of each kind");
    };
    (a, words, entries)
}

/// Welcomes the next that connects, as node 2.
fn welcome(listener: &TcpListener) -> (LaneKind, TcpStream) {
    let (mut accepted, _) = listener.accept().unwrap();
    let mut hello = [0; wire::HELLO_BYTES];
    accepted.read_exact(&mut hello).unwrap();
    let mut addr = vec![0; Hello::addr_bytes(&hello).unwrap()];
    accepted.read_exact(&mut addr).unwrap();
    let hello = Hello::decode(&hello, &addr).unwrap();
    accepted.write_all(&wire::encode_answer(Ok(()), 2)).unwrap();
    accepted.set_read_timeout(Some(PATIENCE)).unwrap();
    (hello.lane, accepted)
}

/// An append of so many entries.
fn append(sender: u64, round: u64, count: u64) -> Message {
    let run = TermRun {
        term: Term(1),
        first: LogIndex(round + 1),
    };
    let body = Body::Append {
        range: EntryRange {
            prev: LogId::new(Term(1), LogIndex(round)),
            last: LogId::new(Term(1), LogIndex(round + count)),
        },
        runs: (count > 0).then_some(run).into_iter().collect(),
        commit: LogIndex(0),
        round,
    };
    Message {
        term: Term(sender),
        body,
    }
}

#[test]
fn what_the_socket_does_not_take_at_once_follows_whole_and_in_the_order_of_its_sender() {
    let (a, _words, peer) = stalled();
    let queued = || a.transport.running.shared.peers.queued(B).unwrap();
    // The peer does not read, and yet nobody who sends waits for it. Some go by themselves, some are large.
    let send = |sender| {
        let mut round = 0;
        loop {
            round += 1;
            a.transport
                .send(B, append(sender, round, 1 + 6 * (round % 2)));
            if queued() >= 20 {
                return round;
            }
        }
    };
    let last: Vec<u64> = thread::scope(|scope| {
        let senders = [1, 2].map(|sender| scope.spawn(move || send(sender)));
        senders.map(|sender| sender.join().unwrap()).to_vec()
    });
    // What was said to a member that is forgotten goes all the same.
    a.transport.set_members(&[]);
    let mut frames = Frames::new(peer, wire::max_body_bytes(&LIMITS));
    let mut seen: [Option<(u64, u64)>; 2] = [None; 2];
    let ended = loop {
        let Some(frame) = frames.next().unwrap() else {
            match frames.read_more() {
                Ok(()) => continue,
                Err(error) => break error,
            }
        };
        let (message, entries) = wire::decode_body(frame.body(), &LIMITS, || frame.keep()).unwrap();
        let Body::Append { range, round, .. } = message.body else {
            panic!("only appends were sent");
        };
        let expected: Vec<_> = (range.prev.index.0 + 1..=range.last.index.0)
            .map(numbered)
            .collect();
        assert_eq!(entries, expected);
        // A large one comes in two.
        let seen = &mut seen[message.term.0 as usize - 1];
        if let Some((before, last)) = *seen {
            let next = if last == before + 1 + 6 * (before % 2) {
                (before + 1, before + 1)
            } else {
                (before, last)
            };
            assert_eq!((round, range.prev.index.0), next);
        }
        *seen = Some((round, range.last.index.0));
    };
    assert_eq!(ended.kind(), std::io::ErrorKind::UnexpectedEof);
    let seen: Vec<u64> = seen.iter().flatten().map(|(round, _)| *round).collect();
    assert_eq!(seen, last);
}

#[test]
fn a_heartbeat_and_a_vote_do_not_stand_behind_entries_that_the_peer_does_not_take() {
    let (a, words, _entries) = stalled();
    let lanes = a.transport.running.shared.peers.lanes(B).unwrap();
    let entries = lanes.lane(LaneKind::Entries);
    // As if its sender were at a write that the peer does not take.
    let at_a_write = entries.seize();
    let round = QUEUE as u64 / 2;
    for round in 1..=round {
        a.transport.send(B, append(1, round, 5));
    }
    while lanes.lane(LaneKind::Words).is_down() {
        thread::yield_now();
    }
    // This one asks whether all of that came, and so goes behind it.
    a.transport.send(B, append(1, round + 5, 0));
    a.transport.send(B, append(1, round + 4, 0));
    a.transport.send(B, vote(7));
    let mut frames = Frames::new(words, wire::max_body_bytes(&LIMITS));
    for expected in [append(1, round + 4, 0), vote(7)] {
        let (message, _) = loop {
            match frames.next().unwrap() {
                Some(frame) => {
                    break wire::decode_body(frame.body(), &LIMITS, || frame.keep()).unwrap();
                }
                None => frames.read_more().unwrap(),
            }
        };
        assert_eq!(message, expected);
    }
    assert_eq!(lanes.queued(), QUEUE / 2 + 1);
    drop(at_a_write);
}

/// Entries are read when their message leaves, so what waits is as small as a vote.
#[test]
fn a_peer_that_takes_nothing_costs_no_more_than_its_queue() {
    let (a, _words, mut peer) = stalled();
    let queued = || a.transport.running.shared.peers.queued(B).unwrap();
    let mut sent = 0;
    while queued() < super::QUEUE {
        a.transport.send(B, append(1, sent, 5));
        sent += 1;
    }
    for _ in 0..10 * super::QUEUE {
        a.transport.send(B, append(1, sent, 5));
        assert!(queued() <= super::QUEUE);
    }
    // Though its sender is at a write that the peer does not take.
    a.transport.close();
    assert_eq!(Arc::strong_count(&a.transport.running.shared), 1);
    let mut rest = Vec::new();
    let _ = peer.read_to_end(&mut rest);
    assert!(rest.len() < 2 * super::QUEUE * 5_000);
}

#[test]
fn closing_joins_every_thread_even_when_a_peer_hangs() {
    // Accepts, and never reads or answers.
    let hanging = TcpListener::bind("127.0.0.1:0").unwrap();
    let a = start(identity(A, 1), bind(), hanging.local_addr().unwrap());
    let (mut accepted, _) = hanging.accept().unwrap();
    // Its sender then waits for an answer.
    let mut hello = [0; wire::HELLO_BYTES];
    accepted.read_exact(&mut hello).unwrap();
    let mut addr = vec![0; Hello::addr_bytes(&hello).unwrap()];
    accepted.read_exact(&mut addr).unwrap();
    // A stranger who says nothing holds a reader.
    let _silent = TcpStream::connect(a.addr).unwrap();
    a.transport.close();
    // Every thread held the shared state; nobody else does.
    assert_eq!(Arc::strong_count(&a.transport.running.shared), 1);
    a.transport.send(B, vote(1));
    a.transport.close();
    let mut rest = Vec::new();
    let _ = accepted.read_to_end(&mut rest);
    assert!(rest.is_empty(), "nothing after the hello");
}

#[test]
fn a_new_member_is_sent_to_and_one_that_is_gone_is_not() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    // It knows node 1, which does not know it yet, and is heard all the same.
    let c = identity(NodeId(3), 3);
    let tcp = bind();
    let at_c = tcp.local_addr();
    let third = start(c, tcp, a.addr);
    until_heard(&third, A, &a.inbox);
    // And answered, since its hello says where it is.
    until_heard(&a, c.node, &third.inbox);
    let member = |id, addr: SocketAddr| Member {
        id,
        addr: addr.to_string(),
        client_addr: String::new(),
    };
    let (one, two) = (member(A, a.addr), member(B, b.addr));
    let three = member(c.node, at_c);
    a.transport.set_members(&[one.clone(), two, three.clone()]);
    until_heard(&a, c.node, &third.inbox);
    a.transport.set_members(&[one.clone(), three.clone()]);
    assert_eq!(a.transport.running.shared.peers.queued(B), None);
    until_heard(&a, c.node, &third.inbox);
    // At another address it is another connection.
    third.transport.close();
    let tcp = bind();
    let moved = member(c.node, tcp.local_addr());
    let third = start(c, tcp, a.addr);
    a.transport.set_members(&[one, moved]);
    until_heard(&a, c.node, &third.inbox);
    a.transport.close();
    assert_eq!(Arc::strong_count(&a.transport.running.shared), 1);
}

#[test]
fn a_member_that_was_removed_may_come_back_with_another_directory() {
    let (a, b) = pair();
    until_heard(&b, A, &a.inbox);
    let again = hello(identity(B, 3), A);
    assert_eq!(greet(a.addr, &again).1, Err(Refusal::Incarnation));
    a.transport.set_members(&[]);
    assert_eq!(greet(a.addr, &again).1, Ok(1));
}
