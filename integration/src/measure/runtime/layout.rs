//! The order of the runtime's functions: which of them run, for the linker to put side by side.
//!
//! A program's pages are mapped as it first comes to them. Those that run are a quarter of ours, and lie
//! all over it unless the linker is told.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

use anyhow::ensure;

use super::super::run::said;

/// A program's functions, by their addresses.
pub struct Functions(BTreeMap<u64, Function>);

struct Function {
    /// Equal functions are one, which has the names of all.
    names: Vec<String>,
    size: u64,
}

const HEAD: &str = "\
/* The functions that run when a container is made, started, entered and deleted, side by side and in the
 * order in which they first do. Written by `cargo measure layout`. What isn't there any more is passed over,
 * and what isn't here comes after: an old list costs a little time. */

SECTIONS
{
  .text.hot :
  {
";

const TAIL: &str = "  }\n}\nINSERT BEFORE .text;\n";

impl Functions {
    /// Reads the program's symbols.
    pub fn of(program: &Path) -> anyhow::Result<Self> {
        let symbols = said(Command::new("nm").arg("-S").arg(program))?;
        let function = |line: &str| {
            let words: Vec<_> = line.split_whitespace().collect();
            let [address, size, kind, name] = words.as_slice() else {
                return None;
            };
            let number = |word| u64::from_str_radix(word, 16).ok();
            let found = (number(address)?, number(size)?, (*name).to_owned());
            "tTwWiI".contains(kind).then_some(found)
        };
        let mut all = BTreeMap::new();
        for (address, size, name) in symbols.lines().filter_map(function) {
            let names = Vec::new();
            let function = all.entry(address).or_insert(Function { names, size });
            function.names.push(name);
        }
        ensure!(
            !all.is_empty(),
            "{} has no symbols: CARGO_PROFILE_RELEASE_STRIP=none leaves them",
            program.display()
        );
        Ok(Self(all))
    }

    fn at(&self, place: u64) -> Option<(u64, &Function)> {
        let (address, function) = self.0.range(..=place).next_back()?;
        (place < address + function.size).then_some((*address, function))
    }

    /// The linker's script for a program that has been at these places.
    pub fn script(&self, places: &[u64]) -> anyhow::Result<String> {
        let mut ran = HashSet::new();
        let in_order: Vec<_> = places
            .iter()
            .filter_map(|place| self.at(*place))
            .filter(|(address, _)| ran.insert(*address))
            .flat_map(|(_, function)| &function.names)
            .collect();
        let members = members_of_libc()?;
        let (mut own, mut libc, mut mixed) = (Vec::new(), Vec::new(), Vec::new());
        for name in in_order {
            match (pattern(name), members.get(name)) {
                (Some(pattern), _) if self.is_mostly(&pattern, &ran) => own.push(pattern),
                (Some(pattern), _) => mixed.push(pattern),
                (None, Some(member)) => libc.push(format!("*libc.a:{member}(.text .text.*)")),
                (None, None) => own.push(format!("*(.text.{name})")),
            }
        }
        let mut script = HEAD.to_owned();
        let mut written = HashSet::new();
        for line in own.into_iter().chain(libc).chain(mixed) {
            if !written.contains(&line) {
                writeln!(script, "    {line}")?;
                written.insert(line);
            }
        }
        Ok(script + TAIL)
    }

    /// Whether three quarters of what the pattern names run: of a generic function, it names all that were
    /// made of it.
    fn is_mostly(&self, wanted: &str, ran: &HashSet<u64>) -> bool {
        let is_named = |name: &String| pattern(name).as_deref() == Some(wanted);
        let (mut all, mut run) = (0, 0);
        for (address, function) in &self.0 {
            if function.names.iter().any(is_named) {
                all += function.size;
                run += if ran.contains(address) {
                    function.size
                } else {
                    0
                };
            }
        }
        run * 4 >= all * 3
    }
}

/// Names a Rust function's section without what differs from one build to the next: the hash at the end of
/// a legacy name, or those of the crates in a newer one.
fn pattern(name: &str) -> Option<String> {
    if name.starts_with("_ZN") {
        let (path, _hash) = name.rsplit_once("17h")?;
        return Some(format!("*(.text.{path}17h*)"));
    }
    let mut rest = name.strip_prefix("_R")?;
    let mut pattern = "_R".to_owned();
    while let Some((before, after)) = rest.split_once("Cs") {
        let hash = after.bytes().take_while(u8::is_ascii_alphanumeric).count();
        pattern.push_str(before);
        pattern.push_str("Cs");
        rest = after;
        if after.as_bytes().get(hash) == Some(&b'_') {
            pattern.push('*');
            rest = after.get(hash..).unwrap_or_default();
        }
    }
    let end = rest.split('.').next().unwrap_or_default();
    let copies = if end == rest { "" } else { ".*" };
    Some(format!("*(.text.{pattern}{end}{copies})"))
}

/// Which file of the C library has a function: its sections have no names of their own.
fn members_of_libc() -> anyhow::Result<HashMap<String, String>> {
    let path = said(Command::new("cc").arg("-print-file-name=libc.a"))?;
    let symbols = said(Command::new("nm").args(["-A", "--defined-only", path.trim()]))?;
    let member = |line: &str| {
        let mut words = line.split_whitespace();
        let (place, kind, name) = (words.next()?, words.next()?, words.next()?);
        let member = place.rsplit(':').nth(1)?;
        "tTwWiI"
            .contains(kind)
            .then(|| (name.to_owned(), member.to_owned()))
    };
    Ok(symbols.lines().filter_map(member).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_differs_between_builds_is_left_out_of_names() {
        for (name, expected) in [
            (
                "_ZN13berth_runtime6launch5begin17h0123456789abcdefE",
                Some("*(.text._ZN13berth_runtime6launch5begin17h*)"),
            ),
            (
                "_RNvMs16_NtCsjrHSEGnQ3l9_3std4pathNtB6_4Path6parent",
                Some("*(.text._RNvMs16_NtCs*_3std4pathNtB6_4Path6parent)"),
            ),
            (
                "_RNvXsZ_NtCslNYArtu3iFV_5alloc6stringNtB5_6StringNtNtCsgEmfK2I1SDS_4core3fmt5Write9write_str.42",
                Some(
                    "*(.text._RNvXsZ_NtCs*_5alloc6stringNtB5_6StringNtNtCs*_4core3fmt5Write9write_str.*)",
                ),
            ),
            ("malloc", None),
        ] {
            assert_eq!(pattern(name).as_deref(), expected, "{name}");
        }
    }
}
