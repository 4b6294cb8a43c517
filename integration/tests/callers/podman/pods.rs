//! Pods and networks: containers that share namespaces.

use super::Podman;
use crate::place;
use crate::ran::{until, web_page};
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "a_pods_containers_share_localhost_and_stop_together",
        Needs::Kernel,
        pod,
    ),
    Case(
        "a_published_port_leads_into_the_container",
        Needs::Kernel,
        port,
    ),
];

/// A pod, removed with this value.
struct Pod<'a>(&'a Podman, &'static str);

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        self.0
            .does(&["pod", "rm", "--force", "--time", "1", self.1]);
        self.0
            .does(&["rmi", "--force", "localhost/podman-pause:4.3.1-0"]);
    }
}

fn pod(podman: &Podman) {
    let mut create = vec![
        "pod",
        "create",
        "--name",
        "pod",
        "--cgroup-parent",
        super::cgroup_parent(),
    ];
    create.extend(["--share", "net,ipc,uts", "--network", "none"]);
    let _pod = Pod(podman, "pod");
    // With cgroupfs this Podman denies all devices to the pod's own cgroup, whichever the runtime.
    if place::cgroup_driver() == "cgroupfs" {
        create.push("--share-parent=false");
    }
    podman.does(&create).ok();
    let in_pod = |name: &'static str, args: &[&str]| {
        let mut words = vec!["run", "--detach", "--pod", "pod", "--name", name];
        if !place::has_controllers() {
            words.extend(["--pids-limit", "0"]);
        }
        words.push("localhost/box");
        words.extend(args);
        podman.does(&words).ok();
    };
    in_pod(
        "server",
        &["httpd", "-f", "-p", "127.0.0.1:8080", "-h", "/www"],
    );
    in_pod("client", &["sleep", "1000"]);
    until("the other container answers", || {
        let words = [
            "exec",
            "client",
            "wget",
            "-q",
            "-O",
            "-",
            "http://127.0.0.1:8080/",
        ];
        podman.does(&words).stdout.contains("hello over localhost")
    });
    let ran = podman.does(&["pod", "ps", "--format", "{{.Status}}"]);
    assert_eq!(ran.ok(), "Running");
    podman.does(&["pod", "stop", "--time", "1", "pod"]).ok();
    let ran = podman.does(&["ps", "--format", "{{.Names}}"]);
    assert_eq!(ran.ok(), "");
}

fn port(podman: &Podman) {
    let options = [
        "--network",
        "bridge",
        "--publish",
        "127.0.0.1:18080:80",
        "--init",
    ];
    let _running = podman.start("port", &options, &["httpd", "-f", "-h", "/www"]);
    until("the container answers", || {
        web_page("127.0.0.1:18080").contains("hello over localhost")
    });
}
