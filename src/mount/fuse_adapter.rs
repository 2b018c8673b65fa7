//! The thin layer between fuser and the [`Filesystem`]. Each call becomes one call of a
//! `Filesystem` method, and the result becomes a reply in fuser's types.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, Errno, FileAttr, FileHandle, FileType, FopenFlags, Generation,
    INodeNo, InitFlags, IoctlFlags, KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr,
    ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyIoctl,
    ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow, WriteFlags,
};

use crate::payload::Sha256Sum;

use super::activity::Activity;
use super::attributes::{attribute, attribute_names, needs_source, needs_sum};
use super::caller::Caller;
use super::errno::{Refusal, errno};
use super::filesystem::{Answer, Filesystem, NodeKind};
use super::read_pool::ReadPool;
use super::reading::ReadRequest;
use super::settings::{AttrDefaults, Settings};
use super::sums::Sums;
use super::tree::ROOT;

/// The time for which the kernel may cache names and attributes. They never change.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);

/// The number of background requests, such as read-ahead, that the kernel may have in flight.
const BACKGROUND: u16 = 64;

/// The block size in bytes that stat and statfs count with.
const BLOCK: u32 = 512;

/// Implements fuser's interface for a [`Filesystem`].
pub(super) struct FuseAdapter {
    filesystem: Arc<Filesystem>,
    /// Computes checksums.
    sums: Arc<Sums>,
    /// Does what may wait for the disk.
    pool: Arc<ReadPool>,
    defaults: AttrDefaults,
    direct_io: bool,
    lists_attributes: bool,
    activity: Arc<Activity>,
    /// Whether the kernel supports files that need no open request.
    no_open: bool,
    no_opendir: bool,
}

impl FuseAdapter {
    pub(super) fn new(
        filesystem: Arc<Filesystem>,
        sums: Arc<Sums>,
        pool: Arc<ReadPool>,
        settings: &Settings,
        activity: Arc<Activity>,
    ) -> Self {
        Self {
            filesystem,
            sums,
            pool,
            defaults: settings.attr_defaults(),
            direct_io: settings.direct_io,
            lists_attributes: !settings.hides_attributes,
            activity,
            no_open: false,
            no_opendir: false,
        }
    }

    /// Returns what tells an inode from the one with the same number in another payload. The
    /// kernel makes the directory itself, with the generation 0.
    fn generation(&self, ino: u64) -> Generation {
        match ino {
            ROOT => Generation(0),
            _ => Generation(self.filesystem.tree().identity().into()),
        }
    }

    fn attr(&self, ino: u64, kind: NodeKind) -> FileAttr {
        let (size, perm, nlink) = match kind {
            NodeKind::Directory => (0, 0o555, 2),
            NodeKind::File(size) => (size, 0o444, 1),
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
            kind: file_type(kind),
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

fn file_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Directory => FileType::Directory,
        NodeKind::File(_) => FileType::RegularFile,
    }
}

/// Replies as getxattr(2) does: with the length if the caller asks for it, or with the value if
/// it fits.
fn reply_value(reply: ReplyXattr, size: u32, value: Answer<Vec<u8>>) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(no(&Refusal::NoRoom)),
        Ok(value) => reply.data(&value),
        Err(refusal) => reply.error(no(&refusal)),
    }
}

/// A read that waits for the disk.
struct PendingRead {
    filesystem: Arc<Filesystem>,
    activity: Arc<Activity>,
    request: ReadRequest,
    reply: ReplyData,
}

impl PendingRead {
    /// Reads, and answers.
    fn answer(self) {
        let mut reply = Some(self.reply);
        // The read returns all bytes or fails, even with direct_io: it may fill a page of a
        // memory mapping, and no flag shows whether it does.
        let answer = self.filesystem.read_from_source(&self.request, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        if let (Err(refusal), Some(reply)) = (answer, reply) {
            reply.error(no(&refusal));
        }
        self.activity.note();
    }

    fn refuse(self, refusal: &Refusal) {
        self.reply.error(no(refusal));
        self.activity.note();
    }
}

/// Defines calls that always answer with the same refusal. Only the types of their arguments are
/// given.
macro_rules! refuse {
    ($($call:ident($($argument:ty),*) -> $reply:ty: $refusal:ident;)*) => {
        $(fn $call(&self, _: &Request, $(_: $argument,)* reply: $reply) {
            reply.error(no(&Refusal::$refusal));
        })*
    };
}

#[allow(clippy::too_many_arguments)] // fuser's signatures
impl fuser::Filesystem for FuseAdapter {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let has = config.capabilities();
        self.no_open = !self.direct_io && has.contains(InitFlags::FUSE_NO_OPEN_SUPPORT);
        self.no_opendir = has.contains(InitFlags::FUSE_NO_OPENDIR_SUPPORT);
        let wanted = InitFlags::FUSE_DO_READDIRPLUS
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_ASYNC_DIO
            // File handles stay valid when the kernel has dropped the inode, and in the next
            // mount of the same payload.
            | InitFlags::FUSE_EXPORT_SUPPORT
            | InitFlags::FUSE_DIRECT_IO_ALLOW_MMAP
            // The content never changes, so the kernel need not drop cached data.
            | InitFlags::FUSE_EXPLICIT_INVAL_DATA;
        // Only what the kernel offers can be requested.
        let _ = config.add_capabilities(wanted & has);
        let _ = config.set_max_background(BACKGROUND);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.activity.note();
        let found = match name.as_bytes() {
            // Only a server of NFS asks this, for a file handle of which the kernel knows
            // nothing but the inode number.
            b"." => self.filesystem.kind(parent.0).map(|kind| (parent.0, kind)),
            b".." => Ok((ROOT, NodeKind::Directory)),
            name => {
                let found = self.filesystem.lookup(parent.0, name);
                found.map(|node| (node.ino(), NodeKind::File(node.size)))
            }
        };
        match found {
            Ok((ino, kind)) => {
                let attr = self.attr(ino, kind);
                reply.entry(&FOREVER, &attr, self.generation(ino));
            }
            Err(refusal) => reply.error(no(&refusal)),
        }
    }

    // Inode numbers are positions in the tree, so there is nothing to forget.
    fn forget(&self, _req: &Request, _ino: INodeNo, _nlookup: u64) {}

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        self.activity.note();
        match self.filesystem.kind(ino.0) {
            Ok(kind) => reply.attr(&FOREVER, &self.attr(ino.0, kind)),
            Err(refusal) => reply.error(no(&refusal)),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        self.activity.note();
        if self.no_open {
            return reply.error(no(&Refusal::NotKnown));
        }
        if let Err(refusal) = self.filesystem.file(ino.0) {
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
        req: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        self.activity.note();
        // For a reader with O_DIRECT the page cache of the source is as useless as that of the
        // mount. It costs time where a read of two pages becomes two reads, as on a busy FUSE
        // mount.
        let past_cache = flags.0 & libc::O_DIRECT != 0;
        let request = self
            .filesystem
            .read_request(ino.0, offset, size as usize, past_cache);
        let request = match request {
            Ok(request) => request,
            Err(refusal) => return reply.error(no(&refusal)),
        };
        let mut reply = Some(reply);
        let at_once = self.filesystem.read_at_once(&request, |bytes| {
            if let Some(reply) = reply.take() {
                reply.data(bytes);
            }
        });
        let Some(reply) = reply.filter(|_| at_once.is_none()) else {
            return;
        };
        let read = PendingRead {
            filesystem: Arc::clone(&self.filesystem),
            activity: Arc::clone(&self.activity),
            request,
            reply,
        };
        if !self.filesystem.needs_check(ino.0) {
            return self.pool.run(|| read.answer());
        }
        let pool = Arc::clone(&self.pool);
        let caller = Caller::new(req.pid());
        self.sums
            .check(ino.0, caller, move |checked| match checked {
                Ok(()) => pool.run(|| read.answer()),
                Err(refusal) => read.refuse(&refusal),
            });
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
        let rows = match self.filesystem.list(ino.0, offset) {
            Ok(rows) => rows,
            Err(refusal) => return reply.error(no(&refusal)),
        };
        for row in rows {
            let name = OsStr::from_bytes(row.name);
            if reply.add(INodeNo(row.ino), row.next, file_type(row.kind), name) {
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
        let rows = match self.filesystem.list(ino.0, offset) {
            Ok(rows) => rows,
            Err(refusal) => return reply.error(no(&refusal)),
        };
        for row in rows {
            let name = OsStr::from_bytes(row.name);
            let attr = self.attr(row.ino, row.kind);
            let ino = INodeNo(row.ino);
            let generation = self.generation(row.ino);
            if reply.add(ino, row.next, name, &FOREVER, &attr, generation) {
                break;
            }
        }
        reply.ok();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        self.activity.note();
        let tree = self.filesystem.tree();
        // statfs(2) counts blocks in the fragment size (the last number), but many programs use
        // the block size (the first one).
        let blocks = tree.bytes().div_ceil(BLOCK.into());
        reply.statfs(blocks, 0, 0, tree.files() + 1, 0, BLOCK, 255, BLOCK);
    }

    fn getxattr(&self, req: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.activity.note();
        let (ino, name) = (ino.0, name.as_bytes());
        let activity = Arc::clone(&self.activity);
        let reply = move |value| {
            activity.note();
            reply_value(reply, size, value);
        };
        if needs_sum(&self.filesystem, ino, name) {
            let reply =
                move |sum: Answer<Sha256Sum>| reply(sum.map(|s| s.to_string().into_bytes()));
            self.sums.give(ino, Caller::new(req.pid()), reply);
        } else if needs_source(&self.filesystem, ino, name) {
            let (filesystem, name) = (Arc::clone(&self.filesystem), name.to_vec());
            let job = move || reply(attribute(&filesystem, ino, &name));
            self.pool.run(job);
        } else {
            reply(attribute(&self.filesystem, ino, name));
        }
    }

    fn listxattr(&self, _req: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.activity.note();
        if !self.lists_attributes {
            return reply_value(reply, size, Ok(Vec::new()));
        }
        let filesystem = Arc::clone(&self.filesystem);
        let list = move || reply_value(reply, size, attribute_names(&filesystem, ino.0));
        // For a broken image, this reads the header of the file.
        match self.filesystem.is_intact() {
            true => list(),
            false => self.pool.run(list),
        }
    }

    refuse! {
        // The kernel then checks modes and sizes itself, and does not ask again. fuser's default
        // answer is the same, but logs a warning.
        access(INodeNo, AccessFlags) -> ReplyEmpty: NotKnown;
        flush(INodeNo, FileHandle, LockOwner) -> ReplyEmpty: NotKnown;
        lseek(INodeNo, FileHandle, i64, i32) -> ReplyLseek: NotKnown;
        ioctl(INodeNo, FileHandle, IoctlFlags, u32, &[u8], u32) -> ReplyIoctl: NoControl;
        // On a read-only mount the kernel refuses these itself, unless root has remounted it
        // writable.
        setattr(
            INodeNo, Option<u32>, Option<u32>, Option<u32>, Option<u64>, Option<TimeOrNow>,
            Option<TimeOrNow>, Option<SystemTime>, Option<FileHandle>, Option<SystemTime>,
            Option<SystemTime>, Option<SystemTime>, Option<BsdFileFlags>
        ) -> ReplyAttr: ReadOnly;
        mknod(INodeNo, &OsStr, u32, u32, u32) -> ReplyEntry: ReadOnly;
        mkdir(INodeNo, &OsStr, u32, u32) -> ReplyEntry: ReadOnly;
        unlink(INodeNo, &OsStr) -> ReplyEmpty: ReadOnly;
        rmdir(INodeNo, &OsStr) -> ReplyEmpty: ReadOnly;
        symlink(INodeNo, &OsStr, &Path) -> ReplyEntry: ReadOnly;
        rename(INodeNo, &OsStr, INodeNo, &OsStr, RenameFlags) -> ReplyEmpty: ReadOnly;
        link(INodeNo, INodeNo, &OsStr) -> ReplyEntry: ReadOnly;
        create(INodeNo, &OsStr, u32, u32, i32) -> ReplyCreate: ReadOnly;
        write(
            INodeNo, FileHandle, u64, &[u8], WriteFlags, OpenFlags, Option<LockOwner>
        ) -> ReplyWrite: ReadOnly;
        fallocate(INodeNo, FileHandle, u64, u64, i32) -> ReplyEmpty: ReadOnly;
        setxattr(INodeNo, &OsStr, &[u8], i32, u32) -> ReplyEmpty: ReadOnly;
        removexattr(INodeNo, &OsStr) -> ReplyEmpty: ReadOnly;
    }
}
