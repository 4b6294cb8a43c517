//! Huge pages, by size.

use std::borrow::Cow;

use oci_spec::runtime::LinuxHugepageLimit;

use super::{IfAbsent, Write, wrong};
use crate::cgroup::Error;

/// Zero is a limit here: engines send it for the sizes that a container must not use.
pub(super) fn writes(
    index: usize,
    limit: &LinuxHugepageLimit,
    writes: &mut Vec<Write>,
) -> Result<(), Error> {
    let size = limit.page_size();
    if !is_page_size(size) {
        let field = format!("hugepageLimits[{index}].pageSize");
        let expected = "must be a number and KB, MB or GB, such as 2MB";
        return Err(wrong(field, format!("{size:?}"), expected));
    }
    if limit.limit() < -1 {
        let field = format!("hugepageLimits[{index}].limit");
        let expected = "must be a number of bytes, or -1 for no limit";
        return Err(wrong(field, limit.limit(), expected));
    }
    // Used pages, and reserved ones: what is reserved and never touched is lost to others all the same.
    for (suffix, if_absent) in [("max", IfAbsent::Fail), ("rsvd.max", IfAbsent::Fine)] {
        let file = format!("hugetlb.{size}.{suffix}");
        writes.push(match limit.limit() {
            ..=-1 => Write::lift(file),
            bytes => Write {
                controller: Some(Cow::Borrowed("hugetlb")),
                file: Cow::Owned(file),
                value: bytes.to_string(),
                if_absent,
            },
        });
    }
    Ok(())
}

fn is_page_size(text: &str) -> bool {
    let number = ["KB", "MB", "GB"]
        .iter()
        .find_map(|unit| text.strip_suffix(unit));
    number.is_some_and(|number| {
        !number.is_empty()
            && !number.starts_with('0')
            && number.bytes().all(|byte| byte.is_ascii_digit())
    })
}
