//! The lab: banger boots a Debian VM that can run machines of its own, carries the tests that need root
//! into it, runs them there, and ends with their status. A line a test; what is skipped is counted.
//!
//! `BANGER_TEST_FIRECRACKER` names a Firecracker to carry in: without it, what needs one is skipped.
//! `BANGER_TEST_ALL=1` runs every combination of backends. Words given as arguments choose tests by their
//! names. `BANGER_LAB_KEEP=1` leaves the VM running, to be looked at.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use banger_core::{
    CreateRequest, Defaults, DialHelper, Engine, EngineConfig, Error, ExecEnd, ExecEvent,
    ExecRequest, ImageSpec, Internet, Mebibytes, Nesting, Progress,
};
use banger_tests::{binary, shared_images, target};

/// What runs the guests of a suite in the lab.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GuestsBy {
    /// QEMU's translator: what is tried is the host's side, and its guests need not get far.
    Emulation,
    /// The lab's own KVM.
    Kvm,
}

/// What is run in the lab, by package and test.
const SUITES: [(&str, &str, GuestsBy); 8] = [
    ("banger-core", "as_root", GuestsBy::Emulation),
    ("banger-core", "as_root_nat", GuestsBy::Emulation),
    ("banger-tests", "scopes", GuestsBy::Emulation),
    ("banger-tests", "firecracker", GuestsBy::Emulation),
    ("banger-tests", "lab_deaths", GuestsBy::Emulation),
    ("banger-tests", "kvm", GuestsBy::Kvm),
    ("banger-tests", "parity", GuestsBy::Kvm),
    ("banger-tests", "lab_firecracker", GuestsBy::Kvm),
];

impl GuestsBy {
    /// What a shell in the lab does before a test.
    ///
    /// Where the lab is emulated, its virtualisation is too, and with guests on two of its processors at
    /// once that breaks the lab's own kernel (QEMU 7.2 and 10.0: within ten boots of a guest with two, once
    /// in some hundred of guests with one). So they all stay on one, and have one virtual processor each.
    fn setup(self) -> &'static str {
        match self {
            GuestsBy::Emulation => "modprobe -r kvm_amd kvm_intel 2>/dev/null",
            GuestsBy::Kvm => {
                "modprobe kvm_amd 2>/dev/null || modprobe kvm_intel; taskset -cp 1 $$ >/dev/null"
            }
        }
    }
}

/// What the lab's image has besides every image's packages.
const PACKAGES: [&str; 7] = [
    "qemu-system-x86",
    "qemu-utils",
    "e2fsprogs",
    "openssh-client",
    "dmsetup",
    "nftables",
    // An ordinary user's own systemd.
    "libpam-systemd",
];

/// What a host of root's has loaded. One of the two that bring KVM is enough.
const PREPARE: &str = "modprobe -a dm_snapshot loop tun veth nf_tables
modprobe kvm_amd 2>/dev/null || modprobe kvm_intel
[ -c /dev/kvm ] && [ -c /dev/mapper/control ] && [ -c /dev/net/tun ]";

const NAME: &str = "lab";

#[tokio::main]
async fn main() -> ExitCode {
    match lab().await {
        Ok(tally) => {
            println!("lab: {tally}");
            ExitCode::from(u8::from(tally.failed > 0 || tally.passed == 0))
        }
        Err(error) => {
            eprintln!("lab: {}", error.chain().join(": "));
            ExitCode::from(2)
        }
    }
}

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: usize,
    skipped: usize,
    again: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally {
            passed,
            failed,
            skipped,
            again,
        } = self;
        write!(
            f,
            "{passed} passed, {failed} failed; {skipped} skips among them, {again} begun again"
        )
    }
}

async fn lab() -> Result<Tally, Error> {
    let folder = target().join("lab");
    std::fs::create_dir_all(&folder).expect("a folder");
    let folder = folder.canonicalize().expect("it is there");
    let runtime = PathBuf::from(format!("/tmp/banger-lab-{}", std::process::id()));
    let mut config = EngineConfig::new(folder.join("state"), &runtime);
    config.dial_helper = Some(DialHelper {
        command: vec![binary("bangerd"), PathBuf::from("dial")],
    });
    let (engine, _) = Engine::open(config).await?;
    let progress = Progress::new(|stage| println!("lab: {stage}"));
    // One of another list of packages is another image.
    let mut hasher = DefaultHasher::new();
    PACKAGES.hash(&mut hasher);
    let image = format!("lab-{:08x}", hasher.finish() as u32).parse()?;
    let names = engine.image_names().await?;
    if !names.contains(&image) {
        let mut spec = ImageSpec::new(image.clone());
        spec.include = PACKAGES
            .iter()
            .map(|name| name.parse().expect("a package's name"))
            .collect();
        engine.build_image(spec, &progress).await?;
    }
    // What boots in the lab is what boots in the other tests.
    let inner = shared_images().await.join(Defaults::default().image);

    // One that an earlier run left, or was told to leave.
    let _ = engine.delete(NAME).await;
    let vm = engine
        .create(
            CreateRequest {
                image: Some(image),
                vcpus: Some(2),
                memory: Some(Mebibytes(3 * 1024)),
                work_disk: Some(Mebibytes(6 * 1024)),
                internet: Some(Internet::Closed),
                nesting: Nesting::Wanted,
                ..CreateRequest::named(NAME.parse()?)
            },
            &progress,
        )
        .await?;
    let suites = carry(&folder.join("carried"), &inner);
    fill(&vm.runtime.work_disk_path, &folder.join("carried"));
    engine.start(NAME, &progress).await?;
    engine.wait_ready(NAME, &progress).await?;
    let ran = run_all(&engine, &suites).await;
    match std::env::var_os("BANGER_LAB_KEEP") {
        Some(_) => println!(
            "lab: the VM {NAME} of {} runs on",
            folder.join("state").display()
        ),
        None => {
            engine.delete(NAME).await?;
            engine.close().await;
            let _ = std::fs::remove_dir_all(&runtime);
        }
    }
    ran
}

/// How often a test is begun. An emulated processor that runs machines of its own now and then breaks the
/// kernel on it, or loses one of them, whatever the test does. So one is begun again when the lab broke down
/// in it, and where guests run under an emulated KVM whenever it fails; that is said and counted.
const ATTEMPTS: usize = 3;

/// Twice what the longest takes: then the test hangs.
const LONGEST: Duration = Duration::from_secs(20 * 60);

/// How often the lab is asked for an answer meanwhile, and how long it may take for one: then it hangs itself.
const HEARTBEAT: Duration = Duration::from_secs(30);
const LONGEST_ANSWER: Duration = Duration::from_secs(120);

async fn run_all(engine: &Engine, suites: &[Suite]) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    let mut boot = prepare(engine, &mut tally).await?;
    let detected = ExecRequest::new(["systemd-detect-virt"]);
    let emulated = engine.exec_output(NAME, &detected).await?.stdout == b"qemu\n";
    for suite in suites {
        for test in &suite.tests {
            let begun = Instant::now();
            let mut outcome = Outcome::Failed;
            for attempt in 1..=ATTEMPTS {
                outcome = run(engine, suite, test, &mut tally).await?;
                if matches!(outcome, Outcome::Passed | Outcome::Ignored) {
                    break;
                }
                if matches!(outcome, Outcome::Endless | Outcome::NoAnswer) {
                    // What still runs of it would be in the way of the next.
                    engine.kill(NAME).await?;
                }
                let before = std::mem::replace(&mut boot, revived(engine, &mut tally).await?);
                let broke_down =
                    outcome == Outcome::NoAnswer || outcome == Outcome::Failed && boot != before;
                if broke_down {
                    println!("lab: the VM itself broke down in {test}; its console has:");
                    let console = engine.console_tail(NAME, 1 << 20).await?;
                    for line in last_words(&String::from_utf8_lossy(&console)) {
                        println!("    {line}");
                    }
                }
                let nested = emulated && suite.guests == GuestsBy::Kvm;
                if attempt == ATTEMPTS || !(broke_down || nested) {
                    break;
                }
                println!("lab: {test} is begun again");
                tally.again += 1;
            }
            let said = match outcome {
                Outcome::Passed => {
                    tally.passed += 1;
                    "ok"
                }
                Outcome::Failed | Outcome::Endless | Outcome::NoAnswer => {
                    tally.failed += 1;
                    "FAILED"
                }
                Outcome::Ignored => "ignored",
            };
            let seconds = begun.elapsed().as_secs_f64();
            println!("test {}::{test} ... {said} ({seconds:.1} s)", suite.name);
        }
    }
    Ok(tally)
}

/// Sees to it that the lab runs, after a test that failed, and returns which boot this is.
async fn revived(engine: &Engine, tally: &mut Tally) -> Result<Vec<u8>, Error> {
    // If it has rebooted it may still be on its way up; if it answers to nothing it is switched off.
    tokio::time::sleep(Duration::from_secs(5)).await;
    engine.start(NAME, &Progress::silent()).await?;
    if engine.wait_ready(NAME, &Progress::silent()).await.is_err() {
        engine.kill(NAME).await?;
        engine.start(NAME, &Progress::silent()).await?;
        engine.wait_ready(NAME, &Progress::silent()).await?;
    }
    prepare(engine, tally).await
}

/// What a kernel said when it broke down, as far as it can be told from what the next one said.
fn last_words(console: &str) -> Vec<&str> {
    let lines = console.lines().filter(|line| {
        ["Kernel panic", "BUG:", "Oops", "RIP:"]
            .iter()
            .any(|word| line.contains(word))
    });
    lines.collect()
}

/// Makes ready what a host of root's has, and returns which boot this is.
async fn prepare(engine: &Engine, tally: &mut Tally) -> Result<Vec<u8>, Error> {
    let prepared = engine
        .exec_output(NAME, &ExecRequest::new(["sh", "-c", PREPARE]))
        .await?;
    if prepared.end != ExecEnd::Exited(0) {
        let said = String::from_utf8_lossy(&prepared.stderr).into_owned();
        println!("lab: the VM has not all that a lab needs: {}", said.trim());
        tally.failed += 1;
    }
    let boot = ExecRequest::new(["cat", "/proc/sys/kernel/random/boot_id"]);
    Ok(engine.exec_output(NAME, &boot).await?.stdout)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Passed,
    Failed,
    /// It did not end.
    Endless,
    /// The lab did not answer.
    NoAnswer,
    /// By its own mark: another test runs it, as somebody else.
    Ignored,
}

/// Runs one test in the lab and prints what it prints.
async fn run(
    engine: &Engine,
    suite: &Suite,
    test: &str,
    tally: &mut Tally,
) -> Result<Outcome, Error> {
    let mut script = String::from(
        "cd /root; export BANGER_TESTS_ARE_BUILT=1 RUST_BACKTRACE=0; \
         [ ! -e target/firecracker ] || ln -sf /root/target/firecracker /usr/local/bin/firecracker; ",
    );
    if std::env::var_os("BANGER_TEST_ALL").is_some() {
        script.push_str("export BANGER_TEST_ALL=1; ");
    }
    script.push_str(&format!(
        "{}; exec target/debug/deps/{} --nocapture --exact \"$1\" 2>&1",
        suite.guests.setup(),
        suite.program
    ));
    let words = ["sh", "-c", &script, "sh", test].map(str::to_owned);
    let mut execution = engine.exec(NAME, &ExecRequest::new(words)).await?;
    drop(execution.take_stdin());
    let mut lines = Lines::default();
    let mut ignored = false;
    let told = async {
        loop {
            match execution.next().await {
                ExecEvent::Stdout(piece) => lines.add(&piece, |line| {
                    ignored |= line.starts_with(&format!("test {test} ... ignored"));
                    if let Some(line) = said(test, line) {
                        tally.skipped += usize::from(line.starts_with("SKIP"));
                        println!("    {line}");
                    }
                }),
                ExecEvent::Ended(end) => return end,
                _ => {}
            }
        }
    };
    let ended = tokio::select! {
        end = told => end,
        () = tokio::time::sleep(LONGEST) => {
            println!("    it did not end in {} minutes", LONGEST.as_secs() / 60);
            return Ok(Outcome::Endless);
        }
        () = no_answer(engine) => {
            println!("    the lab gave no answer for {} s", LONGEST_ANSWER.as_secs());
            return Ok(Outcome::NoAnswer);
        }
    };
    Ok(match ended {
        ExecEnd::Exited(0) if ignored => Outcome::Ignored,
        ExecEnd::Exited(0) => Outcome::Passed,
        end => {
            println!("    it ended with {end:?}");
            Outcome::Failed
        }
    })
}

/// Returns when the lab runs and gives no answer any more. One that reboots is seen by its tests' own ends.
async fn no_answer(engine: &Engine) {
    let asked = ExecRequest::new(["true"]);
    loop {
        tokio::time::sleep(HEARTBEAT).await;
        let answer = engine.exec_output(NAME, &asked);
        if tokio::time::timeout(LONGEST_ANSWER, answer).await.is_err() {
            return;
        }
    }
}

/// Returns what a line says besides what the harness says of every test.
fn said<'a>(test: &str, line: &'a str) -> Option<&'a str> {
    let line = match line.strip_prefix(&format!("test {test} ...")) {
        Some(rest) => rest.trim_start(),
        None => line,
    };
    let noise = ["", "ok", "running 1 test", "failures:", "FAILED"];
    let of_the_harness = noise.contains(&line.trim())
        || line.trim() == test
        || line.starts_with("test result: ")
        || line.starts_with("ignored");
    (!of_the_harness).then_some(line)
}

#[derive(Default)]
struct Lines(Vec<u8>);

impl Lines {
    fn add(&mut self, piece: &[u8], mut each: impl FnMut(&str)) {
        self.0.extend_from_slice(piece);
        while let Some(end) = self.0.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.0.drain(..=end).collect();
            each(String::from_utf8_lossy(&line).trim_end());
        }
    }
}

/// One program of tests.
struct Suite {
    name: &'static str,
    guests: GuestsBy,
    program: String,
    tests: Vec<String>,
}

/// Lays out what goes into the lab as it lies here: `target/debug` with the programs, `deps` below it with
/// the tests, `test-images` beside it.
fn carry(folder: &Path, image: &Path) -> Vec<Suite> {
    let _ = std::fs::remove_dir_all(folder);
    let deps = folder.join("target/debug/deps");
    let images = folder.join("target/test-images/images");
    for needed in [&deps, &images] {
        std::fs::create_dir_all(needed).expect("a folder");
    }
    for name in [
        "banger",
        "bangerd",
        "bangerd-failpoints",
        "fake_firecracker",
    ] {
        copy(&binary(name), &folder.join("target/debug").join(name));
    }
    if let Some(firecracker) = std::env::var_os("BANGER_TEST_FIRECRACKER") {
        copy(Path::new(&firecracker), &folder.join("target/firecracker"));
    }
    copy(image, &images.join(image.file_name().unwrap_or_default()));
    let mut carried = Vec::new();
    for ((_, name, guests), built) in SUITES.into_iter().zip(test_programs()) {
        let program = built.file_name().unwrap_or_default().to_string_lossy();
        copy(&built, &deps.join(&*program));
        carried.push(Suite {
            name,
            guests,
            program: program.into_owned(),
            tests: tests_of(&built),
        });
    }
    carried
}

/// Returns the names of a program's tests, of those that were asked for.
fn tests_of(program: &Path) -> Vec<String> {
    let listed = Command::new(program)
        .args(["--list", "--format", "terse"])
        .output()
        .expect("it starts");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    listed
        .lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .filter(|name| wanted.is_empty() || wanted.iter().any(|word| name.contains(word.as_str())))
        .map(str::to_owned)
        .collect()
}

/// Copies a file or a folder, and keeps holes.
fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp")
        .args(["-r", "--sparse=always", "--reflink=auto"])
        .args([from, to])
        .status();
    assert!(
        copied.is_ok_and(|status| status.success()),
        "{}",
        from.display()
    );
}

/// Makes the VM's own disk anew, with this in it: by ssh an emulated guest would take minutes.
fn fill(disk: &Path, folder: &Path) {
    let bytes = std::fs::metadata(disk).expect("it was made").len();
    std::fs::remove_file(disk).expect("it is ours");
    let made = Command::new("/sbin/mke2fs")
        .args([
            "-q",
            "-F",
            "-t",
            "ext4",
            "-L",
            "banger-work",
            "-m",
            "0",
            "-d",
        ])
        .arg(folder)
        .arg(disk)
        .arg(format!("{}k", bytes / 1024))
        .status();
    assert!(made.is_ok_and(|status| status.success()), "mke2fs failed");
}

/// Builds the tests of all suites and returns where each one's program is: cargo gives it a name of its own.
fn test_programs() -> Vec<PathBuf> {
    let mut build = Command::new(env!("CARGO"));
    // All of the workspace, as in `make test`: of fewer packages the same crates would be built once more.
    build.args(["test", "--workspace", "--no-run", "--quiet"]);
    build.arg("--message-format=json");
    for (_, test, _) in SUITES {
        build.args(["--test", test]);
    }
    let built = build
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .stderr(Stdio::inherit())
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "the tests do not build");
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages: Vec<serde_json::Value> = text
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let programs = SUITES.map(|(package, test, _)| {
        let mut of_it = messages.iter().filter(|message| {
            // `…/banger-core#0.1.0`, or `…/tests#banger-tests@0.1.0` where the folder has another name.
            let id = message["package_id"].as_str().unwrap_or_default();
            let owned =
                id.contains(&format!("/{package}#")) || id.contains(&format!("#{package}@"));
            owned && message["target"]["name"] == test
        });
        let program = of_it.find_map(|it| it["executable"].as_str().map(PathBuf::from));
        program.unwrap_or_else(|| panic!("cargo names no program for {package} {test}"))
    });
    programs.to_vec()
}
