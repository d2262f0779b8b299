//! An AMQP client that sends frames as they are given, for tables that a library would not write.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code: a broken expectation ends the test")]

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

pub(crate) struct Client(TcpStream);

/// Frame types.
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
/// Flags of the properties that are present in a content header.
const HAS_HEADERS: u16 = 0x2000;
const HAS_MESSAGE_ID: u16 = 0x0080;

impl Client {
    pub(crate) async fn connect(url: &str) -> Self {
        let uri: lapin::uri::AMQPUri = url.parse().unwrap();
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut client = Self(TcpStream::connect(address).await.unwrap());
        client.0.write_all(b"AMQP\x00\x00\x09\x01").await.unwrap();
        client.read().await;
        let login = format!("\0{}\0{}", uri.authority.userinfo.username, uri.authority.userinfo.password);
        let start_ok = [b"\x00\x0a\x00\x0b\0\0\0\0\x05PLAIN", &long(login.as_bytes())[..], b"\x05en_US"].concat();
        client.send(METHOD, 0, &start_ok).await;
        let tune = client.read().await;
        client.send(METHOD, 0, &[b"\x00\x0a\x00\x1f", &tune[4..10], b"\0\0"].concat()).await;
        let open = [b"\x00\x0a\x00\x28", &short(uri.vhost.as_bytes())[..], b"\0\0"].concat();
        client.send(METHOD, 0, &open).await;
        client.read().await;
        client.send(METHOD, 1, b"\x00\x14\x00\x0a\0").await;
        client.read().await;
        client
    }

    /// Publishes a message with a body of two bytes; `message_id` is left out where empty.
    pub(crate) async fn publish(&mut self, agent: &str, table: &[u8], message_id: &[u8]) {
        let publish = [b"\x00\x3c\x00\x28\0\0", &short(b"agents")[..], &short(agent.as_bytes()), b"\0"].concat();
        self.send(METHOD, 1, &publish).await;
        let mut header = b"\x00\x3c\0\0\0\0\0\0\0\0\0\x02".to_vec();
        let id_flag = if message_id.is_empty() { 0 } else { HAS_MESSAGE_ID };
        header.extend((HAS_HEADERS | id_flag).to_be_bytes());
        header.extend(long(table));
        if !message_id.is_empty() {
            header.extend(short(message_id));
        }
        self.send(HEADER, 1, &header).await;
        self.send(BODY, 1, b"hi").await;
    }

    async fn send(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let mut frame = vec![kind];
        frame.extend(channel.to_be_bytes());
        frame.extend(long(payload));
        frame.push(0xce);
        self.0.write_all(&frame).await.unwrap();
    }

    async fn read(&mut self) -> Vec<u8> {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).await.unwrap();
        let length = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
        let mut payload = vec![0; usize::try_from(length).unwrap() + 1];
        self.0.read_exact(&mut payload).await.unwrap();
        payload
    }
}

/// A header's name and its value, type mark included.
pub(crate) fn entry(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&short(name)[..], value].concat()
}

/// Arrays in arrays.
pub(crate) fn nested_arrays(depth: usize) -> Vec<u8> {
    const LEVEL_BYTES: usize = 5;
    let length = |inside: usize| u32::try_from(inside * LEVEL_BYTES).unwrap().to_be_bytes();
    (0..depth).rev().flat_map(|inside| [&b"A"[..], &length(inside)].concat()).collect()
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes()[..], bytes].concat()
}
