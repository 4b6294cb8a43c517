//! Network namespaces that user namespaces of the tasks' own own: what root of one can do in it, and whose the ids are.

use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};

use berth_netns::{Attachment, Error, IdRange, Network, NetworkConfig, Subnet};
use caps::{CapSet, Capability};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setresgid, setresuid};

use crate::Case;
use crate::world::{BEFORE_REMOVAL, Reached, Task, World, request};

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
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::drop(None, set, Capability::CAP_SYS_PTRACE).expect("dropped");
    }
    match berth_netns::make_user_namespace(IdRange { first: 3_000_000 }) {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn without_ptrace(_: &World) {
    let mut child = Command::new("/proc/self/exe");
    child.args(["--child", "make-without-ptrace"]);
    assert!(child.status().expect("it runs").success());
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
