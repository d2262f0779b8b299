//! Which addresses are on the public Internet. All others need a grant that names them.
//!
//! The list is that of the IANA's registries of special-purpose addresses. Of IPv6, only `2000::/3` is given out as global
//! unicast at all; everything outside of it (loopback, link-local, unique local, multicast, IPv4-mapped and -compatible,
//! NAT64) is not public, whatever it will mean one day.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

macro_rules! v4 {
    ($a:literal, $b:literal, $c:literal, $d:literal / $prefix:literal) => {
        IpNet::V4(Ipv4Net::new_assert(std::net::Ipv4Addr::new($a, $b, $c, $d), $prefix))
    };
}

macro_rules! v6 {
    ($a:literal, $b:literal / $prefix:literal) => {
        IpNet::V6(Ipv6Net::new_assert(std::net::Ipv6Addr::new($a, $b, 0, 0, 0, 0, 0, 0), $prefix))
    };
}

/// Networks that are not public, and what they are; the first that fits counts.
const SPECIAL: [(IpNet, &str); 22] = [
    (v4!(0, 0, 0, 0 / 8), "an unspecified"),
    (v4!(10, 0, 0, 0 / 8), "a private"),
    (v4!(100, 64, 0, 0 / 10), "a carrier's private"),
    (v4!(127, 0, 0, 0 / 8), "a loopback"),
    (v4!(169, 254, 0, 0 / 16), "a link-local or metadata"),
    (v4!(172, 16, 0, 0 / 12), "a private"),
    (v4!(192, 0, 0, 0 / 24), "a reserved"),
    (v4!(192, 0, 2, 0 / 24), "a documentation"),
    (v4!(192, 88, 99, 0 / 24), "a 6to4 relay's"),
    (v4!(192, 168, 0, 0 / 16), "a private"),
    (v4!(198, 18, 0, 0 / 15), "a benchmark"),
    (v4!(198, 51, 100, 0 / 24), "a documentation"),
    (v4!(203, 0, 113, 0 / 24), "a documentation"),
    (v4!(224, 0, 0, 0 / 4), "a multicast"),
    (v4!(240, 0, 0, 0 / 4), "a reserved"),
    (v6!(0x2001, 0 / 23), "a Teredo or reserved"),
    (v6!(0x2001, 0xdb8 / 32), "a documentation"),
    (v6!(0x2002, 0 / 16), "a 6to4"),
    (v6!(0x3fff, 0 / 20), "a documentation"),
    (v6!(0xfc00, 0 / 7), "a private"),
    (v6!(0xfe80, 0 / 10), "a link-local"),
    (v6!(0xff00, 0 / 8), "a multicast"),
];

const GLOBAL_UNICAST: IpNet = v6!(0x2000, 0 / 3);

/// What an address is that is not public, with its article; `None` for a public one.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    let address = address.to_canonical();
    let named = SPECIAL.iter().find(|(network, _)| network.contains(&address)).map(|(_, what)| *what);
    named.or_else(|| match address {
        IpAddr::V6(address) if address.is_loopback() => Some("a loopback"),
        IpAddr::V6(_) if !GLOBAL_UNICAST.contains(&address) => Some("a reserved"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_public_is_recognised_in_every_disguise() {
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::8.8.8.8",
            "64:ff9b:1::1",
            "100::1",
            "2001::1",
            "2001:10::1",
            "2001:20::1",
            "2001:db8::1",
            "2002:7f00:1::",
            "2002:808:808::1",
            "3fff::1",
            "4000::1",
            "5f00::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(special(address.parse().unwrap()).is_some(), "{address}");
        }
    }

    #[test]
    fn the_public_internet_is_public() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "93.184.216.34",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.0.1.0",
            "192.167.255.255",
            "198.20.0.0",
            "223.255.255.255",
            "::ffff:8.8.8.8",
            "2001:4860:4860::8888",
            "2606:4700::1111",
            "2a00:1450::1",
            "2620:fe::fe",
        ] {
            assert_eq!(special(address.parse().unwrap()), None, "{address}");
        }
    }
}
