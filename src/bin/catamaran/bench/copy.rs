//! The bare copy: what no replication can be faster than.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

/// How much is read, sent, received, written and synced at once.
const BLOCK: usize = 1 << 20;

/// A file that is read and one that is written over, both really written and synced before.
pub(super) struct Copy {
    from: File,
    to: File,
    bytes: u64,
}

impl Copy {
    /// Creates both files in the directory.
    pub(super) fn create(dir: &Path, bytes: u64) -> io::Result<Self> {
        Ok(Self {
            from: filled(&dir.join("from"), bytes, 7)?,
            to: filled(&dir.join("to"), bytes, 0)?,
            bytes,
        })
    }

    /// Sends all bytes over a socket of loopback to a thread that makes them durable, a block at a time; says how
    /// long that took.
    pub(super) fn run(&self) -> io::Result<Duration> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let addr = listener.local_addr()?;
        let start = Instant::now();
        std::thread::scope(|scope| {
            let sends = scope.spawn(move || self.send(TcpStream::connect(addr)?));
            let (stream, _) = listener.accept()?;
            let received = self.receive(stream);
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

    fn receive(&self, mut stream: TcpStream) -> io::Result<()> {
        self.blocks(|block, offset| {
            stream.read_exact(block)?;
            self.to.write_all_at(block, offset)?;
            self.to.sync_data()
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
