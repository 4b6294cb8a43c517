//! The command line as engines write it, read without clap.
//!
//! For clap to define a command's options and to look for each of them takes a fiftieth of a small
//! container's start, and more of the commands that do less. What engines write is read here: flags with two
//! dashes, each once, each with its value. Everything else, be it right or wrong, is clap's to read and to
//! explain. What can be read here means the same there, which a test compares.
#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::path::PathBuf;
use std::slice::Iter;

use berth_runtime::ContainerId;

use super::create::Create;
use super::exec::Exec;
use super::lifecycle::{Delete, Kill, parse_signal};
use super::run::Run;
use super::{Arguments, CgroupManager, Command, Global, LimitsMode, LogFormat, Named};

/// What the words mean; nothing if they need clap. The first is the program's name.
pub(super) fn read(words: &[OsString]) -> Option<Arguments> {
    let mut words = Words(words.get(1..)?.iter());
    let (global, name) = global(&mut words)?;
    let command = match name {
        "run" => run(words).map(Command::Run),
        "create" => create(words, |_| None).map(Command::Create),
        "start" => named(words).map(Command::Start),
        "state" => named(words).map(Command::State),
        "kill" => kill(words).map(Command::Kill),
        "delete" => delete(words).map(Command::Delete),
        "exec" => exec(words).map(Command::Exec),
        _ => None,
    };
    Some(Arguments {
        global,
        command: command?,
    })
}

/// The words that are left.
struct Words<'a>(Iter<'a, OsString>);

enum Word<'a> {
    /// Without its dashes, with the value that stands behind its equals sign.
    Flag(&'a str, Option<&'a str>),
    Plain(&'a str),
}

impl<'a> Words<'a> {
    /// The next word, if there is one that can be read here. At the end it is `Some(None)`.
    fn next(&mut self) -> Option<Option<Word<'a>>> {
        let Some(word) = self.0.next() else {
            return Some(None);
        };
        let word = word.to_str()?;
        let Some(flag) = word.strip_prefix("--") else {
            return is_plain(word).then_some(Some(Word::Plain(word)));
        };
        let (name, value) = match flag.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (flag, None),
        };
        (!name.is_empty()).then_some(Some(Word::Flag(name, value)))
    }

    /// The value of a flag: the one behind its equals sign, or the next word.
    fn value(&mut self, given: Option<&'a str>) -> Option<&'a str> {
        let value = match given {
            Some(value) => value,
            None => self.0.next()?.to_str()?,
        };
        is_plain(value).then_some(value)
    }

    fn path(&mut self, given: Option<&'a str>) -> Option<PathBuf> {
        self.value(given).map(PathBuf::from)
    }
}

/// Whether a word stands for itself.
fn is_plain(word: &str) -> bool {
    !word.is_empty() && !word.starts_with('-')
}

/// Gives a value to what has none yet.
fn set<T>(place: &mut Option<T>, value: T) -> Option<()> {
    place.is_none().then(|| *place = Some(value))
}

fn global<'a>(words: &mut Words<'a>) -> Option<(Global, &'a str)> {
    // The environment can say it instead.
    if std::env::var_os("BERTH_RUNTIME_ROOT").is_some() {
        return None;
    }
    let (mut root, mut log, mut log_format, mut systemd_cgroup) = (None, None, None, None);
    let name = loop {
        match words.next()?? {
            Word::Plain(name) => break name,
            Word::Flag("root", value) => set(&mut root, words.path(value)?)?,
            Word::Flag("log", value) => set(&mut log, words.path(value)?)?,
            Word::Flag("log-format", value) => {
                let format = match words.value(value)? {
                    "json" => LogFormat::Json,
                    "text" => LogFormat::Text,
                    _ => return None,
                };
                set(&mut log_format, format)?;
            }
            Word::Flag("systemd-cgroup", None) => set(&mut systemd_cgroup, true)?,
            Word::Flag(..) => return None,
        }
    };
    let global = Global {
        root,
        log,
        log_format: log_format.unwrap_or(LogFormat::Text),
        debug: false,
        limits: LimitsMode::Required,
        systemd_cgroup: systemd_cgroup.unwrap_or_default(),
        cgroup_manager: CgroupManager::Cgroupfs,
        rootless: None,
    };
    Some((global, name))
}

fn run(words: Words) -> Option<Run> {
    let mut detach = None;
    let create = create(words, |flag| match flag {
        "detach" => set(&mut detach, true),
        _ => None,
    })?;
    Some(Run {
        create,
        detach: detach.unwrap_or_default(),
        keep: false,
        no_subreaper: false,
    })
}

/// Flags without a value that aren't `create`'s are for `other`.
fn create(mut words: Words, mut other: impl FnMut(&str) -> Option<()>) -> Option<Create> {
    let (mut id, mut bundle, mut pid_file, mut console_socket) = (None, None, None, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Plain(word) => set(&mut id, parse_id(word)?)?,
            Word::Flag("bundle", value) => set(&mut bundle, words.path(value)?)?,
            Word::Flag("pid-file", value) => set(&mut pid_file, words.path(value)?)?,
            Word::Flag("console-socket", value) => set(&mut console_socket, words.path(value)?)?,
            Word::Flag(flag, None) => other(flag)?,
            Word::Flag(..) => return None,
        }
    }
    Some(Create {
        id: id?,
        bundle: bundle.unwrap_or_else(|| ".".into()),
        config: None,
        console_socket,
        pid_file,
        pidfd_socket: None,
        preserve_fds: 0,
        no_pivot: false,
        no_new_keyring: false,
    })
}

fn named(mut words: Words) -> Option<Named> {
    let mut id = None;
    while let Some(word) = words.next()? {
        match word {
            Word::Plain(word) => set(&mut id, parse_id(word)?)?,
            Word::Flag(..) => return None,
        }
    }
    Some(Named { id: id? })
}

fn kill(mut words: Words) -> Option<Kill> {
    let (mut id, mut signal, mut all) = (None, None, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Plain(word) if id.is_none() => set(&mut id, parse_id(word)?)?,
            Word::Plain(word) => set(&mut signal, parse_signal(word).ok()?)?,
            Word::Flag("all", None) => set(&mut all, true)?,
            Word::Flag(..) => return None,
        }
    }
    Some(Kill {
        id: id?,
        signal: signal.unwrap_or(libc::SIGTERM),
        all: all.unwrap_or_default(),
    })
}

fn delete(mut words: Words) -> Option<Delete> {
    let (mut id, mut force) = (None, None);
    while let Some(word) = words.next()? {
        match word {
            Word::Plain(word) => set(&mut id, parse_id(word)?)?,
            Word::Flag("force", None) => set(&mut force, true)?,
            Word::Flag(..) => return None,
        }
    }
    Some(Delete {
        id: id?,
        force: force.unwrap_or_default(),
    })
}

fn exec(mut words: Words) -> Option<Exec> {
    let (mut process, mut pid_file, mut console_socket, mut detach) = (None, None, None, None);
    let id = loop {
        match words.next()? {
            Some(Word::Plain(word)) => break parse_id(word)?,
            Some(Word::Flag("process", value)) => set(&mut process, words.path(value)?)?,
            Some(Word::Flag("pid-file", value)) => set(&mut pid_file, words.path(value)?)?,
            Some(Word::Flag("console-socket", value)) => {
                set(&mut console_socket, words.path(value)?)?;
            }
            Some(Word::Flag("detach", None)) => set(&mut detach, true)?,
            Some(Word::Flag(..)) | None => return None,
        }
    };
    Some(Exec {
        id,
        command: command(words)?,
        process,
        cwd: None,
        env: Vec::new(),
        user: None,
        additional_gids: Vec::new(),
        tty: false,
        console_socket,
        detach: detach.unwrap_or_default(),
        pid_file,
        preserve_fds: 0,
        no_new_privs: false,
        apparmor: None,
        process_label: None,
        cgroup: None,
        pidfd_socket: None,
        ignore_paused: false,
        cap: Vec::new(),
    })
}

/// The rest as a command: from a plain word on, all are its own.
fn command(words: Words) -> Option<Vec<String>> {
    let first = words.0.as_slice().first();
    if let Some(first) = first
        && !is_plain(first.to_str()?)
    {
        return None;
    }
    words
        .0
        .map(|word| word.to_str().map(str::to_owned))
        .collect()
}

fn parse_id(word: &str) -> Option<ContainerId> {
    word.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<OsString> {
        let all = std::iter::once("berth-runtime").chain(line.split(' '));
        all.map(OsString::from).collect()
    }

    /// What is compared: everything that was read.
    fn shown(arguments: &Arguments) -> String {
        format!("{arguments:?}")
    }

    #[test]
    fn what_engines_write_is_read_and_means_what_clap_says() {
        let lines = [
            "--root /run/r run --bundle /b one",
            "--root=/run/r --log=/l --log-format=json run --detach --bundle=/b one",
            "--log-format json --log /l create --bundle /b --pid-file /p one",
            "--root /r --systemd-cgroup create --bundle /b --pid-file /p --console-socket /s one",
            "create one",
            "--root /r start one",
            "state one",
            "kill one",
            "kill one 9",
            "kill --all one KILL",
            "delete one",
            "delete --force one",
            "exec one /bin/true",
            "exec one sh -c exit",
            "exec --process /f --detach --pid-file /p one",
            "exec --console-socket /s --process=/f one",
        ];
        for line in lines {
            let read = read(&words(line)).unwrap_or_else(|| panic!("{line}: left to clap"));
            let by_clap = Arguments::by_clap(words(line)).unwrap();
            assert_eq!(shown(&read), shown(&by_clap), "{line}");
        }
    }

    #[test]
    fn nothing_is_read_that_clap_reads_differently() {
        const POOL: [&str; 32] = [
            "--root",
            "--root=/r",
            "--root=",
            "--log",
            "--log-format",
            "--log-format=json",
            "text",
            "--systemd-cgroup",
            "--systemd-cgroup=1",
            "--debug",
            "run",
            "create",
            "start",
            "kill",
            "delete",
            "exec",
            "--bundle",
            "-b",
            "--bundle=/b",
            "--pid-file",
            "/p",
            "--detach",
            "-d",
            "--force",
            "--all",
            "--",
            "-",
            "--process",
            "one",
            "KILL",
            "99",
            "a/b",
        ];
        // A generator of Lehmer's, so that every run tries the same.
        let mut number = 1u64;
        let mut next = |below: usize| {
            number = number * 48271 % 0x7fff_ffff;
            usize::try_from(number).unwrap() % below
        };
        let mut compared = 0;
        for _ in 0..200_000 {
            let line: Vec<&str> = (0..=next(6)).map(|_| POOL[next(POOL.len())]).collect();
            let line = words(&line.join(" "));
            if let Some(read) = read(&line) {
                let by_clap = Arguments::by_clap(line.clone());
                let by_clap = by_clap.unwrap_or_else(|error| panic!("{line:?}: {error}"));
                assert_eq!(shown(&read), shown(&by_clap), "{line:?}");
                compared += 1;
            }
        }
        assert!(compared > 1000, "{compared}");
    }
}
