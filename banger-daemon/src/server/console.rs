//! The serial console: attached to by a stream, and its log followed by another.
//!
//! ```text
//! client ── frames ─► keyboard
//! client ◄─ frames ── 64 pieces ◄── the console, which is read without a pause
//! ```
//!
//! A guest stands still while nobody takes what it writes, and a client may be slow or stopped: what has
//! no room then is dropped, and the client is told.

use banger_core::{Console, ConsoleLog, Error};
use banger_session::mux::{Control, Frame, Stream};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;

use super::fault::Fault;
use super::hangup::Hangup;
use super::methods::Operation;
use super::stop::Stop;
use super::tickets::Held;
use crate::protocol::{LogsParams, TicketAnswer, VmParams};
use crate::stream::{StreamError, StreamReader, StreamWriter};

/// How many pieces wait for a client.
const PIECES: usize = 64;

impl Operation {
    pub(super) async fn console(&self, params: VmParams) -> Result<TicketAnswer, Fault> {
        let console = self.engine().console(&params.vm).await?;
        let ticket = self
            .shared
            .tickets
            .issue(Held::Console(Box::new(console)))?;
        Ok(TicketAnswer { ticket, note: None })
    }

    pub(super) async fn follow_logs(&self, params: LogsParams) -> Result<TicketAnswer, Fault> {
        let log = self.engine().console_log(&params.vm, params.lines).await?;
        let ticket = self.shared.tickets.issue(Held::ConsoleLog(log))?;
        Ok(TicketAnswer { ticket, note: None })
    }
}

/// Carries a console until its client leaves or its VM ends.
pub(super) async fn serve_console(
    mut console: Console,
    mut read: StreamReader,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let (to_client, mut pieces) = mpsc::channel(PIECES);
    let (screen, keyboard) = (console.take_screen(), console.take_input());
    let typing = async {
        let Some(mut keyboard) = keyboard else {
            return;
        };
        // A client that says no more may listen on; one that is gone is noticed by its hang-up.
        while let Ok(Some(frame)) = read.next_frame().await {
            if let Frame::Data { bytes, .. } = frame
                && (keyboard.write_all(&bytes).await.is_err() || keyboard.flush().await.is_err())
            {
                break;
            }
        }
        std::future::pending().await
    };
    let reading = async {
        let mut dropped = 0;
        while let Some(piece) = console.next().await {
            if dropped > 0 {
                let notice = format!("\r\n[banger: {dropped} bytes were dropped here]\r\n");
                if to_client.try_send(notice.into_bytes()).is_ok() {
                    dropped = 0;
                }
            }
            if let Err(refused) = to_client.try_send(piece) {
                dropped += refused.into_inner().len();
            }
        }
        drop(to_client);
        std::future::pending::<()>().await
    };
    let telling = async {
        write.send_control(&Control::Started { pid: None }).await?;
        write.send_data(Stream::Stdout, &screen).await?;
        while let Some(piece) = pieces.recv().await {
            write.send_data(Stream::Stdout, &piece).await?;
        }
        write.send_control(&Control::Exit { exit_code: 0 }).await
    };
    let told: Result<(), StreamError> = tokio::select! {
        told = telling => told,
        () = typing => Ok(()),
        () = reading => Ok(()),
        () = hangup.happened() => Ok(()),
        () = stop.asked() => Ok(()),
    };
    if let Err(error) = told {
        tracing::debug!(%error, "the client of a console is gone");
    }
}

/// Sends a console's log until its VM ends.
pub(super) async fn serve_log(
    mut log: ConsoleLog,
    mut write: StreamWriter,
    hangup: &Hangup,
    stop: &Stop,
) {
    let telling = async {
        loop {
            match log.next().await {
                Ok(Some(piece)) => write.send_data(Stream::Stdout, &piece).await?,
                Ok(None) => return write.send_control(&Control::Exit { exit_code: 0 }).await,
                Err(error) => return write.send_control(&lost(&error)).await,
            }
        }
    };
    let told: Result<(), StreamError> = tokio::select! {
        told = telling => told,
        () = hangup.happened() => Ok(()),
        () = stop.asked() => Ok(()),
    };
    if let Err(error) = told {
        tracing::debug!(%error, "the reader of a console's log is gone");
    }
}

fn lost(error: &Error) -> Control {
    Control::Lost {
        error: error.chain().join(": "),
    }
}
