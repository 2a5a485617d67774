//! `banger image …`: its help, its answers as they are shown, and a whole life on the simulator.

use banger_daemon::protocol::{
    ImageBuild, ImageDelete, ImageInfo, ImageList, ImageListAnswer, ImageRegister, ImageShow,
    Nothing,
};
use insta::assert_snapshot;
use serde_json::json;

use crate::banger::World;
use crate::fake::{FakeDaemon, Reply, error};
use crate::parts::Parts;
use crate::simulator::{Simulated, session};

fn world() -> (World, FakeDaemon) {
    let world = World::new();
    let daemon = FakeDaemon::start(&world);
    (world, daemon)
}

fn help(verb: &str) -> String {
    let words: &[&str] = match verb {
        "" => &["image", "--help"],
        verb => &["image", verb, "--help"],
    };
    let run = World::new().banger(words);
    assert_eq!(run.status, Some(0), "{run}");
    String::from_utf8(run.stdout).unwrap()
}

fn image(name: &str) -> ImageInfo {
    ImageInfo {
        name: name.to_owned(),
        state: "ready".to_owned(),
        problem: None,
        id: Some("00112233aabbccdd".to_owned()),
        default: true,
        suite: Some("bookworm".to_owned()),
        packages: Some(160),
        kernel: Some("6.1.0-41-cloud-amd64".to_owned()),
        booted_at: None,
        booted_by: None,
        rootfs_bytes: Some(8 << 30),
        disk_bytes: 371 << 20,
        used_by: vec!["box".to_owned(), "other-one".to_owned()],
        folder: format!("/var/lib/banger/images/{name}").into(),
        // In the future, so that its age is always the same.
        created_at: Some("2130-01-31T12:00:00Z".to_owned()),
    }
}

fn damaged(name: &str) -> ImageInfo {
    ImageInfo {
        state: "damaged".to_owned(),
        problem: Some("the image odd has lost its file /i/odd/vmlinux".to_owned()),
        id: None,
        default: false,
        suite: None,
        packages: None,
        kernel: None,
        rootfs_bytes: None,
        disk_bytes: 4096,
        used_by: Vec::new(),
        created_at: None,
        ..image(name)
    }
}

#[test]
fn the_help_of_image() {
    assert_snapshot!(help(""), @"
    Make, list and delete what VMs boot from

    Usage: banger image [OPTIONS] <COMMAND>

    Commands:
      build     Make an image of Debian packages
      register  Make an image of a root file system and a kernel that are there already
      list      List all images [alias: ls]
      show      Show all there is to know about images
      delete    Delete images that no VM boots from [alias: rm]

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_image_build() {
    assert_snapshot!(help("build"), @"
    Make an image of Debian packages

    Usage: banger image build [OPTIONS] [NAME]

    Arguments:
      [NAME]  What to call it [default: the suite's name, or that of the default image]

    Options:
          --suite <SUITE>        The Debian release: bookworm (12), trixie (13), sid [default: bookworm]
          --include <PACKAGE,…>  Packages besides those that every image has; may be repeated
          --size <SIZE>          The size of its root disk, of which only what is used takes room
                                 [default: 8G]
          --mirror <ADDRESS>     The mirror to fetch from, and no other [default: Debian's]
      -q, --quiet                Say nothing but errors
      -v, --verbose              Also say what happens behind the scenes
      -h, --help                 Print help

    Takes about a minute, and ends when this command is ended. What every image holds, and what is
    left out of it: docs/images.md

    Examples:
      banger image build                                 the default image, again after a delete
      banger image build dev --include build-essential,python3
      banger image build --suite trixie                  named trixie
    ");
}

#[test]
fn the_help_of_image_register() {
    assert_snapshot!(help("register"), @"
    Make an image of a root file system and a kernel that are there already

    Usage: banger image register [OPTIONS] --rootfs <FILE> --kernel <FILE> <NAME>

    Arguments:
      <NAME>  What to call it

    Options:
          --rootfs <FILE>  A file that holds an ext4 file system, with an init and an ssh server in it
          --kernel <FILE>  A kernel: a vmlinux or a bzImage, for x86-64 with a PVH entry
          --initrd <FILE>  An initramfs with the kernel's modules; else they are taken from the file
                           system
          --no-check       Do not boot it to see that it works
      -q, --quiet          Say nothing but errors
      -v, --verbose        Also say what happens behind the scenes
      -h, --help           Print help

    The files are checked and copied; the image does not need them any more. The copy is booted once,
    as a VM of its own (check-…) that is gone afterwards, and refused if it does not come up. What the
    files must hold, and a guest must do: docs/images.md

    Example:
      banger image register mine --rootfs root.ext4 --kernel /boot/vmlinuz-6.1.0-41-cloud-amd64
    ");
}

#[test]
fn the_help_of_image_list() {
    assert_snapshot!(help("list"), @"
    List all images

    Usage: banger image list [OPTIONS]

    Options:
          --json     Print an array of images
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_image_show() {
    assert_snapshot!(help("show"), @"
    Show all there is to know about images

    Usage: banger image show [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The images' names

    Options:
          --json     Print an array of images, also for one
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn the_help_of_image_delete() {
    assert_snapshot!(help("delete"), @"
    Delete images that no VM boots from

    Usage: banger image delete [OPTIONS] <NAME>...

    Arguments:
      <NAME>...  The images' names

    Options:
      -q, --quiet    Say nothing but errors
      -v, --verbose  Also say what happens behind the scenes
      -h, --help     Print help
    ");
}

#[test]
fn a_build_tells_its_stages_and_prints_the_name() {
    let (world, daemon) = world();
    let stages = vec![
        ("image", "fetching and unpacking Debian (trixie)"),
        ("image-check", "checking the file system and the kernel"),
    ];
    let answer = Reply::Answer(json!(image("dev")));
    daemon.on::<ImageBuild>([Reply::After(stages, Box::new(answer))]);
    let typed = "image build dev --suite trixie --include make,gcc --include vim --size 4G \
                 --mirror http://m/debian";
    let words: Vec<_> = typed.split_whitespace().collect();
    assert_snapshot!(world.banger(&words), @"
    status: 0
    ----- stdout -----
    dev
    ----- stderr -----
    banger: fetching and unpacking Debian (trixie)…
    banger: checking the file system and the kernel…
    ");
    let asked = serde_json::to_string(&daemon.asked::<ImageBuild>()).unwrap();
    assert_snapshot!(asked, @r#"[{"name":"dev","suite":"trixie","include":["make","gcc","vim"],"size_mib":4096,"mirror":"http://m/debian"}]"#);
}

#[test]
fn what_is_left_out_of_a_build_is_the_daemons_to_choose() {
    let (world, daemon) = world();
    daemon.on::<ImageBuild>([Reply::Answer(json!(image("debian-12")))]);
    let run = world.banger(&["image", "build"]);
    assert_eq!(run.stdout, b"debian-12\n");
    assert_eq!(daemon.asked::<ImageBuild>(), [Default::default()]);
}

#[test]
fn a_registration_names_its_files_by_their_whole_paths() {
    let (world, daemon) = world();
    daemon.on::<ImageRegister>([Reply::Answer(json!(image("mine")))]);
    let typed = "image register mine --rootfs root.img --kernel /boot/vmlinuz";
    let words: Vec<_> = typed.split_whitespace().collect();
    assert_snapshot!(world.banger(&words), @"
    status: 0
    ----- stdout -----
    mine
    ----- stderr -----
    ");
    let asked = &daemon.asked::<ImageRegister>()[0];
    assert_eq!(asked.rootfs, world.path().join("root.img"));
    assert_eq!(asked.kernel.as_os_str(), "/boot/vmlinuz");
    assert_eq!(asked.initrd, None);
}

#[test]
fn a_registration_that_fails_its_test_boot_shows_the_console_and_the_way_around() {
    let (world, daemon) = world();
    let stages = vec![
        ("image-check", "checking the file system and the kernel"),
        ("image-boot", "booting it to see that it works"),
        ("kernel", "booting; waiting for ssh"),
    ];
    let refused = error(
        "the image mine failed its test boot (init): its init does not start, or does not run on: its \
         monitor exited with status 0; its console ends with:\n  banger: starting\n  banger: handing \
         over to /sbin/init",
        &[],
        Some("docs/images.md says what a guest must do; --no-check registers it as it is"),
    );
    daemon.on::<ImageRegister>([Reply::After(stages, Box::new(refused))]);
    let typed = "image register mine --rootfs /r --kernel /k";
    let words: Vec<_> = typed.split_whitespace().collect();
    assert_snapshot!(world.banger(&words), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    banger: checking the file system and the kernel…
    banger: booting it to see that it works…
    banger: booting; waiting for ssh…
    error: the image mine failed its test boot (init): its init does not start, or does not run on: its monitor exited with status 0; its console ends with:
      banger: starting
      banger: handing over to /sbin/init
    hint: docs/images.md says what a guest must do; --no-check registers it as it is
    ");
    let typed = "image register mine --rootfs /r --kernel /k --no-check";
    let words: Vec<_> = typed.split_whitespace().collect();
    daemon.on::<ImageRegister>([Reply::Answer(json!(image("mine")))]);
    assert_eq!(world.banger(&words).status, Some(0));
    let asked = daemon.asked::<ImageRegister>();
    let unchecked: Vec<_> = asked.iter().map(|asked| asked.no_check).collect();
    assert_eq!(unchecked, [false, true]);
}

#[test]
fn a_registered_image_shows_whether_it_was_booted() {
    let (world, daemon) = world();
    let registered = ImageInfo {
        default: false,
        suite: None,
        packages: None,
        used_by: Vec::new(),
        ..image("mine")
    };
    let booted = ImageInfo {
        booted_at: Some("2130-01-31T12:00:30.5Z".to_owned()),
        booted_by: Some("qemu".to_owned()),
        ..registered.clone()
    };
    let answers = [registered, booted];
    daemon.on::<ImageShow>(answers.map(|image| Reply::Answer(json!(image))));
    assert_snapshot!(world.banger(&["image", "show", "mine", "mine"]), @"
    status: 0
    ----- stdout -----
    name:           mine
    id:             00112233aabbccdd
    state:          ready
    kernel:         6.1.0-41-cloud-amd64
    test boot:      none: it was registered with --no-check
    root disk:      8G
    on disk:        371M
    folder:         /var/lib/banger/images/mine
    created:        2130-01-31T12:00:00Z

    name:           mine
    id:             00112233aabbccdd
    state:          ready
    kernel:         6.1.0-41-cloud-amd64
    test boot:      passed on qemu, 2130-01-31T12:00:30Z
    root disk:      8G
    on disk:        371M
    folder:         /var/lib/banger/images/mine
    created:        2130-01-31T12:00:00Z
    ----- stderr -----
    ");
}

#[test]
fn an_image_of_ones_own_is_registered_and_booted_on_the_simulator() {
    let world = Simulated::new();
    let parts = Parts::new();
    let (rootfs, kernel) = (
        parts.rootfs.to_str().unwrap(),
        parts.kernel.to_str().unwrap(),
    );
    let register = [
        "image", "register", "mine", "--rootfs", rootfs, "--kernel", kernel,
    ];
    // It brings the busybox that every guest starts with.
    let run = world.banger(&["-q", "image", "build"]);
    assert_eq!(run.status, Some(0), "{run}");
    let run = world.banger(&register);
    if run.stderr.contains("cannot be simulated here") {
        println!("SKIP: {}", run.stderr);
        return;
    }
    assert_snapshot!(run, @"
    status: 0
    ----- stdout -----
    mine
    ----- stderr -----
    banger: checking the file system and the kernel…
    banger: copying the root file system…
    banger: booting it to see that it works…
    banger: making its disks…
    banger: connecting its network…
    banger: starting the virtual machine…
    banger: booting; waiting for ssh…
    banger: looking around in it…
    banger: writing the image to the disk…
    ");
    let shown = world.banger(&["image", "show", "mine", "--json"]);
    let shown: Vec<ImageInfo> = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!(shown[0].booted_by.as_deref(), Some("sim"));
    let run = world.banger(&["vm", "run", "--rm", "-q", "--image", "mine", "--", "true"]);
    assert_eq!(run.status, Some(0), "{run}");
}

#[test]
fn a_list_shows_what_is_ready_and_what_is_damaged() {
    let (world, daemon) = world();
    let images = vec![image("debian-12"), damaged("odd")];
    daemon.on::<ImageList>([Reply::Answer(json!(ImageListAnswer { images }))]);
    assert_snapshot!(world.banger(&["image", "list"]), @"
    status: 0
    ----- stdout -----
    NAME       STATE    SUITE     KERNEL                SIZE  ON DISK  VMS  AGE
    debian-12  ready    bookworm  6.1.0-41-cloud-amd64  8G    371M     2    0s
    odd        damaged  -         -                     -     1M       0    -
    ----- stderr -----
    ");
    let run = world.banger(&["image", "ls", "--json"]);
    let images: Vec<ImageInfo> = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(images, [image("debian-12"), damaged("odd")]);
}

#[test]
fn an_image_is_shown_with_all_that_is_known_of_it() {
    let (world, daemon) = world();
    let answers = [damaged("odd"), image("debian-12")];
    daemon.on::<ImageShow>(answers.map(|image| Reply::Answer(json!(image))));
    assert_snapshot!(world.banger(&["image", "show", "odd", "debian-12"]), @"
    status: 0
    ----- stdout -----
    name:           odd
    state:          damaged
    problem:        the image odd has lost its file /i/odd/vmlinux
    on disk:        1M
    folder:         /var/lib/banger/images/odd

    name:           debian-12
    id:             00112233aabbccdd
    state:          ready
    default:        VMs that name no image boot from it
    suite:          bookworm
    packages:       160
    kernel:         6.1.0-41-cloud-amd64
    root disk:      8G
    on disk:        371M
    used by:        box, other-one
    folder:         /var/lib/banger/images/debian-12
    created:        2130-01-31T12:00:00Z
    ----- stderr -----
    ");
}

#[test]
fn an_image_in_use_is_told_of_and_the_others_are_deleted() {
    let (world, daemon) = world();
    let refused = error(
        "the image dev is in use by VM box",
        &[],
        Some("delete these VMs first: banger vm delete box"),
    );
    daemon.on::<ImageDelete>([refused, Reply::Answer(json!(Nothing {}))]);
    assert_snapshot!(world.banger(&["image", "delete", "dev", "old"]), @"
    status: 1
    ----- stdout -----
    ----- stderr -----
    error: the image dev is in use by VM box
    hint: delete these VMs first: banger vm delete box
    old: deleted
    ");
}

#[test]
fn images_from_their_making_to_their_end() {
    let world = Simulated::new();
    let shown = session(
        &world,
        &[
            &["image", "list"],
            &["-q", "image", "build", "dev", "--include", "make"],
            &["-q", "image", "build", "dev"],
            &["-q", "image", "build", "small", "--size", "100M"],
            &["-q", "image", "build", "--suite", "Trixie"],
            &["vm", "create", "box", "--image", "dev"],
            &["vm", "create", "other", "--image", "nothing"],
            &["image", "rm", "dev"],
            &["vm", "delete", "box"],
            &["image", "rm", "dev"],
            &["image", "show", "dev"],
            &[
                "-q",
                "image",
                "register",
                "mine",
                "--rootfs",
                "/no/such/file",
                "--kernel",
                "/k",
            ],
        ],
    );
    assert_snapshot!(shown, @r#"
    $ banger image list
    NAME  STATE  SUITE  KERNEL  SIZE  ON DISK  VMS  AGE
    $ banger -q image build dev --include make
    dev
    $ banger -q image build dev
      | error: there is an image named dev already
      | hint: choose another name, or delete it: banger image delete dev
    => Some(1)
    $ banger -q image build small --size 100M
      | error: a root disk of 100 MiB is too small: 1 GiB is the least
    => Some(1)
    $ banger -q image build --suite Trixie
      | error: "Trixie" is no Debian suite: a code name such as bookworm is expected
    => Some(1)
    $ banger vm create box --image dev
    box
      | banger: making its disks…
    $ banger vm create other --image nothing
      | error: there is no image nothing
      | hint: banger image list shows those there are; banger image build nothing makes one of Debian packages
    => Some(1)
    $ banger image rm dev
      | error: the image dev is in use by VM box
      | hint: delete these VMs first: banger vm delete box
    => Some(1)
    $ banger vm delete box
      | box: deleted
    $ banger image rm dev
      | dev: deleted
    $ banger image show dev
      | error: there is no image dev
      | hint: banger image list shows those there are; banger image build dev makes one of Debian packages
    => Some(1)
    $ banger -q image register mine --rootfs /no/such/file --kernel /k
      | error: there is no file /no/such/file
    => Some(1)
    "#);
}
