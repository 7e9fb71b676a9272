//! Whether who spoke on a connection that has ended is gone.
//!
//! A process that dies closes its connections, and its listener too. A connection also ends where nobody dies: one
//! side gave it up, or something between them forgot it, perhaps with all others at that moment. A healthy leader that
//! its followers lose all at once must not be unseated. So who seems to be gone is knocked at first, and is taken for
//! dead only if nobody is there to open.

use std::io::{self, ErrorKind, Read};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use super::Shared;
use crate::types::NodeId;

/// How long to knock. Who is cut off from the network answers nothing, and is left to the election timeout.
const KNOCK: Duration = Duration::from_millis(100);
/// How many times: a listener may be closed a moment after the connections, and what it had not accepted ends then.
const KNOCKS: usize = 3;

/// Tells the node that `from` is gone if it is: not if it speaks on another connection, nor if this transport ends.
/// What is sent to it goes over new connections as soon as there are any: the others end with it, or have ended too.
pub(super) fn look_after(shared: &Arc<Shared>, from: NodeId) {
    let speaks = || shared.speaking.lock().keys().any(|(id, _)| *id == from);
    let is_well = || shared.is_closing() || speaks();
    let Some(member) = shared.peers.member(from).filter(|_| !is_well()) else {
        return;
    };
    let gone = is_gone(&member.addr) && !is_well();
    if gone {
        crate::trace::info!(peer = from.0, "connection ended, and nobody listens there");
        let inbox = &shared.context.inbox;
        inbox.lost(from);
        inbox.attend();
    }
    if let Some(lanes) = shared.peers.lanes(from) {
        if gone {
            // What it heard on may be closed a moment after what it spoke on.
            lanes.lose();
        } else {
            lanes.look();
        }
    }
}

/// Whether it is certain that nobody listens there.
pub(super) fn is_gone(addr: &str) -> bool {
    for _ in 0..KNOCKS {
        match knock(addr) {
            Ok(Knock::Ended) => {}
            Ok(Knock::Opened) => return false,
            Err(error) => return !is_late(&error),
        }
    }
    false
}

enum Knock {
    /// It waits to hear who is there.
    Opened,
    /// It was there, and ended the connection without a word.
    Ended,
}

fn knock(addr: &str) -> io::Result<Knock> {
    let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
    for addr in addr.to_socket_addrs()? {
        match TcpStream::connect_timeout(&addr, KNOCK) {
            Ok(mut stream) => {
                stream.set_read_timeout(Some(KNOCK))?;
                return Ok(match stream.read(&mut [0]) {
                    Err(error) if is_late(&error) => Knock::Opened,
                    _ => Knock::Ended,
                });
            }
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn is_late(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock)
}
