//! `inspect`, `verify` and `dump`: looking into a log, writing nothing.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

use catamaran::log::{Inspection, LogError, decode_members, open_read_only};
use catamaran::types::LogIndex;
use catamaran::wal::{SegmentInfo, Stage, WalError};
use catamaran::{Entry, EntryKind};
use clap::{Args, ValueEnum};
use comfy_table::Table;
use indicatif::ProgressBar;

use crate::Failure;
use crate::json::Object;

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    /// For reading
    Table,
    /// One array
    Json,
    /// One object a line
    Jsonl,
}

#[derive(Args)]
pub(crate) struct Inspect {
    /// A node's directory, or that of a log
    dir: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

#[derive(Args)]
pub(crate) struct Verify {
    /// A node's directory, or that of a log
    dir: PathBuf,
}

#[derive(Args)]
pub(crate) struct Dump {
    /// A node's directory, or that of a log
    dir: PathBuf,
    /// The first index to print
    #[arg(long, value_name = "I", default_value_t = 0)]
    from: u64,
    /// The last index to print
    #[arg(long, value_name = "I", default_value_t = u64::MAX)]
    to: u64,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let log = open(&self.dir)?;
        let mut rows = Rows::new(
            self.output,
            &["file", "stage", "first", "last", "used", "size", "id"],
        );
        for segment in log.wal().segments() {
            let stage = match segment.stage {
                Stage::Sealed => "sealed",
                Stage::Active => "active",
                Stage::Prepared => "prepared",
            };
            let SegmentInfo {
                file,
                entries,
                used,
                size,
                id,
                ..
            } = segment;
            let index =
                |index: Option<LogIndex>| index.map_or(Cell::Nothing, |i| Cell::Number(i.0));
            rows.push(vec![
                Cell::Text(file),
                Cell::Text(stage.to_owned()),
                index(entries.map(|(first, _)| first)),
                index(entries.map(|(_, last)| last)),
                Cell::Number(used),
                Cell::Number(size),
                Cell::Text(format!("{id:016x}")),
            ])?;
        }
        rows.finish()?;
        if self.output == Format::Table {
            print!("{}", summary(&log).map_err(Failure::usage)?);
        }
        Ok(())
    }
}

/// What belongs to the whole log.
fn summary(log: &Inspection) -> Result<String, LogError> {
    let wal = log.wal();
    let mut text = String::new();
    if let Some(identity) = wal.identity() {
        let (cluster, node) = (identity.cluster, identity.node);
        let _ = writeln!(
            text,
            "cluster {cluster}, node {node}, incarnation {:016x}",
            identity.incarnation
        );
    }
    let _ = writeln!(text, "entries {} to {}", wal.first(), wal.last());
    if let Some(state) = log.hard_state()? {
        let vote = state
            .vote
            .map_or_else(|| "nobody".to_owned(), |vote| vote.to_string());
        let _ = writeln!(
            text,
            "term {}, voted for {vote}, committed {} at least",
            state.term, state.commit
        );
    }
    if let Some(torn) = wal.torn() {
        let _ = writeln!(
            text,
            "torn: {} at offset {}, {} bytes",
            torn.segment, torn.offset, torn.bytes
        );
    }
    Ok(text)
}

impl Verify {
    /// Prints one line on stdout, whatever it finds.
    pub(crate) fn run(self) -> Result<(), Failure> {
        let found = open_read_only(&self.dir).and_then(|log| {
            let bar = ProgressBar::new(log.wal().used_bytes());
            let checked = log.wal().verify(|read| bar.set_position(read));
            bar.finish_and_clear();
            checked?;
            Ok(log)
        });
        match found {
            Ok(log) => {
                let wal = log.wal();
                println!(
                    "clean: entries {} to {}, {} bytes",
                    wal.first(),
                    wal.last(),
                    wal.used_bytes()
                );
                if let Some(torn) = wal.torn() {
                    println!(
                        "torn: {} at offset {}, {} bytes that no sync covered",
                        torn.segment, torn.offset, torn.bytes
                    );
                }
                Ok(())
            }
            Err(LogError::Wal(WalError::Corruption {
                segment,
                offset,
                index,
                what,
            })) => {
                let index = index.map_or_else(|| "unknown".to_owned(), |index| index.to_string());
                println!("corrupt: segment {segment} offset {offset} index {index}: {what}");
                Err(Failure::usage(format!("{} is damaged", self.dir.display())))
            }
            Err(error) => Err(refused(&self.dir, &error)),
        }
    }
}

impl Dump {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let log = open(&self.dir)?;
        let mut rows = Rows::new(self.output, &["index", "term", "kind", "bytes", "payload"]);
        for entry in log.entries(LogIndex(self.from), LogIndex(self.to)) {
            let entry = entry.map_err(|error| refused(&self.dir, &error))?;
            rows.push(vec![
                Cell::Number(entry.id.index.0),
                Cell::Number(entry.id.term.0),
                Cell::Text(kind(&entry).to_owned()),
                Cell::Number(entry.payload.len() as u64),
                Cell::Text(payload(&entry, self.output)),
            ])?;
        }
        rows.finish()
    }
}

const fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::Normal => "normal",
        EntryKind::Noop => "noop",
        EntryKind::Config => "config",
    }
}

/// All bytes in hexadecimal for programs; something to read for people.
fn payload(entry: &Entry, output: Format) -> String {
    const SHOWN: usize = 64;
    if output != Format::Table {
        return entry.payload.iter().fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}");
            hex
        });
    }
    if entry.kind == EntryKind::Config
        && let Ok(members) = decode_members(&entry.payload)
    {
        let members = members
            .iter()
            .map(|m| format!("{}={}@{}", m.id, m.addr, m.client_addr));
        return members.collect::<Vec<_>>().join(" ");
    }
    let cut = entry.payload.len() > SHOWN;
    let shown = entry.payload[..entry.payload.len().min(SHOWN)].escape_ascii();
    format!("{shown}{}", if cut { "..." } else { "" })
}

fn open(dir: &Path) -> Result<Inspection, Failure> {
    open_read_only(dir).map_err(|error| refused(dir, &error))
}

fn refused(dir: &Path, error: &LogError) -> Failure {
    Failure::usage(format!("{}: {error}", dir.display()))
}

enum Cell {
    Number(u64),
    Text(String),
    Nothing,
}

/// Rows on their way to stdout: at once as JSON lines, at the end as a table.
struct Rows {
    format: Format,
    columns: &'static [&'static str],
    table: Table,
    out: BufWriter<io::StdoutLock<'static>>,
    count: usize,
}

impl Rows {
    fn new(format: Format, columns: &'static [&'static str]) -> Self {
        let mut table = Table::new();
        table
            .load_preset(comfy_table::presets::NOTHING)
            .set_header(columns.to_vec());
        Self {
            format,
            columns,
            table,
            out: BufWriter::new(io::stdout().lock()),
            count: 0,
        }
    }

    fn push(&mut self, cells: Vec<Cell>) -> Result<(), Failure> {
        self.count += 1;
        if self.format == Format::Table {
            self.table.add_row(cells.into_iter().map(|cell| match cell {
                Cell::Number(number) => number.to_string(),
                Cell::Text(text) => text,
                Cell::Nothing => "-".to_owned(),
            }));
            return Ok(());
        }
        let mut object = Object::new();
        for (column, cell) in self.columns.iter().zip(cells) {
            match cell {
                Cell::Number(number) => object.number(column, number),
                Cell::Text(text) => object.text(column, &text),
                Cell::Nothing => object.raw(column, "null"),
            };
        }
        let object = object.finish();
        let written = match (self.format, self.count) {
            (Format::Jsonl, _) => writeln!(self.out, "{object}"),
            (_, 1) => write!(self.out, "[{object}"),
            _ => write!(self.out, ",\n{object}"),
        };
        written.or_else(gone).map_err(Failure::runtime)
    }

    fn finish(mut self) -> Result<(), Failure> {
        let written = match (self.format, self.count) {
            (Format::Table, _) => writeln!(self.out, "{}", self.table),
            (Format::Json, 0) => writeln!(self.out, "[]"),
            (Format::Json, _) => writeln!(self.out, "]"),
            (Format::Jsonl, _) => Ok(()),
        };
        written
            .and_then(|()| self.out.flush())
            .or_else(gone)
            .map_err(Failure::runtime)
    }
}

/// Who reads stdout may have seen enough.
fn gone(error: io::Error) -> io::Result<()> {
    if error.kind() == io::ErrorKind::BrokenPipe {
        Ok(())
    } else {
        Err(error)
    }
}
