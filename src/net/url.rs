//! The URLs that this program reads: http, https and file. A URL shows no password and no query.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// How a URL is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Scheme {
    /// HTTP without encryption.
    Http,
    /// HTTP with TLS.
    Https,
    /// A file of this machine.
    File,
}

/// A URL. Its `Display` and `Debug` leave out what may be secret: user, password and query.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    scheme: Scheme,
    /// The value of the Authorization header.
    authorization: Option<String>,
    /// The host as written, in lower case, an IPv6 address with its brackets.
    host: String,
    port: u16,
    path: String,
    query: Option<String>,
}

impl Url {
    /// Returns whether `text` starts like a URL that [`Client`](super::Client) can read.
    pub fn is_http(text: &str) -> bool {
        let scheme = text.split("://").next().unwrap_or_default();
        scheme.len() < text.len()
            && ["http", "https"]
                .iter()
                .any(|known| scheme.eq_ignore_ascii_case(known))
    }

    /// Parses an http, https or file URL.
    ///
    /// # Errors
    /// What is wrong with it, in words that do not repeat it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("no URL, expected http://, https:// or file://")?;
        let scheme = match scheme.to_ascii_lowercase().as_str() {
            "http" => Scheme::Http,
            "https" => Scheme::Https,
            "file" => Scheme::File,
            _ => return Err("expected a URL with http://, https:// or file://".into()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, rest) = rest.split_at(end);
        let (user, host) = match authority.rsplit_once('@') {
            Some((user, host)) => (Some(user), host),
            None => (None, authority),
        };
        let (host, port) = host_and_port(host, scheme)?;
        if host.is_empty() != (scheme == Scheme::File) && host != "localhost" {
            return Err(match scheme {
                Scheme::File => "a file URL has three slashes: file:///path".into(),
                _ => "the URL has no host".into(),
            });
        }
        let (path, query) = match rest.split_once('?') {
            Some((path, query)) => (path, Some(encode(query, b"%/?"))),
            None => (rest, None),
        };
        let path = if path.is_empty() { "/" } else { path };
        Ok(Self {
            scheme,
            authorization: user
                .map(|user| format!("Basic {}", BASE64_STANDARD.encode(decode(user)))),
            host,
            port,
            path: encode(path, b"%/"),
            query,
        })
    }

    /// Returns how the URL is read.
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Returns host and port, such as `example.org:443`. Connections to them are counted
    /// together.
    pub fn host_and_port(&self) -> String {
        match self.scheme {
            Scheme::File => "this machine".into(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// Returns the path of a file URL.
    pub fn file_path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(decode(&self.path)))
    }

    /// Returns the URL of the file `name` below this one, as mirrors have them.
    #[must_use]
    pub fn below(&self, name: &str) -> Self {
        let name = encode(name, b"");
        let slash = if self.path.ends_with('/') { "" } else { "/" };
        Self {
            path: format!("{}{slash}{name}", self.path),
            ..self.clone()
        }
    }

    /// Returns where a redirect to `location` leads. The password goes along only to the same
    /// server.
    ///
    /// # Errors
    /// The same as for [`Url::parse`].
    pub fn follow(&self, location: &str) -> Result<Self, String> {
        let base = match self.scheme {
            Scheme::Https => "https:",
            _ => "http:",
        };
        let root = format!("{base}//{}:{}", self.host, self.port);
        let mut next = if Self::is_http(location) {
            Self::parse(location)?
        } else if location.starts_with("//") {
            Self::parse(&format!("{base}{location}"))?
        } else if location.starts_with('/') {
            Self::parse(&format!("{root}{location}"))?
        } else if location.split('/').next().is_some_and(|p| p.contains(':')) {
            return Err("a redirect to neither http nor https".into());
        } else {
            let dir = self.path.rsplit_once('/').map_or("", |(dir, _)| dir);
            Self::parse(&format!("{root}{dir}/{location}"))?
        };
        let same = (self.scheme, &self.host, self.port) == (next.scheme, &next.host, next.port);
        if same && next.authorization.is_none() {
            next.authorization.clone_from(&self.authorization);
        }
        Ok(next)
    }

    /// Returns the URL as the HTTP library needs it: with the query, without user and password.
    /// It is not for messages.
    pub(super) fn request(&self) -> String {
        let query = self.query.as_ref().map(|q| format!("?{q}"));
        format!("{self}{}", query.unwrap_or_default())
    }

    /// Returns the value of the Authorization header.
    pub(super) fn authorization(&self) -> Option<&str> {
        self.authorization.as_deref()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scheme, usual) = match self.scheme {
            Scheme::Http => ("http", 80),
            Scheme::Https => ("https", 443),
            Scheme::File => return write!(f, "file://{}", self.path),
        };
        write!(f, "{scheme}://{}", self.host)?;
        if self.port != usual {
            write!(f, ":{}", self.port)?;
        }
        f.write_str(&self.path)
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

fn host_and_port(text: &str, scheme: Scheme) -> Result<(String, u16), String> {
    let usual = match scheme {
        Scheme::Https => 443,
        _ => 80,
    };
    // The colons of an IPv6 address are between brackets.
    let colon = text.rfind(':').filter(|at| !text[*at..].contains(']'));
    let (host, port) = match colon {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let port = match port {
        "" => usual,
        port => port
            .parse()
            .ok()
            .filter(|port| *port != 0)
            .ok_or("the URL has no valid port")?,
    };
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
    let (name, special) = match address {
        Some(address) => (address, ":."),
        None => (host, "-._~"),
    };
    let valid = |c: char| c.is_ascii_alphanumeric() || special.contains(c);
    if !name.chars().all(valid) {
        return Err("the URL has no valid host".into());
    }
    Ok((host.to_ascii_lowercase(), port))
}

/// Encodes what a path or a query cannot contain. `keep` are special characters that stay as
/// they are.
fn encode(text: &str, keep: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text.as_bytes() {
        let special = b"\"<>\\^`{|}#%?/";
        if byte.is_ascii_graphic() && (!special.contains(&byte) || keep.contains(&byte)) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

/// Replaces `%41` by `A`.
fn decode(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let digits = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        let byte = digits
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        out.push(byte.unwrap_or(bytes[at]));
        at += if byte.is_some() { 3 } else { 1 };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_url_shows_neither_password_nor_query() {
        let secret = url("HTTPS://user:p%40ss@Host.example:8443/a/b%20c?X-Amz-Signature=12#frag");
        assert_eq!(secret.to_string(), "https://host.example:8443/a/b%20c");
        assert_eq!(format!("{secret:?}"), secret.to_string());
        assert_eq!(
            secret.request(),
            "https://host.example:8443/a/b%20c?X-Amz-Signature=12"
        );
        let header = BASE64_STANDARD.encode("user:p@ss");
        assert_eq!(secret.authorization(), Some(&*format!("Basic {header}")));
    }

    #[test]
    fn hosts_and_ports_are_recognized() {
        for (text, shown, host) in [
            ("http://h", "http://h/", "h:80"),
            ("https://h:443/x", "https://h/x", "h:443"),
            ("http://[::1]:8080/x?", "http://[::1]:8080/x", "[::1]:8080"),
            ("http://[::1]/", "http://[::1]/", "[::1]:80"),
        ] {
            let url = url(text);
            assert_eq!((&*url.to_string(), &*url.host_and_port()), (shown, host));
        }
        for bad in [
            "x",
            "ftp://h/",
            "http:///x",
            "http://h:x/",
            "http://h:0/",
            "http://a b/",
            "http://user:http://h",
            "file://host/x",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_name_of_a_file_is_encoded_below_a_mirror() {
        for (mirror, wanted) in [
            ("http://m/d", "http://m/d/a+b%231%25.tar"),
            ("http://m/d/?t=1", "http://m/d/a+b%231%25.tar"),
        ] {
            assert_eq!(url(mirror).below("a+b#1%.tar").to_string(), wanted);
        }
        assert_eq!(
            url("file:///m%20x/").below("a?b").file_path(),
            PathBuf::from("/m x/a?b")
        );
    }

    #[test]
    fn a_redirect_takes_the_password_only_to_the_same_server() {
        let from = url("https://u:p@h:8443/a/b?q=1");
        for (location, to, same) in [
            ("/x?y=2", "https://h:8443/x?y=2", true),
            ("c", "https://h:8443/a/c", true),
            ("https://h:8443/z", "https://h:8443/z", true),
            ("//other/z", "https://other/z", false),
            ("http://h:8443/z", "http://h:8443/z", false),
        ] {
            let next = from.follow(location).unwrap();
            assert_eq!(
                (&*next.request(), next.authorization().is_some()),
                (to, same)
            );
        }
        assert!(from.follow("ftp://h/x").is_err());
        assert!(from.follow("file:///etc/passwd").is_err());
    }
}
