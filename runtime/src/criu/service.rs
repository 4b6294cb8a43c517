//! A `criu swrk` of our own: a process that carries out one request.

use std::env;
use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::time::Duration;

use nix::errno::Errno;
use nix::sched::CloneFlags;
use nix::unistd::Pid;
use prost::Message;

use super::rpc::{Features, Kind, Request, Response, Version};
use super::{Error, Result};
use crate::channel::{self, Report};
use crate::child::Child;
use crate::error::Error as RuntimeError;
use crate::init::restoration::{Criu, Directory, become_criu};
use crate::init::step::{Failure, Step};
use crate::spec::DEFAULT_PATH;
use crate::sys::clone::{CloneArgs, Cloned, clone3};
use crate::sys::process::{CStrings, ignored_signals};
use crate::sys::socket;

/// The largest packet that CRIU sends, in bytes: it has a buffer of ten pages itself.
const PACKET: usize = 40 << 10;

/// How long CRIU may take to undo what it has begun, once nobody listens to it any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// What CRIU starts with.
#[derive(Debug, Default)]
pub(super) struct Start<'a> {
    /// An empty directory, where it gets what only it sees.
    pub(super) scratch: Option<&'a CStr>,
    /// A root filesystem, for there: a detached mount.
    pub(super) root: Option<BorrowedFd<'a>>,
    /// Directories that it opens itself, under the numbers that we have them under.
    pub(super) directories: Vec<Directory<'a>>,
    /// Descriptors that it gets under the same numbers.
    pub(super) descriptors: Vec<BorrowedFd<'a>>,
    /// Whether it has our standard streams, which a container that it restores is to get.
    pub(super) streams: bool,
    /// Whether it has `no_new_privs`, as all processes then have that it restores.
    pub(super) no_new_privileges: bool,
    /// The session keyring that it joins by name.
    pub(super) keyring: Option<&'a CStr>,
    /// The cgroup that it runs in; ours if absent.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

/// A CRIU that waits for a request, or carries one out. When this is dropped, it gives up and undoes
/// what it has begun.
#[derive(Debug)]
pub(super) struct Service {
    socket: Option<OwnedFd>,
    child: Child,
}

/// What CRIU says.
#[derive(Debug)]
pub(super) enum Said {
    /// It has come to a turn of its work, and waits for an answer.
    Notification {
        script: String,
        pid: i32,
        descriptor: Option<OwnedFd>,
    },
    /// The request is carried out, or isn't.
    Response(Response),
    /// It is gone.
    Nothing,
}

impl Service {
    pub(super) fn start(start: &Start) -> Result<Self> {
        let failed = |call| move |errno| RuntimeError::system(call, errno, "start criu");
        let (ours, childs) = socket::packet_pair().map_err(failed("socketpair"))?;
        let program = find(OsStr::new("criu")).ok_or(Error::NotInstalled)?;
        let (args, env) = (arguments(&ours), CStrings::of_environment());
        let criu = Criu {
            program: &program,
            args: &args,
            env: &env,
            scratch: start.scratch,
            root: start.root,
            directories: &start.directories,
            descriptors: &start.descriptors,
            quiet: !start.streams,
            no_new_privileges: start.no_new_privileges,
            keyring: start.keyring,
            socket: ours.as_fd(),
            ignored_signals: ignored_signals(),
        };
        let args = CloneArgs {
            flags: match start.scratch {
                Some(_) => CloneFlags::CLONE_NEWNS,
                None => CloneFlags::empty(),
            },
            cgroup: start.cgroup,
        };
        let Cloned { pid, pidfd } =
            clone3(&args, || become_criu(&criu, childs.as_fd())).map_err(failed("clone3"))?;
        let mut service = Self {
            socket: None,
            child: Child::in_the_making(pid, pidfd),
        };
        drop(childs);
        loop {
            match channel::next_report(ours.as_fd()).map_err(failed("recvmsg"))? {
                Some(Report::Failed(failure)) => return Err(not_started(failure)),
                Some(Report::Socket(socket)) => service.socket = Some(socket),
                // Closed by its executing criu, or by its end.
                _ => return Ok(service),
            }
        }
    }

    fn socket(&self) -> nix::Result<BorrowedFd<'_>> {
        self.socket.as_ref().map(AsFd::as_fd).ok_or(Errno::EPIPE)
    }

    pub(super) fn send(&self, request: &Request) -> Result<()> {
        let sent = self
            .socket()
            .and_then(|socket| socket::send(socket, &request.encode_to_vec(), None));
        match sent {
            // It is gone, and what it left to be read says more.
            Err(Errno::EPIPE) => Ok(()),
            other => other.map_err(|errno| RuntimeError::system("sendmsg", errno, "ask criu")),
        }
    }

    /// Waits for what it says next.
    pub(super) fn hear(&self) -> Result<Said> {
        let mut buffer = vec![0; PACKET];
        let received = self
            .socket()
            .and_then(|socket| socket::receive(socket, &mut buffer));
        let (length, descriptor) = match received {
            Err(Errno::ECONNRESET) => (0, None),
            other => {
                other.map_err(|errno| RuntimeError::system("recvmsg", errno, "hear from criu"))?
            }
        };
        if length == 0 {
            return Ok(Said::Nothing);
        }
        let packet = buffer.get(..length).unwrap_or_default();
        let response =
            Response::decode(packet).map_err(|error| Error::Answer(error.to_string()))?;
        match (response.kind(), &response.notify) {
            (Kind::Notify, Some(notify)) if response.success => Ok(Said::Notification {
                script: notify.script().to_owned(),
                pid: notify.pid(),
                descriptor,
            }),
            _ => Ok(Said::Response(response)),
        }
    }

    /// Lets it go on after a notification.
    pub(super) fn go_on(&self) -> Result<()> {
        let mut answer = Request::new(Kind::Notify);
        answer.notify_success = Some(true);
        self.send(&answer)
    }

    /// Waits until it has ended, once there is nothing more to be asked; tells how.
    pub(super) fn end(&mut self) -> Result<String> {
        self.socket = None;
        let status = self.child.wait()?;
        self.child.release();
        Ok(format!("{status:?}"))
    }

    /// One question, one answer, and the end.
    fn ask(request: &Request) -> Result<Response> {
        let mut service = Self::start(&Start::default())?;
        service.send(request)?;
        match service.hear()? {
            Said::Response(response) if response.success => Ok(response),
            Said::Response(response) => Err(Error::Answer(format!(
                "it refuses a question about its version or features ({})",
                response.message()
            ))
            .into()),
            _ => {
                let how = service.end()?;
                let reason = format!("it ended ({how}) without saying what it can do");
                Err(Error::Answer(reason).into())
            }
        }
    }

    /// Fails if CRIU is older than what is asked of it.
    pub(super) fn must_be(needed: &[Option<Needed>]) -> Result<()> {
        let answer = Self::ask(&Request::new(Kind::Version))?;
        let found = answer.version.unwrap_or_default();
        let is_newer = |needed: &&Needed| (found.major, found.minor) < needed.version;
        match needed.iter().flatten().find(is_newer) {
            None => Ok(()),
            Some(Needed { what, version }) => Err(Error::TooOld {
                what,
                needed: format!("{}.{}", version.0, version.1),
                found: text_of(&found),
            }
            .into()),
        }
    }

    /// What this host's CRIU and kernel can do of what is asked.
    pub(super) fn features(wanted: Features) -> Result<Features> {
        let mut request = Request::new(Kind::FeatureCheck);
        request.features = Some(wanted);
        Ok(Self::ask(&request)?.features.unwrap_or_default())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It ends by itself when nobody answers, and takes with it what it has begun to restore: killed,
        // it would leave that.
        self.socket = None;
        let _ended = self.child.wait_gone_within(PATIENCE).is_ok();
    }
}

/// The version from which on CRIU can do something.
#[derive(Debug)]
pub(super) struct Needed {
    pub(super) what: &'static str,
    pub(super) version: (i32, i32),
}

impl Needed {
    /// Older ones restore such a process without it, which then may become more than it was.
    pub(super) const NO_NEW_PRIVILEGES: Self = Self {
        what: "a process that has set no_new_privs itself",
        version: (3, 19),
    };

    /// For notifications about lazy pages, external pid namespaces and the freezer of cgroup v2.
    pub(super) const ALWAYS: Self = Self {
        what: "checkpoint and restore",
        version: (3, 15),
    };
}

fn text_of(version: &Version) -> String {
    let Version { major, minor, .. } = version;
    match version.sublevel() {
        0 => format!("{major}.{minor}"),
        sublevel => format!("{major}.{minor}.{sublevel}"),
    }
}

/// `criu swrk` with the number of its socket.
fn arguments(socket: &OwnedFd) -> CStrings {
    let number = socket.as_raw_fd().to_string();
    let args = ["criu", "swrk", &number].into_iter();
    let args = args.filter_map(|arg| CString::new(arg).ok());
    args.collect::<Vec<_>>().into()
}

/// The program of this name, in the first directory of `$PATH` that has it.
fn find(name: &OsStr) -> Option<CString> {
    let path = env::var_os("PATH").unwrap_or_else(|| DEFAULT_PATH.into());
    let found = env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|program: &PathBuf| {
            let executable = nix::unistd::AccessFlags::X_OK;
            program.is_file() && nix::unistd::access(program, executable).is_ok()
        })?;
    CString::new(found.into_os_string().into_vec()).ok()
}

fn not_started(failure: Failure) -> RuntimeError {
    let (call, doing) = match failure.step {
        Step::MakeMountsPrivate => ("mount", "make criu's mounts private"),
        Step::AttachRoot => ("move_mount", "mount for criu what only it sees"),
        Step::Exec => ("execve", "execute criu"),
        Step::NoNewPrivileges => ("prctl", "set no_new_privs of criu"),
        Step::SessionKeyring => ("keyctl", "join a session keyring for criu"),
        _ => ("fcntl", "start criu"),
    };
    RuntimeError::system(call, failure.errno, doing)
}

/// A process of CRIU's telling.
pub(super) fn process(pid: i32) -> Result<Pid> {
    match pid > 0 {
        true => Ok(Pid::from_raw(pid)),
        false => Err(Error::Answer(format!("process {pid}")).into()),
    }
}
