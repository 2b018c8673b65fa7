//! The help for errors that names commands and options. The library does not know them, so its
//! errors carry a code, and this table adds the help.

use crate::error::{Error, Kind, printable};

/// The initramfs tool in a BSP image.
const INITRAMFS_TOOL: &str = "tools/l4t_update_initrd.sh";

/// Returns the help for `error`: what to do next.
pub(super) fn help(error: &Error) -> Option<String> {
    by_code(error).or_else(|| error.help().map(str::to_owned))
}

fn by_code(error: &Error) -> Option<String> {
    let path = error
        .path()
        .map_or_else(String::new, |path| printable(&path.to_string_lossy()));
    let own = error.help().unwrap_or_default();
    let has_help = !own.is_empty();
    let (index, name) = error.entry().unzip();
    let name = name.flatten().map(printable);
    let is_format = error.kind() == Kind::Format;
    // The first file is intact, so a lenient mount shows something.
    let in_the_files = index.is_some_and(|index| index > 0);
    let help = match error.code() {
        "ambiguous" => "name one of them with --device".into(),
        "bad-backup" | "no-backup" => {
            "roll back to a later promote, `lbpayload promote history` lists them".into()
        }
        "bad-checksums" => "--checksums FILE gives checksums in place of the embedded ones".into(),
        "busy" if error.named_doing() == Some("unmount") => format!(
            "end what uses it (see `fuser -vm {path}`), or use `lbpayload unmount --lazy {path}`"
        ),
        "cannot-heal" => format!(
            "`lbpayload repair --from COPY {path}` takes blocks from another copy, \
             `--force` repairs the rest"
        ),
        "content-differs" => "nothing was written, `--existing replace` replaces it".into(),
        "copies-differ" if error.kind() == Kind::Checksum => {
            "give its checksum with --checksums FILE".into()
        }
        "copies-differ" if error.kind() == Kind::Ambiguous => {
            "name the copies of one of them with --device".into()
        }
        "damaged-candidate" if !has_help && !in_the_files => format!("lbpayload verify {path}"),
        "data-behind-payload" => "`--force` overwrites it".into(),
        "dead-mount" => {
            format!("`lbpayload unmount {path}` removes the mount, its server has died")
        }
        "io-engine" => "use `--io threads`, it works everywhere".into(),
        "io" if is_lost(error) => {
            format!("`lbpayload repair --from COPY {path}` takes intact blocks from another copy")
        }
        "name-not-utf8" | "name-refused" | "name-repeated" if index.is_some() && !has_help => {
            format!(
                "pack it again under another name, or save single files with \
                 `lbpayload cat {path} NAME > FILE`"
            )
        }
        "name-reserved" => format!(
            "save it with `lbpayload cat {path} {} > FILE`",
            name.unwrap_or_default()
        ),
        "not-signed" => {
            "ask who made it for a signed one, or read it without --trust and LBPAYLOAD_TRUST"
                .into()
        }
        "unknown-key" => "name the key with --trust, if you trust who signed it".into(),
        "bad-signature" if !has_help => {
            "it is damaged or was changed, get the image again from who signed it".into()
        }
        "unlisted-file" => {
            "it was changed after it was signed, get the image again from who signed it".into()
        }
        "no-devices" => {
            "mount /sys or /proc (`payload-import --mount-proc`), or name the device".into()
        }
        "needs-force" => "add --force to overwrite it, or --dry-run to see what is on it".into(),
        "no-checksum" => format!("{own}, or leave out --checksums"),
        "no-direct-io" => "leave out `--direct always` to use the page cache".into(),
        "no-initramfs-tool" => format!("{own}, or use `lbpayload promote --no-initramfs`"),
        "no-memory" => "lower --memory, or raise the limit (`ulimit -v`, or the cgroup's)".into(),
        "no-permission" if !has_help => "run it as root: `sudo lbpayload import`".into(),
        "no-privilege" if error.path().is_some_and(|p| p.ends_with(INITRAMFS_TOOL)) => {
            format!("{own}, or use `lbpayload promote --no-initramfs`")
        }
        "no-record" if has_help => "name another image with --image".into(),
        "no-record" => format!("`lbpayload promote history --image {path}` lists the promotes"),
        "no-such-entry" => format!("`lbpayload list {path}` shows the names"),
        "no-workspace" => format!("{own}: `lbpayload promote --workspace DIR`"),
        "not-protected" => format!("`lbpayload protect {path}` protects an intact payload"),
        "other-payload" => "`--force` makes it equal to the copy".into(),
        "repair-failed" => format!("{own} with `lbpayload repair -o OUT {path}`"),
        "trailer-mismatch" => {
            format!("`lbpayload repair {path}`, or `--force` takes the payload as it is")
        }
        "not-a-source" => "name the image file or the disk, `lbpayload probe` finds disks".into(),
        "not-found" if !has_help => "attach the disk, or name it or the image with --device".into(),
        "nothing-to-pack" => "name files, or add --allow-empty for an empty payload".into(),
        "server-died" => "add -f to see why: the server then runs in the foreground".into(),
        "source-missing" => "check the path, `lbpayload probe` finds disks".into(),
        "too-large" => "leave out `--dialect u32`".into(),
        "too-many-files" => "`lbpayload list` and `lbpayload cat` have no such limit".into(),
        "upstream-unreachable" => format!("{own}, or use `lbpayload promote --offline`"),
        "wrong-magic" if !has_help => {
            "`lbpayload probe` finds the disks that hold a payload".into()
        }
        code if in_the_files && !has_help && (is_format || code == "damaged-candidate") => {
            let command = match cfg!(feature = "mount") {
                true => format!("mount --lenient {path} DIR"),
                false => format!("cat {path} NAME"),
            };
            format!(
                "get or pack the image again, or use the files before the damage with \
                 `lbpayload {command}`"
            )
        }
        _ => return None,
    };
    Some(help)
}

/// Returns whether the error is about damage of a protected payload that cannot be healed.
fn is_lost(error: &Error) -> bool {
    let kind = error.io_error().map(std::io::Error::kind);
    kind == Some(std::io::ErrorKind::InvalidData)
}
