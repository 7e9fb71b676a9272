//! What the commands of a script do.

use std::collections::VecDeque;
use std::str::FromStr;
use std::time::Duration;

use catamaran::config::{ClockBound, Config, Options};
use catamaran::raft::event::{Event, ReadId};
use catamaran::types::{LogIndex, NodeId, Term};

use crate::support::{self, Disk, Happened, Net};
use crate::tell;

/// The cluster of a script, from its first command on.
#[derive(Default)]
pub(crate) struct Cluster {
    net: Option<Net>,
    /// Until something happens: how it starts.
    options: Options,
    disks: Vec<Disk>,
    reads: u64,
}

type Obeyed<T = ()> = Result<T, String>;

/// The words behind a command.
struct Words<'a>(VecDeque<&'a str>);

impl<'a> Words<'a> {
    fn next<T: FromStr>(&mut self) -> Obeyed<T> {
        let word = self.0.pop_front().ok_or("a word is missing")?;
        word.parse().map_err(|_| format!("what is {word}?"))
    }

    fn next_or<T: FromStr>(&mut self, default: T) -> Obeyed<T> {
        if self.0.is_empty() {
            Ok(default)
        } else {
            self.next()
        }
    }

    fn rest(&mut self) -> impl Iterator<Item = &'a str> {
        std::mem::take(&mut self.0).into_iter()
    }
}

fn parse<T: FromStr>(word: &str) -> Obeyed<T> {
    Words([word].into()).next()
}

/// Some of the messages on their way.
struct Chosen {
    from: Option<NodeId>,
    to: Option<NodeId>,
}

impl Chosen {
    fn parse(word: &str) -> Obeyed<Self> {
        let (from, to) = word.split_once("->").ok_or("from whom -> to whom?")?;
        let id = |word: &str| {
            if word.is_empty() {
                Ok(None)
            } else {
                parse(word).map(NodeId).map(Some)
            }
        };
        Ok(Self {
            from: id(from)?,
            to: id(to)?,
        })
    }

    fn holds(&self, from: NodeId, to: NodeId) -> bool {
        self.from.is_none_or(|id| id == from) && self.to.is_none_or(|id| id == to)
    }
}

impl Cluster {
    /// Does what a line says, and tells what came of it.
    pub(crate) fn obey(&mut self, line: &str) -> Obeyed<String> {
        let mut words = Words(line.split_whitespace().collect());
        let command: String = words.next()?;
        let told = match command.as_str() {
            "members" => self.members(&mut words)?,
            "log" => self.log(&mut words)?,
            _ => {
                let reads = &mut self.reads;
                let net = self.net.as_mut().ok_or("whose members?")?;
                let told = act(net, reads, &command, &mut words)?;
                told + &tell::story(&std::mem::take(&mut net.story))
            }
        };
        match words.0.front() {
            Some(word) => Err(format!("what is {word} for?")),
            None => Ok(told),
        }
    }

    fn members(&mut self, words: &mut Words<'_>) -> Obeyed<String> {
        self.disks = vec![Disk::default(); words.next()?];
        for word in words.rest() {
            let (name, value) = word.split_once('=').ok_or("option=value")?;
            match name {
                "max_append_entries" => self.options.max_append_entries = parse(value)?,
                "lease_reads" => {
                    let drift_ppm = parse(value)?;
                    self.options.lease_reads = Some(ClockBound { drift_ppm });
                }
                "memory_bytes" => self.options.memory_bytes = parse(value)?,
                "max_inflight_appends" => self.options.max_inflight_appends = parse(value)?,
                _ => return Err(format!("which option is {name}?")),
            }
        }
        self.start()
    }

    fn log(&mut self, words: &mut Words<'_>) -> Obeyed<String> {
        let id: usize = words.next()?;
        let disk = self.disks.get_mut(id - 1).ok_or("whose log?")?;
        let mut terms = Vec::new();
        let mut named = Vec::new();
        for word in words.rest() {
            match word.split_once('=') {
                Some((name, value)) => named.push((name, parse(value)?)),
                None => terms.push(parse(word)?),
            }
        }
        *disk = support::disk(&terms);
        for (name, value) in named {
            match name {
                "term" => disk.hard_state.term = Term(value),
                "vote" => disk.hard_state.vote = Some(NodeId(value)),
                "commit" => disk.hard_state.commit = LogIndex(value),
                _ => return Err(format!("what of a log is {name}?")),
            }
        }
        self.start()
    }

    fn start(&mut self) -> Obeyed<String> {
        let config = Config::try_from(self.options.clone()).map_err(|error| error.to_string())?;
        self.net = Some(Net::with(config, &self.disks, 1));
        Ok(String::new())
    }
}

/// Lets something happen. What is returned is told before what the net tells of it.
fn act(net: &mut Net, reads: &mut u64, command: &str, words: &mut Words<'_>) -> Obeyed<String> {
    match command {
        "timeout" => net.tick(words.next()?),
        "pass" => net.now = net.now.after(Duration::from_millis(words.next()?)),
        "transfer" => {
            let id = NodeId(words.next()?);
            let to = Some(NodeId(words.next()?));
            net.step(id, Event::Transfer { to });
        }
        "lose" => {
            let (id, from) = (NodeId(words.next()?), NodeId(words.next()?));
            net.step(id, Event::Lost { from });
        }
        "propose" => {
            let (id, count) = (words.next()?, words.next_or(1)?);
            net.propose_bytes(id, count, words.next_or(0)?);
        }
        "read" => {
            *reads += 1;
            let read = ReadId(*reads);
            net.step(NodeId(words.next()?), Event::Read { read });
        }
        "deliver" if words.0.is_empty() => net.settle(),
        "deliver" | "drop" | "duplicate" | "reverse" => return on_wire(net, command, words),
        "cut" => {
            let (a, b) = (NodeId(words.next()?), NodeId(words.next()?));
            net.cut.insert((a.min(b), a.max(b)));
        }
        "isolate" => net.isolate(words.next()?),
        "heal" => net.cut.clear(),
        "slow" => {
            net.slow.insert(NodeId(words.next()?));
        }
        "fast" => {
            let id = NodeId(words.next()?);
            net.slow.remove(&id);
            net.sync(id, usize::MAX);
        }
        "sync" => {
            let id = NodeId(words.next()?);
            net.sync(id, words.next_or(usize::MAX)?);
        }
        "crash" => {
            let id = words.next()?;
            net.crash(NodeId(id));
            return Ok(tell::member(id, net));
        }
        "elect" => {
            net.tick(words.next()?);
            net.settle();
            net.story.clear();
            return Ok((1..=net.size).map(|id| tell::member(id, net)).collect());
        }
        "state" => return Ok((1..=net.size).map(|id| tell::member(id, net)).collect()),
        _ => return Err(format!("how does one {command}?")),
    }
    Ok(String::new())
}

fn on_wire(net: &mut Net, command: &str, words: &mut Words<'_>) -> Obeyed<String> {
    let chosen = Chosen::parse(&words.next_or("->".to_owned())?)?;
    let mut count: usize = words.next_or(usize::MAX)?;
    let wire = std::mem::take(&mut net.wire);
    let (chosen, rest): (VecDeque<_>, VecDeque<_>) = wire.into_iter().partition(|(from, to, _)| {
        let is_chosen = count > 0 && chosen.holds(*from, *to);
        count -= usize::from(is_chosen);
        is_chosen
    });
    if chosen.is_empty() {
        return Err("no such message is on its way".into());
    }
    net.wire = rest;
    match command {
        "drop" => {
            let lost = chosen
                .into_iter()
                .map(|(from, to, message)| Happened::Lost(from, to, message));
            net.story.extend(lost);
        }
        "duplicate" => {
            net.wire.extend(chosen.iter().cloned());
            net.wire.extend(chosen);
        }
        "reverse" => net.wire.extend(chosen.into_iter().rev()),
        _ => chosen.into_iter().for_each(|message| net.deliver(message)),
    }
    Ok(String::new())
}
