//! The numbers of users and groups by their names. The C library of a static program cannot ask
//! the system's other sources of names, so /etc/passwd and /etc/group are read first.

use std::path::Path;

/// Returns the number of a user.
pub(super) fn user_id(name: &str) -> Option<u32> {
    in_file(Path::new("/etc/passwd"), name).or_else(|| user_of_the_system(name))
}

/// Returns the number of a group.
pub(super) fn group_id(name: &str) -> Option<u32> {
    in_file(Path::new("/etc/group"), name).or_else(|| group_of_the_system(name))
}

/// Finds the third field of the line that starts with `name`; see passwd(5) and group(5).
fn in_file(file: &Path, name: &str) -> Option<u32> {
    let text = std::fs::read(file).ok()?;
    let text = String::from_utf8_lossy(&text);
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(not(target_feature = "crt-static"))]
fn user_of_the_system(name: &str) -> Option<u32> {
    let user = nix::unistd::User::from_name(name).ok()??;
    Some(user.uid.as_raw())
}

#[cfg(not(target_feature = "crt-static"))]
fn group_of_the_system(name: &str) -> Option<u32> {
    let group = nix::unistd::Group::from_name(name).ok()??;
    Some(group.gid.as_raw())
}

#[cfg(target_feature = "crt-static")]
fn user_of_the_system(_name: &str) -> Option<u32> {
    None
}

#[cfg(target_feature = "crt-static")]
fn group_of_the_system(_name: &str) -> Option<u32> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_the_third_field_of_the_line_with_the_name() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("passwd");
        std::fs::write(
            &file,
            b"root:x:0:0::/:/bin/sh\nann\xe9:x\nbo:x:7:8:::\nbob:x:9\n",
        )
        .unwrap();
        assert_eq!(in_file(&file, "root"), Some(0));
        assert_eq!(in_file(&file, "bo"), Some(7));
        assert_eq!(in_file(&file, "bob"), Some(9));
        assert_eq!(in_file(&file, "b"), None);
        assert_eq!(in_file(&dir.path().join("missing"), "root"), None);
    }
}
