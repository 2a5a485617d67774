//! The initramfs: one archive an image (busybox, modules, our init) and a small one a VM (its
//! identity), made in memory and appended. The kernel unpacks them one after the other.

use std::io::Write;
use std::net::Ipv4Addr;

use cpio::newc::{self, Builder, ModeFileType};

use crate::vmm::SwitchOff;

/// What an image's own archive is made of.
#[derive(Clone, Debug)]
pub(super) struct BaseParts {
    /// A statically linked busybox.
    pub busybox: Vec<u8>,
    /// File names and contents of the modules, in the order in which they load.
    pub modules: Vec<(String, Vec<u8>)>,
}

/// Who a guest is. Holds a private key: it has no `Debug`.
#[derive(Clone)]
pub(crate) struct Identity {
    /// Its host name.
    pub hostname: String,
    /// Its machine id, 32 hexadecimal digits (machine-id(5)).
    pub machine_id: String,
    /// Its private ssh host key (ed25519, OpenSSH's PEM).
    pub ssh_host_key: String,
    /// Its public ssh host key, one line.
    pub ssh_host_key_pub: String,
    /// The key that may log in as root, one line.
    pub authorized_key: String,
    /// Stirred into the guest's random numbers.
    pub seed: [u8; 32],
    /// How it ends its machine.
    pub switch_off: SwitchOff,
    /// What its own disk was last grown to, in MiB; none if it still has its first size.
    pub work_disk_grown_to: Option<u64>,
    /// Its address; a guest without has no network device.
    pub network: Option<GuestNetwork>,
}

/// How a guest's `eth0` is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GuestNetwork {
    /// Its address.
    pub address: Ipv4Addr,
    /// The length of the network's prefix, in bits.
    pub prefix: u8,
    /// The way out.
    pub gateway: Ipv4Addr,
    /// The name server.
    pub dns: Ipv4Addr,
}

/// Makes an image's archive. An identity must follow it, or its init refuses to boot.
pub(super) fn base_archive(parts: &BaseParts) -> Vec<u8> {
    let mut archive = Archive::default();
    for folder in [
        "bin",
        "dev",
        "proc",
        "sys",
        "sysroot",
        "work",
        "banger",
        "banger/modules",
    ] {
        archive.folder(folder);
    }
    archive.console();
    archive.file("bin/busybox", 0o755, &parts.busybox);
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("banger/identity.sh", 0o755, IDENTITY.as_bytes());
    let mut order = String::new();
    for (name, module) in &parts.modules {
        archive.file(&format!("banger/modules/{name}"), 0o644, module);
        order.push_str(name);
        order.push('\n');
    }
    archive.file("banger/modules/order", 0o644, order.as_bytes());
    archive.finish()
}

/// Makes the archive that gives a guest its identity, to be appended to an image's.
pub(crate) fn identity_archive(identity: &Identity) -> Vec<u8> {
    let mut archive = Archive::default();
    archive.folder("banger");
    archive.folder("banger/identity");
    // In the place of the image's: an image that was made long ago boots as one of today.
    archive.file("init", 0o755, INIT.as_bytes());
    archive.file("banger/identity.sh", 0o755, IDENTITY.as_bytes());
    let mut file = |name: &str, mode: u32, contents: &str| {
        archive.file(
            &format!("banger/identity/{name}"),
            mode,
            contents.as_bytes(),
        );
    };
    file("identity", 0o600, &assignments(identity));
    file(
        "ssh_host_ed25519_key",
        0o600,
        &lines(&identity.ssh_host_key),
    );
    file(
        "ssh_host_ed25519_key.pub",
        0o644,
        &lines(&identity.ssh_host_key_pub),
    );
    file("authorized_keys", 0o644, &lines(&identity.authorized_key));
    archive.finish()
}

/// The first program of a guest.
pub(super) const INIT: &str = include_str!("init.sh");

/// What puts the identity in place, at boot and in a live guest.
pub(super) const IDENTITY: &str = include_str!("identity.sh");

/// The variables that `init.sh` and `identity.sh` read.
fn assignments(identity: &Identity) -> String {
    let seed: String = identity.seed.iter().map(|b| format!("{b:02x}")).collect();
    let network =
        |show: fn(&GuestNetwork) -> String| identity.network.as_ref().map(show).unwrap_or_default();
    [
        ("hostname", identity.hostname.clone()),
        ("machine_id", identity.machine_id.clone()),
        ("seed", seed),
        ("root_disk", "/dev/vda".to_owned()),
        ("work_disk", "/dev/vdb".to_owned()),
        (
            "work_size",
            (identity.work_disk_grown_to).map_or_else(String::new, |size| size.to_string()),
        ),
        ("init", "/sbin/init".to_owned()),
        ("interface", "eth0".to_owned()),
        (
            "address",
            network(|net| format!("{}/{}", net.address, net.prefix)),
        ),
        ("gateway", network(|net| net.gateway.to_string())),
        ("dns", network(|net| net.dns.to_string())),
        (
            "switch_off",
            match identity.switch_off {
                SwitchOff::ByItself => "itself",
                SwitchOff::ByRestart => "restart",
            }
            .to_owned(),
        ),
    ]
    .into_iter()
    .map(|(name, value)| format!("banger_{name}='{}'\n", value.replace('\'', r"'\''")))
    .collect()
}

/// Every line ended, the last one too: sshd wants its keys so.
fn lines(text: &str) -> String {
    format!("{}\n", text.trim_end())
}

/// A cpio archive of the kernel's `newc` kind (`Documentation/driver-api/early-userspace/buffer-format.rst`).
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

impl Archive {
    fn folder(&mut self, name: &str) {
        let entry = Builder::new(name)
            .mode(0o755)
            .set_mode_file_type(ModeFileType::Directory);
        self.add(entry.nlink(2), &[]);
    }

    /// The kernel opens it for init before init can mount anything.
    fn console(&mut self) {
        let entry = Builder::new("dev/console")
            .mode(0o600)
            .set_mode_file_type(ModeFileType::Char);
        self.add(entry.rdev_major(5).rdev_minor(1), &[]);
    }

    fn file(&mut self, name: &str, mode: u32, contents: &[u8]) {
        let entry = Builder::new(name)
            .mode(mode)
            .set_mode_file_type(ModeFileType::Regular);
        self.add(entry, contents);
    }

    fn add(&mut self, entry: Builder, contents: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(contents.len()).unwrap_or(u32::MAX);
        let mut writer = entry.ino(self.entries).write(&mut self.bytes, length);
        let written = writer
            .write_all(contents)
            .and_then(|()| writer.finish().map(drop));
        debug_assert!(written.is_ok(), "a vector takes every byte");
    }

    /// Ends the archive on a multiple of 512 bytes: the next one must begin on one of four.
    fn finish(mut self) -> Vec<u8> {
        let written = newc::trailer(&mut self.bytes).map(drop);
        debug_assert!(written.is_ok(), "a vector takes every byte");
        self.bytes.resize(self.bytes.len().next_multiple_of(512), 0);
        self.bytes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::io::Read;
    use std::process::Command;

    use super::*;

    /// Reads concatenated archives as the kernel does: on to the next header, zeros skipped.
    fn unpack(mut bytes: &[u8]) -> BTreeMap<String, (u32, Vec<u8>)> {
        let mut files = BTreeMap::new();
        loop {
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            assert_eq!(zeros % 4, 0, "headers begin on multiples of four");
            bytes = &bytes[zeros..];
            if bytes.is_empty() {
                return files;
            }
            let mut reader = newc::Reader::new(bytes).unwrap();
            let (name, mode) = (reader.entry().name().to_owned(), reader.entry().mode());
            let trailer = reader.entry().is_trailer();
            let mut contents = Vec::new();
            reader.read_to_end(&mut contents).unwrap();
            bytes = reader.finish().unwrap();
            if !trailer {
                files.insert(name, (mode, contents));
            }
        }
    }

    pub(in crate::image) fn identity() -> Identity {
        Identity {
            work_disk_grown_to: None,
            hostname: "box".into(),
            machine_id: "0123456789abcdef0123456789abcdef".into(),
            ssh_host_key: "-----BEGIN\nabc\n-----END".into(),
            ssh_host_key_pub: "ssh-ed25519 AAAA".into(),
            authorized_key: "ssh-ed25519 BBBB it's mine\n".into(),
            seed: [0xa5; 32],
            switch_off: SwitchOff::ByItself,
            network: Some(GuestNetwork {
                address: [10, 0, 2, 15].into(),
                prefix: 24,
                gateway: [10, 0, 2, 2].into(),
                dns: [10, 0, 2, 3].into(),
            }),
        }
    }

    fn base() -> BaseParts {
        BaseParts {
            busybox: vec![1, 2, 3],
            modules: vec![
                ("virtio_ring.ko".into(), vec![4; 5]),
                ("virtio.ko".into(), vec![6; 7]),
            ],
        }
    }

    /// Runs the identity script as the initramfs does, with what touches the kernel left out.
    fn apply(folder: &std::path::Path) {
        let root = folder.join("root");
        let bin = folder.join("bin");
        std::fs::create_dir_all(root.join("etc")).unwrap();
        std::fs::create_dir_all(&bin).unwrap();
        let script = IDENTITY
            .replace(">/proc/sys/kernel/hostname", ">/dev/null")
            .replace("/sys/class/net/$banger_interface", "/")
            .replace("ip ", ": ");
        for (name, (_, contents)) in unpack(&identity_archive(&identity())) {
            let path = folder.join(name);
            if contents.is_empty() {
                std::fs::create_dir_all(path).unwrap();
            } else {
                std::fs::write(path, contents).unwrap();
            }
        }
        let status = Command::new("sh")
            .args(["-euc", &script])
            .env("banger_root", &root)
            .env("banger_identity", folder.join("banger/identity"))
            .status()
            .unwrap();
        assert!(status.success());
    }

    #[test]
    fn the_two_archives_unpack_as_one() {
        let mut bytes = base_archive(&base());
        bytes.extend(identity_archive(&identity()));
        assert_eq!(bytes.len() % 512, 0);
        let files = unpack(&bytes);
        assert_eq!(files["init"], (0o100_755, INIT.as_bytes().to_vec()));
        assert_eq!(files["bin/busybox"], (0o100_755, vec![1, 2, 3]));
        assert_eq!(files["dev/console"].0, 0o020_600);
        assert_eq!(
            files["banger/modules/order"].1,
            b"virtio_ring.ko\nvirtio.ko\n"
        );
        let (mode, key) = &files["banger/identity/ssh_host_ed25519_key"];
        assert_eq!(*mode, 0o100_600);
        assert_eq!(key, b"-----BEGIN\nabc\n-----END\n");
        assert_eq!(files["banger/identity/identity"].0, 0o100_600);
    }

    #[test]
    fn a_quote_in_a_name_stays_a_quote() {
        let mut identity = identity();
        identity.hostname = "it's $(me)".into();
        let script = assignments(&identity) + r#"printf %s "$banger_hostname""#;
        let output = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert_eq!(output.stdout, b"it's $(me)");
    }

    #[test]
    fn a_guest_without_a_network_gets_no_address() {
        let mut identity = identity();
        identity.network = None;
        assert!(assignments(&identity).contains("banger_address=''\n"));
    }

    #[test]
    fn the_identity_is_put_in_place_and_applying_it_again_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("root/etc");
        let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
        apply(folder.path());
        assert_eq!(read("hostname"), "box\n");
        assert_eq!(read("machine-id"), "0123456789abcdef0123456789abcdef\n");
        assert_eq!(
            read("ssh/ssh_host_ed25519_key"),
            "-----BEGIN\nabc\n-----END\n"
        );
        assert_eq!(
            read("banger/authorized_keys"),
            "ssh-ed25519 BBBB it's mine\n"
        );
        assert!(read("resolv.conf").contains("nameserver 10.0.2.3\n"));
        assert!(read("hosts").starts_with("127.0.1.1 box\n127.0.0.1 localhost\n"));
        let facts = |name: &str| {
            use std::os::unix::fs::MetadataExt;
            let facts = std::fs::metadata(etc.join(name)).unwrap();
            (facts.ino(), facts.mtime_nsec(), facts.mode() & 0o777)
        };
        let names = [
            "hostname",
            "hosts",
            "machine-id",
            "resolv.conf",
            "ssh/ssh_host_ed25519_key",
        ];
        let before = names.map(facts);
        assert_eq!(before[4].2, 0o600);
        apply(folder.path());
        assert_eq!(names.map(facts), before);
    }

    #[test]
    fn an_ssh_server_that_nobody_prepared_is_told_where_the_key_is() {
        let folder = tempfile::tempdir().unwrap();
        let ssh = folder.path().join("root/etc/ssh");
        let home = folder.path().join("root/root/.ssh/authorized_keys");
        let settings = ssh.join("sshd_config.d/11-banger.conf");
        std::fs::create_dir_all(&ssh).unwrap();
        let include = "Include /etc/ssh/sshd_config.d/*.conf\n";
        std::fs::write(ssh.join("sshd_config"), include).unwrap();
        apply(folder.path());
        let written = std::fs::read_to_string(&settings).unwrap();
        assert!(written.contains("\nAuthorizedKeysFile /etc/banger/authorized_keys "));
        assert!(!home.exists());

        // One that reads no folder of settings: the key is added to those of the home folder, once.
        std::fs::remove_file(&settings).unwrap();
        std::fs::write(ssh.join("sshd_config"), "UsePAM yes\n").unwrap();
        std::fs::create_dir_all(home.parent().unwrap()).unwrap();
        std::fs::write(&home, "ssh-ed25519 AAAA mine\n").unwrap();
        apply(folder.path());
        apply(folder.path());
        let keys = std::fs::read_to_string(&home).unwrap();
        assert_eq!(keys, "ssh-ed25519 AAAA mine\nssh-ed25519 BBBB it's mine\n");
        assert!(!settings.exists());
    }

    #[test]
    fn an_ssh_server_of_our_own_making_is_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let settings = folder.path().join("root/etc/ssh/sshd_config.d");
        std::fs::create_dir_all(&settings).unwrap();
        std::fs::write(settings.join("10-banger.conf"), "").unwrap();
        apply(folder.path());
        assert_eq!(std::fs::read_dir(&settings).unwrap().count(), 1);
        assert!(!folder.path().join("root/root").exists());
    }

    #[test]
    fn what_a_person_wrote_into_the_guest_stays() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("root/etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("hosts"), "127.0.1.1 old\n10.0.0.1 db\n").unwrap();
        std::fs::write(etc.join("resolv.conf"), "nameserver 192.0.2.1\n").unwrap();
        apply(folder.path());
        let read = |name: &str| std::fs::read_to_string(etc.join(name)).unwrap();
        assert_eq!(read("hosts"), "127.0.1.1 box\n10.0.0.1 db\n");
        assert_eq!(read("resolv.conf"), "nameserver 192.0.2.1\n");
    }

    #[test]
    fn a_link_in_the_root_disk_is_replaced_and_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        let etc = folder.path().join("root/etc");
        let outside = folder.path().join("outside");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(&outside, "mine\n").unwrap();
        std::os::unix::fs::symlink(&outside, etc.join("hostname")).unwrap();
        apply(folder.path());
        assert_eq!(std::fs::read_to_string(outside).unwrap(), "mine\n");
        assert!(etc.join("hostname").symlink_metadata().unwrap().is_file());
    }
}
