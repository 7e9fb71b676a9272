//! The bare copy: what no replication can be faster than.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is read, sent, received and written at once.
const BLOCK: usize = 1 << 20;

/// A file to be copied, whose bytes are in memory.
pub(super) struct Copy {
    from: File,
    bytes: u64,
}

impl Copy {
    /// Creates the file at `path`.
    pub(super) fn create(path: &Path, bytes: u64) -> io::Result<Self> {
        let from = filled(path, bytes, 7)?;
        Ok(Self { from, bytes })
    }

    /// Copies into a new file, and syncs it then. It stays, so that the next has to find room too.
    pub(super) fn to_new(&self, path: &Path) -> io::Result<Duration> {
        self.send_to(&File::create_new(path)?, self.bytes)
    }

    /// Copies over a file of as many zeros, which were written and synced before that is measured, and syncs each
    /// block.
    pub(super) fn to_prepared(&self, path: &Path) -> io::Result<Duration> {
        self.send_to(&filled(path, self.bytes, 0)?, BLOCK as u64)
    }

    /// Sends all bytes over a socket of loopback to a thread that writes them, and makes them durable whenever so
    /// many are there and at the end; says how long that took.
    fn send_to(&self, to: &File, sync_every: u64) -> io::Result<Duration> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sends = scope.spawn(move || self.send(TcpStream::connect(addr)?));
            let (stream, _) = listener.accept()?;
            let received = self.receive(stream, to, sync_every);
            let sent = sends
                .join()
                .map_err(|_| io::Error::other("a thread panicked"));
            received.and(sent?)
        })?;
        Ok(start.elapsed())
    }

    fn send(&self, mut stream: TcpStream) -> io::Result<()> {
        self.blocks(|block, offset| {
            self.from.read_exact_at(block, offset)?;
            stream.write_all(block)
        })
    }

    fn receive(&self, mut stream: TcpStream, to: &File, sync_every: u64) -> io::Result<()> {
        self.blocks(|block, offset| {
            stream.read_exact(block)?;
            to.write_all_at(block, offset)?;
            let end = offset + block.len() as u64;
            if end.is_multiple_of(sync_every) || end == self.bytes {
                to.sync_data()?;
            }
            Ok(())
        })
    }

    /// Calls `each` with the space of a block and its place, for all.
    fn blocks(&self, mut each: impl FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<()> {
        let mut block = vec![0; BLOCK];
        for offset in (0..self.bytes).step_by(BLOCK) {
            let len = usize::try_from(self.bytes - offset).map_or(BLOCK, |left| left.min(BLOCK));
            each(&mut block[..len], offset)?;
        }
        Ok(())
    }
}

fn filled(path: &Path, bytes: u64, byte: u8) -> io::Result<File> {
    let mut file = File::options()
        .read(true)
        .write(true)
        .create_new(true)
        .open(path)?;
    let block = vec![byte; BLOCK];
    let mut left = bytes;
    while left > 0 {
        let len = usize::try_from(left).map_or(BLOCK, |left| left.min(BLOCK));
        file.write_all(&block[..len])?;
        left -= len as u64;
    }
    file.sync_all()?;
    Ok(file)
}
