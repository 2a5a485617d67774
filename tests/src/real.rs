//! A place for real VMs: folders of its own over an image that all tests share, and the proof, at the
//! end, that the host holds nothing of ours.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};

use banger_core::{DialHelper, Engine, EngineConfig, Progress};

use crate::{binary, profile_dir};

/// Says why no real VM can be booted here; none if one can.
pub fn why_not_real() -> Option<String> {
    [
        "qemu-system-x86_64",
        "qemu-img",
        "mke2fs",
        "mmdebstrap",
        "ssh",
    ]
    .into_iter()
    // An image that is there needs not be made.
    .filter(|program| *program != "mmdebstrap" || !has_image())
    .find(|program| {
        let found = Command::new("sh")
            .args([
                "-c",
                "PATH=$PATH:/usr/sbin:/sbin command -v \"$0\" >/dev/null",
                program,
            ])
            .status();
        !found.is_ok_and(|status| status.success())
    })
    .map(|program| format!("{program} is not installed (make setup installs it)"))
}

fn has_image() -> bool {
    let image = profile_dir().join("../test-images/images/debian-12/manifest.json");
    image.exists()
}

/// Emulated guests take whole processors: tests with real VMs take turns.
pub fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Folders for one engine. Dropping it proves that nothing is left, and fails the test if something is.
pub struct Rig {
    /// How an engine is opened here.
    pub config: EngineConfig,
    scratch: tempfile::TempDir,
}

impl Rig {
    /// Makes the folders, and the image if this is the first.
    pub async fn new() -> Self {
        let images = shared_images().await;
        // Short: sockets lie below it.
        let scratch = tempfile::Builder::new()
            .prefix("bgr-")
            .tempdir_in("/tmp")
            .expect("a scratch folder");
        let state = scratch.path().join("state");
        std::fs::create_dir(&state).expect("a state folder");
        std::os::unix::fs::symlink(images, state.join("images")).expect("a link to the images");
        let mut config = EngineConfig::new(state, scratch.path().join("run"));
        config.dial_helper = Some(DialHelper {
            command: vec![binary("bangerd"), PathBuf::from("dial")],
        });
        Rig { config, scratch }
    }

    /// Makes the folders, with a folder of images of its own that holds the shared ones: for tests that
    /// make images and delete them.
    pub async fn with_images_of_its_own() -> Self {
        let rig = Rig::new().await;
        let images = rig.config.state_dir.join("images");
        let shared = std::fs::canonicalize(&images).expect("the images are there");
        std::fs::remove_file(&images).expect("a link");
        std::fs::create_dir(&images).expect("a folder of images");
        let image = &rig.config.defaults.image;
        std::os::unix::fs::symlink(shared.join(image), images.join(image)).expect("a link");
        rig
    }

    /// Opens an engine, as a new process would.
    pub async fn open(&self) -> Engine {
        Engine::open(self.config.clone())
            .await
            .expect("the engine opens")
            .0
    }

    /// The folder that holds everything of this rig.
    pub fn folder(&self) -> &Path {
        self.scratch.path()
    }

    /// The processes that have this rig's folder on their command line: monitors, ssh masters, daemons.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let folder = self.folder().to_string_lossy().into_owned();
        let own = std::process::id();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else {
                continue;
            };
            let raw = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&raw).replace('\0', " ");
            if pid != own && line.contains(&folder) {
                found.push((pid, line));
            }
        }
        found
    }

    /// Waits until no process, folder, socket or record of a VM is left.
    pub fn assert_nothing_left(&self) {
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let mut left: Vec<String> =
                self.processes().into_iter().map(|(_, line)| line).collect();
            for folder in [
                self.config.state_dir.join("vms"),
                self.config.runtime_dir.clone(),
            ] {
                left.extend(files_below(&folder));
            }
            // The daemon and its socket are the tests' own business.
            left.retain(|what| !what.contains("bangerd"));
            if left.is_empty() {
                return;
            }
            assert!(
                std::time::Instant::now() < deadline,
                "left behind: {left:#?}"
            );
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.assert_nothing_left();
        }
        for (pid, _) in self.processes() {
            // Only what has our scratch folder on its command line, after a test that has failed.
            let pid = i32::try_from(pid)
                .ok()
                .and_then(rustix::process::Pid::from_raw);
            if let Some(pid) = pid {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
        if std::thread::panicking() {
            let config = self.config.clone();
            // On a thread of its own: this one may be inside a runtime.
            let _ = std::thread::spawn(move || delete_all(config)).join();
        }
    }
}

/// Deletes what a failed test left in the kernel: devices, namespaces.
fn delete_all(config: EngineConfig) {
    let Ok(runtime) = tokio::runtime::Runtime::new() else {
        return;
    };
    runtime.block_on(async {
        // What fails here was told by the test.
        let Ok((engine, _)) = Engine::open(config).await else {
            return;
        };
        for view in engine.list().await.unwrap_or_default() {
            let _ = engine.delete(view.vm.id.as_str()).await;
        }
        engine.close().await;
    });
}

fn files_below(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_below(&path));
        } else {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Makes the default image once, below `target`, where the next run finds it, and returns the folder of images.
pub async fn shared_images() -> PathBuf {
    let state = profile_dir().join("../test-images");
    let config = EngineConfig::new(&state, state.join("run"));
    let image = config.defaults.image.parse().expect("a valid name");
    let progress = Progress::new(|stage| println!("(image) {stage}"));
    // Another test process may be at it: whoever has the folder makes the image, the others wait.
    loop {
        match Engine::open(config.clone()).await {
            Ok((engine, _)) => {
                engine
                    .ensure_image(&image, &progress)
                    .await
                    .expect("the image is made");
                engine.close().await;
                break;
            }
            Err(error) if error.kind() == banger_core::ErrorKind::InUse => {
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    std::fs::canonicalize(state.join("images")).expect("the images are there")
}
