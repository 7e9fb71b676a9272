//! Whether a log is whole.

use std::path::PathBuf;

use catamaran::log::verify;
use catamaran::wal::{Inspection, Verified, WalError};
use clap::Args;
use indicatif::ProgressBar;

use super::inspect::torn;
use super::output::{Format, Output, or_null};
use super::refused;
use crate::Failure;
use crate::json::Object;

const KEYS: &str = "\
Status 0: the log is clean. A torn tail is told, and is no damage: no sync had covered it.
Status 2: there is damage; each line names a segment, an offset and an index, as far as that can be told.
Status 1: the disk failed, and nothing is known.

Keys (json: one object; jsonl: the last line, with \"type\":\"verdict\"):
  verdict         clean or corrupt
  first last      the entries of a clean log, else null
  bytes           how many bytes of a clean log are in use, else null
  torn            {segment, offset, bytes}, or null
  damage          (json) the list of it
Keys of damage (jsonl: a line each, with \"type\":\"damage\"):
  segment offset  the file and the place in it, or null
  index           the entry there, or null if that cannot be told
  what            what is wrong, in words";

/// Reads all of a log and checks it; status 2 if it is damaged
#[derive(Args)]
#[command(after_long_help = KEYS)]
pub(crate) struct Verify {
    /// A node's directory, or that of a log
    dir: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl Verify {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let bar = ProgressBar::new(0);
        let verified = verify(&self.dir, |read, bytes| {
            bar.set_length(bytes);
            bar.set_position(read);
        });
        bar.finish_and_clear();
        let verified = verified.map_err(|error| refused(&self.dir, &error))?;
        let mut text = String::new();
        match self.output {
            Format::Table => {
                for line in verified.damage.iter().map(line) {
                    text += &line;
                    text.push('\n');
                }
                if let Some(log) = &verified.log {
                    text += &clean(log);
                }
            }
            Format::Json => {
                let damage: Vec<_> = verified.damage.iter().map(|e| damage(e).finish()).collect();
                let mut verdict = verdict(&verified);
                verdict.raw("damage", &format!("[{}]", damage.join(",\n")));
                text = verdict.finish() + "\n";
            }
            Format::Jsonl => {
                for error in &verified.damage {
                    let mut line = damage(error);
                    line.text("type", "damage");
                    text += &(line.finish() + "\n");
                }
                let mut verdict = verdict(&verified);
                verdict.text("type", "verdict");
                text += &(verdict.finish() + "\n");
            }
        }
        let mut output = Output::new();
        let printed = output.put(text).and_then(|()| output.finish());
        if verified.damage.is_empty() {
            return printed;
        }
        // Also to somebody who reads only the first line.
        Err(Failure::usage(format!("{} is damaged", self.dir.display())))
    }
}

fn clean(log: &Inspection) -> String {
    let bytes = log.used_bytes();
    let (first, last) = (log.first(), log.last());
    let mut text = match (log.identity(), first > last) {
        (None, _) => "clean: no segments\n".to_owned(),
        (_, true) => format!("clean: no entries, the next is {first}, {bytes} bytes\n"),
        _ => format!("clean: entries {first} to {last}, {bytes} bytes\n"),
    };
    if let Some(torn) = log.torn() {
        text += &format!(
            "torn: {} at offset {}, {} bytes that no sync covered\n",
            torn.segment, torn.offset, torn.bytes
        );
    }
    text
}

/// What is known of a place that is damaged: offset, index, and what is wrong.
fn place(error: &WalError) -> (Option<u64>, Option<u64>, String) {
    match error {
        WalError::Corruption {
            offset,
            index,
            what,
            ..
        } => {
            let index = index.map(|index| index.0);
            (Some(*offset), index, (*what).to_owned())
        }
        other => (None, None, other.to_string()),
    }
}

fn line(error: &WalError) -> String {
    let segment = error.segment().unwrap_or("unknown");
    let (offset, index, what) = place(error);
    let known =
        |number: Option<u64>| number.map_or_else(|| "unknown".to_owned(), |n| n.to_string());
    let (offset, index) = (known(offset), known(index));
    format!("corrupt: segment {segment} offset {offset} index {index}: {what}")
}

fn damage(error: &WalError) -> Object {
    let mut object = Object::new();
    let (offset, index, what) = place(error);
    match error.segment() {
        Some(segment) => object.text("segment", segment),
        None => object.raw("segment", "null"),
    };
    object
        .raw("offset", &or_null(offset))
        .raw("index", &or_null(index))
        .text("what", &what);
    object
}

fn verdict(verified: &Verified) -> Object {
    let log = verified.log.as_ref();
    let mut object = Object::new();
    object
        .text("verdict", if log.is_some() { "clean" } else { "corrupt" })
        .raw("first", &or_null(log.map(|log| log.first().0)))
        .raw("last", &or_null(log.map(|log| log.last().0)))
        .raw("bytes", &or_null(log.map(Inspection::used_bytes)))
        .raw("torn", &torn(log.and_then(Inspection::torn)));
    object
}
