//! Writers that keep a cluster busy, and remember what was acknowledged.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::client::{Client, Outcome};

/// How long a writer goes on trying a write that is refused.
const PATIENCE: Duration = Duration::from_secs(60);

/// The key and value of one write.
pub(crate) fn entry(writer: usize, number: u64) -> (String, String) {
    (
        format!("w{writer}:{number}"),
        format!("value {number} of writer {writer}"),
    )
}

/// Running writers.
pub(crate) struct Load {
    shared: Arc<Shared>,
    writers: Vec<JoinHandle<Written>>,
}

/// What one writer has done: writes are numbered from 0.
#[derive(Debug, Default)]
pub(crate) struct Written {
    pub(crate) writer: usize,
    /// Acknowledged writes.
    pub(crate) acknowledged: Vec<u64>,
    /// Those whose outcome is unknown.
    pub(crate) unknown: u64,
    /// Why the writer gave up, if it did.
    pub(crate) failed: Option<String>,
}

/// What writers tell, and are told.
#[derive(Default)]
pub(crate) struct Shared {
    stop: AtomicBool,
    acknowledged: AtomicU64,
    /// Told of the next acknowledgement of a write that was begun after the moment.
    watch: Mutex<Option<(Instant, Sender<Instant>)>>,
}

impl Load {
    pub(crate) fn start(addrs: &[SocketAddr], writers: usize) -> Self {
        let shared = Arc::new(Shared::default());
        let writers = (0..writers).map(|writer| {
            let shared = Arc::clone(&shared);
            let client = Client::new(addrs.to_vec(), writer);
            std::thread::spawn(move || shared.write(writer, client))
        });
        Self {
            writers: writers.collect(),
            shared,
        }
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.shared.acknowledged()
    }

    /// Gets the moment of the first acknowledgement of a write that was begun after `since`.
    pub(crate) fn watch(&self, since: Instant) -> Receiver<Instant> {
        self.shared.watch(since)
    }

    /// Ends all writers.
    pub(crate) fn stop(self) -> Vec<Written> {
        self.shared.end();
        self.writers
            .into_iter()
            .filter_map(|writer| writer.join().ok())
            .collect()
    }
}

impl Shared {
    fn write(&self, writer: usize, mut client: Client) -> Written {
        let mut written = Written {
            writer,
            ..Written::default()
        };
        for number in 0.. {
            if self.is_over() {
                break;
            }
            let (key, value) = entry(writer, number);
            let begun = Instant::now();
            let args = [b"SET", key.as_bytes(), value.as_bytes()];
            match client.write(&args, begun + PATIENCE) {
                Outcome::Acknowledged => {
                    written.acknowledged.push(number);
                    self.tell(begun, 1);
                }
                Outcome::Unknown => written.unknown += 1,
                Outcome::Refused(why) => {
                    written.failed = Some(why);
                    break;
                }
            }
        }
        written
    }

    /// Has the writers end.
    pub(crate) fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Whether the writers are to end.
    pub(crate) fn is_over(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// How many writes were acknowledged so far.
    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Gets the moment of the first acknowledgement of a write that was begun after `since`.
    pub(crate) fn watch(&self, since: Instant) -> Receiver<Instant> {
        let (sender, receiver) = mpsc::channel();
        *self.watch.lock().unwrap_or_else(PoisonError::into_inner) = Some((since, sender));
        receiver
    }

    /// Counts writes that were begun then, and are acknowledged.
    pub(crate) fn tell(&self, begun: Instant, writes: u64) {
        self.acknowledged.fetch_add(writes, Ordering::Relaxed);
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        if watch.as_ref().is_some_and(|(since, _)| begun >= *since)
            && let Some((_, sender)) = watch.take()
        {
            // Who watched may have given up.
            let _ = sender.send(Instant::now());
        }
    }
}
