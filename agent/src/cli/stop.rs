//! `berth stop`: asks a task to stop, and waits until it has.

use serde_json::{Value, json};

use super::session::Session;
use super::{runtime, start_log, task_id};
use crate::config::Config;

/// The options of `berth stop`.
#[derive(clap::Args)]
pub struct Args {
    /// The task: its ARN, its id, or the beginning of that
    task: String,
    /// Why, for the task's description
    #[arg(long, default_value = "Task stopped by user")]
    reason: String,
}

pub fn stop(config: Config, args: &Args) -> anyhow::Result<()> {
    start_log(config.log_format, "warn");
    let id = task_id(&config, &args.task)?;
    runtime()?.block_on(async {
        let session = Session::open(&config).await?;
        let answer = session
            .client
            .call("StopTask", json!({"task": id, "reason": args.reason}))
            .await?;
        let mut task = answer.get("task").cloned().unwrap_or_default();
        while task.get("lastStatus").and_then(Value::as_str) != Some("STOPPED") {
            let version = task.get("version").and_then(Value::as_u64).unwrap_or(0);
            task = session.client.changed(&id, "default", version).await?;
        }
        println!("{id}");
        Ok(())
    })
}
