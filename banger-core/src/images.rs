//! The images of an engine: made, registered, looked at and deleted. The folders are the truth: no
//! database knows of an image more than its own manifest does.
//!
//! Whoever makes or deletes an image has its turn alone; whoever makes a VM of it holds it meanwhile. So
//! of two builds of one name the second waits, and finds the name taken; and an image is never deleted
//! under a VM that is just being made.

mod test_boot;

use std::path::{Path, PathBuf};
use std::pin::{Pin, pin};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, oneshot};

use crate::engine::{Engine, Inner, lock};
use crate::error::Error;
use crate::image::{
    ImageError, ImageManifest, ImageSpec, MANIFEST, Registering, Registration, TestBoot, Workshop,
    build,
};
use crate::names::{ImageName, VmName};
use crate::places::TRASH;
use crate::progress::Progress;

/// An image as it is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageView {
    /// Its name.
    pub name: ImageName,
    /// Its folder.
    pub folder: PathBuf,
    /// What it says of itself; none if that cannot be read.
    pub manifest: Option<ImageManifest>,
    /// Why no VM can boot from it; none if one can.
    pub problem: Option<String>,
    /// What it takes on the disk, in bytes.
    pub disk_bytes: u64,
    /// The VMs that boot from it.
    pub used_by: Vec<VmName>,
}

/// The files of one image.
#[derive(Clone, Debug)]
pub(crate) struct ImageFiles {
    pub(crate) rootfs: PathBuf,
    pub(crate) kernel: PathBuf,
    pub(crate) initrd: PathBuf,
}

impl Engine {
    /// Returns the names of the images there are.
    pub async fn image_names(&self) -> Result<Vec<ImageName>, Error> {
        let inner = &self.inner;
        let mut names = Vec::new();
        for name in inner.host().list_dir(&inner.places.images()).await? {
            // Folders that are being built have names that are no image's.
            if let Ok(name) = name.parse::<ImageName>() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Lists the images by name, the damaged ones too.
    pub async fn images(&self) -> Result<Vec<ImageView>, Error> {
        let mut views = Vec::new();
        for name in self.image_names().await? {
            match self.image(&name).await {
                // Deleted while we looked at the others.
                Err(Error::NoSuchImage { .. }) => {}
                view => views.push(view?),
            }
        }
        Ok(views)
    }

    /// Shows one image.
    pub async fn image(&self, name: &ImageName) -> Result<ImageView, Error> {
        let inner = &self.inner;
        let (host, folder) = (inner.host(), inner.places.image(name));
        if host.stat(&folder).await?.is_none() {
            return Err(Error::NoSuchImage { name: name.clone() });
        }
        let manifest = inner.image_manifest(name).await;
        let whole = match &manifest {
            Ok(manifest) => inner.whole_files(name, manifest).await.map(drop),
            Err(_) => Ok(()),
        };
        let mut disk_bytes = 0;
        for file in host.list_dir(&folder).await? {
            let facts = host.stat(&folder.join(file)).await?;
            disk_bytes += facts.map_or(0, |facts| facts.allocated_bytes);
        }
        let (manifest, problem) = match manifest {
            Ok(manifest) => (Some(manifest), whole.err()),
            Err(error) => (None, Some(error)),
        };
        Ok(ImageView {
            name: name.clone(),
            folder,
            manifest,
            problem: problem.map(|error| error.chain().join(": ")),
            disk_bytes,
            used_by: inner.image_users(name).await?,
        })
    }

    /// Makes an image of Debian packages. Unlike other verbs it is given up when the future is dropped,
    /// and when the engine closes: then no process and no file of it is left. Two of one name: the
    /// second waits and is refused.
    pub async fn build_image(
        &self,
        mut spec: ImageSpec,
        progress: &Progress,
    ) -> Result<ImageView, Error> {
        if spec.mirror.is_none() {
            spec.mirror = self.inner.mirror()?;
        }
        let (engine, progress) = (self.clone(), progress.clone());
        self.unless_dropped(async move |dropped| {
            let inner = &engine.inner;
            let _alone = inner.image_alone(&spec.name).await?;
            inner.check_reserve_for_image().await?;
            let images = inner.places.images();
            let shop = inner.workshop(&images, &progress);
            let made = build(shop, &spec, inner.given_up(dropped)).await?;
            tracing::info!(image = %made.name, id = %made.id, "made the image");
            engine.image(&made.name).await
        })
        .await
    }

    /// Makes an image of a root file system and a kernel that are there already: copies them and, unless
    /// that is to be skipped, boots the copy as a VM `check-…` to see that it keeps the contract of
    /// docs/images.md; a guest that does not answer is waited for as long as [`Limits::ready`] says. Given
    /// up as [`Engine::build_image`] is.
    ///
    /// [`Limits::ready`]: crate::Limits::ready
    pub async fn register_image(
        &self,
        registration: Registration,
        progress: &Progress,
    ) -> Result<ImageView, Error> {
        let (engine, progress) = (self.clone(), progress.clone());
        self.unless_dropped(async move |dropped| {
            let inner = &engine.inner;
            let _alone = inner.image_alone(&registration.name).await?;
            inner.check_reserve_for_image().await?;
            let images = inner.places.images();
            let shop = inner.workshop(&images, &progress);
            let registering = Registering::begin(shop, &registration).await?;
            let given_up = pin!(inner.given_up(dropped));
            let made = engine.register(&registering, &registration, &progress, given_up);
            let made = made.await;
            if made.is_err() {
                registering.clear_away().await;
            }
            let made = made?;
            tracing::info!(image = %made.name, id = %made.id, "registered the image");
            engine.image(&made.name).await
        })
        .await
    }

    async fn register(
        &self,
        registering: &Registering<'_>,
        asked: &Registration,
        progress: &Progress,
        mut given_up: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<ImageManifest, Error> {
        // Known before anything is copied: whether a VM can run here at all.
        let spec = match asked.test_boot {
            TestBoot::Wanted => Some(self.inner.test_spec(&asked.name).await?),
            TestBoot::Skipped => None,
        };
        let candidate = tokio::select! {
            biased;
            candidate = registering.make() => candidate?,
            () = given_up.as_mut() => {
                return Err(ImageError::GivenUp { name: asked.name.clone() }.into());
            }
        };
        let booted = match spec {
            Some(spec) => {
                let boot = self.test_boot(registering, &candidate, spec, progress, given_up);
                Some(boot.await?)
            }
            None => None,
        };
        Ok(registering.publish(candidate, booted).await?)
    }

    /// Deletes an image, whole or damaged. Refuses while a VM boots from it, running or not.
    pub async fn delete_image(&self, name: &ImageName) -> Result<(), Error> {
        let (engine, name) = (self.clone(), name.clone());
        self.to_its_end(async move {
            let inner = &engine.inner;
            let _alone = inner.image_alone(&name).await?;
            let (host, folder) = (inner.host(), inner.places.image(&name));
            if host.stat(&folder).await?.is_none() {
                return Err(Error::NoSuchImage { name });
            }
            let vms = inner.image_users(&name).await?;
            if !vms.is_empty() {
                return Err(ImageError::InUse { name, vms }.into());
            }
            // One step takes the name away; what is then left under no name is swept.
            let trash = inner.places.images().join(format!("{TRASH}{name}"));
            host.remove_tree(&trash).await?;
            host.rename(&folder, &trash).await?;
            host.remove_tree(&trash).await?;
            tracing::info!(image = %name, "deleted the image");
            Ok(())
        })
        .await
    }

    /// Makes sure that an image is there. The default one is made if it is not; whoever asks for it
    /// meanwhile waits for that one, and nobody else waits.
    pub async fn ensure_image(&self, name: &ImageName, progress: &Progress) -> Result<(), Error> {
        self.inner.hold_image(name, progress).await.map(drop)
    }

    /// Gives up every image that is being made, and returns when nothing is left of them. From now on
    /// none is begun: for an engine that is about to close.
    pub async fn give_up_images(&self) {
        self.inner.closing.send_replace(true);
        let turns: Vec<_> = lock(&self.inner.images).values().cloned().collect();
        for turn in turns {
            drop(turn.write().await);
        }
    }

    /// Runs a verb in a task of its own and tells it when nobody waits for it any more.
    async fn unless_dropped<T, W>(
        &self,
        verb: impl FnOnce(oneshot::Receiver<()>) -> W,
    ) -> Result<T, Error>
    where
        T: Send + 'static,
        W: Future<Output = Result<T, Error>> + Send + 'static,
    {
        let (held, dropped) = oneshot::channel();
        let done = self.to_its_end(verb(dropped)).await;
        drop(held);
        done
    }
}

impl Inner {
    /// Says whether an image is being made or deleted by this engine right now.
    pub(crate) fn makes_images(&self) -> bool {
        let images = lock(&self.images);
        images.values().any(|turn| turn.try_read().is_err())
    }

    /// Says whether VMs can be made of an image. The simulator's default one needs no files.
    pub(crate) async fn has_image(&self, name: &ImageName) -> Result<bool, Error> {
        let manifest = self.places.image(name).join(MANIFEST);
        Ok(self.needs_no_files(name) || self.host().stat(&manifest).await?.is_some())
    }

    /// Keeps an image from being deleted for as long as the guard lives; the default one is made if it
    /// is not there.
    pub(crate) async fn hold_image(
        &self,
        name: &ImageName,
        progress: &Progress,
    ) -> Result<OwnedRwLockReadGuard<()>, Error> {
        loop {
            let held = self.image_turn(name).read_owned().await;
            if self.has_image(name).await? {
                return Ok(held);
            }
            if name.as_str() != self.config.defaults.image {
                return Err(Error::NoSuchImage { name: name.clone() });
            }
            drop(held);
            let _alone = self.image_alone(name).await?;
            // Somebody may have made it while we waited.
            if !self.has_image(name).await? {
                self.make_default_image(name, progress).await?;
            }
        }
    }

    async fn make_default_image(&self, name: &ImageName, progress: &Progress) -> Result<(), Error> {
        self.check_reserve_for_image().await?;
        let mut spec = ImageSpec::new(name.clone());
        spec.mirror = self.mirror()?;
        let images = self.places.images();
        let shop = self.workshop(&images, progress);
        // Whoever asked for it may go: the next one will want it too.
        let (_held, nobody) = oneshot::channel();
        let made = build(shop, &spec, self.given_up(nobody)).await?;
        tracing::info!(image = %made.name, id = %made.id, "made the default image");
        Ok(())
    }

    /// Removes what makings and deletions that were killed have left. At start-up, when none can be
    /// running.
    pub(crate) async fn sweep_images(&self) -> Result<(), Error> {
        let images = self.places.images();
        let silent = Progress::silent();
        let swept = self.workshop(&images, &silent).sweep().await?;
        if swept > 0 {
            tracing::info!(swept, "removed what interrupted image builds had left");
        }
        Ok(())
    }

    /// Returns where an image's files are; its folder's manifest is the truth.
    pub(crate) async fn image_files(&self, name: &ImageName) -> Result<ImageFiles, Error> {
        let folder = self.places.image(name);
        if self.needs_no_files(name) && self.host().stat(&folder.join(MANIFEST)).await?.is_none() {
            return Ok(ImageFiles {
                rootfs: folder.join("rootfs"),
                kernel: folder.join("kernel"),
                initrd: folder.join("initrd"),
            });
        }
        let manifest = self.image_manifest(name).await?;
        self.whole_files(name, &manifest).await
    }

    async fn image_manifest(&self, name: &ImageName) -> Result<ImageManifest, Error> {
        let path = self.places.image(name).join(MANIFEST);
        let Some(json) = self.host().read_file(&path).await? else {
            return Err(match self.host().stat(&self.places.image(name)).await? {
                Some(_) => Error::Image(ImageError::Incomplete {
                    name: name.clone(),
                    path,
                }),
                None => Error::NoSuchImage { name: name.clone() },
            });
        };
        let manifest =
            ImageManifest::parse(&json).map_err(|source| ImageError::Manifest { path, source })?;
        Ok(manifest)
    }

    async fn whole_files(
        &self,
        name: &ImageName,
        manifest: &ImageManifest,
    ) -> Result<ImageFiles, Error> {
        let folder = self.places.image(name);
        let files = ImageFiles {
            rootfs: manifest.rootfs_path(&folder),
            kernel: manifest.kernel_path(&folder),
            initrd: manifest.initrd_path(&folder),
        };
        for path in [&files.rootfs, &files.kernel, &files.initrd] {
            if self.host().stat(path).await?.is_none() {
                return Err(Error::Image(ImageError::Incomplete {
                    name: name.clone(),
                    path: path.clone(),
                }));
            }
        }
        Ok(files)
    }

    /// Reads an image's initramfs. The simulator's default image has none.
    pub(crate) async fn read_initrd(&self, path: &Path) -> Result<Vec<u8>, Error> {
        match self.host().read_file(path).await? {
            Some(initrd) => Ok(initrd),
            None if self.backends.simulated() => Ok(Vec::new()),
            None => Err(Error::DamagedFile {
                path: path.to_owned(),
                reason: "it is missing".to_owned(),
            }),
        }
    }

    async fn image_users(&self, name: &ImageName) -> Result<Vec<VmName>, Error> {
        let vms = self.store.vms().await?.into_iter();
        let users = vms.filter(|vm| vm.image == *name).map(|vm| vm.name);
        Ok(users.collect())
    }

    fn needs_no_files(&self, name: &ImageName) -> bool {
        self.backends.simulated() && name.as_str() == self.config.defaults.image
    }

    pub(crate) fn workshop<'a>(&'a self, images: &'a Path, progress: &'a Progress) -> Workshop<'a> {
        Workshop {
            host: self.host(),
            images,
            scratch: &self.config.image_scratch,
            patience: self.config.limits.mirror,
            progress,
        }
    }

    fn mirror(&self) -> Result<Option<crate::image::Mirror>, Error> {
        let mirror = self.config.mirror.as_deref();
        Ok(mirror.map(str::parse).transpose()?)
    }

    /// Takes an image's turn alone. Nothing is begun by an engine that closes.
    async fn image_alone(&self, name: &ImageName) -> Result<OwnedRwLockWriteGuard<()>, Error> {
        let alone = self.image_turn(name).write_owned().await;
        match *self.closing.borrow() {
            true => Err(Error::Closing),
            false => Ok(alone),
        }
    }

    fn image_turn(&self, name: &ImageName) -> Arc<RwLock<()>> {
        let mut images = lock(&self.images);
        Arc::clone(images.entry(name.clone()).or_default())
    }

    /// Comes true when the engine closes, or when whoever holds the other end has let go.
    async fn given_up(&self, dropped: oneshot::Receiver<()>) {
        let mut closing = self.closing.subscribe();
        // Both are cancel-safe. That the sender is gone means the same as that it says so.
        tokio::select! {
            _ = closing.wait_for(|closing| *closing) => {}
            _ = dropped => {}
        }
    }
}
