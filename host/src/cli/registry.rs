//! Modules in OCI registries: `deploy oci://…` and `push`.
//!
//! The command line talks to the registry, not the host: the credentials stay with the person or the job that has them, and
//! hosts need no way out. What a registry says is held against the digest that was asked for.

mod credentials;
mod pull;
mod push;

use std::time::Duration;

use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::{OciDistributionError, OciEnvelope, OciErrorCode};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use url::Url;

use super::failed::{Exit, Failed};
use super::output::{Console, one_line};

pub(super) use pull::Pulled;
pub(super) use push::Push;

/// What an image's address begins with.
pub(super) const SCHEME: &str = "oci://";

/// How long a connection to a registry may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a registry may send nothing.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// How long one command may talk to a registry: the largest module over a slow line.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(600);

/// The client takes the environment's proxies unless it is given one. Where it is given one for nobody, it takes none.
const NO_PROXY_USED: &str = "http://127.0.0.1:9";

/// How a registry is talked to.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(super) struct Transport {
    /// Talk to the registry without TLS: what is sent and fetched can be read on the way. A registry on this machine is talked
    /// to like that anyway
    #[arg(long)]
    plain_http: bool,
}

/// A repository of a registry, and the means to talk to it.
struct Repository {
    client: Client,
    auth: RegistryAuth,
    reference: Reference,
}

impl Repository {
    /// Reads an address such as `oci://registry.example/team/agent:1`.
    async fn of(address: &str, transport: Transport, console: &Console<'_>) -> Result<Self, Failed> {
        let expected = "expected such as oci://registry.example/team/agent@sha256:…";
        let rest = address.strip_prefix(SCHEME).unwrap_or(address);
        let reference: Reference =
            rest.parse().map_err(|error| Failed::usage(format!("{address}: {error}: {expected}")))?;
        let registry = reference.resolve_registry().to_owned();
        let (is_local, host) = locality(&registry);
        let protocol = if transport.plain_http || is_local { ClientProtocol::Http } else { ClientProtocol::Https };
        // An error means that one is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol,
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("agent-host/", env!("CARGO_PKG_VERSION")),
            http_proxy: is_local.then(|| NO_PROXY_USED.to_owned()),
            no_proxy: is_local.then(|| format!("{host},*")),
            ..ClientConfig::default()
        };
        let client = Client::try_from(config)
            .map_err(|error| Failed::new(Exit::Internal, format!("no client for {registry} can be made: {error}")))?;
        let auth = credentials::of(&registry, console.vars).await?;
        client.store_auth_if_needed(&registry, &auth).await;
        Ok(Self { client, auth, reference })
    }

    /// How the image is called with this digest.
    fn pinned(&self, digest: &str) -> String {
        let (registry, repository) = (self.reference.registry(), self.reference.repository());
        let tag = self.reference.tag().map_or(String::new(), |tag| format!(":{tag}"));
        format!("{SCHEME}{registry}/{repository}{tag}@{digest}")
    }

    /// What went wrong with the registry, for people.
    fn failed(&self, error: &OciDistributionError) -> Failed {
        let registry = self.reference.registry();
        let exit = match error {
            OciDistributionError::RequestError(_) => Exit::Unavailable,
            OciDistributionError::ServerError { code: 500.., .. } => Exit::Unavailable,
            _ => Exit::Usage,
        };
        if is_missing(error) {
            let image = self.reference.whole();
            return Failed::usage(format!("registry {registry} has no image {image}; agent-host push puts one there"));
        }
        let mut text = match error {
            // What was asked for is known; the addresses are long.
            OciDistributionError::RegistryError { envelope, .. } => one_line(&envelope.to_string()),
            OciDistributionError::ServerError { code, message, .. } => {
                let envelope = serde_json::from_str::<OciEnvelope>(message);
                let said = envelope.map_or_else(|_| message.clone(), |envelope| envelope.to_string());
                format!("status {code}: {}", one_line(&said))
            }
            error => one_line(&error.to_string()),
        };
        let mut cause = std::error::Error::source(error);
        while let Some(error) = cause {
            text = format!("{text}: {}", one_line(&error.to_string()));
            cause = error.source();
        }
        let mend = match error {
            OciDistributionError::UnauthorizedError { .. }
            | OciDistributionError::AuthenticationFailure(_)
            | OciDistributionError::ServerError { code: 401 | 403, .. } => {
                "; log in with docker login, or set AGENT_HOST_REGISTRY_USER, _PASSWORD and _HOST"
            }
            OciDistributionError::DigestError(_) => "; what the registry has is not what was pinned",
            _ => "",
        };
        Failed::new(exit, format!("registry {registry}: {text}{mend}"))
    }
}

/// Bounds a command's talk with a registry.
async fn within<T>(talk: impl Future<Output = Result<T, Failed>>) -> Result<T, Failed> {
    let seconds = TRANSFER_TIMEOUT.as_secs();
    let late = |_| Err(Failed::new(Exit::Unavailable, format!("the registry was not done within {seconds} s")));
    tokio::time::timeout(TRANSFER_TIMEOUT, talk).await.unwrap_or_else(late)
}

/// Whether a registry is on this machine, and its host's name.
fn locality(registry: &str) -> (bool, String) {
    let url = Url::parse(&format!("http://{registry}")).ok();
    let is_local = url.as_ref().and_then(Url::host).is_some_and(|host| match host {
        url::Host::Domain(name) => name == "localhost",
        url::Host::Ipv4(address) => address.is_loopback(),
        url::Host::Ipv6(address) => address.is_loopback(),
    });
    let host = url.as_ref().and_then(Url::host_str).unwrap_or_default();
    (is_local, host.trim_matches(['[', ']']).to_owned())
}

/// Whether an error says that there is no such thing.
fn is_missing(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) | OciDistributionError::ServerError { code: 404, .. } => {
            true
        }
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NotFound | OciErrorCode::NameUnknown)
        }),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_on_this_machine_are_known() {
        for (registry, is_local) in [
            ("localhost:5000", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("registry.example", false),
            ("localhost.example:5000", false),
            ("10.0.0.1:5000", false),
        ] {
            assert_eq!(locality(registry).0, is_local, "{registry}");
        }
    }
}
