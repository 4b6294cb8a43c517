//! A visit to a network namespace: somebody enters it for the caller, opens what is asked for, and ends.
//!
//! That is a thread to the kernel, and nothing to the C library. It has a stack, and for all else the caller's memory:
//! the caller waits until it has let go of that, as after vfork(2). A thread that can do all that threads can, and that
//! has to be woken and to wake, takes as long again as everything that is done there.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::SockProtocol;

/// Where to go, and what to open there.
pub(crate) struct Visit<'a> {
    /// The namespace to enter. Without one, a new one is made.
    pub(crate) namespace: Option<BorrowedFd<'a>>,
    /// The protocol of a netlink socket.
    pub(crate) socket: SockProtocol,
    /// Where the paths of the files begin.
    pub(crate) directory: BorrowedFd<'a>,
    /// Files to open for writing.
    pub(crate) files: &'a [&'a CStr],
}

/// What came of a visit.
pub(crate) struct Visited {
    /// Whether it came to the namespace (setns(2), unshare(2)). Without that it opened nothing.
    pub(crate) entered: Result<(), Errno>,
    pub(crate) socket: Result<OwnedFd, Errno>,
    /// One for each of the files.
    pub(crate) files: Vec<Result<OwnedFd, Errno>>,
}

impl Visit<'_> {
    /// Makes the visit.
    ///
    /// # Errors
    ///
    /// Nobody could be sent (clone(2)).
    pub(crate) fn make(&self) -> io::Result<Visited> {
        const NOT_TRIED: Errno = Errno::ECANCELED;
        let mut visited = Visited {
            entered: Err(NOT_TRIED),
            socket: Err(NOT_TRIED),
            files: self.files.iter().map(|_| Err(NOT_TRIED)).collect(),
        };
        send_visitor(&mut Errand {
            visit: self,
            visited: &mut visited,
        })?;
        Ok(visited)
    }
}

struct Errand<'a> {
    visit: &'a Visit<'a>,
    visited: &'a mut Visited,
}

// Its clone(2) takes no thread.
#[cfg(target_env = "musl")]
compile_error!("a network namespace can be visited with glibc only");

/// Makes a thread that runs an errand, and returns when that is done.
fn send_visitor(errand: &mut Errand<'_>) -> io::Result<()> {
    const THREAD: libc::c_int = libc::CLONE_THREAD
        | libc::CLONE_SIGHAND
        | libc::CLONE_VM
        | libc::CLONE_FS
        | libc::CLONE_FILES
        | libc::CLONE_SYSVSEM;
    const STACK: usize = 16 * 1024;
    /// As machines want it.
    #[repr(align(16))]
    struct Stack([MaybeUninit<u8>; STACK]);
    let mut stack = Stack([MaybeUninit::uninit(); STACK]);
    let top = stack.0.as_mut_ptr_range().end;
    let errand = ptr::from_mut(errand);
    // A handler would take the visitor for the caller. glibc blocks all but two of its own, which it sends to threads that
    // it knows. Whoever wants to end this process waits for the visit.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: `top` is the upper end of a stack that nobody else has, with far more room than a few system calls take. It
    // and what `errand` points to are there until the thread has let go of its memory: with CLONE_VFORK this returns then.
    // Meanwhile this thread stands still: what is local to it (errno), and what the errand borrows, is the other's alone.
    // No signal's handler runs there. `visitor` takes the pointer for what it is.
    let cloned = unsafe {
        let flags = THREAD | libc::CLONE_VFORK;
        libc::clone(visitor, top.cast(), flags, errand.cast())
    };
    let cloned = Errno::result(cloned);
    mask.thread_set_mask()?;
    cloned?;
    Ok(())
}

/// What the thread does: system calls alone, and no more than that after the first that fails.
extern "C" fn visitor(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `send_visitor` has made it of a reference, which it doesn't use meanwhile.
    let Errand { visit, visited } = unsafe { &mut *errand.cast::<Errand<'_>>() };
    visited.entered = enter(visit.namespace);
    if visited.entered.is_ok() {
        visited.socket = open_socket(visit.socket);
        for (opened, path) in visited.files.iter_mut().zip(visit.files) {
            *opened = open_file(visit.directory, path);
        }
    }
    0
}

fn enter(namespace: Option<BorrowedFd<'_>>) -> Result<(), Errno> {
    // SAFETY: the calls take numbers, and a descriptor that is open for the duration of the borrow.
    let entered = unsafe {
        match namespace {
            Some(namespace) => libc::setns(namespace.as_raw_fd(), libc::CLONE_NEWNET),
            None => libc::unshare(libc::CLONE_NEWNET),
        }
    };
    Errno::result(entered).map(drop)
}

fn open_socket(protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    // SAFETY: the call takes numbers.
    new_descriptor(unsafe { libc::socket(libc::AF_NETLINK, kind, protocol as libc::c_int) })
}

fn open_file(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = libc::O_WRONLY | libc::O_CLOEXEC;
    // SAFETY: the directory is open for the duration of the borrow, and the path ends in a zero.
    new_descriptor(unsafe { libc::openat(directory.as_raw_fd(), path.as_ptr(), flags) })
}

fn new_descriptor(outcome: libc::c_int) -> Result<OwnedFd, Errno> {
    let fd = Errno::result(outcome)?;
    // SAFETY: the kernel has just returned it as a new descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn who_cannot_enter_opens_nothing_and_the_caller_goes_on_as_before() {
        let before = SigSet::thread_get_mask().expect("readable");
        let no_namespace = File::open("/dev/null").expect("readable");
        let root = File::open("/").expect("readable");
        let visit = Visit {
            namespace: Some(no_namespace.as_fd()),
            socket: SockProtocol::NetlinkRoute,
            directory: root.as_fd(),
            files: &[c"dev/null"],
        };
        let visited = visit.make().expect("somebody was sent");
        assert_eq!(visited.entered, Err(Errno::EINVAL));
        assert!(visited.socket.is_err());
        let [Err(_)] = visited.files.as_slice() else {
            panic!("{:?}", visited.files)
        };
        assert_eq!(SigSet::thread_get_mask(), Ok(before));
    }
}
