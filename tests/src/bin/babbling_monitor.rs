//! A stand-in for QEMU or Firecracker, by the name that it is called by: it runs nothing, answers well enough
//! for a start, and rubbish when it is told to.
//!
//! It is told by a word in a file: `babble` beside the name that it is called by, from its first word on; or
//! `babble` beside its control socket, from then on.
//!
//! ```text
//! garbage     bytes that mean nothing
//! half        the beginning of an answer, and then nothing
//! endless     a line without an end
//! shape       an answer of another kind than was asked for
//! hangs-up    nothing: it closes the connection
//! flood       what nobody asked for, without end
//! ```

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

/// Whether a Firecracker was told to start its guest.
static STARTED: AtomicBool = AtomicBool::new(false);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Qemu,
    Firecracker,
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.iter().any(|word| word == "--version") {
        println!("Firecracker v1.15.1\n");
        return;
    }
    let called = PathBuf::from(&arguments[0]);
    let kind = match called.ends_with("firecracker") {
        true => Kind::Firecracker,
        false => Kind::Qemu,
    };
    let socket = socket(&arguments, kind).expect("a control socket");
    let babble = [
        called.with_file_name("babble"),
        socket.with_file_name("babble"),
    ];
    let first = word(&babble[0]);
    let listener = UnixListener::bind(&socket).expect("the socket is free");
    for stream in listener.incoming().flatten() {
        let (first, beside) = (first.clone(), babble[1].clone());
        std::thread::spawn(move || {
            let monitor = Monitor {
                kind,
                first,
                beside,
            };
            // An error is the client's: it has had enough.
            let _ = monitor.serve(&stream);
        });
    }
}

fn socket(arguments: &[String], kind: Kind) -> Option<PathBuf> {
    let mut words = arguments.iter();
    let found = match kind {
        Kind::Firecracker => {
            words.find(|word| *word == "--api-sock")?;
            words.next()?
        }
        Kind::Qemu => words
            .find(|word| word.starts_with("socket,id=api,"))?
            .split("path=")
            .nth(1)?,
    };
    Some(found.into())
}

fn word(file: &Path) -> Option<String> {
    let text = std::fs::read_to_string(file).ok()?;
    Some(text.trim().to_owned())
}

struct Monitor {
    kind: Kind,
    first: Option<String>,
    beside: PathBuf,
}

impl Monitor {
    fn babble(&self) -> Option<String> {
        self.first.clone().or_else(|| word(&self.beside))
    }

    fn serve(&self, stream: &UnixStream) -> std::io::Result<()> {
        let mut read = BufReader::new(stream);
        let mut write = stream;
        if self.kind == Kind::Qemu && self.babble().is_none() {
            let version = json!({"qemu": {"major": 7, "minor": 2, "micro": 0}, "package": ""});
            let greeting = json!({"QMP": {"version": version, "capabilities": ["oob"]}});
            writeln!(write, "{greeting}\r")?;
        }
        // One that was told to babble does not wait to be asked.
        let tick = Duration::from_millis(20);
        loop {
            if let Some(word) = self.babble() {
                return self.rubbish(&word, stream);
            }
            stream.set_read_timeout(Some(tick))?;
            match read.fill_buf() {
                Ok([]) => return Ok(()),
                Ok(_) => {}
                Err(_) => continue,
            }
            stream.set_read_timeout(None)?;
            match self.kind {
                Kind::Qemu => {
                    let mut line = String::new();
                    read.read_line(&mut line)?;
                    let asked: Value = serde_json::from_str(&line)?;
                    let answer = match asked["execute"].as_str() {
                        Some("human-monitor-command") => json!(""),
                        Some("query-status") => json!({"status": "running", "running": true}),
                        _ => json!({}),
                    };
                    let answer = json!({"return": answer, "id": asked["id"]});
                    writeln!(write, "{answer}\r")?;
                }
                Kind::Firecracker => {
                    let request = request(&mut read)?;
                    if request.starts_with("PUT /actions") {
                        STARTED.store(true, Ordering::Relaxed);
                    }
                    let state = match STARTED.load(Ordering::Relaxed) {
                        true => "Running",
                        false => "Not started",
                    };
                    let about = json!({
                        "id": "x", "state": state, "vmm_version": "1.15.1", "app_name": "Firecracker",
                    });
                    let answer = match request.starts_with("GET") {
                        true => ok(&about.to_string()),
                        false => "HTTP/1.1 204 \r\nConnection: keep-alive\r\n\r\n".to_owned(),
                    };
                    write.write_all(answer.as_bytes())?;
                }
            }
        }
    }

    fn rubbish(&self, word: &str, mut stream: &UnixStream) -> std::io::Result<()> {
        let is_qemu = self.kind == Kind::Qemu;
        match word {
            "hangs-up" => return Ok(()),
            "garbage" => stream.write_all(b"\x00\xff rubbish\r\n\r\n")?,
            "half" if is_qemu => stream.write_all(b"{\"return\": {")?,
            "half" => stream.write_all(b"HTTP/1.1 200 ")?,
            "shape" if is_qemu => stream.write_all(b"[1, 2]\r\n")?,
            "shape" => stream.write_all(ok("[1, 2]").as_bytes())?,
            "endless" => loop {
                stream.write_all(&[b'['; 4096])?;
            },
            "flood" if is_qemu => loop {
                stream.write_all(b"{\"event\": \"STOP\", \"timestamp\": {\"seconds\": 1}}\r\n")?;
            },
            "flood" => loop {
                stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            },
            other => panic!("{other}?"),
        }
        // It stays on the line.
        stream.set_read_timeout(None)?;
        stream.read_to_end(&mut Vec::new()).map(drop)
    }
}

/// Reads a request to its end, and returns its first line.
fn request(read: &mut impl BufRead) -> std::io::Result<String> {
    let (mut first, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        if read.read_line(&mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if first.is_empty() {
            line.clone_into(&mut first);
        }
        let header = line.to_ascii_lowercase();
        if let Some(bytes) = header.strip_prefix("content-length:") {
            length = bytes.trim().parse().unwrap_or(0);
        }
    }
    read.take(length).read_to_end(&mut Vec::new())?;
    Ok(first)
}

fn ok(body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )
}
