//! An agent into a registry.

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_client::client::{Config, ImageLayer};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
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
        let (layer, config, manifest) = image(upload)?;
        let repository = Repository::of(&self.image, self.transport, console).await?;
        if repository.reference.digest().is_some() {
            return Err(Failed::usage(format!("{}: a digest comes of what is pushed: name a tag", self.image)));
        }
        let pushed = within(async {
            let Repository { client, auth, reference } = &repository;
            let pushed = client.push(reference, &[layer], config, auth, Some(manifest)).await;
            pushed.map_err(|error| repository.failed(&error))?;
            client.fetch_manifest_digest(reference, auth).await.map_err(|error| repository.failed(&error))
        });
        let digest = pushed.await?;
        let pinned = repository.pinned(&digest);
        Ok(match console.format {
            Format::Json => console.json(&json!({ "image": pinned, "digest": digest }))?,
            Format::Text => console.text(&format!("pushed; to deploy it: agent-host deploy {pinned}"))?,
        })
    }
}

/// The image of an agent, by the CNCF's layout for wasm.
fn image(upload: Upload) -> Result<(ImageLayer, Config, OciImageManifest), Failed> {
    let mut annotations = BTreeMap::new();
    if !upload.migrations.is_empty() {
        // Names and texts: this cannot fail.
        annotations
            .insert(MIGRATIONS_ANNOTATION.to_owned(), serde_json::to_string(&upload.migrations).unwrap_or_default());
    }
    annotations.insert(MANIFEST_ANNOTATION.to_owned(), upload.manifest);
    let noted: usize = annotations.values().map(String::len).sum();
    if noted > NOTED_BYTES_MAX {
        return Err(Failed::usage(format!(
            "agent.toml and its migrations have {noted} bytes; of an image they may have {NOTED_BYTES_MAX}: deploy from the folder"
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
    let config = Config::new(config.to_string().into_bytes(), WASM_CONFIG_TYPE.to_owned(), None);
    let layer = ImageLayer::new(upload.module, WASM_LAYER_TYPE.to_owned(), None);
    let mut manifest = OciImageManifest::build(std::slice::from_ref(&layer), &config, Some(annotations));
    manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
    Ok((layer, config, manifest))
}
