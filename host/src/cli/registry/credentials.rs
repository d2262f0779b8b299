//! Who a registry is told that we are.

use std::path::PathBuf;

use docker_credential::{CredentialRetrievalError, DockerCredential};
use oci_client::secrets::RegistryAuth;

use super::{Exit, Failed};
use crate::config::Vars;

const USER: &str = "AGENT_HOST_REGISTRY_USER";
const PASSWORD: &str = "AGENT_HOST_REGISTRY_PASSWORD";
/// The registry that they are for: what an address names, somebody else may have written.
const HOST: &str = "AGENT_HOST_REGISTRY_HOST";
/// Under this name `docker login` keeps what is for its own registry.
const DOCKER_HUB: &str = "https://index.docker.io/v1/";

/// What Docker Hub is called, by people and by its own programs.
const DOCKER_HUB_HOSTS: [&str; 3] = ["docker.io", "index.docker.io", "registry-1.docker.io"];
/// What credential helpers print where they know of none, with exit status 1 (the protocol has no other sign).
const HELPER_HAS_NONE: &str = "credentials not found in native keychain";

fn is_docker_hub(registry: &str) -> bool {
    DOCKER_HUB_HOSTS.iter().any(|host| registry.eq_ignore_ascii_case(host))
}

/// Whether two addresses, `HOST` or `HOST:PORT`, are of one registry.
fn is_same(one: &str, other: &str) -> bool {
    one.eq_ignore_ascii_case(other) || (is_docker_hub(one) && is_docker_hub(other))
}

/// Where docker keeps what it was told.
fn config(vars: &dyn Vars) -> Option<PathBuf> {
    let folder = |name: &str| vars.get(name).ok().flatten().map(PathBuf::from);
    let folder = folder("DOCKER_CONFIG").or_else(|| folder("HOME").map(|home| home.join(".docker")));
    folder.map(|folder| folder.join("config.json"))
}

/// What the environment holds for this registry.
fn of_environment(registry: &str, vars: &dyn Vars) -> Result<Option<RegistryAuth>, Failed> {
    let variable = |name: &str| vars.get(name).map_err(|error| Failed::usage(error.to_string()));
    let (user, password) = match (variable(USER)?, variable(PASSWORD)?) {
        (Some(user), Some(password)) => (user, password),
        (None, None) => return Ok(None),
        _ => return Err(Failed::usage(format!("one of {USER} and {PASSWORD} is set without the other: set both"))),
    };
    match variable(HOST)? {
        Some(host) if is_same(&host, registry) => Ok(Some(RegistryAuth::Basic(user, password))),
        Some(host) => Err(Failed::usage(format!(
            "{USER} and {PASSWORD} are for the registry {host:?} ({HOST}) and are not sent to {registry}: unset them, or set \
             all three for it"
        ))),
        None => Err(Failed::usage(format!(
            "{USER} and {PASSWORD} are set, and not which registry they are for: set {HOST}, such as {HOST}={registry}"
        ))),
    }
}

/// From the environment, or else what `docker login` left (also in a credential helper); nothing where there is neither.
pub(super) async fn of(registry: &str, vars: &dyn Vars) -> Result<RegistryAuth, Failed> {
    if let Some(auth) = of_environment(registry, vars)? {
        return Ok(auth);
    }
    let server = if is_docker_hub(registry) { DOCKER_HUB } else { registry }.to_owned();
    // A credential helper is another program, which may ask somebody.
    let asked = tokio::task::spawn_blocking(move || docker_credential::get_credential(&server)).await;
    match asked.map_err(|error| Failed::new(Exit::Internal, error.to_string()))? {
        Ok(DockerCredential::UsernamePassword(user, password)) => Ok(RegistryAuth::Basic(user, password)),
        Ok(DockerCredential::IdentityToken(_)) => Err(Failed::usage(format!(
            "docker keeps an identity token for {registry}, which is not supported: set {USER}, {PASSWORD} and {HOST}"
        ))),
        Err(CredentialRetrievalError::ConfigNotFound | CredentialRetrievalError::NoCredentialConfigured) => {
            Ok(RegistryAuth::Anonymous)
        }
        // The same, told of a file that is not there.
        Err(CredentialRetrievalError::ConfigReadError) if !config(vars).is_some_and(|path| path.exists()) => {
            Ok(RegistryAuth::Anonymous)
        }
        Err(CredentialRetrievalError::HelperFailure { ref stdout, ref stderr, .. })
            if [stdout, stderr].iter().any(|said| said.contains(HELPER_HAS_NONE)) =>
        {
            Ok(RegistryAuth::Anonymous)
        }
        // Its text may hold what a helper printed.
        Err(CredentialRetrievalError::HelperFailure { helper, .. }) => Err(Failed::usage(format!(
            "docker's credential helper {helper:?} failed for {registry}: log in again, or set {USER}, {PASSWORD} and {HOST}"
        ))),
        Err(error) => {
            Err(Failed::usage(format!("docker's config.json: {error}: set {USER}, {PASSWORD} and {HOST} instead")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MapVars;

    #[test]
    fn docker_hub_is_known_by_its_exact_names() {
        for name in ["docker.io", "index.docker.io", "registry-1.docker.io", "Docker.IO"] {
            assert!(is_docker_hub(name), "{name}");
        }
        for name in ["evildocker.io", "docker.io.evil.example", "evil.docker.io", "docker.io:5000", ""] {
            assert!(!is_docker_hub(name), "{name}");
        }
    }

    #[test]
    fn credentials_of_the_environment_go_to_the_registry_that_they_are_for() {
        let of = |registry: &str, host: Option<&str>| {
            let vars = [(USER, "ada"), (PASSWORD, "hunter2"), (HOST, host.unwrap_or_default())];
            of_environment(registry, &MapVars::new(&vars)).map_err(|failed| failed.message)
        };
        for (registry, host) in [("r.example:5000", "R.example:5000"), ("index.docker.io", "docker.io")] {
            assert!(matches!(of(registry, Some(host)), Ok(Some(RegistryAuth::Basic(_, _)))), "{registry}");
        }
        for (registry, host) in
            [("evil.example", "r.example"), ("r.example:81", "r.example"), ("evildocker.io", "docker.io")]
        {
            let why = of(registry, Some(host)).unwrap_err();
            assert!(why.contains("are not sent to") && why.contains(HOST) && !why.contains("hunter2"), "{why}");
        }
        assert!(of("r.example", None).unwrap_err().contains("AGENT_HOST_REGISTRY_HOST=r.example"));
        assert!(matches!(of_environment("r.example", &MapVars::new(&[])), Ok(None)));
    }
}
