//! Runs a list of steps; when one fails, undoes it and those before it, in reverse, all of them.

use async_trait::async_trait;

use crate::error::Error;

/// One step of a list. It records its handle before it acts, and owns its undo.
#[async_trait]
pub(crate) trait Step<C: Send>: Send + Sync {
    /// What it does, as in "… failed".
    fn name(&self) -> &'static str;

    /// Does it.
    async fn apply(&self, context: &mut C) -> Result<(), Error>;

    /// Undoes it, wholly or partly done. "Already gone" is success.
    async fn undo(&self, context: &mut C) -> Result<(), Error>;
}

/// How a list failed.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The step that did.
    pub(crate) step: &'static str,
    /// Why.
    pub(crate) cause: Error,
    /// What could not be undone, and why.
    pub(crate) undo_failures: Vec<String>,
}

/// Runs the steps in order.
pub(crate) async fn run<C: Send>(steps: &[&dyn Step<C>], context: &mut C) -> Result<(), Failure> {
    for (index, step) in steps.iter().enumerate() {
        let Err(cause) = step.apply(context).await else {
            continue;
        };
        tracing::debug!(step = step.name(), error = %cause, "undoing");
        let mut undo_failures = Vec::new();
        for done in steps[..=index].iter().rev() {
            if let Err(error) = done.undo(context).await {
                undo_failures.push(format!("{}: {}", done.name(), error.chain().join(": ")));
            }
        }
        return Err(Failure {
            step: step.name(),
            cause,
            undo_failures,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Scripted {
        name: &'static str,
        applies: Result<(), ()>,
        undoes: Result<(), ()>,
    }

    #[async_trait]
    impl Step<Vec<String>> for Scripted {
        fn name(&self) -> &'static str {
            self.name
        }

        async fn apply(&self, log: &mut Vec<String>) -> Result<(), Error> {
            log.push(format!("apply {}", self.name));
            self.applies.map_err(|()| Error::Closing)
        }

        async fn undo(&self, log: &mut Vec<String>) -> Result<(), Error> {
            log.push(format!("undo {}", self.name));
            self.undoes.map_err(|()| Error::Closing)
        }
    }

    fn step(name: &'static str, applies: Result<(), ()>, undoes: Result<(), ()>) -> Scripted {
        Scripted {
            name,
            applies,
            undoes,
        }
    }

    #[tokio::test]
    async fn a_failed_step_is_undone_with_all_before_it_even_if_an_undo_fails() {
        let mut log = Vec::new();
        let (a, b, c, d) = (
            step("a", Ok(()), Ok(())),
            step("b", Ok(()), Err(())),
            step("c", Err(()), Ok(())),
            step("d", Ok(()), Ok(())),
        );
        let failure = run(&[&a, &b, &c, &d], &mut log).await.unwrap_err();
        assert_eq!(failure.step, "c");
        assert_eq!(failure.undo_failures, ["b: the engine is closing"]);
        let expected = [
            "apply a", "apply b", "apply c", "undo c", "undo b", "undo a",
        ];
        assert_eq!(log, expected);
    }
}
