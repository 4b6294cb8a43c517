//! The tests' image in the form of `docker save`, which `ctr` imports. Its program sleeps: it serves
//! as Kubernetes' pause image too.

use std::process::Command;

use crate::place::{self, DATA};
use crate::ran::Ran;

/// Its name.
pub const NAME: &str = "docker.io/library/box:latest";

/// Makes the archive, and returns its path.
pub fn archive() -> String {
    let archive = format!("{DATA}/box.tar");
    if std::path::Path::new(&archive).exists() {
        return archive;
    }
    let folder = format!("{DATA}/box");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(place::archive(), format!("{folder}/layer.tar")).unwrap();
    let digest = Ran::of(Command::new("sha256sum").arg(place::archive()));
    let digest = digest.ok().split(' ').next().unwrap().to_owned();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Cmd": ["sleep", "86400"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        "history": [{"created_by": "callers"}],
    });
    let manifest = serde_json::json!([
        {"Config": "config.json", "RepoTags": [NAME], "Layers": ["layer.tar"]},
    ]);
    std::fs::write(format!("{folder}/config.json"), config.to_string()).unwrap();
    std::fs::write(format!("{folder}/manifest.json"), manifest.to_string()).unwrap();
    let mut tar = Command::new("tar");
    tar.args(["-C", &folder, "-c", "-f", &archive]);
    tar.args(["manifest.json", "config.json", "layer.tar"]);
    Ran::of(&mut tar).ok();
    archive
}
