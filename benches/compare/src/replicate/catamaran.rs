//! This crate's nodes, with their defaults.

use std::path::Path;
use std::sync::Arc;

use catamaran::{Bytes, Options};
use tokio::runtime::Runtime;

use super::{Clients, NODES};
use crate::Result;
use crate::nodes::Nodes;
use crate::turns::{Turn, Worker, runtime, tasks, threads};

struct Cluster<'a> {
    nodes: Nodes,
    clients: Clients<'a>,
}

fn cluster<'a>(dir: &Path, clients: Clients<'a>) -> Result<Cluster<'a>> {
    let nodes = Nodes::start(dir, NODES.count(), &Options::default())?;
    Ok(Cluster { nodes, clients })
}

/// Its clients are threads.
pub(super) fn threaded<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    Ok(Box::new(cluster(dir, clients)?))
}

/// Its clients are tasks that await their proposals.
pub(super) fn awaited<'a>(dir: &Path, clients: Clients<'a>) -> Result<Box<dyn Worker + 'a>> {
    let Cluster { nodes, clients } = cluster(dir, clients)?;
    Ok(Box::new(Awaited {
        nodes: Arc::new(nodes),
        clients,
        runtime: runtime()?,
    }))
}

impl Worker for Cluster<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let leader = self.nodes.leader();
        threads(self.clients.count, |_| {
            leader.propose(self.clients.entry)?.wait()?;
            Ok(())
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

struct Awaited<'a> {
    nodes: Arc<Nodes>,
    clients: Clients<'a>,
    runtime: Runtime,
}

impl Worker for Awaited<'_> {
    fn turn(&mut self) -> Result<Turn> {
        let (nodes, entry) = (Arc::clone(&self.nodes), Bytes::from(self.clients.entry));
        tasks(&self.runtime, self.clients.count, move || {
            // A new buffer each, as if it came from outside.
            let proposal = nodes.leader().propose(Bytes::from(&*entry));
            async move {
                proposal?.await?;
                Ok(())
            }
        })
    }

    fn close(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}
