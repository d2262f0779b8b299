//! A TCP relay between the hosts and one server, which disturbs the connections through it.
//!
//! Contract: while it is left alone it passes every byte on, both ways, in order. What it withheld when it cut a
//! connection is lost with it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, watch};
use url::Url;

use crate::schedule::Disturbance;

/// How much is passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// How late [`Disturbance::Slow`] passes on each chunk.
const SLOW_DELAY: Duration = Duration::from_millis(40);

/// What connections go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Weather {
    /// Raised by each cut; connections of an earlier number are over.
    cuts: u64,
    disturbance: Option<Disturbance>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToServer,
    ToClient,
}

/// A running relay.
pub(crate) struct Relay {
    url: String,
    weather: watch::Sender<Weather>,
    /// Held while a disturbance lasts: the next one waits for its end.
    disturbing: Mutex<()>,
}

impl Relay {
    /// Listens on a port of its own for what is meant for the server in this URL.
    pub(crate) async fn start(server_url: &str) -> Result<Self> {
        let mut url: Url = server_url.parse().context("a server's address should be a URL")?;
        let host = url.host_str().context("a server's address should name a host")?.to_owned();
        let port = url.port().context("a server's address should name a port")?;
        let target =
            tokio::net::lookup_host((host, port)).await?.next().context("a server's name should have an address")?;
        let listener = TcpListener::bind("127.0.0.1:0").await.context("no free port for a relay")?;
        let own = listener.local_addr().context("a listener should have an address")?;
        url.set_ip_host(own.ip()).ok().context("a server's URL should take an address")?;
        url.set_port(Some(own.port())).ok().context("a server's URL should take a port")?;
        let (weather, watched) = watch::channel(Weather { cuts: 0, disturbance: None });
        tokio::spawn(accept(listener, target, watched));
        Ok(Self { url: url.into(), weather, disturbing: Mutex::default() })
    }

    /// The server's URL with this relay's address in it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Disturbs all connections, and returns when that is over.
    pub(crate) async fn disturb(&self, how: Disturbance, time: Duration) {
        let _one_at_a_time = self.disturbing.lock().await;
        let cuts_first = matches!(how, Disturbance::Cut | Disturbance::Refuse);
        self.weather.send_modify(|weather| {
            weather.cuts += u64::from(cuts_first);
            weather.disturbance = (how != Disturbance::Cut).then_some(how);
        });
        if how == Disturbance::Cut {
            return;
        }
        tokio::time::sleep(time).await;
        self.weather.send_modify(|weather| {
            // Connections that were made meanwhile are deaf as well.
            weather.cuts += u64::from(how == Disturbance::Deafen);
            weather.disturbance = None;
        });
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, weather: watch::Receiver<Weather>) {
    loop {
        // What accept() fails with, such as a lack of file descriptors, passes.
        let Ok((client, _)) = listener.accept().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if weather.borrow().disturbance == Some(Disturbance::Refuse) {
            // A reset, as from a machine where nobody listens.
            let _ = client.set_zero_linger();
            continue;
        }
        tokio::spawn(pass(client, target, weather.clone()));
    }
}

/// Carries one connection until either side ends it or it is cut.
async fn pass(client: TcpStream, target: SocketAddr, mut weather: watch::Receiver<Weather>) {
    let begun = weather.borrow().cuts;
    let Ok(server) = TcpStream::connect(target).await else {
        let _ = client.set_zero_linger();
        return;
    };
    for side in [&client, &server] {
        // Small messages must not wait for each other: the relay should cost no more than a copy.
        let _ = side.set_nodelay(true);
    }
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let upward = pump(from_client, to_server, weather.clone(), Direction::ToServer);
    let downward = pump(from_server, to_client, weather.clone(), Direction::ToClient);
    tokio::select! {
        // The cut first: what was withheld until it must not slip through when the withholding ends with it.
        biased;
        _ = weather.wait_for(|weather| weather.cuts != begun) => {}
        _ = async { tokio::join!(upward, downward) } => {}
    }
}

/// Copies one direction to its end, as the weather allows.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Weather>,
    direction: Direction,
) {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let read = from.read(&mut chunk).await.unwrap_or(0);
        let Some(bytes) = chunk.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        let passes = |weather: &Weather| match weather.disturbance {
            Some(Disturbance::Stall) => false,
            Some(Disturbance::Deafen) => direction == Direction::ToServer,
            _ => true,
        };
        // The sender of the weather lives as long as the run.
        let Ok(now) = weather.wait_for(passes).await.map(|now| now.disturbance) else { return };
        if now == Some(Disturbance::Slow) {
            tokio::time::sleep(SLOW_DELAY).await;
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that answers each byte with the same, and a relay before it.
    async fn echo() -> (Relay, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut reader, mut writer) = client.split();
                    let _ = tokio::io::copy(&mut reader, &mut writer).await;
                });
            }
        });
        let relay = Relay::start(&format!("redis://{address}/0")).await.unwrap();
        let url: Url = relay.url().parse().unwrap();
        (relay, format!("127.0.0.1:{}", url.port().unwrap()).parse().unwrap())
    }

    async fn ask(stream: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        stream.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        stream.read_exact(&mut answer).await.map(|_| answer)
    }

    #[tokio::test]
    async fn bytes_pass_and_a_cut_ends_old_connections_only() {
        let (relay, address) = echo().await;
        let mut old = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut old, b"hello").await.unwrap(), b"hello");
        relay.disturb(Disturbance::Cut, Duration::ZERO).await;
        assert!(ask(&mut old, b"again").await.is_err());
        let mut new = TcpStream::connect(address).await.unwrap();
        assert_eq!(ask(&mut new, b"again").await.unwrap(), b"again");
    }

    #[tokio::test]
    async fn a_stalled_connection_goes_on_and_a_deafened_one_is_cut() {
        let (relay, address) = echo().await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        let stall = relay.disturb(Disturbance::Stall, Duration::from_millis(50));
        let (_, answer) = tokio::join!(stall, ask(&mut stream, b"late"));
        assert_eq!(answer.unwrap(), b"late");
        let deafen = relay.disturb(Disturbance::Deafen, Duration::from_millis(50));
        let (_, answer) = tokio::join!(deafen, ask(&mut stream, b"lost"));
        assert!(answer.is_err());
    }

    #[tokio::test]
    async fn nobody_is_served_while_it_refuses() {
        let (relay, address) = echo().await;
        let refuse = relay.disturb(Disturbance::Refuse, Duration::from_millis(50));
        let (_, answer) = tokio::join!(refuse, async {
            match TcpStream::connect(address).await {
                Ok(mut stream) => ask(&mut stream, b"hello").await,
                Err(error) => Err(error),
            }
        });
        assert!(answer.is_err());
    }
}
