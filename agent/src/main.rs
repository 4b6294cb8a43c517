//! The command `berth`.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    berth_agent::cli::main()
}
