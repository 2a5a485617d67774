//! One client's connection: requests in, answers and progress out.

use std::sync::Arc;
use std::time::Duration;

use banger_core::Progress;
use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::Shared;
use super::ephemeral::Ephemerals;
use super::exec;
use super::fault::{Fault, in_one_line};
use super::hangup::Hangup;
use super::methods::Operation;
use super::request::{self, Asked, Refused};
use super::stop::Stop;
use crate::line::{Line, LineReader};
use crate::protocol::{
    MAX_LINE_BYTES, METHODS, Notification, PROGRESS, ProgressParams, Response, RpcError,
};
use crate::stream::{StreamReader, StreamWriter};

/// How many requests a client may have at work or unread; the next one is read when one is through.
const ABREAST: usize = 64;

/// How long answers may take to be written after the daemon was told to end.
const FAREWELL: Duration = Duration::from_secs(5);

/// Serves one client until it is gone.
pub(super) async fn converse(shared: Arc<Shared>, stream: UnixStream) {
    let hangup = match Hangup::of(&stream) {
        Ok(hangup) => hangup,
        Err(error) => {
            tracing::warn!(%error, "cannot watch a connection");
            return;
        }
    };
    let (read, write) = stream.into_split();
    let mut lines = LineReader::new(read, MAX_LINE_BYTES);
    // All three are cancel-safe.
    let first = tokio::select! {
        line = lines.next() => line,
        () = hangup.happened() => return,
        () = shared.stop.asked() => return,
    };
    if let Ok(Line::Whole(line)) = &first
        && let Ok(Asked::Stream { ticket }) = request::read(line)
    {
        let (read, already) = lines.into_parts();
        let (read, write) = (StreamReader::new(read, &already), StreamWriter::new(write));
        return exec::serve_stream(&shared, &ticket, read, write, hangup).await;
    }
    let connection = Connection {
        ephemerals: Arc::default(),
        gone: Stop::default(),
        places: Arc::new(Semaphore::new(ABREAST)),
        shared,
    };
    connection.serve(first.ok(), lines, write, &hangup).await;
    connection.gone.ask();
    connection
        .ephemerals
        .delete(&connection.shared.engine)
        .await;
}

struct Connection {
    shared: Arc<Shared>,
    ephemerals: Arc<Ephemerals>,
    /// Asked when it has ended, for what is only made while somebody waits.
    gone: Stop,
    places: Arc<Semaphore>,
}

/// A line for the client. An answer keeps its request's place until it is written.
struct Outgoing {
    line: Vec<u8>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connection {
    async fn serve(
        &self,
        first: Option<Line>,
        mut lines: LineReader<OwnedReadHalf>,
        write: OwnedWriteHalf,
        hangup: &Hangup,
    ) {
        let (out, outgoing) = unbounded_channel();
        let mut writer = tokio::spawn(write_lines(write, outgoing));
        let mut first = first;
        loop {
            let next = async {
                // It is closed by nobody.
                let place = self.places.clone().acquire_owned().await.ok();
                let line = match first.take() {
                    Some(line) => Ok(line),
                    None => lines.next().await,
                };
                (place, line)
            };
            // All three are cancel-safe, `next` because `first` is taken without a wait after it.
            let (place, line) = tokio::select! {
                next = next => next,
                () = hangup.happened() => break,
                () = self.shared.stop.asked() => break,
            };
            match line {
                Ok(Line::Whole(line)) if line.trim_ascii().is_empty() => {}
                Ok(Line::Whole(line)) => self.take_up(&line, place, &out),
                Ok(Line::TooLong) => {
                    let fault = Fault::LineTooLong {
                        limit: MAX_LINE_BYTES,
                    };
                    self.refuse(Refused { id: None, fault }, &out);
                    break;
                }
                Ok(Line::End) | Err(_) => break,
            }
        }
        // What is at work is answered still: each request holds an `out`, and the writer ends with the
        // last of them. Unless nobody listens any more.
        drop(out);
        let stop = &self.shared.stop;
        let stopped = async {
            stop.asked().await;
            tokio::time::sleep(FAREWELL).await;
        };
        tokio::select! {
            _ = &mut writer => {}
            () = hangup.happened() => writer.abort(),
            () = stopped => writer.abort(),
        }
    }

    /// Carries out one request in a task of its own. It goes on when the client is gone: whoever
    /// begins a verb ends it.
    fn take_up(
        &self,
        line: &[u8],
        place: Option<OwnedSemaphorePermit>,
        out: &UnboundedSender<Outgoing>,
    ) {
        let (id, method, params) = match request::read(line) {
            Ok(Asked::Call { id, method, params }) => (id, method, params),
            Ok(Asked::Stream { .. }) => {
                let reason = "only the first line of a connection can open a stream";
                let fault = Fault::NoRequest { reason };
                return self.refuse(Refused { id: None, fault }, out);
            }
            Err(refused) => return self.refuse(refused, out),
        };
        let op_id = self.shared.next_operation();
        // What a client makes up does not go into the log in full.
        let known = METHODS.iter().find(|known| **known == method);
        let span = tracing::info_span!("op", op_id, method = known.unwrap_or(&"unknown"));
        let operation = Operation {
            shared: self.shared.clone(),
            ephemerals: self.ephemerals.clone(),
            gone: self.gone.clone(),
            progress: progress_of(id, out),
        };
        let out = out.clone();
        let work = async move {
            let begun = std::time::Instant::now();
            // In a task of its own: a panic is answered like any other failure.
            let done = tokio::spawn(
                async move { operation.carry_out(&method, params).await }.in_current_span(),
            );
            let done = done.await.unwrap_or_else(|failed| {
                Err(Fault::Bug {
                    reason: failed.to_string(),
                })
            });
            let took = begun.elapsed();
            let done = done.map_err(|fault| fault.into_rpc(op_id));
            match &done {
                Ok(_) => tracing::debug!(?took, "done"),
                Err(error) => tracing::info!(?took, error = in_one_line(error), "failed"),
            }
            send(&out, &response(Some(id), done), place);
        };
        tokio::spawn(work.instrument(span));
    }

    fn refuse(&self, refused: Refused, out: &UnboundedSender<Outgoing>) {
        let op_id = self.shared.next_operation();
        let error = refused.fault.into_rpc(op_id);
        tracing::info!(error = in_one_line(&error), "refused a line");
        send(out, &response(refused.id, Err(error)), None);
    }
}

/// Passes stages on as notifications. They go the way of the answer, and so come before it.
fn progress_of(id: u64, out: &UnboundedSender<Outgoing>) -> Progress {
    let out = out.clone();
    Progress::new(move |stage| {
        let params = ProgressParams {
            id,
            stage: stage.name,
            text: stage.text,
        };
        let notification = Notification {
            jsonrpc: "2.0".to_owned(),
            method: PROGRESS.to_owned(),
            params: serde_json::to_value(params).unwrap_or_default(),
        };
        send(&out, &notification, None);
    })
}

fn response(id: Option<u64>, done: Result<Value, RpcError>) -> Response {
    let jsonrpc = "2.0".to_owned();
    let (result, error) = match done {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    Response {
        jsonrpc,
        id,
        result,
        error,
    }
}

fn send(
    out: &UnboundedSender<Outgoing>,
    message: &impl serde::Serialize,
    place: Option<OwnedSemaphorePermit>,
) {
    // Our own types, with text keys throughout: this cannot fail.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    // If the client is gone there is nobody to tell.
    let _ = out.send(Outgoing {
        line,
        _place: place,
    });
}

/// Writes what there is in one go, until nobody can have anything more to say.
async fn write_lines(mut write: OwnedWriteHalf, mut outgoing: UnboundedReceiver<Outgoing>) {
    let mut batch = Vec::new();
    while outgoing.recv_many(&mut batch, ABREAST).await > 0 {
        let lines: Vec<&[u8]> = batch.iter().map(|out| out.line.as_slice()).collect();
        if write.write_all(&lines.concat()).await.is_err() {
            return;
        }
        batch.clear();
    }
}
