//! Monitors that answer rubbish: what the real clients make of them. The other end of the socket is ours.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use super::{FirecrackerVmm, QemuVmm, Vmm, VmmControl, VmmError};
use crate::choice::Usable;
use crate::host::{LinuxHost, LinuxHostConfig};
use crate::vm::VmmKind;

/// What a monitor says in place of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rubbish {
    /// Bytes that mean nothing, with newlines among them.
    Garbage,
    /// The beginning of an answer, and then nothing.
    HalfALine,
    /// A line that never ends.
    AnEndlessLine,
    /// An answer that begins as it should and never ends.
    AnEndlessAnswer,
    /// An answer that is well formed and of another kind than was asked for.
    AnotherShape,
    /// Nothing: it hangs up.
    HangsUp,
    /// What nobody asked for, without end, and never the answer.
    AFlood,
}

const ALL: [Rubbish; 7] = [
    Rubbish::Garbage,
    Rubbish::HalfALine,
    Rubbish::AnEndlessLine,
    Rubbish::AnEndlessAnswer,
    Rubbish::AnotherShape,
    Rubbish::HangsUp,
    Rubbish::AFlood,
];

/// When it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum From {
    TheFirstWord,
    TheSecondCall,
}

/// A monitor's limit here: whoever waits for its answer waits so long.
const LIMIT: Duration = Duration::from_millis(400);

/// What a client may take in before it has had enough, in bytes.
const ENOUGH: u64 = 8 << 20;

/// How QEMU greets.
const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "#,
    r#""capabilities": ["oob"]}}"#,
    "\r\n"
);

/// A monitor that is none.
struct Impostor {
    socket: PathBuf,
    /// What it could get rid of since it began to speak rubbish.
    said: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

impl Impostor {
    fn new(kind: VmmKind, rubbish: Rubbish, from: From) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("api.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let said = Arc::new(AtomicU64::new(0));
        let count = said.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, kind, rubbish, from, count.clone()));
            }
        });
        Impostor {
            socket,
            said,
            _folder: folder,
        }
    }

    async fn connect(&self, vmm: &dyn Vmm) -> Result<Box<dyn VmmControl>, VmmError> {
        let host = LinuxHost::new(LinuxHostConfig::default());
        let connecting = vmm.connect(&host, &self.socket, LIMIT);
        soon("connect", connecting).await
    }
}

async fn serve(
    stream: UnixStream,
    kind: VmmKind,
    rubbish: Rubbish,
    from: From,
    said: Arc<AtomicU64>,
) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    match (kind, from) {
        (VmmKind::Qemu, From::TheFirstWord) => {}
        (VmmKind::Qemu, From::TheSecondCall) => {
            write.write_all(GREETING.as_bytes()).await?;
            let id = asked(&mut read).await?;
            let answer = format!("{{\"return\": {{}}, \"id\": {id}}}\r\n");
            write.write_all(answer.as_bytes()).await?;
            asked(&mut read).await?;
        }
        (_, From::TheFirstWord) => requested(&mut read).await?,
        (_, From::TheSecondCall) => {
            requested(&mut read).await?;
            let body = r#"{"id":"x","state":"Not started","vmm_version":"1.15.1","app_name":"Firecracker"}"#;
            write.write_all(ok(body).as_bytes()).await?;
            requested(&mut read).await?;
        }
    }
    let mut say = async |words: &[u8]| -> std::io::Result<()> {
        write.write_all(words).await?;
        said.fetch_add(words.len() as u64, Ordering::Relaxed);
        Ok(())
    };
    match (rubbish, kind) {
        (Rubbish::HangsUp, _) => return Ok(()),
        (Rubbish::Garbage, _) => say(b"\x00\xff\xfe rubbish\r\nmore of it\r\n\r\n").await?,
        (Rubbish::HalfALine, VmmKind::Qemu) => say(b"{\"return\": {").await?,
        (Rubbish::HalfALine, _) => say(b"HTTP/1.1 200 ").await?,
        (Rubbish::AnEndlessLine | Rubbish::AnEndlessAnswer, _) => {
            say(match (rubbish, kind) {
                (Rubbish::AnEndlessLine, VmmKind::Qemu) => "",
                (Rubbish::AnEndlessLine, _) => "HTTP/1.1 200 OK\r\nServer: ",
                (_, VmmKind::Qemu) => "{\"return\": [",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 999999999999\r\n\r\n",
            }
            .as_bytes())
            .await?;
            let piece = [b'['; 64 << 10];
            while said_less_than(&said, 10 * ENOUGH) {
                say(&piece).await?;
            }
        }
        (Rubbish::AnotherShape, VmmKind::Qemu) => say(b"[1, {\"return\": 2}, \"QMP\"]\r\n").await?,
        (Rubbish::AnotherShape, _) => say(ok("[1, 2]").as_bytes()).await?,
        (Rubbish::AFlood, VmmKind::Qemu) => loop {
            let time = r#""timestamp": {"seconds": 1, "microseconds": 2}"#;
            say(format!("{{\"event\": \"STOP\", {time}}}\r\n").as_bytes()).await?;
        },
        (Rubbish::AFlood, _) => loop {
            say(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        },
    }
    // It stays on the line, and says nothing more.
    read.read_to_end(&mut Vec::new()).await.map(drop)
}

fn said_less_than(said: &AtomicU64, limit: u64) -> bool {
    said.load(Ordering::Relaxed) < limit
}

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a line of QMP, and returns the id that its answer must have.
async fn asked(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<serde_json::Value> {
    let mut line = String::new();
    read.read_line(&mut line).await?;
    let asked: serde_json::Value = serde_json::from_str(&line)?;
    Ok(asked["id"].clone())
}

/// Reads a request of HTTP, of which none here has a body.
async fn requested(read: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<()> {
    let mut line = String::new();
    while line.trim_end() != "" || line.is_empty() {
        line.clear();
        if read.read_line(&mut line).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(())
}

/// What must not take longer than a few limits.
async fn soon<T>(what: &str, act: impl Future<Output = T>) -> T {
    let asked = Instant::now();
    match tokio::time::timeout(Duration::from_secs(20), act).await {
        Ok(done) => {
            println!("{what}: {:?}", asked.elapsed());
            done
        }
        Err(_) => panic!("{what} hangs"),
    }
}

fn vmms() -> [(VmmKind, Box<dyn Vmm>); 2] {
    [
        (VmmKind::Qemu, Box::new(QemuVmm::default())),
        (VmmKind::Firecracker, Box::new(FirecrackerVmm)),
    ]
}

/// Silence is told as silence, and everything else as what was said.
fn is_told(what: &str, kind: VmmKind, (rubbish, from): (Rubbish, From), error: &VmmError) {
    let text = error.to_string();
    println!("{what}: {text}");
    assert!(text.starts_with(kind.as_str()), "{what}: {text}");
    let right = match rubbish {
        // Its first word is to be its greeting.
        Rubbish::AFlood if kind == VmmKind::Qemu && from == From::TheFirstWord => {
            matches!(error, VmmError::Nonsense { .. })
        }
        Rubbish::HalfALine | Rubbish::AFlood => matches!(error, VmmError::Unresponsive { .. }),
        Rubbish::Garbage
        | Rubbish::AnEndlessLine
        | Rubbish::AnEndlessAnswer
        | Rubbish::AnotherShape => {
            matches!(error, VmmError::Nonsense { .. })
        }
        Rubbish::HangsUp => text.contains("hung up"),
    };
    assert!(right, "{what}: {error:?}");
    assert!(text.len() < 400, "{what}: {text}");
}

#[tokio::test]
async fn a_monitor_that_greets_with_rubbish_is_refused_within_its_limit_and_in_bounded_memory() {
    for (kind, vmm) in vmms() {
        for rubbish in ALL {
            let what = format!("{kind} {rubbish:?}");
            let impostor = Impostor::new(kind, rubbish, From::TheFirstWord);
            let error = impostor.connect(&*vmm).await.unwrap_err();
            is_told(&what, kind, (rubbish, From::TheFirstWord), &error);
            let said = impostor.said.load(Ordering::Relaxed);
            let endless = [Rubbish::AnEndlessLine, Rubbish::AnEndlessAnswer].contains(&rubbish);
            assert!(!endless || said < ENOUGH, "{what}: {said} bytes were taken");
        }
    }
}

#[tokio::test]
async fn a_monitor_that_answers_rubbish_later_fails_that_call_and_the_next_and_is_known_to_be_lost()
{
    for (kind, vmm) in vmms() {
        for rubbish in ALL {
            let what = format!("{kind} {rubbish:?}");
            let impostor = Impostor::new(kind, rubbish, From::TheSecondCall);
            let control = impostor.connect(&*vmm).await.unwrap();
            assert!(soon_lost(&*control).await.is_none(), "{what}: not yet");
            let error = soon(&what, control.resume()).await.unwrap_err();
            is_told(&what, kind, (rubbish, From::TheSecondCall), &error);
            // The next call neither waits for ever nor takes the last one's answer for its own.
            let next = soon(&what, control.resume()).await.unwrap_err();
            assert!(next.to_string().starts_with(kind.as_str()), "{next}");
            if matches!(
                rubbish,
                Rubbish::Garbage | Rubbish::AnEndlessLine | Rubbish::HangsUp
            ) {
                let why = soon_lost(&*control).await;
                assert!(why.is_some(), "{what}: nobody would seek it again");
            }
            let said = impostor.said.load(Ordering::Relaxed);
            let endless = [Rubbish::AnEndlessLine, Rubbish::AnEndlessAnswer].contains(&rubbish);
            assert!(!endless || said < ENOUGH, "{what}: {said} bytes were taken");
        }
    }
}

async fn soon_lost(control: &dyn VmmControl) -> Option<String> {
    let limit = Duration::from_millis(100);
    tokio::time::timeout(limit, control.lost()).await.ok()
}

/// A QEMU that answers as it should, with this in between.
async fn qemu_with(between: &'static str) -> (PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("api.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await?;
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        write.write_all(GREETING.as_bytes()).await?;
        loop {
            let id = asked(&mut read).await?;
            let answer = format!("{between}{{\"return\": {{}}, \"id\": {id}}}\r\n");
            write.write_all(answer.as_bytes()).await?;
        }
        #[allow(unreachable_code, reason = "it says what the loop may fail with")]
        std::io::Result::Ok(())
    });
    (socket, folder)
}

async fn qemu(socket: &Path) -> Box<dyn VmmControl> {
    let host = LinuxHost::new(LinuxHostConfig::default());
    QemuVmm::default()
        .connect(&host, socket, LIMIT)
        .await
        .unwrap()
}

#[tokio::test]
async fn an_event_that_qemu_has_learned_since_is_passed_over_and_the_end_is_still_told() {
    let time = r#""timestamp": {"seconds": 1, "microseconds": 2}"#;
    let newer = format!("{{\"event\": \"NEWER\", \"data\": {{\"a\": [1]}}, {time}}}\r\n");
    let down = format!(
        "{{\"event\": \"SHUTDOWN\", \"data\": {{\"guest\": true, \"reason\": \"guest-shutdown\"}}, {time}}}\r\n"
    );
    let (socket, _folder) = qemu_with(Box::leak(format!("{newer}{newer}{down}").into())).await;
    let control = qemu(&socket).await;
    for _ in 0..3 {
        control.resume().await.unwrap();
    }
    let mut reason = control.end_reason();
    let told = soon("the reason", reason.wait_for(Option::is_some)).await;
    assert_eq!(*told.unwrap(), Some(super::EndReason::PoweredOff));
}

#[tokio::test]
async fn an_answer_that_comes_too_late_is_not_taken_for_the_next_one_s() {
    let stale = "{\"return\": {\"late\": 1}, \"id\": 4711}\r\n";
    let (socket, _folder) = qemu_with(stale).await;
    let control = qemu(&socket).await;
    for _ in 0..3 {
        control.resume().await.unwrap();
    }
}

#[tokio::test]
async fn virtualisation_for_guests_is_refused_where_there_is_none_and_emulated_where_all_is() {
    let host = |kvm| {
        LinuxHost::new(LinuxHostConfig {
            kvm: Some(kvm),
            ..LinuxHostConfig::default()
        })
    };
    let firecracker = FirecrackerVmm.nests(&host(Ok(()))).await;
    assert_eq!(firecracker.usable, Usable::No);
    assert_eq!(firecracker.hint.as_deref(), Some("use the monitor qemu"));
    let emulated = host(Err("no /dev/kvm".to_owned()));
    let qemu = QemuVmm::default().nests(&emulated).await;
    assert_eq!(
        (qemu.usable, qemu.reason.as_str()),
        (Usable::Yes, "emulated: no /dev/kvm")
    );
    let parameter = Path::new("/sys/module/kvm_intel/parameters/nested");
    for (value, usable) in [
        (b"Y", Usable::Yes),
        (b"1", Usable::Yes),
        (b"N", Usable::No),
        (b"0", Usable::No),
    ] {
        let said = super::qemu::nested("kvm_intel", parameter, value);
        assert_eq!(said.usable, usable, "{said:?}");
        assert_eq!(said.hint.is_some(), usable == Usable::No);
    }
}
