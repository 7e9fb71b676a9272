//! Cuts what comes in into frames.

use std::io::{self, ErrorKind, Read};

use super::wire::{self, FRAME_HEAD_BYTES};
use crate::types::Bytes;

/// What is read at once. A larger frame is read straight into bytes of its own.
const READ_BYTES: usize = 64 << 10;
/// By how much such bytes grow at first: no length is believed before so much of it has come.
const GROW_BYTES: usize = 1 << 20;

/// The frames of a stream.
pub(super) struct Frames<R> {
    stream: R,
    buffer: Vec<u8>,
    /// What of the buffer came in and was not handed on.
    start: usize,
    end: usize,
    /// A body that was larger than the buffer, and its crc.
    large: Option<(Bytes, u32)>,
    /// The longest body.
    limit: usize,
}

/// The body of a frame, whose crc was right.
pub(super) enum Frame<'a> {
    Buffered(&'a [u8]),
    Large(Bytes),
}

impl Frame<'_> {
    pub(super) fn body(&self) -> &[u8] {
        match self {
            Self::Buffered(body) => body,
            Self::Large(body) => body,
        }
    }

    /// The body, to be kept.
    pub(super) fn keep(&self) -> Bytes {
        match self {
            Self::Buffered(body) => Bytes::from(*body),
            Self::Large(body) => body.clone(),
        }
    }
}

impl<R: Read> Frames<R> {
    pub(super) fn new(stream: R, limit: usize) -> Self {
        Self {
            stream,
            buffer: vec![0; READ_BYTES],
            start: 0,
            end: 0,
            large: None,
            limit,
        }
    }

    /// The next frame of what has come in; None if more must come in first.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidData`] for what is no frame.
    pub(super) fn next(&mut self) -> io::Result<Option<Frame<'_>>> {
        if let Some((body, crc)) = self.large.take() {
            wire::check_body(&body, crc).map_err(super::invalid)?;
            return Ok(Some(Frame::Large(body)));
        }
        let Some((len, crc)) = self.head()? else {
            return Ok(None);
        };
        let at = self.start + FRAME_HEAD_BYTES;
        let Some(body) = self.buffer[at..self.end].get(..len) else {
            return Ok(None);
        };
        self.start = at + len;
        wire::check_body(body, crc).map_err(super::invalid)?;
        Ok(Some(Frame::Buffered(body)))
    }

    /// Waits until more comes in. There must be no frame left.
    ///
    /// # Errors
    /// [`ErrorKind::UnexpectedEof`] at the end; those of the stream.
    pub(super) fn read_more(&mut self) -> io::Result<()> {
        if let Some((len, crc)) = self.head()?
            && FRAME_HEAD_BYTES + len > READ_BYTES
        {
            let came = &self.buffer[self.start + FRAME_HEAD_BYTES..self.end];
            self.large = Some((large(came, len, &mut self.stream)?.into(), crc));
            (self.start, self.end) = (0, 0);
            return Ok(());
        }
        self.buffer.copy_within(self.start..self.end, 0);
        (self.start, self.end) = (0, self.end - self.start);
        loop {
            match self.stream.read(&mut self.buffer[self.end..]) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(read) => {
                    self.end += read;
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Length and crc of the next body, if its head has come in.
    fn head(&self) -> io::Result<Option<(usize, u32)>> {
        let Some(head) = self.buffer[self.start..self.end].first_chunk() else {
            return Ok(None);
        };
        let head = wire::decode_head(head, self.limit).map_err(super::invalid)?;
        Ok(Some(head))
    }
}

/// A body of which only the beginning is there.
fn large(came: &[u8], len: usize, stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut body = Vec::with_capacity(len.min(GROW_BYTES));
    body.extend_from_slice(came);
    let missing = (len - came.len()) as u64;
    if stream.take(missing).read_to_end(&mut body)? as u64 == missing {
        return Ok(body);
    }
    Err(ErrorKind::UnexpectedEof.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::transport::gather::Gathered;

    const LIMIT: usize = 4 * READ_BYTES;

    /// Gives some bytes at a time.
    struct Slow<'a> {
        bytes: &'a [u8],
        turns: std::vec::IntoIter<usize>,
    }

    impl Read for Slow<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let turn = self.turns.next().unwrap_or(usize::MAX);
            let some = turn.min(self.bytes.len()).min(buffer.len());
            let (given, left) = self.bytes.split_at(some);
            buffer[..some].copy_from_slice(given);
            self.bytes = left;
            Ok(some)
        }
    }

    /// All bodies, and why it ended.
    fn all(bytes: &[u8], turns: Vec<usize>) -> (Vec<Vec<u8>>, ErrorKind) {
        let turns = turns.into_iter();
        let mut frames = Frames::new(Slow { bytes, turns }, LIMIT);
        let mut bodies = Vec::new();
        loop {
            let read = loop {
                match frames.next() {
                    Ok(Some(frame)) => {
                        assert_eq!(*frame.keep(), *frame.body());
                        bodies.push(frame.body().to_vec());
                    }
                    Ok(None) => break frames.read_more(),
                    Err(error) => break Err(error),
                }
            };
            if let Err(error) = read {
                return (bodies, error.kind());
            }
        }
    }

    fn framed(bodies: &[Vec<u8>]) -> Vec<u8> {
        let mut out = Gathered::default();
        for body in bodies {
            wire::put_framed(&mut out, |out| out.put(|out| out.extend_from_slice(body)));
        }
        out.to_vec()
    }

    fn any_bodies() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let head = FRAME_HEAD_BYTES;
        let lens = vec![
            0,
            1,
            50,
            20_000,
            READ_BYTES - head,
            READ_BYTES - head + 1,
            LIMIT,
        ];
        let body = (any::<u8>(), prop::sample::select(lens));
        prop::collection::vec(body.prop_map(|(byte, len)| vec![byte; len]), 0..8)
    }

    proptest! {
        #[test]
        fn every_frame_is_found_however_it_comes_in(
            bodies in any_bodies(),
            turns in prop::collection::vec(prop::sample::select(vec![1, 7, 1_000, READ_BYTES]), 0..40),
        ) {
            let bytes = framed(&bodies);
            prop_assert_eq!(all(&bytes, turns), (bodies, ErrorKind::UnexpectedEof));
        }

        #[test]
        fn a_frame_that_was_altered_ends_it(bodies in any_bodies(), at: prop::sample::Index, bit in 0..8u8) {
            let mut bytes = framed(&bodies);
            prop_assume!(!bytes.is_empty());
            let at = at.index(bytes.len());
            bytes[at] ^= 1u8 << bit;
            let (found, _) = all(&bytes, Vec::new());
            prop_assert!(found.len() < bodies.len());
            prop_assert_eq!(&found[..], &bodies[..found.len()]);
        }
    }

    #[test]
    fn a_length_that_does_not_come_is_not_allocated() {
        let came = [1; 100];
        let mut body = Vec::new();
        let missing = large(&came, LIMIT, &mut &body[..]).unwrap_err();
        assert_eq!(missing.kind(), ErrorKind::UnexpectedEof);
        body = large(&came[..50], 100, &mut &came[50..]).unwrap();
        assert_eq!(body, came);
        let mut over = (LIMIT as u32 + 1).to_le_bytes().to_vec();
        over.extend_from_slice(&[0; 4]);
        assert_eq!(all(&over, Vec::new()), (Vec::new(), ErrorKind::InvalidData));
    }
}
