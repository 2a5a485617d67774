//! One act on several, each in turn.

use crate::command_error::CommandError;
use crate::exit::ExitStatus;
use crate::screen::Screen;

/// Does it to each in turn and says what `act` returns: one that fails is told of and does not keep the
/// others from it.
pub(crate) async fn each(
    names: &[String],
    screen: &Screen,
    mut act: impl AsyncFnMut(&str) -> Result<String, CommandError>,
) -> Result<ExitStatus, CommandError> {
    let mut failed = None;
    for name in names {
        match act(name).await {
            Ok(outcome) => screen.say(outcome),
            Err(error) if names.len() == 1 => return Err(error),
            Err(error) => {
                screen.error(&error);
                failed = Some(CommandError::already_told());
            }
        }
    }
    failed.map_or(Ok(ExitStatus::SUCCESS), Err)
}
