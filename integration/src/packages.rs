//! Debian packages that the rig needs: installed if they are missing.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};

/// For whatever runs in the virtual machine.
pub const FOR_VM: &[&str] = &[
    "qemu-system-x86",
    "kmod",
    "busybox-static",
    "nftables",
    "iproute2",
    "debootstrap",
    "e2fsprogs",
];

/// For the end-to-end tests on this host.
pub const FOR_TESTS: &[&str] = &[
    "busybox-static",
    "nftables",
    "iproute2",
    "bind9-dnsutils",
    "dnsmasq-base",
    "dbus",
    "firewalld",
    "skopeo",
    "docker-registry",
    "awscli",
    "ca-certificates",
    "uidmap",
];

/// The engines that call the runtime, with what Debian only recommends to them.
pub const FOR_CALLERS: &[&str] = &[
    "catatonit",
    "containerd",
    "docker-compose",
    "docker.io",
    "iptables",
    "netavark",
    "podman",
    "protobuf-compiler",
];

/// For the benchmarks.
pub const FOR_BENCHES: &[&str] = &[
    "busybox-static",
    "iproute2",
    "podman",
    "docker.io",
    "crun",
    "hyperfine",
];

/// For the benchmark of the runtime alone.
pub const FOR_RUNTIME_BENCH: &[&str] = &[
    "busybox-static",
    "debootstrap",
    "iproute2",
    "podman",
    "runc",
];

/// The services that must not start because their package is installed for a test: this one would close the host's
/// ports, now and at each boot.
const NEVER_STARTED: &[(&str, &str)] = &[("firewalld", "firewalld.service")];

/// Installs those that are missing.
pub fn install(packages: &[&str]) -> anyhow::Result<()> {
    let missing: Vec<&&str> = packages
        .iter()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    crate::say(&format!(
        "installing {}",
        missing.iter().map(|p| **p).collect::<Vec<_>>().join(" ")
    ));
    for (package, service) in NEVER_STARTED {
        if missing.contains(&package) {
            mask(service)?;
        }
    }
    apt(&["update", "-q"])?;
    let mut args = vec!["install", "-y", "-q", "--no-install-recommends"];
    args.extend(missing.iter().map(|package| **package));
    apt(&args)
}

/// As `systemctl mask` does, which needs a systemd that runs. Who wants the service later undoes it by `systemctl unmask`.
fn mask(service: &str) -> anyhow::Result<()> {
    let unit = Path::new("/etc/systemd/system").join(service);
    if std::fs::symlink_metadata(&unit).is_ok() {
        return Ok(());
    }
    std::fs::create_dir_all("/etc/systemd/system")?;
    std::os::unix::fs::symlink("/dev/null", &unit)
        .with_context(|| format!("masking {service} before it is installed"))?;
    crate::say(&format!("{service} is masked, so that it does not start"));
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let status = Command::new("dpkg-query")
        .args(["-W", "-f", "${Status}", package])
        .stderr(Stdio::null())
        .output();
    status.is_ok_and(|output| output.stdout == b"install ok installed")
}

/// Runs `apt-get`, and shows what it printed if it fails.
pub fn apt(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("apt-get")
        .args(args)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .output()
        .context("running apt-get: the rig installs what it needs on Debian")?;
    if !output.status.success() {
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        bail!("apt-get {}: {}\n{out}{err}", args.join(" "), output.status);
    }
    Ok(())
}

/// A system of another Debian release in a folder, with these packages beside the smallest set.
pub fn system(release: &str, folder: &Path, packages: &[&str]) -> anyhow::Result<()> {
    // Made under another name: what is broken off must not be taken for a whole one.
    let new = folder.with_extension("new");
    if new.exists() {
        std::fs::remove_dir_all(&new)?;
    }
    let output = Command::new("debootstrap")
        .arg("--variant=minbase")
        .arg(format!("--include={}", packages.join(",")))
        .arg(release)
        .arg(&new)
        .arg(mirror()?)
        .stdin(Stdio::null())
        .output()
        .context("running debootstrap")?;
    if !output.status.success() {
        let out = String::from_utf8_lossy(&output.stdout);
        bail!("debootstrap {release}: {}\n{out}", output.status);
    }
    Ok(std::fs::rename(new, folder)?)
}

/// Where this host's own packages come from.
fn mirror() -> anyhow::Result<String> {
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", "$(ORIGIN) $(REPO_URI)"])
        .arg("Created-By: Packages")
        .output()
        .context("asking apt-get for its sources")?;
    let text = String::from_utf8(output.stdout)?;
    let found = text.lines().find_map(|line| line.strip_prefix("Debian "));
    Ok(found
        .context("apt has no source of Debian's packages")?
        .to_owned())
}
