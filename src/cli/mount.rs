//! `lbpayload mount`

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::fs::OFlags;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use sd_notify::NotifyState;

use crate::block::{DirectPolicy, Source, SourceOptions};
use crate::error::{Error, Kind, Result, printable};
use crate::mount::{
    Filesystem, MountPoint, Server, Settings, Stopper, Strictness, in_background, in_foreground,
    remount,
};
use crate::payload::{Payload, TrustedKeys};
use crate::sandbox::Sandbox;
use crate::sys::Inherited;

use super::args::{MountArgs, ProgressForm};
use super::exit::Outcome;
use super::logging::{self, Target};
use super::mount_options::Options;
use super::protection::{Extent, default_memory};
use super::source::warn_if_unchecked;
use super::values::is_url;
use super::{mount_index, progress, signals};

/// The number of problems that a lenient mount names. The attribute `problem` has the rest.
const NAMED_PROBLEMS: u64 = 10;

pub(super) fn run(
    args: &MountArgs,
    form: Option<ProgressForm>,
    mut inherited: Inherited,
) -> Result<Outcome> {
    let ready = args.ready_fd.map(|fd| ready_file(&mut inherited, fd));
    let ready = ready.transpose()?;
    let mut options = Options::default();
    for text in &args.options {
        options.add(text)?;
    }
    if args.lenient {
        options.strictness = Strictness::Lenient;
    }
    if args.single_thread {
        options.settings.max_threads = 1;
    }
    options.debug |= args.debug;
    options.direct = args.direct.or(options.direct);
    options.index = args.index.clone().or(options.index);
    options.source = args.input.or(&options.source);
    options.trust.trust.extend(args.trust.trust.iter().cloned());
    let invocation = Invocation {
        foreground: args.foreground || args.debug,
        ready,
        inherited,
        form,
        ..Invocation::default()
    };
    mount(&args.source, &args.dir, &options, invocation)
}

fn ready_file(inherited: &mut Inherited, fd: i32) -> Result<File> {
    let is_writable = |file: &File| {
        let flags = rustix::fs::fcntl_getfl(file);
        flags.is_ok_and(|flags| flags & OFlags::ACCMODE != OFlags::RDONLY)
    };
    inherited.take(fd).filter(is_writable).ok_or_else(|| {
        let message = format!("file descriptor {fd} is not open for writing");
        Error::new(Kind::Usage, message)
            .with_code("ready-fd")
            .advice("give --ready-fd the number of an open file above 2, as in `7>FILE`")
    })
}

/// The settings of the command besides those of the mount itself.
#[derive(Default)]
pub(super) struct Invocation {
    /// Whether to serve in this process.
    pub foreground: bool,
    /// The file to write a line feed to once the mount answers.
    pub ready: Option<File>,
    /// The files that the program was started with. A server in the background closes them.
    pub inherited: Inherited,
    /// How to show progress.
    pub form: Option<ProgressForm>,
    /// The mount namespace to mount in (mount_namespaces(7)), if not this one.
    pub namespace: Option<PathBuf>,
    /// Whether to do everything except the mount itself.
    pub fake: bool,
}

pub(super) fn mount(
    source: &Path,
    dir: &Path,
    options: &Options,
    invocation: Invocation,
) -> Result<Outcome> {
    for option in &options.ignored {
        log::warn!("mount option `{option}` has no effect, a payload is nosuid and nodev");
    }
    if options.remount {
        remount(dir, &options.settings)?;
        return Ok(Outcome::Done);
    }
    let log = match &options.log {
        Some(file) => logging::file(file)?,
        None if invocation.foreground => Target::Stderr,
        None => Target::Syslog,
    };
    if options.debug {
        logging::show_debug();
    }
    // A URL tells its time when it is opened.
    let time = match is_url(source) {
        true => None,
        false => Some(time_of(source)?),
    };
    // The path is made absolute, as mount(8) does: the server leaves this working directory, and
    // the name in the mount table is read from other directories.
    let resolved = source.canonicalize();
    let source = resolved.as_deref().unwrap_or(source);
    let trust = options.trust.keys()?;
    let filesystem = open_filesystem(source, time, options, &trust, invocation.form)?;
    let filesystem = Arc::new(filesystem);
    let opened = &**filesystem.payload().source();
    warn_if_unchecked(opened, !trust.is_empty());
    // A header may have been healed already.
    filesystem.note_healed();
    // Two processes cannot share the threads.
    opened.quiesce();
    let time = time
        .or_else(|| opened.modified())
        .unwrap_or(SystemTime::UNIX_EPOCH);
    let settings = Settings {
        time: Some(time),
        sandbox: (!options.source.no_sandbox).then_some(Sandbox {
            read: (!is_url(source)).then_some(&[]),
            write: &[],
        }),
        ..options.settings.clone()
    };
    // As in mount(8), the source is opened in this namespace, and the mount point in the other.
    if let Some(namespace) = &invocation.namespace {
        enter(namespace)?;
    }
    if invocation.fake {
        MountPoint::exists(dir)?;
        return Ok(Outcome::Done);
    }
    let point = MountPoint::prepare(dir)?;
    // What comes from now on belongs to the server. If it fails to start, this process says why.
    let begin = |stopper| {
        logging::send_to(log);
        listen(stopper)
    };
    let server = if invocation.foreground {
        in_foreground(filesystem, point, &settings, begin)?
    } else {
        match in_background(filesystem, point, &settings, invocation.inherited, begin)? {
            Some(server) => server,
            None => return Ok(Outcome::Done),
        }
    };
    serve(server, invocation.ready, invocation.foreground)
}

fn enter(namespace: &Path) -> Result<()> {
    let failed = |e: io::Error| Error::io("enter the mount namespace", e).with_path(namespace);
    let file = File::open(namespace).map_err(failed)?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Mount))
        .map_err(|e| failed(e.into()))
}

fn listen(stopper: Stopper) -> Result<()> {
    signals::forward(move || stopper.stop())
}

fn serve(server: Server, ready: Option<File>, foreground: bool) -> Result<Outcome> {
    if let Some(mut ready) = ready {
        // The mount is useful even if the reader has ended.
        if let Err(e) = ready.write_all(b"\n") {
            log::warn!("{}", Error::io("report that the mount is ready", e));
        }
    }
    tell_systemd(&server);
    let ended = server.wait();
    // In the background, standard error leads nowhere.
    if let (Err(error), false) = (&ended, foreground) {
        log::error!("{}", error.one_line());
    }
    ended.map(|()| Outcome::Done)
}

/// Tells systemd, or another supervisor that set NOTIFY_SOCKET, that the mount answers.
fn tell_systemd(server: &Server) {
    let status = format!("Serving {}", server.point().display());
    let states = [
        NotifyState::Ready,
        NotifyState::MainPid(std::process::id()),
        NotifyState::Status(&status),
    ];
    if let Err(e) = sd_notify::notify(&states) {
        log::warn!("{}", Error::io("notify the service manager", e));
    }
}

fn open_filesystem(
    source: &Path,
    time: Option<SystemTime>,
    options: &Options,
    trust: &TrustedKeys,
    form: Option<ProgressForm>,
) -> Result<Filesystem> {
    let trusting = |filesystem: Filesystem| match trust.is_empty() {
        true => Ok(filesystem),
        false => filesystem.trusting(trust),
    };
    let source = open_source(source, options)?;
    let index = options.index.as_deref();
    // With an index, the trailer is found without reading all headers.
    let extent = index.and_then(mount_index::extent);
    let mut payload = open_payload(&source, options, extent)?;
    // The node of a device is only as old as the last boot.
    let changed = match source.is_device() {
        true => SystemTime::UNIX_EPOCH,
        false => time
            .or_else(|| source.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH),
    };
    if let Some(index) = index {
        if let Some(filesystem) = mount_index::read(index, &payload, changed)? {
            return trusting(filesystem);
        }
    }
    if extent.is_some() {
        // The index does not fit, and the trailer may be elsewhere.
        payload = open_payload(&source, options, None)?;
    }
    let opened = Arc::clone(payload.source());
    let mut count = 0;
    let mut name = |problem: &crate::payload::Problem| {
        count += 1;
        if count <= NAMED_PROBLEMS {
            let at = opened.start().saturating_add(problem.offset);
            let of = match &problem.name {
                Some(name) => format!("`{}` of ", printable(name)),
                None => String::new(),
            };
            let entry = match problem.index {
                Some(index) => format!("entry {index}, "),
                None => String::new(),
            };
            log::warn!(
                "{of}`{}`: {} ({entry}at offset {at})",
                opened.path().display(),
                problem.message()
            );
        }
    };
    let filesystem = Filesystem::new(
        payload,
        options.strictness,
        &*progress::shown(form),
        &mut name,
    )
    .map_err(|e| match e.kind() {
        Kind::Format => e.advice(format!(
            "`lbpayload mount --lenient {} DIR` shows the files that are intact",
            source_and_offset(opened.path(), options)
        )),
        _ => e,
    })?;
    let filesystem = trusting(filesystem)?;
    if count > NAMED_PROBLEMS {
        log::warn!("{count} problems in all, `lbpayload verify` lists more of them");
    }
    if let Some(index) = options.index.as_ref().filter(|_| filesystem.is_intact()) {
        mount_index::write(index, &filesystem, changed);
    }
    Ok(filesystem)
}

/// Returns the source as arguments of a command in a help message.
fn source_and_offset(source: &Path, options: &Options) -> String {
    match options.source.offset {
        None => source.display().to_string(),
        Some(offset) => format!("--offset {offset} {}", source.display()),
    }
}

/// Opens the source, by default through the page cache, since files of a mount are often read
/// more than once.
fn open_source(path: &Path, options: &Options) -> Result<Arc<dyn Source>> {
    let how = SourceOptions {
        direct: options.direct.unwrap_or(DirectPolicy::Never),
        keep_cache: true,
        ..SourceOptions::default()
    };
    options.source.open(&[path], how)
}

/// Opens the payload in a source, with its protection. Its count of files may be wrong: the scan
/// decides whether the source can hold as many files as the header claims.
fn open_payload(
    source: &Arc<dyn Source>,
    options: &Options,
    extent: Option<Extent>,
) -> Result<Payload> {
    let source = Arc::clone(source);
    let protected = options
        .source
        .protected(source, default_memory(), None, extent)?;
    let opened = &protected.source;
    let payload = Payload::open_whatever_its_count(Arc::clone(opened))
        .map_err(|problem| problem.into_error(&**opened))?;
    Ok(protected.with_headers(payload))
}

/// Returns the modification time of the image file or of the device's node, because the image has
/// no times of its own.
fn time_of(source: &Path) -> Result<SystemTime> {
    let meta = std::fs::metadata(source).map_err(|e| {
        Error::io("open", e)
            .with_path(source)
            .with_code("source-missing")
    })?;
    // A time before 1970 is treated as 1970.
    let since = match u64::try_from(meta.mtime()) {
        Ok(seconds) => Duration::new(seconds, meta.mtime_nsec() as u32),
        Err(_) => Duration::ZERO,
    };
    Ok(SystemTime::UNIX_EPOCH + since)
}
