//! `banger image …`.

pub(crate) mod change;
pub(crate) mod look;
pub(crate) mod make;

use crate::arguments::ImageCommand;
use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

/// Does what was typed.
pub(crate) async fn run(
    command: &ImageCommand,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    match command {
        ImageCommand::Build(arguments) => make::build(arguments, screen).await,
        ImageCommand::Register(arguments) => make::register(arguments, screen).await,
        ImageCommand::List(arguments) => look::list(arguments, screen).await,
        ImageCommand::Show(arguments) => look::show(arguments, screen).await,
        ImageCommand::Delete(arguments) => change::delete(arguments, screen).await,
    }
}
