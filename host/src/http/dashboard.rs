//! `GET /`: the dashboard, one page that asks nothing of anybody but this host.
//!
//! Its policy allows exactly its own script and style, by their hashes, and connections to this host. Whatever an agent or a
//! sender wrote is put into it as text.

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};

const PAGE: &str = include_str!("dashboard/page.html");

static POLICY: LazyLock<Option<HeaderValue>> = LazyLock::new(|| {
    let hash = |element: &str| {
        let (start, end) = (format!("<{element}>"), format!("</{element}>"));
        let text = PAGE.split_once(&start)?.1.split_once(&end)?.0;
        Some(format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text))))
    };
    let policy = format!(
        "default-src 'none'; script-src {}; style-src {}; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash("script")?,
        hash("style")?,
    );
    HeaderValue::from_str(&policy).ok()
});

/// The dashboard.
#[utoipa::path(
    get,
    path = "/",
    tag = "operation",
    responses((status = 200, description = "A page for people", body = String, content_type = "text/html")),
)]
pub(crate) async fn page() -> Response {
    let mut response = ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], PAGE).into_response();
    let headers = response.headers_mut();
    if let Some(policy) = POLICY.clone() {
        headers.insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_asks_nobody_else_and_makes_no_html_of_text() {
        assert!(POLICY.is_some());
        for forbidden in
            ["innerHTML", "insertAdjacentHTML", "document.write", "eval(", " style=\"", "src=", "@import", "url("]
        {
            assert!(!PAGE.contains(forbidden), "{forbidden}");
        }
        let others = PAGE.matches("http://").count() + PAGE.matches("https://").count();
        assert_eq!(others, PAGE.matches("http://www.w3.org/2000/svg").count(), "the namespace of SVG is no request");
        assert_eq!((PAGE.matches("<script>").count(), PAGE.matches("<style>").count()), (1, 1));
    }

    #[tokio::test]
    async fn it_is_served_with_its_own_policy() {
        let (doubles, _published) = crate::http::tests::Doubles::new();
        let answer = crate::http::tests::get(&doubles.router(crate::http::Config::default()), "/").await;
        assert_eq!(answer.status, 200);
        let policy = answer.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'sha256-"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    }
}
