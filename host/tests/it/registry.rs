//! An OCI registry of the test's own: Debian's `docker-registry`, the reference implementation.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use agent_host::signature::{SIGNATURES_MAX, Signature, SignedImage, digest};
use base64::Engine as _;
use oci_client::client::{ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::manifest::{OCI_IMAGE_MEDIA_TYPE, OciImageManifest};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use rcgen::SigningKey as _;

use super::common::wait_until;

/// A user of a registry that asks who one is, with the bcrypt hash of the password.
pub(crate) const USER: (&str, &str) = ("ada", "hunter2");
const USERS: &str = "ada:$2b$05$abcdefghijklmnopqrstuuoXuKqgZXLiJqzfmMXDDhSFPIvxV7t8.\n";

/// A running registry. It goes with this.
pub(crate) struct Registry {
    child: Child,
    folder: tempfile::TempDir,
    address: String,
}

impl Registry {
    /// One that is open to everybody.
    pub(crate) async fn start() -> Self {
        Self::with("").await
    }

    /// One that lets [`USER`] in alone.
    pub(crate) async fn closed() -> Self {
        Self::with("auth:\n  htpasswd:\n    realm: test\n    path: USERS\n").await
    }

    async fn with(auth: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let (config, users) = (folder.path().join("config.yml"), folder.path().join("users"));
        std::fs::write(&users, USERS).unwrap();
        let auth = auth.replace("USERS", users.to_str().unwrap());
        let data = folder.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n{auth}",
            data.display()
        );
        std::fs::write(&config, text).unwrap();
        let program = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
            .map(|folder| folder.join("docker-registry"))
            .find(|program| program.is_file());
        let program = program.expect("docker-registry was not found: install the package docker-registry");
        let child = Command::new(program)
            .arg("serve")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let registry = Self { child, folder, address };
        let _ = rustls::crypto::ring::default_provider().install_default();
        wait_until("docker-registry", async || {
            let answer = reqwest::get(format!("http://{}/v2/", registry.address)).await.ok()?;
            [200, 401].contains(&answer.status().as_u16()).then_some(())
        })
        .await;
        registry
    }

    /// `oci://` and the rest, of an image in it.
    pub(crate) fn image(&self, rest: &str) -> String {
        format!("oci://{}/{rest}", self.address)
    }

    /// The file in which it keeps a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.folder.path().join("data/docker/registry/v2/blobs/sha256").join(&hex[..2]).join(hex).join("data")
    }

    /// Pushes an image of one layer, as some other tool would.
    pub(crate) async fn push(&self, rest: &str, layer: ImageLayer, config_type: &str) -> String {
        self.push_layers(rest, &[layer], config_type).await
    }

    async fn push_layers(&self, rest: &str, layers: &[ImageLayer], config_type: &str) -> String {
        let reference: Reference = format!("{}/{rest}", self.address).parse().unwrap();
        let client = Client::new(ClientConfig { protocol: ClientProtocol::Http, ..ClientConfig::default() });
        let config = Config::new(b"{}".to_vec(), config_type.to_owned(), None);
        let mut manifest = OciImageManifest::build(layers, &config, None);
        manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
        let auth = RegistryAuth::Anonymous;
        client.push(&reference, layers, config, &auth, Some(manifest)).await.unwrap();
        client.fetch_manifest_digest(&reference, &auth).await.unwrap()
    }

    /// Puts a signature beside an image, as `cosign sign --key` does.
    pub(crate) async fn sign(&self, repository: &str, image_digest: &str, key: &rcgen::KeyPair) {
        let payload = self.payload(repository, image_digest);
        let value = signed(key, payload.as_bytes());
        self.put_signatures(repository, image_digest, &[(payload, value)]).await;
    }

    /// Likewise, and after it more that are none than are kept.
    pub(crate) async fn sign_badly(&self, repository: &str, image_digest: &str, key: &rcgen::KeyPair) {
        let payload = self.payload(repository, image_digest);
        let value = signed(key, payload.as_bytes());
        let bad = |number| (format!("{payload}{}", " ".repeat(number)), "no base64!".to_owned());
        let bad: Vec<_> = (1..=SIGNATURES_MAX).map(bad).collect();
        self.put_signatures(repository, image_digest, &[vec![(payload, value)], bad].concat()).await;
    }

    /// The signature as a host is sent it.
    pub(crate) fn signature(&self, repository: &str, image_digest: &str, key: &rcgen::KeyPair) -> Signature {
        let payload = self.payload(repository, image_digest);
        let value = signed(key, payload.as_bytes());
        let manifest = std::fs::read_to_string(self.blob(image_digest)).unwrap();
        Signature::of_image(&value, SignedImage { payload, manifest }).unwrap()
    }

    fn payload(&self, repository: &str, image_digest: &str) -> String {
        let payload = serde_json::json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/{repository}", self.address) },
                "image": { "docker-manifest-digest": image_digest },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        payload.to_string()
    }

    async fn put_signatures(&self, repository: &str, image_digest: &str, signatures: &[(String, String)]) {
        let layer = |(payload, value): &(String, String)| {
            let annotations = [("dev.cosignproject.cosign/signature".to_owned(), value.clone())];
            let kind = "application/vnd.dev.cosign.simplesigning.v1+json".to_owned();
            ImageLayer::new(payload.clone().into_bytes(), kind, Some(annotations.into()))
        };
        let layers: Vec<_> = signatures.iter().map(layer).collect();
        let tag = format!("{repository}:{}.sig", image_digest.replace(':', "-"));
        self.push_layers(&tag, &layers, "application/vnd.oci.image.config.v1+json").await;
    }

    /// Changes a byte of what it keeps.
    pub(crate) fn corrupt(&self, of: &[u8]) {
        let path = self.blob(&digest(of));
        let mut bytes = std::fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
        std::fs::write(path, bytes).unwrap();
    }
}

/// A signature as `cosign sign-blob --key` writes it.
pub(crate) fn signed(key: &rcgen::KeyPair, message: &[u8]) -> String {
    base64::engine::general_purpose::STANDARD.encode(key.sign(message).unwrap())
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}
