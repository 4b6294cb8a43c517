//! A crash, or a failure, after every single step: what the next start makes of it.

use std::os::fd::AsFd;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitCode, ExitStatus};

use berth_netns::{AttachRequest, AttachmentMode, FAILPOINTS, NetnsName, Network};

use crate::Case;
use crate::leaks;
use crate::world::{
    BEFORE_REMOVAL, Reached, Task, World, config, eni, name_of, new_namespace, request,
};

pub fn cases() -> Vec<Case> {
    vec![
        (
            "after_a_crash_at_any_step_the_next_start_leaves_nothing",
            after_a_crash_at_any_step,
        ),
        (
            "a_failure_at_any_step_of_attach_leaves_nothing",
            a_failure_at_any_step_of_attach,
        ),
        (
            "a_failed_detach_keeps_the_address_and_can_be_repeated",
            a_failed_detach_can_be_repeated,
        ),
        (
            "a_failure_at_any_step_of_isolate_leaves_nothing",
            a_failure_at_any_step_of_isolate,
        ),
        (
            "a_failed_release_keeps_the_ids_and_can_be_repeated",
            a_failed_release_can_be_repeated,
        ),
        (
            "rules_that_someone_flushed_are_back_after_a_start",
            flushed_rules_are_back,
        ),
        ("nft_agrees_that_the_tables_are_ours_and_whole", nft_agrees),
    ]
}

/// What a child process does: opens the network, attaches, detaches; or isolates, releases.
pub fn child(action: &str, arguments: &[String]) -> ExitCode {
    let [mode, state_dir, run_dir] = arguments else {
        return ExitCode::from(2);
    };
    let work = || -> berth_netns::Result<()> {
        let network = Network::open(config(mode_named(mode), state_dir, run_dir))?;
        match action {
            "isolate and release" => {
                network.isolate(&netns())?;
                return network.release(&netns());
            }
            "attach a namespace that is given" => return attach_given(&network),
            "attach one that is prepared" => {
                let subnet = berth_netns::Subnet::default_subnet().id().clone();
                network.prepare_interfaces(&subnet, 2)?;
                let eni = network.choose_eni(&subnet)?;
                network.attach(&AttachRequest { eni, ..request(1) })?;
                return Ok(());
            }
            _ => network.attach(&request(1))?,
        };
        if action == "attach" {
            Ok(())
        } else {
            network.detach(&eni(1))
        }
    };
    match work() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// While the namespace lives on, what was put into it doesn't go by itself.
fn attach_given(network: &Network) -> berth_netns::Result<()> {
    let given = new_namespace();
    let attached = network.attach_namespace(&request(1), given.as_fd());
    let links = leaks::links();
    assert!(!links.contains(&eni(1).host_link()), "{links:?}");
    attached.map(drop)
}

fn mode_named(name: &str) -> AttachmentMode {
    match name {
        "routed" => AttachmentMode::Routed,
        _ => AttachmentMode::Bridged,
    }
}

fn run_child(world: &World, action: &str, failpoint: &str) -> ExitStatus {
    Command::new("/proc/self/exe")
        .args(["--child", action, name_of(world.mode)])
        .args([world.state_dir(), world.run_dir()])
        .env("BERTH_NETNS_FAILPOINT", failpoint)
        .status()
        .expect("it runs")
}

fn after_a_crash_at_any_step(world: &World) {
    let all = FAILPOINTS.iter().map(|step| match step.split_once(':') {
        Some(("isolate" | "release", _)) => ("isolate and release", step),
        _ => ("attach and detach", step),
    });
    // What is prepared is so before there is an address, and the steps of that come in another order.
    let of_prepared = FAILPOINTS.iter().filter(|step| step.starts_with("attach:"));
    let of_prepared = of_prepared.map(|step| ("attach one that is prepared", step));
    for (action, step) in all.chain(of_prepared) {
        let status = run_child(world, action, step);
        assert_eq!(status.signal(), Some(libc::SIGABRT), "{step}: {status}");
        let network = world.network();
        network.reconcile(&[], &[]).expect("reconciled");
        assert_eq!(leaks::allocations(world), Vec::<String>::new(), "{step}");
        assert_eq!(leaks::mounts(world), Vec::<String>::new(), "{step}");
        let links = leaks::links();
        assert!(!links.iter().any(|name| name.starts_with("eni-")), "{step}");
        let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
        two.serve(two.address, 80);
        assert_eq!(
            one.connect(two.address, 80),
            Reached::Yes,
            "{step}: the network works"
        );
        one.detach(&network);
        two.detach(&network);
        drop(network);
        leaks::check(world);
    }
}

fn a_failure_at_any_step_of_attach(world: &World) {
    let steps = FAILPOINTS.iter().filter(|step| step.starts_with("attach:"));
    let actions = [
        "attach",
        "attach one that is prepared",
        "attach a namespace that is given",
    ];
    for (step, action) in steps.flat_map(|step| actions.map(|action| (step, action))) {
        let status = run_child(world, action, &format!("{step}:error"));
        assert_eq!(status.code(), Some(1), "{action}, {step}: {status}");
        let network = world.network();
        // What is prepared for others goes with the process, a moment later.
        network.reconcile(&[], &[]).expect("reconciled");
        network
            .wait_until_gone(&eni(1), BEFORE_REMOVAL)
            .expect("gone");
        drop(network);
        leaks::check(world);
    }
}

fn a_failed_detach_can_be_repeated(world: &World) {
    for step in FAILPOINTS.iter().filter(|step| step.starts_with("detach:")) {
        let status = run_child(world, "attach and detach", &format!("{step}:error"));
        assert_eq!(status.code(), Some(1), "{step}: {status}");
        let network = world.network();
        let kept = network.list().expect("listed").len();
        assert_eq!(kept, usize::from(*step != "detach:address"), "{step}");
        network.detach(&eni(1)).expect("detached");
        network
            .wait_until_gone(&eni(1), BEFORE_REMOVAL)
            .expect("gone");
        drop(network);
        leaks::check(world);
    }
}

fn netns() -> NetnsName {
    "isolated-1".parse().expect("valid")
}

fn a_failure_at_any_step_of_isolate(world: &World) {
    for step in FAILPOINTS
        .iter()
        .filter(|step| step.starts_with("isolate:"))
    {
        let status = run_child(world, "isolate and release", &format!("{step}:error"));
        assert_eq!(status.code(), Some(1), "{step}: {status}");
        leaks::check(world);
    }
}

fn a_failed_release_can_be_repeated(world: &World) {
    for step in FAILPOINTS
        .iter()
        .filter(|step| step.starts_with("release:"))
    {
        let status = run_child(world, "isolate and release", &format!("{step}:error"));
        assert_eq!(status.code(), Some(1), "{step}: {status}");
        let kept = leaks::allocations(world).len();
        assert_eq!(kept, usize::from(*step != "release:record"), "{step}");
        let network = world.network();
        network.release(&netns()).expect("released");
        drop(network);
        leaks::check(world);
    }
}

fn flushed_rules_are_back(world: &World) {
    let network = world.network();
    let (one, two) = (Task::attach(&network, 1), Task::attach(&network, 2));
    two.serve(two.address, 80);
    drop(network);
    // Without their process, the tables are anyone's.
    if leaks::nft_is_installed() {
        leaks::nft(&["flush", "ruleset"]);
    }
    let network = world.network();
    assert_eq!(one.connect(two.address, 80), Reached::Yes);
    if leaks::nft_is_installed() {
        assert_eq!(leaks::elements(leaks::source_set(world.mode)), 2);
    }
    one.detach(&network);
    two.detach(&network);
}

/// nft reads what we wrote, and would write the same.
fn nft_agrees(world: &World) {
    let network = world.network();
    let task = Task::attach(&network, 1);
    let inet = leaks::nft(&["list", "table", "inet", "berth"]);
    for line in [
        "iifname \"eni-*\" goto link",
        "iifname @bridges ip daddr 169.254.170.2 tcp dport 80 dnat ip to 169.254.170.2:51679",
        "ct state established,related accept",
        "ip daddr 169.254.169.254 drop",
    ] {
        assert!(inet.contains(line), "{line} is not in\n{inet}");
    }
    assert!(inet.contains("elements = { 10.231.0.4 }"), "{inet}");
    let [set, set6] = match world.mode {
        AttachmentMode::Bridged => ["bridge berth sources", "bridge berth sources6"],
        AttachmentMode::Routed => ["inet berth port_sources", "inet berth port_sources6"],
    };
    for (set, address) in [(set, "10.231.0.4"), (set6, "fd62:6572:7468::4")] {
        let mut arguments = vec!["list", "set"];
        arguments.extend(set.split(' '));
        let listing = leaks::nft(&arguments);
        let element = format!("\"eni-00000000001\" . 02:00:00:00:00:01 . {address}");
        assert!(listing.contains(&element), "{listing}");
    }
    task.detach(&network);
}
