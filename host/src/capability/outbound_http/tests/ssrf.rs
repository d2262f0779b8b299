//! Server-side request forgery: everything that could make the host connect where the agent may not. Real sockets; a canary
//! that must never see a connection.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// This machine's sockets, with names from a table in place of the resolver's.
#[derive(Debug)]
struct Stub {
    names: HashMap<&'static str, Vec<IpAddr>>,
    real: TcpNetwork,
}

#[async_trait::async_trait]
impl Network for Stub {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, NetworkError> {
        self.names.get(name).cloned().ok_or_else(|| NetworkError::NameNotFound("not in the table".into()))
    }

    async fn connect(&self, address: SocketAddr, tls: Option<&url::Host<String>>) -> Result<BoxedStream, NetworkError> {
        self.real.connect(address, tls).await
    }
}

/// A server on all of this machine's addresses that counts who comes.
async fn listen() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("[::]:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let visits = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&visits);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counting.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut request).await;
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello").await;
            });
        }
    });
    (port, visits)
}

/// Authorities that lead to this machine or its neighbours. `P` stands for the canary's port.
const FORGED: &[&str] = &[
    // Loopback in every spelling.
    "127.0.0.1:P",
    "127.0.0.1.:P",
    "127.1:P",
    "127.0.1:P",
    "127.255.255.254:P",
    "2130706433:P",
    "017700000001:P",
    "0177.0.0.1:P",
    "0177.0.0.0x1:P",
    "0x7f.0.0.1:P",
    "0x7f000001:P",
    "0X7F000001:P",
    "0x7f.1:P",
    "127.0.0.0x1:P",
    "%31%32%37.0.0.1:P",
    "localhost:P",
    "LOCALHOST:P",
    "LocalHost.:P",
    "%6c%6f%63alhost:P",
    // The unspecified address is this machine too.
    "0.0.0.0:P",
    "0:P",
    "0x0:P",
    "[::]:P",
    // IPv6, and IPv4 inside of it.
    "[::1]:P",
    "[0:0:0:0:0:0:0:1]:P",
    "[0000::0001]:P",
    "[::ffff:127.0.0.1]:P",
    "[::FFFF:7F00:1]:P",
    "[::ffff:0:127.0.0.1]:P",
    "[::127.0.0.1]:P",
    "[64:ff9b::127.0.0.1]:P",
    "[64:ff9b:1::7f00:1]:P",
    "[2002:7f00:1::]:P",
    "[2001:0:7f00:1::]:P",
    // Metadata services, and other networks that are not public.
    "169.254.169.254",
    "0xa9fea9fe",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "10.0.0.1:P",
    "172.16.0.1:P",
    "192.168.0.1:P",
    "100.64.0.1:P",
    "198.18.0.1:P",
    "224.0.0.1:P",
    "255.255.255.255:P",
    "[ff02::1]:P",
    // Names that lead there.
    "loopback.test:P",
    "LOOPBACK.test.:P",
    "loopback6.test:P",
    "mapped.test:P",
    "private.test:P",
    "zero.test:P",
    "nat64.test:P",
    "metadata.google.internal",
    "granted.localhost:P",
    // What is before an @ is a user, not a host.
    "granted.test@127.0.0.1:P",
    "granted.test:80@127.0.0.1:P",
    "127.0.0.1:P@granted.test",
    "granted.test%40127.0.0.1:P",
    // What looks like a granted name and is another.
    "granted.test.127.0.0.1.nip.test:P",
    "xgranted.test:P",
];

fn names() -> HashMap<&'static str, Vec<IpAddr>> {
    [
        ("granted.test", vec!["127.0.0.1"]),
        ("loopback.test", vec!["127.0.0.1"]),
        ("loopback6.test", vec!["::1"]),
        ("mapped.test", vec!["::ffff:127.0.0.1"]),
        ("private.test", vec!["10.0.0.1", "192.168.0.1", "127.0.0.1"]),
        ("zero.test", vec!["0.0.0.0", "::"]),
        ("nat64.test", vec!["64:ff9b::7f00:1"]),
        ("metadata.google.internal", vec!["169.254.169.254"]),
        ("granted.localhost", vec!["127.0.0.1"]),
        ("granted.test.127.0.0.1.nip.test", vec!["127.0.0.1"]),
        ("xgranted.test", vec!["127.0.0.1"]),
    ]
    .into_iter()
    .map(|(name, addresses)| (name, addresses.iter().map(|address| address.parse().unwrap()).collect()))
    .collect()
}

#[tokio::test]
async fn no_spelling_and_no_name_leads_to_a_place_that_is_not_granted() {
    let mut sent = 0;
    let (granted_port, granted_visits) = listen().await;
    let (canary_port, canary_visits) = listen().await;
    let network: Arc<dyn Network> = Arc::new(Stub { names: names(), real: TcpNetwork::default() });
    let granted = format!("http://127.0.0.1:{granted_port}");
    // With one loopback port granted as such, a name that leads to loopback, and all that is public.
    let grants = [granted.as_str(), "http://granted.test", "http://loopback.test:*", "*://*:*", "http://*.test:*"];
    for grants in [&grants[..1], &grants[..2], &grants] {
        for forged in FORGED {
            let authority = forged.replace('P', &canary_port.to_string());
            let mut guest = Guest::new(Arc::clone(&network), grants);
            // What is no URI at all the guest cannot even ask for.
            let Ok(uri) = http::Uri::builder().scheme("http").authority(authority.as_str()).path_and_query("/").build()
            else {
                continue;
            };
            let mut request = get("http://replaced.test/");
            *request.uri_mut() = uri;
            let answer = guest.send(request).await;
            sent += 1;
            let is_refused = matches!(
                answer,
                Err(Error::HttpRequestDenied
                    | Error::DestinationIpProhibited
                    | Error::HttpRequestUriInvalid
                    | Error::DnsError { .. })
            );
            assert!(is_refused, "{forged} with {grants:?}: {answer:?}");
        }
    }
    assert_eq!(granted_visits.load(Ordering::SeqCst), 0);
    assert!(sent >= 3 * 40, "{sent}");

    // What is granted as such works, in every spelling, and only there.
    let mut guest = Guest::new(network, &[&granted]);
    for (times, host) in ["127.0.0.1", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]"].into_iter().enumerate() {
        let answer = guest.get(&format!("http://{host}:{granted_port}/")).await.unwrap();
        assert_eq!(answer.body(), "hello");
        assert_eq!(granted_visits.load(Ordering::SeqCst), times + 1);
    }
    assert!(guest.get(&format!("https://127.0.0.1:{granted_port}/")).await.is_err(), "another scheme");
    assert!(guest.get(&format!("http://localhost:{granted_port}/")).await.is_err(), "another name");
    assert_eq!(canary_visits.load(Ordering::SeqCst), 0, "the canary has seen nobody");
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_the_second_time_leads_nowhere() {
    let network = MemoryNetwork::new()
        .with_name("rebinding.test", &[PUBLIC])
        .with_name("rebinding.test", &[LOOPBACK])
        .with_server(server(PUBLIC, 80), hello)
        .with_server(server(LOOPBACK, 80), hello);
    let network = Arc::new(network);
    let mut guest = Guest::new(Arc::clone(&network) as Arc<dyn Network>, &["http://rebinding.test"]);
    guest.get("http://rebinding.test/").await.unwrap();
    assert_eq!(network.connections(), [server(PUBLIC, 80)], "what was checked is what was connected to");
    let refused = guest.get("http://rebinding.test/").await;
    assert!(matches!(refused, Err(Error::DestinationIpProhibited)), "{refused:?}");
    assert_eq!(network.connections().len(), 1);
}

#[tokio::test]
async fn of_several_addresses_only_public_ones_are_tried() {
    let private: IpAddr = "10.0.0.1".parse().unwrap();
    let other: IpAddr = "93.184.216.35".parse().unwrap();
    let network = MemoryNetwork::new()
        .with_name("mixed.test", &[LOOPBACK, other, private, PUBLIC])
        .with_server(server(LOOPBACK, 80), hello)
        .with_server(server(private, 80), hello)
        .with_server(server(PUBLIC, 80), hello);
    let network = Arc::new(network);
    let mut guest = Guest::new(Arc::clone(&network) as Arc<dyn Network>, &["http://mixed.test"]);
    guest.get("http://mixed.test/").await.unwrap();
    assert_eq!(network.connections(), [server(other, 80), server(PUBLIC, 80)], "the first one refused");

    // A network in the grants is what it takes.
    let grants = ["http://mixed.test", "http://10.0.0.0/8"];
    let mut guest = Guest::new(Arc::clone(&network) as Arc<dyn Network>, &grants);
    guest.get("http://mixed.test/").await.unwrap();
    assert_eq!(network.connections().split_off(2), [server(other, 80), server(private, 80)]);
}

#[tokio::test]
async fn a_redirect_is_the_guests_to_follow_and_is_checked_again() {
    let redirect = |_: &Request<Bytes>| {
        Response::builder().status(302).header("location", "http://127.0.0.1:8081/secret").body(Bytes::new()).unwrap()
    };
    let network = MemoryNetwork::new()
        .with_name("api.test", &[PUBLIC])
        .with_server(server(PUBLIC, 80), redirect)
        .with_server(server(LOOPBACK, 8081), hello);
    let network = Arc::new(network);
    let mut guest = Guest::new(Arc::clone(&network) as Arc<dyn Network>, &["http://api.test"]);
    let answer = guest.get("http://api.test/").await.unwrap();
    assert_eq!(answer.status(), 302);
    let location = answer.headers()["location"].to_str().unwrap().to_owned();
    assert!(matches!(guest.get(&location).await, Err(Error::HttpRequestDenied)));
    assert_eq!(network.connections(), [server(PUBLIC, 80)]);
}

#[tokio::test]
async fn tunnels_and_other_schemes_are_not_offered() {
    let network = Arc::new(MemoryNetwork::new().with_server(server(PUBLIC, 80), hello));
    let mut guest = Guest::new(Arc::clone(&network) as Arc<dyn Network>, &["*://*:*"]);
    for method in ["CONNECT", "TRACE"] {
        let mut request = get("http://93.184.216.34/");
        *request.method_mut() = method.parse().unwrap();
        assert!(matches!(guest.send(request).await, Err(Error::HttpRequestMethodInvalid)), "{method}");
    }
    for scheme in ["ftp", "gopher", "file", "ws"] {
        assert!(matches!(guest.get(&format!("{scheme}://93.184.216.34:80/")).await, Err(Error::HttpProtocolError)));
    }
    assert!(network.connections().is_empty());
}
