//! `berth-runtime`: an OCI runtime for engines and people. A thin layer over the library.

#![deny(unsafe_code)]
#![cfg_attr(not(test), warn(clippy::too_many_lines))]
#![cfg_attr(not(test), no_main)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod command;
mod entry;

/// The whole program; returns its exit code.
fn run(is_protected: bool) -> u8 {
    // Before anything else is done, since it may mean to begin again.
    let protected = match is_protected {
        true => Ok(()),
        false => command::protect_if_needed(),
    };
    let arguments = command::Arguments::parse();
    let result = protected.map_err(anyhow::Error::from);
    match result.and_then(|()| command::run(&arguments)) {
        Ok(code) => code,
        Err(error) => {
            command::log::report(&arguments.global, &error);
            command::failure_code(&arguments)
        }
    }
}
