//! Whether somebody else's firewall (Docker's, ufw's, firewalld's) would swallow what a guest sends out, or
//! the answers: a packet must be let through by every table that looks at what is forwarded. Pure: it reads
//! the rules and sends nothing. What it does not understand of a rule it takes for a condition that is not
//! met, so it may find a blockade where there is none, and then the remedy names one rule more.

mod legacy;
mod native;

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv4Addr;

use crate::names::Subnet;

/// A packet on its way through the host.
#[derive(Clone, Copy, Debug)]
pub(super) struct Packet<'a> {
    /// The uplink's name, or how it begins.
    pub(super) uplink: &'a str,
    /// The interface on the other side, if that is known.
    pub(super) out: Option<&'a str>,
    pub(super) guest: Ipv4Addr,
    pub(super) direction: Direction,
}

/// Which way it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Direction {
    /// The guest's first packet to somebody.
    Out,
    /// The answer.
    Back,
}

/// A chain that lets a packet through nowhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Blockade {
    family: String,
    table: String,
    chain: String,
    tool: Tool,
    /// Where Docker wants the rules of others to be.
    users_chain: bool,
}

/// Who is to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tool {
    Nft,
    Iptables,
    IptablesLegacy,
}

impl Blockade {
    /// Returns the command that opens it for every guest of the engine whose uplink this is.
    pub(super) fn remedy(&self, uplink: &str) -> String {
        let begins = &uplink[..uplink.len().min(UPLINK_PREFIX)];
        let (family, table, chain) = (&self.family, &self.table, &self.chain);
        let command = match self.tool {
            Tool::Nft => format!(
                "nft 'insert rule {family} {table} {chain} iifname \"{begins}*\" accept; \
                 insert rule {family} {table} {chain} oifname \"{begins}*\" accept'"
            ),
            Tool::Iptables | Tool::IptablesLegacy => {
                let program = match self.tool {
                    Tool::IptablesLegacy => "iptables-legacy",
                    _ => "iptables",
                };
                let chain = if self.users_chain { USERS_CHAIN } else { chain };
                format!(
                    "{program} -I {chain} -i '{begins}+' -j ACCEPT && \
                     {program} -I {chain} -o '{begins}+' -j ACCEPT"
                )
            }
        };
        format!("let this engine's guests through it: {command}")
    }
}

impl fmt::Display for Blockade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, table, chain) = (&self.family, &self.table, &self.chain);
        write!(
            f,
            "another firewall on this host drops what it forwards for guests (chain {chain} of the table {family} {table})"
        )
    }
}

/// How much of an uplink's name is the engine's.
const UPLINK_PREFIX: usize = 9;

const USERS_CHAIN: &str = "DOCKER-USER";

/// Returns the first chain that would swallow the packet.
pub(super) fn blocked(rules: &str, legacy: Option<&str>, packet: &Packet<'_>) -> Option<Blockade> {
    let tables = native::tables(rules)
        .into_iter()
        .chain(legacy.map(legacy::table));
    for table in tables {
        for (name, chain) in &table.chains {
            let Some(policy) = chain.forwards else {
                continue;
            };
            let end = match table.walk(name, packet, DEEPEST) {
                End::Fell => policy,
                End::Verdict(verdict) => verdict,
            };
            if end == Verdict::Drop {
                return Some(Blockade {
                    family: table.family.clone(),
                    table: table.name.clone(),
                    chain: name.clone(),
                    tool: table.tool,
                    users_chain: table.chains.contains_key(USERS_CHAIN),
                });
            }
        }
    }
    None
}

/// A kernel follows no more jumps than this.
const DEEPEST: usize = 16;

#[derive(Debug)]
struct Table {
    family: String,
    name: String,
    tool: Tool,
    chains: BTreeMap<String, Chain>,
}

#[derive(Debug, Default)]
struct Chain {
    /// What becomes of a forwarded packet at its end; none if it is only jumped to.
    forwards: Option<Verdict>,
    rules: Vec<Rule>,
}

#[derive(Debug, Default)]
struct Rule {
    conditions: Vec<Condition>,
    act: Option<Act>,
}

/// What a rule asks of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Condition {
    /// It came in by one of these; a name may end in `*`.
    In(Vec<String>),
    /// It goes out by one of these.
    Out(Vec<String>),
    /// It comes from one of these networks.
    From(Vec<Subnet>),
    /// Its connection is in one of these states.
    State(Vec<String>),
    /// It is of IPv4.
    Ipv4,
    Not(Box<Condition>),
    /// Something else.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Act {
    Verdict(Verdict),
    Jump(String),
    Goto(String),
    Return,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Accept,
    Drop,
}

/// How a chain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Verdict(Verdict),
    /// Without a verdict.
    Fell,
}

impl Table {
    fn walk(&self, chain: &str, packet: &Packet<'_>, depth: usize) -> End {
        let (Some(chain), Some(deeper)) = (self.chains.get(chain), depth.checked_sub(1)) else {
            return End::Fell;
        };
        for rule in &chain.rules {
            let met = |condition: &Condition| condition.is_met(packet) == Some(true);
            if !rule.conditions.iter().all(met) {
                continue;
            }
            match &rule.act {
                None => {}
                Some(Act::Verdict(verdict)) => return End::Verdict(*verdict),
                Some(Act::Return) => return End::Fell,
                Some(Act::Goto(target)) => return self.walk(target, packet, deeper),
                Some(Act::Jump(target)) => match self.walk(target, packet, deeper) {
                    End::Fell => {}
                    end => return end,
                },
            }
        }
        End::Fell
    }
}

impl Condition {
    /// None if it cannot be told.
    fn is_met(&self, packet: &Packet<'_>) -> Option<bool> {
        let (inward, outward) = match packet.direction {
            Direction::Out => (Some(packet.uplink), packet.out),
            Direction::Back => (packet.out, Some(packet.uplink)),
        };
        let named = |names: &[String], interface: Option<&str>| {
            let interface = interface?;
            Some(names.iter().any(|name| match name.strip_suffix('*') {
                Some(begins) => interface.starts_with(begins),
                None => interface == name,
            }))
        };
        match self {
            Condition::In(names) => named(names, inward),
            Condition::Out(names) => named(names, outward),
            Condition::From(networks) => match packet.direction {
                Direction::Out => Some(networks.iter().any(|net| net.contains(packet.guest))),
                // From whomever the guest asked.
                Direction::Back => networks.iter().any(|net| net.prefix() == 0).then_some(true),
            },
            Condition::State(states) => {
                let state = match packet.direction {
                    Direction::Out => "new",
                    Direction::Back => "established",
                };
                Some(states.iter().any(|known| known.eq_ignore_ascii_case(state)))
            }
            Condition::Ipv4 => Some(true),
            Condition::Not(condition) => condition.is_met(packet).map(|met| !met),
            Condition::Unknown => None,
        }
    }
}

#[cfg(test)]
mod tests;
