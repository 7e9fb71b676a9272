//! Messages as calls.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;

use futures_util::{Stream, StreamExt};
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, VoteRequest,
    VoteResponse,
};
use openraft::type_config::alias::{SnapshotOf, VoteOf};
use openraft::{AnyError, BasicNode, RaftNetworkFactory, RaftNetworkV2};
use parking_lot::RwLock;

use super::{Node, Types};

/// All nodes by their numbers.
#[derive(Clone, Default)]
pub(super) struct Net {
    nodes: Arc<RwLock<HashMap<u64, Node>>>,
}

impl Net {
    pub(super) fn join(&self, id: u64, node: Node) {
        self.nodes.write().insert(id, node);
    }
}

impl RaftNetworkFactory<Types> for Net {
    type Network = Link;

    async fn new_client(&mut self, target: u64, _node: &BasicNode) -> Link {
        Link {
            net: self.clone(),
            target,
        }
    }
}

pub(super) struct Link {
    net: Net,
    target: u64,
}

type Responses<'s> = BoxStream<'s, std::result::Result<StreamAppendResult<Types>, RPCError<Types>>>;

impl Link {
    fn node(&self) -> std::result::Result<Node, RPCError<Types>> {
        let node = self.net.nodes.read().get(&self.target).cloned();
        node.ok_or_else(|| unreachable(&AnyError::error("not started yet")))
    }
}

fn unreachable(error: &(impl std::error::Error + 'static)) -> RPCError<Types> {
    RPCError::Unreachable(Unreachable::new(error))
}

impl RaftNetworkV2<Types> for Link {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> std::result::Result<AppendEntriesResponse<Types>, RPCError<Types>> {
        self.node()?
            .append_entries(request)
            .await
            .map_err(|error| unreachable(&error))
    }

    /// Pipelined, as the other node is.
    fn stream_append<'s, S>(
        &'s mut self,
        requests: S,
        _option: RPCOption,
    ) -> BoxFuture<'s, std::result::Result<Responses<'s>, RPCError<Types>>>
    where
        S: Stream<Item = AppendEntriesRequest<Types>> + Send + Unpin + 'static,
    {
        Box::pin(async move {
            let responses = self.node()?.stream_append(requests);
            let responses = responses.map(|response| response.map_err(|error| unreachable(&error)));
            Ok(Box::pin(responses) as Responses<'s>)
        })
    }

    async fn vote(
        &mut self,
        request: VoteRequest<Types>,
        _option: RPCOption,
    ) -> std::result::Result<VoteResponse<Types>, RPCError<Types>> {
        self.node()?
            .vote(request)
            .await
            .map_err(|error| unreachable(&error))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<Types>,
        _snapshot: SnapshotOf<Types, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + Send + 'static,
        _option: RPCOption,
    ) -> std::result::Result<SnapshotResponse<Types>, StreamingError<Types>> {
        Err(StreamingError::Unreachable(Unreachable::new(
            &AnyError::error("no snapshots here"),
        )))
    }
}
