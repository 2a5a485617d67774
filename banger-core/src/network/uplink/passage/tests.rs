use super::*;

const ENGINE: &str = "b0e0e0e0e";

fn packet(direction: Direction) -> Packet<'static> {
    Packet {
        uplink: "b0e0e0e0eababab",
        out: Some("eth0"),
        guest: Ipv4Addr::new(198, 18, 7, 7),
        direction,
    }
}

/// Returns which way is blocked, and the remedy.
fn blocked_ways(rules: &str, legacy: Option<&str>) -> Vec<(Direction, String)> {
    [Direction::Out, Direction::Back]
        .into_iter()
        .filter_map(|direction| {
            let packet = packet(direction);
            let blockade = blocked(rules, legacy, &packet)?;
            Some((direction, blockade.remedy(packet.uplink)))
        })
        .collect()
}

/// A ruleset with one table, as nft tells it.
fn ruleset(
    family: &str,
    table: &str,
    chains: &[(&str, Option<&str>)],
    rules: &[(&str, &str)],
) -> String {
    let mut objects = vec![format!(
        r#"{{"table":{{"family":"{family}","name":"{table}"}}}}"#
    )];
    for (name, policy) in chains {
        let hook = policy.map_or(String::new(), |policy| {
            format!(r#","type":"filter","hook":"forward","prio":0,"policy":"{policy}""#)
        });
        objects.push(format!(
            r#"{{"chain":{{"family":"{family}","table":"{table}","name":"{name}"{hook}}}}}"#
        ));
    }
    for (chain, expressions) in rules {
        objects.push(format!(
            r#"{{"rule":{{"family":"{family}","table":"{table}","chain":"{chain}","expr":[{expressions}]}}}}"#
        ));
    }
    format!(r#"{{"nftables":[{}]}}"#, objects.join(","))
}

fn on(key: &str, name: &str) -> String {
    format!(r#"{{"match":{{"op":"==","left":{{"meta":{{"key":"{key}"}}}},"right":"{name}"}}}}"#)
}

#[test]
fn a_host_without_rules_and_one_that_only_looks_at_others_let_it_through() {
    for rules in ["", "{}", r#"{"nftables":[]}"#] {
        assert_eq!(blocked_ways(rules, None), []);
    }
    let refuses = format!(r#"{},{{"drop":null}}"#, on("iifname", "docker0"));
    let rules = ruleset("inet", "t", &[("f", Some("accept"))], &[("f", &refuses)]);
    assert_eq!(blocked_ways(&rules, None), []);
    let rules = ruleset("bridge", "t", &[("f", Some("drop"))], &[]);
    assert_eq!(blocked_ways(&rules, None), []);
}

#[test]
fn a_policy_of_drop_swallows_both_ways_and_the_remedy_is_a_command_for_its_tool() {
    let rules = ruleset("inet", "strict", &[("routed", Some("drop"))], &[]);
    let ways = blocked_ways(&rules, None);
    assert_eq!(ways.len(), 2);
    assert_eq!(
        ways[0].1,
        "let this engine's guests through it: nft 'insert rule inet strict routed iifname \"b0e0e0e0e*\" accept; \
         insert rule inet strict routed oifname \"b0e0e0e0e*\" accept'"
    );
    let docker = [("FORWARD", Some("drop")), ("DOCKER-USER", None)];
    let ways = blocked_ways(&ruleset("ip", "filter", &docker, &[]), None);
    assert_eq!(
        ways[1].1,
        "let this engine's guests through it: iptables -I DOCKER-USER -i 'b0e0e0e0e+' -j ACCEPT && \
         iptables -I DOCKER-USER -o 'b0e0e0e0e+' -j ACCEPT"
    );
    let ways = blocked_ways(&ruleset("ip", "filter", &docker[..1], &[]), None);
    assert!(ways[0].1.contains("iptables -I FORWARD -i"), "{ways:?}");
}

#[test]
fn what_docker_has_lets_nothing_through_until_its_users_chain_does() {
    let chains = [
        ("FORWARD", Some("drop")),
        ("DOCKER-USER", None),
        ("DOCKER-FORWARD", None),
    ];
    let not_docker = r#"{"match":{"op":"!=","left":{"meta":{"key":"oifname"}},"right":"docker0"}}"#;
    let back = format!(
        r#"{},{{"xt":{{"type":"match","name":"conntrack"}}}},{{"accept":null}}"#,
        on("oifname", "docker0")
    );
    let out = format!(
        r#"{},{not_docker},{{"counter":{{}}}},{{"accept":null}}"#,
        on("iifname", "docker0")
    );
    let mut rules = vec![
        (
            "FORWARD",
            r#"{"counter":{}},{"jump":{"target":"DOCKER-USER"}}"#,
        ),
        ("FORWARD", r#"{"jump":{"target":"DOCKER-FORWARD"}}"#),
        ("DOCKER-FORWARD", &back),
        ("DOCKER-FORWARD", &out),
    ];
    assert_eq!(
        blocked_ways(&ruleset("ip", "filter", &chains, &rules), None).len(),
        2
    );

    let ours = |key| format!(r#"{},{{"accept":null}}"#, on(key, &format!("{ENGINE}*")));
    let (inward, outward) = (ours("iifname"), ours("oifname"));
    rules.push(("DOCKER-USER", &inward));
    let ways = blocked_ways(&ruleset("ip", "filter", &chains, &rules), None);
    assert_eq!(ways.len(), 1, "the answers are still swallowed");
    assert_eq!(ways[0].0, Direction::Back);
    rules.push(("DOCKER-USER", &outward));
    assert_eq!(
        blocked_ways(&ruleset("ip", "filter", &chains, &rules), None),
        []
    );
}

#[test]
fn a_rule_for_everybody_at_the_end_is_as_good_as_a_policy() {
    for refusal in [
        r#"{"reject":null}"#,
        r#"{"drop":null}"#,
        r#"{"counter":{}},{"xt":{"type":"target","name":"REJECT"}}"#,
    ] {
        let rules = ruleset(
            "ip",
            "filter",
            &[("FORWARD", Some("accept"))],
            &[("FORWARD", refusal)],
        );
        assert_eq!(blocked_ways(&rules, None).len(), 2, "{refusal}");
    }
    // What asks something that cannot be told here is no rule for everybody.
    let some = r#"{"match":{"op":"==","left":{"payload":{"protocol":"tcp","field":"dport"}},"right":25}},{"drop":null}"#;
    let rules = ruleset("inet", "t", &[("f", Some("accept"))], &[("f", some)]);
    assert_eq!(blocked_ways(&rules, None), []);
    let limited = r#"{"limit":{"rate":1}},{"accept":null}"#;
    let rules = ruleset("inet", "t", &[("f", Some("drop"))], &[("f", limited)]);
    assert_eq!(blocked_ways(&rules, None).len(), 2);
}

#[test]
fn states_addresses_choices_and_chains_of_chains_are_understood() {
    let chains = [("f", Some("drop")), ("a", None), ("b", None)];
    let table = |rules: &[(&str, &str)]| blocked_ways(&ruleset("inet", "t", &chains, rules), None);
    let states = r#"{"vmap":{"key":{"ct":{"key":"state"}},"data":{"set":[["established",{"accept":null}],["invalid",{"drop":null}],["new",{"jump":{"target":"a"}}]]}}}"#;
    let from = |net: &str, len: u8| {
        format!(
            r#"{{"match":{{"op":"==","left":{{"payload":{{"protocol":"ip","field":"saddr"}}}},"right":{{"prefix":{{"addr":"{net}","len":{len}}}}}}}}},{{"accept":null}}"#
        )
    };
    let (ours, theirs) = (from("198.18.0.0", 16), from("198.51.100.0", 24));
    assert_eq!(table(&[("f", states), ("a", &ours)]), []);
    let ways = table(&[("f", states), ("a", &theirs)]);
    assert_eq!(ways.len(), 1);
    assert_eq!(ways[0].0, Direction::Out);

    // A chain that is gone to is not come back from; one that is jumped to is.
    let accept = r#"{"accept":null}"#;
    let (jump, goto) = (r#"{"jump":{"target":"a"}}"#, r#"{"goto":{"target":"a"}}"#);
    let back = ("a", r#"{"return":null}"#);
    assert_eq!(table(&[("f", jump), ("f", accept), back]), []);
    assert_eq!(table(&[("f", goto), ("f", accept), back]).len(), 2);
    let round = [
        ("f", jump),
        ("a", r#"{"jump":{"target":"b"}}"#),
        ("b", jump),
    ];
    assert_eq!(table(&round).len(), 2, "even if they go round");
}

#[test]
fn rules_of_the_older_kind_are_read_as_iptables_saves_them() {
    let saved = |policy: &str, rules: &str| {
        format!(
            "# Generated\n*filter\n:INPUT DROP [0:0]\n:FORWARD {policy} [0:0]\n:DOCKER-USER - [0:0]\n\
             -A FORWARD -j DOCKER-USER\n\
             -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A FORWARD -i docker0 ! -o docker0 -m comment --comment \"a -j b\" -j ACCEPT\n\
             {rules}COMMIT\n"
        )
    };
    assert_eq!(blocked_ways("", Some(&saved("ACCEPT", ""))), []);
    let ways = blocked_ways("", Some(&saved("DROP", "")));
    assert_eq!(ways.len(), 2);
    assert!(
        ways[0]
            .1
            .contains("iptables-legacy -I DOCKER-USER -i 'b0e0e0e0e+' -j ACCEPT"),
        "{ways:?}"
    );
    let ours = "-A DOCKER-USER -i b0e0e0e0e+ -j ACCEPT\n-A DOCKER-USER -o b0e0e0e0e+ -j ACCEPT\n";
    assert_eq!(blocked_ways("", Some(&saved("DROP", ours))), []);
    let by_state = "-A FORWARD -m state --state ESTABLISHED -j ACCEPT\n-A FORWARD -s 198.18.0.0/16 ! -i eth0 -j ACCEPT\n";
    assert_eq!(blocked_ways("", Some(&saved("DROP", by_state))), []);
    let all = "-A FORWARD -j REJECT --reject-with icmp-host-prohibited\n";
    assert_eq!(blocked_ways("", Some(&saved("ACCEPT", all))).len(), 2);
    let some = "-A FORWARD -p tcp -m tcp --dport 25 -j DROP\n";
    assert_eq!(blocked_ways("", Some(&saved("ACCEPT", some))), []);
}
