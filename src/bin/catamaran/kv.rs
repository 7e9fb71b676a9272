//! The key-value store that `serve` replicates: its commands as entries, and what they do.

use std::collections::HashMap;
use std::io::{self, Read};
use std::sync::Arc;

use catamaran::codec::{Malformed, Put, Reader};
use catamaran::{Entry, Snapshot, StateMachine};

use crate::frozen::{self, Frozen};
use crate::reply::Reply;

/// A command that changes something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Set {
        key: Vec<u8>,
        value: Vec<u8>,
        when: When,
    },
    Del {
        keys: Vec<Vec<u8>>,
    },
    IncrBy {
        key: Vec<u8>,
        by: i64,
    },
    Append {
        key: Vec<u8>,
        value: Vec<u8>,
    },
    /// Sets `key` to `new` if it is `old`.
    Cas {
        key: Vec<u8>,
        old: Vec<u8>,
        new: Vec<u8>,
    },
    LogAppend {
        bytes: Vec<u8>,
    },
}

/// What must hold for a `SET` to set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum When {
    Always,
    Absent,
    Present,
}

impl Write {
    /// One byte for the command, then its arguments, each behind its length.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Set { key, value, when } => {
                out.put_u8(match when {
                    When::Always => 1,
                    When::Absent => 2,
                    When::Present => 3,
                });
                out.put_bytes(key);
                out.put_bytes(value);
            }
            Self::Del { keys } => {
                out.put_u8(4);
                for key in keys {
                    out.put_bytes(key);
                }
            }
            Self::IncrBy { key, by } => {
                out.put_u8(5);
                out.put_bytes(key);
                out.put_u64(by.cast_unsigned());
            }
            Self::Append { key, value } => {
                out.put_u8(6);
                out.put_bytes(key);
                out.put_bytes(value);
            }
            Self::Cas { key, old, new } => {
                out.put_u8(7);
                out.put_bytes(key);
                out.put_bytes(old);
                out.put_bytes(new);
            }
            Self::LogAppend { bytes } => {
                out.put_u8(8);
                out.put_bytes(bytes);
            }
        }
        out
    }

    /// Reads what [`Write::encode`] made.
    pub(crate) fn decode(entry: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(entry);
        let kind = reader.u8("command")?;
        let mut arg = || Ok(reader.bytes(usize::MAX, "argument")?.to_vec());
        let write = match kind {
            1..=3 => {
                let when = [When::Always, When::Absent, When::Present][usize::from(kind) - 1];
                Self::Set {
                    key: arg()?,
                    value: arg()?,
                    when,
                }
            }
            4 => {
                let mut keys = Vec::new();
                while reader.left() > 0 {
                    keys.push(reader.bytes(usize::MAX, "key")?.to_vec());
                }
                Self::Del { keys }
            }
            5 => Self::IncrBy {
                key: arg()?,
                by: reader.u64("increment")?.cast_signed(),
            },
            6 => Self::Append {
                key: arg()?,
                value: arg()?,
            },
            7 => Self::Cas {
                key: arg()?,
                old: arg()?,
                new: arg()?,
            },
            8 => Self::LogAppend { bytes: arg()? },
            _ => {
                return Err(Malformed {
                    what: "command",
                    offset: 0,
                });
            }
        };
        reader.finish("end of a command")?;
        Ok(write)
    }
}

/// The store. Its bytes are shared, so that a frozen copy of it takes little time and memory.
#[derive(Clone, Default)]
pub(crate) struct Kv {
    pub(crate) map: HashMap<Arc<[u8]>, Arc<Vec<u8>>>,
    pub(crate) log: Vec<Arc<Vec<u8>>>,
}

impl Kv {
    pub(crate) fn get(&self, key: &[u8]) -> Reply {
        self.map
            .get(key)
            .map_or(Reply::Nil, |value| Reply::Bulk(Arc::clone(value)))
    }

    /// The number that a counter has; 0 if it is not there, or is no number.
    pub(crate) fn number(&self, key: &[u8]) -> i64 {
        let value = self.map.get(key);
        value.and_then(|value| parse_int(value)).unwrap_or(0)
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.map.contains_key(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    /// How many records `LOGAPPEND` has appended.
    pub(crate) fn log_len(&self) -> usize {
        self.log.len()
    }

    /// The record that `LOGAPPEND` answered with `index`, from 1 on.
    pub(crate) fn log_get(&self, index: u64) -> Reply {
        let at = usize::try_from(index)
            .ok()
            .and_then(|index| index.checked_sub(1));
        let found = at.and_then(|at| self.log.get(at));
        found.map_or(Reply::Nil, |bytes| Reply::Bulk(Arc::clone(bytes)))
    }

    /// Applies one entry. What it does follows from the store and the entry alone.
    pub(crate) fn apply_one(&mut self, entry: &[u8]) -> Reply {
        match Write::decode(entry) {
            Ok(write) => self.execute(write),
            Err(error) => Reply::error(format!("ERR the entry is no command: {error}")),
        }
    }

    fn execute(&mut self, write: Write) -> Reply {
        match write {
            Write::Set { key, value, when } => {
                let present = self.map.contains_key(key.as_slice());
                let sets = match when {
                    When::Always => true,
                    When::Absent => !present,
                    When::Present => present,
                };
                if !sets {
                    return Reply::Nil;
                }
                self.map.insert(key.into(), Arc::new(value));
                Reply::OK
            }
            Write::Del { keys } => int(keys
                .iter()
                .filter(|key| self.map.remove(key.as_slice()).is_some())
                .count()),
            Write::IncrBy { key, by } => {
                let old = self.map.get(key.as_slice());
                let Some(old) = old.map_or(Some(0), |value| parse_int(value)) else {
                    return not_an_integer();
                };
                let Some(new) = old.checked_add(by) else {
                    return Reply::error("ERR increment or decrement would overflow");
                };
                let value = Arc::new(new.to_string().into_bytes());
                self.map.insert(key.into(), value);
                Reply::Int(new)
            }
            Write::Append { key, value } => {
                let whole = Arc::make_mut(self.map.entry(key.into()).or_default());
                whole.extend_from_slice(&value);
                int(whole.len())
            }
            Write::Cas { key, old, new } => {
                let value = self.map.get(key.as_slice());
                let same = value.is_some_and(|value| **value == old);
                if same {
                    self.map.insert(key.into(), Arc::new(new));
                }
                Reply::Int(i64::from(same))
            }
            Write::LogAppend { bytes } => {
                self.log.push(bytes.into());
                int(self.log.len())
            }
        }
    }
}

impl StateMachine for Kv {
    type Reply = Reply;

    fn apply(&mut self, entries: &[Entry]) -> Vec<Reply> {
        entries
            .iter()
            .map(|entry| self.apply_one(&entry.payload))
            .collect()
    }

    fn freeze(&self) -> Option<impl Snapshot> {
        Some(Frozen(self.clone()))
    }

    fn restore(&mut self, format: u32, from: &mut dyn Read) -> io::Result<()> {
        *self = frozen::read(format, from)?;
        Ok(())
    }
}

pub(crate) fn int(number: usize) -> Reply {
    Reply::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(crate) fn not_an_integer() -> Reply {
    Reply::error("ERR value is not an integer or out of range")
}

/// A number as Redis accepts it: no sign but `-`, no spaces, no leading zeros.
pub(crate) fn parse_int(bytes: &[u8]) -> Option<i64> {
    let number: i64 = std::str::from_utf8(bytes).ok()?.parse().ok()?;
    (number.to_string().as_bytes() == bytes).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn set(key: &str, value: &str, when: When) -> Write {
        Write::Set {
            key: bytes(key),
            value: bytes(value),
            when,
        }
    }

    fn every_command() -> Vec<Write> {
        vec![
            set("k", "v", When::Always),
            set("k", "", When::Absent),
            set("", "v", When::Present),
            Write::Del {
                keys: vec![bytes("a"), bytes(""), bytes("c")],
            },
            Write::IncrBy {
                key: bytes("n"),
                by: i64::MIN,
            },
            Write::Append {
                key: bytes("k"),
                value: bytes("tail"),
            },
            Write::Cas {
                key: bytes("k"),
                old: bytes("a"),
                new: bytes("b"),
            },
            Write::LogAppend {
                bytes: vec![0, 255],
            },
        ]
    }

    #[test]
    fn a_command_survives_its_encoding() {
        for write in every_command() {
            assert_eq!(Write::decode(&write.encode()), Ok(write));
        }
    }

    #[test]
    fn a_command_cut_short_or_followed_by_more_is_refused() {
        for write in every_command() {
            let whole = write.encode();
            for end in 0..whole.len() {
                // Fewer keys are a whole DEL too.
                let shorter = Write::decode(&whole[..end]);
                assert!(
                    shorter.is_err() || matches!(write, Write::Del { .. }),
                    "{write:?} {end}"
                );
            }
            assert!(
                Write::decode(&[whole.as_slice(), &[1]].concat()).is_err(),
                "{write:?}"
            );
        }
        assert!(Write::decode(&[9]).is_err(), "an unknown command");
        assert!(
            Write::decode(&[8, 0xff, 0xff, 0xff, 0xff]).is_err(),
            "a length that is not there"
        );
    }

    #[test]
    fn conditions_and_counters_answer_as_redis_does() {
        let mut kv = Kv::default();
        let mut run = |write: Write| kv.apply_one(&write.encode());
        assert_eq!(run(set("k", "1", When::Present)), Reply::Nil);
        assert_eq!(run(set("k", "1", When::Absent)), Reply::OK);
        assert_eq!(run(set("k", "2", When::Absent)), Reply::Nil);
        let incr = |key: &str, by| Write::IncrBy {
            key: bytes(key),
            by,
        };
        assert_eq!(run(incr("k", 9)), Reply::Int(10));
        assert_eq!(run(incr("new", -1)), Reply::Int(-1));
        assert_eq!(
            run(incr("k", i64::MAX)),
            Reply::error("ERR increment or decrement would overflow")
        );
        assert_eq!(
            run(Write::Append {
                key: bytes("k"),
                value: bytes("x")
            }),
            Reply::Int(3)
        );
        assert_eq!(run(incr("k", 1)), not_an_integer());
        let cas = |old: &str, new: &str| Write::Cas {
            key: bytes("k"),
            old: bytes(old),
            new: bytes(new),
        };
        assert_eq!(run(cas("10x", "y")), Reply::Int(1));
        assert_eq!(run(cas("10x", "z")), Reply::Int(0));
        assert_eq!(
            run(Write::Del {
                keys: vec![bytes("k"), bytes("k"), bytes("new")]
            }),
            Reply::Int(2)
        );
        assert_eq!(run(Write::LogAppend { bytes: bytes("a") }), Reply::Int(1));
        assert_eq!(run(Write::LogAppend { bytes: bytes("b") }), Reply::Int(2));
        assert_eq!(
            (kv.log_get(0), kv.log_get(2), kv.log_get(3)),
            (Reply::Nil, Reply::bulk(bytes("b")), Reply::Nil)
        );
    }

    #[test]
    fn a_reply_shares_the_bytes_of_the_store() {
        let mut kv = Kv::default();
        let set = Write::Set {
            key: bytes("k"),
            value: bytes("v"),
            when: When::Always,
        };
        kv.apply_one(&set.encode());
        kv.apply_one(&Write::LogAppend { bytes: bytes("r") }.encode());
        let (Reply::Bulk(value), Reply::Bulk(record)) = (kv.get(b"k"), kv.log_get(1)) else {
            panic!("they are not there");
        };
        assert!(Arc::ptr_eq(&value, &kv.map[b"k".as_slice()]));
        assert!(Arc::ptr_eq(&record, &kv.log[0]));
    }

    #[test]
    fn numbers_are_read_as_strictly_as_redis_reads_them() {
        for text in [
            "",
            "+1",
            " 1",
            "1 ",
            "01",
            "-0",
            "1.0",
            "9223372036854775808",
        ] {
            assert_eq!(parse_int(text.as_bytes()), None, "{text:?}");
        }
        assert_eq!(parse_int(b"-9223372036854775808"), Some(i64::MIN));
    }
}
