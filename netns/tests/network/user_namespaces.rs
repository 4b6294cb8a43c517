//! Network namespaces that user namespaces of the tasks' own own: what root of one can do in it, and whose the ids are.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Instant;

use berth_netns::{Attachment, Error, IdRange, Network, NetworkConfig, Subnet};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use crate::Case;
use crate::world::{BEFORE_REMOVAL, PATIENCE, Reached, Task, World, request};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "root_of_a_task_has_its_network_and_not_the_hosts",
            root_has_its_network,
        ),
        (
            "no_two_tasks_have_ids_in_common_and_ids_come_back",
            ids_are_a_tasks_own,
        ),
        (
            "ids_stay_a_tasks_own_through_a_restart",
            ids_survive_a_restart,
        ),
        (
            "a_prepared_interface_brings_its_ids",
            prepared_ones_have_ids,
        ),
        (
            "who_may_not_look_at_others_processes_makes_them_too",
            without_ptrace,
        ),
        (
            "making_one_leaves_the_callers_core_dumps_as_they_were",
            dumps_stay_as_they_were,
        ),
        (
            "its_owner_looks_at_nobodys_memory_while_it_is_made",
            nobody_looks_at_the_memory,
        ),
        (
            "one_that_can_not_be_made_leaves_nothing",
            a_refused_one_leaves_nothing,
        ),
        (
            "without_subordinate_ids_the_host_owns_the_network",
            without_ids,
        ),
    ]
}

/// Ids for two.
pub fn small(world: &World) -> NetworkConfig {
    let mut config = world.config();
    config.subordinate_ids = Some("3000000:131072".parse().expect("valid"));
    config
}

fn open(config: NetworkConfig) -> Network {
    Network::open(config).expect("the network opens")
}

fn attach(network: &Network, number: u32) -> Attachment {
    network.attach(&request(number)).expect("attached")
}

fn detach(network: &Network, attachment: &Attachment) {
    let id = &attachment.eni.id;
    network.detach(id).expect("detached");
    network.wait_until_gone(id, BEFORE_REMOVAL).expect("gone");
}

fn first(attachment: &Attachment) -> u32 {
    attachment.eni.id_range.expect("it has one").first
}

/// Whether the host's user namespace owns a network namespace.
pub fn is_the_hosts(netns: &Path) -> bool {
    let netns: OwnedFd = File::open(netns).expect("there").into();
    let inode = |file: File| std::os::unix::fs::MetadataExt::ino(&file.metadata().expect("open"));
    let own = File::open("/proc/self/ns/user").expect("there");
    inode(owner(&netns).into()) == inode(own)
}

fn owner(netns: &OwnedFd) -> OwnedFd {
    berth_netns::owner(netns.as_fd()).expect("it has one")
}

/// What the child process of a test does: it becomes root of a task, and tries what root can. The task has this link.
pub fn root_of_task(path: &str, link: &str) -> ExitCode {
    let tried = || -> Result<(), (&'static str, Errno)> {
        let doing = |what| move |errno| (what, errno);
        let host = File::open("/proc/self/ns/net").map_err(|_| ("open", Errno::EIO))?;
        let netns: OwnedFd = File::open(path).map_err(|_| ("open", Errno::EIO))?.into();
        setns(owner(&netns), CloneFlags::CLONE_NEWUSER).map_err(doing("join its owner"))?;
        setresgid(Gid::from_raw(0), Gid::from_raw(0), Gid::from_raw(0))
            .map_err(doing("be its root's group"))?;
        setresuid(Uid::from_raw(0), Uid::from_raw(0), Uid::from_raw(0))
            .map_err(doing("be its root"))?;
        setns(&netns, CloneFlags::CLONE_NEWNET).map_err(doing("join"))?;
        unshare(CloneFlags::CLONE_NEWNS).map_err(doing("unshare"))?;
        let none = None::<&str>;
        mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none)
            .map_err(doing("mount sysfs"))?;
        fs::metadata(format!("/sys/class/net/{link}"))
            .map_err(|_| ("see its link", Errno::ENODEV))?;
        fs::write("/proc/sys/net/ipv4/ip_default_ttl", "63")
            .map_err(|_| ("set its sysctl", Errno::EACCES))?;
        UdpSocket::bind("0.0.0.0:80").map_err(|_| ("bind port 80", Errno::EACCES))?;
        match setns(&host, CloneFlags::CLONE_NEWNET) {
            Err(Errno::EPERM) => Ok(()),
            outcome => Err((
                "not join the host's",
                outcome.err().unwrap_or(Errno::EEXIST),
            )),
        }
    };
    match tried() {
        Ok(()) => ExitCode::SUCCESS,
        Err((what, errno)) => {
            eprintln!("root of a task could not {what}: {errno}");
            ExitCode::FAILURE
        }
    }
}

/// What another does: it makes a user namespace without CAP_SYS_PTRACE.
pub fn make_without_ptrace() -> ExitCode {
    drop_ptrace();
    match berth_netns::make_user_namespace(IdRange { first: 3_000_000 }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn drop_ptrace() {
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, Capability::CAP_SYS_PTRACE).expect("dropped");
    }
}

fn without_ptrace(_: &World) {
    assert!(child_succeeds("make-without-ptrace"));
}

fn dumps_stay_as_they_were(_: &World) {
    assert!(child_succeeds("make-and-stay-dumpable"));
}

fn nobody_looks_at_the_memory(_: &World) {
    assert!(child_succeeds("make-while-its-owner-looks"));
}

fn a_refused_one_leaves_nothing(_: &World) {
    assert!(child_succeeds("make-with-wrong-ids"));
}

fn child_succeeds(action: &str) -> bool {
    let mut child = Command::new("/proc/self/exe");
    let child = child.args(["--child", action]);
    child.status().expect("it runs").success()
}

/// What a child does: it makes many at once, with core dumps and without.
pub fn make_and_stay_dumpable() -> ExitCode {
    for dumpable in [false, true] {
        prctl::set_dumpable(dumpable).expect("set");
        std::thread::scope(|scope| {
            for number in 0..4 {
                let range = IdRange {
                    first: 3_000_000 + number * IdRange::SIZE,
                };
                scope.spawn(move || {
                    for _ in 0..10 {
                        berth_netns::make_user_namespace(range).expect("made");
                    }
                });
            }
        });
        if prctl::get_dumpable() != Ok(dumpable) {
            eprintln!("core dumps were {dumpable}, and aren't any more");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What another does: it makes them until their owner has looked often enough, with CAP_SYS_PTRACE and without.
pub fn make_while_its_owner_looks() -> ExitCode {
    let seen = is_looked_at();
    drop_ptrace();
    match seen || is_looked_at() {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    }
}

fn is_looked_at() -> bool {
    let range = IdRange { first: 3_000_000 };
    let mut owner = Command::new("/proc/self/exe");
    let own = std::process::id().to_string();
    let owner = owner.args(["--child", "look-at-memory", &own, &range.first.to_string()]);
    let mut owner = owner.spawn().expect("it runs");
    loop {
        if let Some(ended) = owner.try_wait().expect("it is a child") {
            return !ended.success();
        }
        berth_netns::make_user_namespace(range).expect("made");
    }
}

/// What the owner does: it looks at the memory of whoever a child of that process has as a child.
pub fn look_at_memory(of: &str, owner: &str) -> ExitCode {
    const OFTEN: usize = 20;
    let id: u32 = owner.parse().expect("a number");
    setresgid(Gid::from_raw(id), Gid::from_raw(id), Gid::from_raw(id)).expect("root may");
    setresuid(Uid::from_raw(1000), Uid::from_raw(id), Uid::from_raw(id)).expect("root may");
    let children = |process: &str| {
        let read = fs::read_to_string(format!("/proc/{process}/task/{process}/children"));
        let children = read.unwrap_or_default();
        let children = children.split_whitespace().map(str::to_owned);
        children.collect::<Vec<String>>()
    };
    let (mut refused, deadline) = (0, Instant::now() + 4 * PATIENCE);
    while refused < OFTEN {
        for holder in children(of).iter().flat_map(|child| children(child)) {
            match File::open(format!("/proc/{holder}/mem")) {
                Ok(_) => {
                    eprintln!("the owner of a new user namespace looks at its maker's memory");
                    return ExitCode::FAILURE;
                }
                Err(error) if error.kind() == ErrorKind::PermissionDenied => refused += 1,
                Err(_) => {}
            }
        }
        if Instant::now() > deadline {
            eprintln!("only {refused} processes were seen in all that time");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// What another does: it asks for ids that there are not.
pub fn make_with_wrong_ids() -> ExitCode {
    // Whoever is left without a parent becomes a child of this one.
    prctl::set_child_subreaper(true).expect("set");
    let descriptors = || fs::read_dir("/proc/self/fd").expect("there").count();
    let children = || fs::read_to_string("/proc/thread-self/children").expect("there");
    let before = descriptors();
    let beyond = IdRange {
        first: u32::MAX - 1,
    };
    let made = berth_netns::make_user_namespace(beyond);
    let error = made.expect_err("no such ids").to_string();
    assert!(
        error.starts_with("give a new user namespace its ids"),
        "{error}"
    );
    assert_eq!((descriptors(), children()), (before, String::new()));
    ExitCode::SUCCESS
}

/// Whether root of a task can do in a network namespace with this link what it should, and no more.
pub fn try_as_root(netns: &Path, link: &str) -> bool {
    let mut child = Command::new("/proc/self/exe");
    let child = child.args(["--child", "root-of-task"]).arg(netns).arg(link);
    child.status().expect("it runs").success()
}

fn root_has_its_network(world: &World) {
    let network = world.network();
    let attachment = attach(&network, 1);
    assert!(try_as_root(&attachment.netns_path, "eth0"));
    let (one, two) = (Task::of(&attachment), Task::attach(&network, 2));
    for address in one.addresses() {
        one.serve(address, 80);
        assert_eq!(two.connect(address, 80), Reached::Yes, "{address}");
    }
    one.detach(&network);
    two.detach(&network);
}

fn ids_are_a_tasks_own(world: &World) {
    let network = open(small(world));
    let one = attach(&network, 1);
    // What fails has had ids, and gives them back.
    network
        .attach(&request(1))
        .expect_err("it is attached already");
    let two = attach(&network, 2);
    assert_eq!((first(&one), first(&two)), (3_000_000, 3_065_536));
    let error = network.attach(&request(3)).expect_err("no more ids");
    assert!(matches!(error, Error::IdsExhausted(_)), "{error}");
    assert_eq!(network.list().expect("listed").len(), 2);
    detach(&network, &one);
    let three = attach(&network, 3);
    assert_eq!(first(&three), 3_000_000);
    for attachment in [two, three] {
        detach(&network, &attachment);
    }
}

fn ids_survive_a_restart(world: &World) {
    let network = open(small(world));
    let one = attach(&network, 1);
    drop(network);
    let network = open(small(world));
    assert_eq!(
        network.list().expect("listed")[0].id_range,
        one.eni.id_range
    );
    let two = attach(&network, 2);
    assert_eq!(first(&two), 3_065_536);
    assert!(network.attach(&request(3)).is_err());
    for attachment in [one, two] {
        detach(&network, &attachment);
    }
}

fn prepared_ones_have_ids(world: &World) {
    let network = open(small(world));
    let subnet = Subnet::default_subnet().id().clone();
    network.prepare_interfaces(&subnet, 1).expect("prepared");
    let mut chosen = request(1);
    chosen.eni = network.choose_eni(&subnet).expect("an id");
    let one = network.attach(&chosen).expect("attached");
    assert!(try_as_root(&one.netns_path, "eth0"));
    let two = attach(&network, 2);
    assert_eq!((first(&one), first(&two)), (3_000_000, 3_065_536));
    detach(&network, &one);
    // What waits has ids of its own, and gives way to a task.
    network.prepare_interfaces(&subnet, 1).expect("prepared");
    let three = attach(&network, 3);
    assert_eq!(first(&three), 3_000_000);
    assert!(network.prepare_interfaces(&subnet, 1).is_err());
    for attachment in [two, three] {
        detach(&network, &attachment);
    }
}

fn without_ids(world: &World) {
    let mut config = world.config();
    config.subordinate_ids = None;
    let network = open(config);
    let attachment = attach(&network, 1);
    assert_eq!(attachment.eni.id_range, None::<IdRange>);
    assert!(is_the_hosts(&attachment.netns_path));
    detach(&network, &attachment);
}
