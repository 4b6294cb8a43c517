//! A user namespace for each task: its root is nobody on the host, and all that it is used to in the task.

use std::process::Command;

use caps::{CapSet, Capability};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use super::host::{Host, definition, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "root_of_a_container_is_nobody_on_the_host",
        Needs::Kernel,
        nobody_on_the_host,
    ),
    Case(
        "root_of_a_container_has_its_files_and_its_network",
        Needs::Kernel,
        has_its_own,
    ),
    Case(
        "users_of_an_image_are_themselves",
        Needs::Kernel,
        users_are_themselves,
    ),
    Case(
        "tasks_have_no_id_in_common_and_keep_theirs_through_a_restart",
        Needs::Kernel,
        tasks_differ,
    ),
    Case(
        "under_bridge_each_container_has_ids_of_its_own",
        Needs::Kernel,
        under_bridge,
    ),
    Case(
        "what_a_user_may_have_waiting_is_no_limit_of_a_whole_task",
        Needs::Kernel,
        users_of_a_task,
    ),
    Case(
        "what_a_task_has_waiting_takes_no_room_of_anothers",
        Needs::Packages,
        tasks_of_a_host,
    ),
    Case(
        "under_none_each_container_has_ids_and_a_network_of_its_own",
        Needs::Kernel,
        under_none,
    ),
    Case(
        "root_of_a_container_without_a_network_has_its_files_and_its_loopback",
        Needs::Kernel,
        has_its_loopback,
    ),
    Case(
        "a_user_that_a_user_namespace_does_not_have_is_refused",
        Needs::Kernel,
        no_such_user,
    ),
    Case(
        "user_namespaces_are_had_as_they_are_asked_for",
        Needs::Kernel,
        as_asked_for,
    ),
    Case(
        "a_host_that_can_not_says_so_or_refuses",
        Needs::Kernel,
        where_it_can_not,
    ),
];

/// The first of the ids that tasks get.
const FIRST: u32 = 0x6000_0000;

/// What the host's own is: everybody is who they are.
const HOSTS: &str = "0 0 4294967295";

/// A map as the kernel shows it, without its columns.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first id of a running task's container.
fn first_id(host: &Host, arn: &str, container: &str) -> u32 {
    let map = [
        "exec",
        "-c",
        container,
        arn,
        "--",
        "cat",
        "/proc/self/uid_map",
    ];
    let map = words(&host.succeed(&map));
    let [inside, first, count] = map.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{map}")
    };
    assert_eq!((inside, count), ("0", "65536"));
    first.parse().unwrap()
}

/// Who runs `sleep` for that long, words that nobody else's process has: user and group on the host.
fn sleepers_owner(host: &Host, seconds: u32) -> String {
    let find = format!(
        "for p in /proc/[0-9]*; do \
         [ \"$(tr '\\0' ' ' < $p/cmdline)\" = 'sleep {seconds} ' ] && stat -c '%u %g' $p/task; done"
    );
    let owner = || {
        let found = Command::new("sh").args(["-c", &find]).output().unwrap();
        String::from_utf8_lossy(&found.stdout).trim().to_owned()
    };
    host.until("it runs", || !owner().is_empty());
    owner()
}

fn nobody_on_the_host(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("exec sleep 6157"));
    host.wait_status(&arn, "RUNNING");
    let first = first_id(host, &arn, "main");
    assert!((FIRST..FIRST + 0x1000_0000).contains(&first), "{first}");
    assert_eq!(sleepers_owner(host, 6157), format!("{first} {first}"));
    let said = [
        "exec",
        &arn,
        "--",
        "sh",
        "-c",
        "echo out > /dev/stdout; id -u",
    ];
    assert_eq!(host.succeed(&said), "out\n0\n");
    host.succeed(&["stop", &arn]);
}

fn has_its_own(host: &Host) {
    host.image();
    let tries = "id -u; stat -c '%u %g' / /bin/busybox /etc/hosts /tmp | sort -u; \
         echo more >> /etc/hosts && tail -n 1 /etc/hosts; \
         mkdir -p /var/new && echo x > /var/new/file && chown 1000:1000 /var/new/file && stat -c '%u %g' /var/new/file; \
         rm /bin/uname; ls /bin/uname 2>&1 | grep -c 'No such'; \
         echo port 80 > /var/new/said; httpd -p 80 -h /var/new; wget -qO- http://127.0.0.1/said; \
         ping -c 1 127.0.0.1 > /dev/null && echo ping; \
         ls /sys/class/net; cat /proc/self/setgroups; \
         echo out > /dev/stdout; echo err > /dev/stderr";
    let ran = host.run(&script(tries));
    let said = [
        "0",
        "0 0",
        "more",
        "1000 1000",
        "1",
        "port 80",
        "ping",
        "eth0",
        "lo",
        "allow",
        "out",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), said, "{ran:?}");
    assert!(ran.stderr.contains("err\n"), "{ran:?}");
    assert!(!ran.stderr.contains("user namespaces"), "{ran:?}");
}

fn users_are_themselves(host: &Host) {
    host.image();
    let ran = host.run(&definition(json!([
        {"name": "main", "image": "box", "user": "1000:33",
         "command": ["sh", "-c", "id -u; id -g; touch /dev/shm/mine && stat -c '%u %g' /dev/shm/mine; \
                                  touch /mine 2>&1 | grep -c denied; echo out > /dev/stdout"]},
    ])));
    assert_eq!(ran.stdout, "1000\n33\n1000 33\n1\nout\n", "{ran:?}");
}

fn tasks_differ(host: &Host) {
    host.image();
    host.agent();
    let sleep = definition(json!([
        {"name": "one", "image": "box", "command": ["sh", "-c", "trap exit TERM; sleep 9999 & wait"]},
        {"name": "two", "image": "box", "command": ["sh", "-c", "trap exit TERM; sleep 9999 & wait"]},
    ]));
    let start = || {
        let arn = host.start_task(&sleep);
        host.wait_status(&arn, "RUNNING");
        let first = first_id(host, &arn, "one");
        assert_eq!(
            first_id(host, &arn, "two"),
            first,
            "they share their network"
        );
        (arn, first)
    };
    let (one, of_one) = start();
    host.kill_agent();
    host.agent();
    assert_eq!(first_id(host, &one, "one"), of_one);
    let (two, of_two) = start();
    assert!(of_one.abs_diff(of_two) >= 65_536, "{of_one} {of_two}");
    for arn in [one, two] {
        host.succeed(&["stop", &arn]);
    }
}

/// A definition with that network mode of EC2's.
fn under(mode: &str, mut definition: Value) -> Value {
    definition["networkMode"] = json!(mode);
    definition["requiresCompatibilities"] = json!(["EC2"]);
    for container in definition["containerDefinitions"].as_array_mut().unwrap() {
        container["memory"] = json!(64);
    }
    definition
}

/// Starts a task of two containers with that network mode, which sleep for that long and for a second more.
fn start_two(host: &Host, mode: &str, seconds: u32) -> String {
    let container = |name: &str, seconds: u32| {
        let text = format!("trap exit TERM; sleep {seconds} & wait");
        json!({"name": name, "image": "box", "command": ["sh", "-c", text]})
    };
    let containers = json!([container("one", seconds), container("two", seconds + 1)]);
    let registered = host.call(
        "RegisterTaskDefinition",
        under(mode, definition(containers)),
    );
    let name = &registered.unwrap()["taskDefinition"]["taskDefinitionArn"];
    let started = host.call(
        "RunTask",
        json!({"taskDefinition": name, "launchType": "EC2"}),
    );
    let started = started.unwrap();
    let arn = started["tasks"][0]["taskArn"].as_str().unwrap();
    host.wait_status(arn, "RUNNING");
    arn.to_owned()
}

fn first_ids(host: &Host, arn: &str) -> [u32; 2] {
    ["one", "two"].map(|container| first_id(host, arn, container))
}

fn under_bridge(host: &Host) {
    host.image();
    host.agent();
    let arn = start_two(host, "bridge", 9998);
    let [one, two] = first_ids(host, &arn);
    assert!(one.abs_diff(two) >= 65_536, "{one} {two}");
    host.succeed(&["stop", &arn]);
}

/// As many signals as this can wait for the processes of a user, where the agent has this limit.
const SIGNALS: u64 = 64;

/// A container that sends itself so many signals, of which each one waits: a process that has not stopped yet would be
/// killed by the first.
fn sending(name: &str, user: &str, times: u32) -> Value {
    let send = format!(
        "sleep 9999 & kill -STOP $!; until grep -q 'T (stopped)' /proc/$!/status; do :; done; \
         for i in $(seq {times}); do kill -40 $!; done; trap exit TERM; sleep 9999 & wait"
    );
    json!({
        "name": name, "image": "box", "user": user, "stopTimeout": 2, "command": ["sh", "-c", send],
    })
}

/// Waits until as many signals wait for a container's user.
fn until_waiting(host: &Host, arn: &str, container: &str, signals: u64) {
    let ask = [
        "exec",
        "-c",
        container,
        arn,
        "--",
        "grep",
        "SigQ",
        "/proc/self/status",
    ];
    let expected = format!("SigQ: {signals}/{SIGNALS}");
    host.until(&format!("{container} has {expected}"), || {
        words(&host.succeed(&ask)) == expected
    });
}

fn users_of_a_task(host: &Host) {
    let before = getrlimit(Resource::RLIMIT_SIGPENDING).unwrap();
    setrlimit(Resource::RLIMIT_SIGPENDING, SIGNALS, before.1).unwrap();
    host.image();
    host.agent();
    setrlimit(Resource::RLIMIT_SIGPENDING, before.0, before.1).unwrap();
    let containers = [sending("main", "", 100), sending("other", "web", 1)];
    let arn = host.start_task(&definition(json!(containers)));
    host.wait_status(&arn, "RUNNING");
    until_waiting(host, &arn, "main", SIGNALS);
    until_waiting(host, &arn, "other", 1);
    host.succeed(&["stop", &arn]);
    host.wait_status(&arn, "STOPPED");
}

fn tasks_of_a_host(host: &Host) {
    host.image();
    // One that can't go beyond what the host lets others have.
    let limited = || {
        caps::drop(None, CapSet::Bounding, Capability::CAP_SYS_RESOURCE).unwrap();
        host.agent();
    };
    std::thread::scope(|scope| scope.spawn(limited).join().unwrap());
    let limit = Command::new("prlimit")
        .arg(format!("--sigpending={SIGNALS}:{SIGNALS}"))
        .args(["--pid", &host.agent_pid().to_string()])
        .status();
    assert!(limit.unwrap().success());
    let all_and_one = [(100, SIGNALS), (1, 1)].map(|(sent, waiting)| {
        let arn = host.start_task(&definition(json!([sending("main", "", sent)])));
        host.wait_status(&arn, "RUNNING");
        until_waiting(host, &arn, "main", waiting);
        arn
    });
    for arn in all_and_one {
        host.succeed(&["stop", &arn]);
        host.wait_status(&arn, "STOPPED");
    }
}

fn under_none(host: &Host) {
    host.image();
    host.agent();
    let arn = start_two(host, "none", 6158);
    let ids = first_ids(host, &arn);
    let [one, two] = ids;
    assert!(one.abs_diff(two) >= 65_536, "{one} {two}");
    assert_eq!(sleepers_owner(host, 6158), format!("{one} {one}"));
    assert_eq!(sleepers_owner(host, 6159), format!("{two} {two}"));
    let network = || {
        ["one", "two"].map(|container| {
            let show = [
                "exec",
                "-c",
                container,
                &arn,
                "--",
                "readlink",
                "/proc/self/ns/net",
            ];
            host.succeed(&show)
        })
    };
    let before = network();
    assert_ne!(before[0], before[1]);
    host.kill_agent();
    host.agent();
    assert_eq!(first_ids(host, &arn), ids);
    assert_eq!(network(), before);
    // Nobody else gets what they have.
    let other = start_two(host, "none", 6160);
    for id in first_ids(host, &other) {
        assert!(id.abs_diff(one) >= 65_536, "{id} {one}");
        assert!(id.abs_diff(two) >= 65_536, "{id} {two}");
    }
    for arn in [arn, other] {
        host.succeed(&["stop", &arn]);
    }
}

fn has_its_loopback(host: &Host) {
    host.image();
    let tries = "id -u; stat -c '%u %g' / /bin/busybox /etc/hosts /tmp | sort -u; \
         echo more >> /etc/hosts && tail -n 1 /etc/hosts; \
         mkdir -p /var/new && echo port 80 > /var/new/said; httpd -p 80 -h /var/new; wget -qO- http://127.0.0.1/said; \
         ping -c 1 127.0.0.1 > /dev/null && echo ping; \
         ls /sys/class/net; cat /proc/self/setgroups; echo out > /dev/stdout; \
         awk '{ print $3 }' /proc/self/uid_map";
    let ran = host.run(&under("none", script(tries)));
    let said = [
        "0", "0 0", "more", "port 80", "ping", "lo", "allow", "out", "65536",
    ];
    assert_eq!(ran.stdout.lines().collect::<Vec<_>>(), said, "{ran:?}");
    assert!(!ran.stderr.contains("user namespaces"), "{ran:?}");
}

fn no_such_user(host: &Host) {
    host.image();
    let user = |user: &str| {
        definition(json!([{"name": "main", "image": "box", "user": user, "command": ["true"]}]))
    };
    assert_eq!(host.run(&user("65535:65535")).code, 0);
    let ran = host.run(&user("65536"));
    assert_eq!(ran.code, 125, "{ran:?}");
    assert!(
        ran.stderr.contains("the container's user has the id 65536"),
        "{ran:?}"
    );
}

fn as_asked_for(host: &Host) {
    host.image();
    let show = script("cat /proc/self/uid_map");
    let map = |options: &[&str], definition: &Value| {
        let ran = host.run_with(options, definition);
        assert_eq!(ran.code, 0, "{ran:?}");
        words(&ran.stdout)
    };
    let ids = [
        "--user-namespaces",
        "always",
        "--subordinate-ids",
        "3000000:65536",
    ];
    let without_network = under("none", show.clone());
    for definition in [&show, &without_network] {
        assert_eq!(map(&["--user-namespaces", "never"], definition), HOSTS);
        assert_eq!(map(&ids, definition), "0 3000000 65536");
    }
    // Whose network is the host's, owns none.
    assert_eq!(map(&[], &under("host", show.clone())), HOSTS);
    for (ids, why) in [
        ("0:65536", "FIRST:COUNT"),
        ("65536:100", "FIRST:COUNT"),
        ("65536:65534", "FIRST:COUNT"),
    ] {
        let file = host.definition_file(&show);
        let said = host.fail(&["run", "--subordinate-ids", ids, file.to_str().unwrap()]);
        assert!(said.contains(why) && said.contains(ids), "{said}");
    }
}

/// A file system that no kernel id-maps.
fn where_it_can_not(host: &Host) {
    let none = None::<&str>;
    std::fs::create_dir_all(host.root()).unwrap();
    mount(
        Some("ramfs"),
        &host.root(),
        Some("ramfs"),
        MsFlags::empty(),
        none,
    )
    .unwrap();
    host.image();
    let show = script("cat /proc/self/uid_map");
    let why = "this host has no user namespaces for tasks";
    for definition in [&show, &under("none", show.clone())] {
        let ran = host.run(definition);
        assert_eq!(
            (ran.code, words(&ran.stdout).as_str()),
            (0, HOSTS),
            "{ran:?}"
        );
        assert!(ran.stderr.contains(why), "{ran:?}");
    }
    let refused = host.run_with(&["--user-namespaces", "always"], &show);
    assert_ne!(refused.code, 0, "{refused:?}");
    assert!(
        refused.stdout.is_empty() && refused.stderr.contains(why),
        "{refused:?}"
    );
    let meant = host.run_with(&["--user-namespaces", "never"], &show);
    assert!(!meant.stderr.contains(why), "{meant:?}");
    umount2(&host.root(), MntFlags::MNT_DETACH).unwrap();
}
