//! Connections that end, and who is lost with them.

use std::thread::ThreadId;
use std::time::Instant;

use super::super::Running;
use super::*;

/// Who reads now.
fn readers(at: &Peer) -> Vec<ThreadId> {
    let readers = at.transport.running.shared.readers.lock();
    let running = readers.iter().filter(|reader| !reader.is_finished());
    running.map(|reader| reader.thread().id()).collect()
}

/// Waits until none of these reads any more.
fn until_ended(at: &Peer, ended: &[ThreadId]) {
    while readers(at).iter().any(|reader| ended.contains(reader)) {
        thread::yield_now();
    }
}

/// Connects as node 2.
fn speak(to: SocketAddr) -> TcpStream {
    let (stream, answer) = greet(to, &hello(identity(B, 2), A));
    assert_eq!(answer, Ok(1));
    stream
}

#[test]
fn who_ends_and_listens_no_more_is_lost_once() {
    let (a, b) = pair();
    until_heard(&b, A, &a.inbox);
    assert!(a.lost.is_empty());
    b.transport.close();
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(B));
    until_ended(&a, &readers(&a));
    assert!(a.lost.is_empty());
}

#[test]
fn a_connection_that_breaks_is_no_loss_while_its_peer_listens() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    until_heard(&b, A, &a.inbox);
    let (at_a, at_b) = (readers(&a), readers(&b));
    a.transport.running.shared.shut_all();
    until_ended(&a, &at_a);
    until_ended(&b, &at_b);
    until_heard(&b, A, &a.inbox);
    assert!(a.lost.is_empty() && b.lost.is_empty());
}

#[test]
fn neither_a_connection_that_another_replaces_nor_closing_down_is_a_loss() {
    let gone = bind().local_addr();
    let a = start(identity(A, 1), bind(), gone);
    let mut first = speak(a.addr);
    let reader = readers(&a);
    let second = speak(a.addr);
    assert_eq!(first.read(&mut [0]).unwrap_or(0), 0);
    until_ended(&a, &reader);
    assert!(a.lost.is_empty());
    drop(second);
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(B));
    let _third = speak(a.addr);
    a.transport.close();
    assert!(a.lost.is_empty());
}

/// Its reader goes on late after it has answered: another has been welcomed meanwhile.
#[test]
fn a_connection_does_not_replace_one_that_is_newer() {
    let a = start(identity(A, 1), bind(), bind().local_addr());
    let speaking = &a.transport.running.shared.speaking;
    let newer = ((B, LaneKind::Words), u64::MAX);
    speaking.lock().extend([newer]);
    let mut late = speak(a.addr);
    let reader = readers(&a);
    assert_eq!(late.read(&mut [0]).unwrap(), 0);
    until_ended(&a, &reader);
    assert_eq!(Vec::from_iter(speaking.lock().clone()), [newer]);
    assert!(a.lost.is_empty());
}

#[test]
fn connections_are_numbered_as_they_were_accepted_however_late_their_readers_are() {
    let a = start(identity(A, 1), bind(), bind().local_addr());
    let shared = &a.transport.running.shared;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (mut newest, mut streams) = (None, Vec::new());
    for _ in 0..20 {
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        // As one and the same node, so that each has to give way to the next.
        stream.write_all(&hello(identity(B, 2), A)).unwrap();
        super::super::receive::let_in(listener.accept().unwrap().0, shared);
        let me = stream.local_addr().unwrap();
        let open = shared.open.lock();
        let mut numbered = open.iter();
        let of_me = numbered.find(|(_, open)| open.peer_addr().is_ok_and(|peer| peer == me));
        let number = of_me.map(|(number, _)| *number);
        assert!(number > newest, "{number:?} after {newest:?}");
        drop(open);
        newest = number;
        streams.push(stream);
    }
}

/// As it is where too many files are open: the acceptor cannot be woken by a connection at once.
#[test]
fn closing_goes_on_until_the_acceptor_is_woken() {
    let a = start(identity(A, 1), bind(), bind().local_addr());
    let addr = bind().local_addr();
    let shared = Arc::clone(&a.transport.running.shared);
    let cut_off = Running { addr, shared };
    let (ended, ends) = unbounded();
    let closes = thread::spawn(move || {
        drop(cut_off);
        ended.send(()).unwrap();
    });
    while !a.transport.running.shared.is_closing() {
        thread::yield_now();
    }
    assert!(ends.recv_timeout(Duration::from_millis(50)).is_err());
    let way = TcpListener::bind(addr).unwrap();
    let pass_on = thread::spawn(move || {
        let _tries = way.accept().unwrap();
        TcpStream::connect(a.addr).unwrap()
    });
    ends.recv_timeout(PATIENCE).unwrap();
    closes.join().unwrap();
    pass_on.join().unwrap();
}

#[test]
fn who_closes_its_listener_after_its_connections_is_gone_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let dies = thread::spawn(move || {
        let knocked = listener.accept().unwrap();
        drop(listener);
        drop(knocked);
    });
    assert!(super::super::lost::is_gone(&addr));
    dies.join().unwrap();
}

/// The system closes what a process had open one after the other.
#[test]
fn what_a_node_that_is_gone_has_yet_to_close_is_closed_from_here() {
    let (a, words, entries) = stalled();
    let lanes = a.transport.running.shared.peers.lanes(B).unwrap();
    for kind in [LaneKind::Words, LaneKind::Entries] {
        while lanes.lane(kind).is_down() {
            thread::yield_now();
        }
    }
    drop(speak(a.addr));
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(B));
    for mut open in [words, entries] {
        assert_eq!(open.read(&mut [0]).unwrap(), 0);
    }
}

/// A connection to its earlier life would take a word that nobody hears.
#[test]
fn who_comes_back_is_connected_before_there_is_anything_to_say() {
    let (a, b) = pair();
    until_heard(&a, B, &b.inbox);
    until_heard(&b, A, &a.inbox);
    b.transport.close();
    assert_eq!(a.lost.recv_timeout(PATIENCE), Ok(B));
    let tcp = Tcp::bind(&b.addr.to_string()).unwrap();
    let b = start(identity(B, 2), tcp, a.addr);
    let connected = || {
        let speaking = b.transport.running.shared.speaking.lock();
        speaking.contains_key(&(A, LaneKind::Words))
    };
    let begun = Instant::now();
    while !connected() {
        assert!(begun.elapsed() < PATIENCE, "not connected");
        thread::yield_now();
    }
    // The answer to the hello may still be on its way.
    let lanes = a.transport.running.shared.peers.lanes(B).unwrap();
    while lanes.lane(LaneKind::Words).is_down() {
        thread::yield_now();
    }
    a.transport.send(B, vote(1));
    assert_eq!(b.inbox.recv_timeout(PATIENCE).unwrap().message, vote(1));
}

#[test]
fn what_a_connection_did_not_take_does_not_go_out_over_the_next() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (a, _words, entries) = stalled_at(&listener);
    let lanes = a.transport.running.shared.peers.lanes(B).unwrap();
    let mut round = 0;
    while lanes.queued() < 20 {
        round += 1;
        a.transport.send(B, append(1, round, 1));
    }
    drop(entries);
    let (kind, again) = welcome(&listener);
    while lanes.lane(kind).is_down() {
        thread::yield_now();
    }
    a.transport.send(B, append(2, 0, 1));
    let mut frames = Frames::new(again, wire::max_body_bytes(&LIMITS));
    while frames.next().unwrap().is_none_or(|frame| {
        let (message, _) = wire::decode_body(frame.body(), &LIMITS, || frame.keep()).unwrap();
        assert_eq!(message.term, Term(2));
        false
    }) {
        frames.read_more().unwrap();
    }
}
