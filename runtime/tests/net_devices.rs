//! Interfaces of the host that move into a container.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};
use serde_json::json;

use crate::bundle::Bundle;
use crate::machine::busybox;

crate::tests! {
    an_interface_moves_with_its_addresses_under_another_name;
    an_interface_moves_into_a_new_user_namespace;
    when_one_interface_cannot_move_none_has_moved;
    an_interface_comes_back_when_the_container_can_not_be_made;
    an_interface_comes_back_when_the_container_can_not_be_started;
    an_interface_that_is_not_there_is_named;
}

/// Does something in a network namespace of its own, with a pair of interfaces that is up.
fn with_interfaces(act: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        ip("link add dev eth7 type veth");
        ip("link set veth0 up");
        ip("addr add 10.9.8.7/24 dev eth7 label eth7:a");
        ip("addr add fd09::7/64 dev eth7");
        ip("link set eth7 up");
        act();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

fn ip(args: &str) -> String {
    let output = Command::new(busybox())
        .arg("ip")
        .args(args.split(' '))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {args}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

fn an_interface_moves_with_its_addresses_under_another_name() {
    with_interfaces(|| {
        let mut bundle = Bundle::new("ip addr show dev net7");
        bundle.set("/linux/netDevices", json!({"eth7": {"name": "net7"}}));
        let said = bundle.run().success();
        for part in ["UP", "10.9.8.7/24", "net7:a", "fd09::7/64"] {
            assert!(said.contains(part), "{part}: {said}");
        }
    });
}

fn an_interface_moves_into_a_new_user_namespace() {
    with_interfaces(|| {
        let mut bundle = Bundle::new("ip addr show dev eth7");
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        bundle.push("/linux/namespaces", json!({"type": "user"}));
        bundle.set("/linux/uidMappings", mapping.clone());
        bundle.set("/linux/gidMappings", mapping);
        bundle.set("/linux/netDevices", json!({"eth7": {}}));
        let said = bundle.run().success();
        assert!(said.contains("10.9.8.7/24"), "{said}");
    });
}

fn when_one_interface_cannot_move_none_has_moved() {
    with_interfaces(|| {
        let mut bundle = Bundle::new("true");
        // The second one meets the container's loopback.
        let devices = json!({"eth7": {"name": "net7"}, "veth0": {"name": "lo"}});
        bundle.set("/linux/netDevices", devices);
        let said = bundle.run().failure();
        assert!(
            said.contains("veth0") && said.contains("linux.netDevices"),
            "{said}"
        );
        // Left in the container, it would end with that, and its peer with it.
        assert!(ip("link show dev veth0").contains("UP"));
        assert_is_as_it_was();
    });
}

#[track_caller]
fn assert_is_as_it_was() {
    let ours = ip("addr show dev eth7");
    for part in ["UP", "10.9.8.7/24", "eth7:a", "fd09::7/64"] {
        assert!(ours.contains(part), "{part}: {ours}");
    }
}

fn an_interface_comes_back_when_the_container_can_not_be_made() {
    with_interfaces(|| {
        let mut bundle = Bundle::new("true");
        bundle.set("/linux/netDevices", json!({"eth7": {"name": "net7"}}));
        let mount = json!({"type": "nosuchfs", "source": "x", "destination": "/x"});
        bundle.push("/mounts", mount);
        let said = bundle.run().failure();
        assert!(said.contains("nosuchfs"), "{said}");
        assert_is_as_it_was();
    });
}

fn an_interface_comes_back_when_the_container_can_not_be_started() {
    with_interfaces(|| {
        let mut bundle = Bundle::new("");
        let program = bundle.rootfs().join("bin/broken");
        std::fs::write(&program, "#!/no/such/interpreter\n").unwrap();
        let executable = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&program, executable).unwrap();
        bundle.args(&["/bin/broken"]);
        bundle.set("/linux/netDevices", json!({"eth7": {}}));
        bundle.run().failure();
        assert_is_as_it_was();
    });
}

fn an_interface_that_is_not_there_is_named() {
    let mut bundle = Bundle::new("true");
    bundle.set("/linux/netDevices", json!({"nowhere0": {}}));
    let said = bundle.run().failure();
    assert!(
        said.contains("nowhere0") && said.contains("ENODEV"),
        "{said}"
    );
}
