//! The ways that containers have got out of runtimes, each attempted. `docs/design.md` has the table.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};
use nix::sys::statvfs::{FsFlags, statvfs};
use serde_json::json;

use crate::bundle::{Bundle, Said};
use crate::machine::{busybox, runtime};

crate::tests! {
    cve_2016_9962_the_runtimes_process_can_not_be_looked_into;
    cve_2019_5736_the_runtimes_binary_can_not_be_written;
    cve_2019_19921_nothing_covers_part_of_proc;
    cve_2019_19921_a_link_into_proc_is_no_way_around;
    cve_2021_30465_a_target_swapped_for_a_link_stays_inside;
    cve_2022_0492_a_cgroup_can_not_be_mounted_or_written;
    cve_2022_29162_no_capability_is_inheritable;
    cve_2023_25809_without_a_cgroup_namespace_only_its_own_cgroup_shows;
    cve_2023_27561_proc_and_sys_as_links_are_refused;
    cve_2024_21626_no_descriptor_of_the_host_is_open;
    cve_2024_21626_a_working_directory_outside_is_refused;
    cve_2024_45310_directories_are_made_inside_only;
    cve_2025_31133_a_false_null_device_hides_nothing_and_shows_nothing;
    cve_2025_52565_a_false_console_is_not_mounted_on;
    cve_2025_52881_a_sysctl_reaches_only_the_real_proc;
    cve_2026_30892_exec_takes_users_by_exact_number_only;
    cve_2026_41579_dev_as_a_link_is_refused;
    a_cgroup_path_does_not_lead_up;
}

/// A directory of the host that must stay as it is: empty.
fn canary(bundle: &Bundle) -> PathBuf {
    let path = bundle.host("canary");
    fs::create_dir(&path).unwrap();
    path
}

#[track_caller]
fn assert_untouched(canary: &std::path::Path) {
    let found: Vec<_> = fs::read_dir(canary)
        .unwrap()
        .flatten()
        .map(|entry| entry.path())
        .collect();
    assert!(found.is_empty(), "{found:?}");
}

fn cve_2016_9962_the_runtimes_process_can_not_be_looked_into() {
    let mut bundle = Bundle::new("true");
    // Root inside, but without CAP_SYS_PTRACE, as containers are.
    bundle.capabilities(berth_runtime::spec::default_capabilities());
    bundle.create().success();
    // The first process is still the runtime's: it waits to be started.
    let script = "for link in /proc/1/fd/* /proc/1/exe /proc/1/cwd /proc/1/root; do readlink $link; done; \
        cat /proc/1/environ /proc/1/maps";
    let said = bundle.exec(&[&bundle.id, "sh", "-c", script]);
    assert_eq!(said.stdout, "", "{said:?}");
    assert!(said.stderr.contains("Permission denied"), "{said:?}");
}

fn cve_2019_5736_the_runtimes_binary_can_not_be_written() {
    let mut bundle = Bundle::new("");
    let program = bundle.rootfs().join("bin/evil");
    fs::write(&program, "#!/proc/self/exe\n").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    bundle.args(&["/bin/evil"]);
    bundle.create().success();
    let pid = bundle.state()["pid"].as_i64().unwrap();
    // Even the host's root can't, through the process.
    let exe = format!("/proc/{pid}/exe");
    assert!(
        statvfs(exe.as_str())
            .unwrap()
            .flags()
            .contains(FsFlags::ST_RDONLY)
    );
    let error = fs::OpenOptions::new().write(true).open(&exe).unwrap_err();
    assert!(
        matches!(error.raw_os_error(), Some(libc::EROFS | libc::ETXTBSY)),
        "{error}"
    );
    // Whatever becomes of a program interpreted by "itself", it isn't the host's binary that runs.
    bundle.runtime(&["start", &bundle.id]);
}

fn cve_2019_19921_nothing_covers_part_of_proc() {
    for destination in ["/proc", "/proc/self/attr", "/proc/sys", "/x/../proc/1"] {
        let mut bundle = Bundle::new("true");
        let mount = json!({"type": "tmpfs", "source": "tmpfs", "destination": destination});
        bundle.push("/mounts", mount);
        let said = bundle.run().failure();
        assert!(
            said.contains("must not cover /proc"),
            "{destination}: {said}"
        );
    }
}

fn cve_2019_19921_a_link_into_proc_is_no_way_around() {
    let mut bundle = Bundle::new("true");
    symlink("/proc", bundle.rootfs().join("innocent")).unwrap();
    let mount = json!({"type": "tmpfs", "source": "tmpfs", "destination": "/innocent/self/attr"});
    bundle.push("/mounts", mount);
    let said = bundle.run().failure();
    assert!(said.contains("nothing may cover part of /proc"), "{said}");
}

/// Swaps a directory of a shared volume with a link to the host, as fast as it can.
struct Swapper {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Swapper {
    fn start(one: PathBuf, other: PathBuf) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                renameat2(
                    AT_FDCWD,
                    &one,
                    AT_FDCWD,
                    &other,
                    RenameFlags::RENAME_EXCHANGE,
                )
                .unwrap();
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Swapper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Runs a container many times whose volume has a name that is a directory and a link to the host in
/// turn, and mounts something there or `below`.
///
/// A mount that went outside isn't among the container's own.
fn race(below: &str) {
    let mut bundle = Bundle::new("grep -q /source /proc/self/mountinfo || echo outside");
    let outside = canary(&bundle);
    let volume = bundle.host("volume");
    fs::create_dir_all(volume.join("name")).unwrap();
    symlink(&outside, volume.join("other")).unwrap();
    fs::create_dir(bundle.host("source")).unwrap();
    let source = bundle.host("source");
    bundle.bind(&volume, "/volume", &[]);
    bundle.bind(&source, &format!("/volume/name{below}"), &[]);
    bundle.write();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let before = mounts();
    let _swapper = Swapper::start(volume.join("name"), volume.join("other"));
    for _ in 0..100 {
        // It may fail, when the swap comes between; it may not touch the host.
        let said = bundle.runtime(&["run", &bundle.id]);
        assert_eq!(said.stdout, "", "{said:?}");
        assert_untouched(&outside);
        assert_eq!(mounts(), before);
    }
}

fn cve_2021_30465_a_target_swapped_for_a_link_stays_inside() {
    race("");
}

fn cve_2024_45310_directories_are_made_inside_only() {
    race("/deep/er");
}

fn cve_2022_0492_a_cgroup_can_not_be_mounted_or_written() {
    let mut bundle = Bundle::new(
        "mount -t cgroup2 x /tmp; mount -t cgroup -o memory x /tmp; mkdir /sys/fs/cgroup/x; \
         echo 0 > /sys/fs/cgroup/cgroup.procs",
    );
    bundle.capabilities(berth_runtime::spec::default_capabilities());
    let said = bundle.run().failure();
    assert_eq!(
        said.matches("ermission denied").count() + said.matches("not permitted").count(),
        2,
        "{said}"
    );
    assert_eq!(said.matches("Read-only file system").count(), 2, "{said}");
}

fn cve_2022_29162_no_capability_is_inheritable() {
    let show = "grep -E '^Cap(Inh|Amb)' /proc/self/status";
    // Silent: what it printed would mix with the output of exec.
    let bundle = Bundle::new("sleep 1000");
    bundle.run_detached();
    let said = bundle
        .exec(&["--cap", "CAP_NET_RAW", &bundle.id, "sh", "-c", show])
        .success();
    assert_eq!(said, "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000");
    assert_eq!(Bundle::new(show).run().success(), said);
}

fn cve_2023_25809_without_a_cgroup_namespace_only_its_own_cgroup_shows() {
    let mut bundle = Bundle::new(
        "cat /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/x; ls -d /sys/fs/cgroup/*/",
    );
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().unwrap();
    namespaces.retain(|namespace| namespace["type"] != "cgroup");
    let said = bundle.run();
    // Only it and its shell are there, by their own numbers; the root cgroup has processes numbered 0.
    assert!(
        said.stdout.starts_with('1') && !said.stdout.contains("0\n"),
        "{said:?}"
    );
    assert!(said.stderr.contains("Read-only file system"), "{said:?}");
    assert!(!said.stdout.contains("/sys/fs/cgroup/"), "{said:?}");
}

fn cve_2023_27561_proc_and_sys_as_links_are_refused() {
    for name in ["proc", "sys"] {
        let bundle = Bundle::new("true");
        let outside = canary(&bundle);
        fs::remove_dir(bundle.rootfs().join(name)).unwrap();
        symlink("/tmp", bundle.rootfs().join(name)).unwrap();
        let said = bundle.run().failure();
        assert!(said.contains("must not be links"), "{said}");
        assert_untouched(&outside);
    }
}

fn cve_2024_21626_no_descriptor_of_the_host_is_open() {
    // 3 is the directory that ls reads.
    let listed = "0\n1\n2\n3";
    // An engine has leaked a directory of the host to the runtime.
    let leaking = |bundle: &Bundle, arguments: &str| {
        bundle.write();
        let script = format!(
            "exec 9</; exec \"$0\" --root {}/state {arguments}",
            bundle.directory.display()
        );
        let mut shell = Command::new(busybox());
        let output = shell
            .args(["sh", "-c", &script])
            .arg(runtime())
            .current_dir(&bundle.directory);
        Said::from(output.output().unwrap()).success()
    };
    let running = Bundle::new("sleep 1000");
    running.run_detached();
    let exec = format!("exec {} ls /proc/self/fd", running.id);
    assert_eq!(leaking(&running, &exec), listed);
    let bundle = Bundle::new("ls /proc/self/fd");
    assert_eq!(leaking(&bundle, &format!("run {}", bundle.id)), listed);
}

fn cve_2024_21626_a_working_directory_outside_is_refused() {
    let running = Bundle::new("sleep 1000");
    running.run_detached();
    for number in 3..30 {
        let cwd = format!("/proc/self/fd/{number}");
        let mut bundle = Bundle::new("pwd");
        bundle.set("/process/cwd", json!(cwd));
        let said = bundle.run();
        assert!(
            said.code != 0 && said.stderr.contains("process.cwd"),
            "{cwd}: {said:?}"
        );
        let said = running.exec(&["--cwd", &cwd, &running.id, "pwd"]);
        assert!(
            said.code != 0 && said.stderr.contains("process.cwd"),
            "{cwd}: {said:?}"
        );
    }
}

fn cve_2025_31133_a_false_null_device_hides_nothing_and_shows_nothing() {
    // Without a /dev of its own, the container has the image's.
    let mut bundle = Bundle::new("cat /secret");
    for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.drop_mount(mount);
    }
    fs::write(bundle.rootfs().join("secret"), "hidden").unwrap();
    symlink("/etc/other", bundle.rootfs().join("dev/null")).unwrap();
    fs::write(bundle.rootfs().join("etc/other"), "shown").unwrap();
    bundle.push("/linux/maskedPaths", json!("/secret"));
    let said = bundle.run().failure();
    assert!(said.contains("make device /dev/null"), "{said}");
    // It becomes a link when it has been made, as another container that shares it could do.
    let mut bundle = Bundle::new("cat /secret");
    for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
        bundle.drop_mount(mount);
    }
    fs::write(bundle.rootfs().join("secret"), "hidden").unwrap();
    fs::write(bundle.rootfs().join("etc/other"), "shown").unwrap();
    bundle.push("/linux/maskedPaths", json!("/secret"));
    let null = bundle.rootfs().join("dev/null");
    let args = ["busybox", "ln", "-sf", "/etc/other", null.to_str().unwrap()];
    let hook = json!({"path": busybox(), "args": args});
    bundle.set("/hooks", json!({"createRuntime": [hook]}));
    assert_eq!(bundle.run().success(), "");
    assert!(null.is_symlink());
}

fn cve_2025_52565_a_false_console_is_not_mounted_on() {
    let mut bundle = Bundle::new("true");
    let outside = canary(&bundle);
    fs::write(bundle.host("victim"), "").unwrap();
    bundle.set("/process/terminal", json!(true));
    bundle.drop_mount("/dev");
    symlink("/etc/console", bundle.rootfs().join("dev/console")).unwrap();
    let said = bundle.run().failure();
    assert!(said.contains("terminal"), "{said}");
    assert_untouched(&outside);
}

fn cve_2025_52881_a_sysctl_reaches_only_the_real_proc() {
    // The container's /proc/sys is a link to elsewhere, in an image that needs no proc mount.
    let mut bundle = Bundle::new("true");
    bundle.drop_mount("/proc");
    bundle.set("/linux/maskedPaths", json!([]));
    bundle.set("/linux/readonlyPaths", json!([]));
    let trap = bundle.rootfs().join("proc/sys/net/ipv4");
    fs::create_dir_all(&trap).unwrap();
    fs::write(trap.join("ip_unprivileged_port_start"), "untouched").unwrap();
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_unprivileged_port_start": "77"}),
    );
    bundle.run().success();
    let text = fs::read_to_string(trap.join("ip_unprivileged_port_start")).unwrap();
    assert_eq!(text, "untouched");
    let ours = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    assert_ne!(ours.trim(), "77");
}

fn cve_2026_30892_exec_takes_users_by_exact_number_only() {
    let bundle = Bundle::new("sleep 1000");
    // Names are the image's to give: one that looks like a number must not become another user.
    fs::write(
        bundle.rootfs().join("etc/passwd"),
        "1000:x:0:0::/:/bin/sh\n",
    )
    .unwrap();
    bundle.run_detached();
    assert_eq!(
        bundle
            .exec(&["--user", "1000", &bundle.id, "id", "-u"])
            .success(),
        "1000"
    );
    for user in ["root", "1000x", "+0", "", "0x0", "4294967295"] {
        let said = bundle.exec(&["--user", user, &bundle.id, "id"]).failure();
        assert!(said.contains("--user"), "{user}: {said}");
    }
}

fn cve_2026_41579_dev_as_a_link_is_refused() {
    for keep_mount in [true, false] {
        let mut bundle = Bundle::new("true");
        let outside = canary(&bundle);
        fs::remove_dir(bundle.rootfs().join("dev")).unwrap();
        symlink("../canary", bundle.rootfs().join("dev")).unwrap();
        if !keep_mount {
            for mount in ["/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"] {
                bundle.drop_mount(mount);
            }
        }
        let said = bundle.run().failure();
        assert!(said.contains("must not be"), "{said}");
        assert_untouched(&outside);
    }
}

fn a_cgroup_path_does_not_lead_up() {
    for path in ["/a/../../b", "..", "/", "system.slice:a:b"] {
        let mut bundle = Bundle::new("true");
        bundle.set("/linux/cgroupsPath", json!(path));
        let said = bundle.run().failure();
        assert!(said.contains("linux.cgroupsPath"), "{path}: {said}");
    }
}
