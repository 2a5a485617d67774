//! Looking at one VM: what there is of it, and whether it still wants it.

use super::prove::Survey;
use super::{Grip, HostObject, ObjectKind, Owner, Remedy};
use crate::engine::Inner;
use crate::error::Error;
use crate::handles::{
    HANDLES_ASIDE, HANDLES_FILE, HandlesError, HandlesPeek, VMHandles, peek_handles_file,
};
use crate::host::ProcessIdentity;
use crate::liveness::{Monitor, Standing, Verdict, hold};
use crate::names::VmId;
use crate::vm::VMRecord;

/// An object, and how it would be removed.
pub(super) struct Found {
    pub(super) object: HostObject,
    pub(super) act: Act,
}

/// How an object is removed.
#[derive(Clone, Debug)]
pub(super) enum Act {
    /// It is not: it goes with another, or a person decides.
    Nothing,
    EndMonitor(Monitor),
    EndProcess(ProcessIdentity),
    RemoveFile(std::path::PathBuf),
    RemoveTree(std::path::PathBuf),
    /// What is left of the image build of this id, in both of its folders.
    SweepImage(String),
    RemoveSnapshot(String),
    RemoveNamespace(String),
    RemoveScope(String),
    /// By its name, if it is this owner's still.
    RemoveUplink {
        name: String,
        owner: String,
    },
    RemoveTable(String),
    /// Everything that the handles name is released, and then they are removed.
    Release(Box<VMRecord>, Box<VMHandles>),
}

impl Found {
    pub(super) fn new(
        kind: ObjectKind,
        grip: Grip,
        vm: Option<&VmId>,
        owner: Owner,
        act: Act,
    ) -> Self {
        let object = HostObject {
            kind,
            grip,
            vm: vm.cloned(),
            owner,
        };
        Found { object, act }
    }

    pub(super) fn file(
        kind: ObjectKind,
        path: std::path::PathBuf,
        vm: Option<&VmId>,
        owner: Owner,
    ) -> Self {
        let act = Act::RemoveFile(path.clone());
        Found::new(kind, Grip::Path(path), vm, owner, act)
    }
}

/// What a VM still claims of what bears its name.
enum Claim {
    /// A verb is at work on it: everything.
    Everything,
    /// It runs, by this monitor.
    Run(Monitor),
    /// Its run is over, and nobody has released it yet: its record still names it.
    EndedRun,
    /// Nothing of any run.
    NoRun(&'static str),
    /// Its record is lost; its disks are there, and it may run.
    LostRecord,
    /// Nobody knows.
    Unknown(String),
}

impl Inner {
    /// Looks at everything that is named after a VM. Unless a verb is at work (`quiet` is false), the
    /// caller holds its turn.
    pub(super) async fn look_at_vm(
        &self,
        id: &VmId,
        survey: &Survey,
        quiet: bool,
    ) -> Result<Vec<Found>, Error> {
        let row = self.store.vm(id).await?;
        let (handles, damage) = match peek_handles_file(self.host(), &self.places.vm(id)).await {
            Ok(HandlesPeek::Found(handles)) => (Some(*handles), None),
            Ok(HandlesPeek::Missing | HandlesPeek::Damaged { .. }) => (None, None),
            Err(HandlesError::Newer { path, found }) => {
                let reason = format!("{} has version {found}", path.display());
                (None, Some(reason))
            }
            Err(error) => return Err(error.into()),
        };
        let handles = self.cache.get(id).or(handles);
        let seen = survey.monitors.get(id).map_or(&[][..], Vec::as_slice);
        let claim = match (quiet, damage) {
            (false, _) => Claim::Everything,
            (true, Some(reason)) => Claim::Unknown(reason),
            (true, None) => {
                self.claim(id, row.as_ref(), handles.as_ref(), !seen.is_empty())
                    .await?
            }
        };
        let vm = VmLook {
            inner: self,
            id,
            row,
            handles,
            claim,
        };
        let mut found = vm.processes(seen, survey).await?;
        let folder = self.places.run(id);
        found.extend(
            self.look_at_run_folder(&folder, Some(id), &vm.of_its_run())
                .await?,
        );
        found.extend(vm.folders().await?);
        let owner = vm.of_its_run();
        let mut held = survey.held.found(id, &owner);
        if !held.is_empty() && matches!(owner, Owner::Stray { .. }) {
            // Seen in the survey and there still: a verb that has ended since may have removed it.
            held = self.held().await?.found(id, &owner);
        }
        found.extend(held);
        Ok(found)
    }

    async fn claim(
        &self,
        id: &VmId,
        row: Option<&VMRecord>,
        handles: Option<&VMHandles>,
        seen: bool,
    ) -> Result<Claim, Error> {
        let complete = self.host().stat(&self.places.vm(id)).await?.is_some();
        let Some(row) = row else {
            return Ok(match complete {
                true => Claim::LostRecord,
                false => Claim::NoRun("left by a VM that is no more"),
            });
        };
        let verdict = match handles.is_some() || seen {
            true => self.liveness.judge(id, handles).await,
            false => Verdict::Gone,
        };
        let run = row.runtime.run_id.as_ref();
        Ok(match hold(&row.runtime.state, run, verdict) {
            Standing::Runs(monitor) => Claim::Run(monitor),
            Standing::Ended => Claim::EndedRun,
            Standing::HalfStarted(_) => Claim::NoRun("left by a start that nobody acknowledged"),
            Standing::Rests => Claim::NoRun("left by a run that is over"),
            Standing::CannotTell(reason) => Claim::Unknown(reason),
        })
    }
}

/// One VM while it is looked at.
struct VmLook<'a> {
    inner: &'a Inner,
    id: &'a VmId,
    row: Option<VMRecord>,
    handles: Option<VMHandles>,
    claim: Claim,
}

impl VmLook<'_> {
    fn mine(&self, note: Option<&str>) -> Owner {
        Owner::Vm {
            id: self.id.clone(),
            name: self.row.as_ref().map(|row| row.name.clone()),
            note: note.map(str::to_owned),
        }
    }

    /// Whose the things of its run are.
    fn of_its_run(&self) -> Owner {
        match &self.claim {
            Claim::Everything => self.mine(Some("a verb is at work")),
            Claim::Run(_) => self.mine(None),
            Claim::EndedRun => self.mine(Some("it has ended; reconcile releases this")),
            Claim::NoRun(why) => stray(why),
            Claim::LostRecord => lost_record(),
            Claim::Unknown(reason) => Owner::Undecided {
                reason: reason.clone(),
            },
        }
    }

    async fn processes(&self, seen: &[Monitor], survey: &Survey) -> Result<Vec<Found>, Error> {
        let liveness = &self.inner.liveness;
        let mut monitors: Vec<&Monitor> = seen.iter().collect();
        if let Claim::Run(monitor) = &self.claim
            && !monitors.contains(&monitor)
        {
            // It was started, or found by its handles, after the survey.
            monitors.push(monitor);
        }
        let mut found = Vec::new();
        for monitor in monitors {
            if !liveness.is_alive(monitor).await? {
                continue;
            }
            let owner = match &self.claim {
                Claim::Run(owned) if owned != monitor => {
                    stray("a monitor beside the one that its VM runs in")
                }
                _ => self.of_its_run(),
            };
            for port in liveness.ports(monitor).await? {
                found.push(Found::new(
                    ObjectKind::Port,
                    Grip::Port(port),
                    Some(self.id),
                    owner.clone(),
                    Act::Nothing,
                ));
            }
            found.push(Found::new(
                ObjectKind::Monitor,
                Grip::Process(monitor.handle()),
                Some(self.id),
                owner,
                Act::EndMonitor(monitor.clone()),
            ));
        }
        let owner = self.of_its_run();
        for process in survey.ssh.get(self.id.short()).into_iter().flatten() {
            found.extend(
                self.inner
                    .look_at_ssh(process, Some(self.id), &owner)
                    .await?,
            );
        }
        Ok(found)
    }

    async fn folders(&self) -> Result<Vec<Found>, Error> {
        let (host, places) = (self.inner.host(), &self.inner.places);
        let (new, complete, trash) = (
            places.vm_new(self.id),
            places.vm(self.id),
            places.vm_trash(self.id),
        );
        let is_complete = host.stat(&complete).await?.is_some();
        let mut found = Vec::new();
        for (path, word) in [(new, "creation"), (trash, "deletion")] {
            if host.stat(&path).await?.is_none() {
                continue;
            }
            let owner = match (&self.claim, &self.row) {
                (Claim::Everything, _) => self.mine(Some("a verb is at work")),
                (Claim::Unknown(_), _) => self.of_its_run(),
                (_, Some(_)) if !is_complete => self.mine(Some("reconcile finishes it")),
                _ => stray(&format!("left by a {word} that was interrupted")),
            };
            let act = Act::RemoveTree(path.clone());
            let (kind, grip) = (ObjectKind::VmFolder, Grip::Path(path));
            found.push(Found::new(kind, grip, Some(self.id), owner, act));
        }
        if is_complete {
            let owner = match &self.claim {
                Claim::LostRecord => lost_record(),
                _ => self.mine(None),
            };
            let (kind, grip) = (ObjectKind::VmFolder, Grip::Path(complete.clone()));
            let (id, kept) = (Some(self.id), owner.clone());
            found.push(Found::new(kind, grip, id, owner, Act::Nothing));
            for name in host.list_dir(&complete).await? {
                found.extend(self.file(&complete.join(&name), &name, &kept));
            }
        }
        Ok(found)
    }

    fn file(&self, path: &std::path::Path, name: &str, folder: &Owner) -> Option<Found> {
        let id = Some(self.id);
        if name == HANDLES_FILE {
            let (kind, owner) = (ObjectKind::HandlesFile, self.of_its_run());
            let mut found = Found::file(kind, path.to_owned(), id, owner);
            if let (Some(row), Some(handles)) = (&self.row, &self.handles) {
                found.act = Act::Release(row.clone().into(), handles.clone().into());
            }
            return Some(found);
        }
        if name == HANDLES_ASIDE {
            let kind = ObjectKind::SetAsideFile;
            let grip = Grip::Path(path.to_owned());
            return Some(Found::new(kind, grip, id, folder.clone(), Act::Nothing));
        }
        if is_temporary(name) {
            // That of a VM that runs is written over by its next write, or goes with its run.
            let owner = match &self.claim {
                Claim::NoRun(_) => stray("a write that was interrupted"),
                _ => self.of_its_run(),
            };
            let kind = ObjectKind::TemporaryFile;
            return Some(Found::file(kind, path.to_owned(), id, owner));
        }
        None
    }
}

/// Says whether a name is that of a file which was to be renamed to another.
pub(crate) fn is_temporary(name: &str) -> bool {
    name.ends_with(".tmp")
}

fn stray(why: &str) -> Owner {
    Owner::Stray {
        why: why.to_owned(),
        remedy: Remedy::Remove,
    }
}

fn lost_record() -> Owner {
    Owner::Stray {
        why: "a VM's disks without a record".to_owned(),
        remedy: Remedy::ByHand,
    }
}
