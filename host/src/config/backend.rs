//! The services that a host stands on: a real one by its URL, or the embedded twin.

use std::fmt;

use url::Url;

/// A service: embedded, or elsewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The twin inside this process (for the database: a private server beside it).
    Embedded,
    /// A server.
    Url(ServiceUrl),
}

impl Backend {
    /// Reads `embedded` or a URL with one of these schemes.
    ///
    /// # Errors
    /// What was expected instead. The given text is not repeated: it may hold a password.
    pub fn parse(text: &str, schemes: &[&str]) -> Result<Self, String> {
        if text.trim() == "embedded" {
            return Ok(Self::Embedded);
        }
        let expected = || schemes.iter().map(|scheme| format!("{scheme}://…")).collect::<Vec<_>>().join(" or ");
        let url = Url::parse(text.trim())
            .map_err(|error| format!("is no URL ({error}): expected {} or \"embedded\"", expected()))?;
        if !schemes.contains(&url.scheme()) {
            return Err(format!("has the scheme {:?}: expected {} or \"embedded\"", url.scheme(), expected()));
        }
        // Without one, nothing tells which part of it is the password.
        if !url.has_authority() {
            return Err(format!("has no // after its scheme: expected {} or \"embedded\"", expected()));
        }
        Ok(Self::Url(ServiceUrl(url)))
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Embedded => f.write_str("embedded"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

/// The URL of a service. It shows itself without its password.
#[derive(Clone, PartialEq, Eq)]
pub struct ServiceUrl(Url);

impl ServiceUrl {
    /// The URL with its password, for the driver.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    /// Host name and port, for people and for checks of reachability; a Unix socket has none.
    #[must_use]
    pub fn address(&self, port_default: u16) -> Option<(String, u16)> {
        let host = self.0.host_str().filter(|host| !host.is_empty())?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        Some((host.to_owned(), self.0.port().unwrap_or(port_default)))
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = self.0.clone();
        if shown.password().is_some() {
            // Fails only for URLs that can have no password.
            let _ = shown.set_password(Some("***"));
        }
        if shown.query().is_some_and(|query| query.to_ascii_lowercase().contains("pass")) {
            shown.set_query(Some("***"));
        }
        // What stands before an @ may be the rest of a password that was written without escapes.
        if shown.path().contains('@') {
            shown.set_path("***");
        }
        if shown.query().is_some_and(|query| query.contains('@')) {
            shown.set_query(Some("***"));
        }
        if shown.fragment().is_some_and(|fragment| fragment.contains('@')) {
            shown.set_fragment(Some("***"));
        }
        f.write_str(shown.as_str())
    }
}

impl fmt::Debug for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_password_is_shown() {
        for (text, shown) in [
            ("amqp://u:hunter2@h:5672/%2f", "amqp://u:***@h:5672/%2f"),
            ("amqp://h", "amqp://h"),
            ("amqp://h/v?password=hunter2", "amqp://h/v?***"),
            ("amqp://u:1/hunter2@h/v", "amqp://u:1/***"),
            ("amqp://u:1?hunter2@h/v", "amqp://u:1?***"),
            ("amqp://u:1#hunter2@h/v", "amqp://u:1#***"),
        ] {
            let backend = Backend::parse(text, &["amqp"]).unwrap();
            assert_eq!(backend.to_string(), shown);
            assert!(!format!("{backend:?}").contains("hunter2"));
        }
        for bad in
            ["hunter2", "redis://u:hunter2@h", "amqp:u//:hunter2@h:5672/%2f", "amqp:/u:hunter2@h", "Embedded", ""]
        {
            let error = Backend::parse(bad, &["amqp", "amqps"]).unwrap_err();
            assert!(!error.contains("hunter2") && error.contains("amqps://"), "{error}");
        }
    }

    #[test]
    fn addresses_have_the_default_port() {
        let Backend::Url(url) = Backend::parse("amqp://[::1]", &["amqp"]).unwrap() else { panic!("a URL") };
        assert_eq!(url.address(5672), Some(("::1".to_owned(), 5672)));
    }
}
