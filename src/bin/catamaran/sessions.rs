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

/// Clients at the same time, if the process may have files enough open.
pub(crate) const MAX_CLIENTS: usize = 1_024;
/// What is read of a client at once, before another has its turn.
const READ_BYTES: usize = 64 << 10;
/// How long a client may take nothing of its replies.
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
    /// The bytes of its replies that it had taken by then.
    taken: u64,
}

pub(crate) struct Sessions {
    poll: Poll,
    listener: TcpListener,
    node: Arc<Node<Kv>>,
    /// The most bytes of a request.
    limit: usize,
    recall: Arc<Recall>,
    /// Clients at the same time; more are turned away.
    most: usize,
    open: BTreeMap<usize, Arc<Session>>,
    /// Those who do not take their replies.
    stuck: BTreeMap<usize, Stuck>,
    next: usize,
    all_accepted: bool,
    bytes: Vec<u8>,
}

impl Sessions {
    pub(crate) fn new(
        listener: std::net::TcpListener,
        node: Arc<Node<Kv>>,
        limit: usize,
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

    /// Looks after all who have news, and closes who has taken nothing for too long.
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
        if let Waits::ForRoom { taken } = waits {
            let stuck = Stuck { since: now, taken };
            let known = self.stuck.entry(number).or_insert(stuck);
            if known.taken != taken {
                *known = stuck;
            }
        } else {
            self.stuck.remove(&number);
        }
        match waits {
            Waits::ForNews | Waits::ForRoom { .. } => {}
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
        let session = Session::new(number, node, recall, stream, self.limit);
        self.open.insert(number, Arc::new(session));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
    use std::path::Path;
    use std::thread;

    use super::*;
    use crate::kv::{When, Write};

    /// A reply of more bytes than are gathered before they are written.
    const LARGE: usize = 300_000;
    /// Far more of them than the sockets hold.
    const TIMES: usize = 200;
    const PATIENCE: Duration = Duration::from_secs(60);

    /// The sessions of a node that is alone, and where they are found.
    fn sessions(dir: &Path, most: usize) -> (Sessions, SocketAddr) {
        let node = Node::builder(catamaran::NodeId(1), dir)
            .start(Kv::default())
            .unwrap();
        set_large(&node, LARGE);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let sessions = Sessions::new(listener, Arc::new(node), 1 << 20, most);
        (sessions.unwrap(), addr)
    }

    fn set_large(node: &Node<Kv>, bytes: usize) {
        let set = Write::Set {
            key: b"large".to_vec(),
            value: vec![b'x'; bytes],
            when: When::Always,
        };
        node.propose(set.encode()).unwrap().wait().unwrap();
    }

    fn connect(addr: SocketAddr) -> TcpStream {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    impl Sessions {
        /// One turn at the time `now`, whether there is news or not.
        fn turn_at(&mut self, now: Instant) {
            let mut events = Events::with_capacity(16);
            self.recall.wake();
            self.wait(&mut events).unwrap();
            self.turn(&events, now);
        }

        /// Turns at the time `now` until it is so.
        fn until(&mut self, now: Instant, is_so: impl Fn(&Self) -> bool) {
            let begun = Instant::now();
            while !is_so(self) {
                assert!(begun.elapsed() < PATIENCE, "it never comes to be so");
                self.turn_at(now);
                thread::yield_now();
            }
        }
    }

    /// All that is there for a client whose connection was closed.
    fn rest(mut stream: TcpStream) -> usize {
        let mut bytes = Vec::new();
        // Nothing more comes, whether it was closed in order or not.
        if let Err(error) = stream.read_to_end(&mut bytes) {
            assert_ne!(error.kind(), ErrorKind::WouldBlock, "it is open still");
        }
        bytes.len()
    }

    #[test]
    fn a_client_that_takes_nothing_for_thirty_seconds_is_closed_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sessions, addr) = sessions(dir.path(), 2);
        let start = Instant::now();
        let mut other = connect(addr);
        let mut lazy = connect(addr);
        sessions.until(start, |sessions| sessions.open.len() == 2);
        lazy.write_all("GET large\r\n".repeat(TIMES).as_bytes())
            .unwrap();
        sessions.until(start, |sessions| !sessions.stuck.is_empty());
        // The sockets may yet take what they did not at first.
        sessions.turn_at(start);

        let almost = start + STUCK - Duration::from_millis(1);
        sessions.turn_at(almost);
        assert_eq!(sessions.open.len(), 2, "before its time");
        sessions.turn_at(start + STUCK);
        assert_eq!((sessions.open.len(), sessions.stuck.len()), (1, 0));
        assert!(rest(lazy) < TIMES * LARGE);

        other.write_all(b"PING\r\n").unwrap();
        other.shutdown(Shutdown::Write).unwrap();
        let late = start + 2 * STUCK;
        sessions.until(late, |sessions| sessions.open.is_empty());
        let mut reply = String::new();
        other.read_to_string(&mut reply).unwrap();
        assert_eq!(reply, "+PONG\r\n");
    }

    #[test]
    fn a_client_that_takes_its_replies_slowly_is_not_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sessions, addr) = sessions(dir.path(), 1);
        let mut now = Instant::now();
        let mut slow = connect(addr);
        slow.write_all("GET large\r\n".repeat(TIMES).as_bytes())
            .unwrap();
        sessions.until(now, |sessions| !sessions.stuck.is_empty());
        // Several replies, so that the socket tells of the room that they leave.
        let mut bytes = vec![0; TIMES * LARGE / 20];
        for part in 0..20 {
            now += STUCK - Duration::from_millis(1);
            let taken = sessions.stuck.get(&0).map(|stuck| stuck.taken);
            slow.read_exact(&mut bytes).unwrap();
            sessions.until(now, |sessions| {
                let stuck = sessions.stuck.get(&0).map(|stuck| stuck.taken);
                stuck.is_none() || stuck != taken
            });
            assert_eq!(sessions.open.len(), 1, "closed after part {part}");
        }
    }

    /// However small the requests are, and whatever else comes in meanwhile.
    #[test]
    fn no_more_is_gathered_than_a_piece_beyond_what_is_written_at_once() {
        const VALUE: usize = 900_000;
        const VALUES: usize = 40;
        let dir = tempfile::tempdir().unwrap();
        let (mut sessions, addr) = sessions(dir.path(), 1);
        set_large(&sessions.node, VALUE);
        let now = Instant::now();
        let mut lazy = connect(addr);
        let array = format!("MGET{}\r\n", " large".repeat(VALUES));
        let each = "GET large\r\n".repeat(VALUES);
        lazy.write_all((array + &each).as_bytes()).unwrap();
        sessions.until(now, |sessions| !sessions.stuck.is_empty());
        for _ in 0..20 {
            lazy.write_all(b"\r\n").unwrap();
            sessions.turn_at(now);
            let gathered = sessions.open[&0].gathered();
            assert!(gathered < 600_000, "{gathered} bytes");
        }
        lazy.shutdown(Shutdown::Write).unwrap();
        let reads = thread::spawn(move || {
            let mut replies = Vec::new();
            lazy.read_to_end(&mut replies).unwrap();
            replies
        });
        sessions.until(now, |sessions| sessions.open.is_empty());
        let values = format!("${VALUE}\r\n{}\r\n", "x".repeat(VALUE)).repeat(2 * VALUES);
        assert!(reads.join().unwrap() == format!("*{VALUES}\r\n{values}").as_bytes());
    }

    #[test]
    fn a_client_too_many_is_told_so_and_the_next_is_served_when_one_has_gone() {
        let dir = tempfile::tempdir().unwrap();
        let (mut sessions, addr) = sessions(dir.path(), 3);
        let now = Instant::now();
        let mut clients: Vec<_> = (0..3).map(|_| connect(addr)).collect();
        sessions.until(now, |sessions| sessions.open.len() == 3);
        for _ in 0..2 {
            let mut turned_away = connect(addr);
            turned_away.set_nonblocking(true).unwrap();
            sessions.until(now, |_| turned_away.peek(&mut [0]).is_ok());
            turned_away.set_nonblocking(false).unwrap();
            let mut said = String::new();
            turned_away.read_to_string(&mut said).unwrap();
            assert_eq!(said, "-ERR max number of clients reached\r\n");
        }
        assert_eq!(sessions.open.len(), 3);

        drop(clients.pop());
        sessions.until(now, |sessions| sessions.open.len() == 2);
        clients.push(connect(addr));
        sessions.until(now, |sessions| sessions.open.len() == 3);
        let newest = clients.last_mut().unwrap();
        newest.write_all(b"PING\r\n").unwrap();
        newest.shutdown(Shutdown::Write).unwrap();
        sessions.until(now, |sessions| sessions.open.len() == 2);
        let mut said = String::new();
        newest.read_to_string(&mut said).unwrap();
        assert_eq!(said, "+PONG\r\n");
    }
}
