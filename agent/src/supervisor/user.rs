//! Who a container runs as: `user`, `user:group`, by name or number, looked up in the image's own
//! `/etc/passwd` and `/etc/group`.
//!
//! The files are the image's, so they are read through its root only (`openat2(2)` with
//! `RESOLVE_IN_ROOT`), and a name that looks like a number is never looked up as a name
//! (CVE-2016-3697).

use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::{Context, bail};
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

/// A resolved user.
#[derive(Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
    /// The other groups that list the user.
    pub groups: Vec<u32>,
    /// The home folder, for `HOME`.
    pub home: String,
}

/// Looks `text` up in the root filesystem at `rootfs`. Empty is root.
pub fn resolve(rootfs: &Path, text: &str) -> anyhow::Result<User> {
    let root = open(
        rootfs,
        OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .with_context(|| format!("opening {}", rootfs.display()))?;
    lookup(
        text,
        &read(&root, "etc/passwd")?,
        &read(&root, "etc/group")?,
    )
}

/// A file of the image, at most 1 MiB; empty where there is none.
fn read(root: &impl AsFd, path: &str) -> anyhow::Result<String> {
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(root.as_fd(), path, how) {
        Ok(file) => std::fs::File::from(file),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(String::new()),
        Err(error) => return Err(error).with_context(|| format!("opening /{path} of the image")),
    };
    if !file.metadata()?.is_file() {
        bail!("/{path} of the image is no regular file");
    }
    let mut content = Vec::new();
    file.take(1 << 20)
        .read_to_end(&mut content)
        .with_context(|| format!("reading /{path} of the image"))?;
    Ok(String::from_utf8_lossy(&content).into_owned())
}

fn lookup(text: &str, passwd: &str, group: &str) -> anyhow::Result<User> {
    let (user, wanted_group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let by_number = number(user)?;
    let entry = passwd
        .lines()
        .filter_map(Entry::parse)
        .find(|entry| match by_number {
            Some(uid) => entry.uid == uid,
            None => entry.name == user,
        });
    let Some(uid) = by_number.or(entry.as_ref().map(|entry| entry.uid)) else {
        bail!(
            "user '{user}' is not in the image's /etc/passwd; name one that is, or give a number"
        );
    };
    let gid = match wanted_group {
        Some(name) => group_id(name, group)?,
        None => entry.as_ref().map_or(0, |entry| entry.gid),
    };
    let name = entry.as_ref().map(|entry| entry.name);
    let groups = match (wanted_group, name) {
        (None, Some(name)) => groups_of(name, group)
            .filter(|other| *other != gid)
            .collect(),
        _ => Vec::new(),
    };
    let home = entry.map_or("/", |entry| entry.home).to_owned();
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

/// The number that `text` is; nothing where it is a name; an error where it looks like a number
/// and is none that the kernel has.
fn number(text: &str) -> anyhow::Result<Option<u32>> {
    if !text
        .bytes()
        .next()
        .is_some_and(|b| b.is_ascii_digit() || b == b'-' || b == b'+')
    {
        return Ok(None);
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        // A name may begin with a digit, though most systems refuse to make one.
        return if text.starts_with(['-', '+']) {
            bail!("'{text}' is no user or group")
        } else {
            Ok(None)
        };
    }
    match text.parse::<u32>() {
        // The largest means "leave it" to the kernel's calls.
        Ok(n) if n < u32::MAX => Ok(Some(n)),
        _ => bail!("'{text}' is out of range; ids go up to {}", u32::MAX - 1),
    }
}

struct Entry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Entry<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let (uid, gid) = (fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self {
            name,
            uid,
            gid,
            home: fields
                .nth(1)
                .filter(|home| home.starts_with('/'))
                .unwrap_or("/"),
        })
    }
}

fn group_id(name: &str, group: &str) -> anyhow::Result<u32> {
    if let Some(gid) = number(name)? {
        return Ok(gid);
    }
    let found = group.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok())?
    });
    found.with_context(|| {
        format!(
            "group '{name}' is not in the image's /etc/group; name one that is, or give a number"
        )
    })
}

fn groups_of<'a>(user: &'a str, group: &'a str) -> impl Iterator<Item = u32> + 'a {
    group.lines().filter_map(move |line| {
        let mut fields = line.split(':').skip(2);
        let gid = fields.next()?.parse().ok()?;
        fields
            .next()?
            .split(',')
            .any(|member| member == user)
            .then_some(gid)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/sh\n1000:x:0:0::/:\nbad line\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\nlog:x:40:ann,web\nstaff:x:50:web\n";

    fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> User {
        User {
            uid,
            gid,
            groups: groups.to_vec(),
            home: home.into(),
        }
    }

    #[test]
    fn names_and_numbers_are_found() {
        assert_eq!(lookup("", PASSWD, GROUP).unwrap(), user(0, 0, &[], "/root"));
        assert_eq!(
            lookup("web", PASSWD, GROUP).unwrap(),
            user(33, 34, &[40, 50], "/var/www")
        );
        assert_eq!(
            lookup("33", PASSWD, GROUP).unwrap(),
            user(33, 34, &[40, 50], "/var/www")
        );
        assert_eq!(
            lookup("web:log", PASSWD, GROUP).unwrap(),
            user(33, 40, &[], "/var/www")
        );
        assert_eq!(lookup("7:8", PASSWD, GROUP).unwrap(), user(7, 8, &[], "/"));
    }

    #[test]
    fn a_number_is_never_a_name() {
        assert_eq!(
            lookup("1000", PASSWD, GROUP).unwrap(),
            user(1000, 0, &[], "/")
        );
    }

    #[test]
    fn nonsense_is_refused_with_its_name() {
        for text in [
            "nobody",
            "-1",
            "4294967295",
            "99999999999",
            "web:nogroup",
            "0:-5",
            "+0",
        ] {
            let error = lookup(text, PASSWD, GROUP).unwrap_err().to_string();
            assert!(error.contains('\''), "{text}: {error}");
        }
    }
}
