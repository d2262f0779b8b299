//! Everything by TLS: the API, and each server, which speaks it before the real one. Only an authority of the test's own vouches
//! for them.

use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::common::{HANG, HostBuilder, agent_host, service};
use super::scripts::unique;

/// A host that others can reach has to have one.
const TOKEN: (&str, &str) = ("AGENT_HOST_ADMIN_TOKEN", "of-the-operator");
/// What a client of PostgreSQL sends before it speaks TLS, and what it is answered (the protocol's `SSLRequest`).
const TLS_ASKED: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const TLS_GRANTED: &[u8] = b"S";

/// An authority, and a certificate and key of `localhost`, as files.
struct Certified {
    folder: tempfile::TempDir,
}

impl Certified {
    fn new() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().unwrap();
        let root = authority.self_signed(&authority_key).unwrap();
        let key = KeyPair::generate().unwrap();
        let server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let server = server.signed_by(&key, &Issuer::new(authority, authority_key)).unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (name, pem) in [("ca.pem", root.pem()), ("cert.pem", server.pem()), ("key.pem", key.serialize_pem())] {
            std::fs::write(folder.path().join(name), pem).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// A port of this machine where TLS is spoken, and behind it the server of this URL.
    async fn before(&self, server: &str) -> u16 {
        let chain = CertificateDer::pem_file_iter(self.path("cert.pem")).unwrap().map(Result::unwrap).collect();
        let key = PrivateKeyDer::from_pem_file(self.path("key.pem")).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let url: url::Url = server.parse().unwrap();
        let target = (url.host_str().unwrap().to_owned(), url.port().unwrap());
        let is_postgres = url.scheme().starts_with("postgres");
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (acceptor, target) = (acceptor.clone(), target.clone());
                // Who does not speak TLS gets nothing.
                tokio::spawn(async move { carry(client, &acceptor, target, is_postgres).await.ok() });
            }
        });
        port
    }
}

async fn carry(
    mut client: TcpStream,
    acceptor: &TlsAcceptor,
    target: (String, u16),
    is_postgres: bool,
) -> std::io::Result<()> {
    if is_postgres {
        let mut asked = [0; TLS_ASKED.len()];
        client.read_exact(&mut asked).await?;
        if asked != TLS_ASKED {
            return Ok(());
        }
        client.write_all(TLS_GRANTED).await?;
    }
    let mut client = acceptor.accept(client).await?;
    let mut server = TcpStream::connect(target).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// The server's URL, with this scheme and the port where TLS is spoken.
fn encrypted(server: &str, scheme: &str, port: u16, more: &str) -> String {
    let url: url::Url = server.parse().unwrap();
    let user = match (url.username(), url.password()) {
        ("", None) => String::new(),
        (user, None) => format!("{user}@"),
        (user, Some(password)) => format!("{user}:{password}@"),
    };
    format!("{scheme}://{user}localhost:{port}{}{more}", url.path())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_api_and_servers_are_all_encrypted_works_and_trusts_nobody_else() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let certified = Certified::new();
    let (amqp, database, cache) = (service("AMQP_URL"), service("DATABASE_URL"), service("REDIS_URL"));
    let amqp_port = certified.before(&amqp).await;
    let database_port = certified.before(&database).await;
    let cache_port = certified.before(&cache).await;
    let authority = certified.path("ca.pem");
    let verified = format!("?sslmode=verify-full&sslrootcert={authority}");
    let servers = [
        ("AMQP_URL", encrypted(&amqp, "amqps", amqp_port, "")),
        ("DATABASE_URL", encrypted(&database, "postgres", database_port, &verified)),
        ("REDIS_URL", encrypted(&cache, "rediss", cache_port, "")),
    ];
    let mut builder = HostBuilder::bare().with_samples().trusting(&std::fs::read_to_string(&authority).unwrap());
    for (name, url) in &servers {
        builder = builder.env(name, url);
    }
    let builder = builder
        .env("SSL_CERT_FILE", &authority)
        .env(TOKEN.0, TOKEN.1)
        .env("AGENT_HOST_TLS_CERT", &certified.path("cert.pem"))
        .env("AGENT_HOST_TLS_KEY", &certified.path("key.pem"));
    let host = builder.start().await;
    assert!(host.url("").starts_with("https://"));
    // By way of the queue to the agent's own rows, and through the cache to another's.
    let work = json!({ "kind": "email", "payload": { "to": unique("somebody") } });
    assert_eq!(host.run("task-worker", "application/json", work.to_string()).await.status(), 200);
    host.run_json("cache-reader", &json!({ "key": unique("key") })).await;
    let plain = reqwest::Client::new().get(host.url("/healthz").replacen("https", "http", 1)).send().await;
    assert!(plain.is_err(), "{plain:?}");

    // The command line trusts the same authority, where it is told to.
    let mut listed = agent_host();
    listed.args(["agents", "list", "--url", &host.url("")]).env(TOKEN.0, TOKEN.1);
    assert!(!listed.output().await.unwrap().status.success());
    assert!(listed.env("SSL_CERT_FILE", &authority).output().await.unwrap().status.success());

    // Without the authority each server is refused: nothing goes on unencrypted, or to somebody else.
    let mut stranger = HostBuilder::bare();
    for (name, url) in &servers {
        stranger = stranger.env(name, url.replace(&authority, "/etc/ssl/certs/ca-certificates.crt").as_str());
    }
    let child = stranger.spawn();
    let ended = tokio::time::timeout(HANG, child.wait_with_output()).await.unwrap().unwrap();
    let told = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(69), "{told}");
    for name in ["AMQP_URL", "DATABASE_URL", "REDIS_URL"] {
        assert!(told.contains(name), "{name}: {told}");
    }
}
