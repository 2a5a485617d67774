//! Space that is kept free on the host. Guests fill their sparse disks as they like; below the reserve nothing new
//! is begun, so that what runs goes on and there is room to stop and delete.

use std::path::{Path, PathBuf};

use crate::choice::Probe;
use crate::engine::Inner;
use crate::error::Error;

/// What an image takes while it is made.
const IMAGE_BYTES: u64 = 1 << 30;

impl Inner {
    /// Refuses to begin or grow anything where less than the reserve is free for what is kept.
    pub(crate) async fn check_reserve(&self) -> Result<(), Error> {
        self.check_reserve_in(self.places.state()).await
    }

    /// The same, where an image is to be made: also its tree takes room.
    pub(crate) async fn check_reserve_for_image(&self) -> Result<(), Error> {
        // It is made where it is missing, on the file system of the folder above.
        for folder in self.config.image_scratch.ancestors() {
            if self.host().stat(folder).await?.is_some() {
                self.check_reserve_in(folder).await?;
                break;
            }
        }
        self.check_reserve().await
    }

    /// Says how much is free for what is kept, and whether that is enough.
    pub(crate) async fn space_in_state(&self) -> Result<Probe, Error> {
        let (state, reserve) = (self.places.state(), self.config.reserve);
        let free = self.host().free_bytes(state).await?;
        let text = format!(
            "{} GiB free in {}, of which {reserve} are kept free",
            free >> 30,
            state.display()
        );
        if let Err(error) = self.check_reserve().await {
            return Ok(Probe::fails(
                format!("{error}: nothing is started or grown"),
                error.hint(),
            ));
        }
        Ok(match free < reserve.bytes() + IMAGE_BYTES {
            true => Probe::fails(
                text,
                Some("free some space there: no image can be made".to_owned()),
            ),
            false => Probe::works(text),
        })
    }

    async fn check_reserve_in(&self, folder: &Path) -> Result<(), Error> {
        self.check_room(folder, 0).await
    }

    /// The same, where so many bytes are about to be written.
    pub(crate) async fn check_room(&self, folder: &Path, bytes: u64) -> Result<(), Error> {
        let reserve = self.config.reserve;
        let free = self.host().free_bytes(folder).await?;
        if free.saturating_sub(bytes) >= reserve.bytes() {
            return Ok(());
        }
        Err(Error::Reserve {
            folder: PathBuf::from(folder),
            free,
            reserve,
        })
    }
}
