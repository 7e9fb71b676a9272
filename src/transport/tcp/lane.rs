//! What goes to a peer over one connection, in order: what waits, and the connection while nobody is at it.
//!
//! A message leaves in the thread that sends it if nothing waits before it and the socket takes it at once: so most
//! wake nobody. What does not, the sender's thread sees to. Whoever has taken the connection is alone at it, and
//! only who has it takes what waits; so messages keep their order.

use std::collections::VecDeque;
use std::io;
use std::net::TcpStream;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};

use super::{ANSWERS, Parcel, QUEUE, Tracked};
use crate::raft::message::{Body, Message};
use crate::snapshot::Ask;
use crate::transport::gather::Gathered;
use crate::transport::{Context, fill, transfer, wire};

/// Payload bytes of a message that its own thread may send.
const DIRECT_BYTES: usize = 64 << 10;
/// Entries of such a message. More is sent to who is behind, and may have to be read from a disk.
const DIRECT_ENTRIES: u64 = 512;

pub(super) struct Lane {
    state: Mutex<State>,
    /// Wakes the sender's thread.
    changed: Condvar,
}

struct State {
    parcels: VecDeque<Parcel>,
    /// Asks to be answered.
    answers: VecDeque<Ask>,
    line: Line,
    /// The room of what went out over the connection before, for the next.
    room: Gathered,
    /// The peer was forgotten, or the transport closes.
    ended: bool,
}

enum Line {
    /// Not connected: what is sent is dropped, since Raft has better by the time it could leave.
    Down,
    /// Somebody is at it.
    Taken,
    Free(Connection),
}

/// A socket that does not block while the connection is free, and what it has yet to take.
struct Connection {
    stream: TcpStream,
    out: Gathered,
    _tracked: Tracked,
}

/// What the sender's thread finds.
pub(super) enum Work<'a> {
    /// Something waits, or goes out only by waiting for the socket.
    Send(Hold<'a>),
    /// There is no connection.
    Connect,
    /// Ended, and nothing waits.
    Ended,
}

impl Lane {
    pub(super) fn new() -> Self {
        let state = State {
            parcels: VecDeque::new(),
            answers: VecDeque::new(),
            line: Line::Down,
            room: Gathered::default(),
            ended: false,
        };
        Self {
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// Sends a parcel, queues it, or drops it; tells whether it did not. Never waits for the network.
    pub(super) fn send(&self, parcel: Parcel, context: &Context) -> bool {
        let mut state = self.state.lock();
        let alone = state.parcels.is_empty() && is_small(&parcel);
        match &state.line {
            Line::Down => return false,
            Line::Free(connection) if alone && connection.out.left() == 0 => {
                if let Some(mut hold) = self.hold(state) {
                    hold.send_now(parcel, context);
                }
            }
            // Full: the peer or the network is slow, and Raft will ask again.
            _ if state.ended || state.parcels.len() >= QUEUE => return false,
            Line::Taken => state.parcels.push_back(parcel),
            Line::Free(_) => {
                state.parcels.push_back(parcel);
                self.changed.notify_one();
            }
        }
        true
    }

    pub(super) fn is_down(&self) -> bool {
        matches!(self.state.lock().line, Line::Down)
    }

    /// Queues an ask to be answered, or drops it.
    pub(super) fn answer(&self, ask: Ask) {
        let mut state = self.state.lock();
        if state.answers.len() < ANSWERS && !matches!(state.line, Line::Down) {
            state.answers.push_back(ask);
            self.changed.notify_one();
        }
    }

    /// Has the sender's thread connect anew if the peer has ended the connection. If somebody is at it, that one will
    /// notice.
    pub(super) fn look(&self) {
        if let Some(hold) = self.hold(self.state.lock())
            && hold.has_ended()
        {
            hold.lose();
        }
    }

    /// Has the sender's thread connect anew. If somebody is at the connection, that one will notice.
    pub(super) fn lose(&self) {
        if let Some(hold) = self.hold(self.state.lock()) {
            hold.lose();
        }
    }

    /// Ends the sender once it has sent what waits.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.changed.notify_one();
    }

    /// There is a connection.
    pub(super) fn connected(&self, stream: TcpStream, tracked: Tracked) -> io::Result<()> {
        stream.set_nonblocking(true)?;
        let mut state = self.state.lock();
        state.line = Line::Free(Connection {
            stream,
            out: std::mem::take(&mut state.room),
            _tracked: tracked,
        });
        Ok(())
    }

    /// Waits for something that the sender's thread has to do.
    pub(super) fn work(&self) -> Work<'_> {
        let mut state = self.state.lock();
        loop {
            let waits = !state.parcels.is_empty() || !state.answers.is_empty();
            match &state.line {
                Line::Free(connection) if waits || connection.out.left() > 0 => {
                    return self.hold(state).map_or(Work::Connect, Work::Send);
                }
                Line::Free(_) | Line::Down if state.ended => {
                    let line = std::mem::replace(&mut state.line, Line::Down);
                    drop(state);
                    // Closed without the lock.
                    drop(line);
                    return Work::Ended;
                }
                Line::Down => return Work::Connect,
                Line::Free(_) | Line::Taken => self.changed.wait(&mut state),
            }
        }
    }

    /// Waits before another try to connect; false once the lane has ended.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let until = Instant::now() + pause;
        let mut state = self.state.lock();
        while !state.ended {
            if self.changed.wait_until(&mut state, until).timed_out() {
                return !state.ended;
            }
        }
        false
    }

    /// Takes the connection, if it is free.
    fn hold(&self, mut state: MutexGuard<'_, State>) -> Option<Hold<'_>> {
        match std::mem::replace(&mut state.line, Line::Taken) {
            Line::Free(connection) => Some(Hold {
                lane: self,
                connection: Some(connection),
                is_lost: false,
            }),
            other => {
                state.line = other;
                None
            }
        }
    }

    #[cfg(test)]
    pub(super) fn queued(&self) -> usize {
        self.state.lock().parcels.len()
    }

    /// Takes the connection as soon as it is free: until that is dropped, what is sent waits.
    #[cfg(test)]
    pub(super) fn seize(&self) -> Hold<'_> {
        loop {
            if let Some(hold) = self.hold(self.state.lock()) {
                return hold;
            }
            thread::yield_now();
        }
    }
}

/// Whether the thread that sends it may read and encode it.
fn is_small(parcel: &Parcel) -> bool {
    match parcel {
        Parcel::Message(Message {
            body: Body::Append { range, .. },
            ..
        }) => range.len() <= DIRECT_ENTRIES,
        Parcel::Message(_) | Parcel::Ask(_) => true,
    }
}

/// A connection that was taken. Dropped, it is free again, or down if it was lost.
pub(super) struct Hold<'a> {
    lane: &'a Lane,
    connection: Option<Connection>,
    is_lost: bool,
}

impl Hold<'_> {
    /// The socket, and what goes out.
    pub(super) fn parts(&mut self) -> io::Result<(&mut TcpStream, &mut Gathered)> {
        let connection = self.connection.as_mut();
        let Connection { stream, out, .. } = connection.ok_or(io::ErrorKind::NotConnected)?;
        Ok((stream, out))
    }

    /// Has the socket wait until it takes what is written, or not.
    pub(super) fn blocking(&mut self, blocking: bool) -> io::Result<()> {
        self.parts()?.0.set_nonblocking(!blocking)
    }

    /// The next parcel that waits.
    pub(super) fn next_parcel(&self) -> Option<Parcel> {
        self.lane.state.lock().parcels.pop_front()
    }

    /// The next ask to be answered, if nothing else waits.
    pub(super) fn next_answer(&self) -> Option<Ask> {
        let mut state = self.lane.state.lock();
        if state.parcels.is_empty() {
            state.answers.pop_front()
        } else {
            None
        }
    }

    /// Whether the peer has ended the connection, on which it says nothing.
    fn has_ended(&self) -> bool {
        self.connection
            .as_ref()
            .is_some_and(|connection| match connection.stream.peek(&mut [0]) {
                Ok(peeked) => peeked == 0,
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            })
    }

    /// The connection is of no more use.
    pub(super) fn lose(mut self) {
        self.is_lost = true;
    }

    /// Writes a parcel as far as the socket takes it. One that is larger than it looked is queued, before what
    /// came meanwhile.
    fn send_now(&mut self, parcel: Parcel, context: &Context) {
        let Ok((stream, out)) = self.parts() else {
            return;
        };
        if !put_small(&parcel, context, out) {
            self.lane.state.lock().parcels.push_front(parcel);
        } else if out.write_to(stream).is_err() {
            self.is_lost = true;
        }
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        let mut connection = self.connection.take();
        let is_lost = self.is_lost || thread::panicking();
        // Closed without the lock.
        let lost = connection.take_if(|_| is_lost);
        let room = lost.map(|Connection { mut out, .. }| {
            out.clear();
            out
        });
        let mut state = self.lane.state.lock();
        let unsent = connection.as_ref().is_some_and(|to| to.out.left() > 0);
        let idle = !unsent && state.parcels.is_empty() && state.answers.is_empty();
        state.line = connection.map_or(Line::Down, Line::Free);
        if let Some(room) = room {
            state.room = room;
            state.parcels.clear();
            state.answers.clear();
        }
        if is_lost || !idle || state.ended {
            self.lane.changed.notify_one();
        }
    }
}

/// Adds a parcel to what goes out; false if it is too large. An append that the log no longer holds is dropped.
fn put_small(parcel: &Parcel, context: &Context, out: &mut Gathered) -> bool {
    let message = match parcel {
        Parcel::Message(message) => message,
        Parcel::Ask(ask) => {
            transfer::put_ask(out, *ask);
            return true;
        }
    };
    let Body::Append { range, .. } = &message.body else {
        wire::put_frame(out, message, &[]);
        return true;
    };
    if range.is_empty() {
        wire::put_frame(out, message, &[]);
        return true;
    }
    let most = DIRECT_BYTES.min(context.limits.max_append_bytes);
    let Some(entries) = context.entries.read(*range, most) else {
        return true;
    };
    let whole = entries.last().is_some_and(|last| last.id == range.last);
    let bytes: usize = entries.iter().map(|entry| entry.payload.len()).sum();
    if whole && bytes <= most {
        wire::put_frame(out, message, &entries);
        return true;
    }
    false
}

/// Adds a parcel of any size to what goes out, which is written whenever much has gathered.
pub(super) fn put(
    parcel: Parcel,
    context: &Context,
    out: &mut Gathered,
    mut write: impl FnMut(&mut Gathered) -> io::Result<()>,
) -> io::Result<()> {
    let message = match parcel {
        Parcel::Message(message) => message,
        Parcel::Ask(ask) => {
            transfer::put_ask(out, ask);
            return Ok(());
        }
    };
    let mut written = Ok(());
    fill(context, message, |message, entries| {
        if written.is_ok() {
            wire::put_frame(out, &message, &entries);
            written = write(out);
        }
    });
    written
}
