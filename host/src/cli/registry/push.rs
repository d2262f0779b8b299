//! An agent into a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use bytes::Bytes;
use http::HeaderValue;
use oci_client::errors::OciDistributionError;
use oci_client::manifest::OCI_IMAGE_MEDIA_TYPE;
use serde_json::json;

use super::{Console, Failed, Repository, Transport, within};
use crate::agents::Upload;
use crate::cli::Format;
use crate::package::Package;
use crate::signature::{MANIFEST_ANNOTATION, MIGRATIONS_ANNOTATION, WASM_CONFIG_TYPE, WASM_LAYER_TYPE, digest};

/// Most bytes of `agent.toml` and migrations: they are in the image's manifest, of which registries take 4 MiB, and JSON escapes
/// some of it.
const NOTED_BYTES_MAX: usize = 2 << 20;
/// The same agent is the same image, whenever it is pushed.
const CREATED: &str = "1970-01-01T00:00:00Z";

/// `push`
#[derive(Clone, Debug, clap::Args)]
pub(in crate::cli) struct Push {
    /// The agent's folder, or its agent.toml
    path: PathBuf,
    /// Where to, such as oci://registry.example/team/agent:1
    #[arg(value_name = "oci://REGISTRY/REPOSITORY:TAG")]
    image: String,
    #[command(flatten)]
    transport: Transport,
}

impl Push {
    pub(in crate::cli) async fn run(&self, console: &mut Console<'_>) -> Result<(), Failed> {
        let Package { upload, .. } = Package::read(&self.path)?;
        let image = Image::of(upload)?;
        let repository = Repository::of(&self.image, self.transport, console).await?;
        if repository.reference.digest().is_some() {
            return Err(Failed::usage(format!("{}: a digest comes of what is pushed: name a tag", self.image)));
        }
        let digest = digest(&image.manifest);
        within(async { repository.push(image).await.map_err(|error| repository.failed(&error)) }).await?;
        let pinned = repository.pinned(&digest);
        match console.format {
            Format::Json => console.json(&json!({ "image": pinned, "digest": digest }))?,
            Format::Text => console.text(&format!("pushed; to deploy it: agent-host deploy {pinned}"))?,
        }
        Ok(())
    }
}

impl Repository {
    async fn push(&self, image: Image) -> Result<(), OciDistributionError> {
        for blob in [image.module, image.config] {
            let digest = digest(&blob);
            self.client.push_blob(&self.reference, blob, &digest).await?;
        }
        let kind = HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE);
        // Not by the client's own writer: its canonical JSON leaves ends of lines in texts, which no registry can read.
        self.client.push_manifest_raw(&self.reference, image.manifest, kind).await.map(drop)
    }
}

/// The image of an agent, by the CNCF's layout for wasm.
struct Image {
    module: Bytes,
    config: Bytes,
    manifest: Bytes,
}

impl Image {
    fn of(upload: Upload) -> Result<Self, Failed> {
        let mut annotations = BTreeMap::new();
        // Also where there are none, so that whoever signs it signs that. Names and texts: this cannot fail.
        let migrations = serde_json::to_string(&upload.migrations).unwrap_or_default();
        annotations.insert(MIGRATIONS_ANNOTATION.to_owned(), migrations);
        annotations.insert(MANIFEST_ANNOTATION.to_owned(), upload.manifest);
        let noted: usize = annotations.values().map(String::len).sum();
        if noted > NOTED_BYTES_MAX {
            return Err(Failed::usage(format!(
                "agent.toml and its migrations have {noted} bytes; of an image they may have {NOTED_BYTES_MAX}: deploy from \
                 the folder"
            )));
        }
        // The fifth byte of a module is 1 for a core module; of a component it is 13.
        let os = if upload.module.get(4) == Some(&1) { "wasip1" } else { "wasip2" };
        let config = json!({
            "created": CREATED,
            "architecture": "wasm",
            "os": os,
            "layerDigests": [digest(&upload.module)],
        });
        let config = config.to_string().into_bytes();
        let described = |kind: &str, of: &[u8]| json!({ "mediaType": kind, "digest": digest(of), "size": of.len() });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": OCI_IMAGE_MEDIA_TYPE,
            "config": described(WASM_CONFIG_TYPE, &config),
            "layers": [described(WASM_LAYER_TYPE, &upload.module)],
            "annotations": annotations,
        });
        let manifest = manifest.to_string().into_bytes();
        Ok(Self { module: upload.module, config: config.into(), manifest: manifest.into() })
    }
}
