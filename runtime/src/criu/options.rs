//! What can be asked of CRIU, in runc's words.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

/// What a checkpoint and a restoration have in common.
#[derive(Debug, Clone, Copy)]
pub struct Options<'a> {
    /// The directory of the images.
    pub images: &'a Path,
    /// An empty directory, over which CRIU gets the root filesystem and the cgroups. Nobody else sees
    /// them there.
    pub scratch: &'a Path,
    /// The directory of CRIU's log; the images' if absent.
    pub work: Option<&'a Path>,
    /// Whether established TCP connections are kept.
    pub tcp_established: bool,
    /// Whether unix sockets may be connected to the outside.
    pub external_unix_sockets: bool,
    /// Whether the container may have its session and its terminal from outside.
    pub shell_job: bool,
    /// Whether file locks are kept.
    pub file_locks: bool,
    /// Whether memory that is in a later image too is dropped from earlier ones.
    pub auto_dedup: bool,
    /// Whether memory is brought over when it is needed.
    pub lazy_pages: bool,
    /// What happens to cgroups.
    pub manage_cgroups: ManageCgroups,
}

impl<'a> Options<'a> {
    /// The defaults, with the images in one directory, and another one that is empty.
    pub fn new(images: &'a Path, scratch: &'a Path) -> Self {
        Self {
            images,
            scratch,
            work: None,
            tcp_established: false,
            external_unix_sockets: false,
            shell_job: false,
            file_locks: false,
            auto_dedup: false,
            lazy_pages: false,
            manage_cgroups: ManageCgroups::default(),
        }
    }
}

/// How to checkpoint a container.
#[derive(Debug)]
pub struct CheckpointOptions<'a> {
    /// What a restoration is asked, too.
    pub common: Options<'a>,
    /// The directory of earlier images, relative to that of these, which then have only what has
    /// changed.
    pub parent: Option<&'a Path>,
    /// Whether only memory is saved, and the container goes on.
    pub pre_dump: bool,
    /// Whether the container goes on.
    pub leave_running: bool,
    /// Whether TCP connections that are being established are left out.
    pub tcp_skip_in_flight: bool,
    /// Whether files without a name are given one for the time.
    pub link_remap: bool,
    /// Where memory is sent.
    pub page_server: Option<PageServer>,
    /// A descriptor of this process, which gets a null byte once memory can be fetched. It is closed
    /// then.
    pub status_fd: Option<i32>,
}

impl<'a> CheckpointOptions<'a> {
    /// The defaults beside what is common.
    pub fn new(common: Options<'a>) -> Self {
        Self {
            common,
            parent: None,
            pre_dump: false,
            leave_running: false,
            tcp_skip_in_flight: false,
            link_remap: false,
            page_server: None,
            status_fd: None,
        }
    }
}

/// How to restore a container, beside what [`CreateOptions`](crate::CreateOptions) says.
#[derive(Debug, Clone, Copy)]
pub struct RestoreOptions<'a> {
    /// What a checkpoint is asked, too.
    pub common: Options<'a>,
    /// The profile or label that the processes get, as `apparmor:name` or `selinux:label`, instead of
    /// the one that they had.
    pub lsm_profile: Option<&'a str>,
    /// The SELinux context that mounts with a context get.
    pub lsm_mount_context: Option<&'a str>,
}

impl<'a> RestoreOptions<'a> {
    /// The defaults beside what is common.
    pub fn new(common: Options<'a>) -> Self {
        Self {
            common,
            lsm_profile: None,
            lsm_mount_context: None,
        }
    }
}

/// What CRIU does about cgroups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManageCgroups {
    /// Those that aren't there are made, and get the limits that they had.
    #[default]
    Soft,
    /// All are made, and get the limits that they had.
    Full,
    /// All are made, and none may be there.
    Strict,
    /// Processes stay in the cgroup that the runtime makes for the container.
    Ignore,
}

impl ManageCgroups {
    /// `criu_cg_mode` of CRIU's protocol.
    pub(super) fn number(self) -> i32 {
        match self {
            Self::Ignore => 0,
            Self::Soft => 3,
            Self::Full => 4,
            Self::Strict => 5,
        }
    }
}

impl FromStr for ManageCgroups {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "soft" => Ok(Self::Soft),
            "full" => Ok(Self::Full),
            "strict" => Ok(Self::Strict),
            "ignore" => Ok(Self::Ignore),
            _ => Err("must be soft, full, strict or ignore"),
        }
    }
}

/// A server that takes memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageServer {
    /// Its name or address.
    pub address: String,
    /// Its TCP port.
    pub port: u16,
}

impl FromStr for PageServer {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be ADDRESS:PORT";
        let (address, port) = text.rsplit_once(':').ok_or(wrong)?;
        let bare = address
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'));
        let address = match bare {
            Some(address) => address,
            None if address.contains(':') => return Err("must be [ADDRESS]:PORT for IPv6"),
            None => address,
        };
        match port.parse() {
            Ok(port) if port > 0 && !address.is_empty() => Ok(Self {
                address: address.to_owned(),
                port,
            }),
            _ => Err(wrong),
        }
    }
}

impl fmt::Display for PageServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.address.contains(':') {
            true => write!(formatter, "[{}]:{}", self.address, self.port),
            false => write!(formatter, "{}:{}", self.address, self.port),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_servers_have_an_address_and_a_port() {
        for (text, address, port) in [
            ("10.0.0.1:27", "10.0.0.1", 27),
            ("host:65535", "host", 65535),
            ("[fe80::1]:27", "fe80::1", 27),
        ] {
            let server: PageServer = text.parse().unwrap();
            assert_eq!((server.address.as_str(), server.port), (address, port));
            assert_eq!(server.to_string(), text);
        }
        for text in [
            "",
            "host",
            ":27",
            "host:",
            "host:0",
            "host:65536",
            "host:x",
            "fe80::1:27",
            "[]:1",
        ] {
            assert!(text.parse::<PageServer>().is_err(), "{text}");
        }
    }
}
