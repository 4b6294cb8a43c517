//! Of the addresses that are taken: who has them, and whether they are found again.

use super::*;
use crate::published::PortProtocol;
use crate::subordinate_ids::SubordinateIds;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("berth-netns-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the folder is ours");
    }
}

fn no_ids() -> IdRanges {
    IdRanges::new(SubordinateIds::default())
}

fn load(folder: &Folder, boot: &str) -> Addresses {
    Addresses::load(&folder.0, boot.into(), &no_ids()).expect("readable")
}

fn reserve(addresses: &mut Addresses, subnet: &Subnet, number: usize) -> Result<Eni> {
    let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
    addresses.reserve(subnet, &request(subnet, &id, &netns), &[], Own::default())
}

fn id_of(number: usize) -> EniId {
    format!("eni-{number:017x}").parse().expect("valid")
}

fn request(subnet: &Subnet, id: &str, netns: &str) -> AttachRequest {
    AttachRequest {
        eni: id.parse().expect("valid"),
        subnet: subnet.id().clone(),
        security_groups: Vec::new(),
        netns: netns.parse().expect("valid"),
        published: Vec::new(),
        assign_public_ip: false,
    }
}

fn small_subnet() -> Subnet {
    let id = "subnet-00000000000000002".parse().expect("valid");
    Subnet::new(id, "10.9.8.0/28".parse().expect("a network"), "berth1").expect("valid")
}

#[test]
fn addresses_are_given_once_and_survive_a_restart() {
    let folder = Folder::new("restart");
    let subnet = small_subnet();
    let first = reserve(&mut load(&folder, "boot"), &subnet, 1).expect("free");
    let second = reserve(&mut load(&folder, "boot"), &subnet, 2).expect("free");
    assert_eq!(first.address, Ipv4Addr::new(10, 9, 8, 4));
    assert_eq!(second.address, Ipv4Addr::new(10, 9, 8, 5));
    assert_eq!(load(&folder, "boot").all(), [first, second]);
}

#[test]
fn a_released_address_rests_while_others_are_free() {
    let folder = Folder::new("rest");
    let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
    let first = reserve(&mut addresses, &subnet, 1).expect("free");
    addresses.release(&first).expect("released");
    assert_ne!(
        reserve(&mut addresses, &subnet, 2).expect("free").address,
        first.address
    );
}

#[test]
fn an_address_of_ipv6_is_one_interfaces_alone_whatever_its_subnet_until_it_is_released() {
    let folder = Folder::new("ipv6");
    let range = "fd00:9::/64".parse().expect("a network");
    let id = "subnet-00000000000000003".parse().expect("valid");
    let other = Subnet::new(id, "10.9.9.0/28".parse().expect("a network"), "berth2");
    let [one, other] = [small_subnet(), other.expect("valid")]
        .map(|subnet| subnet.with_ipv6(range).expect("valid"));
    let first = reserve(&mut load(&folder, "boot"), &one, 1).expect("free");
    // As far from the beginning it would be the same.
    let mut addresses = load(&folder, "boot");
    let second = reserve(&mut addresses, &other, 2).expect("free");
    assert_eq!(second.address, Ipv4Addr::new(10, 9, 9, 5));
    for address in first.addresses() {
        assert!(addresses.is_attached(address), "{address}");
    }
    addresses.release(&first).expect("released");
    for address in first.addresses() {
        assert!(!addresses.is_attached(address), "{address}");
    }
}

#[test]
fn spent_addresses_are_given_last_and_known_to_the_next_process() {
    let folder = Folder::new("spent");
    let subnet = small_subnet();
    let mut addresses = load(&folder, "boot");
    let first = reserve(&mut addresses, &subnet, 1).expect("free");
    addresses.release(&first).expect("released");
    let mut addresses = load(&folder, "boot");
    assert!(addresses.is_spent(first.address));
    for number in 2..=11 {
        let eni = reserve(&mut addresses, &subnet, number).expect("free");
        assert!(!addresses.is_spent(eni.address), "{}", eni.address);
    }
    let last = reserve(&mut addresses, &subnet, 12).expect("free");
    assert_eq!(last.address, first.address);
    addresses.none_is_spent().expect("removed");
    assert!(!load(&folder, "boot").is_spent(first.address));
    assert!(!load(&folder, "later").is_spent(first.address));
}

#[test]
fn an_exhausted_subnet_says_so_and_recovers() {
    let folder = Folder::new("exhausted");
    let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
    let all: Vec<Eni> = (0..11)
        .map(|n| {
            let all: Vec<EniId> = (0..11).map(id_of).collect();
            addresses.check_room(&subnet, &all).expect("room");
            reserve(&mut addresses, &subnet, n).expect("free")
        })
        .collect();
    let error = addresses.check_room(&subnet, &[id_of(11)]);
    let error = error.expect_err("full");
    assert!(matches!(error, Error::AddressesExhausted { .. }), "{error}");
    let error = reserve(&mut addresses, &subnet, 11).expect_err("full");
    assert_eq!(
        error.to_string(),
        "subnet-00000000000000002 (10.9.8.0/28) has no free address left: all 11 are taken; \
         stop a task, or place this one in another subnet"
    );
    addresses.release(&all[5]).expect("released");
    assert_eq!(
        reserve(&mut addresses, &subnet, 12).expect("free").address,
        all[5].address
    );
}

#[test]
fn a_public_address_is_given_once() {
    let folder = Folder::new("public");
    let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
    let pool: [Ipv4Net; 2] =
        ["192.0.2.6/31", "192.0.2.9/32"].map(|range| range.parse().expect("a network"));
    assert_eq!(addresses.free_public(&[]).expect("no pool"), None);
    let mut given = Vec::new();
    for number in 1..=3 {
        let own = Own {
            public_address: addresses.free_public(&pool).expect("free"),
            id_range: None,
        };
        let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
        let request = request(&subnet, &id, &netns);
        let eni = addresses.reserve(&subnet, &request, &[], own);
        given.push(eni.expect("free"));
    }
    let last_digits = given
        .iter()
        .map(|eni| eni.public_address.expect("given").octets()[3]);
    assert_eq!(last_digits.collect::<Vec<_>>(), [6, 7, 9]);
    let error = load(&folder, "boot")
        .free_public(&pool)
        .expect_err("none left");
    assert!(error.to_string().contains("3 public addresses"), "{error}");
    addresses.release(&given[1]).expect("released");
    let free = addresses.free_public(&pool).expect("free again");
    assert_eq!(free, given[1].public_address);
}

#[test]
fn an_interface_or_a_namespace_is_not_attached_twice() {
    let folder = Folder::new("twice");
    let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
    let eni = reserve(&mut addresses, &subnet, 1).expect("free");
    let other = "eni-000000000000000ff";
    for (id, netns) in [(eni.id.as_str(), "other"), (other, eni.netns.as_str())] {
        let error = addresses
            .reserve(&subnet, &request(&subnet, id, netns), &[], Own::default())
            .expect_err("taken");
        assert!(matches!(error, Error::AlreadyAttached(_)), "{error}");
    }
}

#[test]
fn a_port_is_published_once_for_each_protocol() {
    let folder = Folder::new("ports");
    let (mut addresses, subnet) = (load(&folder, "boot"), small_subnet());
    let mut publish = |number: u32, ports: &[(PortProtocol, u16)]| {
        let (id, netns) = (format!("eni-{number:017x}"), format!("task-{number}"));
        let ports = ports.iter().map(|(protocol, port)| PublishedPort {
            host: HostPort {
                protocol: *protocol,
                port: *port,
            },
            container_port: 80,
        });
        let request = AttachRequest {
            published: ports.collect(),
            ..request(&subnet, &id, &netns)
        };
        addresses.reserve(&subnet, &request, &[], Own::default())
    };
    let (tcp, udp) = (PortProtocol::Tcp, PortProtocol::Udp);
    publish(1, &[(tcp, 80), (udp, 80), (tcp, 81)]).expect("free");
    let error = publish(2, &[(tcp, 82), (tcp, 81)]).expect_err("taken");
    assert_eq!(
        error.to_string(),
        "the port 81/tcp of the host leads to eni-00000000000000001 already; publish another, or stop that task"
    );
    publish(3, &[(tcp, 82), (tcp, 82)]).expect_err("twice");
    publish(4, &[(tcp, 82)]).expect("nobody's");
}

#[test]
fn files_of_another_boot_and_torn_files_are_nobodys() {
    let folder = Folder::new("boots");
    let subnet = small_subnet();
    let eni = reserve(&mut load(&folder, "before"), &subnet, 1).expect("free");
    let torn = folder
        .0
        .join("addresses")
        .join(subnet.id().as_str())
        .join("10.9.8.9");
    fs::write(&torn, "{\"boot_id\":\"now\",").expect("written");
    let mut addresses = load(&folder, "now");
    assert!(addresses.all().is_empty());
    assert!(!torn.exists());
    assert_eq!(
        reserve(&mut addresses, &subnet, 2).expect("free").address,
        eni.address
    );
}
