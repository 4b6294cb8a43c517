//! What a container may not do, and what it may if it is told.

use super::Podman;
use crate::ran::printing;
use crate::{Case, Needs};

pub const CASES: &[Case<Podman>] = &[
    Case(
        "a_filter_is_there_by_default_and_denies_what_it_is_told",
        Needs::Kernel,
        seccomp,
    ),
    Case("no_new_privileges_is_set", Needs::Kernel, no_new_privileges),
    Case(
        "capabilities_are_added_and_dropped",
        Needs::Kernel,
        capabilities,
    ),
    Case("proc_is_masked_and_can_be_unmasked", Needs::Kernel, masks),
    Case(
        "privileged_sees_devices_and_has_all_capabilities",
        Needs::Kernel,
        privileged,
    ),
    Case(
        "a_user_namespace_maps_root_to_another_user",
        Needs::Kernel,
        user_namespace,
    ),
    Case(
        "a_user_namespace_is_kept_by_exec",
        Needs::Kernel,
        user_namespace_exec,
    ),
    Case(
        "a_user_namespace_maps_a_volume_by_idmap",
        Needs::Kernel,
        idmap,
    ),
    Case("sysctls_are_set", Needs::Kernel, sysctl),
    Case("ulimits_are_set", Needs::Kernel, ulimit),
    Case(
        "namespaces_of_the_host_can_be_kept",
        Needs::Kernel,
        host_namespaces,
    ),
    Case(
        "another_containers_namespaces_are_joined",
        Needs::Kernel,
        joined,
    ),
    Case(
        "the_cgroup_namespace_is_the_containers_own",
        Needs::Kernel,
        cgroup_namespace,
    ),
    Case("an_apparmor_profile_confines_it", Needs::AppArmor, apparmor),
];

const MAP: [&str; 4] = ["--uidmap", "0:200000:65536", "--gidmap", "0:200000:65536"];

fn seccomp(podman: &Podman) {
    let mode = ["grep", "^Seccomp:", "/proc/self/status"];
    assert!(podman.run(&[], &mode).ok().ends_with('2'));
    let unconfined = ["--security-opt", "seccomp=unconfined"];
    assert!(podman.run(&unconfined, &mode).ok().ends_with('0'));
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 62}]}"#;
    let file = format!("{}/seccomp.json", crate::place::DATA);
    std::fs::write(&file, profile).unwrap();
    let own = format!("seccomp={file}");
    let ran = podman.run(&["--security-opt", &own], &["mkdir", "/new"]);
    ran.fails_with(1);
    assert!(ran.stderr.contains("Timer expired"), "{ran:#?}");
}

fn no_new_privileges(podman: &Podman) {
    let args = ["grep", "NoNewPrivs", "/proc/self/status"];
    let ran = podman.run(&["--security-opt", "no-new-privileges"], &args);
    assert!(ran.ok().ends_with('1'), "{ran:#?}");
    assert!(podman.run(&[], &args).ok().ends_with('0'));
}

fn capabilities(podman: &Podman) {
    let args = ["grep", "CapEff", "/proc/self/status"];
    let effective = |options: &[&str]| {
        let ran = podman.run(options, &args);
        let digits = ran.ok().rsplit('\t').next().unwrap().to_owned();
        u64::from_str_radix(&digits, 16).unwrap()
    };
    assert_eq!(effective(&["--cap-drop", "all"]), 0);
    assert_eq!(
        effective(&["--cap-drop", "all", "--cap-add", "net_raw"]),
        1 << 13
    );
    assert_eq!(effective(&["--user", "33"]), 0);
}

fn masks(podman: &Podman) {
    let script = "head -c 1 /proc/kcore | wc -c; touch /proc/sys/kernel/domainname 2>&1; echo x > /proc/sys/kernel/domainname";
    let ran = podman.run(&[], &["sh", "-c", script]);
    assert_ne!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.starts_with('0'), "{ran:#?}");
    let option = ["--security-opt", "unmask=/proc/acpi:/proc/keys"];
    podman.run(&option, &["head", "-c", "1", "/proc/keys"]).ok();
}

fn privileged(podman: &Podman) {
    let script = "grep Seccomp: /proc/self/status; mount -t tmpfs none /tmp && ls /dev | wc -l";
    let ran = podman.run(&["--privileged"], &["sh", "-c", script]);
    assert!(ran.ok().contains('0'), "{ran:#?}");
    let devices: u32 = ran.stdout.lines().last().unwrap().parse().unwrap();
    assert!(devices > 15, "{ran:#?}");
}

fn user_namespace(podman: &Podman) {
    let script = "cat /proc/self/uid_map; id -u; touch /tmp/own && stat -c %u /tmp/own";
    let ran = podman.run(&MAP, &["sh", "-c", script]);
    let words: Vec<&str> = ran.ok().split_whitespace().collect();
    assert_eq!(words, ["0", "200000", "65536", "0", "0"]);
}

fn user_namespace_exec(podman: &Podman) {
    let running = podman.start(
        "usernsexec",
        &[&MAP[..], &["--init"]].concat(),
        &["sleep", "1000"],
    );
    let args = ["sh", "-c", "id -u; cat /proc/self/uid_map"];
    let ran = printing(|| running.exec(&[], &args));
    let words: Vec<&str> = ran.ok().split_whitespace().collect();
    assert_eq!(words, ["0", "0", "200000", "65536"]);
}

fn idmap(podman: &Podman) {
    // Of Linux 6.1's file systems tmpfs can't be mapped, and the machine's other data is in one.
    let folder = match crate::place::in_machine() {
        true => "/var/tmp/callers-idmapped".to_owned(),
        false => format!("{}/idmapped", crate::place::DATA),
    };
    std::fs::create_dir(&folder).unwrap();
    let mount = format!("{folder}:/data:idmap");
    let options = [&MAP[..], &["-v", &mount]].concat();
    let ran = podman.run(
        &options,
        &["sh", "-c", "touch /data/file; stat -c %u /data/file"],
    );
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(format!("{folder}/file")).map(|file| file.uid());
    std::fs::remove_dir_all(&folder).unwrap();
    assert_eq!(ran.ok(), "0");
    assert_eq!(
        owner.unwrap(),
        0,
        "the host's owner of what the container's root made"
    );
}

fn sysctl(podman: &Podman) {
    let options = [
        "--sysctl",
        "net.ipv4.ip_unprivileged_port_start=0",
        "--sysctl",
        "kernel.msgmax=65536",
    ];
    let script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax";
    assert_eq!(podman.run(&options, &["sh", "-c", script]).ok(), "0\n65536");
}

fn ulimit(podman: &Podman) {
    let options = ["--ulimit", "nofile=512:1000", "--ulimit", "nproc=900:1000"];
    let ran = podman.run(&options, &["sh", "-c", "ulimit -n; ulimit -Hn"]);
    assert_eq!(ran.ok(), "512\n1000");
}

fn host_namespaces(podman: &Podman) {
    for (option, name) in [
        ("--pid", "pid"),
        ("--ipc", "ipc"),
        ("--uts", "uts"),
        ("--cgroupns", "cgroup"),
    ] {
        let ran = podman.run(
            &[option, "host"],
            &["readlink", &format!("/proc/self/ns/{name}")],
        );
        let own = std::fs::read_link(format!("/proc/thread-self/ns/{name}")).unwrap();
        assert_eq!(ran.ok(), own.to_string_lossy(), "{option}");
    }
}

fn joined(podman: &Podman) {
    let options = [&MAP[..], &["--init"]].concat();
    let first = podman.start("joined", &options, &["sleep", "1000"]);
    for (option, name) in [("--pid", "pid"), ("--ipc", "ipc"), ("--userns", "user")] {
        let args = ["readlink", &format!("/proc/self/ns/{name}")];
        let theirs = printing(|| first.exec(&[], &args));
        let ours = podman.run(&[option, "container:joined"], &args);
        assert_eq!(ours.ok(), theirs.ok(), "{option}");
    }
}

fn cgroup_namespace(podman: &Podman) {
    let script =
        "cat /proc/self/cgroup; test -e /sys/fs/cgroup/cgroup.procs; mkdir /sys/fs/cgroup/new";
    let ran = podman.run(&[], &["sh", "-c", script]);
    assert_ne!(ran.code, 0, "{ran:#?}");
    assert!(ran.stdout.contains("0::/\n"), "{ran:#?}");
    assert!(ran.stderr.contains("Read-only file system"), "{ran:#?}");
}

fn apparmor(podman: &Podman) {
    let profile = "profile berth-callers flags=(attach_disconnected,mediate_deleted) {\n  file,\n  capability,\n  signal,\n  deny /tmp/denied w,\n}\n";
    let file = format!("{}/apparmor", crate::place::DATA);
    std::fs::write(&file, profile).unwrap();
    let parser = |option| {
        crate::ran::Ran::of(crate::ran::bounded("apparmor_parser").args([option, file.as_str()]))
    };
    parser("--replace").ok();
    let script = "cat /proc/self/attr/current; echo x > /tmp/denied";
    let option = ["--security-opt", "apparmor=berth-callers"];
    let ran = podman.run(&option, &["sh", "-c", script]);
    parser("--remove").ok();
    assert!(ran.stdout.contains("berth-callers (enforce)"), "{ran:#?}");
    assert!(ran.stderr.contains("Permission denied"), "{ran:#?}");
}
