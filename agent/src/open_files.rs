//! How many files may be open: here, and in a container whose definition doesn't say.
//!
//! Services are started with a soft limit of 1024, for programs that use select(2). An agent has two descriptors and more
//! for each task, so it takes what it may have; and containers get what they get on Fargate, not what is left of that.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What a container gets on Fargate, as soft and as hard limit
/// (<https://docs.aws.amazon.com/AmazonECS/latest/APIReference/API_Ulimit.html>).
const ON_FARGATE: u64 = 65_535;

/// The name of the limit in a task definition.
pub const NOFILE: &str = "nofile";

/// How many descriptors a task takes here, while it runs.
const FOR_A_TASK: u64 = 2;

/// Raises this process's soft limit to its hard one, and says so where that is low. Returns what is in force.
pub fn raise() -> u64 {
    const LOW: u64 = 4096;
    /// What the kernel gives its first process.
    const USUAL: u64 = 1024;
    let limit = to_hard().unwrap_or_else(|errno| {
        tracing::warn!("the limit of open files stays as it is: {errno}");
        USUAL
    });
    if limit < LOW {
        tracing::warn!(
            "no more than {limit} files may be open here, which is enough for some {} tasks at once: raise the hard limit \
             (LimitNOFILE= of the unit, or ulimit -n)",
            limit / FOR_A_TASK
        );
    }
    limit
}

fn to_hard() -> nix::Result<u64> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft < hard {
        setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    }
    Ok(hard)
}

/// The limit of a container whose definition has none: Fargate's, as far as this process's own goes.
pub fn of_container() -> u64 {
    let own = getrlimit(Resource::RLIMIT_NOFILE);
    own.map_or(ON_FARGATE, |(_, hard)| hard.min(ON_FARGATE))
}
