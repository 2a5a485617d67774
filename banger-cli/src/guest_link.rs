//! Links that a copy out of a guest has left here lead where the guest wants.

use std::path::Path;

use crate::command_error::CommandError;

/// Refuses a path that was typed if such a link is on its way.
pub(crate) fn refuse_link_of_a_guest(path: &Path) -> Result<(), CommandError> {
    match banger_foreign::link_of_a_guest(path) {
        Some(link) => Err(CommandError::new(format!(
            "{} is a link that came out of a guest, and is not followed",
            link.display()
        ))
        .hint("name the place that is meant, or remove the link first")),
        None => Ok(()),
    }
}
