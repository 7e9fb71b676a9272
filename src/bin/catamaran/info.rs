//! INFO and ROLE: where this node is, answered by any node at once.

use std::fmt::Write as _;

use catamaran::{NodeStatus, RoleName};

use crate::command::role_name;
use crate::reply::Reply;

/// INFO, whole or one section of it.
pub(crate) fn info(status: &NodeStatus, sections: &[Vec<u8>]) -> Reply {
    let asked = sections.first().map(|section| section.to_ascii_lowercase());
    let wants = |section: &str| {
        asked.as_deref().is_none_or(|asked| {
            asked == section.as_bytes() || matches!(asked, b"all" | b"everything" | b"default")
        })
    };
    let mut text = String::new();
    if wants("server") {
        // Clients look at the version of Redis to know what they may ask.
        text.push_str("# server\r\nredis_version:6.2.0\r\nredis_mode:cluster\r\n");
        let _ = writeln!(text, "catamaran_version:{}\r", env!("CARGO_PKG_VERSION"));
        let _ = writeln!(text, "process_id:{}\r\n\r", std::process::id());
    }
    if wants("raft") {
        text.push_str("# raft\r\n");
        for (key, value) in raft(status) {
            let _ = writeln!(text, "{key}:{value}\r");
        }
    }
    Reply::text(text)
}

/// The lines of the raft section. A leader that is not known is 0 there, and so is the last entry of a snapshot
/// that there is not.
pub(crate) fn raft(status: &NodeStatus) -> [(&'static str, String); 9] {
    [
        ("id", status.id.to_string()),
        ("role", role_name(status.role).to_owned()),
        ("term", status.term.to_string()),
        (
            "leader_id",
            status
                .leader
                .as_ref()
                .map_or(0, |leader| leader.id.0)
                .to_string(),
        ),
        (
            "snapshot_index",
            status.snapshot.unwrap_or_default().to_string(),
        ),
        ("first_index", status.first.to_string()),
        ("last_index", status.last.to_string()),
        ("commit_index", status.committed.to_string()),
        ("applied_index", status.applied.to_string()),
    ]
}

/// ROLE, in the words of Redis: master with its replicas, or slave of its master.
pub(crate) fn role(status: &NodeStatus, _: &[Vec<u8>]) -> Reply {
    let offset = Reply::Int(i64::try_from(status.applied.0).unwrap_or(i64::MAX));
    let split = |addr: &str| {
        let (host, port) = addr.rsplit_once(':').unwrap_or((addr, "0"));
        (Reply::text(host), port.to_owned())
    };
    if status.role == RoleName::Leader {
        let others = status
            .membership
            .members()
            .iter()
            .filter(|member| member.id != status.id);
        let replica = |addr: &str| {
            let (host, port) = split(addr);
            Reply::Array(vec![host, Reply::text(port), Reply::text("0")])
        };
        let replicas = others.map(|member| replica(&member.client_addr)).collect();
        return Reply::Array(vec![Reply::text("master"), offset, Reply::Array(replicas)]);
    }
    let (addr, state) = match &status.leader {
        Some(leader) => (leader.client_addr.as_str(), "connected"),
        None => ("", "connect"),
    };
    let (host, port) = split(addr);
    let port = Reply::Int(port.parse().unwrap_or(0));
    Reply::Array(vec![
        Reply::text("slave"),
        host,
        port,
        Reply::text(state),
        offset,
    ])
}
