//! What is in the tables: to be loaded, and to compare with what is there.
#![forbid(unsafe_code)]

use super::{eni_elements, pool_elements, subnet_elements, write_policies};
use crate::config::NetworkConfig;
use crate::eni::Eni;
use crate::error::Result;
use crate::nftables::{Batch, Ruleset};
use crate::policy::Policies;
use crate::ruleset::Rules;

/// Writes what is in the tables beside the rules that never change.
pub(super) fn write_contents<'a>(
    batch: &mut Batch,
    config: &NetworkConfig,
    policies: &Policies,
    enis: impl Iterator<Item = &'a Eni>,
) {
    let elements = config.subnets.iter().flat_map(subnet_elements);
    let elements = elements.chain(pool_elements(config));
    elements.for_each(|element| batch.add_element(&element));
    write_policies(batch, policies);
    let elements = enis.flat_map(eni_elements);
    elements.for_each(|element| batch.add_element(&element));
}

/// What the kernel lists of tables that are as they should be.
pub(super) fn ruleset<'a>(
    rules: &Rules,
    config: &NetworkConfig,
    policies: &Policies,
    enis: impl Iterator<Item = &'a Eni>,
) -> Ruleset {
    let mut contents = Batch::default();
    write_contents(&mut contents, config, policies, enis);
    let mut ruleset = Ruleset::default();
    ruleset.read(rules.messages().chain(contents.messages()));
    ruleset
}

/// The tables as they are to be with these interfaces.
pub(crate) fn intended(config: &NetworkConfig, enis: &[Eni]) -> Result<Ruleset> {
    let mut policies = Policies::new(&config.security_groups)?;
    policies.keep_only(enis);
    Ok(ruleset(
        &Rules::new(config.metadata_port),
        config,
        &policies,
        enis.iter(),
    ))
}
