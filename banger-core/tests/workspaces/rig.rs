//! A simulated host with a running VM, and repositories to carry.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use banger_core::{
    CreateRequest, Engine, EngineConfig, Error, ExecEnd, ExecRequest, FakeHost, PrepareRequest,
    Prepared, Progress, VmName,
};

/// Everything that a name can be: spaces, quotes, newlines, dashes, bytes that are no UTF-8, two forms of ä.
pub(crate) const NAMES: &str = r#"
mkdir -p names; cd names
for n in 'a b' "it's" '"quoted"' '-dash' '--help' '$HOME' '*' '\back' 'tab	tab' ' lead' 'trail ' 'ä' 'ä'; do echo "$n" > "./$n"; done
printf 'x' > "$(printf 'new\nline')"; printf 'y' > "$(printf 'not\377utf8')"
"#;

pub(crate) struct Rig {
    pub(crate) engine: Engine,
    pub(crate) host: Arc<FakeHost>,
    pub(crate) config: EngineConfig,
    pub(crate) scratch: tempfile::TempDir,
}

impl Rig {
    /// A host with the running VM `box`.
    pub(crate) async fn with_box() -> Self {
        Self::with(|_| ()).await
    }

    /// The same, its configuration changed first.
    pub(crate) async fn with(change: impl FnOnce(&mut EngineConfig)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let mut config =
            EngineConfig::new(scratch.path().join("state"), scratch.path().join("run"));
        config.limits.power_off = std::time::Duration::from_secs(60);
        config.user_home = Some(scratch.path().join("home"));
        change(&mut config);
        let host = Arc::new(FakeHost::new());
        let engine = Engine::sim_over(&host, config.clone()).await.unwrap().0;
        let name: VmName = "box".parse().unwrap();
        let silent = Progress::silent();
        engine
            .create(CreateRequest::named(name), &silent)
            .await
            .unwrap();
        engine.start("box", &silent).await.unwrap();
        Rig {
            engine,
            host,
            config,
            scratch,
        }
    }

    /// An empty repository of this name.
    pub(crate) fn repository(&self, name: &str) -> Repo {
        let root = self.scratch.path().join("repos").join(name);
        std::fs::create_dir_all(&root).unwrap();
        let repo = Repo { root };
        repo.git(["init", "-q", "-b", "main", "."]);
        repo.git(["config", "user.name", "A Person"]);
        repo.git(["config", "user.email", "person@example.org"]);
        repo
    }

    /// A repository with one commit of three files.
    pub(crate) fn small(&self) -> Repo {
        let repo = self.repository("small");
        repo.write("README.md", "hello\n");
        repo.write("src/main.c", "int main() { return 0; }\n");
        repo.write("src/lib.c", "int lib() { return 1; }\n");
        repo.commit("first");
        repo
    }

    /// The same with another as its submodule `deps/lib`, which holds `lib.h`.
    pub(crate) fn with_submodule(&self) -> Repo {
        let library = self.repository("library");
        library.write("lib.h", "#define X 1\n");
        library.commit("library");
        let repo = self.small();
        let from = library.root.to_str().unwrap();
        let allow = ["-c", "protocol.file.allow=always"];
        repo.git(
            allow
                .into_iter()
                .chain(["submodule", "add", "-q", from, "deps/lib"]),
        );
        repo.commit("with a submodule");
        repo
    }

    pub(crate) async fn prepare(&self, repo: &Repo) -> Prepared {
        self.try_prepare(PrepareRequest::new(&repo.root))
            .await
            .unwrap()
    }

    /// Over the workspace that is there, whatever the guest has done in it.
    pub(crate) async fn prepare_again(&self, repo: &Repo) -> Prepared {
        let request = PrepareRequest {
            overwrite: banger_core::Overwrite::Force,
            ..PrepareRequest::new(&repo.root)
        };
        self.try_prepare(request).await.unwrap()
    }

    pub(crate) async fn try_prepare(&self, request: PrepareRequest) -> Result<Prepared, Error> {
        let silent = Progress::silent();
        self.engine.workspace_prepare("box", request, &silent).await
    }

    /// Runs a shell command in the workspace and returns what it printed.
    pub(crate) async fn guest(&self, script: &str) -> String {
        let mut request = ExecRequest::new(["sh", "-ec", script]);
        request.cwd = Some(b"/root/repo".to_vec());
        self.exec(&request).await
    }

    /// Runs a shell command in the guest's `/`.
    pub(crate) async fn outside(&self, script: &str) -> String {
        let mut request = ExecRequest::new(["sh", "-ec", script]);
        request.cwd = Some(b"/".to_vec());
        self.exec(&request).await
    }

    async fn exec(&self, request: &ExecRequest) -> String {
        let output = self.engine.exec_output("box", request).await.unwrap();
        let shown = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.end, ExecEnd::Exited(0), "{request:?}: {shown}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// The whole patch.
    pub(crate) async fn export(&self, base: Option<&str>) -> Result<Vec<u8>, Error> {
        let mut export = self.engine.workspace_export("box", base).await?;
        let mut patch = Vec::new();
        while let Some(piece) = export.next().await? {
            patch.extend(piece);
        }
        Ok(patch)
    }

    /// The tree that git makes of everything in the guest's work tree, without touching its index.
    pub(crate) async fn guest_tree(&self) -> String {
        let script = "cp -p .git/index /tmp/index; export GIT_INDEX_FILE=/tmp/index; \
                      git add -A; git write-tree; rm /tmp/index";
        self.guest(script).await.trim().to_owned()
    }

    /// Asserts that this host holds nothing of a carrying.
    pub(crate) fn nothing_staged(&self) {
        let staged = std::fs::read_dir(self.config.state_dir.join("staging"));
        let left = staged.into_iter().flatten().count();
        assert_eq!(
            left, 0,
            "something of a repository is left in the state folder"
        );
    }
}

/// A repository of the host's.
pub(crate) struct Repo {
    pub(crate) root: PathBuf,
}

impl Repo {
    pub(crate) fn git<A: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = A>) -> String {
        let output = git(&self.root, words, &[]);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    pub(crate) fn write(&self, path: &str, text: impl AsRef<[u8]>) {
        let path = self.root.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.root.join(path)).unwrap()
    }

    pub(crate) fn commit(&self, message: &str) -> String {
        self.git(["add", "-A"]);
        self.git(["commit", "-q", "--allow-empty", "-m", message]);
        self.git(["rev-parse", "HEAD"])
    }

    /// A fresh clone, without its hooks and its configuration.
    pub(crate) fn clone_to(&self, folder: &Path) -> Repo {
        let root = folder.to_owned();
        let from = self.root.to_str().unwrap();
        let output = git(
            Path::new("/"),
            ["clone", "-q", from, root.to_str().unwrap()],
            &[],
        );
        assert!(output.status.success(), "{output:?}");
        Repo { root }
    }

    /// Applies a patch with git's own `apply`, and returns the tree of all files.
    pub(crate) fn tree_after(&self, patch: &[u8]) -> String {
        let output = git(&self.root, ["apply", "--index", "--binary", "-"], patch);
        assert!(output.status.success(), "{output:?}");
        self.git(["write-tree"])
    }

    /// Everything about it that somebody could see: files with modes and times, index, refs.
    pub(crate) fn state(&self) -> String {
        let script = "find . -path ./.git/objects -prune -o -printf '%P %m %s %T@ %l\\n' | sort";
        let output = Command::new("sh")
            .args(["-c", script])
            .current_dir(&self.root)
            .output();
        String::from_utf8_lossy(&output.unwrap().stdout).into_owned()
    }
}

/// git as a test's person uses it: with nothing of this machine's own configuration.
pub(crate) fn git<A: AsRef<OsStr>>(
    place: &Path,
    words: impl IntoIterator<Item = A>,
    input: &[u8],
) -> std::process::Output {
    use std::io::Write;
    let mut child = Command::new("git")
        .args(words)
        .current_dir(place)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("HOME", "/nonexistent")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || {
        let _ = stdin.write_all(&input);
    });
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    output
}
