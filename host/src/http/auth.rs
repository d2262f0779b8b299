//! Who may call what (contract, section 4).
//!
//! Three tokens: one to submit, follow and cancel tasks, one to read, one for everything. Where there is no admin token, the
//! admin API answers only requests that a program on this machine made on purpose: see [`is_own_origin`].

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, Method, header};
use axum::middleware::Next;
use axum::response::Response;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiState;
use super::problem::{Kind, Problem};
use crate::catalog::Actor;

/// A bearer token, kept as its digest: there is nothing to leak, and comparing takes the same time for every guess.
#[derive(Clone)]
pub struct Token([u8; 32]);

impl Token {
    /// The token that clients send as `text`.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    fn matches(&self, presented: &Self) -> bool {
        self.0.ct_eq(&presented.0).into()
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The tokens in force.
#[derive(Clone, Debug, Default)]
pub struct Auth {
    /// `AGENT_HOST_ADMIN_TOKEN`: everything.
    pub admin: Option<Token>,
    /// `AGENT_HOST_READ_TOKEN`: reading.
    pub read: Option<Token>,
    /// `AGENT_HOST_SUBMIT_TOKEN`: submitting tasks, and following or cancelling one by its id. Open where absent.
    pub submit: Option<Token>,
}

/// What a request wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Submit,
    FollowTask,
    AdminRead,
    AdminWrite,
}

/// By which right a request is answered: what the audit log calls its sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Admin,
    Read,
    Submit,
    /// Somebody on this machine, where there is no admin token.
    Loopback,
    /// Anybody: the route is open.
    Anybody,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin token",
            Self::Read => "read token",
            Self::Submit => "submit token",
            Self::Loopback => "this machine",
            Self::Anybody => "anybody",
        }
    }
}

impl Auth {
    fn authorize(&self, scope: Scope, request: &Request) -> Result<Role, Problem> {
        let (accepted, names): (&[Role], &str) = match scope {
            Scope::Submit | Scope::FollowTask if self.submit.is_none() => return Ok(Role::Anybody),
            Scope::AdminRead | Scope::AdminWrite if self.admin.is_none() => {
                return own_origin(request).map(|()| Role::Loopback);
            }
            Scope::Submit => (&[Role::Submit, Role::Admin], "the submit token or the admin token"),
            Scope::FollowTask => {
                (&[Role::Submit, Role::Read, Role::Admin], "the submit token, the read token or the admin token")
            }
            Scope::AdminRead => (&[Role::Read, Role::Admin], "the read token or the admin token"),
            Scope::AdminWrite => (&[Role::Admin], "the admin token"),
        };
        let Some(presented) = bearer(request.headers()) else {
            return Err(Problem::new(
                Kind::Unauthorized,
                format!("this route needs {names}, as a header: Authorization: Bearer TOKEN"),
            ));
        };
        // Every accepted token is compared, so that the time taken does not tell which one was near.
        let is_presented = |role: Role| self.token(role).is_some_and(|token| token.matches(&presented));
        let matched =
            accepted.iter().fold(None, |matched, role| if is_presented(*role) { Some(*role) } else { matched });
        if let Some(role) = matched {
            return Ok(role);
        }
        let known = [&self.submit, &self.read].into_iter().flatten().any(|token| token.matches(&presented));
        if known {
            return Err(Problem::new(Kind::Forbidden, format!("the token is good, but this route needs {names}")));
        }
        Err(Problem::new(Kind::Unauthorized, format!("the token is wrong; this route needs {names}")))
    }
}

impl Auth {
    fn token(&self, role: Role) -> Option<&Token> {
        match role {
            Role::Admin => self.admin.as_ref(),
            Role::Read => self.read.as_ref(),
            Role::Submit => self.submit.as_ref(),
            Role::Loopback | Role::Anybody => None,
        }
    }
}

/// The token of an `Authorization: Bearer` header.
fn bearer(headers: &HeaderMap) -> Option<Token> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| Token::new(token.trim()))
}

fn own_origin(request: &Request) -> Result<(), Problem> {
    let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or_default());
    let host = host.or_else(|| request.uri().authority().map(Authority::as_str)).unwrap_or_default();
    let origins = request.headers().get_all(header::ORIGIN).iter().map(|origin| origin.to_str().unwrap_or_default());
    if is_own_origin(host, origins) {
        return Ok(());
    }
    Err(Problem::new(
        Kind::Forbidden,
        "this host has no admin token, so it answers admin requests only under its own loopback address and from no other \
         web page; set AGENT_HOST_ADMIN_TOKEN and send it to reach it in another way",
    ))
}

/// Whether a request's `Host` is a loopback name, and its `Origin`, where it has one, is that same host.
///
/// The first rule stops a web page whose name was made to resolve to 127.0.0.1 (DNS rebinding), the second a page of any
/// other origin (a browser sends such a `POST` without asking). Neither stops command-line clients, which send no `Origin`.
fn is_own_origin<'a>(host: &str, mut origins: impl Iterator<Item = &'a str>) -> bool {
    let Ok(authority) = host.parse::<Authority>() else {
        return false;
    };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let loopback = name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
    loopback
        && origins.all(|origin| origin.strip_prefix("http://").is_some_and(|origin| origin.eq_ignore_ascii_case(host)))
}

/// Guards the routes that submit tasks, or follow or cancel one by its id. Cancelling takes more than a token to read.
pub(crate) async fn tasks(state: State<Arc<ApiState>>, request: Request, next: Next) -> Result<Response, Problem> {
    let scope = if is_reading(&request) { Scope::FollowTask } else { Scope::Submit };
    guarded(state, scope, request, next).await
}

/// Guards the admin API.
pub(crate) async fn admin(state: State<Arc<ApiState>>, request: Request, next: Next) -> Result<Response, Problem> {
    let scope = if is_reading(&request) { Scope::AdminRead } else { Scope::AdminWrite };
    guarded(state, scope, request, next).await
}

async fn guarded(
    State(api): State<Arc<ApiState>>,
    scope: Scope,
    mut request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let address = request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
    let failures = api.failures.of(address);
    let authorized = api.config.auth.authorize(scope, &request);
    // What needs no token is not held up by who guesses one.
    if !matches!(authorized, Ok(Role::Anybody | Role::Loopback)) {
        failures.check()?;
    }
    let role = authorized.inspect_err(|problem| failures.note(problem))?;
    let from = address.map(|address| format!(" from {address}")).unwrap_or_default();
    request.extensions_mut().insert(Actor::new(format!("{}{from}", role.name())));
    Ok(next.run(request).await)
}

fn is_reading(request: &Request) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;
    use axum::http::StatusCode;

    fn auth(admin: bool, read: bool, submit: bool) -> Auth {
        let token = |set: bool, text: &str| set.then(|| Token::new(text));
        Auth { admin: token(admin, "a"), read: token(read, "r"), submit: token(submit, "s") }
    }

    fn status(auth: &Auth, scope: Scope, token: Option<&str>) -> Option<StatusCode> {
        let mut request = Request::builder().uri("/").header("host", "127.0.0.1:8080");
        if let Some(token) = token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        auth.authorize(scope, &request.body(Body::empty()).unwrap()).err().map(|problem| problem.status())
    }

    #[test]
    fn each_scope_takes_the_tokens_of_the_contract() {
        use Scope::{AdminRead, AdminWrite, FollowTask, Submit};
        let (unauthorized, forbidden) = (Some(StatusCode::UNAUTHORIZED), Some(StatusCode::FORBIDDEN));
        let all = auth(true, true, true);
        for (scope, none, wrong, submit, read, admin) in [
            (Submit, unauthorized, unauthorized, None, forbidden, None),
            (FollowTask, unauthorized, unauthorized, None, None, None),
            (AdminRead, unauthorized, unauthorized, forbidden, None, None),
            (AdminWrite, unauthorized, unauthorized, forbidden, forbidden, None),
        ] {
            let got = [None, Some("x"), Some("s"), Some("r"), Some("a")].map(|token| status(&all, scope, token));
            assert_eq!(got, [none, wrong, submit, read, admin], "{scope:?}");
        }
        // Without a submit token tasks are open, also to callers who send some other token.
        assert_eq!(status(&auth(true, true, false), Submit, None), None);
        assert_eq!(status(&auth(true, true, false), FollowTask, Some("x")), None);
        // Without an admin token the admin API goes by Host and Origin.
        assert_eq!(status(&auth(false, false, true), AdminWrite, None), None);
    }

    #[test]
    fn without_an_admin_token_only_its_own_loopback_origin_is_served() {
        for (host, origins, own) in [
            ("127.0.0.1:8080", &[][..], true),
            ("localhost:8080", &[], true),
            ("[::1]:8080", &[], true),
            ("127.0.0.1:8080", &["http://127.0.0.1:8080"], true),
            ("", &[], false),
            ("evil.example:8080", &[], false),
            ("localhost.evil.example", &[], false),
            ("192.168.0.1:8080", &[], false),
            ("127.0.0.1:8080", &["http://evil.example"], false),
            ("127.0.0.1:8080", &["http://127.0.0.1:3000"], false),
            ("127.0.0.1:8080", &["https://127.0.0.1:8080"], false),
            ("127.0.0.1:8080", &["null"], false),
            ("127.0.0.1:8080", &["http://127.0.0.1:8080", "http://evil.example"], false),
        ] {
            assert_eq!(is_own_origin(host, origins.iter().copied()), own, "{host} {origins:?}");
        }
    }

    #[test]
    fn a_token_never_shows_itself() {
        assert_eq!(format!("{:?}", Token::new("hunter2")), "Token(…)");
    }
}
