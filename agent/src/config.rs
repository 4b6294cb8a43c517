//! The agent's options: from flags, from the environment, from `/etc/berth/agent.json`, and
//! otherwise by default, in that order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use berth_netns::{InvalidVpc, SubordinateIds, Vpc};
use clap::{Args, ValueEnum};
use serde::Deserialize;

use crate::dns::Zones;
use crate::id::Place;
use crate::service_discovery::{Invalid, ServiceDiscovery};

const FILE: &str = "/etc/berth/agent.json";
const NETWORK_FILE: &str = "/etc/berth/network.json";
const SERVICE_DISCOVERY_FILE: &str = "/etc/berth/service-discovery.json";

/// What to do about a limit that this host can't apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Limits {
    /// The task doesn't start.
    Required,
    /// The task starts, with a warning.
    BestEffort,
}

/// Whether tasks get user namespaces of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UserNamespaces {
    /// Where this host can; a warning says so where it can't.
    Auto,
    /// Or the agent doesn't start.
    Always,
    /// Root of a container is root of the host, in fewer namespaces.
    Never,
}

/// How the agent's own log looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// How callers of the API over TCP prove who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ApiAuth {
    /// Requests are signed with the key of `berth credentials`.
    Sigv4,
    /// Whoever reaches the address is root on this host.
    None,
}

/// The options as they were given: flags and environment, or the file.
#[derive(Args, Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Given {
    /// Where images, logs and the state database are kept [default: /var/lib/berth]
    #[arg(long, global = true, env = "BERTH_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    /// Where sockets and what doesn't outlive a reboot are kept [default: /run/berth]
    #[arg(long, global = true, env = "BERTH_RUN", value_name = "DIR")]
    run: Option<PathBuf>,
    /// The file that defines subnets and security groups [default: /etc/berth/network.json, if it is there]
    #[arg(long, global = true, env = "BERTH_NETWORK", value_name = "FILE")]
    network: Option<PathBuf>,
    /// The file that defines the names of services [default: /etc/berth/service-discovery.json, if it is there]
    #[arg(
        long,
        global = true,
        env = "BERTH_SERVICE_DISCOVERY",
        value_name = "FILE"
    )]
    service_discovery: Option<PathBuf>,
    /// Where the ECS API listens [default: 127.0.0.1:8088]
    #[arg(long, global = true, env = "BERTH_API", value_name = "ADDR")]
    api: Option<SocketAddr>,
    /// How callers over TCP prove who they are [default: sigv4]
    #[arg(long, global = true, env = "BERTH_API_AUTH")]
    api_auth: Option<ApiAuth>,
    /// The region in every ARN [default: us-east-1]
    #[arg(long, global = true, env = "BERTH_REGION")]
    region: Option<String>,
    /// The account in every ARN, twelve digits [default: 000000000000]
    #[arg(long, global = true, env = "BERTH_ACCOUNT")]
    account: Option<String>,
    /// Whether a limit that this host can't apply is an error or a warning [default: required]
    #[arg(long, global = true, env = "BERTH_LIMITS")]
    limits: Option<Limits>,
    /// Whether each task gets a user namespace of its own, so that its root is nobody on this host [default: auto]
    #[arg(long, global = true, env = "BERTH_USER_NAMESPACES")]
    user_namespaces: Option<UserNamespaces>,
    /// The ids of users and groups that those namespaces get, 65,536 each, as in /etc/subuid
    /// [default: 1610612736:268435456]
    #[arg(
        long,
        global = true,
        env = "BERTH_SUBORDINATE_IDS",
        value_name = "FIRST:COUNT"
    )]
    subordinate_ids: Option<String>,
    /// How the agent's own log looks [default: text]
    #[arg(long, global = true, env = "BERTH_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

/// The options in force.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "`Given` documents each")]
pub struct Config {
    pub root: PathBuf,
    pub run: PathBuf,
    pub network: Option<PathBuf>,
    pub service_discovery: Option<PathBuf>,
    pub api: SocketAddr,
    pub api_auth: ApiAuth,
    pub place: Place,
    pub limits: Limits,
    pub user_namespaces: UserNamespaces,
    pub subordinate_ids: SubordinateIds,
    pub log_format: LogFormat,
}

impl Config {
    /// Completes what was given with the file and the defaults.
    pub fn resolve(given: Given) -> anyhow::Result<Self> {
        Self::complete(given, read_file(Path::new(FILE))?)
    }

    fn complete(given: Given, file: Given) -> anyhow::Result<Self> {
        let config = Self {
            root: given
                .root
                .or(file.root)
                .unwrap_or_else(|| "/var/lib/berth".into()),
            run: given
                .run
                .or(file.run)
                .unwrap_or_else(|| "/run/berth".into()),
            network: given.network.or(file.network),
            service_discovery: given.service_discovery.or(file.service_discovery),
            api: given
                .api
                .or(file.api)
                .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8088))),
            api_auth: given.api_auth.or(file.api_auth).unwrap_or(ApiAuth::Sigv4),
            place: Place {
                region: given
                    .region
                    .or(file.region)
                    .unwrap_or_else(|| "us-east-1".into()),
                account: given
                    .account
                    .or(file.account)
                    .unwrap_or_else(|| "000000000000".into()),
            },
            limits: given.limits.or(file.limits).unwrap_or(Limits::Required),
            user_namespaces: given
                .user_namespaces
                .or(file.user_namespaces)
                .unwrap_or(UserNamespaces::Auto),
            subordinate_ids: match given.subordinate_ids.or(file.subordinate_ids) {
                Some(text) => text.parse().context("subordinate-ids")?,
                None => SubordinateIds::default(),
            },
            log_format: given
                .log_format
                .or(file.log_format)
                .unwrap_or(LogFormat::Text),
        };
        config.check()?;
        Ok(config)
    }

    /// Refuses options that contradict each other or themselves.
    pub fn check(&self) -> anyhow::Result<()> {
        let Place { region, account } = &self.place;
        if account.len() != 12 || !account.bytes().all(|b| b.is_ascii_digit()) {
            bail!("account is '{account}'; it must be twelve digits, such as 000000000000");
        }
        if region.is_empty()
            || !region
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
        {
            bail!(
                "region is '{region}'; it must be letters, digits and hyphens, such as us-east-1"
            );
        }
        for (name, path) in [("root", &self.root), ("run", &self.run)] {
            if !path.is_absolute() {
                bail!(
                    "{name} is '{}'; it must be an absolute path",
                    path.display()
                );
            }
        }
        if self.api_auth == ApiAuth::None && !self.api.ip().is_loopback() {
            bail!(
                "api is {}, which other machines can reach, and api-auth is none: whoever calls would be root here; \
                 use a loopback address, or leave authentication on",
                self.api
            );
        }
        Ok(())
    }

    /// The VPC that the network's file defines.
    pub fn vpc(&self) -> anyhow::Result<Vpc> {
        let path = self.network.as_deref().unwrap_or(Path::new(NETWORK_FILE));
        match Vpc::load(path) {
            Err(InvalidVpc::Read(error))
                if self.network.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(Vpc::default())
            }
            outcome => outcome.with_context(|| format!("the network's file {}", path.display())),
        }
    }

    /// The services that the file of service discovery defines, in namespaces beside these zones.
    pub fn service_discovery(&self, zones: &Zones) -> anyhow::Result<ServiceDiscovery> {
        let given = self.service_discovery.as_deref();
        let path = given.unwrap_or(Path::new(SERVICE_DISCOVERY_FILE));
        match ServiceDiscovery::load(path, zones) {
            Err(Invalid::Read(error))
                if given.is_none() && error.kind() == std::io::ErrorKind::NotFound =>
            {
                Ok(ServiceDiscovery::default())
            }
            outcome => {
                outcome.with_context(|| format!("the file of service discovery {}", path.display()))
            }
        }
    }

    /// The socket on which the local API answers.
    pub fn socket(&self) -> PathBuf {
        self.run.join("berth.sock")
    }

    /// Where the key of the API is kept.
    pub fn credentials(&self) -> PathBuf {
        self.root.join("credentials.json")
    }

    /// What a task has on disk that outlives it for a while: its logs.
    pub fn task_root(&self, id: &str) -> PathBuf {
        self.root.join("tasks").join(id)
    }

    /// What a task has while it runs.
    pub fn task_run(&self, id: &str) -> PathBuf {
        self.run.join("tasks").join(id)
    }
}

fn read_file(path: &Path) -> anyhow::Result<Given> {
    match std::fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).with_context(|| format!("reading {}", path.display()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Given::default()),
        Err(error) => Err(error).with_context(|| format!("reading {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Given {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn what_was_given_comes_before_the_file_and_that_before_the_defaults() {
        let given = file(r#"{"region": "eu-west-1"}"#);
        let config =
            Config::complete(given, file(r#"{"region": "x", "account": "123456789012"}"#)).unwrap();
        assert_eq!(config.place.region, "eu-west-1");
        assert_eq!(config.place.account, "123456789012");
        assert_eq!(config.limits, Limits::Required);
    }

    #[test]
    fn an_open_door_is_refused() {
        let error = Config::complete(
            file(r#"{"api": "0.0.0.0:8088", "api-auth": "none"}"#),
            Given::default(),
        );
        assert!(error.unwrap_err().to_string().contains("would be root"));
        assert!(Config::complete(file(r#"{"api": "0.0.0.0:8088"}"#), Given::default()).is_ok());
    }

    #[test]
    fn a_network_file_that_was_asked_for_must_be_there() {
        let given = file(r#"{"network": "/nonexistent/network.json"}"#);
        let config = Config::complete(given, Given::default()).unwrap();
        let error = format!("{:#}", config.vpc().unwrap_err());
        assert!(
            error.contains("the network's file /nonexistent/network.json: it can't be read"),
            "{error}"
        );
    }

    #[test]
    fn a_file_of_service_discovery_that_was_asked_for_must_be_there() {
        let given = file(r#"{"service-discovery": "/nonexistent/services.json"}"#);
        let config = Config::complete(given, Given::default()).unwrap();
        let error = config.service_discovery(&Zones::default()).unwrap_err();
        let words = "the file of service discovery /nonexistent/services.json: it can't be read";
        assert!(format!("{error:#}").contains(words), "{error:#}");
    }

    #[test]
    fn a_member_that_we_do_not_know_is_refused() {
        assert!(serde_json::from_str::<Given>(r#"{"rooot": "/x"}"#).is_err());
    }
}
