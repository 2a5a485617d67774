//! `banger image list` and `show`.

use std::fmt::Display;

use banger_daemon::protocol::{ImageInfo, ImageList, ImageParams, ImageShow, Nothing};
use clap::Args;
use clap_complete::ArgValueCandidates;
use jiff::Timestamp;

use crate::age;
use crate::command_error::CommandError;
use crate::daemon::Daemon;
use crate::exit::ExitStatus;
use crate::screen::Screen;
use crate::size;
use crate::table::table;
use crate::verb::completion::image_names;

#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// Print an array of images
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
pub(crate) struct ShowArguments {
    /// The images' names
    #[arg(required = true, value_name = "NAME", add = ArgValueCandidates::new(image_names))]
    names: Vec<String>,

    /// Print an array of images, also for one
    #[arg(long)]
    json: bool,
}

/// All images by name.
pub(crate) async fn list(
    arguments: &ListArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let images = daemon.call::<ImageList>(Nothing {}).await?.images;
    if arguments.json {
        screen.json(&images)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let now = Timestamp::now();
    let rows: Vec<_> = images.iter().map(|image| row(image, now)).collect();
    screen.data(&table(
        [
            "NAME", "STATE", "SUITE", "KERNEL", "SIZE", "ON DISK", "VMS", "AGE",
        ],
        &rows,
    ))?;
    Ok(ExitStatus::SUCCESS)
}

/// Shows those that are there, and tells of those that are not.
pub(crate) async fn show(
    arguments: &ShowArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let mut daemon = Daemon::open(screen).await?;
    let (mut images, mut errors) = (Vec::new(), Vec::new());
    for name in &arguments.names {
        let params = ImageParams {
            image: name.clone(),
        };
        match daemon.call::<ImageShow>(params).await {
            Ok(image) => images.push(image),
            Err(error) => errors.push(error),
        }
    }
    if arguments.json {
        screen.json(&images)?;
    } else {
        let texts: Vec<_> = images.iter().map(described).collect();
        screen.data(&texts.join("\n"))?;
    }
    for error in &errors {
        screen.error(error);
    }
    match errors.is_empty() {
        true => Ok(ExitStatus::SUCCESS),
        false => Err(CommandError::already_told()),
    }
}

fn row(image: &ImageInfo, now: Timestamp) -> [String; 8] {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    [
        image.name.clone(),
        image.state.clone(),
        or_none(&image.suite),
        or_none(&image.kernel),
        image.rootfs_bytes.map_or_else(|| "-".to_owned(), shown),
        shown(image.disk_bytes),
        image.used_by.len().to_string(),
        (image.created_at.as_ref()).map_or_else(|| "-".to_owned(), |at| age::since(at, now)),
    ]
}

/// One line a fact; what is not known is left out.
fn described(image: &ImageInfo) -> String {
    let mut text = String::new();
    let mut line = |key: &str, value: &dyn Display| {
        text.push_str(&format!("{:<16}{value}\n", format!("{key}:")));
    };
    line("name", &image.name);
    if let Some(id) = &image.id {
        line("id", id);
    }
    line("state", &image.state);
    if let Some(problem) = &image.problem {
        line("problem", problem);
    }
    if image.default {
        line("default", &"VMs that name no image boot from it");
    }
    if let Some(suite) = &image.suite {
        line("suite", suite);
    }
    if let Some(packages) = image.packages {
        line("packages", &packages);
    }
    if let Some(kernel) = &image.kernel {
        line("kernel", kernel);
    }
    match (&image.booted_at, &image.booted_by) {
        (Some(at), Some(by)) => {
            let text = format!("passed on {by}, {}", age::to_the_second(at));
            line("test boot", &text);
        }
        _ if image.suite.is_none() && image.problem.is_none() => {
            line("test boot", &"none: it was registered with --no-check");
        }
        _ => {}
    }
    if let Some(bytes) = image.rootfs_bytes {
        line("root disk", &shown(bytes));
    }
    line("on disk", &shown(image.disk_bytes));
    if !image.used_by.is_empty() {
        line("used by", &image.used_by.join(", "));
    }
    line("folder", &image.folder.display());
    if let Some(created) = &image.created_at {
        line("created", &age::to_the_second(created));
    }
    text
}

/// In whole MiB, so that something never shows as nothing.
fn shown(bytes: u64) -> String {
    size::shown(bytes.div_ceil(1 << 20))
}
