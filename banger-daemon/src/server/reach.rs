//! The methods by which guests are reached from the outside.

use super::fault::Fault;
use super::methods::Operation;
use super::tickets::Held;
use crate::protocol::{DialParams, HostKeyAnswer, SshClientAnswer, TicketAnswer, VmParams};

impl Operation {
    pub(super) async fn dial(&self, params: DialParams) -> Result<TicketAnswer, Fault> {
        let dialled = self.engine().dial(&params.vm, params.port, &self.progress);
        let socket = self.waiting_for_guest(&params.vm, dialled).await?;
        let ticket = self.shared.tickets.issue(Held::Socket(socket))?;
        Ok(TicketAnswer { ticket, note: None })
    }

    pub(super) async fn host_key(&self, params: VmParams) -> Result<HostKeyAnswer, Fault> {
        let key = self.engine().host_key(&params.vm).await?;
        Ok(HostKeyAnswer { key })
    }

    pub(super) async fn ssh_client(&self) -> Result<SshClientAnswer, Fault> {
        let client = self.engine().ssh_client().await?;
        Ok(SshClientAnswer {
            identity: client.identity,
            first_cipher: client.first_cipher.map(str::to_owned),
        })
    }
}
