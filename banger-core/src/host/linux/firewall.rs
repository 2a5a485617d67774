//! Tables of firewall rules on the real host, by nft(8): its parser checks the rules, it loads a whole table
//! or nothing, and it can tell what others have loaded.

use std::io;

use super::LinuxHost;
use super::spaces::failed;
use crate::host::uplinks::{RuleTable, RulesUnknown};
use crate::host::{Host, HostError, Program, files};
use crate::network::TOO_MANY_CONNECTIONS;

const NFT: &str = "nft";
const FAMILY: &str = "inet";

/// Where the kernel names the tables of the older kind. Looking does not make one, as asking for one does.
const LEGACY_TABLES: &str = "/proc/net/ip_tables_names";

impl LinuxHost {
    pub(super) async fn make_table_in(
        &self,
        namespace: Option<&str>,
        table: &RuleTable,
    ) -> Result<(), HostError> {
        let RuleTable { name, rules } = table;
        let script = format!("create table {FAMILY} {name}\ntable {FAMILY} {name} {{\n{rules}}}\n");
        let load = async |script: &str| {
            let program = Program::new(NFT).args(["-f", "-"]).input(script);
            self.nft("load the firewall's rules", name, namespace, &program)
                .await
        };
        let loaded = load(&script).await;
        if loaded.is_err() && script.contains(TOO_MANY_CONNECTIONS) {
            // All of a table is loaded or nothing: without what this kernel may not have.
            let lines = script
                .lines()
                .filter(|line| !line.contains(TOO_MANY_CONNECTIONS));
            let less: String = lines.flat_map(|line| [line, "\n"]).collect();
            if load(&less).await.is_ok() {
                tracing::warn!(
                    table = name,
                    "the kernel counts no connections: a guest may hold any number"
                );
                return Ok(());
            }
        }
        loaded.map(drop)
    }

    pub(super) async fn remove_table_here(&self, name: &str) -> Result<(), HostError> {
        if !self.tables(name).await?.iter().any(|table| table == name) {
            return Ok(());
        }
        // Made first: one that somebody else has removed since is no error.
        let script = format!("add table {FAMILY} {name}\ndelete table {FAMILY} {name}\n");
        let program = Program::new(NFT).args(["-f", "-"]).input(script);
        self.nft("remove the firewall's rules", name, None, &program)
            .await
            .map(drop)
    }

    pub(super) async fn tables(&self, prefix: &str) -> Result<Vec<String>, HostError> {
        // Without the program, and without root, none of ours can have been made.
        if self.user_id() != 0 || self.surroundings.find(NFT).is_none() {
            return Ok(Vec::new());
        }
        let program = Program::new(NFT).args(["list", "tables", FAMILY]);
        let listed = self
            .nft("list", "the firewall's tables", None, &program)
            .await?;
        let text = String::from_utf8_lossy(&listed);
        // "table inet NAME"
        let names = text.lines().filter_map(|line| line.split(' ').nth(2));
        let mut names: Vec<String> = names
            .filter(|name| name.starts_with(prefix))
            .map(str::to_owned)
            .collect();
        names.sort();
        Ok(names)
    }

    /// Returns all rules there are, but not what is in sets: of a list of blocked addresses there may be a
    /// hundred thousand.
    pub(super) async fn all_rules(&self) -> Result<String, RulesUnknown> {
        if self.surroundings.find(NFT).is_none() {
            return Err(RulesUnknown::NotInstalled);
        }
        let program = Program::new(NFT).args(["--json", "--terse", "list", "ruleset"]);
        match self.surroundings.run(&program).await {
            Ok(output) if output.success() => {
                Ok(String::from_utf8_lossy(&output.stdout).into_owned())
            }
            Ok(output) => Err(RulesUnknown::Failed {
                said: output.last_lines(1),
            }),
            Err(error) => Err(RulesUnknown::Failed {
                said: error.to_string(),
            }),
        }
    }

    /// Returns the filter rules of the older kind, if somebody has loaded any and the program is there.
    pub(super) async fn legacy_rules(&self) -> Option<String> {
        let tables = files::read(LEGACY_TABLES.as_ref()).ok().flatten()?;
        let tables = String::from_utf8_lossy(&tables).into_owned();
        if !tables.lines().any(|table| table == "filter") {
            return None;
        }
        let program = Program::new("iptables-legacy-save").args(["-t", "filter"]);
        let output = self.surroundings.run(&program).await.ok()?;
        output
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    async fn nft(
        &self,
        act: &'static str,
        name: &str,
        namespace: Option<&str>,
        program: &Program,
    ) -> Result<Vec<u8>, HostError> {
        let output = self.surroundings.run_in(namespace, program).await?;
        if output.success() {
            return Ok(output.stdout);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let source = match said.contains("File exists") {
            true => io::ErrorKind::AlreadyExists.into(),
            false => io::Error::other(said.trim().to_owned()),
        };
        Err(failed(act, name)(source))
    }
}
