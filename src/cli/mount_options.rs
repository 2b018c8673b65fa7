//! `-o`: the options that mount(8), fstab and users of other FUSE file systems write.

use std::path::PathBuf;
use std::time::Duration;

use crate::block::DirectPolicy;
use crate::error::{Error, Kind, Result, printable};
use crate::mount::{Access, Settings, Strictness};

use super::source::SourceArgs;
use super::trust::TrustArgs;
use super::users::{group_id, user_id};
use super::values::whole_bytes;

/// The highest `max_threads=`.
const MAX_THREADS: u32 = 1024;

/// The parsed options of `-o`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Options {
    /// The settings of the mount itself.
    pub settings: Settings,
    /// `offset=`: how the source is read.
    pub source: SourceArgs,
    /// `trust=`: the keys of those who may sign the payload.
    pub trust: TrustArgs,
    /// `lenient`.
    pub strictness: Strictness,
    /// `direct`, `direct=auto|always|never`: how the source is read.
    pub direct: Option<DirectPolicy>,
    /// `index=`: the file in which the contents of the headers are saved.
    pub index: Option<PathBuf>,
    /// `log=`: the file for the server's log.
    pub log: Option<PathBuf>,
    /// `debug`: whether the requests of the kernel are logged.
    pub debug: bool,
    /// `remount`: whether the options of a mount are to be changed.
    pub remount: bool,
    /// Options that have no effect although the user may expect one. A warning names them.
    pub ignored: Vec<String>,
}

impl Options {
    /// Adds the options in `text`, separated by commas. A comma after a backslash is part of the
    /// value. The last of several equal options wins.
    ///
    /// # Errors
    /// An unknown option, or an invalid value.
    pub(super) fn add(&mut self, text: &str) -> Result<()> {
        split(text)
            .iter()
            .try_for_each(|option| self.add_one(option))
    }

    /// Does the same as [`Options::add`], but continues after an invalid option.
    pub(super) fn add_ignoring_unknown(&mut self, text: &str) -> Vec<Error> {
        let options = split(text);
        let errors = options
            .iter()
            .filter_map(|option| self.add_one(option).err());
        errors.collect()
    }

    fn add_one(&mut self, option: &str) -> Result<()> {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        match (key, value) {
            ("allow_other", None) => self.settings.access = Access::Everybody,
            ("allow_root", None) => self.settings.access = Access::OwnerAndRoot,
            ("auto_unmount", None) => self.settings.auto_unmount = true,
            ("uid", Some(value)) => self.settings.uid = Some(id(option, value, user_id)?),
            ("gid", Some(value)) => self.settings.gid = Some(id(option, value, group_id)?),
            ("umask", Some(value)) => {
                self.settings.umask = u16::from_str_radix(value, 8)
                    .ok()
                    .filter(|umask| *umask <= 0o777)
                    .ok_or_else(|| invalid(option, "octal digits, up to 777"))?;
            }
            ("fsname", Some(value)) if !value.is_empty() && !value.contains('\0') => {
                self.settings.fsname = Some(value.to_owned());
            }
            ("exec", None) => self.settings.noexec = false,
            ("noexec", None) => self.settings.noexec = true,
            ("direct_io", None) => self.settings.direct_io = true,
            ("max_threads", Some(value)) => {
                let threads = number(option, value)?;
                if !(1..=MAX_THREADS).contains(&threads) {
                    return Err(invalid(option, "a number from 1 to 1024"));
                }
                self.settings.max_threads = threads as usize;
            }
            ("nolistxattr", None) => self.settings.hides_attributes = true,
            ("listxattr", None) => self.settings.hides_attributes = false,
            ("offset", Some(value)) => self.source.offset = Some(bytes(option, value)?),
            ("timeout", Some(value)) => {
                // In other programs, 0 means never.
                let time = time(option, value)?;
                self.settings.timeout = (!time.is_zero()).then_some(time);
            }
            ("log", Some(value)) if !value.is_empty() => self.log = Some(value.into()),
            ("debug", None) => self.debug = true,
            ("remount", None) => self.remount = true,
            ("index", Some(value)) if !value.is_empty() => self.index = Some(value.into()),
            ("trust", Some(value)) if !value.is_empty() => {
                self.trust.trust.push(value.to_owned());
            }
            ("noverify", None) => self.source.no_protection = true,
            ("nosandbox", None) => self.source.no_sandbox = true,
            ("lenient", None) => self.strictness = Strictness::Lenient,
            ("direct", None) => self.direct = Some(DirectPolicy::Always),
            ("direct", Some(value)) => {
                self.direct = Some(match value {
                    "auto" => DirectPolicy::Auto,
                    "always" => DirectPolicy::Always,
                    "never" => DirectPolicy::Never,
                    _ => return Err(invalid(option, "auto, always or never")),
                });
            }
            ("subtype", Some("lbpayload")) => {}
            ("suid" | "dev", None) => self.ignored.push(key.to_owned()),
            (_, None) if is_for_others(key) => {}
            (_, Some(_)) if has_a_value_for_others(key) => {}
            _ if key.starts_with("x-") || key.starts_with("X-") => {}
            _ => {
                let message = format!("unknown mount option `{}`", printable(option));
                return Err(Error::new(Kind::Usage, message)
                    .with_code("mount-option")
                    .advice("`lbpayload mount --help` lists the mount options"));
            }
        }
        Ok(())
    }
}

/// Returns whether an option is accepted and ignored: mount(8) adds it or handles it itself, it
/// always holds (`ro`, `nosuid`), or only libfuse's file systems use it.
fn is_for_others(key: &str) -> bool {
    let known = [
        "",
        "ro",
        "rw",
        "nosuid",
        "nodev",
        "defaults",
        "auto",
        "noauto",
        "user",
        "nouser",
        "users",
        "owner",
        "group",
        "nofail",
        "_netdev",
        "async",
        "sync",
        "dirsync",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
        "norelatime",
        "strictatime",
        "nostrictatime",
        "lazytime",
        "nolazytime",
        "mand",
        "nomand",
        "silent",
        "loud",
        "iversion",
        "noiversion",
        "default_permissions",
        "kernel_cache",
        "auto_cache",
        "nonempty",
        "big_writes",
        "async_read",
        "sync_read",
        "nosymfollow",
    ];
    known.contains(&key)
}

/// Does the same for options with a value. mount(8) adds `user=` and the names of its helpers for
/// its own use.
fn has_a_value_for_others(key: &str) -> bool {
    // The last ones are in /proc/mounts, from where mount(8) takes them for a remount.
    let known = [
        "comment", "max_read", "user", "helper", "uhelper", "user_id", "group_id", "rootmode",
        "blksize",
    ];
    known.contains(&key)
}

fn split(text: &str) -> Vec<String> {
    let mut options = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        match c {
            '\\' if !escaped => {
                escaped = true;
                continue;
            }
            ',' if !escaped => options.push(String::new()),
            _ => {
                if let Some(last) = options.last_mut() {
                    // Only a comma and the backslash itself need a backslash before them.
                    if escaped && c != ',' && c != '\\' {
                        last.push('\\');
                    }
                    last.push(c);
                }
            }
        }
        escaped = false;
    }
    if escaped {
        // A backslash at the end stands for itself.
        if let Some(last) = options.last_mut() {
            last.push('\\');
        }
    }
    options
}

/// Parses a user or group: a number, or a name that `named` knows. The largest number means
/// "unchanged" to chown(2), so no file can have it.
fn id(option: &str, value: &str, named: fn(&str) -> Option<u32>) -> Result<u32> {
    if !value.starts_with(|c: char| c.is_ascii_digit()) {
        return named(value).ok_or_else(|| invalid(option, "a number, or a name of this system"));
    }
    match number(option, value)? {
        u32::MAX => Err(invalid(option, "a number below 4294967295")),
        id => Ok(id),
    }
}

/// Parses a time in seconds, or with the suffix s, m, h or d.
fn time(option: &str, value: &str) -> Result<Duration> {
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 86_400), ("", 1)];
    let split = |(suffix, seconds)| Some((value.strip_suffix(suffix)?, seconds));
    let seconds = units.into_iter().find_map(split).and_then(|(count, unit)| {
        let count: u32 = count.parse().ok()?;
        count.checked_mul(unit)
    });
    let seconds = seconds.ok_or_else(|| invalid(option, "seconds, or a time such as 5m or 2h"))?;
    Ok(Duration::from_secs(seconds.into()))
}

fn number(option: &str, value: &str) -> Result<u32> {
    value
        .parse()
        .map_err(|_| invalid(option, "a number up to 4294967295"))
}

fn bytes(option: &str, value: &str) -> Result<u64> {
    whole_bytes(value).map_err(|_| invalid(option, "bytes, with K, M or G if wanted"))
}

fn invalid(option: &str, expected: &str) -> Error {
    let option = printable(option);
    let message = format!("invalid mount option `{option}`: expected {expected}");
    Error::new(Kind::Usage, message)
        .with_code("mount-option")
        .advice("`lbpayload mount --help` lists the mount options")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Options {
        let mut options = Options::default();
        options.add(text).unwrap();
        options
    }

    #[test]
    fn options_that_mount_adds_are_ignored() {
        let added = "rw,ro,nosuid,nodev,noauto,user,nofail,_netdev,x-systemd.automount,relatime,\
                     defaults,comment=mine,max_read=131072,user=me,uhelper=udisks2";
        assert_eq!(parsed(added), Options::default());
        assert_eq!(parsed(""), Options::default());
    }

    #[test]
    fn every_option_is_parsed_and_the_last_wins() {
        let options = parsed("uid=7,gid=8,umask=077,allow_other,timeout=60,offset=4k,uid=9");
        assert_eq!(
            options.settings,
            Settings {
                uid: Some(9),
                gid: Some(8),
                umask: 0o077,
                access: Access::Everybody,
                timeout: Some(Duration::from_secs(60)),
                ..Settings::default()
            }
        );
        assert_eq!(options.source.offset, Some(4096));
        assert!(!parsed("noexec,exec").settings.noexec);
        assert_eq!(parsed("timeout=5,timeout=0").settings.timeout, None);
        for (written, seconds) in [("5m", 300), ("2h", 7200), ("1d", 86_400), ("90s", 90)] {
            let timeout = parsed(&format!("timeout={written}")).settings.timeout;
            assert_eq!(timeout, Some(Duration::from_secs(seconds)));
        }
        assert_eq!(parsed("uid=root,gid=root").settings.uid, Some(0));
        assert_eq!(parsed("max_threads=3").settings.max_threads, 3);
        assert!(parsed("nolistxattr").settings.hides_attributes);
        assert!(parsed("debug").debug && parsed("remount,ro").remount);
        assert_eq!(parsed("log=/var/log/x").log, Some("/var/log/x".into()));
        assert_eq!(parsed("lenient").strictness, Strictness::Lenient);
        assert_eq!(parsed("direct").direct, Some(DirectPolicy::Always));
        assert_eq!(parsed("trust=a,trust=b").trust.trust, ["a", "b"]);
        assert_eq!(parsed("suid").ignored, ["suid"]);
    }

    #[test]
    fn a_comma_in_a_value_needs_a_backslash() {
        let name = |text| parsed(text).settings.fsname.unwrap();
        assert_eq!(name(r"fsname=a\,allow_other"), "a,allow_other");
        assert_eq!(
            parsed(r"fsname=a\,allow_other").settings.access,
            Access::Owner
        );
        assert_eq!(name(r"fsname=a\\,allow_other"), r"a\");
        assert_eq!(name(r"fsname=a\b"), r"a\b");
        assert_eq!(name(r"fsname=a\"), r"a\");
        assert_eq!(name(r"fsname=a\\"), r"a\");
    }

    #[test]
    fn an_unknown_option_is_refused_by_name() {
        for bad in [
            "nope",
            "uid",
            "uid=-1",
            "uid=x",
            "uid=4294967295",
            "gid=4294967295",
            "umask=8",
            "umask=1777",
            "offset=",
            "timeout=1.5",
            "timeout=m",
            "timeout=5w",
            "timeout=100000d",
            "max_threads=0",
            "max_threads=1025",
            "max_threads",
            "log=",
            "gid=nobody-has-this-name",
            "fsname=",
            "allow_other=1",
            "direct=sometimes",
            "subtype=other",
            "lenient=1",
            "ro=1",
            "nosuid=yes",
            "max_read",
            "comment",
            "index",
            "index=",
            "trust=",
        ] {
            let error = Options::default().add(bad).unwrap_err();
            assert_eq!(error.kind(), Kind::Usage, "{bad}");
            assert!(error.to_string().contains(&format!("`{bad}`")), "{error}");
        }
    }
}
