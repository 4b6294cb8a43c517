//! Of isolated namespaces' files: what the next process finds of them.

use std::fs;

use super::*;
use crate::subordinate_ids::SubordinateIds;

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("berth-isolated-{}-{name}", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).expect("a temporary folder");
        Self(path)
    }

    fn load(&self, boot: &str, ids: &IdRanges) -> IsolatedNamespaces {
        IsolatedNamespaces::load(&self.0, boot.into(), ids).expect("readable")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).expect("the folder is ours");
    }
}

fn ids() -> IdRanges {
    IdRanges::new(SubordinateIds::default())
}

fn name(text: &str) -> NetnsName {
    text.parse().expect("valid")
}

#[test]
fn a_name_and_its_ids_stay_taken_through_a_restart_until_they_are_given_back() {
    let folder = Folder::new("restart");
    let ranges = ids();
    let mut isolated = folder.load("boot", &ranges);
    let held = ranges.take().expect("free");
    let one = isolated.reserve(&name("one"), Some(held)).expect("free");
    isolated.reserve(&name("two"), None).expect("free");
    let ranges = ids();
    let mut isolated = folder.load("boot", &ranges);
    assert_eq!(isolated.names(), [name("one"), name("two")]);
    assert_ne!(Some(ranges.take().expect("free").range), one.id_range);
    let error = isolated.reserve(&name("one"), None).expect_err("taken");
    assert!(matches!(error, Error::NamespaceInUse(_)), "{error}");
    isolated.forget(&name("one")).expect("removed");
    isolated.forget(&name("one")).expect("nothing to remove");
    assert_eq!(folder.load("boot", &ids()).names(), [name("two")]);
}

#[test]
fn files_of_another_boot_and_torn_files_are_nobodys() {
    let folder = Folder::new("boots");
    let mut before = folder.load("before", &ids());
    before.reserve(&name("one"), None).expect("free");
    let torn = directory(&folder.0).join("two");
    fs::write(&torn, "{\"boot_id\":\"now\",").expect("written");
    let mut now = folder.load("now", &ids());
    assert_eq!(now.names(), []);
    assert!(!torn.exists());
    now.reserve(&name("one"), None).expect("free again");
}
