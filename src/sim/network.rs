//! The network: which link carries, and when what it carries arrives.

use super::{Faults, Rng};

/// What an undisturbed message takes, in microseconds: at least, and at most so much more.
const TRIP: (u64, u64) = (40, 260);

/// The links between the nodes, each in one direction.
pub(super) struct Network {
    nodes: usize,
    /// How often each link is cut at present.
    cuts: Vec<u32>,
    /// When the last message in order arrives, by link.
    last: Vec<u64>,
    rng: Rng,
    /// Draws of the ends of connections, apart from those of messages.
    ends: Rng,
    faults: Faults,
    /// How long a message is held up at most.
    longest: u64,
}

impl Network {
    pub(super) fn new(nodes: usize, seed: u64, faults: Faults, longest: u64) -> Self {
        Self {
            nodes,
            cuts: vec![0; nodes * nodes],
            last: vec![0; nodes * nodes],
            rng: Rng::new(seed),
            ends: Rng::new(seed ^ 0x10_57ed),
            faults,
            longest,
        }
    }

    pub(super) fn cut(&mut self, links: &[(usize, usize)]) {
        for &(from, to) in links {
            self.cuts[from * self.nodes + to] += 1;
        }
    }

    pub(super) fn heal(&mut self, links: &[(usize, usize)]) {
        for &(from, to) in links {
            let cuts = &mut self.cuts[from * self.nodes + to];
            *cuts = cuts.saturating_sub(1);
        }
    }

    /// From now on nothing is lost, doubled or late.
    pub(super) fn calm(&mut self) {
        self.cuts.fill(0);
        self.faults = Faults::none();
    }

    /// When what is sent now arrives: not at all, once, or twice.
    pub(super) fn send(&mut self, now: u64, from: usize, to: usize) -> [Option<u64>; 2] {
        let link = from * self.nodes + to;
        if self.cuts[link] > 0 || self.hits(self.faults.loss) {
            return [None, None];
        }
        let first = self.arrival(now, link);
        let second = self
            .hits(self.faults.duplication)
            .then(|| self.arrival(now, link));
        [Some(first), second]
    }

    /// When which nodes are told that their connections with `from` have ended, behind all that it said on them: not
    /// where the link is cut, and mostly at once.
    pub(super) fn end(&mut self, now: u64, from: usize) -> Vec<(u64, usize)> {
        let mut told = Vec::new();
        for to in (0..self.nodes).filter(|to| *to != from) {
            let untold = self.ends.below(1_000) < u64::from(self.faults.untold_ends);
            let mut at = now + TRIP.0 + self.ends.below(TRIP.1);
            if self.ends.chance(10) {
                at += self.ends.below(self.longest);
            }
            let link = from * self.nodes + to;
            if !untold && self.cuts[link] == 0 {
                told.push((at.max(self.last[link]), to));
            }
        }
        told
    }

    fn arrival(&mut self, now: u64, link: usize) -> u64 {
        let mut at = now + TRIP.0 + self.rng.below(TRIP.1);
        if self.hits(self.faults.delay) {
            at += self.rng.below(self.longest);
            // Mostly a lone straggler; sometimes the link stalls, and all that follows waits.
            if self.rng.chance(75) {
                return at;
            }
        }
        if self.hits(self.faults.reordering) {
            return at;
        }
        at = at.max(self.last[link]);
        self.last[link] = at;
        at
    }

    fn hits(&mut self, per_thousand: u32) -> bool {
        per_thousand > 0 && self.rng.below(1_000) < u64::from(per_thousand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrivals(faults: Faults, count: usize) -> Vec<[Option<u64>; 2]> {
        let mut network = Network::new(2, 7, faults, 50_000);
        let sent = (0..count).map(|at| network.send(at as u64, 0, 1));
        sent.collect()
    }

    #[test]
    fn a_network_without_faults_keeps_everything_and_its_order() {
        let arrived = arrivals(Faults::none(), 1_000);
        assert!(arrived.iter().all(|[_, second]| second.is_none()));
        let first: Vec<_> = arrived.iter().map(|[first, _]| first.unwrap()).collect();
        assert!(first.is_sorted());
    }

    #[test]
    fn each_fault_of_messages_comes_at_its_own_rate() {
        let one = |loss, duplication, reordering, delay| Faults {
            loss,
            duplication,
            reordering,
            delay,
            ..Faults::none()
        };
        let lost = arrivals(one(100, 0, 0, 0), 10_000);
        let lost = lost.iter().filter(|[first, _]| first.is_none()).count();
        assert!((800..1_200).contains(&lost), "{lost}");
        let twice = arrivals(one(0, 100, 0, 0), 10_000);
        let twice = twice.iter().filter(|[_, second]| second.is_some()).count();
        assert!((800..1_200).contains(&twice), "{twice}");
        let out_of_order = |faults| {
            let arrived = arrivals(faults, 1_000);
            let first: Vec<_> = arrived.iter().map(|[first, _]| first.unwrap()).collect();
            !first.is_sorted()
        };
        assert!(out_of_order(one(0, 0, 100, 0)));
        assert!(out_of_order(one(0, 0, 0, 100)));
    }

    #[test]
    fn the_end_of_a_process_is_told_behind_what_it_said_unless_the_link_is_cut() {
        let mut network = Network::new(3, 7, Faults::none(), 50_000);
        network.cut(&[(0, 2)]);
        for now in 0..1_000 {
            let said = network.send(now, 0, 1)[0].unwrap();
            let told = network.end(now, 0);
            assert!(matches!(told[..], [(at, 1)] if at >= said), "{told:?}");
        }
        let faults = Faults {
            untold_ends: 300,
            ..Faults::none()
        };
        let mut network = Network::new(2, 7, faults, 50_000);
        let told = (0..1_000).filter(|now| !network.end(*now, 0).is_empty());
        assert!((600..800).contains(&told.count()));
    }

    #[test]
    fn a_link_carries_again_once_every_cut_has_healed() {
        let mut network = Network::new(2, 7, Faults::none(), 50_000);
        network.cut(&[(0, 1)]);
        network.cut(&[(0, 1), (1, 0)]);
        network.heal(&[(0, 1), (1, 0)]);
        assert_eq!(network.send(0, 0, 1), [None, None]);
        assert!(network.send(0, 1, 0)[0].is_some());
        network.heal(&[(0, 1)]);
        assert!(network.send(0, 0, 1)[0].is_some());
    }
}
