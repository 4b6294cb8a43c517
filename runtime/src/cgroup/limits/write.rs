//! One value for one file of a cgroup.

use std::borrow::Cow;

/// A value to be written to a file, and the controller that has the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cgroup) struct Write {
    /// To be enabled above the cgroup for the file to be there.
    pub(in crate::cgroup) controller: Option<Cow<'static, str>>,
    pub(in crate::cgroup) file: Cow<'static, str>,
    pub(in crate::cgroup) value: String,
    pub(in crate::cgroup) if_absent: IfAbsent,
}

/// What it means that a cgroup doesn't have the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::cgroup) enum IfAbsent {
    /// The limit can't be applied.
    Fail,
    /// There is nothing to be limited, or no limit to be lifted.
    Fine,
    /// Another file does the same on this kernel.
    Write(Box<Write>),
}

impl Write {
    /// A limit.
    pub(super) fn limit(controller: &'static str, file: &'static str, value: String) -> Self {
        Self {
            controller: Some(Cow::Borrowed(controller)),
            file: Cow::Borrowed(file),
            value,
            if_absent: IfAbsent::Fail,
        }
    }

    /// The absence of a limit.
    pub(super) fn lift(file: impl Into<Cow<'static, str>>) -> Self {
        Self::default_of(file, "max")
    }

    /// What a new cgroup has. No controller is enabled for it: without one it holds anyway.
    pub(super) fn default_of(file: impl Into<Cow<'static, str>>, value: &str) -> Self {
        Self {
            controller: None,
            file: file.into(),
            value: value.to_owned(),
            if_absent: IfAbsent::Fine,
        }
    }

    pub(super) fn or(mut self, if_absent: IfAbsent) -> Self {
        self.if_absent = if_absent;
        self
    }
}
