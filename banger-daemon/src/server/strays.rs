//! What a proof found, in the protocol's words; and the strays that a client asks to be removed.

use banger_core::{Engine, Error, HostObject, Inventory, Owner, Remedy, RemovalOutcome};

use crate::protocol::{FixAnswer, FixLine, FixParams, ForeignEngine, ProveAnswer, ProvenObject};

/// Removes the strays that a client names. It was shown them by an earlier proof: of this one only those
/// are kept that it has seen, and the engine looks at each once more.
pub(super) async fn fix(engine: &Engine, params: FixParams) -> Result<FixAnswer, Error> {
    let mut inventory = engine.prove().await?;
    let named = |object: &HostObject| params.strays.contains(&object.key());
    inventory
        .objects
        .retain(|object| object.is_stray() && named(object));
    let removal = engine.remove_strays(&inventory).await?;
    let mut lines: Vec<FixLine> = removal
        .lines
        .into_iter()
        .map(|line| {
            let (outcome, error) = match line.outcome {
                RemovalOutcome::Removed => ("removed", None),
                RemovalOutcome::NoStrayAnyMore => (GONE, None),
                RemovalOutcome::LeftToYou => ("left_to_you", None),
                RemovalOutcome::Failed(error) => ("failed", Some(error)),
            };
            FixLine {
                key: line.object.key(),
                outcome: outcome.to_owned(),
                error,
            }
        })
        .collect();
    for key in params.strays {
        if !lines.iter().any(|line| line.key == key) {
            lines.push(FixLine {
                key,
                outcome: GONE.to_owned(),
                error: None,
            });
        }
    }
    Ok(FixAnswer { lines })
}

const GONE: &str = "no_stray_any_more";

impl From<Inventory> for ProveAnswer {
    fn from(inventory: Inventory) -> Self {
        ProveAnswer {
            kinds: inventory.kinds.iter().map(ToString::to_string).collect(),
            objects: inventory.objects.iter().map(ProvenObject::from).collect(),
            foreign: inventory
                .foreign
                .into_iter()
                .map(|other| ForeignEngine {
                    engine: other.engine.to_string(),
                    monitors: other.monitors,
                    runtime_folders: other.runtime_folders,
                })
                .collect(),
        }
    }
}

impl From<&HostObject> for ProvenObject {
    fn from(object: &HostObject) -> Self {
        let removable = matches!(
            object.owner,
            Owner::Stray {
                remedy: Remedy::Remove,
                ..
            }
        );
        ProvenObject {
            key: object.key(),
            kind: object.kind.to_string(),
            which: object.grip.to_string(),
            owner: object.owner.to_string(),
            stray: object.is_stray(),
            removable,
        }
    }
}
