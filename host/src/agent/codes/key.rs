//! The key that entries are sealed with: random, made at the first start, readable for the host's user only.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::is_private;

/// Its file in the folder of code.
const KEY_FILE: &str = "key";
/// A block of the hash, the longest that it takes as it is.
const KEY_BYTES: usize = 64;
/// How often the file is looked at again where another host makes it at the same time.
const TRIES: usize = 3;

/// The key.
#[derive(Clone)]
pub(super) struct Key([u8; KEY_BYTES]);

impl Key {
    /// Reads the folder's key, or makes one. A key that others could have read is replaced, and so all entries are made
    /// anew.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        let path = folder.join(KEY_FILE);
        for _ in 0..TRIES {
            match Self::read(&path) {
                Ok(Some(key)) => return Ok(key),
                Ok(None) => {
                    tracing::warn!(
                        key = %path.display(),
                        "the key of the compiled code is damaged or open to others, and is replaced: modules are compiled anew"
                    );
                    std::fs::remove_file(&path)?;
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            match Self::make(folder, &path) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                made => return made,
            }
        }
        Err(io::Error::other(format!("{} changes all the time", path.display())))
    }

    /// The key of a file; nothing where it is none to rely on.
    fn read(path: &Path) -> io::Result<Option<Self>> {
        let mut file = File::open(path)?;
        let metadata = file.metadata()?;
        if !is_private(&metadata) || metadata.len() != KEY_BYTES as u64 {
            return Ok(None);
        }
        let mut key = [0; KEY_BYTES];
        file.read_exact(&mut key)?;
        Ok(Some(Self(key)))
    }

    /// A new key, unless somebody else makes one first.
    fn make(folder: &Path, path: &Path) -> io::Result<Self> {
        let mut key = [0; KEY_BYTES];
        getrandom::fill(&mut key).map_err(io::Error::other)?;
        // Such a file is made with mode 0600.
        let mut file = tempfile::Builder::new().prefix(super::UNFINISHED_PREFIX).tempfile_in(folder)?;
        file.write_all(&key)?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|failed| failed.error)?;
        File::open(folder)?.sync_all()?;
        Ok(Self(key))
    }

    pub(super) fn bytes(&self) -> &[u8; KEY_BYTES] {
        &self.0
    }
}
