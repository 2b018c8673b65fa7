//! Requests for a URL or a range of it.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ureq::config::Config;
use ureq::tls::{Certificate, RootCerts, TlsConfig};
use ureq::{Agent, Proxy};

use super::answer::Answer;
use super::failure::{Cause, Failure};
use super::url::{Scheme, Url};

/// A longer chain of redirects is taken for a circle.
const MAX_REDIRECTS: usize = 10;
/// The time for a connection to be made, with the lookup of the name.
const CONNECT: Duration = Duration::from_secs(15);

/// Makes requests, over connections that are kept open and used again. It may be used from
/// several threads at once.
pub struct Client {
    plain: Agent,
    /// Created for the first https URL, so that http:// works without certificates.
    tls: OnceLock<Result<Agent, String>>,
    /// The proxy of the environment, to name it in messages.
    proxy: Option<Proxy>,
    stall: Duration,
    stopped: AtomicBool,
    downgrades: bool,
}

impl Client {
    /// Creates a client that gives up when no byte comes for `stall`. Proxies come from the
    /// environment (`HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY`, `NO_PROXY`).
    pub fn new(stall: Duration) -> Self {
        Self {
            plain: config(stall, None).new_agent(),
            tls: OnceLock::new(),
            proxy: Proxy::try_from_env(),
            stall,
            stopped: AtomicBool::new(false),
            downgrades: true,
        }
    }

    /// Refuses redirects from https to http.
    #[must_use]
    pub fn refusing_downgrades(mut self) -> Self {
        self.downgrades = false;
        self
    }

    /// Asks for `url`, or for a range of it: from a first byte to a last one, or to the end.
    /// Follows redirects. With `version`, an ETag or a Last-Modified date, the server sends the
    /// whole object with status 200 if it is now another one.
    ///
    /// # Errors
    /// There is no answer. Any status but a redirect is an answer.
    pub fn get(
        &self,
        url: &Url,
        range: Option<(u64, Option<u64>)>,
        version: Option<&str>,
    ) -> Result<Answer, Failure> {
        let range = range.map(|(first, last)| {
            let last = last.map_or(String::new(), |last| last.to_string());
            format!("bytes={first}-{last}")
        });
        let mut url = url.clone();
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.once(&url, range.as_deref(), version)?;
            if !matches!(answer.status(), 301 | 302 | 303 | 307 | 308) {
                return Ok(answer);
            }
            let lost = |why: &str| Failure::new(Cause::Protocol, format!("a bad redirect ({why})"));
            let location = answer.header("location").ok_or_else(|| lost("no target"))?;
            let next = url.follow(location).map_err(|why| lost(&why))?;
            if url.scheme() == Scheme::Https && next.scheme() == Scheme::Http && !self.downgrades {
                return Err(lost("from https to http"));
            }
            url = next;
        }
        let words = format!("more than {MAX_REDIRECTS} redirects");
        Err(Failure::new(Cause::Protocol, words))
    }

    /// Ends all requests that wait in other threads, and refuses new ones.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.plain.clone().shutdown();
        if let Some(Ok(agent)) = self.tls.get() {
            agent.clone().shutdown();
        }
    }

    fn once(
        &self,
        url: &Url,
        range: Option<&str>,
        version: Option<&str>,
    ) -> Result<Answer, Failure> {
        let stopped = || Failure::new(Cause::Stopped, "interrupted");
        if self.stopped.load(Ordering::Relaxed) {
            return Err(stopped());
        }
        let mut request = self.agent(url.scheme())?.get(url.request());
        if let Some(value) = url.authorization() {
            request = request.header("authorization", value);
        }
        if let Some(range) = range {
            request = request.header("range", range);
            if let Some(version) = version {
                request = request.header("if-range", version);
            }
        }
        match request.call() {
            Ok(response) => Ok(Answer::new(response, self.stall)),
            Err(_) if self.stopped.load(Ordering::Relaxed) => Err(stopped()),
            Err(e) => {
                let failure = Failure::of_http(e, self.stall);
                Err(match self.proxy_for(url) {
                    Some(proxy) => failure.through(&proxy),
                    None => failure,
                })
            }
        }
    }

    /// Returns host and port of the proxy through which `url` is reached.
    fn proxy_for(&self, url: &Url) -> Option<String> {
        let proxy = self.proxy.as_ref()?;
        let uri = url.request().parse().ok()?;
        (!proxy.is_no_proxy(&uri)).then(|| format!("{}:{}", proxy.host(), proxy.port()))
    }

    fn agent(&self, scheme: Scheme) -> Result<&Agent, Failure> {
        if scheme != Scheme::Https {
            return Ok(&self.plain);
        }
        let made = self.tls.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            if found.certs.is_empty() {
                return Err("this system has no certificates of authorities".into());
            }
            let certs = found
                .certs
                .iter()
                .map(|c| Certificate::from_der(c).to_owned());
            let tls = TlsConfig::builder()
                .root_certs(RootCerts::from(certs))
                .unversioned_rustls_crypto_provider(rustls::crypto::ring::default_provider().into())
                .build();
            Ok(config(self.stall, Some(tls)).new_agent())
        });
        made.as_ref()
            .map_err(|words| Failure::new(Cause::Tls, words))
    }
}

fn config(stall: Duration, tls: Option<TlsConfig>) -> Config {
    Agent::config_builder()
        .user_agent(concat!("lbpayload/", env!("CARGO_PKG_VERSION")))
        // Archives are wanted as they are.
        .accept_encoding("identity")
        .http_status_as_error(false)
        // Followed here, because passwords and limits are ours.
        .max_redirects(0)
        .max_redirects_will_error(false)
        // As many as a source reads at once, and two each for a few hosts.
        .max_idle_connections(32)
        .max_idle_connections_per_host(16)
        .timeout_connect(Some(CONNECT))
        .timeout_resolve(Some(CONNECT))
        .timeout_per_read(Some(stall))
        .timeout_per_write(Some(stall))
        .tls_config(tls.unwrap_or_default())
        .build()
}
