//! A small client of the Platform API: one app, one token, `GET` only. It owns headers, statuses and sizes; what is
//! in an answer is its readers' business. Source: <https://devcenter.heroku.com/articles/platform-api-reference>.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use hsup_drivers::BoxFuture;
use reqwest::header::{ACCEPT, AUTHORIZATION, ETAG, HeaderMap, HeaderValue, IF_NONE_MATCH, RANGE};
use reqwest::{Response, StatusCode, Url};

use super::error::ApiError;
use super::wire::{self, SlugInfo};
use crate::http::{HttpClient, Timeouts, asked_to_wait};
use crate::model::{AppName, SlugId};
use crate::slug::{NoUrl, SlugUrls};

/// The one version of the API that is spoken.
const VERSION_3: &str = "application/vnd.heroku+json; version=3";

/// Heroku ends any request after 30 s itself.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer: an app's config vars have at most 64 KiB, and lists are paged.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;

/// The most of the API's own words that is shown, in characters.
const MAX_MESSAGE: usize = 200;

/// A token of the Platform API. No form of it is ever shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(HeaderValue);

/// Why a text is not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the value (not shown) is not a token: it holds blanks or characters that no token has")]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;

    fn from_str(given: &str) -> Result<Self, InvalidToken> {
        let given = given.trim();
        if given.is_empty() || !given.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidToken);
        }
        let mut header = HeaderValue::try_from(format!("Bearer {given}")).map_err(|_| InvalidToken)?;
        header.set_sensitive(true);
        Ok(Self(header))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

/// Where the Platform API is: an `http` or `https` URL that its paths are added to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiUrl(String);

/// Why a text is not the URL of an API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the value is not the URL of an API: write https://HOST, without user, query or fragment \
     (by default it is {})",
    ApiUrl::HEROKU
)]
pub struct InvalidApiUrl;

impl ApiUrl {
    /// Heroku's own.
    pub const HEROKU: &str = "https://api.heroku.com";

    /// The URL as text; it ends without a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the token would go over a network unencrypted.
    pub fn is_unencrypted(&self) -> bool {
        let url = Url::parse(&self.0).ok().filter(|url| url.scheme() == "http");
        let host = url.as_ref().and_then(Url::host_str).unwrap_or("localhost");
        let address = host.trim_start_matches('[').trim_end_matches(']').parse::<std::net::IpAddr>();
        host != "localhost" && !address.is_ok_and(|address| address.is_loopback())
    }
}

impl Default for ApiUrl {
    fn default() -> Self {
        Self(Self::HEROKU.to_owned())
    }
}

impl FromStr for ApiUrl {
    type Err = InvalidApiUrl;

    fn from_str(given: &str) -> Result<Self, InvalidApiUrl> {
        let url = Url::parse(given).map_err(|_| InvalidApiUrl)?;
        let bare = url.username().is_empty()
            && url.password().is_none()
            && url.query().is_none()
            && url.fragment().is_none();
        match url.scheme() {
            "http" | "https" if bare && url.has_host() => {
                Ok(Self(url.as_str().trim_end_matches('/').to_owned()))
            }
            _ => Err(InvalidApiUrl),
        }
    }
}

/// An answer to a request that may be conditional.
pub(super) enum Answer {
    /// It is as it was when it had this `ETag`.
    Unchanged,
    /// It is this.
    New { url: String, etag: Option<String>, next_range: Option<String>, body: Vec<u8> },
}

/// A client for one app.
pub struct Client {
    http: HttpClient,
    base: ApiUrl,
    token: Token,
    app: AppName,
}

impl Client {
    /// A client that asks this API for this app.
    pub fn new(base: ApiUrl, token: Token, app: AppName) -> Self {
        Self { http: HttpClient::new(Timeouts::InAll(TIMEOUT)), base, token, app }
    }

    /// The app.
    pub(super) fn app(&self) -> &AppName {
        &self.app
    }

    /// `GET`s a resource of the app, which an empty path is itself. `etag` is that of what is known; `range` is for
    /// lists, of which the API else gives the first thousand.
    ///
    /// # Errors
    /// When there is no answer, or one that refuses.
    pub(super) async fn get(
        &self,
        path: &str,
        range: Option<&str>,
        etag: Option<&str>,
    ) -> Result<Answer, ApiError> {
        let url = format!("{}/apps/{}{path}", self.base.as_str(), self.app);
        let mut request = self.http.to(&url).await.map_err(ApiError::NoClient)?.get(&url);
        request = request.header(ACCEPT, VERSION_3).header(AUTHORIZATION, self.token.0.clone());
        if let Some(range) = range {
            request = request.header(RANGE, range);
        }
        if let Some(etag) = etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let sent = request.send().await;
        let response =
            sent.map_err(|error| ApiError::Unreachable { url: url.clone(), source: error.without_url() })?;
        let status = response.status();
        if status == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Answer::Unchanged);
        }
        let headers = response.headers().clone();
        if status != StatusCode::OK && status != StatusCode::PARTIAL_CONTENT {
            let body = read_body(&url, response).await.unwrap_or_default();
            return Err(self.refusal(url, status, &headers, &body));
        }
        let body = read_body(&url, response).await?;
        let text = |name: &str| Some(headers.get(name)?.to_str().ok()?.to_owned());
        let next_range = text("next-range").filter(|_| status == StatusCode::PARTIAL_CONTENT);
        Ok(Answer::New { url, etag: text(ETAG.as_str()), next_range, body })
    }

    fn refusal(&self, url: String, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> ApiError {
        let (app, message) = (self.app.clone(), self.message(body));
        let wait = asked_to_wait(status, headers);
        match status {
            StatusCode::UNAUTHORIZED => ApiError::Unauthorized { url, app },
            StatusCode::FORBIDDEN => ApiError::Forbidden { url, app, message },
            StatusCode::TOO_MANY_REQUESTS => ApiError::RateLimited { url, wait },
            _ => ApiError::Status { url, status, message, wait },
        }
    }

    /// What the API says of a refusal, in brackets. Whatever stands between hsup and the API may say anything, so
    /// the token is looked for and what could upset a terminal is left out.
    fn message(&self, body: &[u8]) -> String {
        let Some(message) = wire::message(body) else { return String::new() };
        let token = self.token.0.to_str().unwrap_or_default().trim_start_matches("Bearer ");
        let message = message.replace(token, "(token)");
        let message: String = message.chars().filter(|c| !c.is_control()).take(MAX_MESSAGE).collect();
        if message.is_empty() { message } else { format!(" ({message})") }
    }

    /// What the API knows of a slug, with a URL that is good now.
    ///
    /// # Errors
    /// When there is no answer, or one that refuses.
    pub(super) async fn slug(&self, id: &SlugId) -> Result<SlugInfo, ApiError> {
        match self.get(&format!("/slugs/{}", id.as_str()), None, None).await? {
            Answer::New { url, body, .. } => wire::parse(&url, &body),
            Answer::Unchanged => Err(ApiError::Malformed {
                url: self.base.as_str().to_owned(),
                what: "304 Not Modified to a request without a condition".to_owned(),
            }),
        }
    }
}

impl SlugUrls for Client {
    fn url<'a>(&'a self, slug: &'a SlugId) -> BoxFuture<'a, Result<String, NoUrl>> {
        Box::pin(async move {
            let slug = self.slug(slug).await.map_err(|error| NoUrl {
                passes: error.passes(),
                retry_after: error.asked_to_wait(),
                source: error.into(),
            })?;
            Ok(slug.blob.url)
        })
    }
}

async fn read_body(url: &str, mut response: Response) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    loop {
        let broke_off =
            |error: reqwest::Error| ApiError::BrokeOff { url: url.to_owned(), source: error.without_url() };
        let Some(chunk) = response.chunk().await.map_err(broke_off)? else { return Ok(body) };
        if body.len() + chunk.len() > MAX_ANSWER_BYTES {
            let what = format!("it has more than {MAX_ANSWER_BYTES} bytes");
            return Err(ApiError::Malformed { url: url.to_owned(), what });
        }
        body.extend_from_slice(&chunk);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_trimmed_and_never_shown() {
        let token: Token = " t0ken\n".parse().unwrap();
        assert_eq!((token.0.to_str().unwrap(), format!("{token:?}").as_str()), ("Bearer t0ken", "Token"));
        assert!(!format!("{:?}", token.0).contains("t0ken"));
        for bad in ["", " \n", "two words", "t\u{f6}ken", "a\r\nb"] {
            assert!(bad.parse::<Token>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_url_of_an_api_is_a_bare_one() {
        let url: ApiUrl = "https://api.example.com/heroku/".parse().unwrap();
        assert_eq!(url.as_str(), "https://api.example.com/heroku");
        assert!(ApiUrl::HEROKU.parse::<ApiUrl>().is_ok_and(|url| url == ApiUrl::default()));
        for bad in ["", "api.heroku.com", "ftp://h", "https://u:p@h", "https://h?x", "https://h#x", "unix:/x"]
        {
            assert!(bad.parse::<ApiUrl>().is_err(), "{bad}");
        }
    }

    #[test]
    fn only_a_network_makes_plain_http_a_risk() {
        let unencrypted = |url: &str| url.parse::<ApiUrl>().unwrap().is_unencrypted();
        assert!(unencrypted("http://api.example.com") && unencrypted("http://192.0.2.1:80"));
        for safe in ["https://api.example.com", "http://localhost:1", "http://127.0.0.1:1", "http://[::1]:1"]
        {
            assert!(!unencrypted(safe), "{safe}");
        }
    }

    #[test]
    fn the_apis_own_words_are_shown_but_no_token_and_no_control_character() {
        let client = Client::new(ApiUrl::default(), "t0ken".parse().unwrap(), "myapp".parse().unwrap());
        let body = br#"{"id":"forbidden","message":"t0ken may not\u001b[31m\n"}"#;
        assert_eq!(client.message(body), " ((token) may not[31m)");
        assert_eq!(client.message(b"<html>"), "");
    }
}
