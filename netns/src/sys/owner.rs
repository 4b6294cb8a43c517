//! A new user namespace that owns a new network namespace, made by a visitor.
//!
//! Its ids are given it from outside, by somebody who is in neither: so a process is born into both, which opens a socket as
//! the way there, does nothing but hold them from then on, and ends when the visitor has come. All of them, and the caller,
//! have their memory and their descriptors in common: it takes as long with much of that as with little.
//!
//! Who owns a user namespace may look into every process there, as far as its memory is the namespace's own. That of the
//! holder is the caller's. It is kept from that owner by what keeps it from being dumped (ptrace(2), "ptrace access mode
//! checking").

use std::ffi::CStr;
use std::io::Write;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getpid, write};

use super::visit::{Refusal, Stack};

/// A user namespace to be made.
///
/// It is that of one of the host's users, so that what is counted for users is not counted together with what others have,
/// and what its creator may have at most is no limit that anybody set.
pub(crate) struct NewOwner<'a> {
    user: u32,
    map: &'a str,
    caller: Pid,
    _undumpable: Undumpable,
}

impl<'a> NewOwner<'a> {
    /// That of the host's user `user`, with these ids (`/proc/<pid>/uid_map`, user_namespaces(7)), of users and of groups.
    pub(crate) fn new(user: u32, map: &'a str) -> Self {
        Self {
            user,
            map,
            caller: getpid(),
            _undumpable: Undumpable::begin(),
        }
    }

    /// Makes it, and enters the network namespace that it owns. For a visitor that is a process: its limits, and who it is,
    /// change for good.
    ///
    /// The way there is a socket of the holder's: its own files in procfs that lead to its namespaces are closed to whoever
    /// lacks CAP_SYS_PTRACE.
    pub(super) fn make(&self, procfs: BorrowedFd<'_>) -> Result<(), Refusal> {
        const MAKE: &str = "make a user namespace and a network namespace of its own";
        const ENTER: &str = "enter a new network namespace";
        lift_limits();
        become_owner(self.user);
        if !end_with(self.caller.as_raw().into()) {
            return Err(Refusal::of(MAKE)(Errno::ESRCH));
        }
        let mut stack = Stack::new();
        let held = Held::new();
        let holder = Holder::start(&mut stack, &held).map_err(Refusal::of(MAKE))?;
        for file in ["uid_map", "gid_map"] {
            holder
                .write(procfs, file, self.map)
                .map_err(Refusal::of("give a new user namespace its ids"))?;
        }
        let inside = holder.socket().map_err(Refusal::of(ENTER))?;
        let entered = super::namespace_of(inside.as_fd())
            .map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or_default()))
            .and_then(|network| setns(network, CloneFlags::CLONE_NEWNET));
        entered.map_err(Refusal::of(ENTER))
    }
}

/// What a [`Holder`] and its parent have in common.
struct Held {
    parent: libc::c_long,
    /// A socket that it has opened in its network namespace, or the negative number of an error.
    socket: AtomicI32,
}

impl Held {
    const NOT_YET: i32 = i32::MIN;

    fn new() -> Self {
        Self {
            parent: getpid().as_raw().into(),
            socket: AtomicI32::new(Self::NOT_YET),
        }
    }

    /// The socket, or why there is none, once it has been tried.
    fn take(&self) -> Option<Result<OwnedFd, Errno>> {
        match self.socket.swap(Self::NOT_YET, Ordering::AcqRel) {
            Self::NOT_YET => None,
            // SAFETY: the holder has opened it, and nobody else takes it.
            fd if fd >= 0 => Some(Ok(unsafe { OwnedFd::from_raw_fd(fd) })),
            error => Some(Err(Errno::from_raw(-error))),
        }
    }
}

/// A process in new namespaces. It is ended when this is dropped.
struct Holder<'a> {
    pid: Pid,
    pidfd: OwnedFd,
    held: &'a Held,
    /// It stands on that.
    stack: PhantomData<&'a mut Stack<STACK>>,
}

/// A page is plenty for one that stands still.
const STACK: usize = 4096;

impl<'a> Holder<'a> {
    fn start(stack: &'a mut Stack<STACK>, held: &'a Held) -> Result<Self, Errno> {
        let namespaces = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
        let shared = libc::CLONE_VM | libc::CLONE_FILES;
        let flags = namespaces.bits() | shared | libc::CLONE_PIDFD;
        let mut pidfd: RawFd = -1;
        // SAFETY: the top is that of a stack which nobody else has until this process has ended, and what `hold` takes its
        // argument for is there as long: `drop` waits for that, and should this one not come to it, the caller of the visit
        // doesn't go on (`visit::send_visitor`). `pidfd` outlives the call, in which the kernel writes it.
        let pid = unsafe {
            let held = ptr::from_ref(held).cast_mut().cast();
            libc::clone(hold, stack.top(), flags, held, &raw mut pidfd)
        };
        let pid = Errno::result(pid)?;
        Ok(Self {
            pid: Pid::from_raw(pid),
            // SAFETY: the kernel has just returned it with the process as a new descriptor, and nobody else has it.
            pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) },
            held,
            stack: PhantomData,
        })
    }

    /// The socket that it opens.
    fn socket(&self) -> Result<OwnedFd, Errno> {
        loop {
            let has_ended = self.has_ended();
            match self.held.take() {
                Some(socket) => return socket,
                None if has_ended => return Err(Errno::ESRCH),
                None => wait_while(&self.held.socket, Held::NOT_YET),
            }
        }
    }

    /// Whether it was killed by somebody else.
    fn has_ended(&self) -> bool {
        let look = ENDED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        let status = waitid(Id::PIDFd(self.pidfd.as_fd()), look);
        status != Ok(WaitStatus::StillAlive)
    }

    /// Writes one of its files in procfs.
    fn write(&self, procfs: BorrowedFd<'_>, file: &str, text: &str) -> Result<(), Errno> {
        let mut path = [0u8; 32];
        // A process id has at most seven digits.
        write!(path.as_mut_slice(), "{}/{file}", self.pid).map_err(|_| Errno::ENAMETOOLONG)?;
        let path = CStr::from_bytes_until_nul(&path).map_err(|_| Errno::ENAMETOOLONG)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        let file = openat(procfs, path, flags, Mode::empty())?;
        // All or nothing (user_namespaces(7)).
        write(file, text.as_bytes()).map(drop)
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        // It is there as long as nobody has waited for it.
        kill(self.pid, Signal::SIGKILL).ok();
        while waitid(Id::PIDFd(self.pidfd.as_fd()), ENDED) == Err(Errno::EINTR) {}
        drop(self.held.take());
    }
}

/// Of a child without an exit signal, which is none for those who wait for any.
pub(super) const ENDED: WaitPidFlag = WaitPidFlag::WEXITED.union(WaitPidFlag::__WALL);

/// What a [`Holder`] does: it opens its socket, and then nothing, until it is killed, by its parent or by the end of that.
///
/// The C library takes it for the same thread as the visitor, which goes on meanwhile, and keeps the error of a call that
/// failed for both. Only the first call may fail: should one of the visitor's do so in the same moment, the visit ends with
/// the error of either. The calls after it don't fail, and write nothing but their results.
extern "C" fn hold(held: *mut libc::c_void) -> libc::c_int {
    // SAFETY: `Holder::start` has made it of a reference to what outlives this process.
    let held = unsafe { &*held.cast::<Held>() };
    if end_with(held.parent) {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let none = ptr::null::<libc::c_void>();
        // SAFETY: the calls take numbers, a pointer to what outlives this process, and null pointers, of which ppoll(2)
        // makes that it waits for nothing, for ever.
        unsafe {
            let socket = libc::syscall(
                libc::SYS_socket,
                libc::AF_NETLINK,
                kind,
                libc::NETLINK_ROUTE,
            );
            let socket = match socket {
                -1 => -Errno::last_raw(),
                socket => socket as i32,
            };
            held.socket.store(socket, Ordering::Release);
            libc::syscall(libc::SYS_futex, &raw const held.socket, WAKE, 1);
            loop {
                libc::syscall(libc::SYS_ppoll, none, 0, none, none, 0);
            }
        }
    }
    0
}

const WAKE: libc::c_int = libc::FUTEX_WAKE | libc::FUTEX_PRIVATE_FLAG;
const WAIT: libc::c_int = libc::FUTEX_WAIT | libc::FUTEX_PRIVATE_FLAG;

/// Waits until somebody wakes those who wait for another value than this, for a moment at most (futex(2)).
fn wait_while(value: &AtomicI32, is: i32) {
    let moment = libc::timespec {
        tv_sec: 0,
        tv_nsec: 10_000_000,
    };
    // SAFETY: the pointers are to what outlives the call, which reads it.
    unsafe {
        libc::syscall(
            libc::SYS_futex,
            ptr::from_ref(value),
            WAIT,
            is,
            &raw const moment,
        )
    };
}

/// Has the calling process killed when its parent ends; whether it still has this one.
fn end_with(parent: libc::c_long) -> bool {
    // SAFETY: the calls take numbers.
    unsafe {
        libc::syscall(libc::SYS_prctl, libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        libc::syscall(libc::SYS_getppid) == parent
    }
}

/// Says that a visitor is on its way who lets nobody look at this process's memory, nor at what else can be got at with it
/// (PR_SET_DUMPABLE): an attribute that all have who share the memory. Afterwards it is as before; who changes it meanwhile
/// does so in vain.
///
/// There is one at a time: as another becomes somebody else, the kernel would make the memory what `fs.suid_dumpable` says,
/// while a process of the first may be looked at.
struct Undumpable {
    before: libc::c_int,
    _turn: MutexGuard<'static, ()>,
}

impl Undumpable {
    fn begin() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            before: dumpable(),
            _turn: turn,
        }
    }
}

impl Drop for Undumpable {
    fn drop(&mut self) {
        // A third value, by which root alone gets core dumps, is nobody's to set. With it in `fs.suid_dumpable`, visitors
        // leave it; else there are none from then on.
        set_dumpable(self.before);
    }
}

fn dumpable() -> libc::c_int {
    // SAFETY: this command takes no arguments.
    unsafe { libc::prctl(libc::PR_GET_DUMPABLE) }
}

fn set_dumpable(value: libc::c_int) {
    let none: libc::c_ulong = 0;
    // SAFETY: this command takes a number.
    unsafe {
        libc::prctl(
            libc::PR_SET_DUMPABLE,
            value as libc::c_ulong,
            none,
            none,
            none,
        )
    };
}

/// Raises the calling process's limits of what a user has, as far as they go: a user namespace keeps those of its
/// creator, for all its users together (`set_userns_rlimit_max` in the kernel). What a process may is not raised by it.
fn lift_limits() {
    const OF_USERS: [libc::__rlimit_resource_t; 4] = [
        libc::RLIMIT_NPROC,
        libc::RLIMIT_MSGQUEUE,
        libc::RLIMIT_SIGPENDING,
        libc::RLIMIT_MEMLOCK,
    ];
    let none = std::ptr::null_mut::<libc::rlimit>();
    for resource in OF_USERS {
        let mut limit = libc::rlimit {
            rlim_cur: libc::RLIM_INFINITY,
            rlim_max: libc::RLIM_INFINITY,
        };
        // SAFETY: the pointers are null or to `limit`, which the kernel reads and writes in the call.
        unsafe {
            let set = |limit: &libc::rlimit| {
                let limit = std::ptr::from_ref(limit);
                libc::syscall(libc::SYS_prlimit64, 0, resource, limit, none) == 0
            };
            // Who may not go beyond the hard limit goes up to it. Limits that stay are some, as before.
            if !set(&limit)
                && libc::syscall(libc::SYS_prlimit64, 0, resource, none, &raw mut limit) == 0
            {
                limit.rlim_cur = limit.rlim_max;
                set(&limit);
            }
        }
    }
}

/// Makes the calling process effectively that user and group, with the capabilities that it has, and keeps everybody from
/// its memory who lacks CAP_SYS_PTRACE on the host. Where that is refused it stays who it is, as does what is counted for it.
/// Files are opened as before.
fn become_owner(owner: u32) {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: libc::c_int,
    }
    // Twice effective, permitted, inheritable: the lower and the upper 32 capabilities (capset(2)).
    type Sets = [[u32; 3]; 2];
    const VERSION_3: u32 = 0x2008_0522;
    const SAME: u32 = u32::MAX;
    let mut header = Header {
        version: VERSION_3,
        pid: 0,
    };
    let mut sets: Sets = [[0; 3]; 2];
    // SAFETY: the pointers are to `header` and `sets`, which have the layout of this version and outlive the calls; the
    // others take numbers.
    unsafe {
        if libc::syscall(libc::SYS_capget, &raw mut header, &raw mut sets) == 0 {
            let (user, group) = (libc::geteuid(), libc::getegid());
            libc::syscall(libc::SYS_setresgid, SAME, owner, SAME);
            libc::syscall(libc::SYS_setresuid, SAME, owner, SAME);
            libc::syscall(libc::SYS_setfsgid, group);
            libc::syscall(libc::SYS_setfsuid, user);
            // The change took them out of effect.
            libc::syscall(libc::SYS_capset, &raw mut header, &raw const sets);
        }
    }
    // The change made it what `fs.suid_dumpable` says (proc(5)).
    if dumpable() == 1 {
        set_dumpable(0);
    }
}
