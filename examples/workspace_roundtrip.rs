//! Carries a repository of this host into a VM, has something change in it there, and merges that into
//! the repository here: on a branch, as it is by then, and so that it can be taken back.

use std::path::Path;
use std::process::Command;

use banger_core::{
    ApplyRequest, CreateRequest, Effect, ExecRequest, PrepareRequest, Progress, Source,
};
use banger_examples::{AnyError, engine};

#[tokio::main]
async fn main() -> Result<(), AnyError> {
    let scratch = tempfile::tempdir()?;
    let repo = scratch.path().join("greeting");
    std::fs::create_dir(&repo)?;
    git(&repo, &["init", "-q", "-b", "main"])?;
    std::fs::write(repo.join("greeting"), "hello\nworld\n")?;
    commit(&repo, "a greeting")?;

    let engine = engine().await?;
    let progress = Progress::new(|stage| println!("… {stage}"));
    let vm = engine.create(CreateRequest::default(), &progress).await?;
    let vm = vm.name.as_str();
    engine.start(vm, &progress).await?;
    let request = PrepareRequest::new(&repo);
    let prepared = engine.workspace_prepare(vm, request, &progress).await?;
    println!("in: {} ({} bytes)", prepared.workspace.name, prepared.bytes);

    let mut change =
        ExecRequest::new(["sh", "-ec", "sed -i s/world/guest/ greeting; date > stamp"]);
    change.cwd = Some(prepared.workspace.guest_path.0);
    engine.exec_output(vm, &change).await?;
    for change in engine.workspace_changes(vm, None).await?.files {
        let path = String::from_utf8_lossy(&change.path).into_owned();
        println!("{}: {path}", change.kind.as_str());
    }

    // The repository here goes on meanwhile.
    git(&repo, &["checkout", "-q", "-b", "from-the-guest"])?;
    std::fs::write(repo.join("other"), "written here\n")?;
    commit(&repo, "meanwhile")?;
    let mut request = ApplyRequest {
        repository: Some(Source::new(&repo)),
        effect: Effect::Check,
        ..ApplyRequest::default()
    };
    let checked = engine
        .workspace_apply(vm, request.clone(), &progress)
        .await?;
    println!("it would go: {} files", checked.files.len());
    request.effect = Effect::Apply;
    engine.workspace_apply(vm, request, &progress).await?;
    print!("home: {}", std::fs::read_to_string(repo.join("greeting"))?);
    commit(&repo, "by the guest")?;
    println!("on {}", git(&repo, &["log", "--format=%D: %s", "-1"])?);

    engine.delete(vm).await?;
    println!("left: {} VMs", engine.list().await?.len());
    Ok(())
}

fn commit(repo: &Path, message: &str) -> Result<(), AnyError> {
    git(repo, &["add", "-A"])?;
    let who = [
        "-c",
        "user.name=An Example",
        "-c",
        "user.email=example@localhost",
    ];
    git(repo, &[&who[..], &["commit", "-q", "-m", message]].concat()).map(drop)
}

fn git(repo: &Path, words: &[&str]) -> Result<String, AnyError> {
    let output = Command::new("git")
        .arg("-C")
        .arg(repo)
        .args(words)
        .output()?;
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
        false => Err(String::from_utf8_lossy(&output.stderr).into()),
    }
}
