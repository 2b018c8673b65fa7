//! The thin layer between fuser and the answers: every call is one of theirs, in
//! fuser's types.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags,
    ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    WriteFlags,
};

use super::activity::Activity;
use super::answers::{Answer, Answers, What};
use super::attributes::{SHA256, attribute, attribute_names};
use super::errno::{Refusal, errno};
use super::settings::{AttrDefaults, Settings};

/// How long the kernel may keep names and attributes: nothing of it ever changes.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// Requests that may be under way unasked, such as read-ahead.
const BACKGROUND: u16 = 64;

/// Bytes in a block, as stat and statfs count.
const BLOCK: u32 = 512;

/// What fuser calls.
pub(super) struct Adapter {
    answers: Arc<Answers>,
    defaults: AttrDefaults,
    direct_io: bool,
    activity: Arc<Activity>,
    /// Whether the kernel can be told that files need no opening.
    no_open: bool,
    no_opendir: bool,
}

impl Adapter {
    pub(super) fn new(answers: Arc<Answers>, settings: &Settings, activity: Arc<Activity>) -> Self {
        Self {
            answers,
            defaults: settings.attr_defaults(),
            direct_io: settings.direct_io,
            activity,
            no_open: false,
            no_opendir: false,
        }
    }

    fn attr(&self, ino: u64, what: What) -> FileAttr {
        let (kind, size, perm, nlink) = match what {
            What::Directory => (FileType::Directory, 0, 0o555, 2),
            What::File(size) => (FileType::RegularFile, size, 0o444, 1),
        };
        let time = self.defaults.time;
        FileAttr {
            ino: INodeNo(ino),
            size,
            blocks: size.div_ceil(BLOCK.into()),
            atime: time,
            mtime: time,
            ctime: time,
            crtime: time,
            kind,
            perm: perm & !self.defaults.umask,
            nlink,
            uid: self.defaults.uid,
            gid: self.defaults.gid,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        }
    }
}

fn no(refusal: &Refusal) -> Errno {
    Errno::from_i32(errno(refusal))
}

fn kind(what: What) -> FileType {
    match what {
        What::Directory => FileType::Directory,
        What::File(_) => FileType::RegularFile,
    }
}

/// As getxattr(2) has it: the length where the caller has no room, the value where
/// it fits.
fn reply_value(reply: ReplyXattr, size: u32, value: Answer<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(no(&Refusal::NoRoom)),
        Ok(value) => reply.data(&value),
        Err(refusal) => reply.error(no(&refusal)),
    }
}

#[allow(clippy::too_many_arguments)] // fuser's signatures
impl Filesystem for Adapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let has = config.capabilities();
        self.no_open = !self.direct_io && has.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = has.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_ASYNC_DIO
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            // Nothing changes, so nothing cached is ever to be thrown away.
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        // Only what the kernel offers can be asked for.
        let _ = config.add_capabilities(wanted & has);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.activity.note();
        match self.answers.lookup(parent.0, name.as_bytes()) {
            Ok(node) => {
                let attr = self.attr(node.ino(), What::File(node.size));
                reply.entry(&FOREVER, &attr, Generation(0));
            }
            Err(refusal) => reply.error(no(&refusal)),
        }
    }

    // Numbers are places in the tree: there is nothing to forget.
    fn forget(&self, _req: &Request, _ino: INodeNo, _nlookup: u64) {}

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.activity.note();
        match self.answers.what(ino.0) {
            Ok(what) => reply.attr(&FOREVER, &self.attr(ino.0, what)),
            Err(refusal) => reply.error(no(&refusal)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.activity.note();
        if self.no_open {
            return reply.error(no(&Refusal::NotKnown));
        }
        if let Err(refusal) = self.answers.file(ino.0) {
            return reply.error(no(&refusal));
        }
        if flags.0 & libc::O_ACCMODE != libc::O_RDONLY {
            return reply.error(no(&Refusal::ReadOnly));
        }
        let how = if self.direct_io {
            FopenFlags::FOPEN_DIRECT_IO
        } else {
            FopenFlags::FOPEN_KEEP_CACHE
        };
        reply.opened(FileHandle(0), how | FopenFlags::FOPEN_NOFLUSH);
    }

    fn read(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.activity.note();
        let mut reply = Some(reply);
        let give = |bytes: &[u8]| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        };
        // All or nothing, even with direct_io: a page may be read for a mapping, and
        // nothing tells.
        let answer = self.answers.read(ino.0, offset, size as usize, give);
        if let (Err(refusal), Some(reply)) = (answer, reply) {
            reply.error(no(&refusal));
        }
    }

    fn opendir(&self, _req: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        self.activity.note();
        if self.no_opendir {
            return reply.error(no(&Refusal::NotKnown));
        }
        let how = FopenFlags::FOPEN_CACHE_DIR | FopenFlags::FOPEN_KEEP_CACHE;
        reply.opened(FileHandle(0), how);
    }

    fn readdir(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        self.activity.note();
        let rows = match self.answers.list(ino.0, offset) {
            Ok(rows) => rows,
            Err(refusal) => return reply.error(no(&refusal)),
        };
        for row in rows {
            let name = OsStr::from_bytes(row.name);
            if reply.add(INodeNo(row.ino), row.next, kind(row.what), name) {
                break;
            }
        }
        reply.ok();
    }

    fn readdirplus(
        &self,
        _req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        self.activity.note();
        let rows = match self.answers.list(ino.0, offset) {
            Ok(rows) => rows,
            Err(refusal) => return reply.error(no(&refusal)),
        };
        for row in rows {
            let name = OsStr::from_bytes(row.name);
            let attr = self.attr(row.ino, row.what);
            let ino = INodeNo(row.ino);
            if reply.add(ino, row.next, name, &FOREVER, &attr, Generation(0)) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.activity.note();
        let tree = self.answers.tree();
        // Blocks are counted in the last of these, and many programs take the first
        // for it (statfs(2) has it so).
        let blocks = tree.bytes().div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, tree.files() + 1, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, _req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.activity.note();
        let unknown = name == SHA256 && matches!(self.answers.known_sum(ino.0), Ok(None));
        if !unknown {
            let value = attribute(&self.answers, ino.0, name.as_bytes());
            return reply_value(reply, size, value);
        }
        // Reading a file as a whole must keep nobody else waiting.
        let (answers, activity) = (Arc::clone(&self.answers), Arc::clone(&self.activity));
        let sum = move || {
            let value = attribute(&answers, ino.0, SHA256.as_bytes());
            activity.note();
            reply_value(reply, size, value);
        };
        // Without a thread the reply is dropped, and so answered with EIO by fuser.
        if let Err(e) = std::thread::Builder::new().name("sum".into()).spawn(sum) {
            log::error!("starting a thread for a checksum: {e}");
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.activity.note();
        reply_value(reply, size, attribute_names(&self.answers, ino.0));
    }

    fn access(&self, _req: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(no(&Refusal::NotKnown));
    }

    fn flush(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(no(&Refusal::NotKnown));
    }

    fn lseek(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: i64,
        _whence: i32,
        reply: ReplyLseek,
    ) {
        // The kernel then does it by the size.
        reply.error(no(&Refusal::NotKnown));
    }

    fn ioctl(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _cmd: u32,
        _in_data: &[u8],
        _out_size: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(no(&Refusal::NoControl));
    }

    // The kernel refuses these by itself on a mount that is read-only. Should it
    // ever ask, it gets the same answer.

    fn setattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        _size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn mknod(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _rdev: u32,
        reply: ReplyEntry,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn mkdir(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn unlink(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn rmdir(&self, _req: &Request, _parent: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn symlink(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _link_name: &OsStr,
        _target: &Path,
        reply: ReplyEntry,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn rename(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _newparent: INodeNo,
        _newname: &OsStr,
        _flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn link(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _newparent: INodeNo,
        _newname: &OsStr,
        reply: ReplyEntry,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn create(
        &self,
        _req: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _offset: u64,
        _length: u64,
        _mode: i32,
        reply: ReplyEmpty,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn setxattr(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _name: &OsStr,
        _value: &[u8],
        _flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        reply.error(no(&Refusal::ReadOnly));
    }

    fn removexattr(&self, _req: &Request, _ino: INodeNo, _name: &OsStr, reply: ReplyEmpty) {
        reply.error(no(&Refusal::ReadOnly));
    }
}
