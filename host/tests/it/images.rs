//! Agents through an OCI registry.

use std::path::Path;

use oci_client::client::ImageLayer;
use serde_json::{Value, json};

use super::common::{Host, HostBuilder, agent_host};
use super::operate::{echo, manifest};
use super::registry::{Registry, USER};
use super::scripts::unique;

/// How a command ended.
pub(crate) struct Ended {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ended {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }

    /// It was refused as what was given is wrong, and said this.
    pub(crate) fn refused(&self, with: &str) {
        assert!(self.status == 64 && self.err.contains(with), "{with}: {} {}{}", self.status, self.out, self.err);
    }
}

/// Runs a command with nothing that somebody has logged in to.
pub(crate) async fn run(vars: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = agent_host();
    command.args(arguments).env("HOME", nowhere.path()).env_remove("DOCKER_CONFIG").envs(vars.iter().copied());
    let ended = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// Deploys to a host.
pub(crate) async fn deploy(host: &Host, arguments: &[&str]) -> Ended {
    run(&[("AGENT_HOST_URL", &host.url(""))], &[&["deploy"], arguments].concat()).await
}

/// An agent's folder.
pub(crate) fn folder(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("agent.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("m.wasm"), echo()).unwrap();
    folder
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Pushes, and gives the address with the digest and the digest.
pub(crate) async fn push(folder: &tempfile::TempDir, image: &str) -> (String, String) {
    let pushed = run(&[], &["push", text(folder.path()), image, "--format", "json"]).await.json();
    (pushed["image"].as_str().unwrap().to_owned(), pushed["digest"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn an_agent_is_pushed_and_deployed_by_its_digest_alone() {
    let (host, registry) = (HostBuilder::bare().start().await, Registry::start().await);
    let name = unique("image");
    let folder = folder(&manifest(&name, "one"));
    let tagged = registry.image(&format!("team/{name}:1"));
    let (pinned, digest) = push(&folder, &tagged).await;
    assert_eq!(pinned, format!("{tagged}@{digest}"));
    assert_eq!(push(&folder, &tagged).await.1, digest, "the same agent is the same image");
    // A tag is resolved for the reader, and not followed.
    deploy(&host, &[&tagged]).await.refused(&format!("agent-host deploy {pinned}"));
    let untagged = registry.image(&format!("team/{name}@{digest}"));
    let deployed = deploy(&host, &[&untagged]).await;
    assert_eq!(deployed.status, 0, "{}", deployed.err);
    assert!(deployed.out.contains(&format!("{name} is deployed as revision 1 (active)")), "{}", deployed.out);
    assert_eq!(host.run(&name, "text/plain", "through a registry").await.text().await.unwrap(), "through a registry");
    assert!(deploy(&host, &[&pinned]).await.out.contains("is deployed already as revision 1"));

    let other = format!("sha256:{}", "0".repeat(64));
    deploy(&host, &[&registry.image(&format!("team/{name}@{other}"))]).await.refused("has no image");
    deploy(&host, &[&registry.image(&format!("team/{name}@sha256:00"))]).await.refused("expected such as oci://");
    let (gone, _) = push(&folder, &registry.image("gone:1")).await;
    registry.corrupt(&echo());
    deploy(&host, &[&gone]).await.refused("Invalid digest");
}

#[tokio::test]
async fn an_image_of_another_tool_needs_its_agent_toml_beside_it() {
    let (host, registry) = (HostBuilder::bare().start().await, Registry::start().await);
    let name = unique("image");
    let layer = |bytes: Vec<u8>, kind: &str| ImageLayer::new(bytes, kind.to_owned(), None);
    let config = "application/vnd.wasm.config.v0+json";
    let digest = registry.push("plain:1", layer(echo(), "application/wasm"), config).await;
    let image = registry.image(&format!("plain@{digest}"));
    deploy(&host, &[&image]).await.refused("--manifest FILE");
    let folder = folder(&manifest(&name, "one"));
    let toml = folder.path().join("agent.toml");
    let deployed = deploy(&host, &[&image, "--manifest", text(&toml)]).await;
    assert_eq!(deployed.status, 0, "{}", deployed.err);
    deploy(&host, &[text(folder.path()), "--manifest", text(&toml)]).await.refused("goes with an image");
    let digest = registry.push("tar:1", layer(b"x".to_vec(), "application/x-tar"), config).await;
    let image = registry.image(&format!("tar@{digest}"));
    deploy(&host, &[&image, "--manifest", text(&toml)]).await.refused("application/x-tar");
}

#[tokio::test]
async fn migrations_go_with_the_image() {
    let (host, registry) = (HostBuilder::bare().start().await, Registry::start().await);
    let name = unique("image");
    let with_sql = format!("{}[grants]\nsql = [{{ name = \"main\", migrations = \"sql\" }}]\n", manifest(&name, "one"));
    let folder = folder(&with_sql);
    std::fs::create_dir(folder.path().join("sql")).unwrap();
    std::fs::write(folder.path().join("sql/0001_a.sql"), "CREATE TABLE \"ä\" ()").unwrap();
    let (pinned, _) = push(&folder, &registry.image("sql:1")).await;
    let plan = deploy(&host, &[&pinned, "--plan", "--format", "json"]).await.json();
    let expected = json!({ "what": "migration 0001_a.sql", "from": null, "to": "CREATE TABLE \"ä\" ()" });
    assert!(plan["differences"].as_array().unwrap().contains(&expected), "{plan}");
}

#[tokio::test]
async fn a_registry_is_told_who_asks() {
    let registry = Registry::closed().await;
    let folder = folder(&manifest(&unique("image"), "one"));
    let image = registry.image("closed:1");
    let push = ["push", text(folder.path()), image.as_str()];
    let refused = run(&[], &push).await;
    assert!(refused.status == 64 && refused.err.contains("docker login"), "{}", refused.err);
    let user = ("AGENT_HOST_REGISTRY_USER", USER.0);
    run(&[user], &push).await.refused("AGENT_HOST_REGISTRY_PASSWORD");
    let password = ("AGENT_HOST_REGISTRY_PASSWORD", USER.1);
    let server = image.strip_prefix("oci://").unwrap().split('/').next().unwrap();
    let host = ("AGENT_HOST_REGISTRY_HOST", server);
    run(&[user, password], &push).await.refused(&format!("AGENT_HOST_REGISTRY_HOST={server}"));
    run(&[user, password, (host.0, "registry.example")], &push).await.refused("are not sent to");
    let wrong = run(&[user, host, (password.0, "hunter3")], &push).await;
    assert!(wrong.status == 64 && !wrong.err.contains("hunter3"), "{}", wrong.err);
    // A proxy of the environment is none for this machine.
    let pushed = run(&[user, host, password, ("http_proxy", "http://127.0.0.1:1")], &push).await;
    assert_eq!(pushed.status, 0, "{}", pushed.err);
    // As docker login leaves it.
    use base64::Engine as _;
    let auth = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", USER.0, USER.1));
    let docker = tempfile::tempdir().unwrap();
    let config = json!({ "auths": { server: { "auth": auth } } });
    std::fs::write(docker.path().join("config.json"), config.to_string()).unwrap();
    let pushed = run(&[("DOCKER_CONFIG", text(docker.path()))], &push).await;
    assert_eq!(pushed.status, 0, "{}", pushed.err);
    // A credential helper that has none for it, as docker's own say so.
    let helper = docker.path().join("docker-credential-none");
    std::fs::write(&helper, "#!/bin/sh\ncat >/dev/null\necho credentials not found in native keychain\nexit 1\n")
        .unwrap();
    std::fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(docker.path().join("config.json"), json!({ "credsStore": "none" }).to_string()).unwrap();
    let path = format!("{}:{}", text(docker.path()), std::env::var("PATH").unwrap());
    let open = Registry::start().await;
    let vars = [("DOCKER_CONFIG", text(docker.path())), ("PATH", &path)];
    let pushed = run(&vars, &["push", text(folder.path()), &open.image("open:1")]).await;
    assert_eq!(pushed.status, 0, "{}", pushed.err);
}

/// A registry of a few lines, whose answers have no end at this path. It asks for a token where that is the one.
async fn endless(at: &'static str) -> (String, tokio::task::JoinHandle<()>) {
    use axum::http::{Request, StatusCode, header};
    use axum::response::IntoResponse as _;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answer = move |request: Request<axum::body::Body>| async move {
        if request.uri().path().contains(at) {
            let chunks = futures::stream::repeat_with(|| Ok::<_, std::convert::Infallible>(vec![b' '; 1 << 16]));
            return axum::body::Body::from_stream(chunks).into_response();
        }
        if at != "/token" {
            return StatusCode::OK.into_response();
        }
        let challenge = format!("Bearer realm=\"http://{address}/token\",service=\"s\"");
        (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, challenge)]).into_response()
    };
    let serving = axum::serve(listener, axum::Router::new().fallback(answer));
    (format!("oci://{address}/team/agent"), tokio::spawn(async move { serving.await.unwrap() }))
}

/// A registry, or who answers in its place, may send without end. No more is read than there may be.
#[tokio::test]
async fn a_registry_that_answers_without_end_is_given_up() {
    let digest = format!("sha256:{}", "0".repeat(64));
    for (at, address, told) in [
        ("/manifests/", format!("@{digest}"), "answers with more than"),
        ("/manifests/", ":1".to_owned(), "answers with more than"),
        // Without a token it is asked all the same.
        ("/token", ":1".to_owned(), "Not authorized"),
    ] {
        let (image, serving) = endless(at).await;
        // No host is asked: it fails before.
        run(&[], &["deploy", &format!("{image}{address}")]).await.refused(told);
        serving.abort();
    }
}
