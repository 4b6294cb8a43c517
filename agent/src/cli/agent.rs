//! `berth agent`: the engine and the ECS API, until it is told to stop.

use std::convert::Infallible;

use anyhow::{Context, bail};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::activation::{self, Listeners};
use super::session::Host;
use super::{runtime, start_log};
use crate::api::credentials::Credentials;
use crate::api::server;
use crate::config::{ApiAuth, Config};

pub fn agent(config: Config) -> anyhow::Result<()> {
    start_log(config.log_format, "info");
    let listeners = Listeners::take()?;
    runtime()?.block_on(serve(config, listeners))
}

async fn serve(config: Config, listeners: Listeners) -> anyhow::Result<()> {
    // Before anything that may take a while: unheard, this one would end the process.
    let mut reload = signal(SignalKind::hangup())?;
    let Some(host) = Host::open(&config, listeners.unix, listeners.resolver).await? else {
        bail!(
            "another berth runs with {}: an agent, or a `berth run`",
            config.run.display()
        );
    };
    if config.api_auth == ApiAuth::Sigv4 {
        Credentials::load_or_make(&config.credentials())?;
    }
    let listener = match listeners.tcp {
        Some(listener) => handed_over(&config, listener)?,
        None => TcpListener::bind(config.api)
            .await
            .with_context(|| format!("listening for the ECS API on {}", config.api))?,
    };
    activation::ready()?;
    tracing::info!(api = %listener.local_addr()?, socket = %config.socket().display(), "ready");
    let (mut terminate, mut interrupt) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    let engine = host.api.engine().clone();
    let keep_prepared = engine.keep_prepared();
    tokio::select! {
        result = server::serve_tcp(host.api.clone(), listener) => result,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        never = follow_files(&host, &mut reload) => match never {},
        never = keep_prepared => match never {},
    }?;
    tracing::info!("stopping; tasks go on, and are found again at the next start");
    Ok(())
}

/// Reads the files of the network and of service discovery again at each SIGHUP. One that is wrong keeps the other from
/// nothing.
async fn follow_files(host: &Host, reload: &mut Signal) -> Infallible {
    loop {
        if reload.recv().await.is_none() {
            std::future::pending::<()>().await;
        }
        let engine = host.api.engine().clone();
        let reloaded = tokio::task::spawn_blocking(move || {
            if let Err(error) = engine.reload_network() {
                tracing::error!("the network stays as it is: {error:#}");
            }
            if let Err(error) = engine.reload_service_discovery() {
                tracing::error!("service discovery stays as it is: {error:#}");
            }
        });
        if let Err(error) = reloaded.await {
            tracing::error!("reading the files again broke off: {error}");
        }
    }
}

/// A listener of systemd's, whose address takes the place of `--api`, and has to meet the same
/// condition.
fn handed_over(config: &Config, listener: std::net::TcpListener) -> anyhow::Result<TcpListener> {
    let api = listener.local_addr()?;
    Config {
        api,
        ..config.clone()
    }
    .check()?;
    Ok(TcpListener::from_std(listener)?)
}
