//! The standard streams, and a terminal as all three of them.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstat, makedev};
use nix::unistd::{Gid, Uid, fchownat};

use super::paths::{self, Kind, Links};
use crate::channel::{self, Report};
use crate::plan::{ProcessPlan, User};
use crate::sys::mount::{self, filesystem_type};
use crate::sys::{process, terminal};

const DEVPTS_MAGIC: i64 = 0x1cd1;

/// Opens a terminal of the container's own devpts, hands its master to the parent, and shows it at
/// /dev/console too.
pub(super) fn open_in_root(
    root: BorrowedFd,
    size: (u16, u16),
    channel: BorrowedFd,
) -> nix::Result<()> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = paths::open(root, c"dev/pts/ptmx", flags, Links::Refused)?;
    let peer = use_terminal(&master, size, channel)?;
    let console = paths::open_or_make(root, c"dev/console", Kind::File, Links::Refused)?;
    let tree = mount::clone_mount(peer.as_fd(), c"", false)?;
    mount::attach(tree.as_fd(), console.as_fd())
}

/// The same for a process that enters a container: its root is ours already.
pub(super) fn open_inside(size: (u16, u16), channel: BorrowedFd) -> nix::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(c"/", flags, Mode::empty())?;
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY;
    let master = paths::open(root.as_fd(), c"dev/pts/ptmx", flags, Links::Refused)?;
    use_terminal(&master, size, channel).map(drop)
}

fn use_terminal(
    master: &OwnedFd,
    (rows, columns): (u16, u16),
    channel: BorrowedFd,
) -> nix::Result<OwnedFd> {
    if filesystem_type(master)? != DEVPTS_MAGIC {
        return Err(Errno::ENOTTY);
    }
    terminal::unlock(master.as_fd())?;
    let peer = terminal::open_peer(master.as_fd())?;
    if rows != 0 && columns != 0 {
        terminal::set_size(peer.as_fd(), rows, columns)?;
    }
    terminal::take_control(peer.as_fd())?;
    for number in 0..3 {
        process::place_descriptor(peer.as_fd(), number)?;
    }
    let master = nix::unistd::dup(master)?;
    channel::report(channel, &Report::Console(master))?;
    Ok(peer)
}

/// Puts the standard streams in their places, and gives them to the user, who may want to open them
/// again by /dev/stdout.
pub(super) fn place_stdio(plan: &ProcessPlan) -> nix::Result<()> {
    let streams = [&plan.stdio.stdin, &plan.stdio.stdout, &plan.stdio.stderr];
    for (number, stream) in (0..).zip(streams) {
        match stream {
            Some(stream) if plan.terminal.is_none() => {
                process::place_descriptor(stream.as_fd(), number)?;
            }
            _ => {}
        }
    }
    let Some(user) = &plan.user else {
        return Ok(());
    };
    for stream in process::standard_streams() {
        give_to_user(stream, user)?;
    }
    Ok(())
}

fn give_to_user(stream: BorrowedFd, user: &User) -> nix::Result<()> {
    let stat = match fstat(stream) {
        // The caller has closed it.
        Err(Errno::EBADF) => return Ok(()),
        other => other?,
    };
    let is_null = stat.st_rdev == makedev(1, 3);
    // A regular file is the caller's own, such as a log, and stays its.
    let is_file = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
    if is_null || is_file || stat.st_uid == user.uid {
        return Ok(());
    }
    let owner = Some(Uid::from_raw(user.uid));
    match fchownat(stream, c"", owner, None::<Gid>, AtFlags::AT_EMPTY_PATH) {
        // Not everything has an owner that could be changed, and none needs one to be used.
        Err(Errno::EPERM | Errno::EINVAL | Errno::EROFS | Errno::ENOSYS) => Ok(()),
        other => other,
    }
}
