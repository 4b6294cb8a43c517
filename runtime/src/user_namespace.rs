//! User namespaces: which one we are in, and making one that nobody lives in yet.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns};
use nix::sys::stat::Mode;
use nix::unistd::Pid;

use crate::error::Error;
use crate::sys::clone::{CloneArgs, clone3};
use crate::sys::{process, socket};

/// Whether we are in the host's own, where root is the host's. In any other, device nodes can't be made,
/// programs for devices can't be loaded, and scores that protect from the out-of-memory killer can't be
/// given.
pub(crate) fn is_initial() -> bool {
    /// `USER_NS_INIT_INO` of include/uapi/linux/nsfs.h, which has been this number since Linux 3.8.
    const INITIAL: u64 = 0xefff_fffd;
    // A container's start asks several times.
    match KNOWN.load(Ordering::Relaxed) {
        IS_INITIAL => return true,
        IS_NESTED => return false,
        _ => {}
    }
    let ours = std::fs::metadata("/proc/self/ns/user");
    let is_initial = ours.is_ok_and(|namespace| namespace.ino() == INITIAL);
    let known = if is_initial { IS_INITIAL } else { IS_NESTED };
    KNOWN.store(known, Ordering::Relaxed);
    is_initial
}

const IS_INITIAL: u8 = 1;
const IS_NESTED: u8 = 2;
/// What is known of the one that we are in: nothing at first.
static KNOWN: AtomicU8 = AtomicU8::new(0);

/// Joins one, for good: this process has one thread.
pub(crate) fn join(namespace: &OwnedFd) -> nix::Result<()> {
    setns(namespace, CloneFlags::CLONE_NEWUSER)?;
    KNOWN.store(0, Ordering::Relaxed);
    Ok(())
}

/// Whether the user namespace of a process refuses setgroups(2), as one does whose map of groups was
/// written by an ordinary user (user_namespaces(7)).
pub(crate) fn denies_setgroups(process: &str) -> bool {
    let answer = std::fs::read_to_string(format!("/proc/{process}/setgroups"));
    answer.is_ok_and(|answer| answer.trim() == "deny")
}

/// Makes a user namespace: by a process that is there until its maps are written, by `write_maps`, and the
/// namespace is held by its descriptor.
pub(crate) fn make(write_maps: impl FnOnce(Pid) -> Result<(), Error>) -> Result<OwnedFd, Error> {
    let failed = |call| move |errno| Error::system(call, errno, "make a user namespace");
    let (ours, holders) = socket::packet_pair().map_err(failed("socketpair"))?;
    let args = CloneArgs {
        flags: CloneFlags::CLONE_NEWUSER,
        cgroup: None,
    };
    let number = ours.as_raw_fd();
    let holder = clone3(&args, || {
        process::close_inherited(number);
        // Our end of the channel closes when we are done, or die.
        socket::receive(holders.as_fd(), &mut [0; 1]).map_or(1, |_| 0)
    })
    .map_err(failed("clone3"))?;
    let namespace = write_maps(holder.pid).and_then(|()| {
        let path = format!("/proc/{}/ns/user", holder.pid);
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
        open(path.as_str(), flags, Mode::empty()).map_err(failed("open"))
    });
    drop(ours);
    process::wait_child(holder.pidfd.as_fd(), true).map_err(failed("waitid"))?;
    namespace
}

/// The one that a user namespace lies in, by ioctl_nsfs(2); `EPERM` if that is ours or above.
pub(crate) fn parent(namespace: &OwnedFd) -> nix::Result<OwnedFd> {
    process::parent_namespace(namespace.as_fd()).map_err(|errno| match errno {
        // Of a namespace that has no parent.
        Errno::EINVAL => Errno::EPERM,
        errno => errno,
    })
}
