//! What each method of `image` does.

use banger_core::{Error, ImageName, ImageSpec, ImageView, Mebibytes, Registration, TestBoot};

use super::fault::Fault;
use super::methods::Operation;
use crate::protocol::*;

impl Operation {
    pub(super) async fn image_build(&self, params: ImageBuildParams) -> Result<ImageInfo, Fault> {
        let spec = self.image_spec(params)?;
        let built = self.engine().build_image(spec, &self.progress);
        self.made(built).await
    }

    pub(super) async fn image_register(
        &self,
        params: ImageRegisterParams,
    ) -> Result<ImageInfo, Fault> {
        for path in [&params.rootfs, &params.kernel]
            .into_iter()
            .chain(&params.initrd)
        {
            if !path.is_absolute() {
                return Err(Fault::Params {
                    method: ImageRegister::NAME,
                    reason: format!("{} is no absolute path", path.display()),
                });
            }
        }
        let registration = Registration {
            name: params.name.parse().map_err(Error::Name)?,
            rootfs: params.rootfs,
            kernel: params.kernel,
            initrd: params.initrd,
            test_boot: match params.no_check {
                true => TestBoot::Skipped,
                false => TestBoot::Wanted,
            },
        };
        let registered = self.engine().register_image(registration, &self.progress);
        self.made(registered).await
    }

    pub(super) async fn image_list(&self) -> Result<ImageListAnswer, Fault> {
        let views = self.engine().images().await?;
        Ok(ImageListAnswer {
            images: views
                .into_iter()
                .map(|view| self.image_info(view))
                .collect(),
        })
    }

    pub(super) async fn image_show(&self, params: ImageParams) -> Result<ImageInfo, Fault> {
        let view = self.engine().image(&named(&params)?).await?;
        Ok(self.image_info(view))
    }

    pub(super) async fn image_delete(&self, params: ImageParams) -> Result<Nothing, Fault> {
        self.engine().delete_image(&named(&params)?).await?;
        Ok(Nothing {})
    }

    /// Waits for an image that is being made: the engine gives up one that is not wanted any more.
    async fn made(
        &self,
        made: impl Future<Output = Result<ImageView, Error>>,
    ) -> Result<ImageInfo, Fault> {
        let made = self.while_wanted(async { Ok(made.await?) });
        Ok(self.image_info(made.await?))
    }

    fn image_spec(&self, params: ImageBuildParams) -> Result<ImageSpec, Fault> {
        let suite = params.suite.as_ref().map(|suite| suite.parse());
        let suite = suite.transpose().map_err(Error::ImageSpec)?;
        let default = &self.engine().defaults().image;
        let name = (params.name.as_ref())
            .or(params.suite.as_ref())
            .unwrap_or(default);
        let mut spec = ImageSpec::new(name.parse().map_err(Error::Name)?);
        spec.suite = suite.unwrap_or(spec.suite);
        for package in &params.include {
            spec.include
                .push(package.parse().map_err(Error::ImageSpec)?);
        }
        spec.size = params.size_mib.map_or(spec.size, Mebibytes);
        if let Some(mirror) = params.mirror {
            spec.mirror = Some(mirror.parse().map_err(Error::ImageSpec)?);
        }
        Ok(spec)
    }

    fn image_info(&self, view: ImageView) -> ImageInfo {
        let manifest = view.manifest.as_ref();
        let booted = manifest.and_then(|manifest| manifest.booted.as_ref());
        ImageInfo {
            state: match view.problem {
                None => "ready",
                Some(_) => "damaged",
            }
            .to_owned(),
            id: manifest.map(|manifest| manifest.id.clone()),
            default: view.name.as_str() == self.engine().defaults().image,
            suite: manifest.and_then(|manifest| manifest.suite.clone()),
            packages: manifest.and_then(|manifest| manifest.packages),
            kernel: manifest.and_then(|manifest| manifest.kernel.release.clone()),
            booted_at: booted.map(|booted| booted.at.to_string()),
            booted_by: booted.map(|booted| booted.vmm.clone()),
            rootfs_bytes: manifest.map(|manifest| manifest.rootfs.size_bytes),
            disk_bytes: view.disk_bytes,
            used_by: view.used_by.iter().map(ToString::to_string).collect(),
            created_at: manifest.map(|manifest| manifest.created.to_string()),
            name: view.name.to_string(),
            problem: view.problem,
            folder: view.folder,
        }
    }
}

fn named(params: &ImageParams) -> Result<ImageName, Fault> {
    Ok(params.image.parse().map_err(Error::Name)?)
}
