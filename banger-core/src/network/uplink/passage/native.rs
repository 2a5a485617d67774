//! Reads `nft --json list ruleset`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Act, Chain, Condition, Rule, Table, Tool, Verdict};
use crate::names::Subnet;

/// Returns the tables that can look at a forwarded packet of IPv4. What is not understood is left out.
pub(super) fn tables(rules: &str) -> Vec<Table> {
    let parsed: Value = serde_json::from_str(rules).unwrap_or_default();
    let mut tables = BTreeMap::<(String, String), Table>::new();
    for object in parsed["nftables"].as_array().into_iter().flatten() {
        if let Some(chain) = object.get("chain") {
            let forwards = (chain["hook"] == "forward").then(|| match chain["policy"].as_str() {
                Some("drop") => Verdict::Drop,
                _ => Verdict::Accept,
            });
            if let Some(table) = table_of(&mut tables, chain) {
                let name = word(&chain["name"]);
                table.chains.entry(name).or_default().forwards = forwards;
            }
        } else if let Some(rule) = object.get("rule")
            && let Some(table) = table_of(&mut tables, rule)
        {
            let name = word(&rule["chain"]);
            let chain = table.chains.entry(name).or_default();
            add_rule(chain, &rule["expr"]);
        }
    }
    tables.into_values().collect()
}

fn table_of<'a>(
    tables: &'a mut BTreeMap<(String, String), Table>,
    of: &Value,
) -> Option<&'a mut Table> {
    let (family, name) = (word(&of["family"]), word(&of["table"]));
    if family != "ip" && family != "inet" {
        return None;
    }
    // These are iptables' own; it shows and changes them under its own words.
    let tool = match (family.as_str(), name.as_str()) {
        ("ip", "filter") => Tool::Iptables,
        _ => Tool::Nft,
    };
    let table = Table {
        family: family.clone(),
        name: name.clone(),
        tool,
        chains: BTreeMap::new(),
    };
    Some(tables.entry((family, name)).or_insert(table))
}

fn add_rule(chain: &mut Chain, statements: &Value) {
    let mut rule = Rule::default();
    for statement in statements.as_array().into_iter().flatten() {
        let Some((kind, body)) = statement.as_object().and_then(|it| it.iter().next()) else {
            continue;
        };
        match kind.as_str() {
            "match" => rule.conditions.push(condition(body)),
            "accept" => rule.act = Some(Act::Verdict(Verdict::Accept)),
            "drop" | "reject" => rule.act = Some(Act::Verdict(Verdict::Drop)),
            "return" => rule.act = Some(Act::Return),
            "jump" => rule.act = Some(Act::Jump(word(&body["target"]))),
            "goto" => rule.act = Some(Act::Goto(word(&body["target"]))),
            // A choice among several is as many rules.
            "vmap" => add_choices(chain, &rule.conditions, body),
            "counter" | "log" | "comment" => {}
            // What iptables has and nft has not is told by its name alone.
            "xt" if body["name"] == "comment" => {}
            "xt" if body["type"] == "target" && body["name"] == "REJECT" => {
                rule.act = Some(Act::Verdict(Verdict::Drop));
            }
            // A limit, a match of iptables' that nft cannot show, a change to the packet.
            _ => rule.conditions.push(Condition::Unknown),
        }
    }
    chain.rules.push(rule);
}

fn add_choices(chain: &mut Chain, before: &[Condition], body: &Value) {
    for choice in body["data"]["set"].as_array().into_iter().flatten() {
        let key = &choice[0];
        let Some((act, target)) = choice[1].as_object().and_then(|it| it.iter().next()) else {
            continue;
        };
        let act = match act.as_str() {
            "accept" => Act::Verdict(Verdict::Accept),
            "drop" => Act::Verdict(Verdict::Drop),
            "jump" => Act::Jump(word(&target["target"])),
            "goto" => Act::Goto(word(&target["target"])),
            "return" => Act::Return,
            _ => continue,
        };
        let mut conditions = before.to_vec();
        conditions.push(asked(&body["key"], key));
        chain.rules.push(Rule {
            conditions,
            act: Some(act),
        });
    }
}

fn condition(body: &Value) -> Condition {
    let asked = asked(&body["left"], &body["right"]);
    match body["op"].as_str() {
        Some("==" | "in") => asked,
        Some("!=") => Condition::Not(Box::new(asked)),
        _ => Condition::Unknown,
    }
}

fn asked(left: &Value, right: &Value) -> Condition {
    let meta = left["meta"]["key"].as_str();
    let payload = &left["payload"];
    match meta {
        Some("iifname") => return words(right).map_or(Condition::Unknown, Condition::In),
        Some("oifname") => return words(right).map_or(Condition::Unknown, Condition::Out),
        Some("nfproto") if right == "ipv4" => return Condition::Ipv4,
        Some("nfproto") if right == "ipv6" => return Condition::Not(Box::new(Condition::Ipv4)),
        _ => {}
    }
    if left["ct"]["key"] == "state" {
        return words(right).map_or(Condition::Unknown, Condition::State);
    }
    if payload["protocol"] == "ip" && payload["field"] == "saddr" {
        return networks(right).map_or(Condition::Unknown, Condition::From);
    }
    Condition::Unknown
}

/// One value, or those of a list or set.
fn each(value: &Value) -> Vec<&Value> {
    match (value.as_array(), value["set"].as_array()) {
        (Some(list), _) | (None, Some(list)) => list.iter().collect(),
        (None, None) => vec![value],
    }
}

fn words(value: &Value) -> Option<Vec<String>> {
    let each = each(value).into_iter();
    each.map(|value| value.as_str().map(str::to_owned))
        .collect()
}

fn networks(value: &Value) -> Option<Vec<Subnet>> {
    let network = |value: &Value| match value.as_str() {
        Some(address) => Some(Subnet::around(address.parse().ok()?, 32)),
        None => {
            let prefix = value["prefix"]["len"].as_u64()?;
            let address = value["prefix"]["addr"].as_str()?.parse().ok()?;
            Some(Subnet::around(address, u8::try_from(prefix).ok()?))
        }
    };
    each(value).into_iter().map(network).collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
