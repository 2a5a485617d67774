//! `banger ssh-config`: how ssh, and all that stands on it, reaches VMs as `NAME.vm`.
//!
//! What is generated is a file of its own. In the user's configuration there is never more of ours than
//! one fenced `Include`, which is put in and taken out byte for byte.

mod fence;

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use banger_daemon::folders::Folders;
use banger_daemon::protocol::{DaemonSsh, Nothing, SshClientAnswer};
use banger_session::shell_quote_str;
use clap::Args;

use crate::command_error::CommandError;
use crate::daemon::{Daemon, folders};
use crate::exit::ExitStatus;
use crate::screen::Screen;
use fence::{Fence, FenceError};

#[derive(Args, Debug)]
#[command(after_help = "\
Without a flag the configuration is printed, to be put wherever you like.

Examples:
  banger ssh-config --install
  ssh box.vm
  scp notes.txt box.vm:
  rsync -a src/ box.vm:src/
  git clone box.vm:repo")]
pub(crate) struct SshConfigArguments {
    /// Include it in ~/.ssh/config, by three lines at its top; nothing else there is touched
    #[arg(long)]
    install: bool,

    /// Take those lines out again
    #[arg(long, conflicts_with = "install")]
    uninstall: bool,
}

/// Prints, installs or uninstalls.
pub(crate) async fn ssh_config(
    arguments: &SshConfigArguments,
    screen: &Screen,
) -> Result<ExitStatus, CommandError> {
    let folders = folders()?;
    let ours = folders.config.join("ssh_config");
    if arguments.uninstall {
        uninstall(&ours, screen)?;
        return Ok(ExitStatus::SUCCESS);
    }
    let mut daemon = Daemon::open(screen).await?;
    let client = daemon.call::<DaemonSsh>(Nothing {}).await?;
    let program = std::env::current_exe()
        .map_err(|error| CommandError::io("cannot find out where banger is", error))?;
    let text = rendered(&client, &folders, &program)?;
    if arguments.install {
        install(&ours, &text, screen)?;
    } else {
        screen.data(&text)?;
    }
    Ok(ExitStatus::SUCCESS)
}

/// The whole configuration.
///
/// A host name with a quote in it is none of ours: `'%n'` stands on a shell's line.
fn rendered(
    client: &SshClientAnswer,
    folders: &Folders,
    program: &Path,
) -> Result<String, CommandError> {
    let mut call = shell_word(program)?;
    call.push_str(" internal --state ");
    call.push_str(&shell_word(&folders.state)?);
    call.push_str(" --runtime ");
    call.push_str(&shell_word(&folders.runtime)?);
    let mut text = format!(
        "# Made by: banger ssh-config. ssh reaches every VM that runs as NAME.vm.\n\
         Host *.vm \"!*'*\"\n\
         \x20 User root\n\
         \x20 ProxyCommand {call} dial '%n' %p\n\
         \x20 ProxyUseFdpass yes\n\
         \x20 IdentityFile {}\n\
         \x20 IdentitiesOnly yes\n\
         \x20 IdentityAgent none\n\
         \x20 AddKeysToAgent no\n\
         \x20 PreferredAuthentications publickey\n\
         \x20 KnownHostsCommand {call} host-key %n %H\n\
         \x20 UserKnownHostsFile /dev/null\n\
         \x20 GlobalKnownHostsFile /dev/null\n\
         \x20 StrictHostKeyChecking yes\n\
         \x20 UpdateHostKeys no\n\
         \x20 CheckHostIP no\n\
         \x20 CanonicalizeHostname no\n\
         \x20 HostKeyAlgorithms ssh-ed25519\n\
         \x20 KexAlgorithms curve25519-sha256\n\
         \x20 ForwardAgent no\n\
         \x20 ForwardX11 no\n\
         \x20 PermitLocalCommand no\n\
         \x20 RemoteCommand none\n\
         \x20 Tunnel no\n\
         \x20 GSSAPIAuthentication no\n",
        config_word(&client.identity)?
    );
    if let Some(cipher) = &client.first_cipher {
        text.push_str(&format!("  Ciphers ^{cipher}\n"));
    }
    Ok(text)
}

/// A path as a word on a shell's line that ssh reads for tokens first.
fn shell_word(path: &Path) -> Result<String, CommandError> {
    let text = plain(path)?;
    match shell_quote_str(text) {
        Ok(quoted) => Ok(quoted.replace('%', "%%")),
        Err(_) => Err(cannot_name(path)),
    }
}

/// A path as a value of ssh_config(5).
fn config_word(path: &Path) -> Result<String, CommandError> {
    let text = plain(path)?.replace('%', "%%");
    Ok(format!("\"{text}\""))
}

/// What neither a shell nor ssh reads in a way of its own. Nobody's folders have anything else.
fn plain(path: &Path) -> Result<&str, CommandError> {
    match path.to_str() {
        Some(text) if !text.contains(['"', '\'', '\\', '\n', '$']) => Ok(text),
        _ => Err(cannot_name(path)),
    }
}

fn cannot_name(path: &Path) -> CommandError {
    CommandError::new(format!(
        "{} cannot be written into an ssh configuration",
        path.display()
    ))
    .hint("use folders whose names have no quotes, backslashes or dollar signs in them")
}

fn install(ours: &Path, text: &str, screen: &Screen) -> Result<(), CommandError> {
    let config = user_config()?;
    let fence = Fence::including(plain(ours)?);
    let before = read(&config)?;
    let after = fence.put_into(&before).map_err(|e| broken(&config, e))?;
    write(ours, text.as_bytes(), 0o600)?;
    try_out(ours)?;
    if after == before {
        screen.say(format_args!("{}: already included", config.display()));
        return Ok(());
    }
    write(&config, &after, 0o600)?;
    tell_what_all_hosts_get(&config, screen);
    screen.say(format_args!(
        "{}: now includes {}; try: ssh NAME.vm",
        config.display(),
        ours.display()
    ));
    Ok(())
}

/// What the user's own `Host *` hands to every host it hands to guests too: no configuration of ours, which is
/// read first, can take such lists back. The host's own file is left out: users cannot change it.
fn tell_what_all_hosts_get(config: &Path, screen: &Screen) {
    let asked = Command::new("ssh")
        .arg("-F")
        .arg(config)
        .args(["-G", "--", "name.vm"])
        .output();
    let Ok(asked) = asked else { return };
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    let lists = [
        "remoteforward ",
        "localforward ",
        "dynamicforward ",
        "sendenv ",
    ];
    let handed: Vec<&str> = said
        .lines()
        .filter(|line| lists.iter().any(|list| line.starts_with(list)))
        .collect();
    if !handed.is_empty() {
        screen.say(format_args!(
            "{} gives this to guests as well: {}; to keep it from them, write \"Host * !*.vm\" there",
            config.display(),
            handed.join(", ")
        ));
    }
}

fn uninstall(ours: &Path, screen: &Screen) -> Result<(), CommandError> {
    let config = user_config()?;
    let before = read(&config)?;
    let after = Fence::take_out_of(&before).map_err(|error| broken(&config, error))?;
    if after == before {
        screen.say(format_args!("{}: not included", config.display()));
    } else {
        write(&config, &after, 0o600)?;
        screen.say(format_args!("{}: no longer included", config.display()));
    }
    match fs::remove_file(ours) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(cannot("remove", ours, error)),
        _ => Ok(()),
    }
}

/// A mistake in an included file ends every ssh of the user's: so this host's ssh reads ours first.
fn try_out(ours: &Path) -> Result<(), CommandError> {
    let tried = Command::new("ssh")
        .arg("-F")
        .arg(ours)
        .args(["-G", "--", "name.vm"])
        .output()
        .map_err(|error| {
            CommandError::io("cannot run ssh", error).hint("install it (Debian: openssh-client)")
        })?;
    if tried.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    Err(
        CommandError::new("the ssh of this host does not understand the configuration")
            .because(said)
            .hint("OpenSSH 8.5 or newer is needed; nothing was included"),
    )
}

/// The file itself where it is a link: a link stays one, also one that leads to what is not there yet.
fn user_config() -> Result<PathBuf, CommandError> {
    // Whoever empties it means no home, and not the one that the system's list of users has.
    let is_empty = std::env::var_os("HOME").is_some_and(|home| home.is_empty());
    let home = std::env::home_dir()
        .filter(|home| home.is_absolute() && !is_empty)
        .ok_or_else(|| CommandError::new("cannot find your home folder").hint("set HOME"))?;
    let mut config = home.join(".ssh/config");
    if let Ok(found) = fs::canonicalize(&config) {
        return Ok(found);
    }
    if let Ok(target) = fs::read_link(&config) {
        let folder = config.parent().unwrap_or(Path::new("/")).join(target);
        let (folder, name) = (folder.parent(), folder.file_name());
        let folder = folder.and_then(|folder| fs::canonicalize(folder).ok());
        config = match (folder, name) {
            (Some(folder), Some(name)) if fs::symlink_metadata(folder.join(name)).is_err() => {
                folder.join(name)
            }
            _ => {
                let what = format!("{} is a link that leads nowhere", config.display());
                return Err(
                    CommandError::new(what).hint("make the folder that it leads to, or remove it")
                );
            }
        };
    }
    Ok(config)
}

/// A missing file is empty.
fn read(path: &Path) -> Result<Vec<u8>, CommandError> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => read.map_err(|error| cannot("read", path, error)),
    }
}

/// Replaces a file in one step. It keeps its mode; a new one gets `mode`.
fn write(path: &Path, contents: &[u8], mode: u32) -> Result<(), CommandError> {
    let mode = match fs::metadata(path) {
        Ok(facts) => facts.permissions().mode() & 0o7777,
        Err(_) => mode,
    };
    let replace = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(format!(".banger-{}", crate::verb::cp::mark()));
        let aside = folder.join(name);
        let mut file = fs::File::create_new(&aside)?;
        let written = file
            .set_permissions(fs::Permissions::from_mode(mode))
            .and_then(|()| file.write_all(contents))
            .and_then(|()| file.sync_all())
            .and_then(|()| fs::rename(&aside, path));
        if written.is_err() {
            let _ = fs::remove_file(&aside);
        }
        written
    };
    replace().map_err(|error| cannot("write", path, error))
}

fn cannot(act: &str, path: &Path, error: io::Error) -> CommandError {
    CommandError::io(format!("cannot {act} {}", path.display()), error)
}

fn broken(config: &Path, error: FenceError) -> CommandError {
    CommandError::new(format!("{} was left as it is", config.display()))
        .because(error.to_string())
        .hint("put it in order with an editor, and try again")
}
