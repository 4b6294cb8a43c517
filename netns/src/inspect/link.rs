//! What can be wrong with a task's link on the host.
#![forbid(unsafe_code)]

use super::reasons::Reason;
use super::snapshot::{LinkState, Snapshot};
use crate::eni::Eni;
use crate::subnet::AttachmentMode;

impl Snapshot {
    /// Why an interface's link carries no packets, if it doesn't.
    pub(super) fn link_fault(&self, eni: &Eni) -> Option<Reason> {
        let name = eni.id.host_link();
        match self.kernel.state_of(&name) {
            LinkState::Missing => Some(Reason::new(
                "it is gone, and with it the task's way to the host",
                "start the task again",
            )),
            LinkState::Down => Some(Reason::new(
                "it is down, or its other end is",
                format!("ip link set {name} up"),
            )),
            LinkState::Up if eni.mode == AttachmentMode::Routed => None,
            LinkState::Up => self.bridge_fault(eni, &name),
        }
    }

    fn bridge_fault(&self, eni: &Eni, port: &str) -> Option<Reason> {
        let Some(subnet) = self.subnet_of(eni) else {
            return Some(Reason::new(
                format!("its subnet, {}, is not in the network's file", eni.subnet),
                "put the subnet back into the file",
            ));
        };
        let name = subnet.bridge();
        let Some(bridge) = self.kernel.link(name) else {
            return Some(Reason::new(
                format!("its bridge, {name}, is gone"),
                "start the agent again, and then the task",
            ));
        };
        if self.kernel.link(port).and_then(|link| link.bridge) != Some(bridge.index) {
            return Some(Reason::new(
                format!("it is no port of its bridge, {name}"),
                "start the task again",
            ));
        }
        (!bridge.operational).then(|| {
            let advice = format!("ip link set {name} up");
            Reason::new(format!("its bridge, {name}, is down"), advice)
        })
    }
}
