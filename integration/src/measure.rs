//! `cargo measure`: the benchmarks.

/// Runs them. Whether all ran.
pub fn measure(_args: &[&str]) -> anyhow::Result<bool> {
    anyhow::bail!("no benchmark yet")
}
