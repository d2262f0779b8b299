//! Entries and origins: what is allowed, what is not, and what is neither.

use proptest::prelude::*;

use super::*;

fn origin(url: &str) -> Origin {
    let (scheme, rest) = url.split_once("://").unwrap();
    let scheme = if scheme == "https" { Scheme::Https } else { Scheme::Http };
    Origin::parse(scheme, rest).unwrap()
}

#[test]
fn a_grant_is_for_its_scheme_its_host_and_its_port() {
    let table = [
        ("https://api.example.com:443", "https://api.example.com", true),
        ("https://api.example.com", "https://API.Example.COM.", true),
        ("https://api.example.com", "https://api.example.com:8443", false),
        ("https://api.example.com", "http://api.example.com:443", false),
        ("https://api.example.com", "https://example.com", false),
        ("https://api.example.com", "https://api.example.com.evil.test", false),
        ("https://api.example.com", "https://xapi.example.com", false),
        ("*://api.example.com:*", "http://api.example.com:1234", true),
        ("https://*.example.com", "https://a.b.example.com", true),
        ("https://*.example.com", "https://example.com", false),
        ("https://*.example.com", "https://badexample.com", false),
        ("https://*", "https://anything.test", true),
        ("https://*:8000..8002", "https://anything.test:8001", true),
        ("https://*:8000..8002", "https://anything.test:8002", false),
        ("https://bücher.example", "https://xn--bcher-kva.example", true),
        ("http://10.1.2.3:80", "http://0xa.66051", true),
        ("http://10.0.0.0/8:80", "http://10.200.0.1", true),
        ("http://10.0.0.0/8:80", "http://11.0.0.1", false),
        ("http://[fd00::]/8:80", "http://[fd12::1]", true),
        ("http://127.0.0.1", "http://[::ffff:127.0.0.1]", true),
        ("http://127.0.0.1/", "http://2130706433", true),
        ("http://127.0.0.1", "http://localhost", false),
    ];
    for (grant, url, allowed) in table {
        assert_eq!(OutboundGrant::parse(grant).unwrap().allows(&origin(url)), allowed, "{grant} and {url}");
    }
}

#[test]
fn only_a_grant_that_names_it_covers_an_address_of_no_public_network() {
    let table = [
        ("http://*:*", "http://db.test", "10.0.0.1", false),
        ("http://*.test", "http://db.test", "10.0.0.1", false),
        ("http://db.test", "http://db.test", "10.0.0.1", false),
        ("http://10.0.0.0/24", "http://db.test", "10.0.0.1", true),
        ("http://10.0.0.0/24:81", "http://db.test", "10.0.0.1", false),
        ("http://localhost", "http://localhost", "127.0.0.1", true),
        ("http://localhost", "http://localhost", "10.0.0.1", false),
        ("http://localhost", "http://db.test", "127.0.0.1", false),
    ];
    for (grant, url, ip, named) in table {
        let grant = OutboundGrant::parse(grant).unwrap();
        assert_eq!(grant.names_address(&origin(url), ip.parse().unwrap()), named, "{} {url} {ip}", grant.text);
    }
}

#[test]
fn what_is_no_entry_is_refused_with_what_was_expected() {
    for entry in [
        "*",
        "",
        "api.example.com",
        "ftp://api.example.com",
        "HTTPS://api.example.com",
        "*://api.example.com",
        "https://",
        "https://:443",
        "https://api.example.com:",
        "https://api.example.com:0",
        "https://api.example.com:65536",
        "https://api.example.com:9000..8000",
        "https://api.example.com:+1",
        "https://api.example.com/v1",
        "https://api.example.com:443/v1",
        "https://user@api.example.com",
        "https://api.*.com",
        "https://*api.example.com",
        "https://*.10.0.0.1",
        "https://self",
        "https://{{ host }}",
        "https://{a,b}.example.com",
        "https://0x7f.1",
        "https://10.0.0.1/8",
        "https://10.0.0.0/33",
        "https://10.0.0.0/+8",
        "https://fd00::1",
        "https://fd00::/8:443",
        "https://[fd00::1",
        "https://[::ffff:10.0.0.0]/104",
        "https://exa mple.com",
    ] {
        let refused = OutboundGrant::parse(entry).expect_err(entry).to_string();
        assert!(refused.contains("expected"), "{refused}");
    }
}

#[test]
fn an_authority_has_one_spelling() {
    for (authority, spelled) in [
        ("EXAMPLE.com", "example.com"),
        ("example.com.", "example.com"),
        ("example.com:80", "example.com"),
        ("example.com:8080", "example.com:8080"),
        ("0177.0.0.1", "127.0.0.1"),
        ("127.1:80", "127.0.0.1"),
        ("[::FFFF:7f00:1]", "127.0.0.1"),
        ("[0:0:0:0:0:0:0:1]:81", "[::1]:81"),
        ("%6cocalhost", "localhost"),
    ] {
        assert_eq!(Origin::parse(Scheme::Http, authority).unwrap().authority(), spelled, "{authority}");
    }
    for refused in ["user@example.com", "a:b@example.com", "", ".", "example.com:0", "a/b", "a?b", "a#b", "a\\b", "a b"]
    {
        assert!(Origin::parse(Scheme::Http, refused).is_err(), "{refused:?}");
    }
}

proptest! {
    #[test]
    fn any_text_is_an_entry_or_refused(text in ".*", tail in "[a-z0-9.:/*\\[\\]]{0,20}") {
        let _ = OutboundGrant::parse(&text);
        if let Ok(grant) = OutboundGrant::parse(&format!("http://{tail}")) {
            prop_assert_eq!(OutboundGrant::parse(&String::from(grant.clone())), Ok(grant));
        }
    }
}
