//! Reads `iptables-legacy-save -t filter`: rules of the older kind, which nft does not show.

use std::collections::BTreeMap;

use super::{Act, Chain, Condition, Rule, Table, Tool, Verdict};
use crate::names::Subnet;

/// Returns the table. What is not understood is a condition that cannot be told.
pub(super) fn table(saved: &str) -> Table {
    let mut chains = BTreeMap::<String, Chain>::new();
    for line in saved.lines() {
        if let Some(declared) = line.strip_prefix(':') {
            let mut words = declared.split_whitespace();
            let (name, policy) = (words.next().unwrap_or_default(), words.next());
            let chain = chains.entry(name.to_owned()).or_default();
            chain.forwards = (name == "FORWARD").then_some(match policy {
                Some("DROP") => Verdict::Drop,
                _ => Verdict::Accept,
            });
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let words = words(rule);
            if let Some((chain, rest)) = words.split_first() {
                let rules = &mut chains.entry(chain.clone()).or_default().rules;
                rules.push(read(rest));
            }
        }
    }
    Table {
        family: "ip".to_owned(),
        name: "filter".to_owned(),
        tool: Tool::IptablesLegacy,
        chains,
    }
}

fn read(words: &[String]) -> Rule {
    let mut rule = Rule::default();
    let mut negated = false;
    let mut words = words.iter().map(String::as_str);
    while let Some(word) = words.next() {
        let mut value = || words.next().unwrap_or_default().to_owned();
        let condition = match word {
            "!" => {
                negated = true;
                continue;
            }
            "-i" => Condition::In(vec![interface(&value())]),
            "-o" => Condition::Out(vec![interface(&value())]),
            "-s" => network(&value()).map_or(Condition::Unknown, |net| Condition::From(vec![net])),
            "--ctstate" | "--state" => {
                Condition::State(value().split(',').map(str::to_owned).collect())
            }
            // What they ask comes behind them.
            "-m" if matches!(value().as_str(), "conntrack" | "state" | "comment") => continue,
            "--comment" => {
                value();
                continue;
            }
            "-j" | "-g" => {
                let target = value();
                rule.act = match (target.as_str(), word) {
                    ("ACCEPT", _) => Some(Act::Verdict(Verdict::Accept)),
                    ("DROP" | "REJECT", _) => Some(Act::Verdict(Verdict::Drop)),
                    ("RETURN", _) => Some(Act::Return),
                    (_, "-g") => Some(Act::Goto(target)),
                    // A target that is no chain (LOG, MARK) is walked into and fallen out of.
                    _ => Some(Act::Jump(target)),
                };
                // What is behind it says how, not whether.
                break;
            }
            _ => Condition::Unknown,
        };
        rule.conditions.push(match std::mem::take(&mut negated) {
            true => Condition::Not(Box::new(condition)),
            false => condition,
        });
    }
    rule
}

fn interface(name: &str) -> String {
    match name.strip_suffix('+') {
        Some(begins) => format!("{begins}*"),
        None => name.to_owned(),
    }
}

fn network(text: &str) -> Option<Subnet> {
    let (address, prefix) = text.split_once('/').unwrap_or((text, "32"));
    Some(Subnet::around(address.parse().ok()?, prefix.parse().ok()?))
}

/// Splits at spaces, but not those between quotes: comments have them.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for letter in line.chars() {
        match letter {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            letter => {
                if let Some(word) = words.last_mut() {
                    word.push(letter);
                }
            }
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
