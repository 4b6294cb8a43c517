//! Where systemd listens: the host's and the user's, each on a socket of its own and behind a bus.

use std::env;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::rootless;

/// Whose units they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Manager {
    /// The host's.
    System,
    /// The calling user's.
    User,
}

impl Manager {
    /// The one that the calling process may ask for a scope.
    pub(super) fn ours() -> Self {
        // Root of a user namespace isn't root of the host: the system's manager would refuse it.
        match rootless::is_root_of_the_host() {
            true => Self::System,
            false => Self::User,
        }
    }
}

/// A place where systemd, or a bus that leads to it, listens.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// systemd itself: one hop fewer, and there without a D-Bus daemon.
    Private(PathBuf),
    Bus(Address),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Address {
    Path(PathBuf),
    Abstract(String),
}

/// Where to look for it, in order.
pub(super) fn places(manager: Manager) -> Vec<Place> {
    let variable = |name: &str| env::var(name).ok().filter(|value| !value.is_empty());
    match manager {
        Manager::System => {
            let default = "unix:path=/run/dbus/system_bus_socket".to_owned();
            let bus = variable("DBUS_SYSTEM_BUS_ADDRESS").unwrap_or(default);
            let private = Place::Private("/run/systemd/private".into());
            // The private socket is root's alone.
            let private = nix::unistd::geteuid().is_root().then_some(private);
            private.into_iter().chain(addresses(&bus)).collect()
        }
        Manager::User => {
            let named = variable("DBUS_SESSION_BUS_ADDRESS").unwrap_or_default();
            let folder = variable("XDG_RUNTIME_DIR").map(PathBuf::from);
            let folder =
                folder.unwrap_or_else(|| format!("/run/user/{}", nix::unistd::getuid()).into());
            let usual = Place::Bus(Address::Path(folder.join("bus")));
            let private = Place::Private(folder.join("systemd/private"));
            addresses(&named).chain([usual, private]).collect()
        }
    }
}

/// The unix sockets of a D-Bus address, which may list several, separated by semicolons.
fn addresses(text: &str) -> impl Iterator<Item = Place> {
    text.split(';').filter_map(|address| {
        let parameters = address.strip_prefix("unix:")?;
        let mut pairs = parameters
            .split(',')
            .filter_map(|pair| pair.split_once('='));
        pairs.find_map(|(key, value)| match key {
            "path" => Some(Place::Bus(Address::Path(unescape(value).into()))),
            "abstract" => Some(Place::Bus(Address::Abstract(unescape(value)))),
            _ => None,
        })
    })
}

/// `%20` and the like.
fn unescape(text: &str) -> String {
    let mut parts = text.split('%');
    let mut plain = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let code = part
            .get(..2)
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match (code, part.get(2..)) {
            (Some(code), Some(rest)) => {
                plain.push(code);
                plain.extend(rest.bytes());
            }
            _ => plain.extend(part.bytes()),
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_of_unix_sockets() {
        let list = |text| addresses(text).collect::<Vec<_>>();
        let path = |path: &str| Place::Bus(Address::Path(path.into()));
        assert_eq!(
            list("unix:path=/run/user/1000/bus,guid=abc"),
            [path("/run/user/1000/bus")]
        );
        assert_eq!(
            list("tcp:host=a,port=1;unix:guid=x,path=/tmp/a%20b"),
            [path("/tmp/a b")]
        );
        assert_eq!(
            list("unix:abstract=/tmp/dbus-x"),
            [Place::Bus(Address::Abstract("/tmp/dbus-x".into()))]
        );
        assert!(list("").is_empty() && list("unix:runtime=yes").is_empty());
    }
}
