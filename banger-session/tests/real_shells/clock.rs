//! Asking for the time. Setting it would set this host's: that is for the tests with real VMs.

use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

use banger_session::clock::{ASK_LINE, parse_answer, script};

use crate::shell::{Shell, shellcheck};

#[test]
fn every_shell_answers_with_its_time_until_its_input_ends() {
    shellcheck(script());
    for shell in Shell::all() {
        shell.check_syntax(script());
        let mut child = shell
            .command(script())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let mut answers = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..2 {
            let now = || {
                i64::try_from(
                    SystemTime::now()
                        .duration_since(UNIX_EPOCH)
                        .unwrap()
                        .as_micros(),
                )
            };
            let before = now().unwrap();
            stdin.write_all(ASK_LINE).unwrap();
            let mut line = String::new();
            answers.read_line(&mut line).unwrap();
            let time = parse_answer(line.trim_end().as_bytes());
            let time = time.unwrap_or_else(|| panic!("{}: {line:?}", shell.name));
            assert!((before..=now().unwrap()).contains(&time), "{}", shell.name);
        }
        drop(stdin);
        assert_eq!(child.wait().unwrap().code(), Some(0));
    }
}
