//! What works on this host, what `auto` picks, and what a first run still needs. Changes nothing.

use serde::{Deserialize, Serialize};

use crate::backends::Candidate;
use crate::choice::{Probe, Usable};
use crate::engine::Engine;
use crate::error::Error;
use crate::host::{Host, Program, ProgramOutput};
use crate::vm::NetworkKind;
use crate::workspace::{OLDEST_GIT, is_new_enough};

/// What the doctor found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doctor {
    /// Every backend.
    pub candidates: Vec<Candidate>,
    /// What else matters.
    pub facts: Vec<Fact>,
}

/// One thing that matters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fact {
    /// What it is of: `kvm`, `image`, `program`, `scope`, `nat`, `space`, and `vm` for one that
    /// stands still.
    pub subject: String,
    /// Which one.
    pub name: String,
    /// Whether it is as it should be, and why (not).
    pub probe: Probe,
}

/// Says whether git is new enough for workspaces.
async fn git_fact(host: &dyn Host) -> Option<Probe> {
    let output = host.run(&Program::new("git").arg("--version")).await;
    Some(match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            match is_new_enough(&said) {
                true => Probe::works(said),
                false => Probe::fails(
                    format!("{said} is too old for workspaces: {OLDEST_GIT} or later is needed"),
                    Some("install a newer git".to_owned()),
                ),
            }
        }
        Err(error) => Probe::fails(error.to_string(), error.hint()),
    })
}

/// Says what shuts in the programs that parse what somebody else made. None where none can be run to see.
async fn parser_fact(host: &dyn Host) -> Option<Probe> {
    let look = Program::look_around();
    let free = host.run(&look).await.ok()?;
    let shut_in = host.run(&look.as_parser()).await.ok()?;
    let words = |output: &ProgramOutput| String::from_utf8_lossy(&output.stdout).into_owned();
    let (free, shut_in) = (words(&free), words(&shut_in));
    let mut missing = Vec::new();
    if free.lines().next() == shut_in.lines().next() {
        missing.push("no namespaces of their own (user namespaces are refused here)");
    }
    if shut_in.contains("open") {
        missing.push("no Landlock (the kernel has none)");
    }
    Some(match missing.is_empty() {
        true => Probe::works("parsers of images and of guests' disks reach nothing else"),
        false => Probe::fails(
            format!(
                "parsers of images and of guests' disks have {}",
                missing.join(", and ")
            ),
            Some("they run as nobody and in limits all the same; docs/security.md".to_owned()),
        ),
    })
}

impl Engine {
    /// Examines the host.
    pub async fn doctor(&self) -> Result<Doctor, Error> {
        let inner = &self.inner;
        let host = inner.host();
        let fact = |subject: &str, name: &str, probe: Probe| Fact {
            subject: subject.to_owned(),
            name: name.to_owned(),
            probe,
        };
        let mut facts = Vec::new();
        let kvm = match host.cpu().await.kvm {
            Ok(()) => Probe::works("/dev/kvm opens and the processor has vmx or svm"),
            Err(why) => Probe::fails(
                why,
                Some("guests are emulated: slower, and the same".into()),
            ),
        };
        facts.push(fact("kvm", "kvm", kvm));
        let image = inner.config.defaults.image.clone();
        let probe = match self.image(&image.parse()?).await {
            Ok(view) => match view.problem {
                None if view.manifest.is_some_and(|manifest| manifest.is_untried()) => {
                    Probe::works("it is there; it was registered without a test boot")
                }
                None => Probe::works("it is there"),
                Some(problem) => Probe::fails(
                    problem,
                    Some(format!("make it anew: banger image delete {image}")),
                ),
            },
            Err(_) => Probe::works("not there yet: the first `banger vm run` makes it"),
        };
        facts.push(fact("image", &image, probe));
        for program in ["ssh", "mke2fs", "mmdebstrap", "unshare"] {
            facts.push(fact(
                "program",
                program,
                Probe::needs_program(host, program).await,
            ));
        }
        if host.user_id() != 0 {
            let probe = Probe::needs_program(host, "newuidmap").await;
            facts.push(fact("program", "newuidmap", probe));
        }
        let probe = match host.scope_support().await {
            Ok(()) => Probe::works("a scope for each VM: the daemon's service and logins end none"),
            Err(why) => Probe::fails(why, None),
        };
        facts.push(fact("scope", "systemd", probe));
        facts.extend(
            git_fact(host)
                .await
                .map(|probe| fact("program", "git", probe)),
        );
        facts.extend(
            parser_fact(host)
                .await
                .map(|probe| fact("parsers", "isolation", probe)),
        );
        if let Ok(tap) = inner.backends.network(NetworkKind::Tap)
            && tap.probe(host).await.usable == Usable::Yes
        {
            facts.push(fact("nat", "tap", tap.lets_out(host, &inner.id).await));
        }
        facts.push(fact("space", "state folder", inner.space_in_state().await?));
        for view in self.list_running().await? {
            // Only what stands still is told of: a host may have thousands that run.
            if let Some(live) = inner.live(&view.vm.id)
                && let Some(reason) = live.paused()
            {
                let next = reason.next_step(&view.vm.name, &view.vm.runtime.vm_dir);
                let probe = Probe::fails(format!("paused: {reason}"), Some(next));
                facts.push(fact("vm", view.vm.name.as_str(), probe));
            }
        }
        Ok(Doctor {
            candidates: inner.backends.candidates(host, &inner.id).await,
            facts,
        })
    }
}
