//! The rest of what a new process does to itself: descriptors, signals, limits, exec.

use std::ffi::{CStr, c_char};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::ptr;

use libc::{c_int, c_uint};
use nix::errno::Errno;
use nix::sys::signal::Signal;

/// Strings for execve, with the array of pointers that it wants made beforehand.
#[derive(Debug)]
pub(crate) struct CStrings {
    /// Owns what the pointers point to; never changed after they are made.
    _strings: Vec<std::ffi::CString>,
    pointers: Vec<*const c_char>,
}

impl From<Vec<std::ffi::CString>> for CStrings {
    fn from(strings: Vec<std::ffi::CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(ptr::null());
        Self {
            _strings: strings,
            pointers,
        }
    }
}

impl CStrings {
    /// This process's own variables.
    pub(crate) fn of_environment() -> Self {
        let variables = std::env::vars_os().filter_map(|(name, value)| {
            let text = [name.as_bytes(), b"=", value.as_bytes()].concat();
            std::ffi::CString::new(text).ok()
        });
        Self::from(variables.collect::<Vec<_>>())
    }
}

/// Replaces this process; returns only if that failed.
pub(crate) fn execve(program: &CStr, args: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: both arrays end with a null pointer and point to C strings that they own.
    unsafe {
        libc::execve(
            program.as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
        )
    };
    Errno::last()
}

/// Replaces this process by the program that the descriptor is open on.
pub(crate) fn execve_descriptor(program: BorrowedFd, args: &CStrings, env: &CStrings) -> Errno {
    // SAFETY: as in `execve`; the path is the static empty string.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            args.pointers.as_ptr(),
            env.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Errno::last()
}

/// Marks every descriptor from `first` on to be closed by exec.
pub(crate) fn close_on_exec_from(first: u32) -> nix::Result<()> {
    // SAFETY: no pointers; descriptors are only marked.
    let result = unsafe {
        libc::syscall(
            libc::SYS_close_range,
            first,
            c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    };
    Errno::result(result).map(drop)
}

/// Lets a descriptor of this number survive exec.
pub(crate) fn keep_on_exec(number: i32) -> nix::Result<()> {
    // SAFETY: F_SETFD takes a number.
    Errno::result(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop)
}

/// Makes `number` refer to what `fd` does, also after exec.
pub(crate) fn place_descriptor(fd: BorrowedFd, number: i32) -> nix::Result<()> {
    if fd.as_raw_fd() == number {
        return keep_on_exec(number);
    }
    // SAFETY: what a number stands for is nobody's affair in a child that is about to exec.
    Errno::result(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// The standard streams: `std`'s own handles would allocate their buffers.
pub(crate) fn standard_streams() -> [BorrowedFd<'static>; 3] {
    // SAFETY: these numbers are never closed for good by us; where one is closed, its use is EBADF.
    [0, 1, 2].map(|number| unsafe { BorrowedFd::borrow_raw(number) })
}

/// Closes a descriptor that this process got by being a copy.
pub(crate) fn close_inherited(number: i32) {
    // SAFETY: called in a clone for descriptors whose owner lives in the parent's memory only.
    unsafe { libc::close(number) };
}

/// The signals that this process ignores, bit 0 being signal 1; all of them if nobody can say.
pub(crate) fn ignored_signals() -> u64 {
    let mut buffer = [0u8; 4096];
    let read = std::fs::File::open("/proc/self/status")
        .and_then(|mut file| std::io::Read::read(&mut file, &mut buffer));
    let text = buffer.get(..read.unwrap_or(0)).unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let mask = text.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .unwrap_or(u64::MAX)
}

/// Gives ignored signals their default action and unblocks all: exec keeps what is ignored or blocked.
/// Those with handlers lost them when this process was cloned.
pub(crate) fn reset_signals(ignored: u64) -> nix::Result<()> {
    let is_ignored = |number: &i32| ignored & (1 << (number - 1)) != 0;
    let can_change = |number: &i32| ![libc::SIGKILL, libc::SIGSTOP].contains(number);
    for number in (1..=64).filter(is_ignored).filter(can_change) {
        // The kernel's own structure: handler, flags, restorer and mask, all zero for the default.
        let default = [0u64; 4];
        // SAFETY: the structure is as large as the kernel's, whose mask is the 8 bytes announced.
        let result = unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                number,
                default.as_ptr(),
                ptr::null::<u64>(),
                8usize,
            )
        };
        Errno::result(result)?;
    }
    nix::sys::signal::SigSet::empty().thread_set_mask()
}

/// Raises the hard limit of a process, this one for 0, to what is wanted; the soft one stays. One that is as high already
/// stays as it is.
pub(crate) fn raise_hard_limit(pid: i32, resource: u32, wanted: u64) -> nix::Result<()> {
    let mut limit = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel writes the old limit to `limit`, which lives through the call; no new one is given.
    let read = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            ptr::null::<libc::rlimit64>(),
            &raw mut limit,
        )
    };
    Errno::result(read)?;
    if limit.rlim_max >= wanted {
        return Ok(());
    }
    limit.rlim_max = wanted;
    // SAFETY: the new limit lives through the call, the old one is not asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            pid,
            resource,
            ptr::from_ref(&limit),
            ptr::null::<libc::rlimit64>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Sets a resource limit of this process.
pub(crate) fn set_rlimit(resource: u32, soft: u64, hard: u64) -> nix::Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    // SAFETY: the new limit lives through the call, the old one is not asked for.
    let result = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            resource,
            ptr::from_ref(&limit),
            ptr::null::<libc::rlimit64>(),
        )
    };
    Errno::result(result).map(drop)
}

/// Asks whether this process could execute the file, with its effective identity.
pub(crate) fn may_execute(program: &CStr) -> nix::Result<()> {
    // SAFETY: the path is a C string that lives through the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_faccessat2,
            libc::AT_FDCWD,
            program.as_ptr(),
            libc::X_OK,
            libc::AT_EACCESS,
        )
    };
    Errno::result(result).map(drop)
}

/// Fails unless the current directory is reachable from the root.
///
/// getcwd(2) itself is asked: the C library's wrapper would allocate.
pub(crate) fn current_directory_is_reachable() -> nix::Result<bool> {
    let mut buffer = [0u8; libc::PATH_MAX as usize];
    // SAFETY: the buffer is as long as announced.
    let result = unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) };
    Errno::result(result)?;
    // The kernel writes "(unreachable)/…" for a directory outside the root.
    Ok(buffer.first() == Some(&b'/'))
}

/// Brings the loopback interface of this network namespace up.
pub(crate) fn bring_loopback_up() -> nix::Result<()> {
    let socket = super::socket::inet_datagram()?;
    // SAFETY: an all-zero request is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = *from as c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    // SAFETY: the request is an initialised `struct ifreq` with a null-terminated name.
    let result: c_int =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw mut request) };
    Errno::result(result).map(drop)
}

/// Sets the NIS domain name of this UTS namespace.
pub(crate) fn set_domainname(name: &str) -> nix::Result<()> {
    // SAFETY: the pointer is to as many bytes as announced; no terminator is needed.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// The namespace that one of a hierarchy lies in (ioctl_nsfs(2)).
pub(crate) fn parent_namespace(namespace: BorrowedFd) -> nix::Result<std::os::fd::OwnedFd> {
    /// `NS_GET_PARENT` of include/uapi/linux/nsfs.h.
    const NS_GET_PARENT: libc::c_ulong = 0xb702;
    // SAFETY: the request takes no argument, and gives a new descriptor.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_PARENT) };
    super::owned(libc::c_long::from(fd))
}

/// Opens a pidfd for a process.
pub(crate) fn open_pidfd(pid: nix::unistd::Pid) -> nix::Result<std::os::fd::OwnedFd> {
    // SAFETY: no pointers.
    super::owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })
}

/// Signals the process that a pidfd refers to; no signal only asks whether it could be.
pub(crate) fn send_signal(pidfd: BorrowedFd, signal: Option<Signal>) -> nix::Result<()> {
    send_signal_number(pidfd, signal.map_or(0, |signal| signal as i32))
}

/// The same with a number, since real-time signals have no names.
pub(crate) fn send_signal_number(pidfd: BorrowedFd, number: i32) -> nix::Result<()> {
    // SAFETY: the siginfo pointer may be null.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            number,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    Errno::result(result).map(drop)
}

/// Waits for a child by its pidfd: `Ok(None)` while it runs, when `block` is false.
pub(crate) fn wait_child(pidfd: BorrowedFd, block: bool) -> nix::Result<Option<(i32, i32)>> {
    let mut flags = libc::WEXITED;
    if !block {
        flags |= libc::WNOHANG;
    }
    // SAFETY: an all-zero siginfo is valid.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: the structure lives through the call.
        let result = unsafe {
            libc::waitid(
                libc::P_PIDFD,
                pidfd.as_raw_fd() as libc::id_t,
                &raw mut info,
                flags,
            )
        };
        match Errno::result(result) {
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno),
            Ok(_) => break,
        }
    }
    // SAFETY: waitid filled in the fields of a child's change of state, or left all zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok((pid != 0).then_some((info.si_code, status)))
}
