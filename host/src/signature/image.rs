//! A module as the layer of an image in an OCI registry, and what is signed there.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::digest;
use crate::catalog::Migration;

/// Media type of the config of an image that holds a module (the CNCF's layout for wasm).
pub const WASM_CONFIG_TYPE: &str = "application/vnd.wasm.config.v0+json";
/// Media type of its one layer.
pub const WASM_LAYER_TYPE: &str = "application/wasm";
/// Annotation of the image's manifest that holds the text of `agent.toml`. The layout allows for one layer alone.
pub const MANIFEST_ANNOTATION: &str = "vnd.agent-host.manifest.v1+toml";
/// Annotation with the SQL migrations: a JSON array of `{"name", "sql"}`.
pub const MIGRATIONS_ANNOTATION: &str = "vnd.agent-host.migrations.v1+json";
/// What cosign calls its payloads.
const PAYLOAD_TYPE: &str = "cosign container image signature";

/// An image that was signed: what leads from the signature to the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedImage {
    /// What was signed: a "simple signing" document, as it is.
    pub payload: String,
    /// The image's manifest, as it is.
    pub manifest: String,
}

/// Of the manifest of an image, what is used.
#[derive(Clone, Debug, Deserialize)]
pub struct ImageManifest {
    /// Its config.
    pub config: Layer,
    /// Its layers.
    pub layers: Vec<Layer>,
    /// What was noted on it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// Something that an image consists of.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Layer {
    /// What it is.
    pub media_type: String,
    /// `sha256:<hex>` of it.
    pub digest: String,
    /// Its length in bytes.
    pub size: u64,
    /// What was noted on it.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct Payload {
    critical: Critical,
}

#[derive(Deserialize)]
struct Critical {
    #[serde(rename = "type")]
    kind: String,
    image: Image,
}

#[derive(Deserialize)]
struct Image {
    #[serde(rename = "docker-manifest-digest")]
    digest: String,
}

impl ImageManifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// What it is instead.
    pub fn parse(text: &str) -> Result<Self, String> {
        serde_json::from_str(text).map_err(|error| format!("it is no manifest of an image ({error})"))
    }

    /// The one layer that is a module.
    ///
    /// # Errors
    /// What is wrong with its layers.
    pub fn module(&self) -> Result<&Layer, String> {
        match self.layers.as_slice() {
            [layer] if layer.media_type == WASM_LAYER_TYPE => Ok(layer),
            layers => {
                let types: Vec<_> = layers.iter().take(8).map(|layer| layer.media_type.as_str()).collect();
                Err(format!("expected one layer of type {WASM_LAYER_TYPE}, found {}: {types:?}", layers.len()))
            }
        }
    }

    /// The SQL migrations that it holds, where it holds any.
    ///
    /// # Errors
    /// What they are instead.
    pub fn migrations(&self) -> Result<Option<Vec<Migration>>, String> {
        let Some(text) = self.annotations.get(MIGRATIONS_ANNOTATION) else { return Ok(None) };
        let read = serde_json::from_str(text);
        read.map(Some).map_err(|error| format!("its annotation {MIGRATIONS_ANNOTATION} holds no migrations ({error})"))
    }
}

impl SignedImage {
    /// Whether what was signed is an image of this module, and where it holds an `agent.toml`, with this one and exactly these
    /// migrations.
    pub(super) fn check(&self, module_digest: &str, manifest: &str, migrations: &[Migration]) -> Result<(), String> {
        let payload: Payload = serde_json::from_str(&self.payload)
            .map_err(|error| format!("its payload is none of cosign's ({error})"))?;
        let Critical { kind, image } = payload.critical;
        if kind != PAYLOAD_TYPE {
            return Err(format!("its payload is of the type {kind:?}, expected {PAYLOAD_TYPE:?}"));
        }
        if image.digest != digest(self.manifest.as_bytes()) {
            return Err("what was signed is another image: its payload names another manifest".to_owned());
        }
        let signed = ImageManifest::parse(&self.manifest)?;
        if signed.module()?.digest != module_digest {
            return Err("what was signed is an image with another module".to_owned());
        }
        let noted = signed.annotations.get(MANIFEST_ANNOTATION);
        if noted.is_some_and(|signed| signed != manifest) {
            return Err("what was signed is an image with another agent.toml".to_owned());
        }
        // An agent.toml that is signed without migrations has none: they would get the grants that it asks for.
        let expected = signed.migrations()?.or_else(|| noted.map(|_| Vec::new()));
        if expected.is_some_and(|signed| signed != migrations) {
            return Err("what was signed is an image with other migrations".to_owned());
        }
        Ok(())
    }
}
