//! A guest's clock: right to some 20 ms soon after ssh answers, and again after its host has slept.
//!
//! At boot a guest's kernel takes whole seconds from its real-time clock, so that it is up to half a second
//! off. It is set over the first connection, beside the first command, which does not wait for it. While
//! the host sleeps its guests stand still; when it is seen that this process's wall clock has gone further
//! than its steady one, the guest's clock is moved before the next command. So it is when a guest alone stood still
//! (a full disk of the host's) and goes on.
//!
//! Only an error that has one of these causes is corrected: a guest whose owner has set its clock keeps it.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banger_session::clock::{ASK_LINE, MAX_ANSWER_BYTES, parse_answer, script, set_line};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::transport::{GuestConnection, GuestProcess};

/// An error that is left as it is: what the way to a busy guest takes cannot be known better.
const NEAR: Duration = Duration::from_millis(20);

/// An answer that is this quick is sure enough.
const QUICK: Duration = Duration::from_millis(10);

/// How often a guest is asked, and has its clock set, at most.
const ATTEMPTS: usize = 5;

/// What an error may differ from the one that is expected, to be taken for it. A boot leaves half a second.
const ALIKE: Duration = Duration::from_secs(2);

/// How far this host's clocks may part before its guests' are looked at.
const JUMP: Duration = Duration::from_millis(100);

/// How long it may take.
const LIMIT: Duration = Duration::from_secs(5);

/// What the clocks of this host said at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HostClock {
    wall: SystemTime,
    steady: Instant,
}

/// Why a guest's clock is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It has booted.
    Boot,
    /// The host's clock has jumped by this many microseconds: it slept, or was set. Or it went on for so long while the
    /// guest stood still.
    Jump(i64),
}

/// What became of a guest's clock. Microseconds by which it is ahead of the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ClockOutcome {
    /// It was right.
    Near(i64),
    /// It was set.
    Set { before: i64, after: i64 },
    /// Its error has some other cause.
    LeftAlone(i64),
}

impl HostClock {
    pub(crate) fn now() -> Self {
        HostClock {
            wall: SystemTime::now(),
            steady: Instant::now(),
        }
    }

    /// Says by how much the wall clock has jumped since, as a guest sees it that stood still for so long of that time;
    /// none if it has only gone on.
    pub(crate) fn jump(&self, stood: Duration) -> Option<Cause> {
        self.jump_until(HostClock::now(), stood)
    }

    fn jump_until(&self, later: HostClock, stood: Duration) -> Option<Cause> {
        let steady = later.steady.saturating_duration_since(self.steady);
        let steady = steady.saturating_sub(stood);
        let jump = micros(later.wall) - micros(self.wall) - whole(steady);
        (jump.abs() > whole(JUMP)).then_some(Cause::Jump(jump))
    }
}

/// Sets a guest's clock by this host's, if it is off as this cause makes it.
pub(crate) async fn set_clock(
    connection: &dyn GuestConnection,
    cause: Cause,
) -> Result<ClockOutcome, String> {
    let conversation = async {
        let process = connection.run(script()).await;
        let mut guest = Conversation(process.map_err(|error| error.to_string())?);
        // The first answer only says that the guest listens.
        guest.ask().await?;
        let Answer {
            ahead: before,
            took,
        } = guest.surest().await?;
        if near(before) {
            return Ok(ClockOutcome::Near(before));
        }
        let expected = match cause {
            Cause::Boot => 0,
            Cause::Jump(jump) => -jump,
        };
        if (before - expected).abs() > whole(ALIKE) {
            return Ok(ClockOutcome::LeftAlone(before));
        }
        // What it takes to have it set is first guessed and then known.
        let (mut delay, mut after) = (took / 2, before);
        for _ in 0..ATTEMPTS {
            guest
                .exchange(&set_line(micros(SystemTime::now()) + delay))
                .await?;
            after = guest.surest().await?.ahead;
            if near(after) {
                break;
            }
            delay -= after;
        }
        Ok(ClockOutcome::Set { before, after })
    };
    let outcome = tokio::time::timeout(LIMIT, conversation).await;
    outcome.map_err(|_| format!("it took longer than {} s", LIMIT.as_secs()))?
}

/// What a guest said of its clock.
struct Answer {
    /// By how much it was ahead of ours in the middle of the exchange.
    ahead: i64,
    /// What the exchange took.
    took: i64,
}

/// A guest that runs [`script`].
struct Conversation(GuestProcess);

impl Conversation {
    async fn ask(&mut self) -> Result<Answer, String> {
        let before = micros(SystemTime::now());
        let time = self.exchange(ASK_LINE).await?;
        let took = micros(SystemTime::now()) - before;
        let ahead = time - (before + took / 2);
        Ok(Answer { ahead, took })
    }

    /// Asks until the answer is quick, or often: host and guest may be busy.
    async fn surest(&mut self) -> Result<Answer, String> {
        let mut surest = self.ask().await?;
        for _ in 1..ATTEMPTS {
            if surest.took <= whole(QUICK) {
                break;
            }
            let again = self.ask().await?;
            if again.took < surest.took {
                surest = again;
            }
        }
        Ok(surest)
    }

    async fn exchange(&mut self, line: &[u8]) -> Result<i64, String> {
        let GuestProcess { stdin, stdout, .. } = &mut self.0;
        let told = async {
            stdin.write_all(line).await?;
            stdin.flush().await?;
            let mut answer = Vec::new();
            while answer.len() < MAX_ANSWER_BYTES {
                match stdout.read_u8().await? {
                    b'\n' => break,
                    byte => answer.push(byte),
                }
            }
            Ok(answer)
        };
        let answer = told
            .await
            .map_err(|error: std::io::Error| error.to_string());
        parse_answer(&answer?).ok_or_else(|| "its answer is no time".to_owned())
    }
}

fn near(ahead: i64) -> bool {
    ahead.abs() <= whole(NEAR)
}

fn micros(time: SystemTime) -> i64 {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => whole(since),
        Err(_) => 0,
    }
}

fn whole(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;
    use tokio::io::AsyncBufReadExt;

    use super::*;
    use crate::transport::{GuestEnd, GuestStream, TransportError};

    const DATE_TAKES: i64 = 40_000;

    /// A guest whose clock is ahead by this, and which takes its time to have it set.
    #[derive(Debug)]
    struct Guest(Arc<Mutex<i64>>);

    #[async_trait]
    impl GuestConnection for Guest {
        async fn is_up(&self) -> bool {
            true
        }

        async fn run(&self, _script: &[u8]) -> Result<GuestProcess, TransportError> {
            let (ours, theirs) = tokio::io::duplex(1024);
            let ahead = self.0.clone();
            tokio::spawn(async move {
                let (read, mut write) = tokio::io::split(theirs);
                let mut lines = tokio::io::BufReader::new(read).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    if let Some(time) = parse_answer(line.as_bytes()) {
                        tokio::time::sleep(Duration::from_micros(DATE_TAKES as u64)).await;
                        *ahead.lock().unwrap() = time - micros(SystemTime::now());
                    }
                    let now = micros(SystemTime::now()) + *ahead.lock().unwrap();
                    write.write_all(&set_line(now)).await.unwrap();
                }
            });
            let (stdout, stdin) = tokio::io::split(ours);
            Ok(GuestProcess {
                stdin: Box::pin(stdin),
                stdout: Box::pin(stdout),
                stderr: Box::pin(tokio::io::empty()),
                end: Box::pin(std::future::pending::<GuestEnd>()),
            })
        }

        async fn dial(&self, _port: u16) -> Result<GuestStream, TransportError> {
            unreachable!("a clock is set by a script")
        }
    }

    async fn after(ahead: i64, cause: Cause) -> (ClockOutcome, i64) {
        let ahead = Arc::new(Mutex::new(ahead));
        let outcome = set_clock(&Guest(ahead.clone()), cause).await.unwrap();
        let ahead = *ahead.lock().unwrap();
        (outcome, ahead)
    }

    #[tokio::test]
    async fn what_a_boot_or_a_sleep_leaves_is_corrected_though_setting_takes_its_time() {
        let slept = Cause::Jump(3_600_000_000);
        for (off, cause) in [
            (480_000, Cause::Boot),
            (-480_000, Cause::Boot),
            (-3_600_000_000, slept),
        ] {
            let (outcome, left) = after(off, cause).await;
            assert!(matches!(outcome, ClockOutcome::Set { .. }), "{outcome:?}");
            assert!(left.abs() < 100_000, "{left} µs are left");
        }
    }

    #[tokio::test]
    async fn a_right_clock_and_one_that_its_owner_has_set_stay_as_they_are() {
        let (outcome, left) = after(3_000, Cause::Boot).await;
        assert!(matches!(outcome, ClockOutcome::Near(_)), "{outcome:?}");
        assert_eq!(left, 3_000);
        let year_ago = -31_536_000_000_000;
        for cause in [Cause::Boot, Cause::Jump(60_000_000)] {
            let (outcome, left) = after(year_ago, cause).await;
            assert!(matches!(outcome, ClockOutcome::LeftAlone(_)), "{outcome:?}");
            assert_eq!(left, year_ago);
        }
    }

    #[test]
    fn a_jump_is_what_the_wall_clock_went_beyond_the_steady_one() {
        let start = HostClock::now();
        let second = Duration::from_secs(1);
        let later = |wall, steady| HostClock {
            wall: start.wall + wall,
            steady: start.steady + steady,
        };
        let never = Duration::ZERO;
        assert_eq!(start.jump_until(later(second, second), never), None);
        let slept = start.jump_until(later(second * 61, second), never);
        assert_eq!(slept, Some(Cause::Jump(60_000_000)));
        let set_back = start.jump_until(later(second, second * 3), never);
        assert_eq!(set_back, Some(Cause::Jump(-2_000_000)));
        // The guest alone stood still.
        let stood = start.jump_until(later(second * 61, second * 61), second * 60);
        assert_eq!(stood, Some(Cause::Jump(60_000_000)));
    }
}
