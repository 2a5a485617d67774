//! `banger image build` and `register`.

use std::path::{Path, PathBuf};

use banger_daemon::protocol::{
    ImageBuild, ImageBuildParams, ImageInfo, ImageRegister, ImageRegisterParams,
};
use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::guest_command::Signals;
use crate::guest_link::refuse_link_of_a_guest;
use crate::screen::Screen;
use crate::size::Size;

#[derive(Args, Debug)]
#[command(after_help = "\
Takes about a minute, and ends when this command is ended. What every image holds, and what is
left out of it: docs/images.md

Examples:
  banger image build                                 the default image, again after a delete
  banger image build dev --include build-essential,python3
  banger image build --suite trixie                  named trixie")]
pub(crate) struct BuildArguments {
    /// What to call it [default: the suite's name, or that of the default image]
    #[arg(value_name = "NAME")]
    name: Option<String>,

    /// The Debian release: bookworm (12), trixie (13), sid [default: bookworm]
    #[arg(long, value_name = "SUITE")]
    suite: Option<String>,

    /// Packages besides those that every image has; may be repeated
    #[arg(long, value_name = "PACKAGE,…", value_delimiter = ',')]
    include: Vec<String>,

    /// The size of its root disk, of which only what is used takes room [default: 8G]
    #[arg(long, value_name = "SIZE")]
    size: Option<Size>,

    /// The mirror to fetch from, and no other [default: Debian's]
    #[arg(long, value_name = "ADDRESS")]
    mirror: Option<String>,
}

#[derive(Args, Debug)]
#[command(after_help = "\
The files are checked and copied; the image does not need them any more. The copy is booted once,
as a VM of its own (check-…) that is gone afterwards, and refused if it does not come up. What the
files must hold, and a guest must do: docs/images.md

Example:
  banger image register mine --rootfs root.ext4 --kernel /boot/vmlinuz-6.1.0-41-cloud-amd64")]
pub(crate) struct RegisterArguments {
    /// What to call it
    #[arg(value_name = "NAME")]
    name: String,

    /// A file that holds an ext4 file system, with an init and an ssh server in it
    #[arg(long, value_name = "FILE")]
    rootfs: PathBuf,

    /// A kernel: a vmlinux or a bzImage, for x86-64 with a PVH entry
    #[arg(long, value_name = "FILE")]
    kernel: PathBuf,

    /// An initramfs with the kernel's modules; else they are taken from the file system
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,

    /// Do not boot it to see that it works
    #[arg(long)]
    no_check: bool,
}

/// Makes an image of Debian packages and prints its name.
pub(crate) async fn build(
    arguments: &BuildArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut signals = Signals::catch()?;
    let mut daemon = signals.or(Daemon::open(screen), || None).await?;
    let params = ImageBuildParams {
        name: arguments.name.clone(),
        suite: arguments.suite.clone(),
        include: arguments.include.clone(),
        size_mib: arguments.size.map(|size| size.mib),
        mirror: arguments.mirror.clone(),
    };
    let made = daemon.call::<ImageBuild>(params);
    made_known(&signals.or(made, given_up).await?, screen)
}

/// Makes an image of files and prints its name.
pub(crate) async fn register(
    arguments: &RegisterArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let params = ImageRegisterParams {
        name: arguments.name.clone(),
        rootfs: absolute(&arguments.rootfs)?,
        kernel: absolute(&arguments.kernel)?,
        initrd: arguments.initrd.as_deref().map(absolute).transpose()?,
        no_check: arguments.no_check,
    };
    let mut signals = Signals::catch()?;
    let mut daemon = signals.or(Daemon::open(screen), || None).await?;
    let made = daemon.call::<ImageRegister>(params);
    made_known(&signals.or(made, given_up).await?, screen)
}

fn given_up() -> Option<String> {
    Some("the image is not made; nothing of it is left".to_owned())
}

fn made_known(image: &ImageInfo, screen: &Screen) -> Result<ExitStatus, CommandError> {
    screen.data(&format!("{}\n", image.name))?;
    Ok(ExitStatus::SUCCESS)
}

/// The daemon has another folder than we.
fn absolute(path: &Path) -> Result<PathBuf, CommandError> {
    let what = format!("cannot tell where {} is", path.display());
    refuse_link_of_a_guest(path)?;
    std::path::absolute(path).map_err(|error| CommandError::io(what, error))
}
