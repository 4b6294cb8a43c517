//! Stub: the signatures, until the network behind them is built.
#![allow(missing_docs, unused_variables, clippy::todo)]
use std::path::PathBuf;
use std::time::Duration;
use crate::*;

#[derive(Debug)]
pub struct Network(NetworkConfig);
#[derive(Debug, Clone)]
pub struct AttachRequest { pub eni: EniId, pub subnet: SubnetId, pub security_groups: Vec<SecurityGroupId>, pub netns: NetnsName }
#[derive(Debug, Clone)]
pub struct Attachment { pub eni: Eni, pub netns_path: PathBuf }
#[derive(Debug, Default)]
pub struct Report { pub addresses: Vec<Eni>, pub namespaces: Vec<String>, pub links: Vec<String>, pub firewall_elements: usize, pub restored: Vec<EniId>, pub missing: Vec<EniId> }
impl Network {
    pub fn open(config: NetworkConfig) -> Result<Network> { todo!() }
    pub fn subnets(&self) -> &[Subnet] { &self.0.subnets }
    pub fn subnet(&self, id: &SubnetId) -> Option<&Subnet> { self.0.subnets.iter().find(|subnet| subnet.id() == id) }
    pub fn mtu(&self) -> u32 { 1500 }
    pub fn attach(&self, request: &AttachRequest) -> Result<Attachment> { todo!() }
    pub fn detach(&self, eni: &EniId) -> Result<()> { todo!() }
    pub fn wait_until_gone(&self, eni: &EniId, timeout: Duration) -> Result<()> { todo!() }
    pub fn reconcile(&self, live: &[EniId]) -> Result<Report> { todo!() }
    pub fn list(&self) -> Result<Vec<Eni>> { todo!() }
    pub fn netns_path(&self, name: &NetnsName) -> PathBuf { todo!() }
    pub fn undo(config: &NetworkConfig) -> Result<()> { todo!() }
}
