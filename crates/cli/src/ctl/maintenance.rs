//! Alarms, and defragmentation, which is not needed here.

use clap::{Args, Subcommand};
use quorate::client::{Alarm as Kind, AlarmMember, Client};
use serde_json::json;

use super::endpoint::{All, each};
use super::printer::{Output, Printer};
use super::table::Table;

#[derive(Debug, Subcommand)]
pub enum Alarm {
    /// The alarms that are on.
    List,
    /// Turn all alarms off. What raised them raises them again, if it has not been mended.
    Disarm,
}

/// etcd's numbers of alarms.
const NO_SPACE: i32 = 1;
const CORRUPT: i32 = 2;

pub fn alarm_name(alarm: &AlarmMember) -> &'static str {
    match alarm.alarm {
        NO_SPACE => "NOSPACE",
        CORRUPT => "CORRUPT",
        _ => "UNKNOWN",
    }
}

impl Alarm {
    pub fn has_table(&self) -> bool {
        matches!(self, Self::List)
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let mut alarms = client.alarm_list().await?;
        if matches!(self, Self::Disarm) {
            let mut disarmed = Vec::new();
            for alarm in alarms {
                let kind = match alarm.alarm {
                    NO_SPACE => Kind::NoSpace,
                    CORRUPT => Kind::Corrupt,
                    other => anyhow::bail!("alarm {other} of member {:x} is not known here", alarm.member_id),
                };
                disarmed.extend(client.alarm_disarm(alarm.member_id, kind).await?);
            }
            alarms = disarmed;
        }
        print(&alarms, out)
    }
}

fn print(alarms: &[AlarmMember], out: &mut Printer) -> anyhow::Result<()> {
    match out.output() {
        Output::Json => {
            let all: Vec<_> = alarms
                .iter()
                .map(|alarm| json!({ "memberID": alarm.member_id, "alarm": alarm.alarm }))
                .collect();
            out.json(&json!({ "alarms": all }))
        }
        Output::Table => {
            let mut table = Table::new(&["MEMBER", "ALARM"]);
            for alarm in alarms {
                table.row([format!("{:x}", alarm.member_id), alarm_name(alarm).to_owned()]);
            }
            out.table(&table)
        }
        Output::Simple => alarms.iter().try_for_each(|alarm| {
            out.line(format!("memberID:{} alarm:{}", alarm.member_id, alarm_name(alarm)))
        }),
    }
}

/// Ask members to defragment; Quorate's have no need to.
///
/// A member of Quorate gives space back by itself, while it serves: it answers at once and does nothing.
#[derive(Debug, Args)]
pub struct Defrag {
    #[command(flatten)]
    all: All,
}

impl Defrag {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let endpoints = self.all.endpoints(client).await?;
        let ask = |endpoint: String| {
            let client = client.clone();
            async move {
                let answer = client.defragment(&endpoint).await;
                (endpoint, answer)
            }
        };
        let answers = each(endpoints, ask).await;
        let asked = answers.len();
        let mut failed = 0;
        for (endpoint, answer) in answers {
            match answer {
                Ok(()) => out.either(
                    format!("Finished defragmenting etcd member[{endpoint}]"),
                    &json!({ "Endpoint": endpoint }),
                )?,
                Err(error) => {
                    failed += 1;
                    eprintln!("Failed to defragment etcd member[{endpoint}] ({})", error.message());
                }
            }
        }
        anyhow::ensure!(failed == 0, "{failed} of {asked} endpoints did not answer");
        eprintln!("(A member of Quorate gives space back by itself: there was nothing to do there.)");
        Ok(())
    }
}
