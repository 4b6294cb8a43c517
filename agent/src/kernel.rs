//! Which kernel this is, for the few things that can't be tried.

/// Its release, as `uname -r` tells it.
pub fn release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    release.trim().to_owned()
}

/// The first two numbers of a release; 0 for what is none.
pub fn version(release: &str) -> (u32, u32) {
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_releases() {
        assert_eq!(version("6.1.0-28-cloud-amd64"), (6, 1));
        assert_eq!(version("5.19"), (5, 19));
        assert_eq!(version("6-rc1"), (6, 0));
        assert_eq!(version(""), (0, 0));
        assert!(version(&release()) > (5, 0));
    }
}
