//! Agents through an OCI registry, and hosts that run signed modules alone.

use std::path::Path;
use std::process::Command;

use oci_client::client::ImageLayer;
use serde_json::{Value, json};
use sqlx::Executor as _;

use super::common::{Host, HostBuilder, agent_host, wait_until};
use super::fleet::Fleet;
use super::operate::{echo, manifest};
use super::registry::{Registry, USER, signed};
use super::scripts::unique;

/// How a command ended.
struct Ended {
    status: i32,
    out: String,
    err: String,
}

impl Ended {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|_| panic!("{}{}", self.out, self.err))
    }

    /// It was refused as what was given is wrong, and said this.
    fn refused(&self, with: &str) {
        assert!(self.status == 64 && self.err.contains(with), "{with}: {} {}{}", self.status, self.out, self.err);
    }
}

/// Runs a command with nothing that somebody has logged in to.
async fn run(vars: &[(&str, &str)], arguments: &[&str]) -> Ended {
    let nowhere = tempfile::tempdir().unwrap();
    let mut command = agent_host();
    command.args(arguments).env("HOME", nowhere.path()).env_remove("DOCKER_CONFIG").envs(vars.iter().copied());
    let ended = command.output().await.unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: ended.status.code().unwrap(), out: text(ended.stdout), err: text(ended.stderr) }
}

/// Deploys to a host.
async fn deploy(host: &Host, arguments: &[&str]) -> Ended {
    run(&[("AGENT_HOST_URL", &host.url(""))], &[&["deploy"], arguments].concat()).await
}

/// An agent's folder.
fn folder(manifest: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("agent.toml"), manifest).unwrap();
    std::fs::write(folder.path().join("m.wasm"), echo()).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Pushes, and gives the address with the digest and the digest.
async fn push(folder: &tempfile::TempDir, image: &str) -> (String, String) {
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

/// A key, and the file with its public part.
struct Signer {
    key: rcgen::KeyPair,
    folder: tempfile::TempDir,
}

impl Signer {
    fn new() -> Self {
        let (key, folder) = (rcgen::KeyPair::generate().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(folder.path().join("ci.pub"), key.public_key_pem()).unwrap();
        Self { key, folder }
    }

    fn public(&self) -> String {
        text(&self.folder.path().join("ci.pub")).to_owned()
    }
}

const UNSIGNED: &str = "the module is not signed by a trusted key";

#[tokio::test]
async fn a_host_with_keys_takes_signed_modules_alone() {
    let (ci, stranger) = (Signer::new(), Signer::new());
    let host = HostBuilder::bare().env("AGENT_HOST_SIGNATURE_KEYS", &ci.public()).start().await;
    let registry = Registry::start().await;
    let name = unique("signed");
    let folder = folder(&manifest(&name, "one"));
    let path = text(folder.path());
    let refused = deploy(&host, &[path]).await;
    refused.refused(UNSIGNED);
    assert!(refused.err.contains("it has no signature") && refused.err.contains("(ci.pub)"), "{}", refused.err);
    deploy(&host, &[path, "--plan"]).await.refused(UNSIGNED);
    let beside = folder.path().join("m.wasm.sig");
    std::fs::write(&beside, signed(&stranger.key, &echo())).unwrap();
    deploy(&host, &[path]).await.refused("not by one of them");
    std::fs::write(&beside, "no signature").unwrap();
    deploy(&host, &[path]).await.refused("m.wasm.sig");
    assert_eq!(host.get(&format!("/v1/agents/{name}")).await.unwrap().status(), 404);

    std::fs::write(&beside, signed(&ci.key, &echo())).unwrap();
    let deployed = deploy(&host, &[path]).await;
    assert_eq!(deployed.status, 0, "{}", deployed.err);
    assert!(
        deployed.out.contains("revision 1 (active)") && deployed.out.contains("signed by ci.pub"),
        "{}",
        deployed.out
    );
    assert_eq!(host.run(&name, "text/plain", "x").await.status(), 200);
    let shown: Value = host.get(&format!("/v1/agents/{name}")).await.unwrap().json().await.unwrap();
    assert_eq!(shown["revisions"][0]["signatures"], 1);
    let added = &shown["history"].as_array().unwrap().iter().find(|event| event["action"] == "revision-added");
    assert!(added.unwrap()["detail"].as_str().unwrap().ends_with("signed by ci.pub"), "{shown}");

    // By way of a file of any name, and over plain HTTP.
    let elsewhere = folder.path().join("elsewhere");
    std::fs::rename(&beside, &elsewhere).unwrap();
    std::fs::write(folder.path().join("agent.toml"), manifest(&name, "two")).unwrap();
    let deployed = deploy(&host, &[path, "--signature", text(&elsewhere)]).await;
    assert!(deployed.out.contains("revision 2 (active)"), "{}{}", deployed.out, deployed.err);
    let form = reqwest::multipart::Form::new()
        .part("module", reqwest::multipart::Part::bytes(echo()).file_name("m"))
        .text("manifest", manifest(&name, "three"))
        .text("signature", "!");
    let url = host.url(&format!("/v1/agents/{name}/revisions"));
    let answer = host.client().post(url).multipart(form).send().await.unwrap();
    let (status, problem) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("not a signature"), "{problem}");

    // An image: it is its manifest that cosign signs.
    std::fs::write(folder.path().join("agent.toml"), manifest(&name, "an image")).unwrap();
    let (pinned, digest) = push(&folder, &registry.image("signed:1")).await;
    deploy(&host, &[&pinned]).await.refused("it has no signature");
    registry.sign("signed", &digest, &stranger.key).await;
    deploy(&host, &[&pinned]).await.refused("not by one of them");
    registry.sign("signed", &digest, &ci.key).await;
    let deployed = deploy(&host, &[&pinned]).await;
    assert!(deployed.out.contains("revision 3 (active)"), "{}{}", deployed.out, deployed.err);
    assert_eq!(host.run(&name, "text/plain", "x").await.status(), 200);
    // Migrations that were not signed with it do not come in with it.
    let form = reqwest::multipart::Form::new()
        .part("module", reqwest::multipart::Part::bytes(echo()).file_name("m"))
        .text("manifest", manifest(&name, "an image"))
        .text("signature", registry.signature("signed", &digest, &ci.key).to_text())
        .part("migration", reqwest::multipart::Part::text("DROP TABLE a").file_name("0001.sql"));
    let url = host.url(&format!("/v1/agents/{name}/revisions"));
    let answer = host.client().post(url).multipart(form).send().await.unwrap();
    let (status, problem) = (answer.status(), answer.json::<Value>().await.unwrap());
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains("other migrations"), "{problem}");
    // A signature that is none does not keep the others from being seen.
    registry.sign_badly("signed", &digest, &ci.key).await;
    let deployed = deploy(&host, &[&pinned]).await;
    assert!(deployed.status == 0 && deployed.err.contains("left out"), "{}{}", deployed.out, deployed.err);
    // What is signed with the module is what is deployed.
    let other = folder.path().join("other.toml");
    std::fs::write(&other, manifest(&name, "another")).unwrap();
    deploy(&host, &[&pinned, "--manifest", text(&other)]).await.refused("another agent.toml");
}

#[tokio::test]
async fn what_openssl_signs_is_taken() {
    let keys = tempfile::tempdir().unwrap();
    let path = |name: &str| text(&keys.path().join(name)).to_owned();
    let openssl = |arguments: &[&str]| {
        let ended = Command::new("openssl").args(arguments).output().expect("openssl was not found: install openssl");
        assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
        ended.stdout
    };
    openssl(&["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", &path("ec.key")]);
    openssl(&["genpkey", "-algorithm", "ED25519", "-out", &path("ed.key")]);
    for key in ["ec", "ed"] {
        openssl(&["pkey", "-in", &path(&format!("{key}.key")), "-pubout", "-out", &path(&format!("{key}.pub"))]);
    }
    let trusted = format!("{}:{}", path("ec.pub"), path("ed.pub"));
    let host = HostBuilder::bare().env("AGENT_HOST_SIGNATURE_KEYS", &trusted).start().await;
    let name = unique("openssl");
    for (key, revision) in [("ec", 1), ("ed", 2)] {
        let folder = folder(&manifest(&name, key));
        let module = text(&folder.path().join("m.wasm")).to_owned();
        let private = path(&format!("{key}.key"));
        match key {
            "ec" => openssl(&["dgst", "-sha256", "-sign", &private, "-out", &path("raw"), &module]),
            _ => openssl(&["pkeyutl", "-sign", "-rawin", "-inkey", &private, "-in", &module, "-out", &path("raw")]),
        };
        openssl(&["base64", "-in", &path("raw"), "-out", &format!("{module}.sig")]);
        let deployed = deploy(&host, &[text(folder.path()), "--format", "json"]).await.json();
        assert_eq!((&deployed["revision"], &deployed["signed_by"]), (&revision.into(), &format!("{key}.pub").into()));
    }
}

/// What a host says of itself and an agent, as another one knows it.
async fn error_of(host: &Host, other: &Host, name: &str) -> Option<String> {
    let shown: Value = host.get(&format!("/v1/agents/{name}")).await.unwrap().json().await.unwrap();
    let port = other.url("").rsplit(':').next().unwrap().to_owned();
    let hosts = shown["hosts"].as_array().unwrap();
    let seen = hosts.iter().find(|host| host["host"].as_str().unwrap().ends_with(&format!(":{port}")))?;
    seen["error"].as_str().map(str::to_owned)
}

async fn rollback(host: &Host, name: &str, revision: u64) -> (u16, Value) {
    let url = host.url(&format!("/v1/agents/{name}/rollback"));
    let answer = host.client().post(url).json(&json!({ "revision": revision })).send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_host_with_keys_looks_again_when_it_loads() {
    let fleet = Fleet::start().await;
    let ci = Signer::new();
    let trusting = || fleet.host().env("AGENT_HOST_SIGNATURE_KEYS", &ci.public());
    let name = unique("signed");
    // A host without keys takes both.
    let open = fleet.host().start().await;
    let folder = folder(&manifest(&name, "unsigned"));
    let path = text(folder.path());
    assert_eq!(deploy(&open, &[path]).await.status, 0);
    std::fs::write(folder.path().join("agent.toml"), manifest(&name, "signed")).unwrap();
    std::fs::write(folder.path().join("m.wasm.sig"), signed(&ci.key, &echo())).unwrap();
    assert_eq!(deploy(&open, &[path]).await.status, 0);

    let strict = trusting().start().await;
    let (status, problem) = rollback(&strict, &name, 1).await;
    assert!(status == 422 && problem["detail"].as_str().unwrap().contains(UNSIGNED), "{problem}");
    // Another host may go there; this one keeps what it has, and says so to the fleet.
    assert_eq!(rollback(&open, &name, 1).await.0, 200);
    let error = wait_until("the strict host says so", async || error_of(&open, &strict, &name).await).await;
    assert!(error.contains(UNSIGNED), "{error}");
    assert_eq!(strict.get("/readyz").await.unwrap().status(), 503);
    let progress = deploy_progress(&open, folder.path(), &name).await;
    assert!(progress.contains("cannot:") && progress.contains("not signed"), "{progress}");
    let said = doctor(&fleet, &ci).await;
    assert!(said.contains(&format!("revision 1 of {name}")) && said.contains(UNSIGNED), "{said}");
    assert_eq!(rollback(&open, &name, 2).await.0, 200);
    wait_until("it is ready again", async || (strict.get("/readyz").await.unwrap().status() == 200).then_some(()))
        .await;
    assert!(doctor(&fleet, &ci).await.contains("all revisions that get new tasks are signed (1)"));

    // Whoever may write to the database may not thereby sign.
    let forged = signed(&Signer::new().key, &echo());
    for (tampering, expected) in [
        ("SET signatures = '[]'".to_owned(), "it has no signature"),
        (format!("SET signatures = '[{{\"signature\": \"{forged}\"}}]'"), "not by one of them"),
    ] {
        let kept: Value =
            sqlx::query_scalar(&revision("SELECT signatures FROM", "", &name)).fetch_one(&fleet.pool).await.unwrap();
        fleet.pool.execute(revision("UPDATE", &tampering, &name).as_str()).await.unwrap();
        let late = trusting().listening().await;
        let error = wait_until("the late host says so", async || error_of(&open, &late, &name).await).await;
        assert!(error.contains(expected), "{error}");
        assert!(doctor(&fleet, &ci).await.contains(expected));
        drop(late);
        fleet.pool.execute(revision("UPDATE", &format!("SET signatures = '{kept}'"), &name).as_str()).await.unwrap();
    }
    let flip = "UPDATE agent_host.modules SET bytes = set_byte(bytes, 9, get_byte(bytes, 9) # 1) WHERE part = 0";
    fleet.pool.execute(flip).await.unwrap();
    for late in [trusting().listening().await, fleet.host().listening().await] {
        let error = wait_until("the late host says so", async || error_of(&open, &late, &name).await).await;
        assert!(error.contains("somebody changed it in the database"), "{error}");
    }
    fleet.pool.execute(flip).await.unwrap();
    drop(trusting().start().await);
    drop((open, strict));
    fleet.end().await;
}

fn revision(verb: &str, what: &str, name: &str) -> String {
    format!("{verb} agent_host.revisions {what} WHERE agent = '{name}' AND revision = 2")
}

/// What a deploy prints of the fleet's hosts, where one of them cannot follow. It is of an unsigned revision.
async fn deploy_progress(host: &Host, path: &Path, name: &str) -> String {
    let signature = path.join("m.wasm.sig");
    let kept = std::fs::read(&signature).unwrap();
    std::fs::remove_file(&signature).unwrap();
    std::fs::write(path.join("agent.toml"), manifest(name, "unsigned")).unwrap();
    let ended = deploy(host, &[text(path)]).await;
    std::fs::write(signature, kept).unwrap();
    format!("{}{}", ended.out, ended.err)
}

async fn doctor(fleet: &Fleet, ci: &Signer) -> String {
    let data = tempfile::tempdir().unwrap();
    let keys = ci.public();
    let vars = [
        ("AGENT_HOST_LISTEN", "127.0.0.1:0"),
        ("AGENT_HOST_DATA_DIR", text(data.path())),
        ("DATABASE_URL", fleet.database.url()),
        ("AGENT_HOST_SIGNATURE_KEYS", &keys),
    ];
    run(&vars, &["doctor"]).await.out
}
