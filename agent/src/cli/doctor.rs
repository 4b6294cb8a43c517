//! `berth doctor`: what this host has and lacks, found out by trying; and undoing what berth
//! changed on the host.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use berth_netns::{Network, NetworkConfig};
use berth_runtime::cgroup::Cgroup;
use nix::sched::{CloneFlags, unshare};
use serde::Serialize;

use crate::config::{Config, Limits, UserNamespaces};
use crate::engine::{self, network_config};
use crate::kernel;

/// The options of `berth doctor`.
#[derive(clap::Args)]
pub struct Args {
    /// Remove the bridges, firewall tables, cgroups and settings that berth made on this host
    #[arg(long)]
    undo: bool,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// One thing that the host needs.
#[derive(Serialize)]
struct Check {
    name: &'static str,
    good: bool,
    /// What was found.
    found: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<&'static str>,
}

pub fn doctor(config: &Config, args: &Args) -> anyhow::Result<ExitCode> {
    if args.undo {
        return undo(config).map(|()| ExitCode::SUCCESS);
    }
    let checks = [
        root(),
        kernel(),
        cgroups(config),
        overlay(),
        namespaces(),
        user_namespaces(config),
        network(),
        file_system(config),
    ];
    if args.json {
        println!("{}", serde_json::to_string(&checks)?);
    } else {
        checks.iter().for_each(show);
    }
    Ok(if checks.iter().all(|check| check.good) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn show(check: &Check) {
    println!(
        "{} {:<12} {}",
        if check.good { "ok     " } else { "MISSING" },
        check.name,
        check.found
    );
    if let Some(advice) = check.advice {
        println!("{:21}{advice}", "");
    }
}

fn check(name: &'static str, result: Result<String, String>, advice: &'static str) -> Check {
    match result {
        Ok(found) => Check {
            name,
            good: true,
            found,
            advice: None,
        },
        Err(found) => Check {
            name,
            good: false,
            found,
            advice: Some(advice),
        },
    }
}

fn root() -> Check {
    let uid = nix::unistd::geteuid();
    let result = if uid.is_root() {
        Ok("running as root".into())
    } else {
        Err(format!("running as user {uid}"))
    };
    check("root", result, "run it with sudo")
}

/// 5.14 has `cgroup.kill`, the newest thing that we can't do without.
fn kernel() -> Check {
    let release = kernel::release();
    let result = if kernel::version(&release) >= (5, 14) {
        Ok(format!("Linux {release}"))
    } else {
        Err(format!("Linux {release}"))
    };
    check(
        "kernel",
        result,
        "Linux 5.14 or newer is needed; 6.1 or newer is what the tests run on",
    )
}

fn cgroups(config: &Config) -> Check {
    let advice = "boot with the unified hierarchy (systemd.unified_cgroup_hierarchy=1), or run tasks without limits: \
                  --limits best-effort";
    let look = || {
        let path = Path::new("/sys/fs/cgroup/cgroup.controllers");
        let text = std::fs::read_to_string(path)
            .map_err(|_| "/sys/fs/cgroup is not the unified hierarchy (cgroup v2)".to_owned())?;
        let missing: Vec<_> = ["cpu", "memory", "pids"]
            .into_iter()
            .filter(|name| !text.split_whitespace().any(|c| c == *name))
            .collect();
        match (missing.as_slice(), config.limits) {
            ([], _) => Ok(format!("cgroup v2 with {}", text.trim())),
            (missing, Limits::BestEffort) => Ok(format!(
                "cgroup v2 without {}; limits are best-effort",
                missing.join(", ")
            )),
            (missing, Limits::Required) => Err(format!(
                "cgroup v2 lacks the controllers {}",
                missing.join(", ")
            )),
        }
    };
    check("cgroups", look(), advice)
}

fn overlay() -> Check {
    let text = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    let known = text
        .lines()
        .any(|line| line.split_whitespace().last() == Some("overlay"));
    let module = module_exists("overlay");
    let result = match (known, module) {
        (true, _) => Ok("the kernel has overlayfs".into()),
        (false, true) => Ok("overlayfs is a module that the kernel loads when it is needed".into()),
        (false, false) => Err("the kernel has no overlayfs".into()),
    };
    check(
        "overlayfs",
        result,
        "use a kernel with CONFIG_OVERLAY_FS, or: modprobe overlay",
    )
}

fn module_exists(name: &str) -> bool {
    let list = PathBuf::from("/lib/modules")
        .join(kernel::release())
        .join("modules.dep");
    let file = format!("/{name}.ko");
    std::fs::read_to_string(list).is_ok_and(|text| text.lines().any(|line| line.contains(&file)))
}

fn namespaces() -> Check {
    let missing: Vec<_> = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user"]
        .into_iter()
        .filter(|name| !Path::new("/proc/self/ns").join(name).exists())
        .collect();
    let result = if missing.is_empty() {
        Ok("all are there".into())
    } else {
        Err(format!("missing: {}", missing.join(", ")))
    };
    check(
        "namespaces",
        result,
        "use a kernel with CONFIG_NAMESPACES and all below it",
    )
}

/// Tries what a task with a user namespace of its own needs.
fn user_namespaces(config: &Config) -> Check {
    let tried = || engine::user_namespaces::probe(config, existing(&config.root)?);
    let ids = engine::user_namespaces::check_ids(config);
    let result = match (config.user_namespaces, ids.map(|()| tried())) {
        (UserNamespaces::Never, _) => Ok("tasks have none of their own, as asked for".into()),
        (_, Err(error)) => Err(error.to_string()),
        (_, Ok(Ok(()))) => Ok(format!(
            "each task has its own, of the ids {}",
            config.subordinate_ids
        )),
        (UserNamespaces::Auto, Ok(Err(error))) => Ok(format!(
            "tasks have none of their own, and their root is the host's: {error:#}"
        )),
        (UserNamespaces::Always, Ok(Err(error))) => Err(format!("{error:#}")),
    };
    check(
        "user",
        result,
        "use Linux 5.19 or newer, choose --subordinate-ids that are nobody's, raise user.max_user_namespaces, and have --root on ext4, XFS or Btrfs",
    )
}

/// The nearest folder of a path that is there.
fn existing(path: &Path) -> anyhow::Result<&Path> {
    let there = path.ancestors().find(|path| path.exists());
    there.context("no part of the path exists")
}

/// Builds the whole network once, in a network namespace that vanishes with the thread.
fn network() -> Check {
    let built = std::thread::spawn(|| -> anyhow::Result<String> {
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        let folder = std::env::temp_dir().join(format!("berth-doctor-{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let opened = Network::open(NetworkConfig::new(folder.join("state"), folder.join("run")));
        std::fs::remove_dir_all(&folder)?;
        let tables = match opened?.firewall_is_owned() {
            true => "nobody else can change the tables (Linux 6.9 and later)",
            false => "what others remove of the tables is put back",
        };
        Ok(format!("bridge, addresses and nftables work; {tables}"))
    });
    let result = match built.join() {
        Ok(result) => result.map_err(|error| format!("{error:#}")),
        Err(_) => Err("the trial broke off".into()),
    };
    check(
        "network",
        result,
        "use a kernel with CONFIG_BRIDGE, CONFIG_VETH and CONFIG_NF_TABLES, or load bridge, veth and nf_tables",
    )
}

fn file_system(config: &Config) -> Check {
    let look = || -> anyhow::Result<String> {
        let space = rustix::fs::statvfs(existing(&config.root)?)?;
        let free = space.f_bavail.saturating_mul(space.f_frsize) >> 20;
        if free < 100 {
            bail!("{free} MiB are free for {}", config.root.display());
        }
        Ok(format!("{free} MiB are free for {}", config.root.display()))
    };
    check(
        "disk",
        look().map_err(|error| format!("{error:#}")),
        "free some space, or choose another folder with --root",
    )
}

fn undo(config: &Config) -> anyhow::Result<()> {
    Network::undo(&network_config(config)?).context("removing the network")?;
    ["berth", "berth-supervisors"]
        .into_iter()
        .try_for_each(remove_cgroup)?;
    println!(
        "bridges, firewall tables and cgroups are removed, and the settings are as they were before"
    );
    println!(
        "images, logs and definitions stay in {}; remove that to forget them",
        config.root.display()
    );
    Ok(())
}

/// Removes one of our two cgroups, unless tasks of another state folder are in it.
fn remove_cgroup(name: &str) -> anyhow::Result<()> {
    let Ok(cgroup) = Cgroup::open(name) else {
        return Ok(());
    };
    let listing = std::fs::read_dir(Path::new(berth_runtime::cgroup::ROOT).join(name))?;
    if listing.flatten().any(|entry| entry.path().is_dir()) {
        println!("the cgroup {name} stays: tasks of another state folder run in it");
        return Ok(());
    }
    cgroup
        .remove()
        .with_context(|| format!("removing the cgroup {name}"))
}
