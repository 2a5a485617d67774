//! The simulator's transport.

use async_trait::async_trait;
use std::time::Duration;

use super::{GuestConnection, GuestTarget, GuestTransport, TransportError};
use crate::host::Host;

/// The transport `sim`.
#[derive(Debug)]
pub struct SimTransport;

#[async_trait]
impl GuestTransport for SimTransport {
    async fn connect(
        &self,
        _host: &dyn Host,
        target: &GuestTarget,
        _limit: Duration,
    ) -> Result<Box<dyn GuestConnection>, TransportError> {
        Err(TransportError::NoWayIn {
            vm: target.name.clone(),
        })
    }

    async fn resume(
        &self,
        _host: &dyn Host,
        _target: &GuestTarget,
    ) -> Option<Box<dyn GuestConnection>> {
        None
    }

    async fn disconnect(
        &self,
        _host: &dyn Host,
        _target: &GuestTarget,
    ) -> Result<(), TransportError> {
        Ok(())
    }
}
