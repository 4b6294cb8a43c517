//! A visit to a network namespace: somebody enters it for the caller, opens what is asked for, and ends.
//!
//! The visitor is a thread or a process to the kernel, and nothing to the C library. It has a stack, and for all else the
//! caller's memory: the caller waits until it has let go of that, as after vfork(2). A thread that can do all that
//! threads can, and that has to be woken and to wake, takes as long again as everything that is done there; and a process
//! with a copy of the memory takes the longer the more of it the caller has.

use std::ffi::CStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, waitid};
use nix::unistd::Pid;

use super::owner::{ENDED, NewOwner};

/// Where to go, and what to open there.
pub(crate) struct Visit<'a> {
    /// The namespace to enter.
    pub(crate) destination: Destination<'a>,
    /// The protocol of a netlink socket.
    pub(crate) socket: SockProtocol,
    /// An instance of procfs, in which the paths of the files begin.
    pub(crate) procfs: BorrowedFd<'a>,
    /// Files to open for writing.
    pub(crate) files: &'a [&'a CStr],
}

/// A network namespace to enter.
pub(crate) enum Destination<'a> {
    /// One that there is.
    Given(BorrowedFd<'a>),
    /// A new one, which the caller's user namespace owns.
    New,
    /// A new one, which a new user namespace owns.
    Owned(NewOwner<'a>),
}

/// What came of a visit.
pub(crate) struct Visited {
    /// Whether it came to the namespace. Without that it opened nothing.
    pub(crate) entered: Result<(), Refusal>,
    pub(crate) socket: Result<OwnedFd, Errno>,
    /// One for each of the files.
    pub(crate) files: Vec<Result<OwnedFd, Errno>>,
}

/// Why a visitor could not come to the namespace.
#[derive(Debug)]
pub(crate) struct Refusal {
    /// What it was about to do.
    pub(crate) doing: &'static str,
    pub(crate) errno: Errno,
}

impl Refusal {
    /// For what is done so.
    pub(super) fn of(doing: &'static str) -> impl Fn(Errno) -> Self {
        move |errno| Self { doing, errno }
    }
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
            entered: Err(Refusal::of("visit a network namespace")(NOT_TRIED)),
            socket: Err(NOT_TRIED),
            files: self.files.iter().map(|_| Err(NOT_TRIED)).collect(),
        };
        let kind = match self.destination {
            Destination::Given(_) | Destination::New => THREAD,
            Destination::Owned(_) => PROCESS,
        };
        let mut errand = Errand {
            visit: self,
            visited: &mut visited,
            is_done: false,
        };
        send_visitor(&mut errand, kind)?;
        Ok(visited)
    }
}

struct Errand<'a> {
    visit: &'a Visit<'a>,
    visited: &'a mut Visited,
    is_done: bool,
}

/// A visitor that does what a thread may do alone: its namespaces are its own.
const THREAD: libc::c_int = libc::CLONE_THREAD
    | libc::CLONE_SIGHAND
    | libc::CLONE_VM
    | libc::CLONE_FS
    | libc::CLONE_FILES
    | libc::CLONE_SYSVSEM;

/// One that has limits and credentials of its own, too.
const PROCESS: libc::c_int = libc::CLONE_VM | libc::CLONE_FILES;

// Its clone(2) takes no thread.
#[cfg(target_env = "musl")]
compile_error!("a network namespace can be visited with glibc only");

/// The memory of a stack, as machines want it.
#[repr(align(16))]
pub(super) struct Stack<const SIZE: usize>([MaybeUninit<u8>; SIZE]);

impl<const SIZE: usize> Stack<SIZE> {
    pub(super) const fn new() -> Self {
        Self([MaybeUninit::uninit(); SIZE])
    }

    /// Where it begins: it grows downwards.
    pub(super) fn top(&mut self) -> *mut libc::c_void {
        self.0.as_mut_ptr_range().end.cast()
    }
}

/// Makes a thread or a process that runs an errand, and returns when that has ended.
///
/// Who kills the process alone (the kernel, short of memory, kills all that share it) ends the caller, as with a thread:
/// what it was about to write is not to be read, nor its stack to be used, where a process of its own may stand.
fn send_visitor(errand: &mut Errand<'_>, kind: libc::c_int) -> io::Result<()> {
    let mut stack = Stack::<{ 16 * 1024 }>::new();
    let top = stack.top();
    let pointer = ptr::from_mut(errand);
    // A handler would take the visitor for the caller. glibc blocks all but two of its own, which it sends to threads that
    // it knows.
    let mask = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK)?;
    // SAFETY: `top` is the upper end of a stack that nobody else has, with room for some system calls and for a smaller
    // stack. It and what `pointer` points to are there until the visitor has let go of its memory: with CLONE_VFORK this
    // returns then. Meanwhile this thread stands still: what is local to it (errno), and what the errand borrows, is the
    // visitor's alone; of a process that it makes, `owner::hold` says why. No signal's handler runs there. `visitor` takes
    // the pointer for what it is.
    let cloned = unsafe {
        let flags = kind | libc::CLONE_VFORK;
        libc::clone(visitor, top, flags, pointer.cast())
    };
    let cloned = Errno::result(cloned);
    if let Ok(id) = cloned {
        if kind == PROCESS {
            while waitid(Id::Pid(Pid::from_raw(id)), ENDED) == Err(Errno::EINTR) {}
        }
        // SAFETY: `pointer` is of a reference that is not used meanwhile, and nobody else writes any more.
        let is_done = unsafe { (&raw const (*pointer).is_done).read_volatile() };
        if !is_done {
            eprintln!(
                "berth: somebody has killed a process that shares this one's memory; both end"
            );
            std::process::abort();
        }
    }
    mask.thread_set_mask()?;
    cloned?;
    Ok(())
}

/// What the visitor does: system calls, and what they need of its stack.
extern "C" fn visitor(errand: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `send_visitor` has made it of a reference, which it doesn't use meanwhile.
    let errand = unsafe { &mut *errand.cast::<Errand<'_>>() };
    let (visit, visited) = (errand.visit, &mut *errand.visited);
    visited.entered = match &visit.destination {
        Destination::Given(namespace) => setns(namespace, CloneFlags::CLONE_NEWNET)
            .map_err(Refusal::of("enter the network namespace that was given")),
        Destination::New => {
            unshare(CloneFlags::CLONE_NEWNET).map_err(Refusal::of("unshare a network namespace"))
        }
        Destination::Owned(owner) => owner.make(visit.procfs),
    };
    if visited.entered.is_ok() {
        visited.socket = open_socket(visit.socket);
        for (opened, path) in visited.files.iter_mut().zip(visit.files) {
            *opened = open_file(visit.procfs, path);
        }
    }
    errand.is_done = true;
    0
}

fn open_socket(protocol: SockProtocol) -> Result<OwnedFd, Errno> {
    let flags = SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)
}

fn open_file(directory: BorrowedFd<'_>, path: &CStr) -> Result<OwnedFd, Errno> {
    let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    openat(directory, path, flags, Mode::empty())
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
            destination: Destination::Given(no_namespace.as_fd()),
            socket: SockProtocol::NetlinkRoute,
            procfs: root.as_fd(),
            files: &[c"dev/null"],
        };
        let visited = visit.make().expect("somebody was sent");
        let errno = visited.entered.map_err(|refusal| refusal.errno);
        assert_eq!(errno, Err(Errno::EINVAL));
        assert!(visited.socket.is_err());
        let [Err(_)] = visited.files.as_slice() else {
            panic!("{:?}", visited.files)
        };
        assert_eq!(SigSet::thread_get_mask(), Ok(before));
    }
}
