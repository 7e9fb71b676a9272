//! Threads that share a number of requests among them.

use std::sync::Barrier;
use std::time::{Duration, Instant};

/// How long `all` requests take so many clients, each of which is told how many are its own. They begin together.
pub(crate) fn share(clients: u64, all: u64, client: impl Fn(u64) + Sync) -> Duration {
    let gate = Barrier::new(usize::try_from(clients + 1).expect("that many threads"));
    let mut start = None;
    std::thread::scope(|scope| {
        for number in 0..clients {
            let own = all / clients + u64::from(number < all % clients);
            let (gate, client) = (&gate, &client);
            scope.spawn(move || {
                gate.wait();
                client(own);
            });
        }
        gate.wait();
        start = Some(Instant::now());
    });
    start.expect("a start").elapsed()
}
