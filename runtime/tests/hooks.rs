//! Hooks: when each runs, what it sees, and what its failure does.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::bundle::Bundle;

crate::tests! {
    every_hook_runs_at_its_turn;
    hooks_get_the_state_on_their_standard_input;
    a_create_container_hook_sees_the_mounts_below_the_roots_path;
    a_start_container_hook_has_the_rights_of_the_process;
    a_start_container_hook_enters_a_user_namespace;
    a_failing_create_hook_undoes_the_container_and_runs_poststop;
    a_failing_start_hook_ends_the_container;
    a_failing_poststop_hook_is_told_and_the_container_is_gone;
    a_hook_that_takes_too_long_is_killed;
    a_hook_gets_its_environment_and_no_other;
    the_library_runs_hooks_too;
}

const STAGES: [&str; 6] = [
    "prestart",
    "createRuntime",
    "createContainer",
    "startContainer",
    "poststart",
    "poststop",
];

/// A hook that runs a shell script of the host's busybox; for startContainer the path is the
/// container's.
fn shell(stage: &str, script: &str) -> Value {
    let path = match stage {
        "startContainer" => PathBuf::from("/bin/busybox"),
        _ => crate::machine::busybox(),
    };
    json!({"path": path, "args": ["sh", "-c", script], "env": ["PATH=/bin"]})
}

/// The file where hooks write. A volume, so that those inside find it by the same path.
fn journal(bundle: &mut Bundle) -> PathBuf {
    let directory = bundle.host("journal");
    fs::create_dir(&directory).unwrap();
    let inside = directory.display().to_string();
    bundle.bind(&directory, &inside, &[]);
    directory.join("lines")
}

fn lines(journal: &Path) -> Vec<String> {
    let text = fs::read_to_string(journal).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn with_hooks(script_of: impl Fn(&str, &Path) -> String) -> (Bundle, PathBuf) {
    let mut bundle = Bundle::new("");
    let journal = journal(&mut bundle);
    let mut hooks = json!({});
    for stage in STAGES {
        hooks[stage] = json!([shell(stage, &script_of(stage, &journal))]);
    }
    bundle.config["hooks"] = hooks;
    bundle.script(&format!("echo process >> {}", journal.display()));
    (bundle, journal)
}

fn every_hook_runs_at_its_turn() {
    let (bundle, journal) =
        with_hooks(|stage, journal| format!("echo {stage} >> {}", journal.display()));
    bundle.create().success();
    assert_eq!(lines(&journal), STAGES[..3]);
    bundle.runtime(&["start", &bundle.id]).success();
    crate::machine::wait_until(|| bundle.status() == "stopped");
    let mut seen = lines(&journal);
    // The program runs beside the poststart hook.
    seen[4..].sort();
    assert_eq!(seen[3..], ["startContainer", "poststart", "process"]);
    bundle.runtime(&["delete", &bundle.id]).success();
    assert_eq!(lines(&journal).last().unwrap(), "poststop");
    // And by one command.
    fs::remove_file(&journal).unwrap();
    bundle.run().success();
    let mut seen = lines(&journal);
    seen.sort();
    assert_eq!(seen.len(), 7, "{seen:?}");
}

fn hooks_get_the_state_on_their_standard_input() {
    let (mut bundle, journal) =
        with_hooks(|_, journal| format!("cat >> {0}; echo >> {0}", journal.display()));
    bundle.config["annotations"] = json!({"a.b": "c"});
    bundle.args(&["true"]);
    bundle.run().success();
    let states: Vec<Value> = lines(&journal)
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let statuses: Vec<_> = states
        .iter()
        .map(|s| s["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        [
            "creating", "creating", "creating", "created", "running", "stopped"
        ]
    );
    for state in &states {
        assert_eq!(state["id"], bundle.id.as_str());
        assert_eq!(state["bundle"], bundle.directory.to_str().unwrap());
        assert_eq!(state["annotations"]["a.b"], "c");
        assert!(state["ociVersion"].is_string());
        assert_eq!(state["pid"].is_number(), state["status"] != "stopped");
    }
}

fn a_create_container_hook_sees_the_mounts_below_the_roots_path() {
    let mut bundle = Bundle::new("cat /tmp/made");
    let journal = journal(&mut bundle);
    let root = bundle.rootfs().display().to_string();
    let script = format!(
        "readlink /proc/self/ns/mnt > {0}; test -e {root}/proc/self && test -e {root}/dev/null && \
         echo by-hook > {root}/tmp/made",
        journal.display()
    );
    bundle.config["hooks"] = json!({"createContainer": [shell("createContainer", &script)]});
    assert_eq!(bundle.run().success(), "by-hook");
    let own = fs::read_link("/proc/self/ns/mnt").unwrap();
    assert_ne!(lines(&journal)[0], own.to_str().unwrap());
}

fn a_start_container_hook_has_the_rights_of_the_process() {
    let mut bundle = Bundle::new("true");
    let journal = journal(&mut bundle);
    let script = format!(
        "grep -E 'Uid|CapEff|NoNewPrivs' /proc/self/status > {0}",
        journal.display()
    );
    fs::write(&journal, "").unwrap();
    std::os::unix::fs::chown(&journal, Some(1234), None).unwrap();
    bundle.set("/process/user", json!({"uid": 1234, "gid": 0}));
    bundle.config["hooks"] = json!({"startContainer": [shell("startContainer", &script)]});
    bundle.run().success();
    let seen = lines(&journal);
    assert_eq!(seen[0], "Uid:\t1234\t1234\t1234\t1234");
    assert_eq!(seen[1], "CapEff:\t0000000000000000");
    assert_eq!(seen[2], "NoNewPrivs:\t1");
}

/// Before its program is executed the container's process can't be traced, by those in its user namespace
/// neither.
fn a_start_container_hook_enters_a_user_namespace() {
    let links = "readlink /proc/self/ns/user; readlink /proc/self/ns/cgroup";
    let mut bundle = Bundle::new(&format!("{links}; cat /tmp/seen"));
    let listed = bundle.config["linux"]["namespaces"].as_array().unwrap();
    assert!(listed.iter().any(|namespace| namespace["type"] == "cgroup"));
    bundle.push("/linux/namespaces", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle.set("/linux/uidMappings", map.clone());
    bundle.set("/linux/gidMappings", map);
    let script = format!("{{ {links}; }} > /tmp/seen");
    bundle.config["hooks"] = json!({"startContainer": [shell("startContainer", &script)]});
    let seen = bundle.run().success();
    let lines: Vec<&str> = seen.lines().collect();
    assert_eq!(lines[..2], lines[2..]);
    assert_ne!(
        lines[0],
        fs::read_link("/proc/self/ns/user")
            .unwrap()
            .to_str()
            .unwrap()
    );
}

fn a_failing_create_hook_undoes_the_container_and_runs_poststop() {
    for stage in &STAGES[..3] {
        let (mut bundle, journal) =
            with_hooks(|stage, journal| format!("echo {stage} >> {}", journal.display()));
        bundle.config["hooks"][stage] = json!([shell(stage, "echo the reason >&2; exit 3")]);
        let said = bundle.create().failure();
        assert!(said.contains(&format!("hooks.{stage}[0]")), "{said}");
        assert!(
            said.contains("exit status 3; it said: the reason"),
            "{said}"
        );
        assert_eq!(lines(&journal).last().unwrap(), "poststop");
        assert!(
            bundle
                .runtime(&["state", &bundle.id])
                .failure()
                .contains("does not exist")
        );
    }
}

fn a_failing_start_hook_ends_the_container() {
    for stage in ["startContainer", "poststart"] {
        let (mut bundle, _) = with_hooks(|_, _| "true".to_owned());
        bundle.script("sleep 1000");
        bundle.config["hooks"][stage] = json!([shell(stage, "exit 3")]);
        bundle.create().success();
        let said = bundle.runtime(&["start", &bundle.id]).failure();
        assert!(said.contains(&format!("hooks.{stage}[0]")), "{said}");
        assert_eq!(bundle.status(), "stopped");
        bundle.runtime(&["delete", &bundle.id]).success();
        let said = bundle.run().failure();
        assert!(said.contains(&format!("hooks.{stage}[0]")), "{said}");
    }
}

fn a_failing_poststop_hook_is_told_and_the_container_is_gone() {
    let (mut bundle, journal) = with_hooks(|_, _| "true".to_owned());
    let good = format!("echo second >> {}", journal.display());
    bundle.config["hooks"]["poststop"] =
        json!([shell("poststop", "exit 3"), shell("poststop", &good)]);
    bundle.create().success();
    let said = bundle.runtime(&["delete", &bundle.id]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.stderr.contains("hooks.poststop[0]"), "{said:?}");
    assert_eq!(lines(&journal), ["second"]);
    assert!(
        bundle
            .runtime(&["state", &bundle.id])
            .failure()
            .contains("does not exist")
    );
}

fn a_hook_that_takes_too_long_is_killed() {
    let mut bundle = Bundle::new("true");
    let mut hook = shell("prestart", "sleep 1000");
    hook["args"] = json!(["sleep", "1000"]);
    hook["timeout"] = json!(1);
    bundle.config["hooks"] = json!({"prestart": [hook]});
    let said = bundle.run().failure();
    assert!(said.contains("timeout of 1 s"), "{said}");
}

fn a_hook_gets_its_environment_and_no_other() {
    let mut bundle = Bundle::new("true");
    let journal = journal(&mut bundle);
    let mut hook = shell("prestart", "");
    hook["args"] = json!(["cp", "/proc/self/environ", journal]);
    hook["env"] = json!(["ONE=1", "TWO=2"]);
    bundle.config["hooks"] = json!({"prestart": [hook]});
    bundle.run().success();
    assert_eq!(fs::read(&journal).unwrap(), b"ONE=1\0TWO=2\0");
}

fn the_library_runs_hooks_too() {
    let (mut bundle, journal) =
        with_hooks(|stage, journal| format!("echo {stage} >> {}", journal.display()));
    bundle.args(&["true"]);
    let config: oci_spec::runtime::Spec = serde_json::from_value(bundle.config.clone()).unwrap();
    let id = bundle.id.parse().unwrap();
    let options = berth_runtime::CreateOptions::new(&id, &config, &bundle.directory);
    let container = berth_runtime::create(options).unwrap().start().unwrap();
    container.wait().unwrap();
    container.delete().unwrap();
    assert_eq!(lines(&journal), STAGES);
}
