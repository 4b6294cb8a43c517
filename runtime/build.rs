//! Links the command at a fixed address, with an entry point of its own (`src/entry.rs`).
//!
//! A position-independent static program relocates itself at every start: of this one that is some
//! 16,000 pointers in 80 pages, twice for a container, and costs as much time as all of its mounts. The
//! program lives for milliseconds, reads what the engine wrote, and talks to nobody, so what a random
//! address would guard against has no way in; stack, heap and the kernel's own mappings are random as
//! before. The agent, which does talk to others, stays position-independent.
//!
//! The functions that run lie side by side (`hot.ld`), where the program is meant to be fast, and constants in
//! one mapping with them, for the same reasons: a mapping less, twice for a container, is 4 % of a minimal run.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=hot.ld");
    // The last of the linker driver's words about this is what counts.
    let mut arguments = vec!["-no-pie".to_owned(), "-static".to_owned()];
    let is = |name, value| std::env::var(name).is_ok_and(|has| has == value);
    if is("CARGO_CFG_TARGET_ARCH", "x86_64") {
        arguments.push("-Wl,--entry=berth_runtime_start".to_owned());
    }
    if is("PROFILE", "release") {
        arguments.push("-Wl,--no-rosegment".to_owned());
        let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
        arguments.push(format!("-Wl,-T,{folder}/hot.ld"));
    }
    for argument in arguments {
        println!("cargo::rustc-link-arg-bin=berth-runtime={argument}");
    }
}
