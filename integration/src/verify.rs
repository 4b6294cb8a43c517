//! `cargo verify`: every test. On this host what can run here, and in the virtual machine what
//! needs cgroup v2 controllers or an older kernel.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};

use crate::build::TestBinary;
use crate::payload::Payload;
use crate::tally::{Outcome, Tally};
use crate::vm::{Boot, Vm};
use crate::{aws, build, image, packages, say, system, vm};

/// How long all tests may take in one of the virtual machines.
const PATIENCE: Duration = Duration::from_secs(70 * 60);

/// The tests that the machine runs: those that ask the kernel for something. The rest would only
/// be slower there.
const IN_MACHINE: [&str; 3] = [RUNTIME, "netns/", "integration/e2e"];

/// The parts of the whole, in their order.
const PARTS: [&str; 5] = ["source", "host", "machine", "engines", "aws"];

/// The tests that call the runtime through engines.
const CALLERS: &str = "integration/callers";

/// The runtime's own, of which some need systemd, AppArmor or CRIU, and have that in their name.
const RUNTIME: &str = "runtime/runtime";

const ENGINES_START: &str = "
export BERTH_RUNTIME=/rig/berth-runtime BERTH_ROOTFS=/rig/rootfs.tar BERTH_RIG_MACHINE=1
export BERTH_BUSYBOX=/bin/busybox
# An ordinary user, of the number that the tests know.
useradd --uid 54321 --user-group berth-test
suite() {
    echo \"RIG-SUITE $1\"
    shift
    \"$@\" --test-threads=1 --color=never < /dev/null 2>&1
    echo \"RIG-STATUS $?\"
}
for part in systemd apparmor checkpoint; do suite runtime/runtime /rig/runtime $part; done
for driver in cgroupfs systemd; do
    export BERTH_RIG_CGROUP_DRIVER=$driver
    suite integration/callers /rig/callers
done
";

/// The programs under test and what they need.
struct Built {
    berth: PathBuf,
    runtime: PathBuf,
    rootfs: PathBuf,
    tests: Vec<TestBinary>,
}

/// Runs all parts, or those that are named. Whether nothing failed.
pub fn verify(chosen: &[&str]) -> anyhow::Result<bool> {
    if let Some(unknown) = chosen.iter().find(|part| !PARTS.contains(part)) {
        bail!(
            "'{unknown}' is no part of the tests; there are {}",
            PARTS.join(", ")
        );
    }
    let wanted = |part: &str| chosen.is_empty() || chosen.contains(&part);
    packages::install(packages::FOR_VM)?;
    packages::install(packages::FOR_TESTS)?;
    packages::install(packages::FOR_CALLERS)?;
    let mut tally = Tally::default();
    std::thread::scope(|scope| {
        // Mostly waits for packages, while others compile.
        let disk = wanted("engines").then(|| scope.spawn(system::disk));
        if wanted("source") {
            check_source(&mut tally)?;
        }
        run_tests(wanted, disk, &mut tally)
    })?;
    // What can run in one of the places must have: a skip would hide that it didn't.
    if std::env::var_os("CI").is_some() && tally.skipped() > 0 {
        println!("tests were skipped where all of them can run");
        tally.note("nothing is skipped".into(), Outcome::Failed);
    }
    Ok(tally.report())
}

/// Builds the tests and runs them in the places that are wanted. Those of the engines take as long as all others: they
/// go on beside them, on the disk that is being made for them.
fn run_tests(
    wanted: impl Fn(&str) -> bool,
    disk: Option<ScopedJoinHandle<'_, anyhow::Result<PathBuf>>>,
    tally: &mut Tally,
) -> anyhow::Result<()> {
    say("building the tests");
    let built = Built {
        berth: build::program("berth", false)?,
        runtime: build::program("berth-runtime", false)?,
        rootfs: image::busybox()?,
        tests: build::tests()?,
    };
    std::thread::scope(|scope| {
        let engines = disk.map(|disk| {
            let built = &built;
            scope.spawn(move || boot_engines(&joined(disk)?, built))
        });
        if wanted("host") {
            for test in &built.tests {
                natively(test, &built, tally)?;
            }
            doc_tests(tally)?;
        }
        if wanted("machine") {
            noted("the virtual machine", in_machine(&built, tally), tally);
        }
        if let Some(engines) = engines {
            // What it said until now has been kept.
            let outcome = joined(engines).and_then(|vm| read_suites(vm, tally));
            noted("the machine of the engines", outcome, tally);
        }
        anyhow::Ok(())
    })?;
    if wanted("aws") {
        aws::test(&built.berth, &built.rootfs, tally)?;
    }
    Ok(())
}

/// What a thread came to.
fn joined<T>(thread: ScopedJoinHandle<'_, anyhow::Result<T>>) -> anyhow::Result<T> {
    thread
        .join()
        .unwrap_or_else(|_| Err(anyhow!("a thread of the rig panicked")))
}

/// What broke off as a whole has failed.
fn noted(what: &str, result: anyhow::Result<()>, tally: &mut Tally) {
    if let Err(error) = result {
        println!("{what}: {error:#}");
        tally.note(what.into(), Outcome::Failed);
    }
}

fn check_source(tally: &mut Tally) -> anyhow::Result<()> {
    let checks: [(&str, &[&str]); 3] = [
        ("format", &["fmt", "--all", "--check"]),
        (
            "clippy",
            &[
                "clippy",
                "--workspace",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        ),
        (
            "documentation",
            &["doc", "--workspace", "--no-deps", "--quiet"],
        ),
    ];
    for (name, args) in checks {
        say(&format!("checking: cargo {}", args.join(" ")));
        let outcome = if build::run(args)? {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        tally.note(format!("source::{name}"), outcome);
    }
    Ok(())
}

/// How many tests of a program run at once. Most share what they look at; those of the network have a world each,
/// and mostly wait for what must not come.
fn threads(test: &TestBinary) -> String {
    let number = if test.name == "netns/network" { 3 } else { 1 };
    format!("--test-threads={number}")
}

/// Runs a test program here. Its output is shown as it comes, so that a failing test's is whole.
fn natively(test: &TestBinary, built: &Built, tally: &mut Tally) -> anyhow::Result<()> {
    say(&format!("{} on this host", test.name));
    let mut child = Command::new(&test.path)
        .args([&threads(test), "--color=never"])
        .current_dir(&test.folder)
        .env("BERTH", &built.berth)
        .env("BERTH_RUNTIME", &built.runtime)
        .env("BERTH_BUSYBOX", "/bin/busybox")
        .env("BERTH_ROOTFS", &built.rootfs)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("running {}", test.path.display()))?;
    let mut seen = String::new();
    if let Some(stdout) = child.stdout.take() {
        use std::io::BufRead;
        for line in std::io::BufReader::new(stdout).lines() {
            let line = line?;
            println!("{line}");
            seen.push_str(&line);
            tally.read(&test.name, &line);
        }
    }
    let status = child.wait()?;
    let outcome = if status.success() {
        Outcome::Passed
    } else {
        Outcome::Failed
    };
    // A program that dies reports no failed test.
    if !status.success() || seen.is_empty() {
        println!("{}: {status}", test.name);
        tally.note(format!("{} as a whole", test.name), outcome);
    }
    Ok(())
}

fn doc_tests(tally: &mut Tally) -> anyhow::Result<()> {
    say("the examples in the documentation");
    let good = build::run(&["test", "--workspace", "--doc", "--quiet"])?;
    tally.note(
        "source::examples".into(),
        if good {
            Outcome::Passed
        } else {
            Outcome::Failed
        },
    );
    Ok(())
}

fn in_machine(built: &Built, tally: &mut Tally) -> anyhow::Result<()> {
    let kernel = vm::kernel()?;
    let payload = Payload::new("tests", &kernel)?;
    vm::add_init(&payload)?;
    payload.program(&built.berth, "bin/berth")?;
    payload.program(&built.runtime, "bin/berth-runtime")?;
    payload.file(&built.rootfs, "rootfs.tar")?;
    let mut start = String::from(
        "export BERTH=/bin/berth BERTH_RUNTIME=/bin/berth-runtime BERTH_BUSYBOX=/bin/busybox BERTH_ROOTFS=/rootfs.tar \
         BERTH_RIG_MACHINE=1 BERTH_RIG_DISK=/disk\n",
    );
    let chosen = built
        .tests
        .iter()
        .filter(|test| IN_MACHINE.iter().any(|start| test.name.starts_with(start)));
    for (i, test) in chosen.enumerate() {
        payload.program(&test.path, &format!("tests/{i}"))?;
        start.push_str(&format!(
            "echo 'RIG-SUITE {}'\n/tests/{i} {} --color=never < /dev/null 2>&1; echo \"RIG-STATUS $?\"\n",
            test.name,
            threads(test),
        ));
    }
    payload.script("start", &start)?;
    let payload = payload.pack()?;
    say("booting the virtual machine");
    let vm = Vm::boot(&Boot {
        payload: &payload,
        forward: None,
        system: None,
    })?;
    read_suites(vm, tally)
}

/// A whole Debian with systemd, in which the engines' tests begin, once with each way of making cgroups.
fn boot_engines(disk: &Path, built: &Built) -> anyhow::Result<Vm> {
    let payload = Payload::addition("engines", &vm::kernel()?)?;
    system::add_unit(&payload)?;
    payload.program(&built.runtime, "rig/berth-runtime")?;
    payload.file(&built.rootfs, "rig/rootfs.tar")?;
    for (name, file) in [(CALLERS, "rig/callers"), (RUNTIME, "rig/runtime")] {
        let test = built.tests.iter().find(|test| test.name == name);
        let test = test.with_context(|| format!("there is no {name}"))?;
        payload.program(&test.path, file)?;
    }
    payload.script("rig/start", ENGINES_START)?;
    let payload = payload.pack()?;
    say("booting the machine of the engines");
    Vm::boot(&Boot {
        payload: &payload,
        forward: None,
        system: Some(disk),
    })
}

/// Notes what the machine's test programs say, each between two lines of the rig's.
fn read_suites(vm: Vm, tally: &mut Tally) -> anyhow::Result<()> {
    let mut suite = String::new();
    let mut unfinished = false;
    let result = vm.finish(PATIENCE, |line| {
        if let Some(name) = line.strip_prefix("RIG-SUITE ") {
            suite = name.to_owned();
            unfinished = true;
            say(&format!("{name} in the virtual machine"));
        } else if let Some(status) = line.strip_prefix("RIG-STATUS ") {
            unfinished = false;
            if status.trim() != "0" {
                println!("{suite}: exit code {status}");
                tally.note(format!("{suite} as a whole"), Outcome::Failed);
            }
        } else {
            println!("{line}");
            tally.read(&suite, line);
        }
    });
    if unfinished {
        tally.note(format!("{suite} as a whole"), Outcome::Failed);
    }
    result.map(drop)
}
