//! The command line of catamaran: a replicated key-value store to run, to break and to look into.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used))]

use std::fmt::Display;
use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod client;
mod cluster;
mod command;
mod demo;
mod frozen;
mod http;
mod info;
mod json;
mod kv;
mod load;
mod replay;
mod reply;
mod resp;
mod room;
mod serve;
mod session;
mod sessions;
mod simulate;
mod soak;
mod temp;
mod tools;

/// What --peers looks like.
pub(crate) const USAGE: &str = "expected --peers ID=RAFT_ADDR@RESP_ADDR,...";

#[derive(Parser)]
#[command(name = "catamaran", version, about = "A durable, replicated log")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs one node as a key-value store over RESP
    Serve(serve::Serve),
    /// Shows a cluster losing its leader and nothing else
    Demo(demo::Demo),
    /// Keeps a cluster under full load while its nodes are killed, and counts what is lost
    Soak(soak::Soak),
    /// Measures, in turns with the bare device
    Bench(bench::Bench),
    Simulate(simulate::Simulate),
    Inspect(tools::Inspect),
    Verify(tools::Verify),
    Dump(tools::Dump),
}

/// Why the program ends with another status than 0.
pub(crate) struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    /// What was asked for cannot be: status 2.
    pub(crate) fn usage(text: impl Display) -> Self {
        Self {
            status: 2,
            text: text.to_string(),
        }
    }

    /// Nothing is wrong and nothing more is wanted: status 0.
    pub(crate) const fn quiet() -> Self {
        Self {
            status: 0,
            text: String::new(),
        }
    }

    /// It could, and went wrong: status 1.
    pub(crate) fn runtime(text: impl Display) -> Self {
        Self {
            status: 1,
            text: text.to_string(),
        }
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => return end(&Failure::usage(one_line(&error))),
        Err(help) => {
            // Who asked may have seen enough of it.
            let _ = write!(std::io::stdout(), "{help}");
            return ExitCode::SUCCESS;
        }
    };
    let ended = match cli.command {
        Command::Serve(serve) => {
            tracing_subscriber::fmt()
                .with_writer(std::io::stderr)
                .with_ansi(false)
                .init();
            serve.run()
        }
        Command::Demo(demo) => demo.run(),
        Command::Soak(soak) => soak.run(),
        Command::Bench(bench) => bench.run(),
        Command::Simulate(simulate) => simulate.run(),
        Command::Inspect(inspect) => inspect.run(),
        Command::Verify(verify) => verify.run(),
        Command::Dump(dump) => dump.run(),
    };
    ended.map_or_else(|failure| end(&failure), |()| ExitCode::SUCCESS)
}

/// Reads how many nodes a cluster is to have.
#[allow(
    dead_code,
    reason = "asked by the program, whose tests share this file"
)]
pub(crate) fn parse_nodes(text: &str) -> Result<usize, String> {
    let nodes = text
        .parse()
        .ok()
        .filter(|nodes| nodes % 2 == 1 && (1..=9).contains(nodes));
    nodes.ok_or_else(|| "expected an odd number from 1 to 9".to_owned())
}

fn end(failure: &Failure) -> ExitCode {
    if !failure.text.is_empty() {
        eprintln!("catamaran: {}", failure.text);
    }
    ExitCode::from(failure.status)
}

/// What is wrong with a command line and what was expected, without the pages around it.
fn one_line(error: &clap::Error) -> String {
    let text = error.to_string();
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let lines = lines.take_while(|line| !line.starts_with("For more information"));
    let line = lines.collect::<Vec<_>>().join(" ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}
