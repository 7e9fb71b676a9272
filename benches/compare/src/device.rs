//! The disk below a directory, as Linux tells of it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::Result;

/// The field of `/sys/dev/block/*/stat` that counts flushes.
const FLUSHES: usize = 15;

pub(crate) struct Device {
    stat: PathBuf,
    file_system: String,
}

impl Device {
    pub(crate) fn below(dir: &Path) -> Result<Self> {
        let dev = fs::metadata(dir)?.dev();
        let major = (dev >> 8 & 0xfff) | (dev >> 32 & !0xfff);
        let minor = (dev & 0xff) | (dev >> 12 & !0xff);
        let number = format!("{major}:{minor}");
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mount = mounts
            .lines()
            .find(|line| line.split(' ').nth(2) == Some(&number));
        let file_system = mount.and_then(|line| line.split_once(" - ")?.1.split(' ').next());
        Ok(Self {
            stat: Path::new("/sys/dev/block").join(number).join("stat"),
            file_system: file_system.unwrap_or("unknown file system").to_owned(),
        })
    }

    /// How often the device was asked to make its cache durable, by whomever; none if it does not count.
    pub(crate) fn flushes(&self) -> Option<u64> {
        let stat = fs::read_to_string(&self.stat).ok()?;
        stat.split_whitespace().nth(FLUSHES)?.parse().ok()
    }

    /// The machine in a few words.
    pub(crate) fn machine(&self) -> String {
        let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        let release: Vec<_> = release.split('.').take(2).collect();
        let cpus = std::thread::available_parallelism().map_or(0, usize::from);
        format!(
            "{cpus} CPUs, Linux {}, {}",
            release.join("."),
            self.file_system
        )
    }
}
