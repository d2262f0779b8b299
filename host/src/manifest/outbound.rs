//! `grants.allowed_outbound_hosts`: the origins that an agent may call over HTTP, written as Spin writes them.
//!
//! `<scheme>://<host>[:<port>]`. The scheme is `http`, `https` or `*`; the host is a name, `*.` and a name (its
//! subdomains), `*` (any name or public address), an address, or a network such as `10.0.0.0/8` or `[fd00::]/8`; the port
//! is a number, a range `8000..9000` without its end, or `*`, and may be left out where the scheme has one of its own.
//!
//! Both sides of a comparison go through the `url` crate first: case, a dot at the end, percent signs, international names
//! and the many spellings of an address are the same host in every spelling.

#[cfg(test)]
mod tests;

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use url::Host;

/// Longest DNS name, in bytes, by RFC 1035.
const NAME_BYTES_MAX: usize = 253;

/// How a request is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// In the clear.
    Http,
    /// Over TLS.
    Https,
}

impl Scheme {
    /// As it stands in a URL.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }

    fn port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }
}

/// Where a request goes, in its one spelling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// How.
    pub scheme: Scheme,
    /// To whom: a name in lower case without a dot at its end, or an address. An IPv4 address inside an IPv6 one
    /// (`::ffff:0:0/96`) is the IPv4 address that it stands for.
    pub host: Host<String>,
    /// At which port.
    pub port: u16,
}

/// Why something is no origin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidOrigin {
    /// It has a user name or a password, which belong into a header.
    #[error("a user name or password in a URL: send it in a header")]
    UserInfo,
    /// It is no host, or no port.
    #[error("no host and port that a URL could have")]
    Malformed,
}

impl Origin {
    /// Reads the authority of a request's URL.
    ///
    /// # Errors
    /// It names a user, or is no `host[:port]`.
    pub fn parse(scheme: Scheme, authority: &str) -> Result<Self, InvalidOrigin> {
        if authority.contains('@') {
            return Err(InvalidOrigin::UserInfo);
        }
        // What ends an authority would otherwise be read as the path that follows it.
        if authority.contains(['/', '\\', '?', '#']) {
            return Err(InvalidOrigin::Malformed);
        }
        let url = url::Url::parse(&format!("{}://{authority}/", scheme.as_str()));
        let url = url.map_err(|_| InvalidOrigin::Malformed)?;
        let host = url.host().and_then(|host| canonical(host.to_owned())).ok_or(InvalidOrigin::Malformed)?;
        let port = url.port().unwrap_or(scheme.port());
        if port == 0 {
            return Err(InvalidOrigin::Malformed);
        }
        Ok(Self { scheme, host, port })
    }

    /// `host[:port]`, without the port that the scheme implies: what stands in the header `Host`.
    #[must_use]
    pub fn authority(&self) -> String {
        if self.port == self.scheme.port() { self.host.to_string() } else { format!("{}:{}", self.host, self.port) }
    }

    /// Whether it is this very machine by its name, which needs no resolver (RFC 6761).
    #[must_use]
    pub fn is_localhost(&self) -> bool {
        matches!(&self.host, Host::Domain(name) if name == LOCALHOST)
    }
}

impl std::fmt::Display for Origin {
    /// As a line of `allowed_outbound_hosts` names it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}://{}:{}", self.scheme.as_str(), self.host, self.port)
    }
}

const LOCALHOST: &str = "localhost";

/// The one spelling of a host; `None` where a resolver could not look it up.
fn canonical(host: Host<String>) -> Option<Host<String>> {
    match host {
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(&name);
            (!name.is_empty() && name.len() <= NAME_BYTES_MAX).then(|| Host::Domain(name.to_owned()))
        }
        Host::Ipv4(address) => Some(Host::Ipv4(address)),
        Host::Ipv6(address) => Some(address.to_ipv4_mapped().map_or(Host::Ipv6(address), Host::Ipv4)),
    }
}

fn address(host: &Host<String>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some(IpAddr::V4(*address)),
        Host::Ipv6(address) => Some(IpAddr::V6(*address)),
    }
}

/// One entry of `allowed_outbound_hosts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OutboundGrant {
    text: String,
    scheme: Option<Scheme>,
    host: HostPattern,
    ports: PortPattern,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum HostPattern {
    /// Any name, any public address.
    Any,
    /// Names that end in this, which begins with a dot.
    Subdomains(String),
    /// This name.
    Name(String),
    /// These addresses.
    Network(IpNet),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum PortPattern {
    Any,
    /// From the first up to, without, the second.
    Range(u32, u32),
}

/// Why an entry is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("grants.allowed_outbound_hosts {entry:?}: {problem}; expected for example \"https://api.example.com:443\"")]
pub struct InvalidOutboundGrant {
    entry: String,
    problem: String,
}

impl OutboundGrant {
    /// Reads an entry.
    ///
    /// # Errors
    /// It is of no known form.
    pub fn parse(text: &str) -> Result<Self, InvalidOutboundGrant> {
        let parsed = Self::parts(text);
        parsed.map_err(|problem| InvalidOutboundGrant { entry: text.to_owned(), problem })
    }

    fn parts(text: &str) -> Result<Self, String> {
        if text.contains(['{', '}']) {
            return Err("lists and variables in braces are not offered".to_owned());
        }
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("expected <scheme>://<host>:<port>".to_owned());
        };
        let scheme = match scheme {
            "*" => None,
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            other => return Err(format!("scheme {other:?}: expected http, https or *")),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = split_port(rest)?;
        let host = HostPattern::parse(host)?;
        let ports = match (port, scheme) {
            (Some(port), _) => PortPattern::parse(port)?,
            (None, Some(scheme)) => PortPattern::Range(u32::from(scheme.port()), u32::from(scheme.port()) + 1),
            (None, None) => return Err("the scheme * implies no port: expected :<port> or :*".to_owned()),
        };
        Ok(Self { text: text.to_owned(), scheme, host, ports })
    }

    /// Whether requests to this origin may be sent. Where its name leads is a question of its own:
    /// [`names_address`](Self::names_address).
    #[must_use]
    pub fn allows(&self, origin: &Origin) -> bool {
        self.covers(origin)
            && match (&self.host, &origin.host) {
                (HostPattern::Any, _) => true,
                (HostPattern::Subdomains(suffix), Host::Domain(name)) => name.ends_with(suffix.as_str()),
                (HostPattern::Name(granted), Host::Domain(name)) => granted == name,
                (HostPattern::Network(network), host) => address(host).is_some_and(|ip| network.contains(&ip)),
                (HostPattern::Subdomains(_) | HostPattern::Name(_), _) => false,
            }
    }

    /// Whether it names this address as such, or `localhost` for a loopback address: what an address that is not public
    /// needs.
    #[must_use]
    pub fn names_address(&self, origin: &Origin, ip: IpAddr) -> bool {
        self.covers(origin)
            && match &self.host {
                HostPattern::Network(network) => network.contains(&ip),
                HostPattern::Name(name) => name == LOCALHOST && origin.is_localhost() && ip.is_loopback(),
                HostPattern::Any | HostPattern::Subdomains(_) => false,
            }
    }

    /// Whether scheme and port are those of the entry.
    fn covers(&self, origin: &Origin) -> bool {
        let port = u32::from(origin.port);
        self.scheme.is_none_or(|scheme| scheme == origin.scheme)
            && match self.ports {
                PortPattern::Any => true,
                PortPattern::Range(from, to) => (from..to).contains(&port),
            }
    }
}

impl TryFrom<String> for OutboundGrant {
    type Error = InvalidOutboundGrant;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::parse(&text)
    }
}

impl From<OutboundGrant> for String {
    fn from(grant: OutboundGrant) -> Self {
        grant.text
    }
}

/// Takes `host[:port]` apart. The colons of an IPv6 address stand in brackets.
fn split_port(rest: &str) -> Result<(&str, Option<&str>), String> {
    let host_end = rest.rfind(']').map_or(0, |bracket| bracket + 1);
    let (bracketed, after) = rest.split_at(host_end);
    match after.rsplit_once(':') {
        Some((more, _)) if more.contains(':') => {
            Err("an IPv6 address stands in brackets, such as [fd00::1] or [fd00::]/8".to_owned())
        }
        Some((more, port)) => Ok((rest.get(..bracketed.len() + more.len()).unwrap_or_default(), Some(port))),
        None => Ok((rest, None)),
    }
}

impl HostPattern {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text == "self" {
            return Err("\"self\" is for hosts that route between components: name the host".to_owned());
        }
        if let Some(name) = text.strip_prefix("*.") {
            return match Self::exact(name)? {
                Self::Name(name) => Ok(Self::Subdomains(format!(".{name}"))),
                _ => Err("only names have subdomains".to_owned()),
            };
        }
        if text.contains('*') {
            return Err("a * stands for the whole host, or for the labels in front of a name: *.example.com".to_owned());
        }
        if let Some((base, prefix)) = text.split_once('/') {
            return Self::network(base, prefix);
        }
        Self::exact(text)
    }

    fn exact(text: &str) -> Result<Self, String> {
        let invalid = |_| format!("{text:?} is no host");
        let host = canonical(Host::parse(text).map_err(invalid)?).ok_or_else(|| format!("{text:?} is no host"))?;
        match address(&host) {
            // Spelled otherwise it does not look like what it grants.
            Some(_) if host.to_string() != text => Err(format!("write the address {text:?} as {host}")),
            Some(ip) => Ok(Self::Network(IpNet::from(ip))),
            None => Ok(Self::Name(host.to_string())),
        }
    }

    fn network(base: &str, prefix: &str) -> Result<Self, String> {
        let expected = || "expected a network such as 10.0.0.0/8 or [fd00::]/8, or a host without a path".to_owned();
        let bare = base.strip_prefix('[').and_then(|base| base.strip_suffix(']'));
        let ip: IpAddr = bare.unwrap_or(base).parse().map_err(|_| expected())?;
        if ip.is_ipv6() != bare.is_some() || !prefix.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err(expected());
        }
        let network = prefix.parse().ok().and_then(|prefix| IpNet::new(ip, prefix).ok()).ok_or_else(expected)?;
        if network.trunc() != network {
            return Err(format!("the network of {network} begins at {}", network.trunc()));
        }
        if ip.to_canonical() != ip {
            return Err("write an IPv4 network as such: 10.0.0.0/8".to_owned());
        }
        Ok(Self::Network(network))
    }
}

impl PortPattern {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Ok(Self::Any);
        }
        let number = |text: &str| {
            let port = text.bytes().all(|digit| digit.is_ascii_digit()).then(|| text.parse::<u16>().ok()).flatten();
            port.filter(|port| *port > 0).map(u32::from)
        };
        let range = match text.split_once("..") {
            Some((from, to)) => number(from).zip(number(to)).filter(|(from, to)| from < to),
            None => number(text).map(|port| (port, port + 1)),
        };
        let (from, to) =
            range.ok_or_else(|| format!("port {text:?}: expected 1 to 65535, a range 8000..9000, or *"))?;
        Ok(Self::Range(from, to))
    }
}
