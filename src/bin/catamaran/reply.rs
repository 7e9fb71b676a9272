//! RESP2, the protocol of Redis: replies written.

use std::sync::Arc;

/// The most bytes of a value that are written at once.
const PIECE: usize = 256 << 10;

/// A reply, as RESP2 writes it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    /// A short text: `OK`.
    Status(&'static str),
    /// Begins with the kind of error in capitals.
    Error(String),
    Int(i64),
    /// Shared with the store: however many replies wait for a client to take them, the value is there once.
    Bulk(Arc<Vec<u8>>),
    /// What follows of a [`Reply::Bulk`] from this byte on.
    Rest(Arc<Vec<u8>>, usize),
    Nil,
    Array(Vec<Self>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Status("OK");

    pub(crate) fn error(text: impl Into<String>) -> Self {
        Self::Error(text.into())
    }

    pub(crate) fn bulk(bytes: Vec<u8>) -> Self {
        Self::Bulk(Arc::new(bytes))
    }

    pub(crate) fn text(text: impl Into<String>) -> Self {
        Self::bulk(text.into().into_bytes())
    }

    /// Writes the beginning of a reply, however large that is, and gives what follows.
    pub(crate) fn write(self, out: &mut Vec<u8>) -> Vec<Self> {
        match self {
            Self::Status(text) => line(out, b'+', text),
            // A line's end within would begin another reply.
            Self::Error(text) => line(out, b'-', &text.replace(['\r', '\n'], " ")),
            Self::Int(number) => line(out, b':', &number.to_string()),
            Self::Bulk(bytes) => {
                line(out, b'$', &bytes.len().to_string());
                return Self::Rest(bytes, 0).write(out);
            }
            Self::Rest(bytes, from) => {
                let to = bytes.len().min(from + PIECE);
                out.extend_from_slice(&bytes[from..to]);
                if to < bytes.len() {
                    return vec![Self::Rest(bytes, to)];
                }
                out.extend_from_slice(b"\r\n");
            }
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::Array(replies) => {
                line(out, b'*', &replies.len().to_string());
                return replies;
            }
        }
        Vec::new()
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &str) {
    out.push(kind);
    out.extend_from_slice(text.as_bytes());
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_cannot_smuggle_in_another_reply() {
        let mut out = Vec::new();
        Reply::error("ERR a\r\n+OK").write(&mut out);
        assert_eq!(out, b"-ERR a  +OK\r\n");
    }
}
