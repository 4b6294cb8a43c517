//! The resolvers that the host itself asks, from its `/etc/resolv.conf`.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

/// A resolver's port.
const PORT: u16 = 53;

/// As many as the C library asks (`MAXNS`, resolv.conf(5)).
const MOST: usize = 3;

/// A file that was changed more recently than this when it was read may have been changed again
/// within one tick of the clock that files are stamped by.
const SETTLED: Duration = Duration::from_secs(1);

/// The resolvers of the host, as the file has them now.
#[derive(Debug)]
pub struct HostResolvers {
    path: PathBuf,
    /// Our own addresses, which are no way out.
    own: Vec<IpAddr>,
    read: Mutex<Read>,
}

#[derive(Debug)]
struct Read {
    stamp: Option<Stamp>,
    resolvers: Arc<Resolvers>,
}

/// What changes with a file's content.
#[derive(Debug, PartialEq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Some resolvers, in the order in which they are asked.
#[derive(Debug, PartialEq)]
pub struct Resolvers(pub Vec<SocketAddr>);

impl HostResolvers {
    /// Reads them from that file, but for these addresses.
    pub fn new(path: PathBuf, own: Vec<IpAddr>) -> Self {
        // What the C library asks without a file, or with one that names nobody.
        let nobody_named = Resolvers(vec![SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))]);
        Self {
            path,
            own,
            read: Mutex::new(Read {
                stamp: None,
                resolvers: Arc::new(nobody_named),
            }),
        }
    }

    /// The resolvers now: the file is read again when it has changed. One that names nobody is
    /// about to be written, and those from before stay.
    pub fn now(&self) -> Arc<Resolvers> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        // The stamp comes first: a change after it shows in the next one.
        let metadata = fs::metadata(&self.path).ok();
        let stamp = metadata.as_ref().map(Stamp::of);
        if stamp.is_some() && stamp == read.stamp {
            return Arc::clone(&read.resolvers);
        }
        let text = fs::read_to_string(&self.path).unwrap_or_default();
        let found = parse(&text, &self.own);
        if !found.0.is_empty() && found != *read.resolvers {
            tracing::info!(resolvers = ?found.0, "the host's resolvers");
            read.resolvers = Arc::new(found);
        }
        let settled = metadata.and_then(|metadata| {
            let age = SystemTime::now().duration_since(metadata.modified().ok()?);
            age.ok().filter(|age| *age > SETTLED)
        });
        read.stamp = stamp.filter(|_| settled.is_some());
        Arc::clone(&read.resolvers)
    }
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

fn parse(text: &str, own: &[IpAddr]) -> Resolvers {
    let address = |line: &str| {
        let mut words = line.split_whitespace();
        let word = words.next().filter(|word| *word == "nameserver");
        word.and(words.next()).and_then(resolver)
    };
    let foreign = |resolver: &SocketAddr| !own.contains(&resolver.ip());
    Resolvers(
        text.lines()
            .filter_map(address)
            .filter(foreign)
            .take(MOST)
            .collect(),
    )
}

/// A resolver's address; a link-local one names its link after a `%`.
fn resolver(text: &str) -> Option<SocketAddr> {
    let (address, link) = match text.split_once('%') {
        Some((address, link)) => (address, Some(link)),
        None => (text, None),
    };
    match (address.parse().ok()?, link) {
        (IpAddr::V6(address), Some(link)) => {
            let index = nix::net::if_::if_nametoindex(link).ok()?;
            Some(SocketAddrV6::new(address, PORT, 0, index).into())
        }
        (_, Some(_)) => None,
        (address, None) => Some(SocketAddr::new(address, PORT)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Vec<String> {
        let own = ["10.231.0.2".parse().unwrap()];
        let resolvers = parse(text, &own).0;
        resolvers.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn resolvers_are_those_that_the_c_library_would_ask() {
        let text = "# nameserver 9.9.9.9\nsearch a b\nnameserver 127.0.0.53\n\tnameserver\t2001:db8::1 \n\
                    nameserver 10.231.0.2\nnameserver x\nnameserver\nnameserver fe80::1%lo\nnameserver 1.1.1.1";
        assert_eq!(
            parsed(text),
            ["127.0.0.53:53", "[2001:db8::1]:53", "[fe80::1%1]:53"]
        );
        assert!(parsed("").is_empty());
    }

    struct File(PathBuf);

    impl File {
        fn new(name: &str) -> Self {
            let name = format!("berth-dns-{}-{name}", std::process::id());
            Self(std::env::temp_dir().join(name))
        }

        fn write(&self, text: &str) {
            fs::write(&self.0, text).unwrap();
        }

        fn age(&self) -> Duration {
            let written = fs::metadata(&self.0).unwrap().modified().unwrap();
            SystemTime::now().duration_since(written).unwrap()
        }
    }

    impl Drop for File {
        fn drop(&mut self) {
            fs::remove_file(&self.0).ok();
        }
    }

    #[test]
    fn every_change_is_seen_however_soon_it_comes() {
        let file = File::new("soon");
        let resolvers = HostResolvers::new(file.0.clone(), Vec::new());
        for round in 0..500 {
            // As long as the one before, and mostly in the same tick of the clock.
            let address = format!("192.0.2.{}", 100 + round % 100);
            file.write(&format!("nameserver {address}\n"));
            assert_eq!(resolvers.now().0[0].ip().to_string(), address);
            // Newer kernels tell such changes apart by their stamps (6.13), older ones don't. A busy machine may have
            // come to read it when it had settled.
            let stamped = resolvers.read.lock().unwrap().stamp.is_some();
            assert!(!stamped || file.age() > SETTLED);
        }
    }

    #[test]
    fn a_file_that_is_not_there_yet_leaves_those_from_before() {
        let file = File::new("later");
        let resolvers = HostResolvers::new(file.0.clone(), Vec::new());
        assert_eq!(resolvers.now().0, ["127.0.0.1:53".parse().unwrap()]);
        file.write("nameserver 192.0.2.1\n");
        assert_eq!(resolvers.now().0, ["192.0.2.1:53".parse().unwrap()]);
        file.write("");
        assert_eq!(resolvers.now().0, ["192.0.2.1:53".parse().unwrap()]);
        fs::remove_file(&file.0).unwrap();
        assert_eq!(resolvers.now().0, ["192.0.2.1:53".parse().unwrap()]);
    }

    #[test]
    fn a_file_that_is_old_is_read_once() {
        let file = File::new("old");
        file.write("nameserver 192.0.2.1\n");
        let opened = fs::File::options().write(true).open(&file.0).unwrap();
        opened
            .set_modified(SystemTime::now() - Duration::from_secs(60))
            .unwrap();
        let resolvers = HostResolvers::new(file.0.clone(), Vec::new());
        assert!(Arc::ptr_eq(&resolvers.now(), &resolvers.now()));
        assert!(resolvers.read.lock().unwrap().stamp.is_some());
    }
}
