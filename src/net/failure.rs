//! Why a request failed, in words that a user can act on.

use std::fmt;
use std::io;
use std::time::Duration;

use rustls::{CertificateError, Error as TlsError};
use ureq::Error as HttpError;

/// The cause of a failed request, for decisions of the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No connection: no such host, no network, nobody listens, a proxy refuses.
    Connect,
    /// The server's certificate is not valid, or TLS failed in another way.
    Tls,
    /// No byte came for too long.
    Stalled,
    /// The answer ended early.
    BrokenOff,
    /// The server answered with this error status.
    Status(u16),
    /// The server broke the rules of HTTP, or its redirects lead nowhere.
    Protocol,
    /// [`Client::stop`](super::Client::stop) was called.
    Stopped,
}

/// A failed request. It displays as a clause such as `404 Not Found`, which names no URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The cause.
    pub cause: Cause,
    /// How long the server asked to wait.
    pub retry_after: Option<Duration>,
    words: String,
    /// What to do, if that is known better than by the cause alone.
    help: Option<&'static str>,
}

impl Failure {
    /// Creates a failure that displays as `words`.
    pub fn new(cause: Cause, words: impl Into<String>) -> Self {
        Self {
            cause,
            retry_after: None,
            words: words.into(),
            help: None,
        }
    }

    /// Sets what the user can do.
    fn with_help(mut self, help: &'static str) -> Self {
        self.help = Some(help);
        self
    }

    /// Names the proxy, which is one more thing that may be wrong. `proxy` is its host and port.
    pub(super) fn through(mut self, proxy: &str) -> Self {
        if self.cause == Cause::Connect {
            let has_help = self.words.starts_with("the proxy refused (407");
            self.words = match self.words.strip_prefix("the proxy refused") {
                Some(why) => format!("the proxy {proxy} refused{why}"),
                None => format!("{}, through the proxy {proxy}", self.words),
            };
            if !has_help {
                self.help = Some(
                    "check the proxy (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY), or name hosts that \
                     are reached without it in NO_PROXY",
                );
            }
        }
        self
    }

    /// Returns what the user can do, if the cause says.
    pub fn help(&self) -> Option<&'static str> {
        self.help.or(match self.cause {
            Cause::Tls => Some(
                "check the clock (`date`) and the certificates (package ca-certificates, or \
                 SSL_CERT_FILE for your own authority)",
            ),
            Cause::Connect => Some(
                "check the network, and the proxy if you need one (HTTPS_PROXY, HTTP_PROXY, \
                 NO_PROXY)",
            ),
            _ => None,
        })
    }

    /// Returns the code of the error that it leads to.
    pub fn code(&self) -> &'static str {
        match self.cause {
            Cause::Connect => "unreachable",
            Cause::Tls => "tls",
            _ => "http",
        }
    }

    /// Returns whether the same request may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self.cause {
            Cause::Connect | Cause::Stalled | Cause::BrokenOff => true,
            Cause::Status(status) => matches!(status, 408 | 425 | 429 | 500..=599),
            Cause::Tls | Cause::Protocol | Cause::Stopped => false,
        }
    }

    pub(super) fn of_http(error: HttpError, stall: Duration) -> Self {
        use ureq::Timeout;
        let protocol = |words: String| Self::new(Cause::Protocol, words);
        match error {
            HttpError::Io(e) => Self::of_io(&e, stall),
            HttpError::Rustls(e) => Self::of_tls(&e),
            HttpError::Tls(words) => Self::new(Cause::Tls, format!("TLS failed ({words})")),
            HttpError::Pem(_) => Self::new(Cause::Tls, "a certificate cannot be read"),
            HttpError::HostNotFound => Self::no_host(),
            HttpError::ConnectionFailed | HttpError::InvalidProxyUrl => {
                Self::new(Cause::Connect, "could not connect")
            }
            HttpError::ConnectProxyFailed(words) => Self::of_proxy(&words),
            HttpError::Timeout(Timeout::Connect | Timeout::Resolve) => {
                Self::new(Cause::Connect, "could not connect (timed out)")
            }
            HttpError::Timeout(_) => {
                let seconds = stall.as_secs_f64();
                Self::new(Cause::Stalled, format!("sent no byte for {seconds} s"))
            }
            HttpError::Protocol(e) => protocol(format!("the answer is not valid HTTP ({e})")),
            HttpError::LargeResponseHeader(..) => {
                protocol("the header of the answer is too long".into())
            }
            // The rest cannot happen with the requests that the client makes, or it names the URL.
            _ => protocol("the request failed".into()),
        }
    }

    /// Converts an error of reading a body too, which wraps the library's own error.
    pub(super) fn of_io(error: &io::Error, stall: Duration) -> Self {
        if let Some(inner) = error.get_ref() {
            if let Some(tls) = inner.downcast_ref::<TlsError>() {
                return Self::of_tls(tls);
            }
            match inner.downcast_ref::<HttpError>() {
                Some(HttpError::Io(inner)) => return Self::of_io(inner, stall),
                Some(HttpError::Timeout(timeout)) => {
                    return Self::of_http(HttpError::Timeout(*timeout), stall);
                }
                Some(HttpError::Rustls(inner)) => return Self::of_tls(inner),
                Some(HttpError::Protocol(inner)) => {
                    let words = format!("the answer is not valid HTTP ({inner})");
                    return Self::new(Cause::Protocol, words);
                }
                _ => {}
            }
        }
        match error.kind() {
            io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe => {
                Self::new(Cause::BrokenOff, "the connection was closed too early")
            }
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::new(
                Cause::Stalled,
                format!("sent no byte for {} s", stall.as_secs_f64()),
            ),
            _ if error.to_string().starts_with("failed to lookup address") => Self::no_host(),
            io::ErrorKind::ConnectionRefused => Self::new(
                Cause::Connect,
                format!("could not connect ({})", system(error)),
            )
            .with_help(
                "check whether the server runs on this port, and the proxy if you need one \
                 (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)",
            ),
            _ => Self::new(
                Cause::Connect,
                format!("could not connect ({})", system(error)),
            ),
        }
    }

    fn no_host() -> Self {
        Self::new(Cause::Connect, "the host was not found").with_help(
            "check the name of the host and the network, and the proxy if you need one \
             (HTTPS_PROXY, HTTP_PROXY, NO_PROXY)",
        )
    }

    /// `words` are the library's, such as `proxy server responded 403/403`.
    fn of_proxy(words: &str) -> Self {
        let status = words.rsplit(' ').next().and_then(|w| w.split('/').next());
        let status = status.and_then(|n| ureq::http::StatusCode::from_bytes(n.as_bytes()).ok());
        let Some(status) = status else {
            return Self::new(Cause::Connect, format!("the proxy refused ({words})"));
        };
        let failure = Self::new(Cause::Connect, format!("the proxy refused ({status})"));
        match status.as_u16() {
            407 => failure.with_help(
                "give user and password of the proxy in its variable: \
                 HTTPS_PROXY=http://USER:PASSWORD@HOST:PORT",
            ),
            _ => failure,
        }
    }

    fn of_tls(error: &TlsError) -> Self {
        let tls = |words: &str, help| Self::new(Cause::Tls, words).with_help(help);
        let TlsError::InvalidCertificate(why) = error else {
            let failure = Self::new(Cause::Tls, format!("TLS failed ({error})"));
            return match error {
                TlsError::InvalidMessage(_) => failure
                    .with_help("check the port: it may be one for http:// and not for https://"),
                _ => failure.with_help("check the URL, and ask who runs the server"),
            };
        };
        match why {
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => tls(
                "its certificate has expired",
                "check the clock (`date`), if it is right, tell who runs the server",
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => tls(
                "its certificate is not valid yet",
                "check the clock (`date`)",
            ),
            CertificateError::UnknownIssuer => tls(
                "its certificate is from an unknown authority",
                "install the certificates of the authorities (package ca-certificates), or name \
                 your own authority's: SSL_CERT_FILE=FILE",
            ),
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                tls(
                    "its certificate is for another host",
                    "check the name of the host in the URL",
                )
            }
            other => Self::new(
                Cause::Tls,
                format!("its certificate is not valid ({other})"),
            ),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.words)
    }
}

/// The system's own words, without the number.
fn system(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => text,
    }
}
