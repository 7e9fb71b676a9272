//! A small client of the cluster over RESP: finds the leader, follows redirects, knows what it does not
//! know.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// The longest reply that is read.
const MAX_REPLY: usize = 64 << 20;

/// One connection to one node.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

/// A reply, as far as this client needs to tell them apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Answer {
    Value(Vec<u8>),
    Nil,
    Error(String),
}

impl Connection {
    pub(crate) fn open(addr: SocketAddr) -> io::Result<Self> {
        Self::open_patiently(addr, PATIENCE)
    }

    /// Each request on it may take so long.
    pub(crate) fn open_patiently(addr: SocketAddr, patience: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&addr, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Asks, and waits for the answer. After an error the connection is of no more use.
    pub(crate) fn ask(&mut self, args: &[&[u8]]) -> io::Result<Answer> {
        self.send(args)?;
        self.receive()
    }

    /// Asks. Answers come in the order of the requests.
    pub(crate) fn send(&mut self, args: &[&[u8]]) -> io::Result<()> {
        let mut request = Vec::new();
        encode(args, &mut request);
        self.send_encoded(&request)
    }

    /// Asks what [`encode`] made, be it many requests.
    pub(crate) fn send_encoded(&mut self, requests: &[u8]) -> io::Result<()> {
        self.stream.get_mut().write_all(requests)
    }

    /// Waits for the answer to the request that was sent first.
    pub(crate) fn receive(&mut self) -> io::Result<Answer> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let Some((kind, rest)) = line.trim_end().split_at_checked(1) else {
            return Err(io::Error::other("an empty reply"));
        };
        match kind {
            "+" | ":" => Ok(Answer::Value(rest.as_bytes().to_vec())),
            "-" => Ok(Answer::Error(rest.to_owned())),
            "$" if rest == "-1" => Ok(Answer::Nil),
            "$" => {
                let len = rest.parse().ok().filter(|&len: &usize| len <= MAX_REPLY);
                let len = len.ok_or_else(|| io::Error::other("a reply of an odd length"))?;
                let mut bytes = vec![0; len + 2];
                self.stream.read_exact(&mut bytes)?;
                bytes.truncate(len);
                Ok(Answer::Value(bytes))
            }
            _ => Err(io::Error::other("a reply of an odd kind")),
        }
    }

    /// One line of INFO's raft section.
    pub(crate) fn info(&mut self) -> io::Result<Info> {
        match self.ask(&[b"INFO", b"raft"])? {
            Answer::Value(text) => Ok(Info::parse(&String::from_utf8_lossy(&text))),
            other => Err(io::Error::other(format!(
                "INFO was answered with {other:?}"
            ))),
        }
    }
}

/// Appends a request, as the protocol writes it.
pub(crate) fn encode(args: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(format!("*{}\r\n", args.len()).as_bytes());
    for arg in args {
        out.extend_from_slice(format!("${}\r\n", arg.len()).as_bytes());
        out.extend_from_slice(arg);
        out.extend_from_slice(b"\r\n");
    }
}

/// What INFO says of a node.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Info {
    pub(crate) role: String,
    pub(crate) term: u64,
    pub(crate) leader: u64,
    pub(crate) last: u64,
    pub(crate) committed: u64,
    pub(crate) applied: u64,
}

impl Info {
    fn parse(text: &str) -> Self {
        let mut info = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let number = value.parse().unwrap_or(0);
            match key {
                "role" => value.clone_into(&mut info.role),
                "term" => info.term = number,
                "leader_id" => info.leader = number,
                "last_index" => info.last = number,
                "commit_index" => info.committed = number,
                "applied_index" => info.applied = number,
                _ => {}
            }
        }
        info
    }
}

/// How a write ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Acknowledged,
    /// It may have been applied or not.
    Unknown,
    /// It was refused until the deadline, and so is not applied.
    Refused(String),
}

/// A client that finds its way to the leader.
pub(crate) struct Client {
    route: Route,
    connection: Option<Connection>,
}

impl Client {
    /// `first` is which of `addrs` is asked first.
    pub(crate) fn new(addrs: Vec<SocketAddr>, first: usize) -> Self {
        Self {
            route: Route::new(addrs, first),
            connection: None,
        }
    }

    /// Writes once. It is tried again only while it is certain that it was not taken.
    pub(crate) fn write(&mut self, args: &[&[u8]], deadline: Instant) -> Outcome {
        loop {
            let refused = match self.connect() {
                Err(error) => error.to_string(),
                Ok(connection) => match connection.ask(args) {
                    Ok(Answer::Error(text)) if text.starts_with("UNKNOWN") => {
                        return Outcome::Unknown;
                    }
                    Ok(Answer::Error(text)) => text,
                    Ok(_) => return Outcome::Acknowledged,
                    // It was sent, and may have been taken.
                    Err(_) => {
                        self.connection = None;
                        self.route.next();
                        return Outcome::Unknown;
                    }
                },
            };
            self.connection = None;
            self.route.redirect(&refused);
            if Instant::now() >= deadline {
                return Outcome::Refused(refused);
            }
        }
    }

    fn connect(&mut self) -> io::Result<&mut Connection> {
        if self.connection.is_none() {
            self.connection = Some(Connection::open(self.route.addr())?);
        }
        self.connection
            .as_mut()
            .ok_or_else(|| io::ErrorKind::NotConnected.into())
    }
}

/// Where the leader may be.
pub(crate) struct Route {
    addrs: Vec<SocketAddr>,
    /// Who is asked next.
    at: usize,
}

impl Route {
    /// `first` is which of `addrs` is asked first.
    pub(crate) fn new(addrs: Vec<SocketAddr>, first: usize) -> Self {
        let at = first % addrs.len();
        Self { addrs, at }
    }

    /// Which of the addresses is asked next.
    pub(crate) const fn at(&self) -> usize {
        self.at
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addrs[self.at]
    }

    /// Has somebody else asked.
    pub(crate) fn next(&mut self) {
        self.at = (self.at + 1) % self.addrs.len();
    }

    /// Goes where a refusal says the leader is, or else to somebody else.
    pub(crate) fn redirect(&mut self, refused: &str) {
        let addr = refused
            .strip_prefix("MOVED 0 ")
            .and_then(|addr| addr.parse().ok());
        match addr.and_then(|addr: SocketAddr| self.addrs.iter().position(|own| *own == addr)) {
            Some(at) => self.at = at,
            None => {
                self.next();
                // Nobody leads for the moment; asking in a tight loop would only delay the election, and a longer
                // wait the first write after it.
                std::thread::park_timeout(Duration::from_millis(1));
            }
        }
    }
}
