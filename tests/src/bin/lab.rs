//! The lab: banger boots a Debian VM that can run machines of its own, carries the tests that need root
//! into it, runs them there, and ends with their status. A line a test; what is skipped is counted.
//!
//! `BANGER_TEST_FIRECRACKER` names a Firecracker to carry in: without it, what needs one is skipped.
//! `BANGER_TEST_ALL=1` runs every combination of backends. Words given as arguments choose tests by their
//! names. `BANGER_LAB_KEEP=1` leaves the VM running, to be looked at.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;

use banger_core::{
    CreateRequest, DialHelper, Engine, EngineConfig, Error, ExecEnd, ExecEvent, ExecRequest,
    ImageSpec, Internet, Mebibytes, Nesting, Progress,
};
use banger_tests::{binary, target};

/// What is run in the lab, by package and test.
const SUITES: [(&str, &str); 7] = [
    ("banger-core", "as_root"),
    ("banger-tests", "scopes"),
    ("banger-core", "as_root_nat"),
    ("banger-tests", "firecracker"),
    ("banger-tests", "lab_command"),
    ("banger-tests", "lab_deaths"),
    ("banger-tests", "parity"),
];

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
}

impl Tally {
    fn add(&mut self, other: &Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Tally {
            passed,
            failed,
            skipped,
        } = self;
        write!(
            f,
            "{passed} passed, {failed} failed; {skipped} skips among them"
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
    let inner: banger_core::ImageName = "debian-12".parse()?;
    engine.ensure_image(&inner, &progress).await?;

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
    let images = engine.places().images();
    let carried = carry(&folder.join("carried"), &images.join(inner.as_str()));
    fill(&vm.runtime.work_disk_path, &folder.join("carried"));
    engine.start(NAME, &progress).await?;
    engine.wait_ready(NAME, &progress).await?;
    let ran = run_all(&engine, &carried).await;
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

/// How often a suite is begun. An emulated processor that runs machines of its own now and then breaks
/// the kernel on it, whatever the suite does; only then is it begun again.
const ATTEMPTS: usize = 3;

async fn run_all(engine: &Engine, carried: &[(String, String)]) -> Result<Tally, Error> {
    let mut tally = Tally::default();
    let mut boot = prepare(engine, &mut tally).await?;
    for (suite, program) in carried {
        for attempt in 1..=ATTEMPTS {
            println!("lab: {suite}");
            let mut counted = Tally::default();
            let end = run(engine, suite, program, &mut counted).await?;
            if end == ExecEnd::Exited(0) {
                tally.add(&counted);
                break;
            }
            // Nothing to do if it runs. If it has rebooted it may still be on its way up.
            tokio::time::sleep(Duration::from_secs(5)).await;
            engine.start(NAME, &Progress::silent()).await?;
            engine.wait_ready(NAME, &Progress::silent()).await?;
            let before = std::mem::replace(&mut boot, prepare(engine, &mut tally).await?);
            if boot == before || attempt == ATTEMPTS {
                println!("lab: {suite} ended with {end:?}");
                counted.failed += usize::from(counted.failed == 0);
                tally.add(&counted);
                break;
            }
            println!(
                "lab: the VM itself broke down in the middle of {suite}; its console ends with:"
            );
            let console = engine.console_tail(NAME, 1 << 20).await?;
            for line in last_words(&String::from_utf8_lossy(&console)) {
                println!("  {line}");
            }
        }
    }
    Ok(tally)
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

/// Runs one test program in the lab and prints a line a test, as it prints them. Returns how it ended.
async fn run(
    engine: &Engine,
    suite: &str,
    program: &str,
    tally: &mut Tally,
) -> Result<ExecEnd, Error> {
    let mut script = String::from(
        "cd /root; export BANGER_TESTS_ARE_BUILT=1 RUST_BACKTRACE=0; \
         [ ! -e target/firecracker ] || ln -sf /root/target/firecracker /usr/local/bin/firecracker; ",
    );
    if std::env::var_os("BANGER_TEST_ALL").is_some() {
        script.push_str("export BANGER_TEST_ALL=1; ");
    }
    script.push_str(&format!(
        "exec target/debug/deps/{program} --test-threads=1 --nocapture \"$@\" 2>&1"
    ));
    let mut words: Vec<String> = ["sh", "-c", &script, "sh"].map(str::to_owned).to_vec();
    words.extend(std::env::args().skip(1));
    let mut execution = engine.exec(NAME, &ExecRequest::new(words)).await?;
    drop(execution.take_stdin());
    let mut lines = Lines::default();
    loop {
        match execution.next().await {
            ExecEvent::Stdout(piece) => lines.add(&piece, |line| report(suite, line, tally)),
            ExecEvent::Ended(end) => return Ok(end),
            _ => {}
        }
    }
}

fn report(suite: &str, line: &str, tally: &mut Tally) {
    println!("  {line}");
    let of_a_test = line.trim_start();
    if of_a_test.starts_with("SKIP") {
        tally.skipped += 1;
    }
    // The harness counts; what a test printed between its name and its result does not matter.
    if let Some(counts) = of_a_test.strip_prefix("test result: ") {
        let number = |word: &str| -> usize {
            let before = counts.split(word).next().unwrap_or_default();
            let last = before.trim_end().rsplit([' ', ';']).next();
            last.and_then(|number| number.parse().ok()).unwrap_or(0)
        };
        tally.passed += number("passed");
        tally.failed += number("failed");
        println!("lab: {suite}: {counts}");
    }
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

/// Lays out what goes into the lab as it lies here: `target/debug` with the programs, `deps` below it with
/// the tests, `test-images` beside it. Returns the tests, by name and program.
fn carry(folder: &Path, image: &Path) -> Vec<(String, String)> {
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
    for (package, test) in SUITES {
        let built = test_program(package, test);
        let name = built.file_name().unwrap_or_default().to_string_lossy();
        copy(&built, &deps.join(&*name));
        carried.push((test.to_owned(), name.into_owned()));
    }
    carried
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

/// Builds a test and returns its program, which cargo gives a name of its own.
fn test_program(package: &str, test: &str) -> PathBuf {
    let built = Command::new(env!("CARGO"))
        .args(["test", "--no-run", "--quiet", "--message-format=json"])
        .args(["-p", package, "--test", test])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{test} does not build");
    let text = String::from_utf8_lossy(&built.stdout).into_owned();
    let messages = text
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let mut programs = messages.filter(|message| message["target"]["name"] == test);
    let program = programs.find_map(|it| it["executable"].as_str().map(PathBuf::from));
    program.unwrap_or_else(|| panic!("cargo names no program for {test}"))
}
