//! An agent out of a registry.

use std::path::Path;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use oci_client::Reference;
use oci_client::manifest::{IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};

use super::{Console, Exit, Failed, Repository, Transport, is_missing, one_line, within};
use crate::agents::{MODULE_BYTES_MAX, Upload};
use crate::manifest::Manifest;
use crate::package;
use crate::signature::{
    ImageManifest, Layer, MANIFEST_ANNOTATION, SIGNATURES_MAX, Signature, SignedImage, digest, merged,
};

/// What a manifest may come as: the OCI's form, and Docker's, which is the same for what is read here.
const ACCEPTED: [&str; 2] = [OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE];
/// Media type of what cosign signs.
const PAYLOAD_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
/// Annotation of it with the signature.
const SIGNATURE_ANNOTATION: &str = "dev.cosignproject.cosign/signature";
/// Signatures of an image that are looked at, the newest first, for [`SIGNATURES_MAX`] that are some: whoever may push can put
/// others beside them.
const SIGNATURES_LOOKED_AT_MAX: usize = 64;
/// Largest payload: cosign's have a few hundred bytes.
const PAYLOAD_BYTES_MAX: u64 = 64 << 10;

/// An agent out of a registry.
pub(in crate::cli) struct Pulled {
    pub(in crate::cli) manifest: Manifest,
    pub(in crate::cli) upload: Upload,
}

impl Pulled {
    /// Fetches the module, its `agent.toml` unless one is given, and what cosign says of it.
    pub(in crate::cli) async fn from(
        address: &str,
        transport: Transport,
        manifest: Option<&Path>,
        console: &mut Console<'_>,
    ) -> Result<Self, Failed> {
        // A wrong one is told of before anything is fetched.
        let given = manifest.map(package::described).transpose()?;
        let repository = Repository::of(address, transport, console).await?;
        within(async {
            let pinned = repository.pinned_digest(address).await?;
            let (text, image) = repository.image(&pinned).await?;
            let wrong = |what: String| Failed::usage(format!("{address}: {what}"));
            let (manifest, toml, migrations) = match given {
                Some(described) => (described.manifest, described.text, described.migrations),
                None => {
                    let toml = image.annotations.get(MANIFEST_ANNOTATION).cloned().ok_or_else(|| {
                        wrong("the image holds no agent.toml: name one with --manifest FILE".to_owned())
                    })?;
                    let manifest = Manifest::parse(&toml).map_err(|error| wrong(format!("its agent.toml: {error}")))?;
                    (manifest, toml, image.migrations().map_err(wrong)?.unwrap_or_default())
                }
            };
            let layer = image.module().map_err(wrong)?;
            let module = repository.blob(layer, MODULE_BYTES_MAX.0, "the module").await?;
            let signatures = repository.signatures(&pinned, &text, console).await?;
            Ok(Self { manifest, upload: Upload { module, manifest: toml, migrations, signatures } })
        })
        .await
    }
}

impl Repository {
    /// The digest that the address pins. A tag may be moved to something else between two looks, so it is resolved for the
    /// reader and not followed.
    async fn pinned_digest(&self, address: &str) -> Result<String, Failed> {
        if let Some(pinned) = self.reference.digest() {
            if pinned.starts_with("sha256:") {
                return Ok(pinned.to_owned());
            }
            return Err(Failed::usage(format!("{address}: expected a sha256 digest: it is what signatures name")));
        }
        let fetched = self.client.fetch_manifest_digest(&self.reference, &self.auth).await;
        let now = fetched.map_err(|error| self.failed(&error))?;
        // It goes into a command that somebody pastes.
        if !is_digest(&now) {
            return Err(Failed::usage(format!("{address}: what the registry calls its digest is no sha256 digest")));
        }
        Err(Failed::usage(format!(
            "{address} names a tag, which may be another image tomorrow: pin the image that it is now: agent-host deploy {}",
            self.pinned(&now)
        )))
    }

    /// The image's manifest, as it is and read.
    async fn image(&self, pinned: &str) -> Result<(String, ImageManifest), Failed> {
        let reference = self.reference.clone_with_digest(pinned.to_owned());
        let fetched = self.client.pull_manifest_raw(&reference, &self.auth, &ACCEPTED).await;
        let (bytes, _) = fetched.map_err(|error| self.failed(&error))?;
        let wrong = |what: &str| Failed::usage(format!("{}: {what}", self.pinned(pinned)));
        if digest(&bytes) != pinned {
            return Err(wrong("what the registry has is not what was pinned"));
        }
        let text = String::from_utf8(bytes.into()).map_err(|_| wrong("its manifest is no text"))?;
        let image = ImageManifest::parse(&text).map_err(|error| wrong(&error))?;
        Ok((text, image))
    }

    /// What a layer holds, held against its digest. No more is read than there may be.
    async fn blob(&self, layer: &Layer, bytes_max: u64, what: &str) -> Result<Bytes, Failed> {
        let too_large = || Failed::usage(format!("{what} has more than {bytes_max} bytes, the most that hosts take"));
        if layer.size > bytes_max {
            return Err(too_large());
        }
        let fetched = self.client.pull_blob_stream(&self.reference, layer.digest.as_str()).await;
        let mut stream = fetched.map_err(|error| self.failed(&error))?;
        let mut all = BytesMut::new();
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| self.failed(&error.into()))?;
            if all.len() as u64 + chunk.len() as u64 > layer.size {
                return Err(Failed::usage(format!("{what} is longer than the image's manifest says")));
            }
            all.extend_from_slice(&chunk);
        }
        let bytes = all.freeze();
        if digest(&bytes) == layer.digest {
            Ok(bytes)
        } else {
            Err(Failed::usage(format!("{what} is not what the image's manifest says: its digest is another")))
        }
    }

    /// What `cosign sign` put beside the image, the newest first. Whether it is any good, the host tells.
    async fn signatures(
        &self,
        pinned: &str,
        manifest: &str,
        console: &mut Console<'_>,
    ) -> Result<Vec<Signature>, Failed> {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let tag = format!("{}.sig", pinned.replace(':', "-"));
        let reference = Reference::with_tag(registry.to_owned(), repository.to_owned(), tag);
        let bytes = match self.client.pull_manifest_raw(&reference, &self.auth, &ACCEPTED).await {
            Ok((bytes, _)) => bytes,
            Err(error) if is_missing(&error) => return Ok(Vec::new()),
            Err(error) => return Err(self.failed(&error)),
        };
        let wrong = |what: String| Failed::usage(format!("the signatures of {}: {what}", self.pinned(pinned)));
        let listed = ImageManifest::parse(&String::from_utf8_lossy(&bytes)).map_err(wrong)?;
        let mut signatures = Vec::new();
        // cosign adds at the end.
        let layers = listed.layers.iter().rev().filter(|layer| layer.media_type == PAYLOAD_TYPE);
        for layer in layers.take(SIGNATURES_LOOKED_AT_MAX) {
            if signatures.len() == SIGNATURES_MAX {
                break;
            }
            match self.signature(layer, manifest).await {
                Ok(signature) => signatures.extend(signature),
                Err(failed) if failed.exit == Exit::Usage => {
                    // Anybody who may push can put one there: the others count all the same.
                    let digest = one_line(&layer.digest);
                    console.complain(&format!("a signature of the image is left out: {digest}: {}", failed.message));
                }
                Err(failed) => return Err(failed),
            }
        }
        let kept = merged(&signatures, &[]);
        if kept.len() < signatures.len() {
            console
                .complain(&format!("the newest {} signatures of the image are used: the rest is too much", kept.len()));
        }
        Ok(kept)
    }

    /// One of them; nothing where the layer holds none.
    async fn signature(&self, layer: &Layer, manifest: &str) -> Result<Option<Signature>, Failed> {
        let Some(value) = layer.annotations.get(SIGNATURE_ANNOTATION) else { return Ok(None) };
        let payload = self.blob(layer, PAYLOAD_BYTES_MAX, "what was signed").await?;
        let payload = String::from_utf8(payload.into()).map_err(|_| Failed::usage("what was signed is no text"))?;
        let image = SignedImage { payload, manifest: manifest.to_owned() };
        Signature::of_image(value, image).map(Some).map_err(|error| Failed::usage(error.to_string()))
    }
}

/// Whether a text is `sha256:<hex>`.
fn is_digest(text: &str) -> bool {
    let is_hex = |hex: &str| hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    text.strip_prefix("sha256:").is_some_and(is_hex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_nothing_else() {
        assert!(is_digest(&digest(b"x")));
        let hex = "0".repeat(64);
        for text in ["", "sha256:", "sha256:00", &format!("sha512:{hex}"), &format!("sha256:{hex};reboot"), &hex] {
            assert!(!is_digest(text), "{text}");
        }
        assert!(!is_digest(&format!("sha256:{}", "A".repeat(64))));
    }
}
