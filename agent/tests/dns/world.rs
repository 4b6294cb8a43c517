//! A test's own machine: a network namespace that plays the host, with the tasks' network and their
//! resolver; tasks; and a host outside.

use std::fs::{self, File};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use berth_agent::dns::{self, Names, Server, Settings, Sockets, Zones};
use berth_netns::netlink::{LOOPBACK, NewVeth, RouteSocket, add_address, add_route, bring_up};
use berth_netns::{AttachRequest, EniId, MacAddress, Network, NetworkConfig, Subnet};
use ipnet::{IpNet, Ipv4Net};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};
use tokio::runtime::Runtime;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// Two addresses of the host outside, for two resolvers.
pub const OUTSIDE: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 2), Ipv4Addr::new(192, 0, 2, 3)];
/// The address of the default subnet's resolver.
pub const RESOLVER: Ipv4Addr = RESOLVERS[0];
/// Those of both subnets.
pub const RESOLVERS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 231, 0, 2), Ipv4Addr::new(10, 77, 0, 2)];
pub const DOMAIN: &str = "eu-west-1.compute.internal";

/// How long a link may take to go by itself, before it is removed.
const BEFORE_REMOVAL: Duration = Duration::from_millis(500);

pub struct World {
    folder: PathBuf,
    pub outside: OwnedFd,
    pub network: Network,
    pub names: Arc<Names>,
}

impl World {
    /// Runs a test in a world of its own, then looks for what it left there.
    pub fn run(case: fn(&World)) -> Result<(), String> {
        let thread = thread::Builder::new().name("world".into()).spawn(move || {
            let world = World::create();
            case(&world);
            world.end();
        });
        thread.expect("a thread").join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            text.unwrap_or_else(|| "panicked".to_owned())
        })
    }

    fn create() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("berth-dns-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let outside = new_namespace();
        connect_to_outside(&outside);
        let zones = Zones::new(DOMAIN, &ranges()).expect("valid");
        let config = config(&folder);
        Self {
            folder,
            outside,
            network: Network::open(config).expect("the network opens"),
            names: Arc::new(Names::new(zones)),
        }
    }

    fn end(self) {
        let config = config(&self.folder);
        drop(self.network);
        Network::undo(&config).expect("no task is left");
        let links = fs::read_to_string("/proc/thread-self/net/dev").expect("the links");
        let links = links.lines().filter_map(|line| line.split_once(':'));
        let mut links: Vec<&str> = links.map(|(name, _)| name.trim()).collect();
        links.sort_unstable();
        assert_eq!(links, ["lo", "uplink"], "links are left behind");
        fs::remove_dir_all(&self.folder).expect("the folder is ours");
    }

    /// A file of the test's own.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Has the host ask these resolvers, by a file that takes the place of the one before.
    pub fn host_asks(&self, resolvers: &[Ipv4Addr]) {
        let new = self.file("resolv.conf.new");
        fs::write(&new, resolv_conf(resolvers)).expect("written");
        fs::rename(new, self.file("resolv.conf")).expect("renamed");
    }

    pub fn settings(&self) -> Settings {
        Settings {
            addresses: RESOLVERS.map(IpAddr::from).to_vec(),
            port: dns::PORT,
            clients: ranges(),
            host_resolvers: self.file("resolv.conf"),
        }
    }

    /// Starts the resolver, which ends with what is returned.
    pub fn resolver(&self) -> Resolver {
        self.resolver_with(Sockets::default())
    }

    /// Starts it with what an earlier one has left.
    pub fn resolver_with(&self, sockets: Sockets) -> Resolver {
        // Its threads are in this thread's namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let server = Server::bind(self.settings(), Arc::clone(&self.names), sockets);
        let server = runtime.block_on(server).expect("the address is free");
        runtime.spawn(server.serve());
        Resolver(Some(runtime))
    }

    /// A task in the default subnet, whose name is answered for.
    pub fn task(&self, number: u32) -> Task<'_> {
        self.task_in(0, number)
    }

    /// A task in one of the subnets.
    pub fn task_in(&self, subnet: usize, number: u32) -> Task<'_> {
        let id: EniId = format!("eni-{number:017x}").parse().expect("valid");
        let request = AttachRequest {
            eni: id.clone(),
            subnet: subnets()[subnet].id().clone(),
            security_groups: Vec::new(),
            netns: format!("task-{number}").parse().expect("valid"),
            published: Vec::new(),
            assign_public_ip: false,
        };
        let attachment = self.network.attach(&request).expect("attached");
        let address = attachment.eni.address;
        let name = format!("ip-{}.{DOMAIN}", address.to_string().replace('.', "-"));
        let records = dns::interface(&name, &[address.into()]).expect("valid");
        self.names.enter(id.as_str(), records);
        Task {
            world: self,
            id,
            address,
            name,
            netns: Some(File::open(&attachment.netns_path).expect("mounted").into()),
        }
    }
}

pub fn resolv_conf(resolvers: &[Ipv4Addr]) -> String {
    let line = |resolver: &Ipv4Addr| format!("nameserver {resolver}\n");
    resolvers.iter().map(line).collect()
}

fn subnets() -> [Subnet; 2] {
    let id = "subnet-00000000000000002".parse().expect("valid");
    let range = "10.77.0.0/24".parse().expect("valid");
    let second = Subnet::new(id, range, "berth1").expect("valid");
    [Subnet::default_subnet(), second]
}

fn ranges() -> Vec<IpNet> {
    subnets().map(|subnet| subnet.cidr().into()).to_vec()
}

fn config(folder: &Path) -> NetworkConfig {
    NetworkConfig {
        subnets: subnets().to_vec(),
        ..NetworkConfig::new(folder.join("state"), folder.join("run"))
    }
}

/// The resolver, until it is dropped.
pub struct Resolver(Option<Runtime>);

impl Drop for Resolver {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_timeout(Duration::from_secs(10));
        }
    }
}

/// A task on the network, until it is dropped.
pub struct Task<'a> {
    world: &'a World,
    id: EniId,
    pub address: Ipv4Addr,
    pub name: String,
    netns: Option<OwnedFd>,
}

impl Task<'_> {
    /// Does something inside.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        inside(self.netns.as_ref().expect("attached"), work)
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.world.names.remove(self.id.as_str());
        self.world.network.detach(&self.id).expect("detached");
        self.netns = None;
        let network = &self.world.network;
        network
            .wait_until_gone(&self.id, BEFORE_REMOVAL)
            .expect("gone");
    }
}

/// A host link called `uplink`, an outside host behind it, and a way out.
fn connect_to_outside(outside: &OwnedFd) {
    let mut here = RouteSocket::open().expect("a socket");
    let mut there = inside(outside, || RouteSocket::open().expect("a socket"));
    let veth = NewVeth {
        name: "uplink",
        mac: None,
        bridge: None,
        peer_name: "eth0",
        peer_mac: MacAddress([2, 0, 0, 0, 0, 9]),
        peer_netns: outside.as_fd(),
        mtu: 1500,
    };
    here.add_veth(&veth).expect("a veth pair");
    let uplink = here.index_of("uplink").expect("made");
    let eth0 = there.index_of("eth0").expect("made");
    let net = |address| Ipv4Net::new(address, 24).expect("a length");
    let everywhere = Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 0).expect("a length");
    let [first, second] = OUTSIDE;
    for request in [
        bring_up(LOOPBACK),
        bring_up(uplink),
        add_address(uplink, net(HOST), true),
        add_route(uplink, everywhere, first),
    ] {
        here.send(&[request]).expect("configured");
    }
    let tasks = Subnet::default_subnet().cidr();
    for request in [
        bring_up(LOOPBACK),
        bring_up(eth0),
        add_address(eth0, net(first), true),
        add_address(eth0, net(second), true),
        // It knows a way to the tasks: that it isn't answered is not for want of one.
        add_route(eth0, tasks, HOST),
    ] {
        there.send(&[request]).expect("configured");
    }
}

/// A network namespace that ends with the descriptor.
fn new_namespace() -> OwnedFd {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("own namespace"))
    });
    thread.join().expect("no panic")
}

/// Does something inside a network namespace, on a thread of its own.
pub fn inside<T: Send>(netns: &OwnedFd, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns, CloneFlags::CLONE_NEWNET).expect("root may enter");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// What a program prints. It runs in the namespace of the calling thread.
pub fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect("it runs");
    String::from_utf8_lossy(&output.stdout).into_owned()
}
