//! Docker as a neighbour, whichever was there first: a real daemon, in the test's own network and mount namespace.

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::Receiver;
use std::thread;
use std::time::{Duration, Instant};

use berth_netns::netlink::RouteSocket;
use berth_netns::{AttachmentMode, Network, NetworkConfig, WatchEvent};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::Case;
use crate::check;
use crate::watch::watched;
use crate::world::{
    HOST, OUTSIDE, PATIENCE, Reached, Task, World, briefly, connect, inside, listen_in,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "a_chain_that_is_there_lets_tasks_pass_once",
            a_chain_that_is_there,
        ),
        ("the_links_of_routed_tasks_pass_too", routed_links_pass_too),
        (
            "a_chain_that_comes_later_lets_tasks_pass_too",
            a_chain_that_comes_later,
        ),
        (
            "a_chain_that_came_before_the_watch_is_found",
            a_chain_before_the_watch,
        ),
        ("docker_that_was_there_first_goes_on_working", docker_first),
        ("docker_that_comes_later_works_and_so_do_we", docker_last),
    ]
}

/// What the tests need beside `nft`.
pub fn is_installed() -> bool {
    ["dockerd", "docker", "iptables-nft", "busybox"]
        .iter()
        .all(|program| {
            let paths = ["/usr/sbin", "/usr/bin", "/usr/local/bin", "/bin"];
            paths
                .iter()
                .any(|path| PathBuf::from(path).join(program).exists())
        })
}

/// What iptables says of the chain with our rules in it, and Docker's own at its end.
const CHAIN: &str = "-N DOCKER-USER\n\
    -A DOCKER-USER -i berth0 -o docker0 -j RETURN\n\
    -A DOCKER-USER -i berth0 -o br-+ -j RETURN\n\
    -A DOCKER-USER -i berth0 -j ACCEPT\n\
    -A DOCKER-USER -o berth0 -j ACCEPT\n\
    -A DOCKER-USER -i eni-+ -o docker0 -j RETURN\n\
    -A DOCKER-USER -i eni-+ -o br-+ -j RETURN\n\
    -A DOCKER-USER -i eni-+ -j ACCEPT\n\
    -A DOCKER-USER -o eni-+ -j ACCEPT\n\
    -A DOCKER-USER -j RETURN\n";

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("it runs");
    assert!(
        output.status.success(),
        "{program} {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    output
}

fn iptables(arguments: &str) -> String {
    let words: Vec<&str> = arguments.split(' ').collect();
    let output = run("iptables-nft", &words);
    String::from_utf8(output.stdout).expect("text")
}

/// One subnet will do.
fn config(world: &World) -> NetworkConfig {
    let mut config = world.config();
    config.subnets.truncate(1);
    config
}

fn open(world: &World) -> Network {
    Network::open(config(world)).expect("opened")
}

/// As Docker does it.
fn make_chain() {
    for command in [
        "-N DOCKER-USER",
        "-A DOCKER-USER -j RETURN",
        "-I FORWARD -j DOCKER-USER",
        "-P FORWARD DROP",
    ] {
        iptables(command);
    }
}

fn passes(told: &Receiver<WatchEvent>) {
    let event = told.recv_timeout(PATIENCE).expect("told");
    assert!(matches!(event, WatchEvent::PassesDocker), "{event:?}");
}

fn a_chain_that_is_there(world: &World) {
    make_chain();
    iptables("-I DOCKER-USER -s 203.0.113.1 -j DROP");
    let network = open(world);
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
    check::passes(&config(world), &one, two.address, 80);
    check::passes(&config(world), &one, OUTSIDE, 80);
    let with_ours = iptables("-S DOCKER-USER");
    assert_eq!(with_ours.matches("berth0").count(), 4, "{with_ours}");
    one.detach(&network);
    two.detach(&network);
    drop(network);
    drop(open(world));
    assert_eq!(iptables("-S DOCKER-USER"), with_ours, "they are there once");
    Network::undo(&config(world)).expect("undone");
    assert_eq!(
        iptables("-S DOCKER-USER"),
        "-N DOCKER-USER\n-A DOCKER-USER -s 203.0.113.1/32 -j DROP\n-A DOCKER-USER -j RETURN\n"
    );
}

fn routed_links_pass_too(world: &World) {
    make_chain();
    let mut config = config(world);
    let subnets = config.subnets.into_iter();
    config.subnets = subnets
        .map(|subnet| subnet.with_mode(AttachmentMode::Routed))
        .collect();
    let network = Network::open(config).expect("opened");
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
    let rules = iptables("-S DOCKER-USER");
    assert_eq!(rules.matches("eni-+").count(), 4, "{rules}");
    one.detach(&network);
    two.detach(&network);
}

fn a_chain_that_comes_later(world: &World) {
    let network = open(world);
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    watched(&network, |told| {
        make_chain();
        passes(told);
        assert_eq!(one.connect(two.address, 80), Reached::Yes);
        assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
        // Until all commands have come through.
        thread::sleep(Duration::from_millis(300));
        assert_eq!(iptables("-S DOCKER-USER"), CHAIN);
        while told.try_recv().is_ok() {}
        iptables("-D DOCKER-USER -i berth0 -j ACCEPT");
        passes(told);
        assert_eq!(iptables("-S DOCKER-USER"), CHAIN);
        iptables("-F DOCKER-USER");
        passes(told);
        assert_eq!(one.connect(OUTSIDE, 80), Reached::Refused);
    });
    one.detach(&network);
    two.detach(&network);
}

fn a_chain_before_the_watch(world: &World) {
    let network = open(world);
    make_chain();
    watched(&network, |told| {
        passes(told);
        assert_eq!(iptables("-S DOCKER-USER"), CHAIN);
    });
}

/// A daemon with all its files in a folder, and a container that serves on a published port.
struct Docker {
    daemon: Child,
    folder: PathBuf,
    /// Where the container's files of cgroups are: a hierarchy is the whole machine's, and other tests have a daemon, too.
    cgroup: String,
}

/// The address of the first container.
const CONTAINER: Ipv4Addr = Ipv4Addr::new(172, 17, 0, 2);

impl Docker {
    fn start(world: &World) -> Self {
        let none = None::<&str>;
        for (kind, at) in [("tmpfs", "/run"), ("cgroup2", "/sys/fs/cgroup")] {
            mount(Some(kind), at, Some(kind), MsFlags::empty(), none).expect("mounted");
        }
        let folder = world.folder().join("docker");
        fs::create_dir_all(&folder).expect("made");
        let file = |name: &str| folder.join(name).display().to_string();
        let of_world = world.folder().file_name().expect("it has one");
        let cgroup = format!("/{}-docker", of_world.display());
        fs::write(file("daemon.json"), "{}").expect("written");
        let log = File::create(file("log")).expect("made");
        let daemon = Command::new("dockerd")
            .args(["--config-file", &file("daemon.json")])
            .args(["--host", "unix:///run/docker-test.sock"])
            .args(["--data-root", &file("data")])
            .args(["--exec-root", &file("exec")])
            .args(["--pidfile", &file("pid")])
            .args(["--storage-driver", "vfs", "--cgroup-parent", &cgroup])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a copy"))
            .stderr(log)
            .spawn()
            .expect("dockerd runs");
        let docker = Self {
            daemon,
            folder,
            cgroup,
        };
        let end = Instant::now() + PATIENCE;
        while !docker
            .client(&["version"])
            .output()
            .expect("it runs")
            .status
            .success()
        {
            let log = || fs::read_to_string(docker.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < end, "dockerd does not answer:\n{}", log());
            thread::sleep(Duration::from_millis(50));
        }
        docker
    }

    fn client(&self, words: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command
            .args(["--config", "/run/docker-client"])
            .args(["--host", "unix:///run/docker-test.sock"])
            .args(words);
        command
    }

    fn does(&self, words: &[&str]) {
        let output = self.client(words).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "docker {words:?}: {said}");
    }

    /// Port 8080 of the host is 80 of a container.
    fn publish(&self) {
        let image = self.folder.join("image");
        fs::create_dir_all(image.join("bin")).expect("made");
        fs::copy("/bin/busybox", image.join("bin/busybox")).expect("copied");
        let archive = self.folder.join("image.tar").display().to_string();
        run(
            "tar",
            &["-cf", &archive, "-C", &image.display().to_string(), "."],
        );
        self.does(&["import", &archive, "box"]);
        let serve = ["/bin/busybox", "httpd", "-f", "-p", "80"];
        let options = ["run", "-d", "--name", "web", "-p", "8080:80", "box"];
        self.does(&[&options[..], &serve].concat());
        let end = Instant::now() + PATIENCE;
        while connect(CONTAINER, 80).within(briefly()) != Reached::Yes {
            assert!(Instant::now() < end, "the container does not serve");
        }
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        self.client(&["rm", "--force", "web"]).output().ok();
        kill(
            Pid::from_raw(self.daemon.id().cast_signed()),
            Signal::SIGTERM,
        )
        .ok();
        self.daemon.wait().ok();
        fs::remove_dir(format!("/sys/fs/cgroup{}", self.cgroup)).ok();
        umount2(&self.folder.join("exec/netns"), MntFlags::MNT_DETACH).ok();
        fs::remove_dir_all(&self.folder).ok();
        RouteSocket::open()
            .and_then(|mut socket| socket.delete_link("docker0"))
            .ok();
        // Docker leaves it on.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").ok();
    }
}

fn expect_both_work(world: &World, one: &Task, two: &Task) {
    let _listener = listen_in(&world.outside, OUTSIDE, 80);
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    assert_eq!(one.connect(OUTSIDE, 80), Reached::Yes);
    let published = inside(&world.outside, || connect(HOST, 8080));
    assert_eq!(published, Reached::Yes, "Docker's port, from outside");
    assert_eq!(one.connect(HOST, 8080), Reached::Yes, "and from a task");
    assert_eq!(iptables("-S DOCKER-USER"), CHAIN);
    let config = config(world);
    check::passes(&config, one, two.address, 80);
    check::passes(&config, one, OUTSIDE, 80);
    check::depends_on_others(&config, one, HOST, 8080);
    // What Docker translates is what is sent to the host.
    check::passes(&config, one, two.address, 8080);
    assert_eq!(one.connect(two.address, 8080), Reached::Refused);
}

fn docker_first(world: &World) {
    let docker = Docker::start(world);
    docker.publish();
    let network = open(world);
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    expect_both_work(world, &one, &two);
    // What the container does not publish is not open to tasks, or it would be refused. A daemon that finds forwarding
    // turned on leaves it open itself, to everybody.
    assert_eq!(one.connect(CONTAINER, 81), Reached::Silence);
    one.detach(&network);
    two.detach(&network);
    drop(network);
    Network::undo(&config(world)).expect("undone");
    assert_eq!(
        iptables("-S DOCKER-USER"),
        "-N DOCKER-USER\n-A DOCKER-USER -j RETURN\n"
    );
    let published = inside(&world.outside, || connect(HOST, 8080));
    assert_eq!(published, Reached::Yes);
}

fn docker_last(world: &World) {
    let network = open(world);
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    watched(&network, |told| {
        let docker = Docker::start(world);
        passes(told);
        docker.publish();
        expect_both_work(world, &one, &two);
    });
    one.detach(&network);
    two.detach(&network);
}
