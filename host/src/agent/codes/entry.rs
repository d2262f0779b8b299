//! One entry: the code as wasmtime serializes it, then a seal of 40 bytes. wasmtime reads the code as an ELF file, which
//! says itself how far it goes.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::ENTRY_SUFFIX;
use super::key::Key;

/// What a seal begins with; its end is the version of the format.
const MAGIC: &[u8; 8] = b"AHCODE01";
const TAG_BYTES: usize = 32;
const SEAL_BYTES: u64 = (MAGIC.len() + TAG_BYTES) as u64;
/// What is read at once.
const PIECE_BYTES: usize = 64 << 10;

/// Why an entry is not loaded.
#[derive(Debug, thiserror::Error)]
pub(super) enum Damaged {
    #[error("absent")]
    Absent,
    #[error("unreadable: {0}")]
    Unreadable(io::Error),
    #[error("another user's, or open to other users")]
    Open,
    #[error("cut off")]
    CutOff,
    #[error("damaged, or was not made by this host")]
    Foreign,
}

impl Damaged {
    pub(super) fn unreadable(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound { Self::Absent } else { Self::Unreadable(error) }
    }
}

/// Seals the code of one module for one engine.
pub(super) struct Seal {
    /// The hash, with everything in it that comes before the code.
    started: Hmac<Sha256>,
    name: String,
}

impl Seal {
    pub(super) fn new(key: &Key, module_digest: [u8; 32], engine: &str) -> Self {
        use std::fmt::Write as _;
        let mut started = Hmac::<Sha256>::new(key.bytes().into());
        for part in [MAGIC.as_slice(), &module_digest, engine.as_bytes()] {
            started.update(part);
        }
        let mut name = String::new();
        for byte in module_digest {
            // Writing to a String cannot fail.
            let _ = write!(name, "{byte:02x}");
        }
        let engine = engine.get(..16).unwrap_or(engine);
        Self { started, name: format!("{name}-{engine}{ENTRY_SUFFIX}") }
    }

    /// The entry's file name: the module's digest, and enough of the engine's to keep two versions apart.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Writes the seal behind the code.
    pub(super) fn close(&self, file: &mut File) -> io::Result<()> {
        file.seek(SeekFrom::Start(0))?;
        let mut hash = self.started.clone();
        hashed(&mut hash, &mut *file, u64::MAX)?;
        file.seek(SeekFrom::End(0))?;
        file.write_all(MAGIC)?;
        file.write_all(&hash.finalize().into_bytes())
    }

    /// Whether the seal fits.
    pub(super) fn check(&self, mut file: File) -> Result<(), Damaged> {
        let bytes = file.metadata().map_err(Damaged::unreadable)?.len();
        let code_bytes = bytes.checked_sub(SEAL_BYTES).ok_or(Damaged::CutOff)?;
        let mut hash = self.started.clone();
        hashed(&mut hash, &mut file, code_bytes).map_err(Damaged::unreadable)?;
        let mut seal = Vec::new();
        file.take(SEAL_BYTES).read_to_end(&mut seal).map_err(Damaged::unreadable)?;
        let tag = seal.strip_prefix(MAGIC).ok_or(Damaged::CutOff)?;
        // In constant time.
        hash.verify_slice(tag).map_err(|_| Damaged::Foreign)
    }

    /// The code of an entry in memory, where the seal fits.
    pub(super) fn opened(&self, mut entry: Vec<u8>) -> Option<Vec<u8>> {
        let code_bytes = entry.len().checked_sub(usize::try_from(SEAL_BYTES).ok()?)?;
        let seal = entry.split_off(code_bytes);
        let mut hash = self.started.clone();
        hash.update(&entry);
        hash.verify_slice(seal.strip_prefix(MAGIC)?).ok()?;
        Some(entry)
    }
}

/// Hashes so many bytes, or up to the end.
fn hashed(hash: &mut Hmac<Sha256>, input: &mut impl io::Read, bytes: u64) -> io::Result<()> {
    let mut input = input.take(bytes);
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let read = input.read(&mut piece)?;
        match piece.get(..read) {
            Some(read) if !read.is_empty() => hash.update(read),
            _ => return Ok(()),
        }
    }
}
