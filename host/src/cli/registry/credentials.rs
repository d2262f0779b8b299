//! Who a registry is told that we are.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

use super::{Exit, Failed};
use crate::config::Vars;

const USER: &str = "AGENT_HOST_REGISTRY_USER";
const PASSWORD: &str = "AGENT_HOST_REGISTRY_PASSWORD";
/// Under this name `docker login` keeps what is for its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// Where docker keeps what it was told.
fn config(vars: &dyn Vars) -> Option<PathBuf> {
    let folder = |name: &str| vars.get(name).ok().flatten().map(PathBuf::from);
    let folder = folder("DOCKER_CONFIG").or_else(|| folder("HOME").map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// From the environment, or else what `docker login` left (also in a credential helper); nothing where there is neither.
pub(super) async fn of(registry: &str, vars: &dyn Vars) -> Result<RegistryAuth, Failed> {
    let variable = |name: &str| vars.get(name).map_err(|error| Failed::usage(error.to_string()));
    match (variable(USER)?, variable(PASSWORD)?) {
        (Some(user), Some(password)) => return Ok(RegistryAuth::Basic(user, password)),
        (None, None) => {}
        _ => return Err(Failed::usage(format!("one of {USER} and {PASSWORD} is set without the other: set both"))),
    }
    let server = if registry.ends_with("docker.io") { DOCKER_HUB } else { registry }.to_owned();
    // A credential helper is another program, which may ask somebody.
    let asked = tokio::task::spawn_blocking(move || docker_credential::get_credential(&server)).await;
    match asked.map_err(|error| Failed::new(Exit::Internal, error.to_string()))? {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => Err(Failed::usage(format!(
            "docker keeps an identity token for {registry}, which is not supported: set {USER} and {PASSWORD}"
        ))),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => {
            Ok(RegistryAuth::Anonymous)
        }
        // The same, told of a file that is not there.
        Err(CredentialRetrievalError::ConfigReadError) if !config(vars).is_some_and(|path| path.exists()) => {
            Ok(RegistryAuth::Anonymous)
        }
        // Its text may hold what a helper printed.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => Err(Failed::usage(format!(
            "docker's credential helper {helper:?} failed for {registry}: log in again, or set {USER} and {PASSWORD}"
        ))),
        Err(error) => Err(Failed::usage(format!("docker's config.json: {error}: set {USER} and {PASSWORD} instead"))),
    }
}
