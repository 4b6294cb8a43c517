//! AppArmor profiles, where the kernel's AppArmor is enabled and its parser is installed.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::bundle::{Bundle, Said};

crate::tests! {
    a_profile_confines_the_container needs "apparmor";
    exec_is_under_the_containers_profile_or_one_of_its_own needs "apparmor";
    a_profile_holds_with_no_new_privs_too needs "apparmor";
    a_profile_that_is_not_loaded_is_refused needs "apparmor";
}

/// A profile that is loaded; it forbids to write one file. Gone when dropped.
struct Profile {
    name: String,
    file: std::path::PathBuf,
}

impl Profile {
    fn load(bundle: &Bundle, denied: &str) -> Self {
        let name = format!("berth-{}-{denied}", bundle.id);
        // Paths are the container's, which are apart from the host's root.
        let text = format!(
            "profile {name} flags=(attach_disconnected,mediate_deleted) {{\n  file,\n  capability,\n  \
             signal,\n  unix,\n  deny /tmp/{denied} w,\n}}\n"
        );
        let file = bundle.host(denied);
        fs::write(&file, text).unwrap();
        let profile = Self { name, file };
        profile.parser("--replace").success();
        profile
    }

    fn parser(&self, option: &str) -> Said {
        let mut parser = Command::new("apparmor_parser");
        // A cache would outlive the test.
        parser.args(["--skip-cache", option]).arg(&self.file);
        parser.output().unwrap().into()
    }
}

impl Drop for Profile {
    fn drop(&mut self) {
        self.parser("--remove");
    }
}

const TRY: &str = "cat /proc/self/attr/current; cd /tmp; for f in one two; do echo x > $f; done";

#[track_caller]
fn assert_confined(said: &Said, profile: &Profile, denied: &str, allowed: &str) {
    assert_eq!(
        said.stdout,
        format!("{} (enforce)", profile.name),
        "{said:?}"
    );
    let refused = format!("{denied}: Permission denied");
    assert!(said.stderr.contains(&refused), "{said:?}");
    assert!(!said.stderr.contains(&format!("{allowed}:")), "{said:?}");
}

fn a_profile_confines_the_container() {
    let mut bundle = Bundle::new(TRY);
    bundle.set("/process/noNewPrivileges", json!(false));
    let profile = Profile::load(&bundle, "one");
    bundle.set("/process/apparmorProfile", json!(profile.name));
    assert_confined(&bundle.run(), &profile, "one", "two");
}

fn a_profile_holds_with_no_new_privs_too() {
    let mut bundle = Bundle::new(TRY);
    bundle.set("/process/noNewPrivileges", json!(true));
    let profile = Profile::load(&bundle, "one");
    bundle.set("/process/apparmorProfile", json!(profile.name));
    assert_confined(&bundle.run(), &profile, "one", "two");
}

fn exec_is_under_the_containers_profile_or_one_of_its_own() {
    let mut bundle = Bundle::new("exec sleep 1000");
    bundle.set("/process/noNewPrivileges", json!(false));
    let profiles = ["one", "two"].map(|denied| Profile::load(&bundle, denied));
    bundle.set("/process/apparmorProfile", json!(profiles[0].name));
    bundle.run_detached();
    let said = bundle.exec(&[&bundle.id, "sh", "-c", TRY]);
    assert_confined(&said, &profiles[0], "one", "two");
    let own = ["--apparmor", &profiles[1].name, &bundle.id];
    let said = bundle.exec(&[&own[..], &["sh", "-c", TRY]].concat());
    assert_confined(&said, &profiles[1], "two", "one");
}

fn a_profile_that_is_not_loaded_is_refused() {
    let mut bundle = Bundle::new("echo unconfined");
    bundle.set("/process/apparmorProfile", json!("berth-absent"));
    let said = bundle.run();
    assert_eq!(said.stdout, "");
    let error = said.failure();
    assert!(error.contains("\"exec berth-absent\""), "{error}");
    assert!(error.contains("no such profile loaded"), "{error}");
}
