//! Transactions, in etcdctl's notation: comparisons, what is done if they hold, what if not; an empty line between.

use std::io::{BufRead, IsTerminal as _};

use anyhow::{Context as _, bail};
use clap::{Args, Parser};
use quorate::client::{Client, Compare, Is, Op, OpResponse, TxnResponse};

use super::printer::{Output, Printer};
use super::{json, keys, lease};

/// Carry out a transaction that is read from standard input.
///
/// Three blocks, each ended by an empty line: comparisons such as 'mod("key") > "0"' (of version, create, mod, value or
/// lease; with =, !=, < or >), the operations if all hold, and those if not: get, put and del with their options.
#[derive(Debug, Args)]
pub struct Txn {
    /// Say what is read next.
    #[arg(short, long)]
    interactive: bool,
}

/// A line with an operation.
#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true, disable_help_subcommand = true)]
enum Operation {
    Get(keys::Get),
    Put(keys::Put),
    Del(keys::Del),
}

impl Txn {
    pub async fn run(self, client: &Client, out: &mut Printer) -> anyhow::Result<()> {
        let mut lines = Lines { input: std::io::stdin().lock(), number: 0 };
        let prompt = self.interactive || std::io::stdin().is_terminal();
        let txn = read(&mut lines, |text| {
            if prompt {
                eprintln!("{text}")
            }
        })?;
        let answer = client.txn(txn).await?;
        match out.output() {
            Output::Json => out.json(&json::txn(&answer)),
            _ => print(&answer, out),
        }
    }
}

fn print(answer: &TxnResponse, out: &mut Printer) -> anyhow::Result<()> {
    out.line(if answer.succeeded { "SUCCESS" } else { "FAILURE" })?;
    for response in &answer.responses {
        out.line("")?;
        match response {
            OpResponse::Get(answer) => keys::print_range(answer, out)?,
            OpResponse::Put(answer) => keys::print_put(answer, out)?,
            OpResponse::Delete(answer) => keys::print_delete(answer, out)?,
            OpResponse::Txn(answer) => print(answer, out)?,
        }
    }
    Ok(())
}

struct Lines<R> {
    input: R,
    number: usize,
}

impl<R: BufRead> Lines<R> {
    /// The lines of a block, read by `parse`; it ends with an empty line, or with the input.
    fn block<T>(&mut self, parse: impl Fn(&str) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let mut found = Vec::new();
        loop {
            let mut line = String::new();
            let read = self.input.read_line(&mut line).context("cannot read the transaction")?;
            self.number += 1;
            let line = line.trim();
            if read == 0 || line.is_empty() {
                return Ok(found);
            }
            found.push(parse(line).with_context(|| format!("line {}: {line}", self.number))?);
        }
    }
}

fn read<R: BufRead>(lines: &mut Lines<R>, say: impl Fn(&str)) -> anyhow::Result<quorate::client::Txn> {
    say("compares:");
    let compares = lines.block(compare)?;
    say("success requests (get, put, del):");
    let success = lines.block(operation)?;
    say("failure requests (get, put, del):");
    let failure = lines.block(operation)?;
    if success.is_empty() && failure.is_empty() {
        bail!("the transaction has no operation");
    }
    Ok(quorate::client::Txn::new().when(compares).and_then(success).or_else(failure))
}

fn operation(line: &str) -> anyhow::Result<Op> {
    match Operation::try_parse_from(words(line)?) {
        Ok(Operation::Get(get)) => get.op(),
        Ok(Operation::Put(put)) => put.op(),
        Ok(Operation::Del(del)) => Ok(del.op()),
        Err(error) => {
            let text = error.to_string();
            bail!("{}", text.lines().next().unwrap_or_default().trim_start_matches("error: "))
        }
    }
}

/// `target("key") operator "operand"`
fn compare(line: &str) -> anyhow::Result<Compare> {
    let form = || "a comparison has the form mod(\"key\") > \"0\"";
    let (target, rest) = line.split_once('(').with_context(form)?;
    let (key, rest) = word(rest)?.with_context(form)?;
    let rest = rest.trim_start().strip_prefix(')').with_context(form)?.trim_start();
    let end = rest.find(|char: char| !"=!<>".contains(char)).with_context(form)?;
    let is = match &rest[..end] {
        "=" | "==" => Is::Equal,
        "!=" => Is::NotEqual,
        "<" => Is::Less,
        ">" => Is::Greater,
        other => bail!("{other:?} is none of =, !=, <, >"),
    };
    let (operand, rest) = word(&rest[end..])?.with_context(form)?;
    if !rest.trim().is_empty() {
        bail!("there is something after the comparison: {rest}");
    }
    let number = || operand.parse::<i64>().with_context(|| format!("{operand:?} is no number"));
    Ok(match target.trim().to_ascii_lowercase().as_str() {
        "ver" | "version" => Compare::version(key, is, number()?),
        "c" | "create" => Compare::create_revision(key, is, number()?),
        "m" | "mod" => Compare::mod_revision(key, is, number()?),
        "val" | "value" => Compare::value(key, is, operand),
        "lease" => Compare::lease(key, is, lease::id(&operand).map_err(anyhow::Error::msg)?),
        other => bail!("{other:?} is none of version, create, mod, value, lease"),
    })
}

fn words(line: &str) -> anyhow::Result<Vec<String>> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((next, after)) = word(rest)? {
        found.push(next);
        rest = after;
    }
    Ok(found)
}

/// The next word and what follows it. Double quotes hold spaces and escapes (`\n`, `\t`, `\r`, `\\`, `\"`, `\xNN`),
/// single quotes hold everything as it is. Outside of quotes a word ends at a space or at ')'.
fn word(text: &str) -> anyhow::Result<Option<(String, &str)>> {
    let text = text.trim_start();
    if text.is_empty() {
        return Ok(None);
    }
    let mut found = String::new();
    let mut rest = text.char_indices();
    let mut quote = None;
    while let Some((at, char)) = rest.next() {
        match (quote, char) {
            (None, '"' | '\'') => quote = Some(char),
            (None, char) if char.is_whitespace() || char == ')' => return Ok(Some((found, &text[at..]))),
            (Some(open), char) if char == open => quote = None,
            (Some('"'), '\\') => match rest.next().map(|(_, char)| char) {
                Some('n') => found.push('\n'),
                Some('t') => found.push('\t'),
                Some('r') => found.push('\r'),
                Some(char @ ('\\' | '"' | '\'')) => found.push(char),
                Some('x') => {
                    let digits: String = rest.by_ref().take(2).map(|(_, char)| char).collect();
                    match u8::from_str_radix(&digits, 16) {
                        Ok(byte) if byte.is_ascii() => found.push(char::from(byte)),
                        _ => bail!("\\x{digits} is no ASCII character"),
                    }
                }
                other => bail!("\\{} is no escape", other.map_or(String::new(), |char| char.to_string())),
            },
            (_, char) => found.push(char),
        }
    }
    match quote {
        Some(open) => bail!("a quote {open} is not closed"),
        None => Ok(Some((found, ""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transaction(text: &str) -> anyhow::Result<quorate::client::Txn> {
        read(&mut Lines { input: text.as_bytes(), number: 0 }, |_| {})
    }

    #[test]
    fn three_blocks_make_a_transaction() {
        let read = transaction(
            "value(\"b\") = \"3\"\nmod('a b') > 1\nlease(k) != 1a\n\nput k \"hello \\\"you\\\"\\n\" --prev-kv\nget b --prefix\n\ndel z\n\n",
        )
        .expect("fine");
        let expected = quorate::client::Txn::new()
            .when([
                Compare::value("b", Is::Equal, "3"),
                Compare::mod_revision("a b", Is::Greater, 1),
                Compare::lease("k", Is::NotEqual, 0x1a),
            ])
            .and_then([
                Op::put_with("k", "hello \"you\"\n", quorate::client::PutOptions::new().previous()),
                Op::get(quorate::client::Keys::prefix("b")),
            ])
            .or_else([Op::delete("z")]);
        assert_eq!(read, expected);
        let unconditional = quorate::client::Txn::new().and_then([Op::put("k", "")]);
        assert_eq!(transaction("\nput k ''").expect("fine"), unconditional, "the input may end early");
    }

    #[test]
    fn mistakes_name_the_line() {
        for (text, expected) in [
            ("", "the transaction has no operation"),
            ("frob(\"k\") = \"1\"\n", "line 1: frob(\"k\") = \"1\": \"frob\" is none of version"),
            ("mod(\"k\") = \"x\"\n", "\"x\" is no number"),
            ("mod(\"k\") => \"1\"\n", "\"=>\" is none of"),
            ("mod(\"k\")\n", "a comparison has the form"),
            ("mod \"k\" > 1\n", "a comparison has the form"),
            ("mod(\"k) > 1\n", "is not closed"),
            ("\nput k\n", "line 2: put k: put \"k\" needs a value"),
            ("\n\nfly k\n", "line 3: fly k: unrecognized subcommand 'fly'"),
            ("\nput k \"\\q\"\n", "\\q is no escape"),
            ("\nget k --print-value-only\n", "no meaning inside a transaction"),
        ] {
            let error = format!("{:#}", transaction(text).expect_err(text));
            assert!(error.contains(expected), "{text:?}: {error}");
        }
    }
}
