//! The way out of a VM on the network `tap` that was given `--nat`: a veth pair joins the VM's namespace to
//! the host, and one table of rules in the host lets the guest out to the internet and to nothing else.
//!
//! ```text
//!   guest 10.0.2.15 ── tap0 [ namespace, masquerades ] uplink ══ veth [ host, filters, masquerades ] ── out
//! ```
//!
//! The only thing that is given out is one address of the pool, at the namespace's end. Who has it is known
//! to the kernel alone, by the route to it, which the kernel gives out once: so nothing has to be kept, and
//! two engines cannot be given the same.

mod choose;
mod passage;
mod rules;

pub(crate) use rules::TOO_MANY_CONNECTIONS;

use super::{GUEST, NetworkError};
use crate::choice::Probe;
use crate::config::NatConfig;
use crate::handles::VMHandles;
use crate::host::{Host, Neighbourhood, RuleTable, UplinkSpec};
use crate::marks::{Marks, uplink_prefix};
use crate::names::EngineId;

use choose::Way;

/// How guests are let out.
#[derive(Clone, Debug, Default)]
pub(super) struct Uplink {
    config: NatConfig,
}

/// The one table of a namespace.
const INSIDE_TABLE: &str = "banger";

/// How often an address that somebody else was faster to take is replaced by another.
const ATTEMPTS: usize = 8;

impl Uplink {
    pub(super) fn new(config: NatConfig) -> Self {
        Uplink { config }
    }

    /// Names, in a run's handles, what it will hold.
    pub(super) fn plan(&self, marks: &Marks, handles: &mut VMHandles) {
        handles.uplink = Some(marks.uplink());
        handles.nft_table = Some(marks.table());
    }

    /// Says whether guests of this engine can be let out here, and how.
    pub(super) async fn probe(&self, host: &dyn Host, engine: &EngineId) -> Probe {
        let neighbourhood = match host.neighbourhood().await {
            Ok(neighbourhood) => neighbourhood,
            Err(error) => return Probe::fails(error.to_string(), error.hint()),
        };
        let prefix = uplink_prefix(engine);
        match self.way(&neighbourhood, &prefix, "doctor") {
            Err(NetworkError::NoWayOut { reason, hint }) => Probe::fails(reason, hint),
            Err(error) => Probe::fails(error.to_string(), None),
            Ok(way) => Probe::works(match way.resolver {
                Some(resolver) => format!(
                    "to the internet by IPv4, not to this host or its networks; addresses of {}, names from {resolver}",
                    self.config.pool
                ),
                None => format!(
                    "to the internet by IPv4, but without names: this host's own resolver is on its loopback; \
                     name another: nat.name-server in config.toml (addresses of {})",
                    self.config.pool
                ),
            }),
        }
    }

    /// Lets a namespace out. What it makes is named in the handles.
    pub(super) async fn acquire(
        &self,
        host: &dyn Host,
        handles: &VMHandles,
    ) -> Result<(), NetworkError> {
        let (Some(namespace), Some(tap), Some(uplink), Some(table)) = (
            &handles.namespace,
            &handles.tap_device,
            &handles.uplink,
            &handles.nft_table,
        ) else {
            return Err(NetworkError::Unplanned);
        };
        let mut tried = Vec::new();
        loop {
            let neighbourhood = host.neighbourhood().await?;
            let mut way = self.way(&neighbourhood, uplink, namespace)?;
            way.addresses.retain(|address| !tried.contains(address));
            let Some(&address) = way.addresses.first() else {
                return Err(choose::no_address(self.config.pool));
            };
            // Order matters here: there is never an uplink without the rules that keep it from the host.
            host.make_table(&RuleTable {
                name: table.clone(),
                rules: rules::outside(uplink, address, &way),
            })
            .await?;
            let spec = UplinkSpec {
                name: uplink.clone(),
                owner: namespace.clone(),
                address,
                tap: tap.clone(),
                also: GUEST.dns,
                rules: RuleTable {
                    name: INSIDE_TABLE.to_owned(),
                    rules: rules::inside(tap),
                },
            };
            match host.make_uplink(namespace, &spec).await {
                Err(taken) if taken.is_taken() && tried.len() < ATTEMPTS => {
                    tracing::debug!(%address, "somebody else took this address first");
                    tried.push(address);
                    host.remove_uplink(uplink, namespace).await?;
                    host.remove_table(table).await?;
                }
                made => return Ok(made?),
            }
        }
    }

    /// Lets go of what the handles name. Before the namespace: its end in the host goes at once, not when
    /// the kernel finds the time.
    pub(super) async fn release_link(
        &self,
        host: &dyn Host,
        handles: &VMHandles,
    ) -> Result<(), NetworkError> {
        match (&handles.uplink, &handles.namespace) {
            (Some(uplink), Some(namespace)) => Ok(host.remove_uplink(uplink, namespace).await?),
            _ => Ok(()),
        }
    }

    /// Lets go of the rules, last of all: nothing gets by while they go.
    pub(super) async fn release_rules(
        &self,
        host: &dyn Host,
        handles: &VMHandles,
    ) -> Result<(), NetworkError> {
        match &handles.nft_table {
            Some(table) => Ok(host.remove_table(table).await?),
            None => Ok(()),
        }
    }

    fn way(
        &self,
        neighbourhood: &Neighbourhood,
        uplink: &str,
        seed: &str,
    ) -> Result<Way, NetworkError> {
        choose::way(&self.config, neighbourhood, uplink, seed)
    }
}
