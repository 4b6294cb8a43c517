//! A test's own machine: a network namespace that plays the host, another that is a host outside,
//! and private folders.

use std::cell::RefCell;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use berth_netns::netlink::{LOOPBACK, NewVeth, RouteSocket, add_address, add_route, bring_up};
use berth_netns::{
    AttachRequest, Attachment, AttachmentMode, EniId, MacAddress, Network, NetworkConfig, Subnet,
    SubordinateIds, WatchStop,
};
use ipnet::{Ipv4Net, Ipv6Net};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

pub use crate::attempt::{Attempt, Reached, connect, reaches_at_last};
use crate::leaks;

pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const HOST6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2);
pub const UPLINK_MTU: u32 = 1400;

/// How long a link may take to go by itself, before it is removed.
pub const BEFORE_REMOVAL: Duration = Duration::from_millis(500);
/// How long something that must happen may take where its time is not what is looked at: while the kernel takes hundreds
/// of another test's namespaces apart, it locks out who changes routes, for long in an emulated machine.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long we wait for something that must not happen; longer where the processor is an emulated one.
pub fn briefly() -> Duration {
    Duration::from_millis(if in_machine() { 800 } else { 300 })
}

/// Whether the processor is an emulated one, whose time is not that of a real one.
pub fn in_machine() -> bool {
    std::env::var_os("BERTH_RIG_MACHINE").is_some()
}

/// How long what is promised within that time may take.
pub fn within(promised: Duration) -> Duration {
    if in_machine() { PATIENCE } else { promised }
}

/// Stops a watch also when the test panics, which would otherwise wait for it for ever.
pub struct StopAtEnd(pub WatchStop);

impl Drop for StopAtEnd {
    fn drop(&mut self) {
        self.0.stop().expect("told");
    }
}

pub struct World {
    folder: PathBuf,
    /// How tasks are joined to all subnets.
    pub mode: AttachmentMode,
    pub outside: OwnedFd,
}

impl World {
    /// Runs a test in a world of its own, then looks for what it left there.
    pub fn run(case: fn(&World), mode: AttachmentMode) -> Result<(), String> {
        let thread = thread::Builder::new().name("world".into()).spawn(move || {
            let world = World::create(mode);
            case(&world);
            leaks::check(&world);
            fs::remove_dir(&world.folder).expect("the folder is empty");
        });
        thread.expect("a thread").join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            text.unwrap_or_else(|| "panicked".to_owned())
        })
    }

    fn create(mode: AttachmentMode) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("root may unshare");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
            .expect("private mounts");
        // A new namespace takes this from the first one, where somebody may have set it.
        fs::write("/proc/sys/net/ipv4/ip_forward", "0").expect("root may write");
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let folder =
            std::env::temp_dir().join(format!("berth-world-{}-{number}", std::process::id()));
        fs::create_dir_all(&folder).expect("a temporary folder");
        let outside = new_namespace();
        connect_to_outside(&outside);
        Self {
            folder,
            mode,
            outside,
        }
    }

    pub fn config(&self) -> NetworkConfig {
        config(self.mode, self.state_dir(), self.run_dir())
    }

    pub fn state_dir(&self) -> PathBuf {
        self.folder.join("state")
    }

    pub fn run_dir(&self) -> PathBuf {
        self.folder.join("run")
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn network(&self) -> Network {
        Network::open(self.config()).expect("the network opens")
    }
}

/// The default VPC, with its tasks joined to it in this way, each in a user namespace of its own.
pub fn config(
    mode: AttachmentMode,
    state_dir: impl Into<PathBuf>,
    run_dir: impl Into<PathBuf>,
) -> NetworkConfig {
    let mut config = NetworkConfig::new(state_dir, run_dir);
    let subnets = config.subnets.into_iter();
    config.subnets = subnets.map(|subnet| subnet.with_mode(mode)).collect();
    config.subordinate_ids = Some(SubordinateIds::default());
    config
}

/// What a sysctl of the calling thread's namespace is.
pub fn sysctl(name: &str) -> String {
    let text = fs::read_to_string(format!("/proc/sys/net/{name}")).expect("readable");
    text.trim().to_owned()
}

pub fn name_of(mode: AttachmentMode) -> &'static str {
    match mode {
        AttachmentMode::Bridged => "bridged",
        AttachmentMode::Routed => "routed",
    }
}

/// A host link called `uplink`, an outside host behind it, and routes both ways.
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
        mtu: UPLINK_MTU,
    };
    here.add_veth(&veth).expect("a veth pair");
    let uplink = here.index_of("uplink").expect("made");
    let eth0 = there.index_of("eth0").expect("made");
    let net = |address| Ipv4Net::new(address, 24).expect("a length");
    let net6 = |address| Ipv6Net::new(address, 64).expect("a length");
    let everywhere = Ipv4Net::default();
    let requests = [
        bring_up(LOOPBACK),
        bring_up(uplink),
        add_address(uplink, net(HOST), true),
        add_route(uplink, everywhere, OUTSIDE),
        add_address(uplink, net6(HOST6), true),
        add_route(uplink, Ipv6Net::default(), OUTSIDE6),
    ];
    // One by one: the order is that of the request, but a refusal would say less.
    for request in requests {
        here.send(&[request]).expect("configured");
    }
    // The outside host knows a way to the tasks: that they can't be reached is the firewall's doing.
    let mut requests = vec![
        bring_up(LOOPBACK),
        bring_up(eth0),
        add_address(eth0, net(OUTSIDE), true),
        add_address(eth0, net6(OUTSIDE6), true),
    ];
    for subnet in Subnet::defaults() {
        let range = subnet.ipv6_cidr().expect("dual stack");
        requests.push(add_route(eth0, subnet.cidr(), HOST));
        requests.push(add_route(eth0, range, HOST6));
    }
    for request in requests {
        there.send(&[request]).expect("configured");
    }
    // Until the links carry packets and both ends have found each other.
    let outside: [IpAddr; 2] = [OUTSIDE.into(), OUTSIDE6.into()];
    for address in outside {
        reaches_at_last(address, 1, Reached::Refused);
    }
}

/// A network namespace that ends with the descriptor.
pub fn new_namespace() -> OwnedFd {
    let thread = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("root may unshare");
        OwnedFd::from(File::open("/proc/thread-self/ns/net").expect("own namespace"))
    });
    thread.join().expect("no panic")
}

/// Runs something inside a network namespace, on a thread of its own.
pub fn inside<T: Send>(netns: impl AsFd + Sync, work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET).expect("root may enter");
            work()
        });
        thread
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A task on the network.
pub struct Task {
    pub id: EniId,
    pub address: Ipv4Addr,
    pub ipv6_address: Ipv6Addr,
    pub mac: MacAddress,
    pub netns: OwnedFd,
    /// Listeners that only the kernel serves. A socket keeps its namespace, so they end with it.
    servers: RefCell<Vec<TcpListener>>,
}

impl Task {
    pub fn attach(network: &Network, number: u32) -> Self {
        let attachment = network.attach(&request(number)).expect("attached");
        Self::of(&attachment)
    }

    /// A task in another of the default subnets, counted from zero.
    pub fn attach_in(network: &Network, number: u32, subnet: usize) -> Self {
        let request = AttachRequest {
            subnet: Subnet::defaults()[subnet].id().clone(),
            ..request(number)
        };
        Self::of(&network.attach(&request).expect("attached"))
    }

    pub fn of(attachment: &Attachment) -> Self {
        let netns = File::open(&attachment.netns_path).expect("mounted").into();
        let eni = &attachment.eni;
        Self {
            id: eni.id.clone(),
            address: eni.address,
            ipv6_address: eni.ipv6_address.expect("dual stack"),
            mac: eni.mac(),
            netns,
            servers: RefCell::default(),
        }
    }

    /// Detaches, and waits until the link is gone.
    pub fn detach(self, network: &Network) {
        network.detach(&self.id).expect("detached");
        drop((self.netns, self.servers));
        network
            .wait_until_gone(&self.id, BEFORE_REMOVAL)
            .expect("gone");
    }

    pub fn listen(&self, address: impl Into<IpAddr> + Send, port: u16) -> TcpListener {
        listen_in(&self.netns, address, port)
    }

    /// Listens until it is detached.
    pub fn serve(&self, address: impl Into<IpAddr> + Send, port: u16) {
        self.servers
            .borrow_mut()
            .push(listen_in(&self.netns, address, port));
    }

    pub fn udp(&self, address: impl Into<IpAddr>, port: u16) -> UdpSocket {
        let (netns, address) = (&self.netns, address.into());
        inside(netns, || UdpSocket::bind((address, port)).expect("bound"))
    }

    pub fn connect(&self, address: impl Into<IpAddr>, port: u16) -> Attempt {
        let (netns, address) = (&self.netns, address.into());
        inside(netns, || connect(address, port))
    }

    /// Both of its addresses.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.address.into(), self.ipv6_address.into()]
    }
}

pub fn request(number: u32) -> AttachRequest {
    AttachRequest {
        eni: eni(number),
        subnet: Subnet::default_subnet().id().clone(),
        security_groups: Vec::new(),
        netns: format!("task-{number}").parse().expect("valid"),
        published: Vec::new(),
        assign_public_ip: false,
    }
}

pub fn eni(number: u32) -> EniId {
    format!("eni-{number:017x}").parse().expect("valid")
}

/// Listens in a namespace. Connections are accepted by the kernel, also when nobody takes them.
pub fn listen_in(netns: &OwnedFd, address: impl Into<IpAddr> + Send, port: u16) -> TcpListener {
    let address = SocketAddr::new(address.into(), port);
    inside(netns, || TcpListener::bind(address).expect("bound"))
}

/// Takes a connection, answers with the address that it came from, and says what that was.
pub fn accept(listener: &TcpListener) -> SocketAddr {
    let (mut stream, from) = listener.accept().expect("a connection");
    stream
        .write_all(from.ip().to_string().as_bytes())
        .expect("written");
    from
}

/// Connects and reads all that comes.
pub fn fetch(address: impl Into<IpAddr>, port: u16) -> String {
    let address = SocketAddr::new(address.into(), port);
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// The next datagram, which must come.
pub fn arrives(socket: &UdpSocket) -> Option<Vec<u8>> {
    receive_within(socket, PATIENCE)
}

/// The next datagram, if one comes soon: where none must.
pub fn receive(socket: &UdpSocket) -> Option<Vec<u8>> {
    receive_within(socket, briefly())
}

pub fn receive_within(socket: &UdpSocket, patience: Duration) -> Option<Vec<u8>> {
    socket.set_read_timeout(Some(patience)).expect("a timeout");
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).ok()?;
    Some(buffer[..length].to_vec())
}
