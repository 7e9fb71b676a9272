//! The entries of a log.

use std::io::{self, IsTerminal};
use std::path::PathBuf;

use catamaran::log::decode_membership;
use catamaran::types::LogIndex;
use catamaran::{Entry, EntryKind, Member, MemberRole, Roster};
use clap::Args;
use indicatif::ProgressBar;

use super::output::{Format, Output};
use super::{open, refused};
use crate::Failure;
use crate::json::Object;

/// How much of a payload a table shows.
const SHOWN: usize = 64;
const DIGITS: &[u8; 16] = b"0123456789abcdef";

const KEYS: &str = "\
Keys (json: one array of objects; jsonl: one object a line):
  index term  the entry's place and term
  kind        normal, noop or config
  bytes       how long the payload is
  payload     all of it, two hexadecimal digits a byte
A table shows at most the first 64 bytes of a payload, and then `...`: printable ASCII as it is, but for
backslash and quotes, which have a backslash before them; \\t, \\n and \\r; every other byte as \\x and two
hexadecimal digits. Of a config entry it shows the members.
Where a running node drops entries meanwhile, stderr says which are left out.";

/// Prints the entries of a log
#[derive(Args)]
#[command(after_long_help = KEYS)]
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

impl Dump {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let log = open(&self.dir)?;
        let first = log.wal().first().0.max(self.from);
        let last = log.wal().last().0.min(self.to);
        let bar = if io::stdout().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new((last + 1).saturating_sub(first))
        };
        let mut output = Output::new();
        output.put(match self.output {
            Format::Table => row(&["index", "term", "kind", "bytes", "payload"]),
            Format::Json => "[".to_owned(),
            Format::Jsonl => String::new(),
        })?;
        let mut expected = first;
        let mut separator = "";
        for entry in log.entries(LogIndex(self.from), LogIndex(self.to)) {
            let entry = entry.map_err(|error| refused(&self.dir, &error))?;
            let index = entry.id.index.0;
            if index > expected {
                let last = index - 1;
                eprintln!("catamaran: entries {expected} to {last} were dropped meanwhile");
            }
            expected = index + 1;
            match self.output {
                Format::Table => output.put(shown(&entry))?,
                Format::Json => output.put(format!("{separator}{}", object(&entry)))?,
                Format::Jsonl => output.put(object(&entry) + "\n")?,
            }
            separator = ",\n";
            if index % 1024 == 0 {
                bar.set_position((index + 1).saturating_sub(first));
            }
        }
        bar.finish_and_clear();
        if self.output == Format::Json {
            output.put("]\n")?;
        }
        output.finish()
    }
}

const fn kind(entry: &Entry) -> &'static str {
    match entry.kind {
        EntryKind::Normal => "normal",
        EntryKind::Noop => "noop",
        EntryKind::Config => "config",
    }
}

fn object(entry: &Entry) -> String {
    let mut hex = String::with_capacity(entry.payload.len() * 2);
    for byte in entry.payload.iter() {
        hex.push(char::from(DIGITS[usize::from(byte >> 4)]));
        hex.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    let mut object = Object::new();
    object
        .number("index", entry.id.index)
        .number("term", entry.id.term)
        .text("kind", kind(entry))
        .number("bytes", entry.payload.len())
        .text("payload", &hex);
    object.finish()
}

/// One line of the table, whose columns do not grow, so that no line waits for the last.
fn row([index, term, kind, bytes, payload]: &[&str; 5]) -> String {
    format!("{index:>12} {term:>8} {kind:<6} {bytes:>10}  {payload}\n")
}

fn shown(entry: &Entry) -> String {
    let id = entry.id;
    row(&[
        &id.index.to_string(),
        &id.term.to_string(),
        kind(entry),
        &entry.payload.len().to_string(),
        &readable(entry),
    ])
}

fn readable(entry: &Entry) -> String {
    if entry.kind == EntryKind::Config
        && let Ok(membership) = decode_membership(&entry.payload)
    {
        let members = membership.members().iter();
        let members = members.map(|member| shown_member(member, membership.roster()));
        return members.collect::<Vec<_>>().join(" ");
    }
    let cut = entry.payload.len() > SHOWN;
    let shown = entry.payload[..entry.payload.len().min(SHOWN)].escape_ascii();
    format!("{shown}{}", if cut { "..." } else { "" })
}

/// A member, and what it is unless it just votes.
fn shown_member(
    Member {
        id,
        addr,
        client_addr,
    }: &Member,
    roster: &Roster,
) -> String {
    let role = match (roster.role(*id), roster.outgoing().contains(id)) {
        (Some(MemberRole::Voter), false) if roster.is_joint() => "(new)",
        (Some(MemberRole::Voter), _) => "",
        (Some(MemberRole::Learner), _) => "(learner)",
        (Some(MemberRole::Joiner), _) => "(joiner)",
        (None, _) => "(leaves)",
    };
    format!("{id}={addr}@{client_addr}{role}")
}
