//! `berth-runtime`: an OCI runtime for engines and people. A thin layer over the library.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod command;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    // Before anything else is done, since it may mean to begin again.
    let protected = command::protect_if_needed();
    let arguments = command::Arguments::parse();
    if let Err(error) = protected {
        command::log::report(&arguments.global, &error.into());
        return command::failure_code(&arguments);
    }
    match command::run(&arguments) {
        Ok(code) => code,
        Err(error) => {
            command::log::report(&arguments.global, &error);
            command::failure_code(&arguments)
        }
    }
}
