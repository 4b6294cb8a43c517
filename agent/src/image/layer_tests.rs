//! Layers that honest tools make, and layers that try to get out.

use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};

use super::*;

/// Builds an archive entry by entry.
struct Builder(tar::Builder<Vec<u8>>);

impl Builder {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }

    fn add(mut self, kind: EntryType, name: &str, link: &str, content: &[u8]) -> Self {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(1000);
        header.set_size(content.len() as u64);
        // By hand: the library's own setters refuse the names that these tests are about.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        self.0.append(&header, content).unwrap();
        self
    }

    fn file(self, name: &str, content: &[u8]) -> Self {
        self.add(EntryType::Regular, name, "", content)
    }

    fn bytes(self) -> Vec<u8> {
        self.0.into_inner().unwrap()
    }
}

/// A folder inside another, so that an escape can be seen.
struct Place {
    outer: PathBuf,
    inner: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let outer = std::env::temp_dir().join(format!("berth-layer-{}-{name}", std::process::id()));
        let inner = outer.join("inner");
        std::fs::create_dir_all(&inner).unwrap();
        Self { outer, inner }
    }

    fn unpack(&self, archive: &[u8]) -> Result<Unpacked, LayerError> {
        unpack(archive, &self.inner)
    }

    fn assert_nothing_outside(&self) {
        let names: Vec<_> = std::fs::read_dir(&self.outer)
            .unwrap()
            .map(|e| e.unwrap().file_name())
            .collect();
        assert_eq!(names, ["inner"]);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.outer).ok();
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn files_folders_and_links_come_out_as_they_went_in() {
    let place = Place::new("plain");
    let archive = Builder::new()
        .add(EntryType::Directory, "./etc/", "", b"")
        .file("etc/motd", b"hello")
        .add(EntryType::Symlink, "etc/link", "/etc/motd", b"")
        .add(EntryType::Link, "etc/hard", "etc/motd", b"")
        .file("deep/in/side", b"x")
        .bytes();
    let unpacked = place.unpack(&archive).unwrap();
    assert_eq!(unpacked.diff_id, Digest::of(&archive));
    let at = |name: &str| place.inner.join(name);
    assert_eq!(std::fs::read(at("etc/motd")).unwrap(), b"hello");
    assert_eq!(
        std::fs::read_link(at("etc/link")).unwrap(),
        Path::new("/etc/motd")
    );
    let (file, hard) = (
        std::fs::metadata(at("etc/motd")).unwrap(),
        std::fs::metadata(at("etc/hard")).unwrap(),
    );
    assert_eq!(file.ino(), hard.ino());
    assert_eq!(file.permissions().mode() & 0o7777, 0o644);
    assert_eq!(std::fs::metadata(at("etc")).unwrap().mtime(), 1000);
}

#[test]
fn whiteouts_become_those_of_overlayfs() {
    if !is_root() {
        eprintln!("SKIPPED: whiteouts need root");
        return;
    }
    let place = Place::new("whiteout");
    let archive = Builder::new()
        .file("a/.wh.gone", b"")
        .file("b/.wh..wh..opq", b"")
        .bytes();
    place.unpack(&archive).unwrap();
    let gone = std::fs::symlink_metadata(place.inner.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let mut value = [0u8; 8];
    let n = rustix::fs::getxattr(
        place.inner.join("b"),
        "trusted.overlay.opaque",
        &mut value[..],
    )
    .unwrap();
    assert_eq!(&value[..n], b"y");
    assert!(!place.inner.join("b/.wh..wh..opq").exists());
}

#[test]
fn a_name_with_dots_is_refused_and_an_absolute_one_stays_inside() {
    let place = Place::new("dots");
    let error = place
        .unpack(&Builder::new().file("../escape", b"x").bytes())
        .unwrap_err();
    assert!(
        error.to_string().contains("has '..' in its path"),
        "{error}"
    );
    place
        .unpack(&Builder::new().file("/absolute", b"x").bytes())
        .unwrap();
    assert!(place.inner.join("absolute").exists());
    place.assert_nothing_outside();
}

#[test]
fn a_link_out_of_the_tree_leads_back_into_it() {
    let place = Place::new("link");
    let outside = place.outer.to_str().unwrap().to_owned();
    let archive = Builder::new()
        .add(EntryType::Symlink, "up", "../..", b"")
        .file("up/one", b"x")
        .add(EntryType::Symlink, "abs", &outside, b"")
        .add(EntryType::Directory, "abs", "", b"")
        .file("abs/two", b"x")
        .bytes();
    place.unpack(&archive).unwrap();
    assert!(
        place.inner.join("one").exists(),
        "'..' of the root is the root"
    );
    assert!(
        place.inner.join("abs/two").exists(),
        "a folder takes the link's place"
    );
    place.assert_nothing_outside();
}

#[test]
fn a_file_does_not_write_through_a_link_of_its_name() {
    let place = Place::new("through");
    let target = place.outer.join("target");
    let archive = Builder::new()
        .add(EntryType::Symlink, "link", target.to_str().unwrap(), b"")
        .file("link", b"x")
        .bytes();
    place.unpack(&archive).unwrap();
    assert_eq!(std::fs::read(place.inner.join("link")).unwrap(), b"x");
    place.assert_nothing_outside();
}

#[test]
fn a_hard_link_to_what_is_not_in_the_layer_is_refused() {
    let place = Place::new("hard");
    for target in ["../../etc/passwd", "/etc/passwd", "nothing"] {
        let error = place
            .unpack(
                &Builder::new()
                    .add(EntryType::Link, "l", target, b"")
                    .bytes(),
            )
            .unwrap_err();
        assert!(
            error.to_string().contains("is a hard link"),
            "{target}: {error}"
        );
    }
}

#[test]
fn devices_are_left_out_and_named() {
    let place = Place::new("devices");
    let archive = Builder::new()
        .add(EntryType::Char, "dev/null", "", b"")
        .add(EntryType::Block, "sda", "", b"")
        .bytes();
    let unpacked = place.unpack(&archive).unwrap();
    assert_eq!(unpacked.left_out, [Path::new("dev/null"), Path::new("sda")]);
    assert!(std::fs::symlink_metadata(place.inner.join("sda")).is_err());
}

#[test]
fn an_archive_that_breaks_off_anywhere_is_refused() {
    let archive = Builder::new().file("a", &[7; 600]).file("b", b"x").bytes();
    for length in [0, 100, 512, 700, 1536, 2048, archive.len() - 512] {
        let place = Place::new(&format!("cut{length}"));
        assert!(
            place.unpack(&archive[..length]).is_err(),
            "cut at {length} of {}",
            archive.len()
        );
    }
}

#[test]
fn only_a_files_content_may_be_large() {
    let large = vec![b'a'; 5 << 20];
    let place = Place::new("large");
    let archive = Builder::new()
        .file("one", &large)
        // Passed over without being kept.
        .add(EntryType::Symlink, "link", "one", &large)
        .file("two", &large)
        .bytes();
    place.unpack(&archive).unwrap();
    assert_eq!(
        std::fs::metadata(place.inner.join("two")).unwrap().len(),
        5 << 20
    );
    for kind in [
        EntryType::GNULongName,
        EntryType::XHeader,
        EntryType::XGlobalHeader,
    ] {
        let place = Place::new("attributes");
        let archive = Builder::new().add(kind, "x", "", &large).file("y", b"");
        let result = place.unpack(&archive.bytes());
        assert!(
            matches!(result, Err(LayerError::Archive(_))),
            "{kind:?}: {result:?}"
        );
    }
}
