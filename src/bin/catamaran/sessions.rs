//! The clients of one node: one thread waits for what any of them asks.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, Write as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use catamaran::Node;
use mio::event::Event;
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token, Waker};

use crate::kv::Kv;
use crate::reply::Reply;
use crate::resp::Parser;
use crate::room::{Budget, Room};
use crate::session::{Session, Waits};

/// Clients at the same time, if the process may have files enough open.
pub(crate) const MAX_CLIENTS: usize = 1_024;
/// What is read of a client at once, before another has its turn.
const READ_BYTES: usize = 64 << 10;
/// How long a client may take nothing of its replies, or send nothing of a large request that it has begun.
const STUCK: Duration = Duration::from_secs(30);
/// How long to wait before looking again at clients that refuse to read, or that could not be accepted.
const RETRY: Duration = Duration::from_millis(200);

const LISTENER: Token = Token(usize::MAX);
const RECALL: Token = Token(usize::MAX - 1);

/// How the thread of the clients is told of what has happened elsewhere.
pub(crate) struct Recall {
    sessions: Mutex<Vec<Arc<Session>>>,
    ended: AtomicBool,
    waker: Waker,
}

impl Recall {
    /// Has the thread look at this one.
    pub(crate) fn session(&self, session: &Arc<Session>) {
        let mut sessions = self.lock();
        let first = sessions.is_empty();
        sessions.push(Arc::clone(session));
        drop(sessions);
        if first {
            self.wake();
        }
    }

    /// Has the thread close all connections, and end.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake();
    }

    fn wake(&self) {
        // An event that is pending already is as good.
        let _ = self.waker.wake();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Session>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Copy)]
struct Stuck {
    since: Instant,
    /// The bytes that it had taken or sent by then.
    moved: u64,
}

pub(crate) struct Sessions {
    poll: Poll,
    listener: TcpListener,
    node: Arc<Node<Kv>>,
    /// The most bytes of a request.
    limit: usize,
    /// For the requests of all.
    budget: Arc<Budget>,
    recall: Arc<Recall>,
    /// Clients at the same time; more are turned away.
    most: usize,
    open: BTreeMap<usize, Arc<Session>>,
    /// Those who do not take their replies, or do not go on with a large request.
    stuck: BTreeMap<usize, Stuck>,
    next: usize,
    all_accepted: bool,
    bytes: Vec<u8>,
}

impl Sessions {
    /// `limit` is the most bytes of a request, `budget` those for which there is room at the same time, and should be
    /// several times as many.
    pub(crate) fn new(
        listener: std::net::TcpListener,
        node: Arc<Node<Kv>>,
        limit: usize,
        budget: usize,
        most: usize,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let mut listener = TcpListener::from_std(listener);
        let poll = Poll::new()?;
        let registry = poll.registry();
        registry.register(&mut listener, LISTENER, Interest::READABLE)?;
        let recall = Recall {
            sessions: Mutex::new(Vec::new()),
            ended: AtomicBool::new(false),
            waker: Waker::new(registry, RECALL)?,
        };
        Ok(Self {
            poll,
            listener,
            node,
            limit,
            budget: Arc::new(Budget::new(budget)),
            recall: Arc::new(recall),
            most,
            open: BTreeMap::new(),
            stuck: BTreeMap::new(),
            next: 0,
            all_accepted: true,
            bytes: vec![0; READ_BYTES],
        })
    }

    pub(crate) fn recall(&self) -> Arc<Recall> {
        Arc::clone(&self.recall)
    }

    /// Serves all clients until it is told to end.
    ///
    /// # Errors
    /// What the system says when it cannot be asked for news any more.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(self.most);
        while !self.recall.ended.load(Ordering::Acquire) {
            self.wait(&mut events)?;
            self.turn(&events, Instant::now());
        }
        for session in self.open.values() {
            session.close();
        }
        Ok(())
    }

    /// Waits until there is something to do.
    fn wait(&mut self, events: &mut Events) -> io::Result<()> {
        let all_well = self.all_accepted && self.stuck.is_empty();
        match self.poll.poll(events, (!all_well).then_some(RETRY)) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            polled => polled,
        }
    }

    /// Looks after all who have news, and closes who has kept the others waiting for too long.
    fn turn(&mut self, events: &Events, now: Instant) {
        for event in events {
            match event.token() {
                LISTENER => self.all_accepted = false,
                RECALL => {}
                Token(number) => {
                    if let Some(session) = self.open.get(&number) {
                        self.visit(&Arc::clone(session), Some(event), now);
                    }
                }
            }
        }
        let recalled = std::mem::take(&mut *self.recall.lock());
        for session in recalled {
            self.visit(&session, None, now);
        }
        if !self.all_accepted {
            self.all_accepted = self.accept();
        }
        self.close_stuck(now);
    }

    fn visit(&mut self, session: &Arc<Session>, event: Option<&Event>, now: Instant) {
        let number = session.number();
        let waits = session.go_on(event, &mut self.bytes);
        if let Waits::ForClient { moved } = waits {
            let stuck = Stuck { since: now, moved };
            let known = self.stuck.entry(number).or_insert(stuck);
            if known.moved != moved {
                *known = stuck;
            }
        } else {
            self.stuck.remove(&number);
        }
        match waits {
            Waits::ForNews | Waits::ForClient { .. } => {}
            // After the others.
            Waits::ForThread => self.recall.session(session),
            Waits::Closed => drop(self.open.remove(&number)),
        }
    }

    fn close_stuck(&mut self, now: Instant) {
        let open = &mut self.open;
        self.stuck.retain(|number, stuck| {
            let waits = now.saturating_duration_since(stuck.since) < STUCK;
            if !waits && let Some(session) = open.remove(number) {
                session.close();
            }
            waits
        });
    }

    /// Accepts who waits; false if somebody may still do.
    fn accept(&mut self) -> bool {
        loop {
            match self.listener.accept() {
                // A client that went again is no concern of the others.
                Ok((stream, _)) => drop(self.open(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error)
                    if matches!(
                        error.kind(),
                        ErrorKind::Interrupted | ErrorKind::ConnectionAborted
                    ) => {}
                // Too many open files, perhaps.
                Err(_) => return false,
            }
        }
    }

    fn open(&mut self, mut stream: TcpStream) -> io::Result<()> {
        if self.open.len() >= self.most {
            let mut refusal = Vec::new();
            Reply::error("ERR max number of clients reached").write(&mut refusal);
            return stream.write_all(&refusal);
        }
        stream.set_nodelay(true)?;
        let number = self.next;
        self.next += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        let registry = self.poll.registry();
        registry.register(&mut stream, Token(number), interest)?;
        let (node, recall) = (Arc::clone(&self.node), self.recall());
        let parser = Parser::new(self.limit, Room::new(Arc::clone(&self.budget)));
        let session = Session::new(number, node, recall, stream, parser);
        self.open.insert(number, Arc::new(session));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
