//! CRIU's words: the messages of its `images/rpc.proto` with the fields that are used here.

use prost::{Enumeration, Message};

/// What is asked, and what an answer is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Enumeration)]
#[repr(i32)]
pub(super) enum Kind {
    Empty = 0,
    Dump = 1,
    Restore = 2,
    PreDump = 4,
    Notify = 6,
    FeatureCheck = 9,
    Version = 10,
}

/// `criu_req`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Request {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(message, optional, boxed, tag = "2")]
    pub(super) options: Option<Box<Options>>,
    /// The answer to a notification.
    #[prost(bool, optional, tag = "3")]
    pub(super) notify_success: Option<bool>,
    #[prost(message, optional, tag = "5")]
    pub(super) features: Option<Features>,
}

/// `criu_resp`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Response {
    #[prost(enumeration = "Kind", required, tag = "1")]
    pub(super) kind: i32,
    #[prost(bool, required, tag = "2")]
    pub(super) success: bool,
    #[prost(message, optional, tag = "4")]
    pub(super) restored: Option<Restored>,
    #[prost(message, optional, tag = "5")]
    pub(super) notify: Option<Notify>,
    #[prost(int32, optional, tag = "7")]
    pub(super) errno: Option<i32>,
    #[prost(message, optional, tag = "8")]
    pub(super) features: Option<Features>,
    #[prost(string, optional, tag = "9")]
    pub(super) message: Option<String>,
    #[prost(message, optional, tag = "10")]
    pub(super) version: Option<Version>,
}

/// `criu_opts`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Options {
    #[prost(int32, required, tag = "1")]
    pub(super) images_dir_fd: i32,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
    #[prost(bool, optional, tag = "3")]
    pub(super) leave_running: Option<bool>,
    #[prost(bool, optional, tag = "4")]
    pub(super) ext_unix_sk: Option<bool>,
    #[prost(bool, optional, tag = "5")]
    pub(super) tcp_established: Option<bool>,
    #[prost(bool, optional, tag = "6")]
    pub(super) evasive_devices: Option<bool>,
    #[prost(bool, optional, tag = "7")]
    pub(super) shell_job: Option<bool>,
    #[prost(bool, optional, tag = "8")]
    pub(super) file_locks: Option<bool>,
    #[prost(int32, optional, tag = "9")]
    pub(super) log_level: Option<i32>,
    #[prost(string, optional, tag = "10")]
    pub(super) log_file: Option<String>,
    #[prost(message, optional, tag = "11")]
    pub(super) page_server: Option<PageServerInfo>,
    #[prost(bool, optional, tag = "12")]
    pub(super) notify_scripts: Option<bool>,
    #[prost(string, optional, tag = "13")]
    pub(super) root: Option<String>,
    #[prost(string, optional, tag = "14")]
    pub(super) parent_img: Option<String>,
    #[prost(bool, optional, tag = "15")]
    pub(super) track_mem: Option<bool>,
    #[prost(bool, optional, tag = "16")]
    pub(super) auto_dedup: Option<bool>,
    #[prost(int32, optional, tag = "17")]
    pub(super) work_dir_fd: Option<i32>,
    #[prost(bool, optional, tag = "18")]
    pub(super) link_remap: Option<bool>,
    #[prost(message, repeated, tag = "23")]
    pub(super) ext_mnt: Vec<ExternalMount>,
    #[prost(bool, optional, tag = "24")]
    pub(super) manage_cgroups: Option<bool>,
    #[prost(message, repeated, tag = "25")]
    pub(super) cg_root: Vec<CgroupRoot>,
    #[prost(bool, optional, tag = "26")]
    pub(super) rst_sibling: Option<bool>,
    #[prost(message, repeated, tag = "27")]
    pub(super) inherit_fd: Vec<InheritedDescriptor>,
    /// `criu_cg_mode`.
    #[prost(int32, optional, tag = "34")]
    pub(super) manage_cgroups_mode: Option<i32>,
    #[prost(string, repeated, tag = "37")]
    pub(super) external: Vec<String>,
    #[prost(uint32, optional, tag = "38")]
    pub(super) empty_ns: Option<u32>,
    #[prost(message, repeated, tag = "39")]
    pub(super) join_ns: Vec<JoinedNamespace>,
    #[prost(string, optional, tag = "44")]
    pub(super) freeze_cgroup: Option<String>,
    #[prost(bool, optional, tag = "46")]
    pub(super) tcp_skip_in_flight: Option<bool>,
    #[prost(bool, optional, tag = "48")]
    pub(super) lazy_pages: Option<bool>,
    #[prost(bool, optional, tag = "50")]
    pub(super) orphan_pts_master: Option<bool>,
    #[prost(string, optional, tag = "51")]
    pub(super) config_file: Option<String>,
    #[prost(string, optional, tag = "53")]
    pub(super) lsm_profile: Option<String>,
    #[prost(string, optional, tag = "60")]
    pub(super) cgroup_yard: Option<String>,
    #[prost(string, optional, tag = "63")]
    pub(super) lsm_mount_context: Option<String>,
}

/// `criu_page_server_info`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PageServerInfo {
    #[prost(string, optional, tag = "1")]
    pub(super) address: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) port: Option<i32>,
}

/// `ext_mount_map`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExternalMount {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(string, required, tag = "2")]
    pub(super) value: String,
}

/// `cgroup_root`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct CgroupRoot {
    #[prost(string, optional, tag = "1")]
    pub(super) controller: Option<String>,
    #[prost(string, required, tag = "2")]
    pub(super) path: String,
}

/// `inherit_fd`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct InheritedDescriptor {
    #[prost(string, required, tag = "1")]
    pub(super) key: String,
    #[prost(int32, required, tag = "2")]
    pub(super) fd: i32,
}

/// `join_namespace`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct JoinedNamespace {
    #[prost(string, required, tag = "1")]
    pub(super) kind: String,
    #[prost(string, required, tag = "2")]
    pub(super) file: String,
}

/// `criu_restore_resp`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Restored {
    #[prost(int32, required, tag = "1")]
    pub(super) pid: i32,
}

/// `criu_notify`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Notify {
    #[prost(string, optional, tag = "1")]
    pub(super) script: Option<String>,
    #[prost(int32, optional, tag = "2")]
    pub(super) pid: Option<i32>,
}

/// `criu_features`.
#[derive(Clone, Copy, PartialEq, Message)]
pub(super) struct Features {
    #[prost(bool, optional, tag = "1")]
    pub(super) mem_track: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    pub(super) lazy_pages: Option<bool>,
}

/// `criu_version`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Message)]
pub(super) struct Version {
    #[prost(int32, required, tag = "1")]
    pub(super) major: i32,
    #[prost(int32, required, tag = "2")]
    pub(super) minor: i32,
    #[prost(int32, optional, tag = "4")]
    pub(super) sublevel: Option<i32>,
}

impl Request {
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind: kind as i32,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_those_of_the_protocol() {
        let mut request = Request::new(Kind::Dump);
        request.options = Some(Box::new(Options {
            images_dir_fd: 5,
            lsm_mount_context: Some("x".into()),
            ..Options::default()
        }));
        // Field 1 is an integer; field 2 a message with field 1 an integer and field 63 a text.
        let bytes = [8, 1, 18, 6, 8, 5, 250, 3, 1, b'x'];
        assert_eq!(request.encode_to_vec(), bytes);
        let answer = [8, 6, 16, 1, 42, 6, 10, 2, b'h', b'i', 16, 7];
        let answer = Response::decode(&answer[..]).unwrap();
        assert_eq!((answer.kind(), answer.success), (Kind::Notify, true));
        let notify = answer.notify.unwrap();
        assert_eq!((notify.script(), notify.pid()), ("hi", 7));
    }
}
