//! What a guest on the network `tap` with `--nat` reaches and what it does not, and who reaches it, on the
//! real kernel: each test in a network of its own, with an internet and a guest in it. Needs root, and says so.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::net::Ipv4Addr;

use banger_core::{
    BootId, EngineId, FakeHost, Host, Internet, LinuxHost, LinuxHostConfig, Marks, NatConfig,
    Network, NetworkError, Probe, RuleTable, RunId, TapNetwork, TapSpec, UplinkSpec, Uplinks,
    Usable, VMHandles, VmId,
};

#[path = "as_root_nat/street.rs"]
mod street;

use street::{
    GUEST, HOME, HOST, HOST_AT_HOME, INTERNET, METADATA, PRINTER, ROUTER, SHOP, ask, ask_by_udp,
    guest, in_a_network_of_its_own, serve, sh, state, within,
};

/// The engine that the VMs are of.
fn engine() -> EngineId {
    EngineId::from_random([0xe; 4])
}

/// What a start and a release of a VM do about its network.
struct Vm {
    host: LinuxHost,
    network: TapNetwork,
    handles: VMHandles,
}

impl Vm {
    fn of(engine: &EngineId, number: u8, nat: NatConfig) -> Self {
        let (run, boot) = (RunId::from_random([1; 8]), BootId("boot".to_owned()));
        let mut vm = Vm {
            host: LinuxHost::new(LinuxHostConfig::default()),
            network: TapNetwork::new(nat),
            handles: VMHandles::planned(run, boot, "/run/api".into()),
        };
        let marks = Marks::of(engine, &VmId::from_random([number; 16]));
        vm.network.plan(&marks, Internet::Open, &mut vm.handles);
        vm
    }

    fn new(number: u8) -> Self {
        Vm::of(&engine(), number, NatConfig::default())
    }

    async fn start(&self) -> Result<(), NetworkError> {
        let (host, open) = (&self.host, Internet::Open);
        self.network
            .acquire(host, open, &self.handles)
            .await
            .map(drop)
    }

    async fn release(&self) {
        let host: &dyn Host = &self.host;
        self.network.release(host, &self.handles).await.unwrap();
    }

    fn namespace(&self) -> &str {
        self.handles.namespace.as_ref().unwrap()
    }

    fn address(&self) -> Ipv4Addr {
        let space = self.namespace();
        let shown = sh(&format!("ip -n {space} -br addr show uplink"));
        let address = shown.split_whitespace().nth(2).unwrap();
        address.trim_end_matches("/32").parse().unwrap()
    }

    async fn lets_out(&self) -> Probe {
        self.network.lets_out(&self.host, &engine()).await
    }
}

/// What the engine relies on of a host's ways out, whichever host it is.
async fn ways_out_and_tables_are_made_once_and_removed_by_their_owner(host: &dyn Host) {
    let marks = |number| Marks::of(&engine(), &VmId::from_random([number; 16]));
    let (one, two) = (marks(1), marks(2));
    let spec = |marks: &Marks, last| UplinkSpec {
        name: marks.uplink(),
        owner: marks.namespace(),
        address: [198, 18, 9, last].into(),
        tap: "tap0".to_owned(),
        also: [10, 0, 2, 3].into(),
        rules: RuleTable {
            name: "inside".to_owned(),
            rules: String::new(),
        },
    };
    let tap = TapSpec {
        name: "tap0".to_owned(),
        address: [10, 0, 2, 2].into(),
        prefix: 24,
        peer: GUEST,
        peer_mac: [2; 6],
    };
    for marks in [&one, &two] {
        host.make_namespace(&marks.namespace()).await.unwrap();
        host.make_tap(&marks.namespace(), &tap).await.unwrap();
    }
    let nowhere = host.make_uplink("bgr-nowhere", &spec(&one, 1)).await;
    nowhere.unwrap_err();
    host.make_uplink(&one.namespace(), &spec(&one, 1))
        .await
        .unwrap();
    let again = host.make_uplink(&one.namespace(), &spec(&one, 3)).await;
    assert!(again.unwrap_err().is_taken());
    // An address that is given, and then another: what was left of the attempt is removed by its name.
    let taken = host.make_uplink(&two.namespace(), &spec(&two, 1)).await;
    assert!(taken.unwrap_err().is_taken());
    host.remove_uplink(&two.uplink(), &two.namespace())
        .await
        .unwrap();
    host.make_uplink(&two.namespace(), &spec(&two, 2))
        .await
        .unwrap();
    let seen = host.neighbourhood().await.unwrap();
    for last in [1, 2] {
        let given = format!("198.18.9.{last}/32").parse().unwrap();
        assert!(
            seen.routes.iter().any(|route| route.to == given),
            "{seen:?}"
        );
    }
    let listed = host.list_uplinks("b0e0e0e0e").await.unwrap();
    let owners: Vec<&str> = listed.iter().map(|it| it.owner.as_str()).collect();
    assert_eq!(owners, [one.namespace(), two.namespace()]);
    assert_eq!(host.list_uplinks("b0e0e0e0f").await.unwrap(), []);

    host.remove_uplink(&one.uplink(), "somebody").await.unwrap();
    assert_eq!(host.list_uplinks(&one.uplink()).await.unwrap().len(), 1);
    for _ in 0..2 {
        host.remove_uplink(&one.uplink(), &one.namespace())
            .await
            .unwrap();
    }
    // With a namespace goes what leads out of it, when the kernel finds the time.
    host.remove_namespace(&two.namespace()).await.unwrap();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while !host.list_uplinks("b0e0e0e0e").await.unwrap().is_empty() {
        assert!(std::time::Instant::now() < deadline, "it stays");
        tokio::task::yield_now().await;
    }
    host.remove_namespace(&one.namespace()).await.unwrap();

    let table = RuleTable {
        name: one.table(),
        rules: String::new(),
    };
    host.make_table(&table).await.unwrap();
    assert!(host.make_table(&table).await.unwrap_err().is_taken());
    assert_eq!(
        host.list_tables("bgr-0e0e0e0e-").await.unwrap(),
        [one.table()]
    );
    assert_eq!(host.list_tables("bgr-0e0e0e0f-").await.unwrap(), [""; 0]);
    host.remove_table(&two.table()).await.unwrap();
    for _ in 0..2 {
        host.remove_table(&one.table()).await.unwrap();
    }
    assert_eq!(host.list_tables("bgr-").await.unwrap(), [""; 0]);
}

#[tokio::test]
async fn the_fake_host_keeps_what_is_relied_on_of_ways_out() {
    let host = FakeHost::new();
    ways_out_and_tables_are_made_once_and_removed_by_their_owner(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_the_kernel_keeps_what_is_relied_on_of_ways_out() {
    if !in_a_network_of_its_own("as_root_the_kernel_keeps_what_is_relied_on_of_ways_out") {
        return;
    }
    let host = LinuxHost::new(LinuxHostConfig::default());
    ways_out_and_tables_are_made_once_and_removed_by_their_owner(&host).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_a_guest_reaches_the_internet_and_nothing_of_its_host() {
    if !in_a_network_of_its_own("as_root_a_guest_reaches_the_internet_and_nothing_of_its_host") {
        return;
    }
    let before = state();
    let vm = Vm::new(1);
    vm.start().await.unwrap();
    let guest = guest(vm.namespace());
    let from = Some(guest.as_str());

    serve(Some(INTERNET), SHOP, 80);
    assert_eq!(ask(from, SHOP, 80), Some(HOST.to_string()), "as the host");
    assert_eq!(ask_by_udp(from, SHOP, 80), Some(HOST.to_string()));

    // Of the host: nothing, at none of its addresses, whoever listens there.
    serve(None, Ipv4Addr::UNSPECIFIED, 8080);
    assert!(
        ask(None, HOST, 8080).is_some(),
        "the host itself reaches it"
    );
    let gateway = Ipv4Addr::new(169, 254, 1, 1);
    let inside = Ipv4Addr::new(10, 0, 2, 2);
    for own in [HOST, HOST_AT_HOME, gateway, inside, vm.address()] {
        assert_eq!(ask(from, own, 8080), None, "{own}");
        assert_eq!(ask_by_udp(from, own, 8080), None, "{own}");
    }
    // Of its networks, and of what a cloud tells its machines: nothing, though the host reaches all of it.
    serve(Some(HOME), PRINTER, 80);
    serve(Some(INTERNET), ROUTER, 80);
    serve(Some(INTERNET), METADATA, 80);
    for near in [PRINTER, ROUTER, METADATA] {
        assert!(ask(None, near, 80).is_some(), "the host reaches {near}");
        assert_eq!(ask(from, near, 80), None, "{near}");
        assert_eq!(ask_by_udp(from, near, 80), None, "{near}");
    }

    // Its resolver is where it is on every network, and is the host's; of whoever that is, only that.
    serve(Some(HOME), PRINTER, 53);
    let resolver = Ipv4Addr::new(10, 0, 2, 3);
    for asked in [resolver, PRINTER] {
        assert_eq!(ask_by_udp(from, asked, 53), Some(HOST_AT_HOME.to_string()));
        assert_eq!(ask(from, asked, 53), Some(HOST_AT_HOME.to_string()));
        assert_eq!(ask(from, asked, 80), None, "{asked}");
    }

    vm.release().await;
    sh(&format!("ip netns del {guest}"));
    assert_eq!(state(), before);
    vm.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_a_guest_that_opens_connections_without_end_leaves_the_host_and_others_theirs() {
    const NAME: &str =
        "as_root_a_guest_that_opens_connections_without_end_leaves_the_host_and_others_theirs";
    if !in_a_network_of_its_own(NAME) {
        return;
    }
    let (one, other) = (Vm::new(1), Vm::new(2));
    one.start().await.unwrap();
    other.start().await.unwrap();
    if !sh("nft list ruleset").contains("ct count over 8192") {
        println!("SKIP: {NAME}: this kernel has no nft_connlimit");
        return;
    }
    let (loud, quiet) = (guest(one.namespace()), guest(other.namespace()));
    serve(Some(INTERNET), SHOP, 80);
    assert_eq!(ask(Some(&loud), SHOP, 80), Some(HOST.to_string()));
    let tracked = || {
        let count = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_count");
        count.unwrap().trim().parse::<u32>().unwrap()
    };
    // A packet to each port is a connection each to whoever keeps track of them.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while ask(Some(&loud), SHOP, 80).is_some() {
        let late = std::time::Instant::now() > deadline;
        assert!(!late, "{} came through", tracked());
        within(Some(&loud), || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
            for port in 1000..3000 {
                let _ = socket.send_to(b"?", (SHOP, port));
            }
        });
    }
    assert!(tracked() < 8192 + 100, "{} are kept track of", tracked());
    assert_eq!(
        ask(Some(&quiet), SHOP, 80),
        Some(HOST.to_string()),
        "another guest"
    );
    assert!(ask(None, SHOP, 80).is_some(), "the host itself");
    one.release().await;
    other.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_nobody_outside_reaches_a_guest() {
    if !in_a_network_of_its_own("as_root_nobody_outside_reaches_a_guest") {
        return;
    }
    let (one, other) = (Vm::new(1), Vm::new(2));
    one.start().await.unwrap();
    other.start().await.unwrap();
    assert_ne!(one.address(), other.address());
    let (first, second) = (guest(one.namespace()), guest(other.namespace()));
    serve(Some(&first), GUEST, 22);
    serve(Some(INTERNET), SHOP, 80);
    assert!(
        ask(Some(one.namespace()), GUEST, 22).is_some(),
        "from inside"
    );
    // Both have routes to it by this host.
    for outside in [Some(INTERNET), Some(HOME), None] {
        for address in [GUEST, one.address()] {
            assert_eq!(ask(outside, address, 22), None, "{outside:?} {address}");
            assert_eq!(ask_by_udp(outside, address, 22), None, "{outside:?}");
        }
    }
    assert_eq!(ask(Some(&second), one.address(), 22), None, "another guest");

    // What one lets go of is its own.
    one.release().await;
    assert_eq!(ask(Some(&second), SHOP, 80), Some(HOST.to_string()));
    other.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_a_firewall_that_would_swallow_it_is_named_and_its_remedy_works() {
    if !in_a_network_of_its_own(
        "as_root_a_firewall_that_would_swallow_it_is_named_and_its_remedy_works",
    ) {
        return;
    }
    let vm = Vm::new(1);
    assert_eq!(vm.lets_out().await.usable, Usable::Yes);
    serve(Some(INTERNET), SHOP, 80);
    vm.start().await.unwrap();
    let guest = guest(vm.namespace());
    assert!(ask(Some(&guest), SHOP, 80).is_some());
    // It comes while the guest runs: what is said of it is what happens.
    sh(
        "nft 'table inet strict { chain routed { type filter hook forward priority 10; policy drop; \
        tcp dport 9 accept; }; }'",
    );
    assert_eq!(ask(Some(&guest), SHOP, 80), None);
    let probe = vm.lets_out().await;
    assert_eq!(probe.usable, Usable::No);
    assert!(probe.reason.contains("strict"), "{}", probe.reason);
    let refused = Vm::new(2);
    let error = refused.start().await.unwrap_err();
    assert!(error.to_string().contains("routed"), "{error}");
    refused.release().await;

    let (_, command) = probe.hint.as_deref().unwrap().split_once(": ").unwrap();
    sh(command);
    assert!(ask(Some(&guest), SHOP, 80).is_some(), "{command}");
    assert_eq!(vm.lets_out().await.usable, Usable::Yes);
    vm.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_a_host_that_does_not_forward_is_told_what_to_switch_on() {
    if !in_a_network_of_its_own("as_root_a_host_that_does_not_forward_is_told_what_to_switch_on") {
        return;
    }
    let switch = "/proc/sys/net/ipv4/conf/wan/forwarding";
    sh(&format!("echo 0 >{switch}"));
    let vm = Vm::new(1);
    let error = vm.start().await.unwrap_err();
    let NetworkError::NoWayOut { reason, hint } = error else {
        panic!("{error:?}");
    };
    assert!(reason.contains("wan"), "{reason}");
    let hint = hint.unwrap();
    assert!(
        hint.contains("sysctl -w net/ipv4/conf/wan/forwarding=1"),
        "{hint}"
    );
    vm.release().await;

    sh(&format!("echo 1 >{switch}"));
    vm.start().await.unwrap();
    let others = sh("cat /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf/default/forwarding");
    assert_eq!(others, "0\n0\n", "no more of the host is switched on");
    vm.release().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_an_address_is_given_once_whoever_asks() {
    if !in_a_network_of_its_own("as_root_an_address_is_given_once_whoever_asks") {
        return;
    }
    // Four addresses, of which the first and the last are nobody's and one is routed elsewhere.
    sh("ip route add 198.18.0.2/32 via 203.0.113.1");
    let narrow = NatConfig {
        pool: "198.18.0.0/29".parse().unwrap(),
        ..NatConfig::default()
    };
    let engines = [engine(), EngineId::from_random([0xf; 4])];
    let mut starts = tokio::task::JoinSet::new();
    for number in 1..=3 {
        for engine in engines.clone() {
            starts.spawn(async move {
                let vm = Vm::of(&engine, number, narrow);
                let started = vm.start().await;
                (vm, started)
            });
        }
    }
    let (mut given, mut refused) = (Vec::new(), 0);
    let mut vms = Vec::new();
    while let Some(done) = starts.join_next().await {
        let (vm, started) = done.unwrap();
        match started {
            Ok(()) => given.push(vm.address()),
            Err(NetworkError::NoWayOut { reason, .. }) => {
                assert!(reason.contains("198.18.0.0/29"), "{reason}");
                refused += 1;
            }
            Err(error) => panic!("{error:?}"),
        }
        vms.push(vm);
    }
    given.sort();
    let expected: Vec<Ipv4Addr> = [1, 3, 4, 5, 6].map(|n| Ipv4Addr::new(198, 18, 0, n)).into();
    assert_eq!((given, refused), (expected, 1));
    for vm in vms {
        vm.release().await;
    }
    assert_eq!(sh("nft list tables"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_what_bears_our_name_and_is_another_s_is_left_alone() {
    if !in_a_network_of_its_own("as_root_what_bears_our_name_and_is_another_s_is_left_alone") {
        return;
    }
    let vm = Vm::new(1);
    let uplink = vm.handles.uplink.clone().unwrap();
    sh(&format!("ip link add {uplink} type veth peer name other"));
    vm.start().await.unwrap_err();
    vm.release().await;
    assert!(sh("ip -br link").contains(&uplink));
    let host = LinuxHost::new(LinuxHostConfig::default());
    let found = host.list_uplinks(&uplink[..9]).await.unwrap();
    assert_eq!((found.len(), found[0].owner.as_str()), (1, ""));
    assert_eq!(host.list_tables("bgr-").await.unwrap(), [""; 0]);
    sh(&format!("ip link del {uplink}"));
}
