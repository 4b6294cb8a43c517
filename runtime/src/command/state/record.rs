//! What is read back between two commands: a container's record, and the kernel's line about its
//! process. Both are texts that somebody else may have written, so this file has no more in it than their
//! reading, and is fuzzed on its own.

use std::fs::File;
use std::io::Read;
use std::path::PathBuf;

use berth_runtime::cgroup::{Mark, Unit};
use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// A container's record.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct State<Config = Spec> {
    pub(crate) id: String,
    pub(crate) pid: i32,
    /// When the process started, in clock ticks since boot: a reused pid differs here.
    pub(crate) start_time: u64,
    pub(crate) bundle: PathBuf,
    pub(crate) rootfs: PathBuf,
    pub(crate) created: String,
    /// Below the cgroup root; a container may have none of its own.
    #[serde(default)]
    pub(crate) cgroup: Option<PathBuf>,
    /// What the cgroup, or the scope, is marked with.
    #[serde(default)]
    pub(crate) mark: Option<Mark>,
    /// The scope whose cgroup it is, if systemd made it.
    #[serde(default)]
    pub(crate) unit: Option<Unit>,
    /// Whether its processes stay in the session keyrings of their callers.
    pub(crate) no_new_keyring: bool,
    /// Whether CRIU has made its processes, which then haven't executed anything.
    #[serde(default)]
    pub(crate) restored: bool,
    /// The configuration as it was at creation: the bundle's may have changed since.
    pub(crate) config: Config,
}

impl State {
    /// Reads what [`StateDirectory::save`](super::StateDirectory::save) has written.
    pub(crate) fn parse(bytes: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }
}

/// What /proc/<pid>/stat tells of a process (proc_pid_stat(5)).
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stat {
    /// In clock ticks since boot.
    pub(crate) start_time: u64,
    /// Whether it has executed a program since it was cloned: a container's first process does so
    /// when it is started.
    pub(crate) has_executed: bool,
}

impl Stat {
    /// Unless the process is gone or a zombie.
    pub(crate) fn of(pid: i32) -> Option<Self> {
        let mut buffer = [0; 1024];
        let mut file = File::open(format!("/proc/{pid}/stat")).ok()?;
        let length = file.read(&mut buffer).ok()?;
        Self::parse(buffer.get(..length)?)
    }

    /// The same of the file's text.
    pub(crate) fn parse(text: &[u8]) -> Option<Self> {
        /// `PF_FORKNOEXEC` of include/linux/sched.h, which has been this bit since there is git.
        const FORKED_WITHOUT_EXEC: u64 = 0x40;
        let stat = String::from_utf8_lossy(text);
        // The second field is the name in parentheses, which may hold anything.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        let flags: u64 = fields.nth(5)?.parse().ok()?;
        Some(Self {
            start_time: fields.nth(12)?.parse().ok()?,
            has_executed: flags & FORKED_WITHOUT_EXEC == 0,
        })
    }
}

/// Reads the bytes as each of the texts: for the fuzzer. A record that can be read is the same when it
/// has been written and read again.
#[cfg(any(test, fuzzing))]
#[allow(clippy::expect_used)]
pub(crate) fn check(bytes: &[u8]) {
    if let Ok(state) = State::parse(bytes) {
        let written = serde_json::to_vec(&state).expect("a record can be written");
        let again = State::parse(&written).expect("and read again");
        assert!(state.config == again.config);
        // The configuration has sets, which are written in any order.
        let rest = |state: State| {
            let mut value = serde_json::to_value(state).expect("and written again");
            value["config"].take();
            value
        };
        assert_eq!(rest(state), rest(again));
    }
    if let Ok(unit) = serde_json::from_slice::<Unit>(bytes) {
        assert!(format!("{unit:?}").contains("Unit"));
    }
    if let Some(stat) = Stat::parse(bytes) {
        assert!(bytes.windows(2).any(|pair| pair == b") "), "{stat:?}");
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn records_of_the_corpus_are_refused_or_read() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/state");
        for entry in fs::read_dir(corpus).unwrap() {
            check(&fs::read(entry.unwrap().path()).unwrap());
        }
    }

    #[test]
    fn the_fuzzer_begins_with_a_record() {
        let seed = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/state/record.json");
        State::parse(&fs::read(seed).unwrap()).unwrap();
    }

    #[test]
    fn a_process_may_have_any_name() {
        let fields = "S 1 1 1 0 -1 64 0 0 0 0 0 0 0 0 20 0 1 0 4711 0";
        for name in ["sh", "a) S 1", "((", ") ", "\n"] {
            let stat = Stat::parse(format!("12 ({name}) {fields}").as_bytes()).unwrap();
            assert_eq!(
                (stat.start_time, stat.has_executed),
                (4711, false),
                "{name:?}"
            );
        }
        assert_eq!(Stat::parse(b"12 (sh) Z 1"), None);
    }
}
