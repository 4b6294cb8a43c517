//! Files of cgroup v2 that a configuration names itself.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{IfAbsent, Write, wrong};
use crate::cgroup::Error;

/// The core files that act on processes instead of limiting them: by number they would be read in the
/// runtime's pid namespace, so a configuration could draw the host's processes into its cgroup.
const ACTIONS: [&str; 3] = ["cgroup.procs", "cgroup.threads", "cgroup.kill"];

/// In the order of their names, so that the same configuration always does the same; each line by a
/// write of its own, since the kernel reads one at a time.
pub(super) fn writes(
    files: &HashMap<String, String>,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    for (file, value) in files {
        let controller = controller_of(file)?;
        for line in value.lines().filter(|line| !line.trim().is_empty()) {
            writes.push(Write {
                controller: controller.clone(),
                file: Cow::Owned(file.clone()),
                value: line.to_owned(),
                if_absent: IfAbsent::Fail,
            });
        }
    }
    Ok(())
}

/// The part before the dot. Any is taken: kernels gain controllers.
fn controller_of(file: &str) -> Result<Option<Cow<'static, str>>, Error> {
    let refused = |expected| Err(wrong("unified", format!("{file:?}"), expected));
    if ACTIONS.contains(&file) {
        return refused("acts on processes: it is not a limit");
    }
    let is_word = |text: &str| {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        !text.is_empty() && text.bytes().all(allowed)
    };
    match file.split_once('.') {
        Some(("cgroup", _)) if !file.contains('/') => Ok(None),
        Some((controller, rest))
            if is_word(controller) && !rest.is_empty() && !file.contains('/') =>
        {
            Ok(Some(Cow::Owned(controller.to_owned())))
        }
        _ => refused("must be the name of a cgroup file such as \"memory.high\""),
    }
}
