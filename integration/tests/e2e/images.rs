//! Bringing images: from files, from a registry, and refusing those that are damaged or mean harm.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::host::{Host, rootfs, script};
use super::{Case, Needs};

pub const CASES: &[Case] = &[
    Case(
        "an_image_whose_second_layer_is_damaged_leaves_no_first_one",
        Needs::Kernel,
        second_layer,
    ),
    Case(
        "an_image_is_imported_listed_used_and_removed",
        Needs::Kernel,
        import,
    ),
    Case("an_image_in_use_is_not_removed", Needs::Kernel, in_use),
    Case(
        "docker_archives_and_oci_layouts_are_loaded",
        Needs::Packages,
        load,
    ),
    Case(
        "an_image_pushed_by_skopeo_to_a_real_registry_is_pulled_by_a_task",
        Needs::Packages,
        pull,
    ),
    Case(
        "a_damaged_archive_is_refused_and_nothing_is_stored",
        Needs::Kernel,
        damaged,
    ),
    Case(
        "a_wrong_digest_is_refused_and_nothing_is_stored",
        Needs::Packages,
        wrong_digest,
    ),
];

fn import(host: &Host) {
    host.image();
    let listed = host.succeed(&["image", "ls"]);
    assert!(listed.contains("docker.io/library/box:latest"), "{listed}");
    assert_eq!(host.run(&script("true")).code, 0);
    host.succeed(&["image", "rm", "box"]);
    assert!(
        host.fail(&["image", "rm", "box"])
            .contains("image 'box' is not in the store")
    );
    assert_nothing_stored(host);
}

fn assert_nothing_stored(host: &Host) {
    let find = Command::new("find")
        .arg(host.root().join("images"))
        .args(["-mindepth", "2", "-type", "f"])
        .output();
    assert_eq!(String::from_utf8(find.unwrap().stdout).unwrap(), "");
}

fn in_use(host: &Host) {
    host.image();
    host.agent();
    let arn = host.start_task(&script("trap exit TERM; sleep 9999 & wait"));
    host.wait_status(&arn, "RUNNING");
    assert!(
        host.fail(&["image", "rm", "box"])
            .contains("is in use by task")
    );
    host.succeed(&["stop", &arn]);
    host.succeed(&["image", "rm", "box"]);
}

fn skopeo(args: &[&str]) {
    let output = Command::new("skopeo")
        .arg("--insecure-policy")
        .args(args)
        .output()
        .expect("skopeo is installed");
    assert!(
        output.status.success(),
        "skopeo {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An OCI layout of the small image, made without any tool: two gzip or plain layers.
fn layout(host: &Host) -> PathBuf {
    let folder = host.folder().join("layout");
    let archive = host.folder().join("docker.tar");
    write_docker_archive(host, &archive);
    skopeo(&[
        "copy",
        &format!("docker-archive:{}", archive.display()),
        &format!("oci:{}:box", folder.display()),
    ]);
    folder
}

/// What `docker save` writes, of one layer.
fn write_docker_archive(host: &Host, archive: &Path) {
    let folder = host.folder().join("archive");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::copy(rootfs(), folder.join("layer.tar")).unwrap();
    let sum = Command::new("sha256sum")
        .arg(folder.join("layer.tar"))
        .output()
        .unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    let diff_id = sum.split(' ').next().unwrap();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{"Cmd":["echo","from the image"],"Env":["COLOUR=red"]}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let manifest = r#"[{"Config":"config.json","RepoTags":["box:v1"],"Layers":["layer.tar"]}]"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(&folder).arg("-cf").arg(archive).args([
        "manifest.json",
        "config.json",
        "layer.tar",
    ]);
    assert!(tar.status().unwrap().success());
}

fn load(host: &Host) {
    let archive = host.folder().join("save.tar");
    write_docker_archive(host, &archive);
    let said = host.succeed(&["image", "load", archive.to_str().unwrap()]);
    assert!(
        said.starts_with("docker.io/library/box:v1 sha256:"),
        "{said}"
    );
    let mut task = script("");
    task["containerDefinitions"][0]["image"] = "box:v1".into();
    task["containerDefinitions"][0]["command"] = serde_json::json!([]);
    assert_eq!(host.run(&task).stdout, "from the image\n");
    host.succeed(&["image", "rm", "box:v1"]);
    let layout = layout(host);
    let forms = [
        layout.clone(),
        host.folder().join("layout.tar"),
        host.folder().join("layout.tar.gz"),
    ];
    let tar = |flags: &str, to: &Path| {
        assert!(
            Command::new("tar")
                .arg(flags)
                .arg(to)
                .arg("-C")
                .arg(&layout)
                .arg(".")
                .status()
                .unwrap()
                .success()
        );
    };
    tar("-cf", &forms[1]);
    tar("-czf", &forms[2]);
    for form in forms {
        host.succeed(&["image", "load", "--name", "box:v2", form.to_str().unwrap()]);
        task["containerDefinitions"][0]["image"] = "box:v2".into();
        assert_eq!(
            host.run(&task).stdout,
            "from the image\n",
            "{}",
            form.display()
        );
        host.succeed(&["image", "rm", "box:v2"]);
    }
    assert_nothing_stored(host);
}

/// Debian's docker-registry on loopback.
struct Registry(Child);

impl Registry {
    fn start(host: &Host) -> Self {
        let config = host.folder().join("registry.yml");
        let storage = host.folder().join("registry");
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:5999\n",
            storage.display()
        );
        std::fs::write(&config, text).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry is installed");
        host.until("the registry listens", || {
            std::net::TcpStream::connect("127.0.0.1:5999").is_ok()
        });
        Self(child)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn pull(host: &Host) {
    let _registry = Registry::start(host);
    let layout = layout(host);
    let name = "127.0.0.1:5999/team/box:v3";
    skopeo(&[
        "copy",
        "--dest-tls-verify=false",
        &format!("oci:{}:box", layout.display()),
        &format!("docker://{name}"),
    ]);
    let mut task = script("");
    task["containerDefinitions"][0]["image"] = name.into();
    task["containerDefinitions"][0]["command"] = serde_json::json!([]);
    let ran = host.run(&task);
    assert_eq!(
        (ran.code, ran.stdout.as_str()),
        (0, "from the image\n"),
        "{ran:?}"
    );
    host.succeed(&["image", "rm", name]);
    let said = host.succeed(&["image", "pull", name]);
    assert!(said.starts_with(name), "{said}");
    let said = host.fail(&["image", "pull", "127.0.0.1:5999/team/nothing:v3"]);
    assert!(said.contains("127.0.0.1:5999/team/nothing:v3"), "{said}");
}

fn damaged(host: &Host) {
    let whole = std::fs::read(rootfs()).unwrap();
    let file = host.folder().join("cut.tar");
    for length in [0, 1000, 100_000, whole.len() / 2, whole.len() - 9000] {
        std::fs::write(&file, whole.get(..length).unwrap()).unwrap();
        let said = host.fail(&["image", "import", "--name", "cut", file.to_str().unwrap()]);
        assert!(
            said.contains("truncated or damaged"),
            "cut at {length}: {said}"
        );
        assert_nothing_stored(host);
    }
    let said = host.fail(&["image", "load", file.to_str().unwrap()]);
    assert!(
        said.contains("truncated") || said.contains("neither manifest.json nor index.json"),
        "{said}"
    );
    assert_nothing_stored(host);
}

fn wrong_digest(host: &Host) {
    for part in ["layer", "config", "manifest"] {
        let layout = layout(host);
        let index: serde_json::Value =
            serde_json::from_slice(&std::fs::read(layout.join("index.json")).unwrap()).unwrap();
        let blob = |digest: &serde_json::Value| {
            layout
                .join("blobs")
                .join(digest.as_str().unwrap().replace(':', "/"))
        };
        let manifest_path = blob(&index["manifests"][0]["digest"]);
        let manifest: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&manifest_path).unwrap()).unwrap();
        let path = match part {
            "layer" => blob(&manifest["layers"][0]["digest"]),
            "config" => blob(&manifest["config"]["digest"]),
            _ => manifest_path,
        };
        let mut content = std::fs::read(&path).unwrap();
        // A change that leaves the file readable: white space in JSON, a byte of the gzip header.
        if part == "layer" {
            content[4] ^= 1
        } else {
            content.push(b' ')
        }
        std::fs::write(&path, content).unwrap();
        let said = host.fail(&["image", "load", "--name", "bad", layout.to_str().unwrap()]);
        assert!(said.contains("digest"), "{part}: {said}");
        assert_nothing_stored(host);
        std::fs::remove_dir_all(layout).unwrap();
    }
}

fn second_layer(host: &Host) {
    let archive = host.folder().join("save.tar");
    write_docker_archive(host, &archive);
    let folder = host.folder().join("archive");
    let config = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = config.replace("\"sha256:", "\"sha256:0000\", \"sha256:");
    // The true digest first, then one that no layer has.
    let digest = config
        .rsplit("sha256:")
        .next()
        .unwrap()
        .get(..64)
        .unwrap()
        .to_owned();
    let wrong = "0".repeat(64);
    let config = config.replace(
        &format!("\"sha256:0000\", \"sha256:{digest}\""),
        &format!("\"sha256:{digest}\", \"sha256:{wrong}\""),
    );
    std::fs::write(folder.join("config.json"), config).unwrap();
    let manifest =
        r#"[{"Config":"config.json","RepoTags":["box:v1"],"Layers":["layer.tar","layer.tar"]}]"#;
    std::fs::write(folder.join("manifest.json"), manifest).unwrap();
    let said = host.fail(&["image", "load", folder.to_str().unwrap()]);
    assert!(said.contains("its digest is"), "{said}");
    assert_nothing_stored(host);
}
