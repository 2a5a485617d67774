//! `banger image delete`.

use banger_daemon::protocol::{ImageDelete, ImageParams};
use clap::Args;
use clap_complete::ArgValueCandidates;

use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::verb::completion::image_names;
use crate::verb::each::each;

#[derive(Args, Debug)]
pub(crate) struct DeleteArguments {
    /// The images' names
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(image_names))]
    names: Vec<String>,
}

/// Deletes each in turn: one that is in use is told of and does not keep the others from it.
pub(crate) async fn delete(
    arguments: &DeleteArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    each(&arguments.names, screen, async |name| {
        let image = name.to_owned();
        daemon.call::<ImageDelete>(ImageParams { image }).await?;
        Ok(format!("{name}: deleted"))
    })
    .await
}
