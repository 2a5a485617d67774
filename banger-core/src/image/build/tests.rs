//! Builds on this host: with the real mmdebstrap, and with ones that behave badly.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::time::{Duration, Instant};

use super::super::manifest::{ImageManifest, MANIFEST};
use super::super::workshop::SCRATCH;
use super::*;
use crate::host::{Host, LinuxHost, LinuxHostConfig};
use crate::places::NEW;
use crate::progress::Progress;

/// Folders for images and their trees, and a host that looks for programs in a third one first.
struct Yard {
    images: PathBuf,
    scratch: PathBuf,
    programs: PathBuf,
    host: LinuxHost,
    progress: Progress,
    patience: Duration,
    _base: tempfile::TempDir,
}

impl Yard {
    fn new() -> Self {
        let base = tempfile::tempdir_in(SCRATCH).unwrap();
        let folder = |name: &str| {
            let folder = base.path().join(name);
            std::fs::create_dir_all(&folder).unwrap();
            folder
        };
        let (scratch, programs) = (folder("scratch"), folder("programs"));
        // Subordinate ids pass through it.
        for folder in [base.path(), &scratch] {
            std::fs::set_permissions(folder, PermissionsExt::from_mode(0o711)).unwrap();
        }
        let mut config = LinuxHostConfig::default();
        config.program_folders.insert(0, programs.clone());
        Yard {
            images: base.path().join("images"),
            scratch,
            programs,
            host: LinuxHost::new(config),
            progress: Progress::silent(),
            patience: Duration::from_secs(20),
            _base: base,
        }
    }

    /// Puts a program in the place of the real one.
    fn script(&self, name: &str, text: &str) {
        let path = self.programs.join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    fn shop(&self) -> Workshop<'_> {
        Workshop {
            host: &self.host,
            images: &self.images,
            scratch: &self.scratch,
            patience: self.patience,
            progress: &self.progress,
        }
    }

    async fn build(&self, spec: &ImageSpec) -> Result<ImageManifest, ImageError> {
        build(self.shop(), spec, std::future::pending()).await
    }

    async fn fails(&self, spec: &ImageSpec) -> ImageError {
        let error = self.build(spec).await.unwrap_err();
        self.is_clean();
        error
    }

    fn is_clean(&self) {
        for folder in [&self.images, &self.scratch] {
            let left: Vec<_> = std::fs::read_dir(folder).into_iter().flatten().collect();
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

fn spec() -> ImageSpec {
    ImageSpec::new("debian".parse().unwrap())
}

async fn installed(program: &str) -> bool {
    let host = LinuxHost::new(LinuxHostConfig::default());
    let found = host.find_program(program).await.is_some();
    if !found {
        println!("skipped: {program} is not installed");
    }
    found
}

#[tokio::test]
#[ignore = "takes a minute, a gigabyte of disk and a Debian mirror; BANGER_TEST_IMAGES keeps what it makes"]
async fn a_real_image_is_built_and_published_whole() {
    let mut yard = Yard::new();
    if let Some(kept) = std::env::var_os("BANGER_TEST_IMAGES") {
        yard.images = kept.into();
    }
    let started = Instant::now();
    yard.progress = Progress::new(move |stage| println!("{:.1?} {stage}", started.elapsed()));
    let manifest = yard.build(&spec()).await.unwrap();
    println!("{:.1?} done", started.elapsed());
    let folder = yard.images.join("debian");
    let json = std::fs::read(folder.join(MANIFEST)).unwrap();
    assert_eq!(ImageManifest::parse(&json).unwrap(), manifest);
    println!("{}", String::from_utf8_lossy(&json));
    for path in [
        manifest.rootfs_path(&folder),
        manifest.kernel_path(&folder),
        manifest.initrd_path(&folder),
    ] {
        let facts = yard.host.stat(&path).await.unwrap().unwrap();
        println!("{} takes {} bytes", path.display(), facts.allocated_bytes);
        assert!(std::fs::metadata(&path).unwrap().permissions().readonly());
    }
    let names = yard.host.list_dir(&yard.images).await.unwrap();
    assert!(names.iter().all(|name| !name.starts_with(NEW)), "{names:?}");
    assert_eq!(std::fs::read_dir(&yard.scratch).unwrap().count(), 0);
    let again = yard.build(&spec()).await;
    assert!(matches!(again, Err(ImageError::Exists { .. })));
}

#[tokio::test]
async fn a_mirror_that_refuses_is_named_and_leaves_nothing() {
    if !installed("mmdebstrap").await {
        return;
    }
    let mut spec = spec();
    // Port 1 of loopback: refused at once.
    spec.mirror = Some("http://127.0.0.1:1/debian".parse().unwrap());
    let error = Yard::new().fails(&spec).await;
    assert!(
        matches!(&error, ImageError::Mirror { mirror, .. } if mirror == "http://127.0.0.1:1/debian"),
        "{error:?}"
    );
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    assert!(error.hint().unwrap().contains("--mirror"));
}

#[tokio::test]
async fn a_mirror_that_takes_the_call_and_stays_silent_is_given_up_and_named() {
    if !installed("mmdebstrap").await {
        return;
    }
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/debian", silent.local_addr().unwrap());
    let mut yard = Yard::new();
    yard.patience = Duration::from_secs(1);
    let mut spec = spec();
    spec.mirror = Some(address.parse().unwrap());
    let began = Instant::now();
    let error = yard.fails(&spec).await;
    println!("given up after {:.1?}", began.elapsed());
    assert!(
        matches!(&error, ImageError::Mirror { mirror, .. } if *mirror == address),
        "{error:?}"
    );
    assert!(began.elapsed() < Duration::from_secs(60));
}

#[tokio::test]
async fn without_mmdebstrap_the_package_to_install_is_named() {
    let mut yard = Yard::new();
    // Coreutils are there, mmdebstrap is not.
    for program in ["chmod", "chown", "rm", "unshare", "newuidmap", "newgidmap"] {
        if let Some(path) = yard.host.find_program(program).await {
            symlink(path, yard.programs.join(program)).unwrap();
        }
    }
    yard.host = LinuxHost::new(LinuxHostConfig {
        program_folders: vec![yard.programs.clone()],
        ..LinuxHostConfig::default()
    });
    let error = yard.fails(&spec()).await;
    assert!(
        error.to_string().starts_with("mmdebstrap is not installed"),
        "{error}"
    );
    assert!(error.hint().unwrap().contains("mmdebstrap"));
}

#[tokio::test]
async fn a_root_disk_that_is_too_small_is_refused_before_anything_is_made() {
    let mut spec = spec();
    spec.size.0 = 100;
    let error = Yard::new().fails(&spec).await;
    assert!(matches!(error, ImageError::TooSmall { .. }), "{error:?}");
}

#[tokio::test]
async fn a_disk_that_fills_up_in_the_middle_is_named_and_nothing_is_left_on_it() {
    let yard = Yard::new();
    yard.script(
        "mmdebstrap",
        "echo half >\"$BANGER_OUT/rootfs.ext4\"\n\
         echo 'dpkg: error: cannot copy: No space left on device' >&2\nexit 28",
    );
    yard.script("unshare", "while [ \"${1#--}\" != \"$1\" ]; do shift; done; case $1 in chown) ;; *) exec \"$@\" ;; esac");
    let error = yard.fails(&spec()).await;
    assert!(
        matches!(&error, ImageError::Full { folder, .. } if folder.starts_with(&yard.scratch)),
        "{error:?}"
    );
    assert!(error.hint().unwrap().contains("free some space"));
}

/// A build whose programs hold on to life, and say who they are.
const CLINGING: &str = r#"
trap '' TERM INT HUP
(trap '' TERM INT HUP; sh -c 'trap "" TERM; echo $$ >"$0/grandchild"; while :; do sleep 0.05; done' "$BANGER_OUT") &
echo $$ >"$BANGER_OUT/parent"
while :; do sleep 0.05; done
"#;

fn alive(pid: u32) -> bool {
    // A zombie that somebody else is to reap is dead for our purpose.
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
    !state.is_empty() && !state.starts_with('Z')
}

/// Waits until the build's programs have said who they are.
async fn programs_of(yard: &Yard) -> Vec<u32> {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let names = yard.host.list_dir(&yard.scratch).await.unwrap();
        let out = names
            .first()
            .map(|name| yard.scratch.join(name).join("out"));
        let pid = |name: &str| -> Option<u32> {
            let text = std::fs::read_to_string(out.as_ref()?.join(name)).ok()?;
            text.trim().parse().ok()
        };
        if let (Some(parent), Some(grandchild)) = (pid("parent"), pid("grandchild")) {
            return vec![parent, grandchild];
        }
        assert!(Instant::now() < deadline, "the build never began");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_build_that_is_given_up_leaves_neither_a_process_nor_a_file() {
    let yard = Yard::new();
    if yard.shop().privilege() == Privilege::Subordinate {
        return println!("skipped: the ids of an ordinary user are mapped by a real build only");
    }
    yard.script("mmdebstrap", CLINGING);
    let (give_up, given_up) = tokio::sync::oneshot::channel::<()>();
    let spec = spec();
    let building = build(yard.shop(), &spec, async {
        let _ = given_up.await;
    });
    let giving_up = async {
        let programs = programs_of(&yard).await;
        give_up.send(()).unwrap();
        programs
    };
    let (made, programs) = tokio::join!(building, giving_up);
    assert!(matches!(made, Err(ImageError::GivenUp { .. })), "{made:?}");
    yard.is_clean();
    let deadline = Instant::now() + Duration::from_secs(10);
    while programs.iter().any(|pid| alive(*pid)) {
        assert!(Instant::now() < deadline, "{programs:?} are alive");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_sweep_ends_the_programs_of_a_build_that_lost_its_daemon() {
    let yard = Yard::new();
    std::fs::create_dir_all(yard.images.join(".new-00ff")).unwrap();
    std::fs::create_dir_all(yard.images.join("debian")).unwrap();
    std::fs::create_dir_all(yard.images.join(".trash-old")).unwrap();
    std::fs::create_dir_all(yard.scratch.join("banger-image-00ff/out/etc")).unwrap();
    // As mmdebstrap bears it, on its command line.
    let mut orphan = std::process::Command::new("sh")
        .args(["-c", "while :; do sleep 0.05; done", "banger-build:00ff"])
        .spawn()
        .unwrap();
    let shop = yard.shop();
    let swept = shop.sweep();
    let reaped = async {
        let pid = orphan.id();
        while alive(pid) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        orphan.wait().unwrap()
    };
    let (swept, ended) = tokio::join!(swept, reaped);
    assert_eq!(swept.unwrap(), 2);
    assert!(!ended.success());
    assert_eq!(yard.host.list_dir(&yard.images).await.unwrap(), ["debian"]);
    assert_eq!(std::fs::read_dir(&yard.scratch).unwrap().count(), 0);
    assert_eq!(yard.shop().sweep().await.unwrap(), 0);
}
