//! Hosts that run signed modules alone, signed one by one or with their image.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sqlx::Executor as _;

use super::common::{Host, HostBuilder, wait_until};
use super::fleet::Fleet;
use super::images::{deploy, folder, push, run, text};
use super::operate::{echo, manifest};
use super::registry::{Registry, signed};
use super::scripts::unique;

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
