//! Results on their way to stdout.

use std::io::{self, BufWriter, ErrorKind, Write};

use clap::ValueEnum;

use crate::Failure;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// For reading
    Table,
    /// One value
    Json,
    /// One object a line
    Jsonl,
}

/// Stdout, written in large pieces.
pub(super) struct Output {
    out: BufWriter<io::StdoutLock<'static>>,
}

impl Output {
    pub(super) fn new() -> Self {
        Self {
            out: BufWriter::with_capacity(64 << 10, io::stdout().lock()),
        }
    }

    pub(super) fn put(&mut self, text: impl AsRef<[u8]>) -> Result<(), Failure> {
        self.out.write_all(text.as_ref()).map_err(|e| gone(&e))
    }

    pub(super) fn finish(mut self) -> Result<(), Failure> {
        self.out.flush().map_err(|e| gone(&e))
    }
}

/// Who reads stdout may have seen enough: then the rest is not wanted, and nothing is wrong.
fn gone(error: &io::Error) -> Failure {
    if error.kind() == ErrorKind::BrokenPipe {
        Failure::quiet()
    } else {
        Failure::runtime(format!("cannot write to stdout: {error}"))
    }
}

/// JSON's value for what there is not.
pub(super) fn or_null(value: Option<u64>) -> String {
    value.map_or_else(|| "null".to_owned(), |value| value.to_string())
}
