//! Watching keys, with a command for each event if wanted.

use anyhow::{Context as _, bail};
use clap::Args;
use quorate::client::{Client, Event, EventKind, Keys, WatchOptions};

use super::json;
use super::printer::{Output, Printer};

/// Print the changes of a key, or of the keys of a range, as they happen.
///
/// It goes on with another member where one fails, without a gap. A command after '--' is run for each change, with
/// ETCD_WATCH_KEY, ETCD_WATCH_VALUE, ETCD_WATCH_EVENT_TYPE and ETCD_WATCH_REVISION.
#[derive(Debug, Args)]
pub struct Watch {
    key: String,
    /// Where the range ends: keys below this one; just the one key without it.
    #[arg(conflicts_with = "prefix")]
    range_end: Option<String>,
    /// All keys that start with KEY.
    #[arg(long)]
    prefix: bool,
    /// From this revision on, past ones included; 0: from now on.
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// With what was there before.
    #[arg(long)]
    prev_kv: bool,
    /// A sign from time to time that all is well.
    #[arg(long)]
    progress_notify: bool,
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Watch {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let keys = match &self.range_end {
            Some(end) => Keys::range(&self.key, end),
            None if self.prefix => Keys::prefix(&self.key),
            None => Keys::one(&self.key),
        };
        let mut options = WatchOptions::new().start_revision(self.rev);
        if self.prev_kv {
            options = options.previous();
        }
        if self.progress_notify {
            options = options.progress();
        }
        let mut watch = client.watch(keys, options).await?;
        while let Some(response) = watch.next().await {
            let response = response.context("the watch was canceled")?;
            match out.output() {
                Output::Json => out.json(&json::watch(&response))?,
                _ if response.is_progress() => {
                    out.line(format!("progress notify: {}", response.revision))?;
                }
                _ => {}
            }
            for event in &response.events {
                if out.output() != Output::Json {
                    print(event, out)?;
                }
                self.execute(event, response.revision).await?;
            }
        }
        bail!("the watch ended")
    }

    async fn execute(&self, event: &Event, revision: i64) -> anyhow::Result<()> {
        let Some((program, arguments)) = self.command.split_first() else { return Ok(()) };
        let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
        let status = tokio::process::Command::new(program)
            .args(arguments)
            .env("ETCD_WATCH_REVISION", revision.to_string())
            .env("ETCD_WATCH_EVENT_TYPE", format!("{:?}", name(event.kind)))
            .env("ETCD_WATCH_KEY", text(&event.kv.key))
            .env("ETCD_WATCH_VALUE", text(&event.kv.value))
            .status()
            .await
            .with_context(|| format!("cannot run {program}"))?;
        if !status.success() {
            bail!("{program} ended with {status}");
        }
        Ok(())
    }
}

fn name(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Put => "PUT",
        EventKind::Delete => "DELETE",
    }
}

fn print(event: &Event, out: &mut Printer) -> anyhow::Result<()> {
    out.line(name(event.kind))?;
    event.previous.iter().try_for_each(|before| out.key_and_value(before))?;
    out.key_and_value(&event.kv)
}
