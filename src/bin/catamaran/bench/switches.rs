//! How often threads gave their processor up, and how often it was taken from them.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// What each thread of some processes had come to when it was looked at, by where the system tells of it.
pub(super) struct Look(HashMap<PathBuf, Switches>);

impl Look {
    /// At all threads of these processes but the one that looks.
    ///
    /// # Errors
    /// If a process has ended, or what the system says.
    pub(super) fn at(pids: &[u32]) -> io::Result<Self> {
        let own = own_thread()?;
        let mut seen = HashMap::new();
        for pid in pids {
            for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
                let thread = thread?.path();
                // One that has just ended is not seen.
                if thread != own
                    && let Some(switches) = Switches::of(&thread)
                {
                    seen.insert(thread, switches);
                }
            }
        }
        Ok(Self(seen))
    }

    /// What came to those that were there before and are here still. Who began or ended meanwhile counts for nothing.
    pub(super) fn since(&self, before: &Self) -> Switches {
        let mut sum = Switches::default();
        for (thread, now) in &self.0 {
            if let Some(then) = before.0.get(thread) {
                sum.voluntary += now.voluntary.saturating_sub(then.voluntary);
                sum.involuntary += now.involuntary.saturating_sub(then.involuntary);
            }
        }
        sum
    }
}

fn own_thread() -> io::Result<PathBuf> {
    Ok(Path::new("/proc").join(fs::read_link("/proc/thread-self")?))
}

#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Switches {
    /// The thread had to wait for something.
    pub(super) voluntary: u64,
    /// Its time was up, or another had to run.
    pub(super) involuntary: u64,
}

impl Switches {
    pub(super) fn add(&mut self, more: Self) {
        self.voluntary += more.voluntary;
        self.involuntary += more.involuntary;
    }

    /// Of one thread; none if it has ended.
    fn of(thread: &Path) -> Option<Self> {
        Self::in_status(&fs::read_to_string(thread.join("status")).ok()?)
    }

    fn in_status(status: &str) -> Option<Self> {
        let number = |key| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.trim().parse().ok()
        };
        Some(Self {
            voluntary: number("voluntary_ctxt_switches:")?,
            involuntary: number("nonvoluntary_ctxt_switches:")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use std::thread;

    fn look(threads: &[(&str, u64, u64)]) -> Look {
        let all = threads.iter().map(|&(name, voluntary, involuntary)| {
            let switches = Switches {
                voluntary,
                involuntary,
            };
            (PathBuf::from(name), switches)
        });
        Look(all.collect())
    }

    #[test]
    fn a_thread_that_ends_or_begins_between_two_looks_counts_for_nothing() {
        let before = look(&[("stays", 1_000, 50), ("ends", 70_000, 9_000)]);
        let after = look(&[("stays", 1_010, 53), ("begins", 4, 2)]);
        let expected = Switches {
            voluntary: 10,
            involuntary: 3,
        };
        assert_eq!(after.since(&before), expected);
    }

    #[test]
    fn both_numbers_are_found_in_what_the_system_tells_of_a_thread() {
        let status = "Name:\traft\nState:\tS (sleeping)\nvoluntary_ctxt_switches:\t150\n\
                      nonvoluntary_ctxt_switches:\t545\n";
        let expected = Switches {
            voluntary: 150,
            involuntary: 545,
        };
        assert_eq!(Switches::in_status(status), Some(expected));
        assert_eq!(Switches::in_status("Name:\traft\n"), None);
    }

    #[test]
    fn a_thread_that_waits_for_another_is_seen_to_give_its_processor_up_and_who_looks_is_not_seen()
    {
        let (to, asked) = mpsc::channel();
        let (answer, from) = mpsc::channel();
        let answers = move || {
            asked
                .iter()
                .try_for_each(|()| answer.send(own_thread().unwrap()))
        };
        let answers = thread::spawn(answers);
        let ask = || {
            to.send(()).unwrap();
            from.recv().unwrap()
        };
        let (other, pids) = (ask(), [std::process::id()]);
        let of_other = || {
            let mut look = Look::at(&pids).unwrap();
            assert!(!look.0.contains_key(&own_thread().unwrap()));
            look.0.retain(|thread, _| *thread == other);
            assert_eq!(look.0.len(), 1);
            look
        };
        let before = of_other();
        // It may find what it waits for each time, but not that often.
        let sees = |_| {
            ask();
            of_other().since(&before).voluntary > 0
        };
        assert!((0..100_000).any(sees));
        drop(to);
        answers.join().unwrap().unwrap();
        assert!(Look::at(&[u32::MAX]).is_err());
    }
}
