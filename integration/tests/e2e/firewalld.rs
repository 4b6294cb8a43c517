//! A host with firewalld, as Fedora and RHEL have it: tasks need nothing to be done, with an agent and without.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::host::{Host, script};
use super::modes::inside;
use super::network::Outside;
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "tasks_of_berth_run_reach_everything_after_each_reload",
        Needs::Packages,
        without_an_agent,
    ),
    Case(
        "an_agents_tasks_go_on_reaching_everything_and_undo_leaves_nothing",
        Needs::Packages,
        with_an_agent,
    ),
];

/// What firewalld writes to: hidden as long as it runs.
const FOLDERS: [&str; 2] = ["/etc/firewalld", "/var/log"];

/// The daemon, with what it comes with as its configuration, and a bus.
struct Firewalld(Vec<Child>);

impl Firewalld {
    fn start(host: &Host) -> Self {
        for folder in FOLDERS {
            let kind = Some("tmpfs");
            mount(kind, folder, kind, MsFlags::empty(), None::<&str>).unwrap();
        }
        for folder in ["/run/dbus", "/run/firewalld"] {
            std::fs::create_dir_all(folder).unwrap();
        }
        let mut daemons = Self(Vec::new());
        daemons.add("dbus-daemon", &["--system", "--nofork", "--nopidfile"]);
        host.until("there is a bus", || {
            Path::new("/run/dbus/system_bus_socket").exists()
        });
        daemons.add("firewalld", &["--nofork", "--nopid"]);
        host.until("firewalld answers", || {
            firewall_cmd(&["--state"]).contains("running")
        });
        daemons
    }

    fn add(&mut self, program: &str, arguments: &[&str]) {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        let daemon = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        self.0.push(daemon.unwrap());
    }
}

impl Drop for Firewalld {
    fn drop(&mut self) {
        for daemon in self.0.iter_mut().rev() {
            kill(Pid::from_raw(daemon.id().cast_signed()), Signal::SIGTERM).ok();
            daemon.wait().ok();
        }
        for folder in FOLDERS {
            umount2(folder, MntFlags::MNT_DETACH).ok();
        }
        std::fs::remove_file("/run/dbus/system_bus_socket").ok();
    }
}

/// What it answers; of a failure, nothing.
fn firewall_cmd(arguments: &[&str]) -> String {
    let output = Command::new("firewall-cmd").args(arguments).output();
    String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
}

/// What is in its zone for tasks.
fn trusted() -> Vec<String> {
    let links = firewall_cmd(&["--zone=trusted", "--list-interfaces"]);
    let mut links: Vec<String> = links.split_whitespace().map(str::to_owned).collect();
    links.sort();
    links
}

/// All that belongs there.
const LINKS: [&str; 5] = ["berth-bridge", "berth0", "berth1", "berth2", "eni-+"];

/// Serves outside, to one after the other.
struct Server(Child);

impl Server {
    fn start(outside: &Outside) -> Self {
        let busybox = std::env::var("BERTH_BUSYBOX").unwrap_or_else(|_| "/bin/busybox".into());
        let server = format!("exec {busybox} nc -ll -p 7000 -e {busybox} echo greetings");
        let mut command = outside.enter(&server);
        Self(command.stdin(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// What a task prints that reaches the outside, its metadata, the router and the resolver.
const REACHES: &str = "greetings\nmetadata\nrouter\nresolver\n";

/// The router and the resolver are .1 and .2 of its subnet.
const LOOKS: &str = "\
    nc -w 20 192.168.77.2 7000 < /dev/null 2>/dev/null; \
    wget -q -O - $ECS_CONTAINER_METADATA_URI_V4 | grep -q DockerId && echo metadata; \
    net=$(hostname -i | cut -d . -f 1-3); ping -c 1 -W 20 $net.1 > /dev/null && echo router; \
    nc -w 20 $net.2 53 < /dev/null 2>/dev/null && echo resolver; ";

fn without_an_agent(host: &Host) {
    host.image();
    let outside = Outside::new();
    let _firewalld = Firewalld::start(host);
    let _server = Server::start(&outside);
    for reload in ["--state", "--reload", "--complete-reload"] {
        host.until("firewalld answers berth run in time", || {
            firewall_cmd(&[reload]);
            let ran = host.run(&script(LOOKS));
            if ran.stderr.contains("can't be told to let it pass") {
                return false;
            }
            assert_eq!(ran.stdout, REACHES, "after {reload}: {ran:?}");
            true
        });
    }
}

fn with_an_agent(host: &Host) {
    host.image();
    host.agent();
    let outside = Outside::new();
    let _server = Server::start(&outside);
    let task = host.start_task(&script(&format!(
        "httpd -p 80 -h /www; {LOOKS} trap exit TERM; sleep 9999 & wait"
    )));
    host.wait_status(&task, "RUNNING");
    let reaches = || inside(host, &task, "main", LOOKS);
    assert_eq!(reaches(), REACHES);
    let firewalld = Firewalld::start(host);
    let told = "firewalld lets the traffic of tasks pass";
    let times_told = || host.agent_log().matches(told).count();
    host.until("firewalld knows of the links", || {
        trusted() == LINKS && times_told() > 0
    });
    assert_eq!(reaches(), REACHES);
    let before = times_told();
    firewall_cmd(&["--reload"]);
    host.until("it knows of them again", || {
        trusted() == LINKS && times_told() > before
    });
    assert_eq!(reaches(), REACHES);
    host.succeed(&["stop", &task]);
    host.kill_agent();
    host.until("it is undone", || {
        // What it says would stand within the test's own line.
        let undone = host.berth(&["doctor", "--undo"]).output().unwrap();
        let said = String::from_utf8_lossy(&undone.stderr);
        // A machine that is slow may take longer than it has patience.
        assert!(
            undone.status.success() || said.contains("in time"),
            "{said}"
        );
        undone.status.success()
    });
    assert!(trusted().is_empty(), "{:?}", trusted());
    drop(firewalld);
}
