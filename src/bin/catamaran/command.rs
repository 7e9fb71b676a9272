//! What each command of a client asks for.

use catamaran::{NodeStatus, RoleName};

use crate::info;
use crate::kv::{Kv, When, Write, int, not_an_integer, parse_int};
use crate::reply::Reply;

/// A read of the store, run where entries are applied.
pub(crate) type Read = Box<dyn FnOnce(&Kv) -> Reply + Send>;

/// What a command asks for.
pub(crate) enum Ask {
    /// It is answered at once.
    Answer(Reply),
    /// It is answered from this node's status.
    Status(fn(&NodeStatus, &[Vec<u8>]) -> Reply, Vec<Vec<u8>>),
    /// It changes something.
    Write(Write),
    /// It looks at something.
    Read(Read),
    /// It is answered, and the connection closed.
    Quit,
}

/// Reads a command: its name, then its arguments.
pub(crate) fn parse(mut args: Vec<Vec<u8>>) -> Ask {
    let name = args.remove(0).to_ascii_lowercase();
    let name = String::from_utf8_lossy(&name).into_owned();
    let Some((least, most)) = arity(&name) else {
        let shown: String = name.chars().take(64).collect();
        return Ask::Answer(Reply::error(format!("ERR unknown command '{shown}'")));
    };
    if args.len() < least || args.len() > most {
        let text = format!("ERR wrong number of arguments for '{name}' command");
        return Ask::Answer(Reply::error(text));
    }
    known(&name, args).unwrap_or_else(Ask::Answer)
}

/// How many arguments a command takes, its name not counted.
fn arity(name: &str) -> Option<(usize, usize)> {
    const ANY: usize = usize::MAX;
    Some(match name {
        "ping" | "info" => (0, 1),
        "command" | "client" | "hello" => (0, ANY),
        "role" | "dbsize" | "loglen" | "quit" => (0, 0),
        "echo" | "get" | "incr" | "decr" | "logappend" | "logget" | "select" => (1, 1),
        "del" | "exists" | "mget" | "config" => (1, ANY),
        "incrby" | "decrby" | "append" => (2, 2),
        "set" => (2, ANY),
        "cas" => (3, 3),
        _ => return None,
    })
}

fn known(name: &str, args: Vec<Vec<u8>>) -> Result<Ask, Reply> {
    let mut args = args.into_iter();
    let mut arg = || args.next().unwrap_or_default();
    Ok(match name {
        "ping" => match args.next() {
            Some(text) => Ask::Answer(Reply::bulk(text)),
            None => Ask::Answer(Reply::Status("PONG")),
        },
        "echo" => Ask::Answer(Reply::bulk(arg())),
        "quit" => Ask::Quit,
        "select" => match arg().as_slice() {
            b"0" => Ask::Answer(Reply::OK),
            _ => return Err(Reply::error("ERR there is only database 0")),
        },
        "hello" => hello(args.next()),
        "command" | "config" => Ask::Answer(Reply::Array(Vec::new())),
        "client" => client(&arg()),
        "info" => Ask::Status(info::info, args.collect()),
        "role" => Ask::Status(info::role, Vec::new()),
        "get" => {
            let key = arg();
            Ask::Read(Box::new(move |kv| kv.get(&key)))
        }
        "mget" => {
            let keys: Vec<_> = args.collect();
            Ask::Read(Box::new(move |kv| {
                Reply::Array(keys.iter().map(|key| kv.get(key)).collect())
            }))
        }
        "exists" => {
            let keys: Vec<_> = args.collect();
            Ask::Read(Box::new(move |kv| {
                int(keys.iter().filter(|key| kv.contains(key)).count())
            }))
        }
        "dbsize" => Ask::Read(Box::new(|kv| int(kv.len()))),
        "loglen" => Ask::Read(Box::new(|kv| int(kv.log_len()))),
        "logget" => {
            let index = integer(&arg())?;
            let index = u64::try_from(index).unwrap_or(0);
            Ask::Read(Box::new(move |kv| kv.log_get(index)))
        }
        "set" => {
            let (key, value) = (arg(), arg());
            Ask::Write(Write::Set {
                key,
                value,
                when: condition(args)?,
            })
        }
        "del" => Ask::Write(Write::Del {
            keys: args.collect(),
        }),
        "incr" => Ask::Write(Write::IncrBy { key: arg(), by: 1 }),
        "decr" => Ask::Write(Write::IncrBy { key: arg(), by: -1 }),
        "incrby" => Ask::Write(Write::IncrBy {
            key: arg(),
            by: integer(&arg())?,
        }),
        "decrby" => {
            let (key, by) = (arg(), integer(&arg())?);
            let by = by.checked_neg();
            let by = by.ok_or_else(|| Reply::error("ERR decrement would overflow"))?;
            Ask::Write(Write::IncrBy { key, by })
        }
        "append" => Ask::Write(Write::Append {
            key: arg(),
            value: arg(),
        }),
        "cas" => Ask::Write(Write::Cas {
            key: arg(),
            old: arg(),
            new: arg(),
        }),
        _ => Ask::Write(Write::LogAppend { bytes: arg() }),
    })
}

fn integer(bytes: &[u8]) -> Result<i64, Reply> {
    parse_int(bytes).ok_or_else(not_an_integer)
}

/// The options of `SET`: one of NX and XX.
fn condition(options: impl Iterator<Item = Vec<u8>>) -> Result<When, Reply> {
    let mut when = When::Always;
    for option in options {
        let option = option.to_ascii_uppercase();
        when = match (when, option.as_slice()) {
            (When::Always | When::Absent, b"NX") => When::Absent,
            (When::Always | When::Present, b"XX") => When::Present,
            (_, b"NX" | b"XX") => return Err(Reply::error("ERR syntax error")),
            (_, b"EX" | b"PX" | b"EXAT" | b"PXAT" | b"KEEPTTL" | b"GET") => {
                let option = String::from_utf8_lossy(&option).into_owned();
                let text =
                    format!("ERR option {option} of SET is not supported: only NX and XX are");
                return Err(Reply::error(text));
            }
            _ => return Err(Reply::error("ERR syntax error")),
        };
    }
    Ok(when)
}

/// Clients that would speak RESP3 are told that this server does not, and go on in RESP2.
fn hello(version: Option<Vec<u8>>) -> Ask {
    Ask::Answer(match version.as_deref() {
        None | Some(b"2") => Reply::Array(vec![
            Reply::text("server"),
            Reply::text("catamaran"),
            Reply::text("proto"),
            Reply::Int(2),
            Reply::text("mode"),
            Reply::text("cluster"),
        ]),
        Some(_) => Reply::error("NOPROTO unsupported protocol version"),
    })
}

fn client(subcommand: &[u8]) -> Ask {
    Ask::Answer(match subcommand.to_ascii_lowercase().as_slice() {
        b"setname" | b"setinfo" | b"no-evict" | b"no-touch" => Reply::OK,
        b"getname" => Reply::Nil,
        b"id" => Reply::Int(1),
        b"list" | b"info" => Reply::text(""),
        _ => Reply::error("ERR unknown subcommand of 'client'"),
    })
}

/// The name of a role, as INFO gives it.
pub(crate) const fn role_name(role: RoleName) -> &'static str {
    match role {
        RoleName::Follower => "follower",
        RoleName::PreCandidate => "precandidate",
        RoleName::Candidate => "candidate",
        RoleName::Leader => "leader",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(line: &str) -> Ask {
        parse(
            line.split(' ')
                .map(|word| word.as_bytes().to_vec())
                .collect(),
        )
    }

    fn error(line: &str) -> String {
        match ask(line) {
            Ask::Answer(Reply::Error(text)) => text,
            _ => panic!("{line} was accepted"),
        }
    }

    fn write(line: &str) -> Write {
        match ask(line) {
            Ask::Write(write) => write,
            _ => panic!("{line} is no write"),
        }
    }

    #[test]
    fn wrong_commands_are_told_as_redis_tells_them() {
        assert_eq!(
            error("GET"),
            "ERR wrong number of arguments for 'get' command"
        );
        assert_eq!(
            error("SET k"),
            "ERR wrong number of arguments for 'set' command"
        );
        assert_eq!(error("SET k v NX XX"), "ERR syntax error");
        assert_eq!(
            error("INCRBY k x"),
            "ERR value is not an integer or out of range"
        );
        assert_eq!(
            error("DECRBY k -9223372036854775808"),
            "ERR decrement would overflow"
        );
        assert!(error("SET k v EX 10").contains("option EX"));
        assert!(error("FLUSHALL").starts_with("ERR unknown command 'flushall'"));
    }

    #[test]
    fn commands_are_read_in_any_case_and_keep_the_order_of_their_arguments() {
        let bytes = |text: &str| text.as_bytes().to_vec();
        let cas = Write::Cas {
            key: bytes("k"),
            old: bytes("a"),
            new: bytes("b"),
        };
        assert_eq!(write("cAs k a b"), cas);
        let set = Write::Set {
            key: bytes("k"),
            value: bytes("v"),
            when: When::Absent,
        };
        assert_eq!(write("set k v nx"), set);
        assert_eq!(
            write("DECRBY k 5"),
            Write::IncrBy {
                key: bytes("k"),
                by: -5
            }
        );
    }
}
