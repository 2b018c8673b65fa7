//! An HTTP server that does what a test tells it to.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// A request.
#[derive(Debug, Clone)]
pub struct Request {
    pub method: String,
    /// The path as sent, with the query.
    pub target: String,
    /// The header fields, names in lower case.
    pub headers: HashMap<String, String>,
}

impl Request {
    /// The path without the query.
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte of the range that is asked for, and the last if there is one.
    pub fn range(&self) -> Option<(usize, Option<usize>)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()))
    }
}

/// What becomes of the connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    KeepOpen,
    Close,
    /// The client gets ECONNRESET.
    Reset,
}

type Handler = dyn Fn(&Request, &mut TcpStream) -> io::Result<After> + Send + Sync;

/// A server that ends on drop.
pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
}

struct State {
    handler: Box<Handler>,
    requests: Mutex<Vec<Request>>,
    open: Mutex<Vec<TcpStream>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
    stopped: AtomicBool,
}

impl Server {
    pub fn start(
        handler: impl Fn(&Request, &mut TcpStream) -> io::Result<After> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(State {
            handler: Box::new(handler),
            requests: Mutex::default(),
            open: Mutex::default(),
            at_once: 0.into(),
            most_at_once: 0.into(),
            stopped: false.into(),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || shared.serve(stream));
            }
        });
        Self { address, state }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The URL of `path`, which starts with a slash.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.requests.lock().unwrap().clone()
    }

    /// The largest number of requests that were answered at the same time.
    pub fn most_at_once(&self) -> usize {
        self.state.most_at_once.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.stopped.store(true, Ordering::SeqCst);
        // Wakes the accept.
        drop(TcpStream::connect(self.address));
        for stream in self.state.open.lock().unwrap().iter() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl State {
    fn serve(&self, mut stream: TcpStream) {
        // A client that stays connected must not hold its thread forever.
        stream
            .set_read_timeout(Some(Duration::from_secs(60)))
            .unwrap();
        stream.set_nodelay(true).unwrap();
        self.open.lock().unwrap().push(stream.try_clone().unwrap());
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            self.requests.lock().unwrap().push(request.clone());
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most_at_once.fetch_max(now, Ordering::SeqCst);
            let after = (self.handler)(&request, &mut stream);
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            match after {
                Ok(After::KeepOpen) => {}
                Ok(After::Close) | Err(_) => break,
                Ok(After::Reset) => {
                    let linger = nix::libc::linger {
                        l_onoff: 1,
                        l_linger: 0,
                    };
                    use nix::sys::socket::{setsockopt, sockopt};
                    setsockopt(&stream, sockopt::Linger, &linger).unwrap();
                    self.open
                        .lock()
                        .unwrap()
                        .retain(|open| open.peer_addr().ok() != stream.peer_addr().ok());
                    return;
                }
            }
        }
        let _ = stream.shutdown(Shutdown::Both);
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Request> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    Some(Request {
        method,
        target,
        headers,
    })
}

/// Sends a status line and header fields, without a body.
pub fn head(out: &mut TcpStream, status: &str, fields: &str) -> io::Result<()> {
    out.write_all(format!("HTTP/1.1 {status}\r\n{fields}\r\n").as_bytes())
}

/// Sends an answer with a body.
pub fn send(out: &mut TcpStream, status: &str, fields: &str, body: &[u8]) -> io::Result<After> {
    head(
        out,
        status,
        &format!("Content-Length: {}\r\n{fields}", body.len()),
    )?;
    out.write_all(body)?;
    Ok(After::KeepOpen)
}

/// Answers as a good server does: a range if one is asked for, else everything.
pub fn good(request: &Request, out: &mut TcpStream, body: &[u8]) -> io::Result<After> {
    match request.range() {
        Some((first, _)) if first >= body.len() => {
            let fields = format!("Content-Range: bytes */{}\r\n", body.len());
            send(out, "416 Range Not Satisfiable", &fields, b"")
        }
        Some((first, last)) => {
            let last = last.unwrap_or(usize::MAX).min(body.len() - 1);
            let fields = format!("Content-Range: bytes {first}-{last}/{}\r\n", body.len());
            send(out, "206 Partial Content", &fields, &body[first..=last])
        }
        None => send(out, "200 OK", "Accept-Ranges: bytes\r\n", body),
    }
}

/// Answers that there is no such file.
pub fn not_found(out: &mut TcpStream) -> io::Result<After> {
    send(
        out,
        "404 Not Found",
        "Content-Type: text/html\r\n",
        b"<html>no</html>",
    )
}
