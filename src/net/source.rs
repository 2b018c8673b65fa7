//! A payload behind a URL, as a source of bytes at offsets.

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use crate::block::{ReadMode, Source};
use crate::error::{Error, Kind, Result};

use super::cache::{Cache, Found};
use super::client::Client;
use super::object::Object;
use super::url::Url;

/// A small piece starts at a multiple of this many bytes.
const PAGE: u64 = 4096;
/// The number of bytes that are read for a header.
const SMALL: u64 = 16 * 1024;
/// The number of bytes that are read at once otherwise.
const LARGE: u64 = 1 << 20;
/// The number of requests that are under way at once to read ahead.
const AHEAD: usize = 8;

/// How to read a URL.
#[derive(Debug, Clone, Copy)]
pub struct HttpOptions {
    /// The limit of the cache in bytes, at least 4 MiB.
    pub cache: u64,
    /// The time without a byte after which a request is made again.
    pub stall: Duration,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            cache: 64 << 20,
            stall: Duration::from_secs(30),
        }
    }
}

/// An object on a web server. Its path is the URL without user, password and query.
///
/// Small reads get pieces of 16 KiB, others pieces of 1 MiB, and what comes next is read ahead
/// when the reads are in order. The pieces stay in a cache. Reads of more than 1 MiB go past a
/// cache that is too small to read ahead for them.
pub struct HttpSource {
    shared: Arc<Shared>,
}

struct Shared {
    object: Object,
    state: Mutex<State>,
    changed: Condvar,
}

/// The size of a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Size {
    /// Starts at any page, so that no header needs two of them.
    Small,
    /// Starts at a multiple of its length.
    Large,
}

impl Size {
    /// Returns the start of a piece by its number.
    fn start(self, number: u64) -> u64 {
        match self {
            Self::Small => number * PAGE,
            Self::Large => number * LARGE,
        }
    }

    /// Returns the number of bytes of a piece.
    fn len(self) -> u64 {
        match self {
            Self::Small => SMALL,
            Self::Large => LARGE,
        }
    }
}

struct State {
    small: Cache,
    large: Cache,
    /// The pieces to read ahead.
    queue: VecDeque<(Size, u64)>,
    workers: Vec<JoinHandle<()>>,
    working: usize,
}

impl State {
    fn cache(&mut self, size: Size) -> &mut Cache {
        match size {
            Size::Small => &mut self.small,
            Size::Large => &mut self.large,
        }
    }

    /// Returns a small piece that holds these bytes, or will.
    fn small_with(&self, offset: u64, want: u64) -> Option<u64> {
        let first = offset / PAGE;
        let holds = |number: &u64| offset + want <= Size::Small.start(*number) + SMALL;
        let starts = (0..SMALL / PAGE).filter_map(|back| first.checked_sub(back));
        starts.filter(holds).find(|number| self.small.has(*number))
    }
}

impl HttpSource {
    /// Opens the object at `url`.
    ///
    /// # Errors
    /// `url` is not an http or https URL, there is no such object, or the server cannot send a
    /// part of it.
    pub fn open(url: &str, options: HttpOptions) -> Result<Self> {
        let url = Url::parse(url).map_err(|why| {
            Error::new(Kind::Usage, format!("the URL cannot be used: {why}"))
                .with_code("bad-url")
                .advice("write it as https://HOST/PATH")
        })?;
        let client = Client::new(options.stall).refusing_downgrades();
        let (object, bytes) = Object::open(client, url, SMALL)?;
        let pieces = |share: u64, piece: u64| usize::try_from(share / piece).unwrap_or(usize::MAX);
        // The headers of a thousand files: a payload may be walked twice.
        let for_small = options.cache / 4;
        let mut small = Cache::new(pieces(for_small, SMALL));
        small.put(0, Arc::new(bytes));
        let state = State {
            small,
            large: Cache::new(pieces(options.cache - for_small, LARGE)),
            queue: VecDeque::new(),
            workers: Vec::new(),
            working: 0,
        };
        let shared = Shared {
            object,
            state: Mutex::new(state),
            changed: Condvar::new(),
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Lets other threads read these pieces, if nobody does yet.
    fn read_ahead(&self, state: &mut State, size: Size, pieces: impl Iterator<Item = u64>) {
        let end = self.shared.object.len();
        for number in pieces.filter(|number| size.start(*number) < end) {
            let queued = state.queue.contains(&(size, number));
            if !queued && !state.cache(size).has(number) {
                state.queue.push_back((size, number));
            }
        }
        state.workers.retain(|worker| !worker.is_finished());
        for _ in 0..state.queue.len().min(AHEAD - state.working) {
            let shared = Arc::clone(&self.shared);
            let work = move || shared.work();
            let Ok(worker) = std::thread::Builder::new().name("http".into()).spawn(work) else {
                // It is read when it is needed.
                return state.queue.clear();
            };
            state.workers.push(worker);
            state.working += 1;
        }
    }

    /// Returns the piece that a read gets, and starts to read ahead.
    fn plan(&self, state: &mut State, offset: u64, want: u64) -> (Size, u64) {
        let large = offset / LARGE;
        if want <= SMALL && !state.large.has(large) {
            if let Some(number) = state.small_with(offset, want) {
                return (Size::Small, number);
            }
            let number = offset / PAGE;
            // Someone who has read two pieces in a row reads the next one too.
            let pages = SMALL / PAGE;
            let has =
                |state: &State, back| number.checked_sub(back).is_some_and(|n| state.small.has(n));
            let in_a_row = has(state, pages) && has(state, 2 * pages);
            let goes_on = offset % LARGE < PAGE && large > 0 && state.large.has(large - 1);
            if !in_a_row && !goes_on {
                return (Size::Small, number);
            }
        }
        let most = AHEAD.min(state.large.max() / 4) as u64;
        let is_there = |back: &u64| large.checked_sub(*back).is_some_and(|n| state.large.has(n));
        let run = (1..=most).take_while(is_there).count() as u64;
        // Who reads a piece at a time reads a file, and what is read ahead behind its end delays the
        // rest of it.
        let most = if want > LARGE { most } else { most.div_ceil(2) };
        if run > 0 {
            let ahead = large + 1..=large + (run * 2).min(most);
            self.read_ahead(state, Size::Large, ahead);
        }
        (Size::Large, large)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a piece. Only one thread reads it, the others wait for that one.
    fn piece(&self, size: Size, number: u64) -> io::Result<Arc<Vec<u8>>> {
        let mut state = self.lock();
        loop {
            match state.cache(size).get(number) {
                Found::Here(bytes) => return Ok(bytes),
                Found::Coming => {
                    state = match self.changed.wait(state) {
                        Ok(state) => state,
                        Err(poisoned) => poisoned.into_inner(),
                    }
                }
                Found::Nothing => break,
            }
        }
        state.cache(size).expect(number);
        state.queue.retain(|queued| *queued != (size, number));
        drop(state);
        on_a_thread(|| self.load(size, number)).inspect_err(|_| {
            // There may have been no thread that could say so.
            self.lock().cache(size).forget(number);
            self.changed.notify_all();
        })
    }

    /// Reads a piece that the cache expects.
    fn load(&self, size: Size, number: u64) -> io::Result<Arc<Vec<u8>>> {
        /// Wakes those who wait, also when this thread panics.
        struct Promise<'a>(&'a Shared, Size, u64, Option<Arc<Vec<u8>>>);
        impl Drop for Promise<'_> {
            fn drop(&mut self) {
                let mut state = self.0.lock();
                match self.3.take() {
                    Some(bytes) => state.cache(self.1).put(self.2, bytes),
                    None => state.cache(self.1).forget(self.2),
                }
                self.0.changed.notify_all();
            }
        }
        let mut promise = Promise(self, size, number, None);
        let start = size.start(number);
        let len = size.len().min(self.object.len().saturating_sub(start));
        let mut bytes = vec![0; len as usize];
        self.object.read(&mut bytes, start)?;
        let bytes = Arc::new(bytes);
        promise.3 = Some(Arc::clone(&bytes));
        Ok(bytes)
    }

    /// Reads pieces of the queue until it is empty.
    fn work(&self) {
        loop {
            let mut state = self.lock();
            let Some((size, number)) = state.queue.pop_front() else {
                state.working -= 1;
                return;
            };
            if state.cache(size).has(number) {
                continue;
            }
            state.cache(size).expect(number);
            drop(state);
            // A failure is reported when somebody needs the piece.
            if self.load(size, number).is_err() {
                self.lock().queue.clear();
            }
        }
    }
}

impl Source for HttpSource {
    fn path(&self) -> &Path {
        self.shared.object.path()
    }

    fn len(&self) -> u64 {
        self.shared.object.len()
    }

    fn alignment(&self) -> usize {
        1
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let left = self.len().saturating_sub(offset);
        let want = left.min(buf.len() as u64);
        if want == 0 {
            return Ok(0);
        }
        let is_small = self.shared.lock().large.max() < 4 * AHEAD;
        let buf = &mut buf[..want as usize];
        if want > LARGE && is_small {
            let object = &self.shared.object;
            return on_a_thread(|| object.read(buf, offset)).map(|()| want as usize);
        }
        let mut done = 0;
        while done < buf.len() {
            let (at, left) = (offset + done as u64, want - done as u64);
            let (size, number) = self.plan(&mut self.shared.lock(), at, left);
            match self.shared.piece(size, number) {
                Ok(bytes) => done += copy(&bytes, at - size.start(number), &mut buf[done..]),
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    fn read_cached(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let want = (buf.len() as u64).min(self.len().saturating_sub(offset));
        let mut state = self.shared.lock();
        let small = state
            .small_with(offset, want)
            .map(|number| (Size::Small, number));
        for (size, number) in [Some((Size::Large, offset / LARGE)), small]
            .into_iter()
            .flatten()
        {
            if let Found::Here(bytes) = state.cache(size).get(number) {
                return Ok(copy(&bytes, offset - size.start(number), buf));
            }
        }
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn will_read(&self, offset: u64, len: usize) {
        let mut state = self.shared.lock();
        let known = state.large.has(offset / LARGE);
        // More than the cache holds would drive itself out again.
        let room = state.queue.len() < state.small.max() / 2;
        if room && !known && state.small_with(offset, len as u64).is_none() {
            self.read_ahead(&mut state, Size::Small, std::iter::once(offset / PAGE));
        }
    }

    fn quiesce(&self) {
        let mut state = self.shared.lock();
        state.queue.clear();
        let workers = std::mem::take(&mut state.workers);
        drop(state);
        for worker in workers {
            // It has read ahead, which nobody relies on.
            let _ = worker.join();
        }
        // A thread that has ended is listed for another moment.
        let threads = || std::fs::read_dir("/proc/self/task").map_or(1, Iterator::count);
        for _ in 0..100 {
            if threads() == 1 {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn mode(&self) -> ReadMode {
        ReadMode::Buffered
    }

    fn modified(&self) -> Option<SystemTime> {
        self.shared.object.modified()
    }
}

impl Drop for HttpSource {
    fn drop(&mut self) {
        self.shared.lock().queue.clear();
    }
}

/// Makes a request on a thread of its own: TLS needs more stack than the threads of a queue have.
/// Starting a thread takes far less time than a request.
fn on_a_thread<T: Send>(request: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("http".into());
        let thread = thread.spawn_scoped(scope, request)?;
        let panicked = || io::Error::other("the request panicked, this is a bug in lbpayload");
        thread.join().unwrap_or_else(|_| Err(panicked()))
    })
}

/// Copies what `bytes` has from `from` on.
fn copy(bytes: &[u8], from: u64, buf: &mut [u8]) -> usize {
    let rest = bytes.get(from as usize..).unwrap_or_default();
    let len = rest.len().min(buf.len());
    buf[..len].copy_from_slice(&rest[..len]);
    len
}
