//! The library as a supervisor uses it.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use berth_runtime::cgroup::Cgroup;
use berth_runtime::{
    Container, ContainerId, CreateOptions, Created, ExecOptions, ExitStatus, Root, begin, create,
    exec, spec,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;

use crate::bundle::Bundle;

crate::tests! {
    a_container_runs_and_is_waited_for;
    dropping_a_created_container_undoes_it;
    a_command_that_is_missing_is_told_apart;
    a_failed_start_undoes_the_container;
    a_container_may_start_by_itself;
    a_container_with_start_hooks_does_not_start_by_itself;
    a_container_dies_with_the_thread_that_made_it;
    a_detached_mount_serves_as_the_root;
    a_process_is_executed_in_a_container;
    a_container_is_taken_up_by_its_pid;
    killing_all_takes_every_process;
    a_terminals_master_is_handed_over;
    many_containers_are_made_from_many_threads;
    the_engines_configuration_is_valid;
}

fn config(bundle: &Bundle, script: &str) -> Spec {
    let mut config = spec::container(spec::default_capabilities());
    config
        .root_mut()
        .as_mut()
        .unwrap()
        .set_path(bundle.rootfs());
    let args = ["sh", "-c", script].map(str::to_owned);
    config
        .process_mut()
        .as_mut()
        .unwrap()
        .set_args(Some(args.to_vec()));
    config
}

fn id(bundle: &Bundle) -> ContainerId {
    bundle.id.parse().unwrap()
}

fn created(bundle: &Bundle, config: &Spec) -> Created {
    create(CreateOptions::new(&id(bundle), config, Path::new("/"))).unwrap()
}

fn started_by_itself(bundle: &Bundle, config: &Spec) -> Created {
    let id = id(bundle);
    let mut creating = begin(CreateOptions::new(&id, config, Path::new("/"))).unwrap();
    creating.start_when_ready();
    creating.finish().unwrap()
}

fn started(bundle: &Bundle, script: &str) -> Container {
    created(bundle, &config(bundle, script)).start().unwrap()
}

fn a_container_runs_and_is_waited_for() {
    let bundle = Bundle::new("");
    let config = config(&bundle, "echo out; exit 3");
    let id = id(&bundle);
    let mut options = CreateOptions::new(&id, &config, Path::new("/"));
    let (mut reader, writer) = std::io::pipe().unwrap();
    options.stdio.stdout = Some(OwnedFd::from(writer));
    let container = create(options).unwrap().start().unwrap();
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!(output, "out\n");
    let mut waits = [PollFd::new(container.pidfd(), PollFlags::POLLIN)];
    poll(&mut waits, PollTimeout::NONE).unwrap();
    assert_eq!(container.try_wait().unwrap(), Some(ExitStatus::Code(3)));
    container.delete().unwrap();
}

fn dropping_a_created_container_undoes_it() {
    let bundle = Bundle::new("");
    let created = created(&bundle, &config(&bundle, "true"));
    let path = created.cgroup().unwrap().path().to_owned();
    assert!(created.cgroup().unwrap().is_populated().unwrap());
    drop(created);
    assert!(Cgroup::open(path).is_err());
}

fn a_command_that_is_missing_is_told_apart() {
    let bundle = Bundle::new("");
    let mut config = config(&bundle, "");
    let id = id(&bundle);
    let mut fail = |command: &str| {
        let args = vec![command.to_owned()];
        config.process_mut().as_mut().unwrap().set_args(Some(args));
        create(CreateOptions::new(&id, &config, Path::new("/"))).unwrap_err()
    };
    assert!(fail("nothing").is_command_not_found());
    assert!(fail("/nothing").is_command_not_found());
    assert!(fail("/etc").is_permission_denied());
}

fn a_failed_start_undoes_the_container() {
    use std::os::unix::fs::PermissionsExt;
    let bundle = Bundle::new("");
    let program = bundle.rootfs().join("bin/garbage");
    std::fs::write(&program, "\x7fELF garbage").unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let mut config = config(&bundle, "");
    config
        .process_mut()
        .as_mut()
        .unwrap()
        .set_args(Some(vec!["garbage".to_owned()]));
    for created in [created, started_by_itself] {
        let created = created(&bundle, &config);
        let path = created.cgroup().unwrap().path().to_owned();
        let error = created.start().unwrap_err().to_string();
        assert!(error.contains("exec format error"), "{error}");
        assert!(Cgroup::open(path).is_err());
    }
}

fn a_container_may_start_by_itself() {
    let bundle = Bundle::new("");
    let config = config(&bundle, "exec sleep 1000");
    let created = started_by_itself(&bundle, &config);
    let program = std::fs::read_link(format!("/proc/{}/exe", created.pid())).unwrap();
    assert!(program.ends_with("busybox"), "{program:?}");
    let container = created.start().unwrap();
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    container.delete().unwrap();
}

fn a_container_with_start_hooks_does_not_start_by_itself() {
    let bundle = Bundle::new("");
    let mut config = config(&bundle, "test -e /tmp/hooked");
    let hook = r#"{"startContainer": [{"path": "/bin/touch", "args": ["touch", "/tmp/hooked"]}]}"#;
    config.set_hooks(serde_json::from_str(hook).unwrap());
    let container = started_by_itself(&bundle, &config).start().unwrap();
    assert_eq!(container.wait().unwrap(), ExitStatus::Code(0));
    container.delete().unwrap();
}

fn a_container_dies_with_the_thread_that_made_it() {
    let bundle = Bundle::new("");
    let config = config(&bundle, "sleep 1000");
    let id = id(&bundle);
    let container = std::thread::scope(|scope| {
        let maker = scope.spawn(|| {
            let mut options = CreateOptions::new(&id, &config, Path::new("/"));
            options.parent_death_signal = Some(Signal::SIGKILL);
            create(options).unwrap().start().unwrap()
        });
        maker.join().unwrap()
    });
    assert_eq!(container.wait().unwrap(), ExitStatus::Signal(9));
    container.delete().unwrap();
}

fn a_detached_mount_serves_as_the_root() {
    let bundle = Bundle::new("");
    // open_tree(2), as an engine makes it of its snapshot.
    let root = File::open(bundle.rootfs()).unwrap();
    let mount = open_tree::clone_mount(&root);
    let config = config(&bundle, "echo inside > /tmp/proof");
    let id = id(&bundle);
    let mut options = CreateOptions::new(&id, &config, Path::new("/"));
    options.root = Some(Root::Mount(mount));
    let container = create(options).unwrap().start().unwrap();
    assert_eq!(container.wait().unwrap(), ExitStatus::Code(0));
    container.delete().unwrap();
    assert!(bundle.rootfs().join("tmp/proof").exists());
}

mod open_tree {
    //! The one call that the tests need and no crate offers.
    use super::{AsFd, File, OwnedFd};
    use std::os::fd::{AsRawFd, FromRawFd};

    pub(super) fn clone_mount(directory: &File) -> OwnedFd {
        let flags = 1 | libc::O_CLOEXEC | libc::AT_EMPTY_PATH;
        let fd = directory.as_fd().as_raw_fd();
        // SAFETY: the path is a static string, and the result, if it is none, is refused below.
        let result = unsafe { libc::syscall(libc::SYS_open_tree, fd, c"".as_ptr(), flags) };
        assert!(
            result >= 0,
            "open_tree: {}",
            std::io::Error::last_os_error()
        );
        // SAFETY: the kernel has just given it to us.
        unsafe { OwnedFd::from_raw_fd(result as i32) }
    }
}

fn a_process_is_executed_in_a_container() {
    let bundle = Bundle::new("");
    let container = started(&bundle, "sleep 1000");
    let config = config(&bundle, "test $$ -ne 1 && exit 6");
    let mut options = ExecOptions::new(config.process().as_ref().unwrap());
    options.seccomp = config.linux().as_ref().unwrap().seccomp().as_ref();
    let child = exec(container.pid(), options).unwrap();
    assert_eq!(child.wait().unwrap(), ExitStatus::Code(6));
    container.kill(Signal::SIGKILL).unwrap();
    container.wait().unwrap();
    container.delete().unwrap();
}

fn a_container_is_taken_up_by_its_pid() {
    let bundle = Bundle::new("");
    let container = started(&bundle, "sleep 1000");
    let cgroup = Cgroup::open(container.cgroup().unwrap().path()).unwrap();
    let again = Container::attach(container.pid(), Some(cgroup)).unwrap();
    assert_eq!(
        again.cgroup().unwrap().path(),
        container.cgroup().unwrap().path()
    );
    again.kill(Signal::SIGKILL).unwrap();
    again.init().wait_gone().unwrap();
    container.wait().unwrap();
    again.delete().unwrap();
}

fn killing_all_takes_every_process() {
    let bundle = Bundle::new("");
    let container = started(&bundle, "sleep 1000 & sleep 1000 & wait");
    container.kill_all().unwrap();
    assert_eq!(container.wait().unwrap(), ExitStatus::Signal(9));
    container.cgroup().unwrap().wait_empty().unwrap();
    container.delete().unwrap();
}

fn a_terminals_master_is_handed_over() {
    let bundle = Bundle::new("");
    let mut config = config(&bundle, "stty size; tty");
    config
        .process_mut()
        .as_mut()
        .unwrap()
        .set_terminal(Some(true));
    let mut created = created(&bundle, &config);
    let master = created.take_console().unwrap();
    berth_runtime::set_terminal_size(master.as_fd(), 33, 77).unwrap();
    let container = created.start().unwrap();
    let mut output = Vec::new();
    // The end of a terminal is EIO.
    let _ended = File::from(master).read_to_end(&mut output);
    assert_eq!(
        String::from_utf8(output).unwrap(),
        "33 77\r\n/dev/pts/0\r\n"
    );
    container.wait().unwrap();
    container.delete().unwrap();
}

fn many_containers_are_made_from_many_threads() {
    let bundles: Vec<_> = (0..8).map(|_| Bundle::new("")).collect();
    std::thread::scope(|scope| {
        for bundle in &bundles {
            scope.spawn(move || {
                for _ in 0..5 {
                    let container = started(bundle, "exit 2");
                    assert_eq!(container.wait().unwrap(), ExitStatus::Code(2));
                    container.delete().unwrap();
                }
            });
        }
    });
}

fn the_engines_configuration_is_valid() {
    let bundle = Bundle::new("");
    let driver = berth_runtime::cgroup::Driver::Cgroupfs;
    berth_runtime::config::validate(&config(&bundle, "true"), driver).unwrap();
}
