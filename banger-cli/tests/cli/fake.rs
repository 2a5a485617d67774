//! A daemon that answers as it is told.

use std::collections::HashMap;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use banger_daemon::protocol::{
    CODE_FAILED, DaemonStatus, ErrorData, Method, Notification, PROGRESS, ProgressParams, Request,
    Response, RpcError, STREAM_OPEN, TicketAnswer, VmExec,
};
use banger_session::mux::{Control, Decoder, Frame, Stream, encode, encode_control, encode_end};
use serde_json::{Value, json};

use crate::answers;
use crate::banger::World;

/// Listens until the test ends.
pub(crate) struct FakeDaemon {
    script: Arc<Script>,
}

/// What a method is answered with; the last one is for all further calls.
pub(crate) enum Reply {
    Answer(Value),
    Error(RpcError),
    /// Stages first.
    After(Vec<(&'static str, &'static str)>, Box<Reply>),
    /// The connection is closed instead.
    HangUp,
    /// No answer, ever.
    Silence,
}

type StreamScript = dyn Fn(&mut Guest) + Send + Sync;

#[derive(Default)]
struct Script {
    replies: Mutex<HashMap<&'static str, Vec<Reply>>>,
    requests: Mutex<Vec<(String, Value)>>,
    stream: Mutex<Option<Arc<StreamScript>>>,
}

impl FakeDaemon {
    /// Listens where `world`'s `banger` looks; answers `daemon.status` by itself.
    pub(crate) fn start(world: &World) -> Self {
        fs::create_dir_all(world.socket().parent().unwrap()).unwrap();
        let listener = UnixListener::bind(world.socket()).unwrap();
        let script = Arc::new(Script::default());
        let daemon = FakeDaemon {
            script: Arc::clone(&script),
        };
        daemon.on::<DaemonStatus>([Reply::Answer(json!(answers::status()))]);
        thread::spawn(move || {
            for connection in listener.incoming() {
                let script = Arc::clone(&script);
                thread::spawn(move || serve(&connection.unwrap(), &script));
            }
        });
        daemon
    }

    /// Says what a method is answered with, in turn.
    pub(crate) fn on<M: Method>(&self, replies: impl IntoIterator<Item = Reply>) {
        let mut replies: Vec<_> = replies.into_iter().collect();
        replies.reverse();
        self.script.replies.lock().unwrap().insert(M::NAME, replies);
    }

    /// Answers `vm.exec`, and has `guest` on the other end of its stream.
    pub(crate) fn on_exec(&self, guest: impl Fn(&mut Guest) + Send + Sync + 'static) {
        self.on::<VmExec>([ticket()]);
        self.on_stream(guest);
    }

    /// Has `guest` on the other end of every stream.
    pub(crate) fn on_stream(&self, guest: impl Fn(&mut Guest) + Send + Sync + 'static) {
        *self.script.stream.lock().unwrap() = Some(Arc::new(guest));
    }

    /// What was asked with this method, in order.
    pub(crate) fn asked<M: Method>(&self) -> Vec<M::Params> {
        let requests = self.script.requests.lock().unwrap();
        requests
            .iter()
            .filter(|(method, _)| method == M::NAME)
            .map(|(_, params)| serde_json::from_value(params.clone()).unwrap())
            .collect()
    }

    /// The methods that were asked for, in order, `daemon.status` left out.
    pub(crate) fn methods(&self) -> Vec<String> {
        let requests = self.script.requests.lock().unwrap();
        let methods = requests.iter().map(|(method, _)| method.clone());
        methods.filter(|m| m != DaemonStatus::NAME).collect()
    }
}

/// The ticket of a stream.
pub(crate) fn ticket() -> Reply {
    Reply::Answer(json!(TicketAnswer {
        note: None,
        ticket: "t1".to_owned(),
    }))
}

/// An error as the daemon tells it.
pub(crate) fn error(message: &str, causes: &[&str], hint: Option<&str>) -> Reply {
    Reply::Error(RpcError {
        code: CODE_FAILED,
        message: message.to_owned(),
        data: Some(ErrorData {
            kind: "failed".to_owned(),
            causes: causes.iter().map(|&cause| cause.to_owned()).collect(),
            hint: hint.map(str::to_owned),
            op_id: "op-1".to_owned(),
        }),
    })
}

/// The guest's end of a stream.
pub(crate) struct Guest {
    connection: UnixStream,
    decoder: Decoder,
}

impl Guest {
    pub(crate) fn says(&mut self, stream: Stream, bytes: &[u8]) {
        let mut wire = Vec::new();
        encode(stream, bytes, &mut wire);
        // `banger` may have gone; the test looks at what it left.
        let _ = self.connection.write_all(&wire);
    }

    pub(crate) fn tells(&mut self, control: &Control) {
        let mut wire = Vec::new();
        encode_control(control, &mut wire).unwrap();
        let _ = self.connection.write_all(&wire);
    }

    pub(crate) fn ends(&mut self, control: &Control) {
        let mut wire = Vec::new();
        encode_end(Stream::Stdout, &mut wire);
        encode_end(Stream::Stderr, &mut wire);
        encode_control(control, &mut wire).unwrap();
        let _ = self.connection.write_all(&wire);
    }

    pub(crate) fn exits(&mut self, exit_code: i32) {
        self.ends(&Control::Exit { exit_code });
    }

    /// The next frame; `None` when `banger` has closed the stream.
    pub(crate) fn hears(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.decoder.next_frame().unwrap() {
                return Some(frame);
            }
            let mut bytes = [0; 65536];
            match self.connection.read(&mut bytes) {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.decoder.push(&bytes[..count]),
            }
        }
    }

    /// All input up to its end.
    pub(crate) fn reads_all(&mut self) -> Vec<u8> {
        let mut input = Vec::new();
        while let Some(frame) = self.hears() {
            match frame {
                Frame::Data { bytes, .. } => input.extend(bytes),
                Frame::End { .. } => break,
                Frame::Control(_) => {}
            }
        }
        input
    }

    /// Waits for a signal and returns its name.
    pub(crate) fn is_signalled(&mut self) -> Option<String> {
        while let Some(frame) = self.hears() {
            if let Frame::Control(Control::Signal { signal }) = frame {
                return Some(signal);
            }
        }
        None
    }
}

fn serve(connection: &UnixStream, script: &Script) {
    let mut reader = BufReader::new(connection.try_clone().unwrap());
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap_or(0) == 0 {
            return;
        }
        if let Ok(request) = serde_json::from_str::<Request>(&line) {
            let asked = (request.method.clone(), request.params.clone());
            script.requests.lock().unwrap().push(asked);
            let mut replies = script.replies.lock().unwrap();
            let replies = replies
                .get_mut(request.method.as_str())
                .unwrap_or_else(|| panic!("nothing to answer to {}", request.method));
            let reply = match replies.len() {
                1 => &replies[0],
                _ => &replies.pop().unwrap(),
            };
            if !answer(connection, request.id, reply) {
                return;
            }
            continue;
        }
        let open: Notification = serde_json::from_str(&line).unwrap();
        assert_eq!(open.method, STREAM_OPEN);
        assert_eq!(open.params, json!({"ticket": "t1"}));
        let guest = script.stream.lock().unwrap().clone().unwrap();
        let mut decoder = Decoder::new();
        decoder.push(reader.buffer());
        guest(&mut Guest {
            connection: connection.try_clone().unwrap(),
            decoder,
        });
        let _ = connection.shutdown(std::net::Shutdown::Both);
        return;
    }
}

/// Answers; false if the connection is to be closed.
fn answer(mut connection: &UnixStream, id: u64, reply: &Reply) -> bool {
    let (result, error) = match reply {
        Reply::Answer(value) => (Some(value.clone()), None),
        Reply::Error(error) => (None, Some(error.clone())),
        Reply::After(stages, reply) => {
            for (stage, text) in stages {
                let progress = Notification {
                    jsonrpc: "2.0".to_owned(),
                    method: PROGRESS.to_owned(),
                    params: json!(ProgressParams {
                        id,
                        stage: (*stage).to_owned(),
                        text: (*text).to_owned(),
                    }),
                };
                let _ = connection.write_all(format!("{}\n", json!(progress)).as_bytes());
            }
            return answer(connection, id, reply);
        }
        Reply::HangUp => {
            let _ = connection.shutdown(std::net::Shutdown::Both);
            return false;
        }
        Reply::Silence => return true,
    };
    let response = Response {
        jsonrpc: "2.0".to_owned(),
        id: Some(id),
        result,
        error,
    };
    let _ = connection.write_all(format!("{}\n", json!(response)).as_bytes());
    true
}
