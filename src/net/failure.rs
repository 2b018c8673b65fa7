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
}

impl Failure {
    /// Creates a failure that displays as `words`.
    pub fn new(cause: Cause, words: impl Into<String>) -> Self {
        Self {
            cause,
            retry_after: None,
            words: words.into(),
        }
    }

    /// Returns what the user can do, if the cause says.
    pub fn help(&self) -> Option<&'static str> {
        match self.cause {
            Cause::Tls => Some(
                "check the clock (`date`) and the certificates (package ca-certificates, or \
                 SSL_CERT_FILE for your own authority)",
            ),
            Cause::Connect => Some(
                "check the network, and the proxy if you need one (HTTPS_PROXY, HTTP_PROXY, \
                 NO_PROXY)",
            ),
            _ => None,
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
            HttpError::HostNotFound => Self::new(Cause::Connect, "the host was not found"),
            HttpError::ConnectionFailed | HttpError::InvalidProxyUrl => {
                Self::new(Cause::Connect, "could not connect")
            }
            HttpError::ConnectProxyFailed(words) => {
                Self::new(Cause::Connect, format!("the proxy refused ({words})"))
            }
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
            _ if error.to_string().starts_with("failed to lookup address") => {
                Self::new(Cause::Connect, "the host was not found")
            }
            _ => Self::new(
                Cause::Connect,
                format!("could not connect ({})", system(error)),
            ),
        }
    }

    fn of_tls(error: &TlsError) -> Self {
        let words = match error {
            TlsError::InvalidCertificate(why) => match why {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "its certificate has expired".to_owned()
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    "its certificate is not valid yet".to_owned()
                }
                CertificateError::UnknownIssuer => {
                    "its certificate is from an unknown authority".to_owned()
                }
                CertificateError::NotValidForName
                | CertificateError::NotValidForNameContext { .. } => {
                    "its certificate is for another host".to_owned()
                }
                other => format!("its certificate is not valid ({other})"),
            },
            other => format!("TLS failed ({other})"),
        };
        Self::new(Cause::Tls, words)
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
