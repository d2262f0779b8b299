//! The keys that an operator trusts.

use std::path::{Path, PathBuf};

use ring::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey, VerificationAlgorithm};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject as _;
use spki::{ObjectIdentifier, SubjectPublicKeyInfoRef};

use super::{SIGNATURES_MAX, Signature, digest};
use crate::catalog::Migration;
use crate::text::escaped;

/// Most keys: teams have a few, and a key in use beside its successor.
pub const KEYS_MAX: usize = 8;
/// Largest file of keys: a key has about 200 bytes.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Longest reason why one signature does not hold.
const REASON_BYTES_MAX: usize = 500;

const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const ED25519_KEY: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
/// An uncompressed point of P-256: a byte that says so, and two coordinates.
const P256_POINT_BYTES: usize = 65;
const ED25519_KEY_BYTES: usize = 32;

/// Why keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("{path}: expected a file with public keys in PEM")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// What is in it cannot be used.
    #[error("{path}: {what}")]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: String,
    },
    /// Too many of them.
    #[error("more than {KEYS_MAX} keys: remove those that nobody signs with any more")]
    TooMany,
}

/// A module that no trusted key vouches for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the module is not signed by a trusted key: {why}. This host runs signed modules alone ({keys}): {mend}")]
pub struct Unsigned {
    why: String,
    keys: String,
    mend: &'static str,
}

#[derive(Clone)]
struct Key {
    name: String,
    algorithm: &'static dyn VerificationAlgorithm,
    bytes: Vec<u8>,
}

/// The keys that are trusted. Without any, everything is.
#[derive(Clone, Default)]
pub struct TrustedKeys(Vec<Key>);

impl std::fmt::Debug for TrustedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("TrustedKeys").field(&self.names()).finish()
    }
}

impl TrustedKeys {
    /// Reads the keys of these files.
    ///
    /// # Errors
    /// [`KeysError`], at the first file that is wrong.
    pub fn read(files: &[PathBuf]) -> Result<Self, KeysError> {
        let mut keys = Vec::new();
        for path in files {
            keys.extend(read_file(path)?);
        }
        if keys.len() > KEYS_MAX { Err(KeysError::TooMany) } else { Ok(Self(keys)) }
    }

    /// Whether there are none: then every module is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys' names, for people: the file, and where it has several which of them.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.0.iter().map(|key| key.name.as_str()).collect()
    }

    /// Which trusted key vouches for a module; nothing where there are no keys, and nobody needs to. With a signed image that
    /// holds an `agent.toml` or migrations, these must be the ones that are signed.
    ///
    /// # Errors
    /// [`Unsigned`], where none does.
    pub fn vouching(
        &self,
        module: &[u8],
        manifest: &str,
        migrations: &[Migration],
        signatures: &[Signature],
    ) -> Result<Option<String>, Unsigned> {
        if self.0.is_empty() {
            return Ok(None);
        }
        if signatures.is_empty() {
            return Err(self.unsigned("it has no signature".to_owned()));
        }
        let module_digest = digest(module);
        let mut why = Vec::<String>::new();
        for signature in signatures.iter().take(SIGNATURES_MAX) {
            match self.checked(signature, module, &module_digest, manifest, migrations) {
                Ok(key) => return Ok(Some(key.to_owned())),
                Err(problem) => {
                    // Parts of it are the signature's own.
                    let problem = escaped(&problem, REASON_BYTES_MAX);
                    if !why.contains(&problem) {
                        why.push(problem);
                    }
                }
            }
        }
        Err(self.unsigned(why.join("; ")))
    }

    fn checked(
        &self,
        signature: &Signature,
        module: &[u8],
        module_digest: &str,
        manifest: &str,
        migrations: &[Migration],
    ) -> Result<&str, String> {
        let value = signature.value().map_err(|error| error.to_string())?;
        let message = signature.image.as_ref().map_or(module, |image| image.payload.as_bytes());
        let verifies = |key: &&Key| UnparsedPublicKey::new(key.algorithm, &key.bytes).verify(message, &value).is_ok();
        let Some(key) = self.0.iter().find(verifies) else {
            return Err("its signature is not by one of them, or of something else".to_owned());
        };
        if let Some(image) = &signature.image {
            image.check(module_digest, manifest, migrations)?;
        }
        Ok(&key.name)
    }

    fn unsigned(&self, why: String) -> Unsigned {
        let keys = self.names().join(", ");
        let mend = "sign it (cosign sign-blob --key KEY MODULE), and deploy it with --signature FILE";
        Unsigned { why, keys, mend }
    }
}

fn read_file(path: &Path) -> Result<Vec<Key>, KeysError> {
    let unreadable = |source| KeysError::Unreadable { path: path.to_path_buf(), source };
    let unusable = |what: String| KeysError::Unusable { path: path.to_path_buf(), what };
    if std::fs::metadata(path).map_err(unreadable)?.len() > FILE_BYTES_MAX {
        return Err(unusable(format!("more than {FILE_BYTES_MAX} bytes, which no file of public keys has")));
    }
    let text = std::fs::read(path).map_err(unreadable)?;
    let found: Vec<_> = SubjectPublicKeyInfoDer::pem_slice_iter(&text)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(format!("not PEM: {error}")))?;
    if found.is_empty() {
        return Err(unusable(
            "no public key in it: expected -----BEGIN PUBLIC KEY-----, as `cosign generate-key-pair` writes into cosign.pub"
                .to_owned(),
        ));
    }
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    let several = found.len() > 1;
    let named = (1..).zip(found).map(|(number, der)| {
        let (algorithm, bytes) = usable(&der).map_err(&unusable)?;
        let name = if several { format!("{file} ({number})") } else { file.to_string() };
        Ok(Key { name, algorithm, bytes })
    });
    named.collect()
}

/// A key of a kind that is supported.
fn usable(der: &[u8]) -> Result<(&'static dyn VerificationAlgorithm, Vec<u8>), String> {
    let expected = "expected an ECDSA key on P-256 (as cosign makes them) or an Ed25519 key";
    let info =
        SubjectPublicKeyInfoRef::try_from(der).map_err(|error| format!("no public key ({error}): {expected}"))?;
    let bytes = info.subject_public_key.as_bytes().unwrap_or_default().to_vec();
    let curve = info.algorithm.parameters.and_then(|parameters| parameters.decode_as::<ObjectIdentifier>().ok());
    match (info.algorithm.oid, curve) {
        (EC, Some(P256)) if bytes.len() == P256_POINT_BYTES => Ok((&ECDSA_P256_SHA256_ASN1, bytes)),
        (ED25519_KEY, None) if bytes.len() == ED25519_KEY_BYTES => Ok((&ED25519, bytes)),
        (other, _) => Err(format!("a public key of another kind ({other}): {expected}")),
    }
}
