//! Socket activation: descriptors that a service manager has passed to us are the container's
//! (sd_listen_fds(3)).

use oci_spec::runtime::Spec;

/// The descriptors from 3 on that this process was started with.
pub(crate) struct Activation {
    count: u32,
    names: Option<String>,
}

impl Activation {
    pub(crate) fn of_this_process() -> Self {
        let number = |name| std::env::var(name).ok()?.parse::<u32>().ok();
        // They may have been meant for a process that has started us.
        let is_ours = number("LISTEN_PID").is_none_or(|pid| pid == std::process::id());
        Self {
            count: number("LISTEN_FDS").filter(|_| is_ours).unwrap_or(0),
            names: std::env::var("LISTEN_FDNAMES").ok(),
        }
    }

    /// How many descriptors the container gets, with those that were asked for beside these.
    pub(crate) fn with(&self, preserve_fds: u32) -> u32 {
        preserve_fds.saturating_add(self.count)
    }

    /// Tells the container's process of them.
    pub(crate) fn announce(&self, spec: &mut Spec) {
        let Some(process) = spec.process_mut() else {
            return;
        };
        if self.count == 0 {
            return;
        }
        let env = process.env_mut().get_or_insert_with(Vec::new);
        env.push(format!("LISTEN_FDS={}", self.count));
        env.push("LISTEN_PID=1".to_owned());
        if let Some(names) = &self.names {
            env.push(format!("LISTEN_FDNAMES={names}"));
        }
    }
}
