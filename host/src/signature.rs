//! Signatures of modules: which keys an operator trusts, and whether one of them vouches for a module.
//!
//! Two forms are understood, both as cosign makes them:
//! - of the module's own bytes (`cosign sign-blob`, `openssl dgst -sha256 -sign`);
//! - of an image in a registry that the module is the layer of (`cosign sign`): what is signed then is a payload that names
//!   the digest of the image's manifest, which names the digest of the module. Both are kept with the signature, so that
//!   every host can follow the chain by itself.
//!
//! Nothing is asked of a transparency log or an authority: a key is trusted because it is configured.

mod image;
mod keys;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

pub use image::{
    ImageManifest, Layer, MANIFEST_ANNOTATION, MIGRATIONS_ANNOTATION, SignedImage, WASM_CONFIG_TYPE, WASM_LAYER_TYPE,
};
pub use keys::{KEYS_MAX, KeysError, TrustedKeys, Unsigned};

/// Most signatures of one revision: each is tried with each key, and those of a module's own bytes hash all of it.
pub const SIGNATURES_MAX: usize = 8;
/// Longest text of a signature: it may hold an image's manifest, which registries take up to 4 MiB of, and its payload.
pub const SIGNATURE_BYTES_MAX: u64 = 5 << 20;
/// Most bytes of all signatures of one revision together: one of the longest. Whoever loads a revision holds them.
pub const SIGNATURES_BYTES_MAX: u64 = SIGNATURE_BYTES_MAX;
/// Longest signature itself. Those of the two supported kinds of keys have 64 to 72 bytes.
const VALUE_BYTES_MAX: usize = 256;

/// What is said to vouch for a module. Whether it does, [`TrustedKeys`] tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Signature {
    /// The signature in base64.
    signature: String,
    /// The image that was signed; nothing where it is the module's own bytes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<SignedImage>,
}

/// A text that is no signature.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a signature: {0}; expected what `cosign sign-blob` writes: one signature in base64, of the module's bytes \
     (its bundles are understood too)"
)]
pub struct InvalidSignature(String);

/// The forms that a signature may come in, beside its plain base64.
#[derive(Deserialize)]
#[serde(untagged)]
enum Document {
    Own(Signature),
    /// cosign's bundle of before version 3.
    Cosign {
        #[serde(rename = "base64Signature")]
        signature: String,
    },
    Sigstore {
        #[serde(rename = "messageSignature")]
        message: MessageSignature,
    },
}

#[derive(Deserialize)]
struct MessageSignature {
    signature: String,
}

impl Signature {
    /// A signature of the module's own bytes.
    ///
    /// # Errors
    /// [`InvalidSignature`], where it is no base64 or far too long.
    pub fn of_module(base64: &str) -> Result<Self, InvalidSignature> {
        let compact: String = base64.split_ascii_whitespace().collect();
        let signature = Self { signature: compact, image: None };
        signature.value().map(|_| signature)
    }

    /// A signature of an image that the module is the layer of.
    ///
    /// # Errors
    /// [`InvalidSignature`], likewise.
    pub fn of_image(base64: &str, image: SignedImage) -> Result<Self, InvalidSignature> {
        if image.payload.contains('\0') || image.manifest.contains('\0') {
            return Err(InvalidSignature("what was signed is no JSON".to_owned()));
        }
        Ok(Self { image: Some(image), ..Self::of_module(base64)? })
    }

    /// Reads a signature: base64, a bundle of cosign's, or the JSON that [`Signature::to_text`] writes.
    ///
    /// # Errors
    /// [`InvalidSignature`], saying what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, InvalidSignature> {
        let text = text.trim();
        if !text.starts_with('{') {
            return Self::of_module(text);
        }
        let unknown = || InvalidSignature("a JSON document without a signature of the module in it".to_owned());
        match serde_json::from_str(text).map_err(|_| unknown())? {
            Document::Own(Self { signature, image: Some(image) }) => Self::of_image(&signature, image),
            Document::Own(Self { signature, image: None })
            | Document::Cosign { signature }
            | Document::Sigstore { message: MessageSignature { signature } } => Self::of_module(&signature),
        }
    }

    /// The text that [`Signature::parse`] reads.
    #[must_use]
    pub fn to_text(&self) -> String {
        match &self.image {
            None => self.signature.clone(),
            // Strings alone: this cannot fail.
            Some(_) => serde_json::to_string(self).unwrap_or_default(),
        }
    }

    /// What it takes of memory, in bytes.
    #[must_use]
    pub fn held_bytes(&self) -> u64 {
        let image = self.image.as_ref().map_or(0, |image| image.payload.len() + image.manifest.len());
        (self.signature.len() + image) as u64
    }

    /// Its bytes.
    fn value(&self) -> Result<Vec<u8>, InvalidSignature> {
        let value = STANDARD.decode(&self.signature).map_err(|error| InvalidSignature(error.to_string()))?;
        match value.len() {
            0 => Err(InvalidSignature("it is empty".to_owned())),
            1..=VALUE_BYTES_MAX => Ok(value),
            long => Err(InvalidSignature(format!("{long} bytes, more than any that is supported"))),
        }
    }
}

/// The signatures of a revision that is added again: the new ones first, then those that it had, as many as are kept.
#[must_use]
pub fn merged(new: &[Signature], known: &[Signature]) -> Vec<Signature> {
    let mut all = Vec::<Signature>::new();
    let mut held_bytes = 0;
    for signature in new.iter().chain(known) {
        if all.contains(signature) {
            continue;
        }
        held_bytes += signature.held_bytes();
        // What is older than the first that finds no room goes, too.
        if all.len() == SIGNATURES_MAX || held_bytes > SIGNATURES_BYTES_MAX {
            break;
        }
        all.push(signature.clone());
    }
    all
}

/// `sha256:<hex>` of some bytes.
#[must_use]
pub fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest as _, Sha256};
    use std::fmt::Write as _;
    let mut text = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests;
