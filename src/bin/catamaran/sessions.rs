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
use crate::resp::Reply;
use crate::session::{Session, Waits};

/// Clients at the same time; more are turned away.
const MAX_CLIENTS: usize = 1_024;
/// What is read of a client at once, before another has its turn.
const READ_BYTES: usize = 64 << 10;
/// How long a client may refuse to read.
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

pub(crate) struct Sessions {
    poll: Poll,
    listener: TcpListener,
    node: Arc<Node<Kv>>,
    /// The most bytes of a request.
    limit: usize,
    recall: Arc<Recall>,
    open: BTreeMap<usize, Arc<Session>>,
    /// Since when they do not take their replies.
    stuck: BTreeMap<usize, Instant>,
    next: usize,
    bytes: Vec<u8>,
}

impl Sessions {
    pub(crate) fn new(
        listener: std::net::TcpListener,
        node: Arc<Node<Kv>>,
        limit: usize,
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
            recall: Arc::new(recall),
            open: BTreeMap::new(),
            stuck: BTreeMap::new(),
            next: 0,
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
        let mut events = Events::with_capacity(MAX_CLIENTS);
        let mut all_accepted = true;
        while !self.recall.ended.load(Ordering::Acquire) {
            let all_well = all_accepted && self.stuck.is_empty();
            match self.poll.poll(&mut events, (!all_well).then_some(RETRY)) {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                match event.token() {
                    LISTENER => all_accepted = false,
                    RECALL => {}
                    Token(number) => {
                        if let Some(session) = self.open.get(&number) {
                            self.visit(&Arc::clone(session), Some(event));
                        }
                    }
                }
            }
            let recalled = std::mem::take(&mut *self.recall.lock());
            for session in recalled {
                self.visit(&session, None);
            }
            if !all_accepted {
                all_accepted = self.accept();
            }
            self.close_stuck(Instant::now());
        }
        for session in self.open.values() {
            session.close();
        }
        Ok(())
    }

    fn visit(&mut self, session: &Arc<Session>, event: Option<&Event>) {
        let number = session.number();
        let waits = session.go_on(event, &mut self.bytes);
        if waits == Waits::ForRoom {
            self.stuck.entry(number).or_insert_with(Instant::now);
        } else {
            self.stuck.remove(&number);
        }
        match waits {
            Waits::ForNews | Waits::ForRoom => {}
            // After the others.
            Waits::ForThread => self.recall.session(session),
            Waits::Closed => drop(self.open.remove(&number)),
        }
    }

    fn close_stuck(&mut self, now: Instant) {
        let open = &mut self.open;
        self.stuck.retain(|number, since| {
            let waits = now.saturating_duration_since(*since) < STUCK;
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
        if self.open.len() >= MAX_CLIENTS {
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
        let session = Session::new(number, node, recall, stream, self.limit);
        self.open.insert(number, Arc::new(session));
        Ok(())
    }
}
