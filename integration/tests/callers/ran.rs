//! Running a command of an engine: never for longer than it should take, with or without a terminal.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::pty::openpty;

/// How long a command may take: the emulated machine is slow.
const LONGEST: &str = "300";

/// How long something that must happen may take. Engines take seconds to tell in the emulated machine, and minutes
/// where it shares its processors.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// What a command left.
#[derive(Debug)]
pub struct Ran {
    #[expect(dead_code, reason = "shown with a failure")]
    command: String,
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A command that is ended if it hangs.
pub fn bounded(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", "-k", "5", LONGEST])
        .arg(program)
        .stdin(Stdio::null());
    command
}

impl Ran {
    /// Runs a command to its end.
    pub fn of(command: &mut Command) -> Self {
        let output = command.output().unwrap();
        Self::from(command, output)
    }

    /// Runs a command that is given something to read.
    pub fn with_input(command: &mut Command, input: &str) -> Self {
        let mut child = Self::begin(command.stdin(Stdio::piped()));
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(input.as_bytes()).unwrap();
        drop(stdin);
        let output = child.wait_with_output().unwrap();
        Self::from(command, output)
    }

    /// Starts a command.
    pub fn begin(command: &mut Command) -> Child {
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }

    /// Runs a command on a terminal, types a line there, and reads what it shows.
    pub fn on_terminal(command: &mut Command, typed: &str) -> Self {
        let pair = openpty(None, None).unwrap();
        let slave = || Stdio::from(pair.slave.try_clone().unwrap());
        let mut child = command
            .stdin(slave())
            .stdout(slave())
            .stderr(slave())
            .spawn()
            .unwrap();
        // Ours and the command's copies must go, or the master never ends.
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        drop(pair.slave);
        let mut master = File::from(pair.master);
        master.write_all(typed.as_bytes()).unwrap();
        let mut shown = Vec::new();
        // The end of a terminal is an error.
        master.read_to_end(&mut shown).ok();
        let status = child.wait().unwrap();
        Self {
            command: format!("{command:?}"),
            code: status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&shown).into_owned(),
            stderr: String::new(),
        }
    }

    pub fn from(command: &Command, output: Output) -> Self {
        Self {
            command: format!("{command:?}"),
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It must have succeeded. What it printed, without the end of the last line.
    pub fn ok(&self) -> &str {
        assert_eq!(self.code, 0, "{self:#?}");
        self.stdout.trim_end()
    }

    /// It must have ended with that code.
    pub fn fails_with(&self, code: i32) -> &Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// What `timeout` gives for a command that took too long, and a command that was killed.
const WAS_ENDED: [i32; 2] = [124, 137];

/// Runs what must print something, again where nothing of it comes, unless it was killed or took too long: on a busy
/// machine engines have been seen to hand on nothing of what was printed. Each time is told of, for it could be our doing.
pub fn printing(mut run: impl FnMut() -> Ran) -> Ran {
    let mut ran = run();
    for _ in 0..2 {
        if ran.stdout.is_empty() && !WAS_ENDED.contains(&ran.code) {
            println!("nothing came of what was printed: {ran:#?}");
            ran = run();
        }
    }
    ran
}

/// The value of something that no longer changes: what is on its way at first has come when two looks agree.
pub fn settled<T: PartialEq>(mut look: impl FnMut() -> T) -> T {
    let mut last = look();
    until("nothing changes", || {
        std::thread::sleep(Duration::from_millis(500));
        let before = std::mem::replace(&mut last, look());
        last == before
    });
    last
}

/// What a web server answers; nothing, as long as there is none.
pub fn web_page(address: &str) -> String {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(
            &address.parse().map_err(std::io::Error::other)?,
            Duration::from_secs(2),
        )?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().unwrap_or_default()
}
