//! The images of an engine: found by their folders, made on the first use.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::engine::{Engine, Inner, lock};
use crate::error::Error;
use crate::image::{ImageError, ImageManifest, ImageSpec, MANIFEST, SCRATCH, build, sweep};
use crate::names::ImageName;
use crate::progress::Progress;

/// The files of one image.
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
            if let Ok(name) = name.parse::<ImageName>()
                && inner.has_image(&name).await?
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Makes sure that an image is there. The default one is made if it is not; whoever asks for it
    /// meanwhile waits for that one, and nobody else waits.
    pub async fn ensure_image(&self, name: &ImageName, progress: &Progress) -> Result<(), Error> {
        let inner = &self.inner;
        if inner.has_image(name).await? {
            return Ok(());
        }
        if name.as_str() != inner.config.defaults.image {
            return Err(Error::NoSuchImage { name: name.clone() });
        }
        let turn = {
            let mut images = lock(&inner.images);
            Arc::clone(images.entry(name.clone()).or_default())
        };
        let _turn = turn.lock().await;
        if inner.has_image(name).await? {
            return Ok(());
        }
        inner.make_image(name, progress).await
    }
}

impl Inner {
    /// Says whether an image is being made by this engine right now.
    pub(crate) fn makes_images(&self) -> bool {
        let images = lock(&self.images);
        images.values().any(|turn| turn.try_lock().is_err())
    }

    pub(crate) async fn has_image(&self, name: &ImageName) -> Result<bool, Error> {
        let manifest = self.places.image(name).join(MANIFEST);
        Ok(self.backends.simulated() || self.host().stat(&manifest).await?.is_some())
    }

    async fn make_image(&self, name: &ImageName, progress: &Progress) -> Result<(), Error> {
        let mut spec = ImageSpec::new(name.clone());
        spec.mirror = match &self.config.mirror {
            Some(mirror) => Some(mirror.parse()?),
            None => None,
        };
        let (images, scratch) = (self.places.images(), Path::new(SCRATCH));
        let made = build(self.host(), &images, scratch, &spec, progress).await?;
        tracing::info!(image = %made.name, id = %made.id, "made the image");
        Ok(())
    }

    /// Removes what builds that were killed have left. At start-up, when none can be running.
    pub(crate) async fn sweep_images(&self) -> Result<(), Error> {
        let images = self.places.images();
        let swept = sweep(self.host(), &images, Path::new(SCRATCH)).await?;
        if swept > 0 {
            tracing::info!(swept, "removed what interrupted image builds had left");
        }
        Ok(())
    }

    /// Returns where an image's files are; its folder's manifest is the truth.
    pub(crate) async fn image_files(&self, name: &ImageName) -> Result<ImageFiles, Error> {
        let folder = self.places.image(name);
        if self.backends.simulated() {
            return Ok(ImageFiles {
                rootfs: folder.join("rootfs"),
                kernel: folder.join("kernel"),
                initrd: folder.join("initrd"),
            });
        }
        let path = folder.join(MANIFEST);
        let Some(json) = self.host().read_file(&path).await? else {
            return Err(Error::NoSuchImage { name: name.clone() });
        };
        let manifest =
            ImageManifest::parse(&json).map_err(|source| ImageError::Manifest { path, source })?;
        Ok(ImageFiles {
            rootfs: manifest.rootfs_path(&folder),
            kernel: manifest.kernel_path(&folder),
            initrd: manifest.initrd_path(&folder),
        })
    }

    /// Reads an image's initramfs. The simulator's images have none.
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
}
