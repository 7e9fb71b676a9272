//! What a log consists of.

use std::path::PathBuf;

use catamaran::log::{Inspection, LogError};
use catamaran::types::HardState;
use catamaran::wal::{SegmentInfo, Stage, Torn};
use clap::Args;
use comfy_table::Table;

use super::output::{Format, Output, or_null};
use super::{open, refused};
use crate::Failure;
use crate::json::Object;

const KEYS: &str = "\
Keys of the log (json: one object; jsonl: the last line, with \"type\":\"log\"):
  cluster node incarnation   whose log it is; null in a directory without segments
  first last                 the first and last entry; last is first - 1 if there is none
  term vote commit           as last written; commit is a lower bound; null if none was written
  fence                      {segment, offset, last}: below, and up to entry `last`, the log itself says
                             that it is durable; a bad byte there is damage, and no torn tail
  torn                       {segment, offset, bytes}: an unfinished write that the next start cuts, or null
  segments                   (json) the list of them, oldest first
Keys of a segment (jsonl: a line each, with \"type\":\"segment\"):
  file sequence id           its name, its place among the segments, its id in hexadecimal
  stage                      sealed, active or prepared
  first last                 the entries that live in it, or null
  first_term last_term       the terms of those two, or null
  fence                      how many of its bytes are below the fence
  used size                  how many are in use, and how many there are";

/// Shows the segments of a log, and what they say together
#[derive(Args)]
#[command(after_long_help = KEYS)]
pub(crate) struct Inspect {
    /// A node's directory, or that of a log
    dir: PathBuf,
    #[arg(short, long, value_enum, default_value = "table")]
    output: Format,
}

impl Inspect {
    pub(crate) fn run(self) -> Result<(), Failure> {
        let log = open(&self.dir)?;
        let state = log.hard_state();
        let state = state.map_err(|error: LogError| refused(&self.dir, &error))?;
        let segments = log.wal().segments();
        let mut output = Output::new();
        match self.output {
            Format::Table => {
                output.put(format!("{}\n", table(segments)))?;
                output.put(summary(&log, state))?;
            }
            Format::Json => {
                let list: Vec<String> = segments.iter().map(|s| segment(s).finish()).collect();
                let mut object = Object::new();
                describe(&mut object, &log, state);
                object.raw("segments", &format!("[{}]", list.join(",\n")));
                output.put(format!("{}\n", object.finish()))?;
            }
            Format::Jsonl => {
                for info in &segments {
                    let mut object = segment(info);
                    object.text("type", "segment");
                    output.put(format!("{}\n", object.finish()))?;
                }
                let mut object = Object::new();
                describe(&mut object, &log, state);
                object.text("type", "log");
                output.put(format!("{}\n", object.finish()))?;
            }
        }
        output.finish()
    }
}

const fn stage(stage: Stage) -> &'static str {
    match stage {
        Stage::Sealed => "sealed",
        Stage::Active => "active",
        Stage::Prepared => "prepared",
    }
}

fn table(segments: Vec<SegmentInfo>) -> Table {
    let mut table = Table::new();
    table
        .load_preset(comfy_table::presets::NOTHING)
        .set_header([
            "file", "stage", "entries", "terms", "fence", "used", "size", "id",
        ]);
    let range = |range: Option<(u64, u64)>| match range {
        Some((first, last)) => format!("{first}..{last}"),
        None => "-".to_owned(),
    };
    for segment in segments {
        let entries = segment.entries.map(|(first, last)| (first.0, last.0));
        table.add_row([
            segment.file,
            stage(segment.stage).to_owned(),
            range(entries),
            range(segment.marks),
            segment.fenced.to_string(),
            segment.used.to_string(),
            segment.size.to_string(),
            format!("{:016x}", segment.id),
        ]);
    }
    table
}

/// What belongs to the whole log, for reading.
fn summary(log: &Inspection, state: Option<HardState>) -> String {
    let wal = log.wal();
    let mut lines = Vec::new();
    if let Some(identity) = wal.identity() {
        let (cluster, node) = (identity.cluster, identity.node);
        let incarnation = identity.incarnation;
        lines.push(format!(
            "cluster {cluster}, node {node}, incarnation {incarnation:016x}"
        ));
    }
    lines.push(match wal.first() > wal.last() {
        true => format!("no entries; the next is {}", wal.first()),
        false => format!("entries {} to {}", wal.first(), wal.last()),
    });
    if let Some(state) = state {
        let vote = state.vote.map(|vote| vote.to_string());
        let vote = vote.as_deref().unwrap_or("nobody");
        lines.push(format!(
            "term {}, voted for {vote}, committed {} at least",
            state.term, state.commit
        ));
    }
    if let Some(fence) = wal.fence() {
        lines.push(format!(
            "durable, as the log itself says: up to entry {}, {} below offset {}",
            fence.last, fence.segment, fence.offset
        ));
    }
    if let Some(torn) = wal.torn() {
        lines.push(format!(
            "torn: {} at offset {}, {} bytes that no sync covered",
            torn.segment, torn.offset, torn.bytes
        ));
    }
    lines.join("\n") + "\n"
}

/// What belongs to the whole log, for programs.
fn describe(object: &mut Object, log: &Inspection, state: Option<HardState>) {
    let wal = log.wal();
    let identity = wal.identity();
    object
        .raw("cluster", &or_null(identity.map(|i| i.cluster.0)))
        .raw("node", &or_null(identity.map(|i| i.node.0)));
    match identity {
        Some(identity) => object.text("incarnation", &format!("{:016x}", identity.incarnation)),
        None => object.raw("incarnation", "null"),
    };
    object
        .number("first", wal.first())
        .number("last", wal.last())
        .raw("term", &or_null(state.map(|state| state.term.0)))
        .raw(
            "vote",
            &or_null(state.and_then(|state| Some(state.vote?.0))),
        )
        .raw("commit", &or_null(state.map(|state| state.commit.0)));
    let fence = wal.fence().map(|fence| {
        let mut object = Object::new();
        object
            .text("segment", &fence.segment)
            .number("offset", fence.offset)
            .number("last", fence.last);
        object.finish()
    });
    object
        .raw("fence", fence.as_deref().unwrap_or("null"))
        .raw("torn", &torn(wal.torn()));
}

/// A torn tail as JSON.
pub(super) fn torn(torn: Option<&Torn>) -> String {
    torn.map_or_else(
        || "null".to_owned(),
        |torn| {
            let mut object = Object::new();
            object
                .text("segment", &torn.segment)
                .number("offset", torn.offset)
                .number("bytes", torn.bytes);
            object.finish()
        },
    )
}

fn segment(segment: &SegmentInfo) -> Object {
    let mut object = Object::new();
    object
        .text("file", &segment.file)
        .number("sequence", segment.sequence)
        .text("id", &format!("{:016x}", segment.id))
        .text("stage", stage(segment.stage))
        .raw("first", &or_null(segment.entries.map(|(first, _)| first.0)))
        .raw("last", &or_null(segment.entries.map(|(_, last)| last.0)))
        .raw(
            "first_term",
            &or_null(segment.marks.map(|(first, _)| first)),
        )
        .raw("last_term", &or_null(segment.marks.map(|(_, last)| last)))
        .number("fence", segment.fenced)
        .number("used", segment.used)
        .number("size", segment.size);
    object
}
