//! The floor under every container runtime: the system calls that a container can't do without, and
//! nothing around them. No configuration is read, nothing is checked, filtered or written down.
//!
//! `floor run ROOTFS CGROUP NAMESPACES ITEM... -- COMMAND...` makes a container, waits for it, and
//! removes the cgroup. `floor exec PID CGROUP -- COMMAND...` runs a process in one that is there.
//! The benchmark computes the arguments from the same configuration that the runtimes get.

#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a step that fails ends the benchmark, with the step's name"
)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, chdir, execv, pivot_root};

const NONE: Option<&str> = None;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let end = args.iter().position(|arg| arg == "--");
    let (work, command) = args.split_at(end.expect("-- before the command"));
    let command: Vec<CString> = command
        .iter()
        .skip(1)
        .map(|word| CString::new(word.as_str()).expect("a command without NUL"))
        .collect();
    let work: Vec<&str> = work.iter().map(String::as_str).collect();
    match work.as_slice() {
        ["run", rootfs, cgroup, namespaces, items @ ..] => {
            let flags = namespaces.parse().expect("the namespaces' bits");
            run(rootfs, cgroup, flags, items, &command);
        }
        ["exec", pid, cgroup] => {
            let pid = pid.parse().expect("a process id");
            enter(pid, cgroup, &command);
        }
        _ => panic!("floor run|exec"),
    }
}

fn run(rootfs: &str, cgroup: &str, flags: u64, items: &[&str], command: &[CString]) {
    std::fs::create_dir(cgroup).expect("the cgroup");
    let folder = File::open(cgroup).expect("the cgroup's folder");
    let child = clone_into(&folder, flags, || {
        confine(rootfs, items);
        execute(command);
    });
    waitpid(child, None).expect("the container's end");
    std::fs::remove_dir(cgroup).expect("the cgroup's end");
}

fn enter(pid: i32, cgroup: &str, command: &[CString]) {
    let folder = File::open(cgroup).expect("the cgroup's folder");
    let process = open_pidfd(pid);
    let all = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWCGROUP;
    setns(&process, all).expect("the container's namespaces");
    let child = clone_into(&folder, 0, || execute(command));
    waitpid(child, None).expect("the process's end");
}

fn execute(command: &[CString]) {
    let program = command.first().expect("a program");
    execv(program, command).expect("exec");
}

/// The root filesystem, with everything that the configuration puts on it.
fn confine(rootfs: &str, items: &[&str]) {
    unshare(CloneFlags::CLONE_NEWCGROUP).expect("a cgroup namespace");
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(NONE, "/", NONE, private, NONE).expect("private mounts");
    mount(Some(rootfs), rootfs, NONE, MsFlags::MS_BIND, NONE).expect("the root as a mount");
    chdir(rootfs).expect("the root");
    for item in items {
        let fields: Vec<&str> = item.split('\t').collect();
        match fields.as_slice() {
            ["mount", kind, source, target, flags, data] => {
                attach(kind, source, target, flags, data);
            }
            ["device", path, major, minor] => device(path, major, minor),
            ["hide", path] => hide(path),
            ["readonly", path] => readonly(path),
            ["hostname", name] => nix::unistd::sethostname(name).expect("the host name"),
            _ => panic!("what is {item}?"),
        }
    }
    pivot_root(".", ".").expect("pivot_root");
    umount2(".", MntFlags::MNT_DETACH).expect("leaving the host's root");
    chdir("/").expect("the new root");
}

fn attach(kind: &str, source: &str, target: &str, flags: &str, data: &str) {
    if target.starts_with("dev/") {
        std::fs::create_dir(target).expect(target);
    }
    let flags = MsFlags::from_bits_retain(flags.parse().expect("a mount's flags"));
    mount(Some(source), target, Some(kind), flags, Some(data)).expect(target);
}

fn device(path: &str, major: &str, minor: &str) {
    let number = makedev(
        major.parse().expect("a device's number"),
        minor.parse().expect("a device's number"),
    );
    mknod(path, SFlag::S_IFCHR, Mode::from_bits_retain(0o666), number).expect(path);
}

/// Not every kernel has every file that is to be hidden.
fn hide(path: &str) {
    match mount(Some("/dev/null"), path, NONE, MsFlags::MS_BIND, NONE) {
        Err(Errno::ENOTDIR) => {
            mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::MS_RDONLY, NONE).expect(path);
        }
        Err(Errno::ENOENT) => {}
        other => other.expect(path),
    }
}

fn readonly(path: &str) {
    if !Path::new(path).exists() {
        return;
    }
    let bind = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(path), path, NONE, bind, NONE).expect(path);
    let again = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    mount(NONE, path, NONE, again, NONE).expect(path);
}

/// A child straight in a cgroup, and in new namespaces.
fn clone_into(cgroup: &File, namespaces: u64, body: impl FnOnce()) -> Pid {
    /// libc's constant is too narrow for this bit.
    const CLONE_INTO_CGROUP: u64 = 1 << 33;
    let mut args = libc::clone_args {
        flags: namespaces | CLONE_INTO_CGROUP,
        pidfd: 0,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD.cast_unsigned().into(),
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: cgroup.as_raw_fd().cast_unsigned().into(),
    };
    // SAFETY: without CLONE_VM and without a stack this is a fork: the child goes on here on a copy
    // of our stack. No other thread exists, so it may do whatever we may.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of_val(&args)) };
    match Errno::result(pid).expect("clone3") {
        0 => {
            body();
            // Only a failed exec comes here, and has panicked.
            std::process::exit(1)
        }
        pid => Pid::from_raw(i32::try_from(pid).expect("a process id")),
    }
}

fn open_pidfd(pid: i32) -> OwnedFd {
    // SAFETY: the call takes two numbers.
    let descriptor = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    let descriptor = Errno::result(descriptor).expect("pidfd_open");
    // SAFETY: the kernel has just opened it for us.
    unsafe { OwnedFd::from_raw_fd(i32::try_from(descriptor).expect("a descriptor")) }
}
