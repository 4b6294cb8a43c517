//! How the program begins: at an entry point of its own, before the C library's.
//!
//! A command that makes processes in containers has to run from a read-only mount of this program
//! (`binary.rs` in the library says why), so it is executed twice. Done in `main`, the first of the two
//! had to start the C library and the standard library for nothing, which is as much work as all the
//! mounts of a container. Here the first start is four system calls.
//!
//! Up to [`main`] there is no C library: no thread-local storage, so no `errno`, and no `memcpy`, which
//! is an indirect function that isn't resolved yet. What runs there keeps to single words and reads
//! through `read_volatile`, which the compiler doesn't turn into calls. Whatever fails there is left
//! for `main` to try again, and to tell.

#![allow(unsafe_code)]
// A test has a `main` of its own, and the same entry point.
#![cfg_attr(test, allow(dead_code, unused_imports))]

use std::ffi::{c_char, c_int};

/// The linker's entry point, where it is set (`build.rs`).
#[cfg(target_arch = "x86_64")]
mod before_libc {
    use std::arch::{asm, naked_asm};
    use std::mem::MaybeUninit;
    use std::sync::atomic::{AtomicBool, Ordering};

    unsafe extern "C" {
        fn _start() -> !;
    }

    /// Whether this process was found to run from a read-only mount.
    pub(super) static IS_PROTECTED: AtomicBool = AtomicBool::new(false);

    /// `struct mount_attr` of mount_setattr(2): what to set, to clear, propagation, user namespace.
    static READ_ONLY: [u64; 4] = [libc::MOUNT_ATTR_RDONLY, 0, 0, 0];

    /// Where the kernel begins: at the stack pointer are the number of arguments, the arguments and the
    /// environment (System V ABI, x86-64 supplement, 3.4.1). The C library finds all as it was.
    // SAFETY: the name is this program's alone.
    #[unsafe(naked)]
    #[unsafe(no_mangle)]
    unsafe extern "C" fn berth_runtime_start() -> ! {
        naked_asm!(
            "mov rbx, rsp",
            "mov r12, rdx",
            "mov rdi, rsp",
            "and rsp, -16",
            "xor ebp, ebp",
            "call {protect}",
            "mov rsp, rbx",
            "mov rdx, r12",
            "jmp {start}",
            protect = sym protect,
            start = sym _start,
        )
    }

    /// Executes this program again from a read-only mount of it, if it is to make processes and doesn't
    /// run from one yet. Returns if not, or if that failed.
    ///
    /// # Safety
    /// `stack` is where the kernel put the number of arguments, with all that follows it.
    unsafe extern "C" fn protect(stack: *const usize) {
        // SAFETY: the number is followed by so many pointers, a null pointer, and the environment.
        let (args, env) = unsafe { (stack.add(1), stack.add(stack.read() + 2)) };
        // SAFETY: the arguments' pointers end with a null pointer.
        if !unsafe { make_processes(args.cast()) } {
            return;
        }
        let own = c"/proc/self/exe".as_ptr() as usize;
        let mut status = MaybeUninit::<libc::statfs64>::uninit();
        // SAFETY: the path is a C string, the structure the kernel's.
        if unsafe { call(libc::SYS_statfs, own, status.as_mut_ptr() as usize, 0, 0, 0) } != 0 {
            return;
        }
        // SAFETY: the call has filled it in.
        if unsafe { (*status.as_ptr()).f_flags } as u64 & libc::ST_RDONLY != 0 {
            IS_PROTECTED.store(true, Ordering::Relaxed);
            return;
        }
        let here = libc::AT_FDCWD as usize;
        let flags = (libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC) as usize;
        // SAFETY: the path is a C string.
        let mount = unsafe { call(libc::SYS_open_tree, here, own, flags, 0, 0) };
        if mount < 0 {
            return;
        }
        let (mount, itself) = (mount as usize, c"".as_ptr() as usize);
        let (empty_path, attributes) = (
            libc::AT_EMPTY_PATH as usize,
            (&raw const READ_ONLY) as usize,
        );
        // SAFETY: path and structure are as the call wants them, the structure as long as is said.
        let set = unsafe {
            let size = size_of::<[u64; 4]>();
            call(
                libc::SYS_mount_setattr,
                mount,
                itself,
                empty_path,
                attributes,
                size,
            )
        };
        if set == 0 {
            let (args, env) = (args as usize, env as usize);
            // SAFETY: both arrays are the kernel's own, as it gave them to us. If the call returns, the
            // mount is closed when this process executes or exits.
            let _failed = unsafe { call(libc::SYS_execveat, mount, itself, args, env, empty_path) };
        }
    }

    /// Whether one of the arguments is a command that makes processes, wherever it stands: to be
    /// protected without need costs less than to parse the arguments twice.
    ///
    /// `restore` is none of them: what it puts into the container is CRIU, and no copy of this program is
    /// ever in there. The clones of it that precede CRIU are in the host's namespaces but for the mounts.
    ///
    /// # Safety
    /// `args` points to pointers to C strings, the last of which is null.
    unsafe fn make_processes(mut args: *const *const u8) -> bool {
        // SAFETY: only what comes before the null pointer is used.
        unsafe {
            while !args.read_volatile().is_null() {
                let word = args.read_volatile();
                if is(word, b"run\0") || is(word, b"create\0") || is(word, b"exec\0") {
                    return true;
                }
                args = args.add(1);
            }
        }
        false
    }

    /// Compares a C string to one that ends with its only null byte.
    ///
    /// # Safety
    /// `word` points to a C string.
    unsafe fn is(mut word: *const u8, mut name: &[u8]) -> bool {
        while let [first, rest @ ..] = name {
            // SAFETY: all bytes before were the name's, none of which but the last is null.
            unsafe {
                if word.read_volatile() != *first {
                    return false;
                }
                word = word.add(1);
            }
            name = rest;
        }
        true
    }

    /// A system call, as syscall(2) of the C library would make it; a negative number is an error.
    ///
    /// # Safety
    /// The arguments are what the call needs.
    unsafe fn call(number: i64, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
        let result;
        // SAFETY: the registers are those that the kernel reads and changes.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") number as isize => result,
                in("rdi") a,
                in("rsi") b,
                in("rdx") c,
                in("r10") d,
                in("r8") e,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result
    }
}

/// What the C library calls. The standard library's own would also look up where the stack ends and
/// install handlers that tell when it does: 17 of a start's system calls, for a message.
// SAFETY: the name and the signature are what the C library expects, and nobody else has the name.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_count: c_int, _arguments: *const *const c_char) -> c_int {
    if !open_missing_streams() {
        return 1;
    }
    // SAFETY: no handler is installed. Writing to a pipe that nobody reads is an error like others.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
    // Not by returning, since what is left in the buffer of standard output is written by this.
    std::process::exit(crate::run(is_protected()).into())
}

/// Whether this process is known to run from a read-only mount.
fn is_protected() -> bool {
    #[cfg(target_arch = "x86_64")]
    return before_libc::IS_PROTECTED.load(std::sync::atomic::Ordering::Relaxed);
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// A standard stream that the caller has closed is nowhere: else the next file that is opened would
/// take its place, and the container would get it.
fn open_missing_streams() -> bool {
    let mut streams = [0, 1, 2].map(|fd| libc::pollfd {
        fd,
        events: 0,
        revents: 0,
    });
    // SAFETY: the array is as long as is said, and nobody is waited for.
    let polled = unsafe { libc::poll(streams.as_mut_ptr(), streams.len() as libc::nfds_t, 0) };
    let is_missing = |stream: &&libc::pollfd| stream.revents & libc::POLLNVAL != 0;
    let missing = streams.iter().filter(is_missing);
    // SAFETY: the path is a C string. Each is the lowest number that is free, so what is opened.
    let mut opened = missing.map(|_| unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) });
    polled >= 0 && opened.all(|fd| fd >= 0)
}
