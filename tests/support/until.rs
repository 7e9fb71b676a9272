//! Waiting for a node.

use std::time::{Duration, Instant};

use catamaran::{Node, NodeStatus, StateMachine};

/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until it is so.
pub(crate) fn until<M: StateMachine>(
    node: &Node<M>,
    is_so: impl Fn(&NodeStatus) -> bool,
) -> NodeStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = node.status();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never so: {status:?}");
        std::thread::yield_now();
    }
}
