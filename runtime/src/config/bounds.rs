//! What text and lists may be like so that the kernel can take them at all.
//!
//! Where a configuration is beyond it, a call would fail once the container is half made, and with an
//! errno that names no field.

use std::path::Path;

use super::{Error, value};

/// `PATH_MAX` and `NAME_MAX`, without the null byte.
const LONGEST_PATH: usize = 4095;
const LONGEST_NAME: usize = 255;

/// What one write to procfs or one mount option's list takes at most: a page.
const LONGEST_TEXT: usize = 4095;

/// More of a list whose members cost a call each is a mistake, or an attack.
const LONGEST_LIST: usize = 65_536;

/// How much of a bad text an error repeats.
const SHOWN: usize = 100;

/// Refuses text that no C string can hold, or that is longer than `longest` bytes.
pub(super) fn text(field: &str, text: &str, longest: usize) -> Result<(), Error> {
    if text.contains('\0') {
        return Err(value(field, shortened(text), "must have no null bytes"));
    }
    match text.len() <= longest {
        true => Ok(()),
        false => Err(too_long(field, text, longest)),
    }
}

/// The same for a text of a page at most.
pub(super) fn short_text(field: &str, given: &str) -> Result<(), Error> {
    text(field, given, LONGEST_TEXT)
}

/// Refuses a path that no kernel call takes.
pub(super) fn path(field: &str, path: &Path) -> Result<(), Error> {
    let given = path.to_string_lossy();
    text(field, &given, LONGEST_PATH)?;
    let longest = given.split('/').map(str::len).max().unwrap_or(0);
    match longest <= LONGEST_NAME {
        true => Ok(()),
        false => Err(too_long(field, &given, LONGEST_NAME)),
    }
}

/// Refuses a list that is longer than any that is meant.
pub(super) fn list<T>(field: &str, list: &[T]) -> Result<(), Error> {
    match list.len() <= LONGEST_LIST {
        true => Ok(()),
        false => Err(value(
            field,
            list.len(),
            format!("entries: must be at most {LONGEST_LIST}"),
        )),
    }
}

fn too_long(field: &str, text: &str, longest: usize) -> Error {
    let expected = format!("is too long: it must be at most {longest} bytes");
    value(field, shortened(text), expected)
}

/// The beginning of a text that is in an error.
pub(super) fn shortened(text: &str) -> String {
    beginning(text, SHOWN)
}

/// A text, or so many of its letters.
pub(super) fn beginning(text: &str, letters: usize) -> String {
    match text.char_indices().nth(letters) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
    }
}
