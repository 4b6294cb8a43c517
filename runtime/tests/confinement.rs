//! What a container's process may do: identity, capabilities, filter, limits, hidden paths.

use serde_json::json;

use crate::bundle::Bundle;

crate::tests! {
    user_groups_umask_and_directory_are_as_configured;
    capabilities_are_exactly_those_configured;
    a_user_without_capabilities_has_none;
    ambient_capabilities_reach_a_user;
    no_new_privs_is_set_when_asked_for;
    the_default_filter_refuses_what_makes_namespaces;
    a_filter_without_no_new_privs_is_installed_too;
    a_filters_errno_is_what_the_program_gets;
    rlimits_are_set;
    an_impossible_rlimit_is_an_error_that_says_why;
    masked_paths_are_empty;
    readonly_paths_and_a_readonly_root_can_not_be_written;
    sysctls_of_the_container_are_set;
    the_oom_score_is_adjusted;
    hostname_and_domainname_are_set;
    disks_can_not_be_opened;
    signals_ignored_by_the_caller_are_not_ignored_inside;
}

fn user_groups_umask_and_directory_are_as_configured() {
    let mut bundle = Bundle::new("id -u; id -G; umask; pwd; cat /proc/self/comm");
    let user = json!({"uid": 1000, "gid": 100, "additionalGids": [5, 6], "umask": 0o077});
    bundle.set("/process/user", user);
    bundle.set("/process/cwd", json!("/tmp"));
    assert_eq!(bundle.run().success(), "1000\n100 5 6\n0077\n/tmp\ncat");
}

const SHOW_CAPABILITIES: &str = "grep -E '^Cap(Inh|Prm|Eff|Bnd|Amb)' /proc/self/status";

fn masks(output: &str) -> Vec<u64> {
    let mask =
        |line: &str| u64::from_str_radix(line.split_whitespace().nth(1).unwrap(), 16).unwrap();
    output.lines().map(mask).collect()
}

fn capabilities_are_exactly_those_configured() {
    let mut bundle = Bundle::new(SHOW_CAPABILITIES);
    bundle.capabilities(berth_runtime::spec::default_capabilities());
    let docker = 0xa804_25fb;
    assert_eq!(
        masks(&bundle.run().success()),
        [0, docker, docker, docker, 0]
    );
}

fn a_user_without_capabilities_has_none() {
    let mut bundle = Bundle::new(SHOW_CAPABILITIES);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    bundle.set("/process/capabilities", json!({}));
    assert_eq!(masks(&bundle.run().success()), [0; 5]);
}

fn ambient_capabilities_reach_a_user() {
    let mut bundle = Bundle::new(SHOW_CAPABILITIES);
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    let names = json!(["CAP_NET_BIND_SERVICE"]);
    let sets = [
        "bounding",
        "effective",
        "permitted",
        "inheritable",
        "ambient",
    ];
    let sets: serde_json::Map<_, _> = sets
        .map(|set| (set.to_owned(), names.clone()))
        .into_iter()
        .collect();
    bundle.set("/process/capabilities", json!(sets));
    assert_eq!(masks(&bundle.run().success()), [1 << 10; 5]);
}

fn no_new_privs_is_set_when_asked_for() {
    let mut bundle = Bundle::new("grep NoNewPrivs /proc/self/status");
    assert_eq!(bundle.run().success(), "NoNewPrivs:\t1");
    bundle.set("/process/noNewPrivileges", json!(false));
    assert_eq!(bundle.run().success(), "NoNewPrivs:\t0");
}

/// As an engine runs containers: the default capabilities with the default filter.
fn engine_bundle(script: &str) -> Bundle {
    let mut bundle = Bundle::new(script);
    let names = berth_runtime::spec::default_capabilities();
    bundle.capabilities(names);
    let filter = berth_runtime::seccomp::default_profile(names);
    bundle.set("/linux/seccomp", serde_json::to_value(filter).unwrap());
    bundle
}

fn the_default_filter_refuses_what_makes_namespaces() {
    let script =
        "grep Seccomp: /proc/self/status; unshare -U true; echo $?; unshare -m true; echo $?";
    let said = engine_bundle(script).run();
    assert_eq!(said.stdout, "Seccomp:\t2\n1\n1", "{said:?}");
    assert!(said.stderr.contains("Operation not permitted"), "{said:?}");
}

fn a_filter_without_no_new_privs_is_installed_too() {
    let mut bundle = engine_bundle("grep Seccomp: /proc/self/status");
    bundle.set("/process/noNewPrivileges", json!(false));
    bundle.set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(bundle.run().success(), "Seccomp:\t2");
}

fn a_filters_errno_is_what_the_program_gets() {
    let mut bundle = Bundle::new("mkdir /tmp/x");
    let rule = json!({"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28});
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}),
    );
    let said = bundle.run().failure();
    assert!(said.contains("No space left on device"), "{said}");
}

fn rlimits_are_set() {
    let mut bundle = Bundle::new("ulimit -Sn; ulimit -Hn; ulimit -Sc");
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200},
               {"type": "RLIMIT_CORE", "soft": 0, "hard": 0}]),
    );
    assert_eq!(bundle.run().success(), "100\n200\n0");
}

fn an_impossible_rlimit_is_an_error_that_says_why() {
    let mut bundle = Bundle::new("true");
    let huge = 1u64 << 40;
    bundle.set(
        "/process/rlimits",
        json!([{"type": "RLIMIT_NOFILE", "soft": huge, "hard": huge}]),
    );
    let said = bundle.run().failure();
    assert!(
        said.contains("resource limit") && said.contains("CAP_SYS_RESOURCE"),
        "{said}"
    );
}

fn masked_paths_are_empty() {
    let mut bundle =
        Bundle::new("cat /proc/keys /masked/file; ls -A /masked/dir; echo > /masked/dir/new");
    std::fs::create_dir_all(bundle.rootfs().join("masked/dir/secret")).unwrap();
    std::fs::write(bundle.rootfs().join("masked/file"), "secret").unwrap();
    for path in ["/masked/file", "/masked/dir", "/not/there"] {
        bundle.push("/linux/maskedPaths", json!(path));
    }
    let said = bundle.run();
    assert_eq!(said.stdout, "");
    assert!(said.stderr.contains("Read-only"), "{said:?}");
}

fn readonly_paths_and_a_readonly_root_can_not_be_written() {
    let mut bundle =
        Bundle::new("for f in /file /proc/sys/kernel/hostname /sys/x; do echo x > $f; done; true");
    bundle.set("/root/readonly", json!(true));
    let said = bundle.run();
    assert_eq!(
        said.stderr.matches("Read-only file system").count(),
        3,
        "{said:?}"
    );
}

fn sysctls_of_the_container_are_set() {
    let mut bundle =
        Bundle::new("cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax");
    bundle.set(
        "/linux/sysctl",
        json!({"net.ipv4.ip_unprivileged_port_start": "77", "kernel/msgmax": "4242"}),
    );
    assert_eq!(bundle.run().success(), "77\n4242");
}

fn the_oom_score_is_adjusted() {
    let mut bundle = Bundle::new("cat /proc/self/oom_score_adj");
    bundle.set("/process/oomScoreAdj", json!(321));
    assert_eq!(bundle.run().success(), "321");
}

fn hostname_and_domainname_are_set() {
    let mut bundle = Bundle::new("hostname; cat /proc/sys/kernel/domainname");
    bundle.set("/hostname", json!("inside"));
    bundle.set("/domainname", json!("example"));
    assert_eq!(bundle.run().success(), "inside\nexample");
}

fn disks_can_not_be_opened() {
    let mut bundle = Bundle::new(
        "mknod /tmp/disk b 254 0 && mknod /tmp/null c 1 3 && echo > /tmp/null && head -c 1 /tmp/disk",
    );
    bundle.capabilities(&["CAP_MKNOD", "CAP_DAC_OVERRIDE"]);
    let said = bundle.run().failure();
    assert!(
        said.contains("/tmp/disk: Operation not permitted"),
        "{said}"
    );
}

fn signals_ignored_by_the_caller_are_not_ignored_inside() {
    // Rust programs ignore SIGPIPE, and so would everything in the container.
    let mut bundle = Bundle::new("");
    bundle.args(&["grep", "-E", "Sig(Ign|Blk)", "/proc/self/status"]);
    assert_eq!(
        bundle.run().success(),
        "SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000"
    );
}
