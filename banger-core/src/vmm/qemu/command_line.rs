//! The words that QEMU and the guest's kernel are started with.

use std::ffi::OsString;
use std::path::Path;

use crate::disk::{Access, BlockFormat, BlockSource};
use crate::host::Walls;
use crate::network::{GUEST_MAC, NetworkAttachment, spelled};
use crate::vm::{Internet, Nesting};
use crate::vmm::Launch;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Acceleration {
    /// The processor.
    Kvm,
    /// QEMU's translator.
    Emulated {
        /// The host's time stamp counter rate.
        tsc_khz: Option<u32>,
    },
}

/// The virtual device behind which the guest agent's channel is reserved: adding it later would
/// change every snapshot.
const AGENT_PORT: &str = "banger.agent.0";

/// Which of its further logs is the serial console's.
const CONSOLE_LOG: usize = 0;

/// Whether QEMU gives up the system calls that a machine needs none of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sandbox {
    On,
    /// This one cannot.
    Off,
}

/// Whether this QEMU has the device through which a guest's kernel says that it panics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PanicDevice {
    Known,
    Unknown,
}

/// That device, on the ISA bus and announced by ACPI. Linux's driver for it is `pvpanic_mmio`.
pub(super) const PANIC_DEVICE: &str = "pvpanic";

/// What it gives up: obsolete calls, those that change whose process it is, that start programs, and that change
/// its share of the processors.
pub(super) const SANDBOX: &str =
    "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny";

pub(super) fn arguments(
    launch: &Launch,
    acceleration: Acceleration,
    sandbox: Sandbox,
    panic_device: PanicDevice,
) -> Vec<OsString> {
    let mut words = Words::default();
    words.all(["-nodefaults", "-no-user-config", "-display", "none"]);
    words.pair("-name", format!("guest={}", launch.token));
    if sandbox == Sandbox::On {
        words.pair("-sandbox", SANDBOX);
    }
    words.pair(
        "-machine",
        "microvm,acpi=on,rtc=on,pit=on,pic=on,isa-serial=on,x-option-roms=off,auto-kernel-cmdline=off,dump-guest-core=off",
    );
    // By name: it loads the kernel itself and keeps the ACPI tables away from the initrd. What a newer QEMU
    // takes by itself (seen with 10.0) does neither: its tables are where QEMU puts the initrd.
    words.pair("-bios", "qboot.rom");
    match acceleration {
        Acceleration::Kvm => {
            words.pair("-accel", "kvm");
            words.pair("-cpu", "host");
        }
        Acceleration::Emulated { .. } => {
            // One thread a virtual processor; a translation cache that holds a whole Debian boot.
            words.pair("-accel", "tcg,thread=multi,tb-size=256");
            let nested = match launch.nesting {
                Nesting::Unasked => "max",
                // The one kind of virtualisation that can be emulated.
                Nesting::Wanted => "max,+svm,+npt",
            };
            words.pair("-cpu", nested);
        }
    }
    words.pair("-smp", launch.vcpus.to_string());
    words.pair("-m", format!("{}M", launch.memory.0));
    words.path("-kernel", "", &launch.kernel);
    words.path("-initrd", "", &launch.initrd);
    words.pair("-append", kernel_line(acceleration));
    // A reboot in the guest ends the monitor; the engine decides what then.
    words.all(["-no-reboot", "-S"]);

    if panic_device == PanicDevice::Known {
        words.pair("-device", PANIC_DEVICE);
    }
    // The only keyboard on which Ctrl-Alt-Del can be pressed here (there is no ACPI button in the guest).
    words.pair("-device", "i8042");
    words.pair("-object", "rng-random,id=rng0,filename=/dev/urandom");
    words.pair("-device", "virtio-rng-device,rng=rng0");

    // Whoever attaches or not: all of it goes to the log.
    let mut console = OsString::from("socket,id=console,server=on,wait=off,path=");
    console.push(doubled_commas(&launch.console_socket));
    console.push(",logappend=on,logfile=");
    console.push(Walls::pipe(CONSOLE_LOG));
    words.pair("-chardev", console);
    words.pair("-serial", "chardev:console");
    words.pair("-device", "virtio-serial-device,id=serial0,max_ports=2");
    words.pair("-chardev", "null,id=agent");
    words.pair(
        "-device",
        format!("virtserialport,bus=serial0.0,chardev=agent,name={AGENT_PORT}"),
    );

    words.disk("root", &launch.root);
    words.disk("work", &launch.work);

    let card = format!("virtio-net-device,netdev=net0,mac={}", spelled(GUEST_MAC));
    match &launch.network {
        NetworkAttachment::User(internet) => {
            let restrict = match internet {
                Internet::Closed => "on",
                Internet::Open => "off",
            };
            words.pair(
                "-netdev",
                format!("user,id=net0,ipv6=off,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22"),
            );
            words.pair("-device", card);
        }
        NetworkAttachment::Tap { tap, .. } => {
            words.pair(
                "-netdev",
                format!("tap,id=net0,ifname={tap},script=no,downscript=no"),
            );
            words.pair("-device", card);
        }
        NetworkAttachment::None | NetworkAttachment::Sim => {}
    }

    for (id, socket) in [
        ("api", &launch.api_socket),
        ("rescue", &launch.rescue_socket),
    ] {
        let chardev = format!("socket,id={id},server=on,wait=off,path=");
        words.path("-chardev", &chardev, socket);
        words.pair("-mon", format!("chardev={id},mode=control"));
    }
    words.0
}

/// The guest kernel's line. Nothing secret is on it.
fn kernel_line(acceleration: Acceleration) -> String {
    let mut line = String::from("console=ttyS0 panic=-1 net.ifnames=0 i8042.noaux i8042.nomux");
    if let Acceleration::Emulated { tsc_khz: Some(khz) } = acceleration {
        // Under load an emulated guest never gets its counter calibrated, and hangs in that loop; and
        // with two processors it finds the counters "unsynchronized", falls back to jiffies, and its
        // clock drifts by a second in ten. Both counters are the host's.
        line.push_str(&format!(" tsc=reliable tsc_early_khz={khz}"));
    }
    line
}

#[derive(Default)]
struct Words(Vec<OsString>);

impl Words {
    fn all<const N: usize>(&mut self, words: [&str; N]) {
        self.0.extend(words.map(OsString::from));
    }

    fn pair(&mut self, option: &str, value: impl Into<OsString>) {
        self.0.push(option.into());
        self.0.push(value.into());
    }

    /// A path as an option's value, or as the last field of one. Inside a field QEMU reads `,` as the
    /// beginning of the next one and `,,` as a comma.
    fn path(&mut self, option: &str, before: &str, path: &Path) {
        let mut value = OsString::from(before);
        if before.is_empty() {
            value.push(path);
        } else {
            value.push(doubled_commas(path));
        }
        self.pair(option, value);
    }

    fn disk(&mut self, id: &str, source: &BlockSource) {
        let format = match source.format {
            BlockFormat::Raw => "raw",
            BlockFormat::Qcow2 => "qcow2",
        };
        let read_only = match source.access {
            Access::ReadOnly => "on",
            Access::ReadWrite => "off",
        };
        // A write that the host refuses stops the guest, and is done again when it goes on: nothing is lost. A device
        // refuses for good, as a snapshot that has overflowed does: there only a lack of room stops the guest, and it is
        // told of everything else.
        let (driver, on_write_error) = match source.path.starts_with("/dev") {
            true => ("host_device", "enospc"),
            false => ("file", "stop"),
        };
        // What a guest frees is freed on the host: a sparse file stays as small as what is in it.
        let fields = format!(
            "driver={format},node-name={id},read-only={read_only},discard=unmap,file.driver={driver},file.filename="
        );
        self.path("-blockdev", &fields, &source.path);
        self.pair(
            "-device",
            format!("virtio-blk-device,drive={id},werror={on_write_error},rerror=report"),
        );
    }
}

fn doubled_commas(path: &Path) -> OsString {
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    let mut bytes = Vec::new();
    for &byte in path.as_os_str().as_bytes() {
        bytes.push(byte);
        if byte == b',' {
            bytes.push(b',');
        }
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Mebibytes;

    fn launch() -> Launch {
        let disk = |path: &str, format| BlockSource {
            path: path.into(),
            format,
            access: Access::ReadWrite,
        };
        Launch {
            token: "banger:0a0a0a0a:x:y".to_owned(),
            vcpus: 2,
            nesting: Nesting::Unasked,
            memory: Mebibytes(512),
            kernel: "/images/a,b/vmlinux".into(),
            initrd: "/run/initrd".into(),
            root: disk("/vms/a,b/root.qcow2", BlockFormat::Qcow2),
            work: disk("/vms/work.ext4", BlockFormat::Raw),
            scope: None,
            network: NetworkAttachment::User(Internet::Closed),
            api_socket: "/run/api.sock".into(),
            rescue_socket: "/run/rescue.sock".into(),
            console_socket: "/run/console.sock".into(),
            console_log: "/vms/console.log".into(),
            monitor_log: "/vms/monitor.log".into(),
            metrics: "/run/metrics".into(),
            vsock: "/run/vsock.sock".into(),
        }
    }

    fn line(launch: &Launch, acceleration: Acceleration) -> String {
        let words = arguments(launch, acceleration, Sandbox::On, PanicDevice::Known);
        let words: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        words.join(" ")
    }

    #[test]
    fn commas_in_paths_are_doubled_where_qemu_splits_at_them_and_only_there() {
        let line = line(&launch(), Acceleration::Kvm);
        assert!(line.contains("-kernel /images/a,b/vmlinux"), "{line}");
        assert!(
            line.contains("file.filename=/vms/a,,b/root.qcow2"),
            "{line}"
        );
    }

    #[test]
    fn a_guest_reaches_nothing_unless_it_was_asked_for() {
        let mut launch = launch();
        assert!(line(&launch, Acceleration::Kvm).contains("restrict=on"));
        launch.network = NetworkAttachment::User(Internet::Open);
        assert!(line(&launch, Acceleration::Kvm).contains("restrict=off"));
        launch.network = NetworkAttachment::Tap {
            namespace: "bgr".to_owned(),
            tap: "tap0".to_owned(),
        };
        assert!(line(&launch, Acceleration::Kvm).contains("ifname=tap0,script=no"));
        launch.network = NetworkAttachment::None;
        assert!(!line(&launch, Acceleration::Kvm).contains("-netdev"));
    }

    #[test]
    fn a_write_that_the_host_refuses_stops_the_guest_unless_it_is_refused_for_good() {
        let mut launch = launch();
        launch.root.path = "/dev/mapper/x".into();
        let line = line(&launch, Acceleration::Kvm);
        assert!(line.contains("drive=root,werror=enospc"), "{line}");
        assert!(line.contains("drive=work,werror=stop"), "{line}");
    }

    #[test]
    fn one_that_can_gives_up_the_system_calls_that_it_does_not_need() {
        let words = |sandbox| arguments(&launch(), Acceleration::Kvm, sandbox, PanicDevice::Known);
        assert!(words(Sandbox::On).contains(&SANDBOX.into()));
        assert!(!words(Sandbox::Off).contains(&"-sandbox".into()));
    }

    #[test]
    fn only_an_emulated_guest_is_told_the_counters_rate() {
        let emulated = Acceleration::Emulated {
            tsc_khz: Some(2_600_002),
        };
        assert!(line(&launch(), emulated).contains("tsc_early_khz=2600002"));
        assert!(!line(&launch(), Acceleration::Kvm).contains("tsc_early_khz"));
    }
}
