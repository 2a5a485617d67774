//! Enumerating: one survey of the host, then each VM at a moment when no verb works on it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use super::held::Held;
use super::look::{Act, Found, is_temporary};
use super::{Foreign, Grip, HostObject, Inventory, ObjectKind, Owner, Remedy};
use crate::engine::{Engine, Inner};
use crate::error::Error;
use crate::host::ProcessFacts;
use crate::image::scratch_folder;
use crate::liveness::{Monitor, ProcessHandle};
use crate::names::{EngineId, ImageName, VmId};
use crate::places::{NEW, Places, TRASH};

/// What one look at everything showed, before anybody was asked whose it is.
pub(super) struct Survey {
    pub(super) ids: BTreeSet<VmId>,
    pub(super) monitors: BTreeMap<VmId, Vec<Monitor>>,
    pub(super) held: Held,
    /// By the name of the runtime folder that each has on its command line.
    pub(super) ssh: BTreeMap<String, Vec<ProcessFacts>>,
    runs: Vec<String>,
    foreign: Vec<Foreign>,
}

impl Engine {
    /// Enumerates every object on the host that this engine owns or could own, and says of each whose
    /// it is. Changes nothing. Waits for no verb: what a verb is at work on belongs to its VM.
    pub async fn prove(&self) -> Result<Inventory, Error> {
        let inner = &self.inner;
        let survey = inner.survey_objects().await?;
        let mut found = Vec::new();
        for id in &survey.ids {
            let turn = inner.try_turn(id);
            found.extend(inner.look_at_vm(id, &survey, turn.is_some()).await?);
        }
        found.extend(inner.look_at_nobodys_runs(&survey).await?);
        found.extend(inner.look_at_images().await?);
        found.extend(inner.look_at_engine_files().await?);
        let mut objects: Vec<HostObject> = found.into_iter().map(|found| found.object).collect();
        objects.sort_by_cached_key(|object| (object.kind, object.grip.to_string()));
        Ok(Inventory {
            engine: inner.id.clone(),
            kinds: ObjectKind::ALL.into(),
            objects,
            foreign: survey.foreign,
        })
    }
}

impl Inner {
    pub(super) async fn survey_objects(&self) -> Result<Survey, Error> {
        let (host, places) = (self.host(), &self.places);
        // Order matters here: what is named after VMs first, the records last. A VM that is made
        // meanwhile is then missing from neither.
        let census = self.liveness.census().await?;
        let held = self.held().await?;
        let runs = host.list_dir(&places.runs()).await?;
        let mut ssh = BTreeMap::<String, Vec<ProcessFacts>>::new();
        let below = format!("{}/", places.runs().display());
        for process in host.find_processes(&below).await? {
            if crate::transport::is_ssh(&process.command_line)
                && let Some(run) = run_named(&process.command_line, &below)
            {
                ssh.entry(run).or_default().push(process);
            }
        }
        let mut ids = BTreeSet::new();
        for name in host.list_dir(&places.vms()).await? {
            let bare = name.strip_prefix(NEW).or_else(|| name.strip_prefix(TRASH));
            // A name that is no id is nothing that we have made.
            ids.extend(bare.unwrap_or(&name).parse::<VmId>());
        }
        let mut monitors = BTreeMap::<VmId, Vec<Monitor>>::new();
        for seen in census.ours {
            ids.insert(seen.vm.clone());
            monitors.entry(seen.vm).or_default().push(seen.monitor);
        }
        ids.extend(held.owners().cloned());
        ids.extend(self.store.vms().await?.into_iter().map(|row| row.id));
        Ok(Survey {
            ids,
            monitors,
            held,
            ssh,
            runs,
            foreign: self.foreign(census.others).await?,
        })
    }

    async fn foreign(&self, monitors: BTreeMap<EngineId, usize>) -> Result<Vec<Foreign>, Error> {
        let mut foreign: BTreeMap<EngineId, Foreign> = BTreeMap::new();
        let entry = |engine: EngineId| Foreign {
            engine,
            monitors: 0,
            runtime_folders: 0,
        };
        for (engine, count) in monitors {
            let seen = foreign.entry(engine.clone()).or_insert(entry(engine));
            seen.monitors = count;
        }
        for name in self.host().list_dir(self.places.runtime()).await? {
            if let Ok(engine) = name.parse::<EngineId>()
                && engine != self.id
            {
                let seen = foreign.entry(engine.clone()).or_insert(entry(engine));
                seen.runtime_folders += 1;
            }
        }
        Ok(foreign.into_values().collect())
    }

    /// Looks at runtime folders, and at ssh processes in them, that are named after no VM there is.
    pub(super) async fn look_at_nobodys_runs(&self, survey: &Survey) -> Result<Vec<Found>, Error> {
        let known: BTreeSet<&str> = survey.ids.iter().map(VmId::short).collect();
        let names: BTreeSet<&String> = survey.runs.iter().chain(survey.ssh.keys()).collect();
        let mut found = Vec::new();
        for name in names {
            // A VM that was made since the survey began?
            if known.contains(name.as_str()) || !self.store.vms_with_prefix(name).await?.is_empty()
            {
                continue;
            }
            let owner = Owner::Stray {
                why: "left by a VM that is no more".to_owned(),
                remedy: Remedy::Remove,
            };
            for process in survey.ssh.get(name).into_iter().flatten() {
                found.extend(self.look_at_ssh(process, None, &owner).await?);
            }
            let folder = self.places.runs().join(name);
            found.extend(self.look_at_run_folder(&folder, None, &owner).await?);
        }
        Ok(found)
    }

    pub(super) async fn look_at_images(&self) -> Result<Vec<Found>, Error> {
        let (host, images) = (self.host(), self.places.images());
        let mut found = Vec::new();
        for name in host.list_dir(&images).await? {
            let path = images.join(&name);
            let (owner, act) = if let Some(id) = name.strip_prefix(NEW) {
                let owner = match self.makes_images() {
                    true => Owner::Engine,
                    false => Owner::Stray {
                        why: "an image whose making was interrupted".to_owned(),
                        remedy: Remedy::Remove,
                    },
                };
                let sweep = Act::SweepImage(id.to_owned());
                // It bears no engine's id: the folder that is here says that it is ours.
                let scratch = scratch_folder(&self.config.image_scratch, id);
                if host.stat(&scratch).await?.is_some() {
                    let (kind, grip) = (ObjectKind::ImageScratch, Grip::Path(scratch));
                    let (owner, sweep) = (owner.clone(), sweep.clone());
                    found.push(Found::new(kind, grip, None, owner, sweep));
                }
                (owner, sweep)
            } else if name.starts_with(TRASH) {
                let owner = match self.makes_images() {
                    true => Owner::Engine,
                    false => Owner::Stray {
                        why: "an image whose deletion was interrupted".to_owned(),
                        remedy: Remedy::Remove,
                    },
                };
                (owner, Act::RemoveTree(path.clone()))
            } else if let Ok(image) = name.parse::<ImageName>() {
                match self.has_image(&image).await? {
                    true => (Owner::Image(image), Act::Nothing),
                    false => {
                        let why = "an image's folder without a manifest".to_owned();
                        let remedy = Remedy::ByHand;
                        (Owner::Stray { why, remedy }, Act::Nothing)
                    }
                }
            } else {
                // Nothing that we have made.
                continue;
            };
            let kind = ObjectKind::ImageFolder;
            found.push(Found::new(kind, Grip::Path(path), None, owner, act));
        }
        Ok(found)
    }

    pub(super) async fn look_at_engine_files(&self) -> Result<Vec<Found>, Error> {
        let (host, places) = (self.host(), &self.places);
        let database = places.database();
        let beside = |suffix: &str| PathBuf::from(format!("{}{suffix}", database.display()));
        let key = places.client_key();
        let own = [
            Places::engine_id_of(places.state()),
            Places::lock_of(places.state()),
            beside("-journal"),
            beside("-shm"),
            beside("-wal"),
            key.with_extension("pub"),
            key.clone(),
            database,
        ];
        let mut found = Vec::new();
        for path in own {
            if host.stat(&path).await?.is_some() {
                let kind = ObjectKind::EngineFile;
                let grip = Grip::Path(path);
                found.push(Found::new(kind, grip, None, Owner::Engine, Act::Nothing));
            }
        }
        for folder in [places.state(), key.parent().unwrap_or(places.state())] {
            for name in host.list_dir(folder).await? {
                if !is_temporary(&name) {
                    continue;
                }
                let owner = match self.is_at_work() {
                    true => Owner::Engine,
                    false => Owner::Stray {
                        why: "a write that was interrupted".to_owned(),
                        remedy: Remedy::Remove,
                    },
                };
                found.push(Found::file(
                    ObjectKind::TemporaryFile,
                    folder.join(name),
                    None,
                    owner,
                ));
            }
        }
        Ok(found)
    }

    pub(super) async fn look_at_ssh(
        &self,
        process: &ProcessFacts,
        vm: Option<&VmId>,
        owner: &Owner,
    ) -> Result<Option<Found>, Error> {
        let identity = &process.identity;
        let now = self.host().process(identity.pid).await?;
        if now.is_none_or(|now| now.identity != *identity) {
            return Ok(None);
        }
        Ok(Some(Found::new(
            ObjectKind::SshProcess,
            Grip::Process(ProcessHandle::new(identity.clone())),
            vm,
            owner.clone(),
            Act::EndProcess(identity.clone()),
        )))
    }

    pub(super) async fn look_at_run_folder(
        &self,
        folder: &Path,
        vm: Option<&VmId>,
        owner: &Owner,
    ) -> Result<Vec<Found>, Error> {
        let host = self.host();
        let Some(facts) = host.stat(folder).await? else {
            return Ok(Vec::new());
        };
        let path = folder.to_owned();
        let act = match facts.is_dir {
            true => Act::RemoveTree(path.clone()),
            false => Act::RemoveFile(path.clone()),
        };
        let (kind, grip) = (ObjectKind::RuntimeFolder, Grip::Path(path));
        let mut found = vec![Found::new(kind, grip, vm, owner.clone(), act)];
        if !facts.is_dir {
            return Ok(found);
        }
        for name in host.list_dir(folder).await? {
            let path = folder.join(&name);
            let kind = match host.stat(&path).await? {
                Some(facts) if facts.is_socket => ObjectKind::Socket,
                Some(_) if is_temporary(&name) => ObjectKind::TemporaryFile,
                _ => continue,
            };
            found.push(Found::file(kind, path, vm, owner.clone()));
        }
        Ok(found)
    }
}

/// Returns the name of the runtime folder that a command line has a path in.
fn run_named(command_line: &str, below: &str) -> Option<String> {
    let rest = &command_line[command_line.find(below)? + below.len()..];
    let name = rest.split(['/', ' ']).next()?;
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_kind_is_missing_from_the_list_of_all() {
        let all: BTreeSet<ObjectKind> = ObjectKind::ALL.into_iter().collect();
        assert_eq!(all.len(), ObjectKind::ALL.len());
        // The last of the enumeration: whoever adds one after it corrects this, and the list.
        assert_eq!(ObjectKind::Mount as usize + 1, ObjectKind::ALL.len());
    }

    #[test]
    fn the_runtime_folder_is_read_from_a_command_line_of_ssh() {
        let run = |line: &str| run_named(line, "/run/b/0a0a0a0a/");
        let name = Some("0123456789ab".to_owned());
        assert_eq!(run("ssh: /run/b/0a0a0a0a/0123456789ab/ssh [mux]"), name);
        assert_eq!(
            run("/usr/bin/ssh -F /run/b/0a0a0a0a/0123456789ab/ssh_config -N"),
            name
        );
        assert_eq!(run("ssh somewhere"), None);
    }
}
