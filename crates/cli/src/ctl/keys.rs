//! Reading, writing and deleting keys, and forgetting their history.

use std::io::Read as _;

use anyhow::{Context as _, bail};
use clap::{Args, ValueEnum};
use quorate::client::{
    Client, DeleteOptions, DeleteRangeResponse, Keys, Op, PutOptions, PutResponse, RangeOptions,
    RangeResponse, SortBy,
};

use super::printer::{Output, Printer};
use super::table::Table;
use super::{json, lease};

/// Which keys.
#[derive(Debug, Args)]
pub struct Which {
    key: String,
    /// Where the range ends: keys below this one; just the one key without it.
    #[arg(conflicts_with_all = ["prefix", "from_key"])]
    range_end: Option<String>,
    /// All keys that start with KEY.
    #[arg(long, conflicts_with = "from_key")]
    prefix: bool,
    /// All keys from KEY on.
    #[arg(long)]
    from_key: bool,
}

impl Which {
    pub fn keys(&self) -> Keys {
        match &self.range_end {
            Some(end) => Keys::range(&self.key, end),
            None if self.prefix => Keys::prefix(&self.key),
            None if self.from_key => Keys::starting_at(&self.key),
            None => Keys::one(&self.key),
        }
    }
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Order {
    Ascend,
    Descend,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "UPPER")]
enum Target {
    Create,
    Key,
    Modify,
    Value,
    Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Consistency {
    /// Linearizable: all that was acknowledged before.
    L,
    /// Serializable: what the asked member has.
    S,
}

#[derive(Debug, Args)]
pub struct Get {
    #[command(flatten)]
    which: Which,
    /// At most so many keys; 0: all.
    #[arg(long, default_value_t = 0)]
    limit: i64,
    /// Order of the keys.
    #[arg(long, ignore_case = true)]
    order: Option<Order>,
    /// What the order goes by.
    #[arg(long, ignore_case = true)]
    sort_by: Option<Target>,
    /// As of this revision; 0: the newest.
    #[arg(long, default_value_t = 0)]
    rev: i64,
    /// Whether the answer has to hold all that was acknowledged before.
    #[arg(long, default_value = "l", ignore_case = true)]
    consistency: Consistency,
    /// Keys without their values.
    #[arg(long)]
    keys_only: bool,
    /// Only how many keys there are.
    #[arg(long)]
    count_only: bool,
    /// Values without their keys; for --output simple.
    #[arg(long, conflicts_with = "keys_only")]
    print_value_only: bool,
}

impl Get {
    fn options(&self) -> RangeOptions {
        let mut options = RangeOptions::new().limit(self.limit).revision(self.rev);
        if self.order.is_some() || self.sort_by.is_some() {
            let by = match self.sort_by.unwrap_or(Target::Key) {
                Target::Create => SortBy::CreateRevision,
                Target::Key => SortBy::Key,
                Target::Modify => SortBy::ModRevision,
                Target::Value => SortBy::Value,
                Target::Version => SortBy::Version,
            };
            options = match self.order.unwrap_or(Order::Ascend) {
                Order::Ascend => options.ascending(by),
                Order::Descend => options.descending(by),
            };
        }
        if self.consistency == Consistency::S {
            options = options.serializable();
        }
        if self.keys_only {
            options = options.keys_only();
        }
        if self.count_only { options.count_only() } else { options }
    }

    /// As a part of a transaction.
    pub fn op(&self) -> anyhow::Result<Op> {
        if self.print_value_only || self.consistency == Consistency::S {
            bail!("--print-value-only and --consistency have no meaning inside a transaction");
        }
        Ok(Op::get_with(self.which.keys(), self.options()))
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        if self.print_value_only && out.output() != Output::Simple {
            bail!("--print-value-only is for --output simple");
        }
        let answer = client.range(self.which.keys(), self.options()).await?;
        match out.output() {
            Output::Json => out.json(&json::range(&answer)),
            _ if self.count_only => out.line(answer.count.to_string()),
            Output::Table => out.table(&table(&answer)),
            Output::Simple if self.print_value_only => answer.kvs.iter().try_for_each(|kv| out.value(kv)),
            Output::Simple => print_range(&answer, out),
        }
    }
}

pub fn print_range(answer: &RangeResponse, out: &mut Printer) -> anyhow::Result<()> {
    answer.kvs.iter().try_for_each(|kv| out.key_and_value(kv))
}

fn table(answer: &RangeResponse) -> Table {
    let mut table = Table::new(&["KEY", "VALUE", "CREATED AT", "CHANGED AT", "VERSION", "LEASE"]);
    for kv in &answer.kvs {
        table.row([
            String::from_utf8_lossy(&kv.key).into_owned(),
            String::from_utf8_lossy(&kv.value).into_owned(),
            kv.create_revision.to_string(),
            kv.mod_revision.to_string(),
            kv.version.to_string(),
            if kv.lease == 0 { String::new() } else { lease::shown(kv.lease) },
        ]);
    }
    table
}

/// Write a key.
///
/// A value that starts with '-' comes after '--': put KEY -- -1. Without VALUE it is read from standard input.
#[derive(Debug, Args)]
pub struct Put {
    key: String,
    value: Option<String>,
    /// The key is deleted with this lease.
    #[arg(long, value_name = "ID", value_parser = lease::id, default_value = "0")]
    lease: i64,
    /// Print what was there before.
    #[arg(long)]
    prev_kv: bool,
    /// Keep the value that the key has.
    #[arg(long, conflicts_with = "value")]
    ignore_value: bool,
    /// Keep the lease that the key has.
    #[arg(long, conflicts_with = "lease")]
    ignore_lease: bool,
}

impl Put {
    fn options(&self) -> PutOptions {
        let mut options = PutOptions::new().lease(self.lease);
        if self.prev_kv {
            options = options.previous();
        }
        if self.ignore_value {
            options = options.keep_value();
        }
        if self.ignore_lease { options.keep_lease() } else { options }
    }

    /// As a part of a transaction, where the value can't come from standard input.
    pub fn op(&self) -> anyhow::Result<Op> {
        match &self.value {
            Some(value) => Ok(Op::put_with(&self.key, value, self.options())),
            None if self.ignore_value => Ok(Op::put_with(&self.key, "", self.options())),
            None => bail!("put {:?} needs a value", self.key),
        }
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let value = match &self.value {
            Some(value) => value.clone().into_bytes(),
            None if self.ignore_value => Vec::new(),
            None => {
                let mut value = Vec::new();
                std::io::stdin().lock().read_to_end(&mut value).context("cannot read the value")?;
                value
            }
        };
        let answer = client.put_with(&self.key, value, self.options()).await?;
        match out.output() {
            Output::Json => out.json(&json::put(&answer)),
            _ => print_put(&answer, out),
        }
    }
}

pub fn print_put(answer: &PutResponse, out: &mut Printer) -> anyhow::Result<()> {
    out.line("OK")?;
    answer.prev_kv.iter().try_for_each(|kv| out.key_and_value(kv))
}

#[derive(Debug, Args)]
pub struct Del {
    #[command(flatten)]
    which: Which,
    /// Print what was deleted.
    #[arg(long)]
    prev_kv: bool,
}

impl Del {
    fn options(&self) -> DeleteOptions {
        if self.prev_kv { DeleteOptions::new().previous() } else { DeleteOptions::new() }
    }

    /// As a part of a transaction.
    pub fn op(&self) -> Op {
        Op::delete_with(self.which.keys(), self.options())
    }

    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let answer = client.delete_with(self.which.keys(), self.options()).await?;
        match out.output() {
            Output::Json => out.json(&json::delete(&answer)),
            _ => print_delete(&answer, out),
        }
    }
}

pub fn print_delete(answer: &DeleteRangeResponse, out: &mut Printer) -> anyhow::Result<()> {
    out.line(answer.deleted.to_string())?;
    answer.prev_kvs.iter().try_for_each(|kv| out.key_and_value(kv))
}

#[derive(Debug, Args)]
pub struct Compaction {
    revision: i64,
    /// Wait until the space is free.
    #[arg(long)]
    physical: bool,
}

impl Compaction {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let answer = client.compact(self.revision, self.physical).await?;
        out.either(
            format!("compacted revision {}", self.revision),
            &json::only_header(answer.header.as_ref()),
        )
    }
}
