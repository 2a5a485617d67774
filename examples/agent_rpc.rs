//! Drives a program that speaks JSON, a line a message, as coding agents do: requests by `send`, which
//! says whether they arrived, and answers by an attach, which can be left and taken up at the next byte.

use banger_core::{
    AttachEnd, AttachEvent, AttachRequest, CreateRequest, LogStart, Progress, SessionAttach,
    SessionRequest, Stream,
};
use banger_examples::{AnyError, engine};

/// What stands for an agent: it answers each request with its id, and ends when it is told to.
const AGENT: &str = r#"while IFS= read -r request; do
  id=${request#*\"id\":}; id=${id%%[!0-9]*}
  printf '{"id":%s,"result":"done on %s"}\n' "$id" "$(hostname)"
  case $request in *'"shutdown"'*) exit 0;; esac
done"#;

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let engine = engine().await?;
    let progress = Progress::silent();
    let vm = engine.create(CreateRequest::default(), &progress).await?;
    let vm = vm.name.as_str();
    engine.start(vm, &progress).await?;

    let request = SessionRequest::new(["sh", "-c", AGENT]);
    let request = request.named("agent".parse()?).reading();
    engine.session_start(vm, request).await?;

    let mut answers = Answers::new(engine.session_attach(vm, "agent", from(0)).await?);
    engine
        .session_send(vm, "agent", request_line(1, "edit").as_bytes())
        .await?;
    println!("<- {}", answers.line().await?);

    // We go away in the middle of the conversation; a request is answered meanwhile.
    let seen = answers.offset;
    drop(answers);
    engine
        .session_send(vm, "agent", request_line(2, "test").as_bytes())
        .await?;
    let mut answers = Answers::new(engine.session_attach(vm, "agent", from(seen)).await?);
    println!("<- {}", answers.line().await?);

    engine
        .session_send(vm, "agent", request_line(3, "shutdown").as_bytes())
        .await?;
    println!("<- {}", answers.line().await?);
    println!("the agent ended: {:?}", answers.end().await);
    engine.delete(vm).await?;
    Ok(())
}

fn request_line(id: u32, method: &str) -> String {
    println!("-> {method}");
    format!("{{\"id\":{id},\"method\":\"{method}\"}}\n")
}

fn from(offset: u64) -> AttachRequest {
    AttachRequest {
        stdout: LogStart::Offset(offset),
        ..AttachRequest::by("the example agent_rpc")
    }
}

/// Whole lines of an attached session's standard output.
struct Answers {
    attach: SessionAttach,
    buffer: Vec<u8>,
    /// The first byte of the log that no line was made of.
    offset: u64,
}

impl Answers {
    fn new(attach: SessionAttach) -> Self {
        Answers {
            attach,
            buffer: Vec::new(),
            offset: 0,
        }
    }

    async fn line(&mut self) -> Result<String, AnyError> {
        loop {
            if let Some(end) = self.buffer.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                self.offset += line.len() as u64;
                return Ok(String::from_utf8(line)?.trim_end().to_owned());
            }
            match self.attach.next().await {
                AttachEvent::Output {
                    stream: Stream::Stdout,
                    offset,
                    bytes,
                } => {
                    self.offset = offset - self.buffer.len() as u64;
                    self.buffer.extend(bytes);
                }
                AttachEvent::Output { .. } => {}
                other => return Err(format!("no answer: {other:?}").into()),
            }
        }
    }

    async fn end(&mut self) -> AttachEnd {
        loop {
            if let AttachEvent::Ended(end) = self.attach.next().await {
                return end;
            }
        }
    }
}
