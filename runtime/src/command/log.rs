//! Where errors go: to standard error, and to the file that an engine names and reads.

use std::fs::OpenOptions;
use std::io::Write;

use serde_json::json;

use super::{Global, LogFormat, time};

/// Reports the error that ends the command.
pub(crate) fn report(global: &Global, error: &anyhow::Error) {
    let message = format!("{error:#}");
    say(&message);
    write(global, "error", &message);
}

/// Reports what is wrong but goes on.
pub(crate) fn warn(global: &Global, message: &str) {
    say(&format!("warning: {message}"));
    write(global, "warning", message);
}

fn write(global: &Global, level: &str, message: &str) {
    let Some(path) = &global.log else { return };
    // The form is logrus's, which containerd's shim parses for the last error.
    let line = match global.log_format {
        LogFormat::Json => json!({"level": level, "msg": message, "time": time::now()}).to_string(),
        LogFormat::Text => format!("time={:?} level={level} msg={message:?}", time::now()),
    };
    let written = OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| writeln!(file, "{line}"));
    if let Err(error) = written {
        say(&format!("write {}: {error}", path.display()));
    }
}

/// To standard error, whose reader may be gone: `eprintln` would panic.
pub(super) fn say(message: &str) {
    let _written = writeln!(std::io::stderr(), "berth-runtime: {message}").is_ok();
}
