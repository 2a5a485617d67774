//! Real VMs, by the library: QEMU, emulated if need be, the default image, ssh. Each test ends with the
//! proof that the host holds nothing of ours.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use banger_core::{
    Condition, CreateRequest, Engine, Error, ExecEnd, ExecEvent, ExecOutput, ExecRequest, Progress,
    Signal, StopOutcome, StopRung,
};
use banger_tests::{Rig, alone, why_not_real};

/// Runs a test on a runtime of its own, in its turn; or says why not.
fn real(test: impl AsyncFnOnce(&Rig)) {
    if let Some(reason) = why_not_real() {
        println!("SKIP: {reason}");
        return;
    }
    let _turn = alone();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let rig = Rig::new().await;
        test(&rig).await;
    });
}

async fn boot(engine: &Engine, name: &str) {
    let silent = Progress::silent();
    let request = CreateRequest::named(name.parse().expect("a valid name"));
    engine
        .create(request, &silent)
        .await
        .expect("it is created");
    start(engine, name).await;
}

async fn start(engine: &Engine, name: &str) {
    let silent = Progress::silent();
    engine.start(name, &silent).await.expect("it starts");
    engine.wait_ready(name, &silent).await.expect("it answers");
}

async fn sh(engine: &Engine, name: &str, script: &str) -> ExecOutput {
    let request = ExecRequest::new(["sh", "-c", script]);
    engine.exec_output(name, &request).await.expect("it runs")
}

async fn becomes(engine: &Engine, name: &str, wanted: impl Fn(&banger_core::VmView) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let view = engine.show(name).await.expect("it is shown");
        if wanted(&view) {
            return;
        }
        assert!(Instant::now() < deadline, "it is {view:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The least that a guest's clock must be off, whatever the asking takes: of ten questions the surest answer.
async fn clock_is_off_by(engine: &Engine, name: &str) -> Duration {
    let since_1970 = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("it is later")
            .as_secs_f64()
    };
    let (mut surest, mut off) = (f64::INFINITY, 0.0);
    for _ in 0..10 {
        let before = since_1970();
        let told = sh(engine, name, "date +%s.%N").await.stdout;
        let after = since_1970();
        let told: f64 = String::from_utf8_lossy(&told)
            .trim()
            .parse()
            .expect("a time");
        if after - before < surest {
            surest = after - before;
            off = (before - told).max(told - after).max(0.0);
        }
    }
    println!("its clock is at least {off:.3} s off, to {surest:.3} s");
    Duration::from_secs_f64(off)
}

fn stopped_by(outcome: StopOutcome) -> StopRung {
    match outcome {
        StopOutcome::Stopped { by, .. } => by,
        StopOutcome::AlreadyStopped(_) => panic!("it ran"),
    }
}

#[test]
fn a_machine_boots_runs_commands_and_keeps_what_was_written() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;

        // A whole Debian: its init is content, its kernel's modules load, its clock is right.
        let state = sh(&engine, "box", "systemctl is-system-running --wait").await;
        assert_eq!(String::from_utf8_lossy(&state.stdout), "running\n");
        let modules = sh(&engine, "box", "modprobe -a overlay tun loop && hostname").await;
        assert_eq!(modules.end, ExecEnd::Exited(0), "{modules:?}");
        assert_eq!(modules.stdout, b"box\n");
        let off = clock_is_off_by(&engine, "box").await;
        assert!(off < Duration::from_millis(100), "its clock is {off:?} off");

        // Statuses, streams and arguments as they are.
        for (script, status) in [
            ("exit 42", 42),
            ("exit 255", 255),
            ("kill -9 $$", 137),
            ("kill -TERM $$", 143),
        ] {
            assert_eq!(
                sh(&engine, "box", script).await.end,
                ExecEnd::Exited(status)
            );
        }
        let arguments: [&[u8]; 7] = [
            b"printf",
            b"%s|",
            b"",
            b"a b",
            b"'\"$x\\",
            b"new\nline",
            b"\xff\xfe",
        ];
        let printed = engine
            .exec_output("box", &ExecRequest::new(arguments))
            .await
            .expect("it runs");
        assert_eq!(printed.stdout, b"|a b|'\"$x\\|new\nline|\xff\xfe|");
        let asked = Instant::now();
        let output = sh(&engine, "box", "sleep 300 & echo hi").await;
        assert_eq!(output.stdout, b"hi\n");
        assert!(
            asked.elapsed() < Duration::from_secs(60),
            "it waited for the child"
        );

        // Fifty at once over one connection.
        let mut commands = tokio::task::JoinSet::new();
        for number in 0..50 {
            let engine = engine.clone();
            commands.spawn(async move { sh(&engine, "box", &format!("echo {number}")).await });
        }
        let outputs = commands.join_all().await;
        assert!(
            outputs
                .iter()
                .all(|output| output.end == ExecEnd::Exited(0))
        );

        // 8 MB in and out, byte for byte.
        let mut execution = engine
            .exec("box", &ExecRequest::new(["cat"]))
            .await
            .expect("it runs");
        let bytes: Vec<u8> = (0..8_u32 << 20).map(|n| (n % 253) as u8).collect();
        let mut stdin = execution.take_stdin().expect("it has one");
        let sent = bytes.clone();
        let feed =
            tokio::spawn(
                async move { tokio::io::AsyncWriteExt::write_all(&mut stdin, &sent).await },
            );
        let mut back = Vec::new();
        loop {
            match execution.next().await {
                ExecEvent::Stdout(piece) => back.extend(piece),
                ExecEvent::Ended(end) => {
                    assert_eq!(end, ExecEnd::Exited(0));
                    break;
                }
                _ => {}
            }
        }
        feed.await.expect("it was fed").expect("it took all");
        assert!(back == bytes, "{} bytes came back", back.len());

        // What was written before `stop` returned is there after `start`.
        sh(
            &engine,
            "box",
            "echo on the root disk >/etc/precious; echo on its own >/root/precious",
        )
        .await;
        let rung = stopped_by(engine.stop("box").await.expect("it stops"));
        assert_eq!(rung, StopRung::PoweredOff);
        start(&engine, "box").await;
        let kept = sh(&engine, "box", "cat /etc/precious /root/precious").await;
        assert_eq!(kept.stdout, b"on the root disk\non its own\n");
        engine.delete("box").await.expect("it is deleted");
    });
}

/// Leaves a program running that heeds nobody and appends a line a tenth of a second, to a file on either disk.
fn heedless(file: &str) -> String {
    format!("trap '' TERM HUP INT; while :; do echo line >>{file}; sleep 0.1; done")
}

#[test]
fn programs_that_ignore_term_cost_a_stop_neither_its_limit_nor_a_line() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        let lines = async |file: &str| -> usize {
            let told = sh(&engine, "box", &format!("wc -l <{file}")).await;
            String::from_utf8_lossy(&told.stdout)
                .trim()
                .parse()
                .unwrap_or(0)
        };
        // One that systemd's last killing meets, and one that is a service with 90 s of its own.
        for (how, file) in [
            (
                "nohup setsid sh -c \"$1\" >/dev/null 2>&1 </dev/null &",
                "/root/lines",
            ),
            (
                "systemd-run --quiet --unit heedless sh -c \"$1\"",
                "/var/lines",
            ),
        ] {
            let request = ExecRequest::new(["sh", "-c", how, "sh", &heedless(file)]);
            let run = engine.exec_output("box", &request).await.expect("it runs");
            assert_eq!(run.end, ExecEnd::Exited(0), "{run:?}");
            let deadline = Instant::now() + Duration::from_secs(60);
            while lines(file).await < 20 {
                assert!(Instant::now() < deadline, "it does not write");
            }
            let before = lines(file).await;
            let begun = Instant::now();
            let rung = stopped_by(engine.stop("box").await.expect("it stops"));
            println!(
                "{file}: {before} lines, stopped after {:?}",
                begun.elapsed()
            );
            assert_eq!(rung, StopRung::PoweredOff);
            start(&engine, "box").await;
            let after = lines(file).await;
            println!("{file}: {after} lines are there");
            assert!(
                after >= before,
                "{after} of {before} lines of {file} are left"
            );
        }
        engine.delete("box").await.expect("it is deleted");
    });
}

#[test]
fn a_guest_whose_sshd_stands_still_holds_no_command_and_no_descriptor() {
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .expect("it is listed")
            .count()
    };
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        let request = ExecRequest::new(["sleep", "1000"]);
        let mut execution = engine.exec("box", &request).await.expect("it runs");
        while !matches!(execution.next().await, ExecEvent::Started(_)) {}
        let before = open();
        // Its console is the one way that is left to say so.
        let stand_still = "sleep 1; pkill -STOP sshd; echo sshd stands >/dev/console";
        let stand_still = ["sh", "-c", stand_still];
        let stood = ExecRequest::new(stand_still);
        let mut standing = engine.exec("box", &stood).await.expect("it runs");
        while !matches!(standing.next().await, ExecEvent::Started(_)) {}
        let console = engine.show("box").await.expect("it is shown");
        let console = console.vm.runtime.log_path;
        let deadline = Instant::now() + Duration::from_secs(60);
        while !String::from_utf8_lossy(&std::fs::read(&console).expect("its console"))
            .contains("sshd stands")
        {
            assert!(Instant::now() < deadline, "its sshd goes on");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }

        // A new one is given up, and so is the one that runs.
        let begun = Instant::now();
        let error = engine
            .exec("box", &request)
            .await
            .expect_err("nobody answers");
        println!("{error} (after {:?})", begun.elapsed());
        assert!(error.to_string().contains("opened no channel"), "{error:?}");
        let lost = async {
            loop {
                if let ExecEvent::Ended(end) = execution.next().await {
                    return end;
                }
            }
        };
        let lost = tokio::time::timeout(Duration::from_secs(240), lost).await;
        println!("{lost:?} (after {:?})", begun.elapsed());
        assert!(matches!(lost, Ok(ExecEnd::Lost(_))), "{lost:?}");
        drop((execution, standing));
        let deadline = Instant::now() + Duration::from_secs(30);
        while open() > before {
            assert!(Instant::now() < deadline, "{} of {before} are open", open());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let rung = stopped_by(engine.stop("box").await.expect("it stops"));
        println!("{rung}");
        engine.delete("box").await.expect("it is deleted");
    });
}

#[test]
fn a_guest_whose_sshd_is_dead_is_stopped_by_its_keyboard_and_loses_nothing() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        sh(&engine, "box", "echo precious >/root/file").await;
        // With the connection's own sshd too: from here on nobody answers.
        let request = ExecRequest::new([
            "sh",
            "-c",
            "systemctl mask --now --runtime ssh; pkill -9 sshd",
        ]);
        let _ = engine.exec_output("box", &request).await;
        let rung = stopped_by(engine.stop("box").await.expect("it stops"));
        assert_eq!(rung, StopRung::CtrlAltDel);
        start(&engine, "box").await;
        assert_eq!(
            sh(&engine, "box", "cat /root/file").await.stdout,
            b"precious\n"
        );

        // And one whose sshd never answers at all: bounded, told, and left for inspection.
        sh(&engine, "box", "systemctl mask ssh").await;
        engine.stop("box").await.expect("it stops");
        drop(engine);
        let mut config = rig.config.clone();
        config.limits.ready = Duration::from_secs(20);
        let (engine, _) = Engine::open(config).await.expect("it opens");
        let silent = Progress::silent();
        engine.start("box", &silent).await.expect("it starts");
        let error = engine
            .wait_ready("box", &silent)
            .await
            .expect_err("nobody answers");
        assert!(matches!(error, Error::NotReady { .. }), "{error:?}");
        assert!(error.hint().expect("a next step").contains("console.log"));
        let view = engine.show("box").await.expect("it is shown");
        assert_eq!(view.condition, Condition::Running);
        assert!(view.vm.runtime.last_error.is_some());
        engine.delete("box").await.expect("it is deleted");
    });
}

#[test]
fn a_vm_that_ends_by_itself_is_noticed_and_one_that_reboots_runs_again() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        let run = engine
            .lookup("box")
            .await
            .expect("it is there")
            .runtime
            .run_id;
        sh(&engine, "box", "systemctl --no-block reboot").await;
        becomes(&engine, "box", |view| {
            view.condition == Condition::Running && view.vm.runtime.run_id != run
        })
        .await;
        engine
            .wait_ready("box", &Progress::silent())
            .await
            .expect("it answers again");

        sh(&engine, "box", "systemctl --no-block poweroff").await;
        becomes(&engine, "box", |view| view.condition == Condition::Stopped).await;
        let view = engine.show("box").await.expect("it is shown");
        let reason = view.vm.runtime.stop_reason.unwrap_or_default();
        assert_eq!(reason, "the guest powered itself off");

        // Its monitor dies in the middle of the boot: whoever waits for it hears at once, with the console.
        let silent = Progress::silent();
        engine.start("box", &silent).await.expect("it starts");
        let waiting = tokio::spawn({
            let engine = engine.clone();
            async move { engine.wait_ready("box", &Progress::silent()).await }
        });
        tokio::time::sleep(Duration::from_secs(2)).await;
        let monitors = rig.processes();
        let (pid, _) = monitors
            .iter()
            .find(|(_, line)| line.starts_with("/usr/bin/qemu"))
            .expect("its monitor");
        let pid = rustix::process::Pid::from_raw(i32::try_from(*pid).expect("a pid"));
        let killed =
            rustix::process::kill_process(pid.expect("a pid"), rustix::process::Signal::KILL);
        killed.expect("it is killed");
        let error = waiting.await.expect("it waited").expect_err("it ended");
        assert!(matches!(error, Error::EndedBooting { .. }), "{error:?}");
        assert!(error.to_string().contains("signal 9"), "{error}");
        becomes(&engine, "box", |view| view.condition == Condition::Stopped).await;
        engine.delete("box").await.expect("it is deleted");
    });
}

#[test]
fn a_kernel_panic_is_told_as_one_and_the_vm_is_not_started_again() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        // With the driver of the panic device, and without: then its console tells.
        for prepare in ["modprobe pvpanic_mmio", "rmmod pvpanic_mmio"] {
            sh(&engine, "box", prepare).await;
            let crash = "sleep 1; echo c > /proc/sysrq-trigger";
            let crash = format!("setsid sh -c '{crash}' >/dev/null 2>&1 </dev/null &");
            sh(&engine, "box", &crash).await;
            becomes(&engine, "box", |view| view.condition == Condition::Stopped).await;
            let view = engine.show("box").await.expect("it is shown");
            let reason = view.vm.runtime.stop_reason.unwrap_or_default();
            let told = "the guest's kernel panicked: sysrq triggered crash";
            assert_eq!(reason, told, "{prepare}");
            assert_eq!(view.vm.runtime.restarts, 0);
            let silent = Progress::silent();
            engine.start("box", &silent).await.expect("it starts");
            engine.wait_ready("box", &silent).await.expect("it answers");
        }
        // One that only prints such a line has rebooted.
        let lie = "echo '<0>Kernel panic - not syncing: not at all' > /dev/kmsg";
        sh(
            &engine,
            "box",
            &format!("{lie}; systemctl --no-block reboot"),
        )
        .await;
        becomes(&engine, "box", |view| {
            view.condition == Condition::Running && view.vm.runtime.restarts == 1
        })
        .await;
        engine.delete("box").await.expect("it is deleted");
    });
}

#[test]
fn a_vm_outlives_its_engine_and_the_next_one_reaches_it() {
    real(async |rig| {
        let engine = rig.open().await;
        boot(&engine, "box").await;
        let mut execution = engine
            .exec(
                "box",
                &ExecRequest::new(["sh", "-c", "echo ready; exec sleep 1000"]),
            )
            .await
            .expect("it runs");
        while !matches!(execution.next().await, ExecEvent::Stdout(_)) {}
        drop((execution, engine));

        let (engine, report) = Engine::open(rig.config.clone()).await.expect("it opens");
        assert_eq!(report.lines.len(), 1, "{report}");
        assert_eq!(report.lines[0].action, "kept");
        // What ran in it runs on; signals reach a command's whole group.
        let output = sh(&engine, "box", "pgrep -x sleep | wc -l").await;
        assert_eq!(output.stdout, b"1\n");
        let mut execution = engine
            .exec(
                "box",
                &ExecRequest::new(["sh", "-c", "sleep 900 & echo ready; wait; sleep 900"]),
            )
            .await
            .expect("it runs");
        let signaller = execution.signaller();
        let end = loop {
            match execution.next().await {
                ExecEvent::Stdout(_) => signaller.send(Signal::TERM).await.expect("it is sent"),
                ExecEvent::Ended(end) => break end,
                _ => {}
            }
        };
        assert_eq!(end, ExecEnd::Exited(143));
        assert_eq!(
            sh(&engine, "box", "pgrep -fx 'sleep 900'").await.end,
            ExecEnd::Exited(1)
        );
        engine.delete("box").await.expect("it is deleted");
    });
}
