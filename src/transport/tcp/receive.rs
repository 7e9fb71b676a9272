//! The acceptor, and a reader's thread for each connection.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use super::frames::{Frame, Frames};
use super::wire::{self, Hello, LaneKind, Refusal};
use super::{HANDSHAKE, RETRY, Shared, Tracked, lost};
use crate::codec::Malformed;
use crate::transport::Incoming;
use crate::transport::transfer::{self, Transfer};
use crate::types::NodeId;

/// Connections beside those of each node that is sent to: those being replaced, and strangers on their way out.
const SPARE_CONNECTIONS: usize = 16;

/// Accepts connections until the transport is closed.
pub(super) fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.is_closing() {
            return;
        }
        match stream {
            Ok(stream) => let_in(stream, shared),
            // Too many open files, say: the next may find room, if not at once. Or the peer has gone again.
            Err(_) => thread::sleep(RETRY),
        }
    }
}

/// Starts a reader for a connection, if there is room for one. The first to be let in has the lowest number, however
/// late its reader is.
pub(super) fn let_in(stream: TcpStream, shared: &Arc<Shared>) {
    let mut readers = shared.readers.lock();
    readers.retain(|reader| !reader.is_finished());
    if readers.len() >= 2 * shared.peers.count() + SPARE_CONNECTIONS {
        return;
    }
    let Ok(tracked) = shared.track(&stream) else {
        return;
    };
    let reading = Arc::clone(shared);
    let name = "catamaran-reader".to_owned();
    let reader = thread::Builder::new()
        .name(name)
        .spawn(move || read(stream, &tracked, &reading));
    // Without a thread for it the connection is dropped, and the peer tries again.
    readers.extend(reader);
}

/// Reads one connection to its end.
fn read(mut stream: TcpStream, tracked: &Tracked, shared: &Arc<Shared>) {
    let Ok((from, lane)) = welcome(&mut stream, shared, tracked.number) else {
        return;
    };
    let ended = deliver(stream, shared, from, lane);
    let mut speaking = shared.speaking.lock();
    if speaking.get(&(from, lane)) == Some(&tracked.number) {
        speaking.remove(&(from, lane));
    }
    drop(speaking);
    match ended {
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            crate::trace::warn!(peer = from.0, %error, "connection closed over what came in");
        }
        _ => lost::look_after(shared, from),
    }
}

/// Hears who connects and what for, and says whether it is welcome.
fn welcome(
    stream: &mut TcpStream,
    shared: &Arc<Shared>,
    number: u64,
) -> io::Result<(NodeId, LaneKind)> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(HANDSHAKE))?;
    stream.set_write_timeout(Some(HANDSHAKE))?;
    let hello = read_hello(stream)?;
    let verdict = hello.as_ref().map_err(|refusal| *refusal);
    let verdict = verdict.and_then(|hello| check(hello, shared));
    let answer = wire::encode_answer(verdict.map(drop), shared.context.identity.incarnation);
    let claimed = hello.as_ref();
    let claimed = claimed.map_or(NodeId(u64::MAX), |hello| hello.from.node);
    if let Err(refusal) = verdict
        && shared.is_new(claimed, refusal)
    {
        crate::trace::warn!(claimed = claimed.0, reason = %refusal, "refused a connection");
    }
    stream.write_all(&answer)?;
    let refused = |refusal: Refusal| io::Error::other(refusal.to_string());
    let from = verdict.map_err(refused)?;
    let Hello { lane, addr, .. } = hello.map_err(refused)?;
    stream.set_read_timeout(None)?;
    shared.meet(from, addr);
    let mut speaking = shared.speaking.lock();
    let newest = speaking.entry((from, lane)).or_insert(number);
    if *newest > number {
        // Another was welcomed since this one was answered.
        return Err(io::ErrorKind::ConnectionAborted.into());
    }
    let before = std::mem::replace(newest, number);
    drop(speaking);
    // A connection whose other end is gone without a word would be read for ever.
    if before != number {
        shared.shut(before);
    }
    Ok((from, lane))
}

fn read_hello(stream: &mut TcpStream) -> io::Result<Result<Hello, Refusal>> {
    let mut head = [0; wire::HELLO_BYTES];
    stream.read_exact(&mut head)?;
    let len = match Hello::addr_bytes(&head) {
        Ok(len) => len,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let mut addr = vec![0; len];
    stream.read_exact(&mut addr)?;
    Ok(Hello::decode(&head, &addr))
}

fn check(hello: &Hello, shared: &Shared) -> Result<NodeId, Refusal> {
    let me = shared.context.identity;
    let from = hello.from.node;
    if hello.from.cluster != me.cluster {
        return Err(Refusal::Cluster);
    }
    // A node of the cluster that is no member here may be one by a later configuration.
    if hello.to != me.node || from == me.node {
        return Err(Refusal::Node);
    }
    shared.know(from, hello.from.incarnation)?;
    Ok(from)
}

/// Hands on what comes in, until the connection ends.
fn deliver(stream: TcpStream, shared: &Shared, from: NodeId, lane: LaneKind) -> io::Result<()> {
    let mut frames = Frames::new(stream, wire::max_body_bytes(&shared.context.limits));
    loop {
        frames.read_more()?;
        let handed_on = hand_on_all(&mut frames, shared, from);
        match lane {
            LaneKind::Words => shared.context.inbox.attend(),
            LaneKind::Entries => shared.context.inbox.attend_to_entries(),
        }
        handed_on?;
    }
}

fn hand_on_all(frames: &mut Frames<TcpStream>, shared: &Shared, from: NodeId) -> io::Result<()> {
    while let Some(frame) = frames.next()? {
        hand_on(&frame, shared, from).map_err(super::invalid)?;
    }
    Ok(())
}

fn hand_on(frame: &Frame<'_>, shared: &Shared, from: NodeId) -> Result<(), Malformed> {
    let inbox = &shared.context.inbox;
    let body = frame.body();
    match transfer::decode(body, || frame.keep())? {
        Some(Transfer::Ask(ask)) => inbox.asked(from, ask),
        Some(Transfer::Piece(piece)) => inbox.answered(from, piece),
        None => {
            let limits = &shared.context.limits;
            let (message, entries) = wire::decode_body(body, limits, || frame.keep())?;
            inbox.deliver(Incoming {
                from,
                message,
                entries,
            });
        }
    }
    Ok(())
}
