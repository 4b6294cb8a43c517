//! Building the workspace, and finding what was built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use serde_json::Value;

/// A test executable.
#[derive(Clone, Debug)]
pub struct TestBinary {
    /// `berth-netns/network`, `berth-agent/lib`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// The folder of its package, where cargo would run it.
    pub folder: PathBuf,
}

fn cargo() -> Command {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(crate::workspace()).stdin(Stdio::null());
    // What cargo told us of our own package would make build scripts run again that look at it.
    let ours = [
        "CARGO_PKG_",
        "CARGO_MANIFEST_",
        "CARGO_CRATE_",
        "CARGO_BIN_",
        "CARGO_PRIMARY_",
    ];
    for (name, _) in std::env::vars_os() {
        if ours
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            cargo.env_remove(name);
        }
    }
    cargo
}

/// Runs cargo and shows its output as it comes.
pub fn run(args: &[&str]) -> anyhow::Result<bool> {
    Ok(cargo()
        .args(args)
        .status()
        .context("running cargo")?
        .success())
}

/// Builds a program, and returns its file. The whole workspace is named, as for the tests: cargo
/// would build the libraries again for another choice of their features.
pub fn program(name: &str, release: bool) -> anyhow::Result<PathBuf> {
    let mut args = vec!["build", "--workspace", "--bin", name];
    if release {
        args.push("--release");
    }
    let found = artifacts(&args)?.into_iter().find(|artifact| {
        artifact.pointer("/target/name").and_then(Value::as_str) == Some(name)
            && artifact.get("executable").is_some_and(Value::is_string)
    });
    let path = found.and_then(|artifact| artifact.get("executable")?.as_str().map(PathBuf::from));
    path.with_context(|| format!("cargo built no program {name}"))
}

/// Builds every test of the workspace.
pub fn tests() -> anyhow::Result<Vec<TestBinary>> {
    let mut all = Vec::new();
    for artifact in artifacts(&["test", "--workspace", "--no-run"])? {
        let text = |pointer: &str| artifact.pointer(pointer).and_then(Value::as_str);
        let is_test = artifact.pointer("/profile/test").and_then(Value::as_bool) == Some(true);
        let (Some(path), Some(manifest)) = (
            text("/executable").filter(|_| is_test),
            text("/manifest_path"),
        ) else {
            continue;
        };
        let folder = Path::new(manifest)
            .parent()
            .context("a manifest without a folder")?
            .to_owned();
        let package = folder
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let target = text("/target/name").unwrap_or_default().replace('_', "-");
        let kind = text("/target/kind/0").unwrap_or_default();
        let target = if kind == "lib" {
            "lib".to_owned()
        } else {
            target
        };
        all.push(TestBinary {
            name: format!("{package}/{target}"),
            path: path.into(),
            folder,
        });
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(all)
}

fn artifacts(args: &[&str]) -> anyhow::Result<Vec<Value>> {
    let output = cargo()
        .args(args)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .context("running cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed", args.join(" "));
    }
    let lines = output
        .stdout
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty());
    let parsed = lines
        .map(serde_json::from_slice::<Value>)
        .collect::<Result<Vec<_>, _>>()?;
    Ok(parsed
        .into_iter()
        .filter(|m| m.get("reason").and_then(Value::as_str) == Some("compiler-artifact"))
        .collect())
}
