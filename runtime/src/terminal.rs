//! Terminals from outside: their sizes. Opening them is the container's own affair.

use std::os::fd::BorrowedFd;

use crate::error::Error;
use crate::sys::terminal;

/// Sets the size of a terminal, in characters, by its master.
pub fn set_terminal_size(master: BorrowedFd, rows: u16, columns: u16) -> Result<(), Error> {
    terminal::set_size(master, rows, columns)
        .map_err(|errno| Error::system("ioctl(TIOCSWINSZ)", errno, "set the terminal's size"))
}

/// Gives one terminal the size of another.
pub fn copy_terminal_size(from: BorrowedFd, to: BorrowedFd) -> Result<(), Error> {
    let (rows, columns) = terminal::size(from).map_err(|errno| {
        Error::system("ioctl(TIOCGWINSZ)", errno, "ask for the terminal's size")
    })?;
    set_terminal_size(to, rows, columns)
}
