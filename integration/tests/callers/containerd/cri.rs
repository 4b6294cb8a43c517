//! Pods as Kubernetes runs them.

use k8s_cri::v1::security_profile::ProfileType;
use k8s_cri::v1::{
    Int64Value, LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, SecurityProfile,
};

use libc::SIGTERM;

use super::Containerd;
use super::client::Pod;
use crate::place::{self, DATA};
use crate::ran::until;
use crate::{Case, Needs};

pub const CASES: &[Case<Containerd>] = &[
    Case(
        "a_pods_containers_share_its_network_and_are_asked_by_exec",
        Needs::Controllers,
        pod,
    ),
    Case(
        "a_containers_exit_code_and_log_are_kept",
        Needs::Controllers,
        exit,
    ),
    Case(
        "a_container_is_stopped_by_its_signal",
        Needs::Controllers,
        stop,
    ),
    Case(
        "resources_are_in_force_and_can_be_changed",
        Needs::Controllers,
        resources,
    ),
    Case(
        "too_much_memory_is_told_as_the_reason",
        Needs::Controllers,
        out_of_memory,
    ),
    Case(
        "a_security_context_is_in_force",
        Needs::Controllers,
        security,
    ),
    Case(
        "an_exec_that_takes_too_long_is_ended",
        Needs::Controllers,
        slow_exec,
    ),
    Case(
        "a_container_that_can_not_start_says_why",
        Needs::Controllers,
        no_program,
    ),
];

const SLEEP: [&str; 2] = ["sleep", "1000"];

fn plain() -> LinuxContainerConfig {
    LinuxContainerConfig::default()
}

fn run(name: &str) -> Pod {
    Pod::run(name, LinuxPodSandboxConfig::default())
}

fn pod(_: &Containerd) {
    let pod = run("pair");
    pod.started("web", &["httpd", "-f", "-h", "/www"], plain());
    let asker = pod.started("asker", &SLEEP, plain());
    until("the other container answers", || {
        let ask = ["wget", "-q", "-O", "-", "http://127.0.0.1/"];
        let answer = pod.exec(&asker, &ask, 30);
        answer.is_ok_and(|answer| answer.stdout.starts_with(b"hello over localhost"))
    });
    assert_eq!(pod.said(&asker, &["hostname"]), "pair");
    assert!(pod.said(&asker, &["ip", "addr"]).contains("10.232.0."));
    let answer = pod
        .exec(&asker, &["sh", "-c", "echo err >&2; exit 9"], 30)
        .unwrap();
    assert_eq!(
        (answer.exit_code, answer.stderr.as_slice()),
        (9, &b"err\n"[..])
    );
}

fn exit(_: &Containerd) {
    let pod = run("exit");
    let id = pod.started(
        "main",
        &["sh", "-c", "echo out; echo err >&2; exit 7"],
        plain(),
    );
    let status = pod.until_exited(&id);
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    let log = format!("{DATA}/pods/main.log");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(
        text.contains("stdout F out") && text.contains("stderr F err"),
        "{text}"
    );
    pod.remove(&id);
    std::fs::remove_file(log).ok();
}

fn stop(_: &Containerd) {
    let pod = run("stop");
    let script = "trap 'exit 5' TERM; while true; do sleep 0.1; done";
    let polite = pod.started("polite", &["sh", "-c", script], plain());
    until("it listens", || {
        let caught = pod.said(&polite, &["grep", "SigCgt", "/proc/1/status"]);
        let bits = caught.split_whitespace().last().unwrap();
        u64::from_str_radix(bits, 16).unwrap() & (1 << (SIGTERM - 1)) != 0
    });
    pod.stop(&polite, 30);
    assert_eq!(pod.status(&polite).exit_code, 5);
    let deaf = pod.started("deaf", &SLEEP, plain());
    pod.stop(&deaf, 1);
    assert_eq!(pod.status(&deaf).exit_code, 137);
}

fn limited(resources: LinuxContainerResources) -> LinuxContainerConfig {
    LinuxContainerConfig {
        resources: Some(resources),
        ..Default::default()
    }
}

fn resources(_: &Containerd) {
    let pod = run("resources");
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 64 << 20,
        cpu_quota: 50_000,
        cpu_period: 100_000,
        cpu_shares: 512,
        ..Default::default()
    };
    let id = pod.started("main", &SLEEP, limited(resources));
    let expect = |limits: &str, shares| {
        let said = pod.said(
            &id,
            &["sh", "-c", "cd /sys/fs/cgroup; cat memory.max cpu.max"],
        );
        assert_eq!(said, limits);
        let weight = pod.said(&id, &["cat", "/sys/fs/cgroup/cpu.weight"]);
        assert!(
            place::weights(shares).contains(&weight.as_str()),
            "{weight}"
        );
    };
    expect("67108864\n50000 100000", 512);
    pod.update(
        &id,
        LinuxContainerResources {
            memory_limit_in_bytes: 128 << 20,
            cpu_quota: 25_000,
            cpu_period: 100_000,
            cpu_shares: 1024,
            ..Default::default()
        },
    );
    expect("134217728\n25000 100000", 1024);
}

fn out_of_memory(_: &Containerd) {
    let pod = run("oom");
    let resources = LinuxContainerResources {
        memory_limit_in_bytes: 16 << 20,
        memory_swap_limit_in_bytes: 16 << 20,
        ..Default::default()
    };
    // containerd misses an event of a cgroup that goes at once, with any runtime: the shell stays.
    let script =
        "tail -c 64m /dev/zero; code=$?; until test -e /tmp/go; do sleep 0.1; done; exit $code";
    let id = pod.started("main", &["sh", "-c", script], limited(resources));
    until("containerd has heard of it", || {
        pod.status(&id).reason == "OOMKilled"
    });
    pod.said(&id, &["touch", "/tmp/go"]);
    let status = pod.until_exited(&id);
    assert_eq!(
        (status.exit_code, status.reason.as_str()),
        (137, "OOMKilled")
    );
}

fn security(_: &Containerd) {
    let pod = run("security");
    let linux = LinuxContainerConfig {
        security_context: Some(LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 33 }),
            run_as_group: Some(Int64Value { value: 40 }),
            readonly_rootfs: true,
            no_new_privs: true,
            masked_paths: vec!["/proc/kcore".into()],
            readonly_paths: vec!["/proc/sys".into()],
            seccomp: Some(SecurityProfile {
                profile_type: ProfileType::RuntimeDefault.into(),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let id = pod.started("main", &SLEEP, linux);
    let script =
        "id -u; id -g; grep -e NoNewPrivs -e Seccomp: /proc/self/status; touch /tmp/no 2>&1; true";
    let said = pod.said(&id, &["sh", "-c", script]);
    let lines: Vec<&str> = said.lines().collect();
    let expected = ["33", "40", "NoNewPrivs:\t1", "Seccomp:\t2"];
    assert_eq!(lines.get(..4), Some(&expected[..]), "{said}");
    assert!(said.ends_with("Read-only file system"), "{said}");
}

fn slow_exec(_: &Containerd) {
    let pod = run("slow");
    let id = pod.started("main", &SLEEP, plain());
    let error = pod.exec(&id, &SLEEP, 1).expect_err("it takes too long");
    assert!(error.message().contains("exceeded"), "{error}");
    let processes = pod.said(&id, &["ps"]);
    let sleepers = processes.matches("sleep 1000").count();
    assert_eq!(sleepers, 1, "{processes}");
}

fn no_program(_: &Containerd) {
    let pod = run("absent");
    let id = pod.create("main", &["/bin/absent"], plain());
    let error = pod.start(&id).expect_err("there is no such program");
    assert!(error.message().contains("/bin/absent"), "{error}");
    pod.remove(&id);
}
