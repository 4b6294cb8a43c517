//! `berth credentials`: what an AWS client needs to call this agent.

use serde_json::json;

use crate::api::credentials::Credentials;
use crate::config::Config;

/// The options of `berth credentials`.
#[derive(clap::Args)]
pub struct Args {
    /// As `credential_process` of an AWS profile wants it
    #[arg(long)]
    process: bool,
}

pub fn credentials(config: &Config, args: &Args) -> anyhow::Result<()> {
    let path = config.credentials();
    if !path.exists() {
        anyhow::bail!(
            "{} isn't there yet; `berth agent` makes it when it first starts",
            path.display()
        );
    }
    let key = Credentials::load(&path)?;
    if args.process {
        let (id, secret) = (&key.access_key_id, &key.secret_access_key);
        println!(
            "{}",
            json!({"Version": 1, "AccessKeyId": id, "SecretAccessKey": secret})
        );
        return Ok(());
    }
    println!("export AWS_ACCESS_KEY_ID={}", key.access_key_id);
    println!("export AWS_SECRET_ACCESS_KEY={}", key.secret_access_key);
    println!("export AWS_DEFAULT_REGION={}", config.place.region);
    println!("export AWS_ENDPOINT_URL=http://{}", config.api);
    Ok(())
}
