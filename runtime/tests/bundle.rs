//! A bundle with busybox in it, and the command to run on it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};

use crate::machine::{busybox, runtime};

const APPLETS: [&str; 35] = [
    "sh", "cat", "ls", "echo", "id", "mount", "umount", "mkdir", "touch", "stat", "sleep", "true",
    "env", "grep", "hostname", "ip", "mknod", "head", "wc", "pwd", "readlink", "unshare", "dd",
    "kill", "ps", "rm", "mv", "ln", "test", "tty", "stty", "chroot", "cp", "find", "cut",
];

/// Of bundles and of commands, for their names.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// A directory with a root filesystem, a configuration and the runtime's state; gone when dropped.
pub(crate) struct Bundle {
    pub(crate) directory: PathBuf,
    pub(crate) id: String,
    pub(crate) config: Value,
}

/// What a command said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout)
                .trim_end()
                .to_owned(),
            stderr: String::from_utf8_lossy(&output.stderr)
                .trim_end()
                .to_owned(),
        }
    }
}

impl Said {
    #[track_caller]
    pub(crate) fn success(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    #[track_caller]
    pub(crate) fn failure(self) -> String {
        assert_ne!(self.code, 0, "it succeeded: {}{}", self.stdout, self.stderr);
        self.stderr
    }
}

impl Bundle {
    /// A bundle whose container runs a shell script.
    pub(crate) fn new(script: &str) -> Self {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let id = format!("t{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(format!("berth-test-{id}"));
        let mut config = serde_json::to_value(berth_runtime::spec::default()).unwrap();
        config["process"]["terminal"] = json!(false);
        config["root"]["readonly"] = json!(false);
        // Root here may lack the right to raise it.
        config["process"]["rlimits"] = json!([]);
        let mut bundle = Self {
            directory,
            id,
            config,
        };
        bundle.script(script);
        bundle.make_rootfs();
        bundle
    }

    fn make_rootfs(&self) {
        let root = self.rootfs();
        for directory in ["bin", "etc", "tmp", "proc", "sys", "dev"] {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        fs::copy(busybox(), root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }

    pub(crate) fn rootfs(&self) -> PathBuf {
        self.directory.join("rootfs")
    }

    /// A file or directory of the host, beside the root filesystem.
    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn script(&mut self, script: &str) {
        self.config["process"]["args"] = json!(["sh", "-c", script]);
    }

    pub(crate) fn args(&mut self, args: &[&str]) {
        self.config["process"]["args"] = json!(args);
    }

    pub(crate) fn set(&mut self, pointer: &str, value: Value) {
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        self.config.pointer_mut(parent).unwrap()[name] = value;
    }

    pub(crate) fn push(&mut self, pointer: &str, value: Value) {
        self.config
            .pointer_mut(pointer)
            .unwrap()
            .as_array_mut()
            .unwrap()
            .push(value);
    }

    pub(crate) fn capabilities(&mut self, names: &[&str]) {
        for set in ["bounding", "effective", "permitted"] {
            self.config["process"]["capabilities"][set] = json!(names);
        }
    }

    pub(crate) fn bind(&mut self, source: &Path, destination: &str, options: &[&str]) {
        let mut all = vec!["rbind"];
        all.extend(options);
        let mount =
            json!({"type": "bind", "source": source, "destination": destination, "options": all});
        self.push("/mounts", mount);
    }

    /// Without the mount at `destination`.
    pub(crate) fn drop_mount(&mut self, destination: &str) {
        let mounts = self.config["mounts"].as_array_mut().unwrap();
        mounts.retain(|mount| mount["destination"] != destination);
    }

    pub(crate) fn write(&self) {
        fs::write(self.directory.join("config.json"), self.config.to_string()).unwrap();
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(runtime());
        command
            .arg("--root")
            .arg(self.host("state"))
            .args(args)
            .current_dir(&self.directory)
            .stdin(Stdio::null());
        command
    }

    /// Runs a command of the runtime.
    pub(crate) fn runtime(&self, args: &[&str]) -> Said {
        self.said(&mut self.command(args))
    }

    /// Runs a command in the bundle's directory. Its output goes to files: a container that stays would
    /// keep a pipe open. They are this command's alone: such a container writes on while others run.
    pub(crate) fn said(&self, command: &mut Command) -> Said {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let file = |stream| self.host(&format!("{stream}-{number}"));
        let (out, err) = (file("out"), file("err"));
        command
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&err).unwrap());
        let status = command.status().unwrap();
        let read = |path| fs::read(path).unwrap();
        Output {
            status,
            stdout: read(out),
            stderr: read(err),
        }
        .into()
    }

    pub(crate) fn run(&self) -> Said {
        self.write();
        self.runtime(&["run", &self.id])
    }

    pub(crate) fn create(&self) -> Said {
        self.write();
        self.runtime(&["create", &self.id])
    }

    pub(crate) fn exec(&self, args: &[&str]) -> Said {
        let mut all = vec!["exec"];
        all.extend(args);
        self.runtime(&all)
    }

    /// Runs it detached, and returns its pid.
    pub(crate) fn run_detached(&self) -> i32 {
        self.write();
        self.runtime(&["run", "--detach", &self.id]).success();
        self.state()["pid"].as_i64().unwrap() as i32
    }

    pub(crate) fn state(&self) -> Value {
        serde_json::from_str(&self.runtime(&["state", &self.id]).success()).unwrap()
    }

    pub(crate) fn status(&self) -> String {
        self.state()["status"].as_str().unwrap().to_owned()
    }
}

impl Drop for Bundle {
    fn drop(&mut self) {
        if self.directory.join("state").exists() {
            self.runtime(&["delete", "--force", &self.id]);
        }
        fs::remove_dir_all(&self.directory).unwrap();
    }
}
