//! How much of a folder is in use, counted while agents write. Neither WASI nor cap-std knows a quota.
//!
//! The count is never below what agents made: everything that grows a folder takes from it first, under the folder's lock;
//! what shrinks it only makes the count stale. A count that is stale, or old, is made anew by walking over the folder, before
//! anything is refused because of it.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt as _};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use cap_std::fs::{Dir, MetadataExt as _, ReadDir};
use tokio::sync::OwnedMutexGuard;

use super::limits::{COUNT_AGE_MAX, DEPTH_MAX, FULL_AGE_MAX};

/// What a grant allows its folder to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Quota {
    /// Sum of the files' lengths, holes included.
    pub(super) bytes_max: u64,
    /// Files, folders and links.
    pub(super) entries_max: u64,
}

/// What a folder holds. One for all grants of the same folder.
#[derive(Debug)]
pub(super) struct Usage {
    dir: Dir,
    count: Arc<tokio::sync::Mutex<Count>>,
    /// Files that guests have opened: one that is removed while it is open still takes its room.
    opened: Mutex<Vec<Weak<File>>>,
    /// Such a file was closed since the last count.
    was_freed: AtomicBool,
}

#[derive(Debug, Default)]
struct Count {
    bytes: u64,
    entries: u64,
    counted_at: Option<Instant>,
    /// Something may be gone since.
    is_stale: bool,
}

impl Usage {
    pub(super) fn new(dir: Dir) -> Arc<Self> {
        Arc::new(Self { dir, count: Arc::default(), opened: Mutex::default(), was_freed: AtomicBool::new(false) })
    }

    /// Waits until nobody else changes the folder.
    pub(super) async fn lock(self: &Arc<Self>) -> Locked {
        let count = Arc::clone(&self.count).lock_owned().await;
        Locked { usage: Arc::clone(self), count }
    }

    /// Remembers a file that a guest opened.
    pub(super) fn opened(&self, file: &Arc<File>) {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        // Only where it would grow: then forgetting costs no more than remembering did.
        if opened.len() == opened.capacity() {
            opened.retain(|file| file.strong_count() > 0);
        }
        opened.push(Arc::downgrade(file));
    }

    /// Remembers that a guest closed a file.
    pub(super) fn closed(&self, file: &File) {
        if file.metadata().is_ok_and(|metadata| metadata.nlink() == 0) {
            self.was_freed.store(true, Ordering::Relaxed);
        }
    }

    /// Walks over the folder, but not far over the quota.
    fn walk(&self, quota: Quota) -> io::Result<(u64, u64)> {
        let (mut bytes, mut entries) = (self.removed_bytes(), 0_u64);
        let mut linked = HashSet::new();
        let mut folders: Vec<ReadDir> = vec![self.dir.entries()?];
        while let Some(folder) = folders.last_mut() {
            let Some(entry) = folder.next() else {
                folders.pop();
                continue;
            };
            entries = entries.saturating_add(1);
            if entries > quota.entries_max {
                break;
            }
            // What is gone meanwhile, or is not for this process to see, is no agent's.
            let Ok((entry, metadata)) = entry.and_then(|entry| entry.metadata().map(|metadata| (entry, metadata)))
            else {
                continue;
            };
            if !metadata.is_dir() {
                if metadata.nlink() <= 1 || linked.insert((metadata.dev(), metadata.ino())) {
                    bytes = bytes.saturating_add(metadata.len());
                }
            } else if folders.len() >= DEPTH_MAX {
                // Nothing more is made here until somebody has put it in order.
                entries = u64::MAX;
                break;
            } else if let Ok(inner) = entry.open_dir().and_then(|dir| dir.entries()) {
                folders.push(inner);
            }
        }
        Ok((bytes, entries))
    }

    /// Bytes of files that have no name any more and are still open.
    fn removed_bytes(&self) -> u64 {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.retain(|file| file.strong_count() > 0);
        let mut seen = HashSet::new();
        let files = opened.iter().filter_map(Weak::upgrade);
        let removed = files.filter_map(|file| file.metadata().ok()).filter(|metadata| metadata.nlink() == 0);
        removed.filter(|metadata| seen.insert((metadata.dev(), metadata.ino()))).map(|metadata| metadata.len()).sum()
    }
}

/// Where a write goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    At(u64),
    End,
}

/// A folder that nobody else changes now.
#[derive(Debug)]
pub(super) struct Locked {
    usage: Arc<Usage>,
    count: OwnedMutexGuard<Count>,
}

impl Locked {
    /// Notes that something may be gone from the folder, or that it is unknown what happened to it.
    pub(super) fn mark_stale(&mut self) {
        self.count.is_stale = true;
    }

    /// Takes room for what is about to be made. May walk over the folder: not for an async thread.
    ///
    /// # Errors
    /// `EDQUOT`: there is not that much.
    pub(super) fn take(&mut self, quota: Quota, bytes: u64, entries: u64) -> io::Result<()> {
        if bytes == 0 && entries == 0 {
            return Ok(());
        }
        let age = self.count.counted_at.map(|counted_at| counted_at.elapsed());
        let mut is_fresh = false;
        if age.is_none_or(|age| age > COUNT_AGE_MAX) {
            self.count_anew(quota)?;
            is_fresh = true;
        }
        if self.has_room(quota, bytes, entries) {
            return Ok(());
        }
        let is_worth_it = self.count.is_stale
            || self.usage.was_freed.load(Ordering::Relaxed)
            || age.is_none_or(|age| age > FULL_AGE_MAX);
        if !is_fresh && is_worth_it {
            self.count_anew(quota)?;
            if self.has_room(quota, bytes, entries) {
                return Ok(());
            }
        }
        Err(io::Error::from_raw_os_error(libc::EDQUOT))
    }

    fn has_room(&mut self, quota: Quota, bytes: u64, entries: u64) -> bool {
        let bytes = self.count.bytes.checked_add(bytes);
        let entries = self.count.entries.checked_add(entries);
        match (bytes, entries) {
            (Some(bytes), Some(entries)) if bytes <= quota.bytes_max && entries <= quota.entries_max => {
                self.count.bytes = bytes;
                self.count.entries = entries;
                true
            }
            _ => false,
        }
    }

    fn count_anew(&mut self, quota: Quota) -> io::Result<()> {
        // Before: what is closed while it is counted counts the next time.
        self.usage.was_freed.store(false, Ordering::Relaxed);
        let (bytes, entries) = self.usage.walk(quota)?;
        *self.count = Count { bytes, entries, counted_at: Some(Instant::now()), is_stale: false };
        Ok(())
    }

    /// Writes all of it.
    pub(super) fn write(&mut self, quota: Quota, file: &File, buffer: &[u8], place: Place) -> io::Result<()> {
        let length = file.metadata()?.len();
        let at = match place {
            Place::At(at) => at,
            Place::End => length,
        };
        let bytes = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let end = at.checked_add(bytes).ok_or_else(|| io::Error::from_raw_os_error(libc::EFBIG))?;
        // A write of nothing makes nothing longer, wherever it stands.
        let growth = if buffer.is_empty() { 0 } else { end.saturating_sub(length) };
        self.take(quota, growth, 0)?;
        file.write_all_at(buffer, at).inspect_err(|_| self.count.is_stale = true)
    }

    /// Makes a file this long.
    pub(super) fn set_length(&mut self, quota: Quota, file: &File, length: u64) -> io::Result<()> {
        let before = file.metadata()?.len();
        self.take(quota, length.saturating_sub(before), 0)?;
        self.count.is_stale |= length < before;
        file.set_len(length).inspect_err(|_| self.count.is_stale = true)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use cap_std::ambient_authority;

    use super::*;

    const QUOTA: Quota = Quota { bytes_max: 1000, entries_max: 10 };

    fn folder() -> (tempfile::TempDir, Arc<Usage>) {
        let folder = tempfile::TempDir::new().unwrap();
        let dir = Dir::open_ambient_dir(folder.path(), ambient_authority()).unwrap();
        (folder, Usage::new(dir))
    }

    fn is_full(result: io::Result<()>) -> bool {
        result.is_err_and(|error| error.raw_os_error() == Some(libc::EDQUOT))
    }

    #[tokio::test]
    async fn what_is_there_counts_and_a_hard_link_counts_once() {
        let (folder, usage) = folder();
        std::fs::create_dir_all(folder.path().join("a/b")).unwrap();
        std::fs::write(folder.path().join("a/b/one"), [0; 600]).unwrap();
        std::fs::hard_link(folder.path().join("a/b/one"), folder.path().join("two")).unwrap();
        symlink("/etc", folder.path().join("three")).unwrap();
        assert_eq!(usage.walk(QUOTA).unwrap(), (604, 5), "and the link's own length");
        let mut locked = usage.lock().await;
        assert!(is_full(locked.take(QUOTA, 397, 0)));
        assert!(is_full(locked.take(QUOTA, 0, 6)));
        locked.take(QUOTA, 396, 5).unwrap();
        assert!(is_full(locked.take(QUOTA, 1, 0)) && is_full(locked.take(QUOTA, 0, 1)));
        assert!(is_full(locked.take(QUOTA, u64::MAX, 0)) && is_full(locked.take(QUOTA, 0, u64::MAX)));
    }

    #[tokio::test]
    async fn holes_count_and_what_is_removed_counts_until_it_is_closed() {
        let (folder, usage) = folder();
        let path = folder.path().join("file");
        let file = Arc::new(File::create_new(&path).unwrap());
        usage.opened(&file);
        let mut locked = usage.lock().await;
        assert!(is_full(locked.set_length(QUOTA, &file, 1 << 40)));
        assert!(is_full(locked.write(QUOTA, &file, b"x", Place::At(1 << 40))));
        assert!(locked.write(QUOTA, &file, b"x", Place::At(u64::MAX)).is_err());
        locked.write(QUOTA, &file, b"", Place::At(1 << 40)).unwrap();
        locked.write(QUOTA, &file, &[1; 900], Place::End).unwrap();
        locked.write(QUOTA, &file, &[2; 900], Place::At(0)).unwrap();
        assert!(is_full(locked.write(QUOTA, &file, &[3; 101], Place::End)));
        assert_eq!(file.metadata().unwrap().len(), 900);

        std::fs::remove_file(&path).unwrap();
        locked.mark_stale();
        assert!(is_full(locked.take(QUOTA, 101, 0)), "it has no name, and is still there");
        drop(file);
        locked.mark_stale();
        locked.take(QUOTA, 1000, 0).unwrap();
    }

    #[tokio::test]
    async fn a_walk_does_not_go_far_over_the_quota_or_deep() {
        let (folder, usage) = folder();
        for name in 0..100 {
            std::fs::write(folder.path().join(name.to_string()), "").unwrap();
        }
        assert_eq!(usage.walk(QUOTA).unwrap().1, QUOTA.entries_max + 1);
        let mut deep = folder.path().join("deep");
        for _ in 0..=DEPTH_MAX {
            deep.push("d");
        }
        std::fs::create_dir_all(&deep).unwrap();
        assert_eq!(usage.walk(Quota { entries_max: 1000, ..QUOTA }).unwrap().1, u64::MAX);
        assert!(is_full(usage.lock().await.take(QUOTA, 0, 1)));
    }
}
