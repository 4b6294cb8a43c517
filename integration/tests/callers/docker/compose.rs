//! `docker-compose`: two services, of which one asks the other.

use std::process::Command;

use super::{Docker, SOCKET};
use crate::place::DATA;
use crate::ran::{Ran, bounded, until};
use crate::{Case, Needs};

pub const CASES: &[Case<Docker>] = &[Case(
    "compose_starts_two_services_that_talk_and_takes_them_down",
    Needs::Kernel,
    two_services,
)];

const PROJECT: &str = r#"
version: "3"
services:
  web:
    image: box
    init: true
    command: ["httpd", "-f", "-h", "/www"]
  asker:
    image: box
    init: true
    depends_on: [web]
    command: ["sh", "-c", "until wget -q -O - http://web/; do sleep 0.2; done; sleep 1000"]
"#;

/// A project, taken down with this value.
struct Project(String);

impl Project {
    fn command(&self, words: &[&str]) -> Command {
        let mut command = bounded("docker-compose");
        command
            .args(["--host", SOCKET, "--file", &self.0])
            .args(["--project-name", "pair", "--ansi", "never"])
            .args(words);
        command
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        Ran::of(&mut self.command(&["down", "--timeout", "1"]));
    }
}

fn two_services(_docker: &Docker) {
    let file = format!("{DATA}/compose.yaml");
    std::fs::write(&file, PROJECT).unwrap();
    let project = Project(file);
    let compose = |words: &[&str]| Ran::of(&mut project.command(words));
    compose(&["up", "--detach"]).ok();
    until("one service has the other's page", || {
        let ran = compose(&["logs", "asker"]);
        ran.stdout.contains("hello over localhost")
    });
    let ran = compose(&["exec", "-T", "web", "hostname"]);
    assert_eq!(ran.ok().len(), 12, "a container's short id: {ran:#?}");
    compose(&["stop", "--timeout", "1"]).ok();
    compose(&["down", "--timeout", "1"]).ok();
}
