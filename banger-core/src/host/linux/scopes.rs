//! Scopes on the real host. `systemd-run --scope` makes one and becomes the program: number, start time and
//! what is on the command line are the same before and after, and nothing of it ever runs outside. Which there
//! are is read from the control groups, which needs nobody's answer.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::LinuxHost;
use crate::host::program::Surroundings;
use crate::host::scopes::{ScopeSpec, Scopes};
use crate::host::{
    Detached, FileAct, Host, HostError, ProcessIdentity, ProcessSignal, Program, files, process,
};

const RUN: &str = "systemd-run";

/// systemd's own answer to "is systemd the init here?", as sd_booted(3) has it.
const BOOTED: &str = "/run/systemd/system";

const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// How long systemd is waited for, to make a scope or to forget one. It needs some milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long what is left in a scope may take to end by itself.
const LAST_WORDS: Duration = Duration::from_millis(500);

const LOOK_AGAIN: Duration = Duration::from_millis(2);

#[async_trait]
impl Scopes for LinuxHost {
    async fn scope_support(&self) -> Result<(), String> {
        if !Path::new(BOOTED).is_dir() {
            return Err("systemd does not run here".to_owned());
        }
        if self.surroundings.find(RUN).is_none() {
            return Err(format!("{RUN} is not installed"));
        }
        let manager = self.manager();
        let socket = manager.socket();
        if let Err(error) = files::connect(&socket, Duration::from_secs(2)).await {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            return Err(format!(
                "{manager} does not answer: {error}: {}",
                source.unwrap_or_default()
            ));
        }
        manager.outlives_logins(&lingers)
    }

    async fn remove_scope(&self, name: &str) -> Result<(), HostError> {
        let manager = self.manager();
        let groups = manager.groups(&hierarchy());
        let Some((_, group)) = (scopes_in(&groups)?.into_iter()).find(|(found, _)| found == name)
        else {
            return Ok(());
        };
        // One that nothing runs in any more systemd forgets by itself, some milliseconds later.
        let asked = Instant::now();
        let mut killed = false;
        while group.is_dir() {
            // Those who keep the logs end by themselves after the program, with its last words written.
            if !killed && asked.elapsed() > LAST_WORDS && is_occupied(&group) {
                let kill = Program::new("systemctl")
                    .args(manager.words())
                    .args(["kill", "--signal=KILL", "--", name])
                    .timeout(PATIENCE);
                let done = manager.surroundings(&self.surroundings).run(&kill).await?;
                killed = true;
                if !done.success() && is_occupied(&group) {
                    return Err(failed(name)(std::io::Error::other(done.last_lines(1))));
                }
            }
            if asked.elapsed() > PATIENCE {
                // systemd is not there to do it. Only an empty group can be removed so.
                return std::fs::remove_dir(&group).map_err(failed(name));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(())
    }

    async fn list_scopes(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        let found = scopes_in(&self.manager().groups(&hierarchy()))?;
        let names = found.into_iter().map(|(name, _)| name);
        let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
        names.sort();
        Ok(names)
    }
}

impl LinuxHost {
    fn manager(&self) -> Manager {
        match self.user_id() {
            0 => Manager::System,
            user => Manager::User(user),
        }
    }

    /// Starts a program in a scope of its own, and returns when it is in it. A scope that cannot be made is
    /// [`HostError::Scope`], and nothing was started.
    pub(super) async fn spawn_in_scope(
        &self,
        detached: &Detached,
        scope: &ScopeSpec,
    ) -> Result<(ProcessIdentity, Vec<ProcessIdentity>), HostError> {
        let manager = self.manager();
        let program = self.surroundings.resolve(&detached.program)?;
        let refused = |said: String| HostError::Scope {
            scope: scope.name.clone(),
            said: (!said.is_empty()).then_some(said),
        };
        let run = self.surroundings.resolve(RUN);
        let run = run.map_err(|missing| refused(missing.to_string()))?;
        let wrapped = Detached {
            program: RUN.to_owned(),
            arguments: manager.words_to_run(scope, &program, &detached.arguments),
            scope: None,
            ..detached.clone()
        };
        let logged = files::stat(&detached.log)?.map_or(0, |facts| facts.bytes);
        let surroundings = manager.surroundings(&self.surroundings);
        let (started, mut logs) = surroundings.start(&wrapped)?;
        let asked = Instant::now();
        loop {
            if process::identity(started.pid)?.as_ref() != Some(&started) {
                break;
            }
            // It is the program's own once systemd-run has become it, and empty for a moment in between.
            let first = process::first_argument(started.pid)?;
            if !first.is_empty() && first != run.as_os_str().as_bytes() {
                // In the scope too, so that they live as long as the program, and count as its own.
                match logs.keep(&surroundings, group_of(started.pid).as_deref()) {
                    Ok(keepers) => return Ok((started, keepers)),
                    Err(error) => {
                        process::signal(&started, ProcessSignal::Kill)?;
                        process::wait_end(&started).await?;
                        return Err(error);
                    }
                }
            }
            if asked.elapsed() > PATIENCE {
                process::signal(&started, ProcessSignal::Kill)?;
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        process::wait_end(&started).await?;
        let mut said = logs.said(2000);
        if said.is_empty() {
            said = files::read_at(&detached.log, logged, 2000)?;
        }
        Err(refused(String::from_utf8_lossy(&said).trim().to_owned()))
    }
}

/// The systemd that is asked: the system's by root, by everybody else their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manager {
    System,
    User(u32),
}

impl std::fmt::Display for Manager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Manager::System => f.write_str("systemd"),
            Manager::User(user) => write!(f, "the systemd of user {user}"),
        }
    }
}

impl Manager {
    fn words(self) -> &'static [&'static str] {
        match self {
            Manager::System => &[],
            Manager::User(_) => &["--user"],
        }
    }

    fn words_to_run(
        self,
        scope: &ScopeSpec,
        program: &Path,
        arguments: &[OsString],
    ) -> Vec<OsString> {
        let mut words: Vec<OsString> = self.words().iter().map(Into::into).collect();
        // A failed one is forgotten too, so that its name is free. Described in our words: its own are the
        // whole command line, which need not be UTF-8.
        words.extend(["--scope", "--quiet", "--collect", "--no-ask-password"].map(Into::into));
        words.push(format!("--unit={}", scope.name).into());
        for property in [
            format!("MemoryMax={}", scope.memory_bytes),
            format!("TasksMax={}", scope.tasks),
            format!("CPUWeight={}", scope.cpu_weight),
        ] {
            words.push(format!("--property={property}").into());
        }
        words.push("--description=A virtual machine of banger".into());
        words.push("--".into());
        words.push(program.into());
        words.extend_from_slice(arguments);
        words
    }

    /// Where a user's own is found is told by a variable, which a clean environment lacks.
    fn surroundings(self, clean: &Surroundings) -> Surroundings {
        let mut surroundings = clean.clone();
        if let Manager::User(user) = self {
            let folder = format!("/run/user/{user}");
            (surroundings.environment).push(("XDG_RUNTIME_DIR".to_owned(), folder));
        }
        surroundings
    }

    /// The socket that systemd-run and systemctl speak to it on, with or without a bus.
    fn socket(self) -> PathBuf {
        match self {
            Manager::System => "/run/systemd/private".into(),
            Manager::User(user) => format!("/run/user/{user}/systemd/private").into(),
        }
    }

    /// The control group that all its slices lie in.
    fn groups(self, hierarchy: &Path) -> PathBuf {
        match self {
            Manager::System => hierarchy.to_owned(),
            Manager::User(user) => hierarchy
                .join("user.slice")
                .join(format!("user-{user}.slice"))
                .join(format!("user@{user}.service")),
        }
    }

    /// Says whether a scope here lives at least as long as a process that has none. A user's own systemd ends
    /// with the last login and takes all with it, where a process of the login's own may be left alone.
    fn outlives_logins(self, lingers: &dyn Fn(u32) -> bool) -> Result<(), String> {
        let Manager::User(user) = self else {
            return Ok(());
        };
        let ours = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        if lingers(user) || ours.contains(&format!("/user@{user}.service/")) {
            return Ok(());
        }
        Err(format!(
            "{self} ends with the last login, and VMs in it would: loginctl enable-linger"
        ))
    }
}

/// Says whether a user's own systemd runs on when nobody is logged in.
fn lingers(user: u32) -> bool {
    // logind knows the name, wherever the system has its users from.
    let known = std::fs::read_to_string(format!("/run/systemd/users/{user}")).unwrap_or_default();
    let name = known.lines().find_map(|line| line.strip_prefix("NAME="));
    name.is_some_and(|name| Path::new("/var/lib/systemd/linger").join(name).exists())
}

/// The hierarchy of control groups that systemd keeps its units in: the only one, or its own.
fn hierarchy() -> PathBuf {
    let root = Path::new(CONTROL_GROUPS);
    match root.join("cgroup.controllers").exists() {
        true => root.to_owned(),
        false => root.join("systemd"),
    }
}

/// The control group of a process, in the hierarchy of [`hierarchy`].
fn group_of(pid: u32) -> Option<PathBuf> {
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    let group = groups.lines().find_map(|line| {
        line.strip_prefix("0::")
            .filter(|path| *path != "/")
            .or_else(|| Some(line.split_once(":name=systemd:")?.1))
    })?;
    Some(hierarchy().join(group.trim_start_matches('/')))
}

/// Lists the scopes below a control group: each lies in a slice, and slices lie in slices.
fn scopes_in(groups: &Path) -> Result<Vec<(String, PathBuf)>, HostError> {
    let mut found = Vec::new();
    let mut slices = vec![groups.to_owned()];
    while let Some(slice) = slices.pop() {
        let entries = match std::fs::read_dir(&slice) {
            Ok(entries) => entries,
            // It went while we looked, there is no systemd, or it is nobody's business of ours.
            Err(error)
                if matches!(
                    error.kind(),
                    std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
                ) =>
            {
                continue;
            }
            Err(error) => return Err(files::failed(FileAct::List, &slice)(error)),
        };
        for entry in entries.flatten() {
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if name.ends_with(".slice") {
                slices.push(entry.path());
            } else if name.ends_with(".scope") {
                found.push((name, entry.path()));
            }
        }
    }
    Ok(found)
}

fn is_occupied(group: &Path) -> bool {
    std::fs::read(group.join("cgroup.procs")).is_ok_and(|processes| !processes.is_empty())
}

fn failed(name: &str) -> impl FnOnce(std::io::Error) -> HostError {
    move |source| HostError::Device {
        act: "end the scope",
        device: name.to_owned(),
        source,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_found_in_slices_within_slices_and_nowhere_else() {
        let groups = tempfile::tempdir().unwrap();
        for folder in [
            "init.scope",
            "system.slice/banger-0a0a0a0a-1.scope",
            "system.slice/ssh.service/fake.scope",
            "user.slice/user-7.slice/session-1.scope",
            "user.slice/user-7.slice/user@7.service/app.slice/banger-0a0a0a0a-2.scope",
        ] {
            std::fs::create_dir_all(groups.path().join(folder)).unwrap();
        }
        let names = |manager: Manager| -> Vec<String> {
            let found = scopes_in(&manager.groups(groups.path())).unwrap();
            let mut names: Vec<String> = found.into_iter().map(|(name, _)| name).collect();
            names.sort();
            names
        };
        let system = ["banger-0a0a0a0a-1.scope", "init.scope", "session-1.scope"];
        assert_eq!(names(Manager::System), system);
        assert_eq!(names(Manager::User(7)), ["banger-0a0a0a0a-2.scope"]);
        assert_eq!(names(Manager::User(8)), [""; 0], "nobody of that number");
    }

    #[test]
    fn systemd_run_is_told_the_name_and_the_program_as_it_is() {
        let words = |manager: Manager| {
            let arguments = ["-name".into(), "a b".into()];
            let scope = ScopeSpec {
                name: "banger-x.scope".to_owned(),
                memory_bytes: 4096,
                tasks: 7,
                cpu_weight: 50,
            };
            let words = manager.words_to_run(&scope, Path::new("/usr/bin/qemu"), &arguments);
            let words = words.iter().map(|word| word.to_str().unwrap().to_owned());
            words.collect::<Vec<_>>().join("|")
        };
        assert_eq!(
            words(Manager::System),
            "--scope|--quiet|--collect|--no-ask-password|--unit=banger-x.scope|\
             --property=MemoryMax=4096|--property=TasksMax=7|--property=CPUWeight=50|\
             --description=A virtual machine of banger|--|/usr/bin/qemu|-name|a b"
        );
        assert!(words(Manager::User(7)).starts_with("--user|--scope|"));
    }

    #[test]
    fn a_scope_of_a_systemd_that_ends_with_the_last_login_is_no_gain() {
        let nobody = |_| false;
        assert_eq!(Manager::System.outlives_logins(&nobody), Ok(()));
        // Nobody's number, so that these tests are not run by one of its processes.
        let user = Manager::User(4_000_000_000);
        assert_eq!(user.outlives_logins(&|_| true), Ok(()));
        let why = user.outlives_logins(&nobody).unwrap_err();
        assert!(why.contains("enable-linger"), "{why}");
    }
}
