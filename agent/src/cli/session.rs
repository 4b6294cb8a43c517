//! Who answers the API for a verb: an agent that runs, or the same engine in this process.
//!
//! One engine at a time owns a state folder, by the lock on `<run>/engine.lock`. Whoever holds it
//! answers on the unix socket. A second `berth run` without an agent is a client of the first; if
//! that ends before, the second takes the engine up where it was left.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::path::Path;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::net::UnixListener;

use crate::api::client::Client;
use crate::api::{Api, server};
use crate::config::Config;
use crate::dns::Sockets;
use crate::engine::Engine;
use crate::{metadata, open_files};

/// The engine in this process, with what it serves.
pub struct Host {
    /// Its API.
    pub api: Api,
}

impl Host {
    /// Takes the lock and opens the engine. `Ok(None)` where somebody else has it. A listener that
    /// was handed over is served, else one is made; so are the resolver's sockets.
    pub async fn open(
        config: &Config,
        listener: Option<StdUnixListener>,
        resolver: Sockets,
    ) -> anyhow::Result<Option<Self>> {
        if !lock(config)? {
            return Ok(None);
        }
        // Listening comes before the work of opening: whoever finds the lock taken can connect.
        let listener = match listener {
            Some(listener) => UnixListener::from_std(listener)?,
            None => server::listen_unix(&config.socket())?,
        };
        let engine = Engine::open(config.clone(), resolver).await?;
        let api = Api::new(engine.clone());
        let endpoint = metadata::listen().await?;
        serve("the metadata endpoint", metadata::serve(engine, endpoint));
        serve("the local API", server::serve_unix(api.clone(), listener));
        Ok(Some(Self { api }))
    }
}

/// Runs a server in the background. One that ends has nothing left to do here: said, and over.
fn serve(what: &'static str, server: impl Future<Output = anyhow::Result<()>> + Send + 'static) {
    tokio::spawn(async move {
        if let Err(error) = server.await {
            tracing::error!("{what} ended: {error:#}");
        }
    });
}

/// The engine's lock, held to the end of the process.
static HELD: OnceLock<(Flock<File>, OwnedFd)> = OnceLock::new();

/// Takes the engine's lock, to the end of this process. `false` where somebody else has it.
///
/// It must be the last thing that an ending process lets go of: whoever gets it opens the database
/// and the network, which have locks of their own, and listens on the engine's ports. The kernel
/// closes descriptors from the lowest on, so a duplicate of a high number holds it: above those of
/// some two thousand tasks, and no higher, since each process that is made has a table as long.
fn lock(config: &Config) -> anyhow::Result<bool> {
    let path = config.run.join("engine.lock");
    let file = open_lock(&path, &config.run)?;
    let lock = match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => lock,
        Err((_, nix::Error::EWOULDBLOCK)) => return Ok(false),
        Err((_, error)) => {
            return Err(error).with_context(|| format!("locking {}", path.display()));
        }
    };
    let last = i32::try_from(open_files::raise().min(4096)).unwrap_or(i32::MAX) - 1;
    let last =
        rustix::io::fcntl_dupfd_cloexec(&*lock, last).context("keeping the engine's lock")?;
    // A second engine in one process would have found the lock taken.
    HELD.set((lock, last))
        .map_err(|_| anyhow!("the engine's lock is held already"))?;
    Ok(true)
}

fn open_lock(path: &Path, run: &Path) -> anyhow::Result<File> {
    use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
    if !nix::unistd::geteuid().is_root() {
        bail!("berth needs root to make containers and networks: use sudo");
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(run)
        .with_context(|| format!("making {}", run.display()))?;
    File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("opening {}", path.display()))
}

/// How long somebody who has the engine's lock may take to answer, or to give it back.
const UNTIL_IT_ANSWERS: Duration = Duration::from_secs(10);

/// Somebody who answers the API.
pub struct Session {
    /// To call it.
    pub client: Client,
    host: Option<Host>,
}

impl Session {
    /// The agent that runs, or the engine in this process.
    pub async fn open(config: &Config) -> anyhow::Result<Self> {
        // Between taking the lock and listening lies one system call of another process; between its last answer and
        // giving the lock back lies its end.
        let end = Instant::now() + UNTIL_IT_ANSWERS;
        while Instant::now() < end {
            // The socket before the lock: where systemd holds it, calling starts the agent.
            if let Some(client) = Client::of_agent(&config.socket()).await? {
                return Ok(Self { client, host: None });
            }
            if let Some(host) = Host::open(config, None, Sockets::default()).await? {
                return Ok(Self {
                    client: Client::Here(host.api.clone()),
                    host: Some(host),
                });
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        bail!(
            "{} is locked by a process that doesn't answer",
            config.run.join("engine.lock").display()
        )
    }

    /// The engine, where it is in this process.
    pub fn host(&self) -> Option<&Host> {
        self.host.as_ref()
    }
}
