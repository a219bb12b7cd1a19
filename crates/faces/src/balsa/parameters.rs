//! A request's parameters: from the query, and from the body where it is a form. The first of a name counts, the form's
//! before the query's.

use std::collections::BTreeMap;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};

use super::Answer;

const FORM: &str = "application/x-www-form-urlencoded";
/// Names that one request may have.
const NAMES_MAX: usize = 64;

#[derive(Debug, Default)]
pub(super) struct Parameters {
    values: BTreeMap<String, Vec<u8>>,
    holds_form: bool,
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().ok()?;
    Some(text.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

pub(super) fn has_form(headers: &HeaderMap) -> bool {
    media_type(headers).is_some_and(|kind| kind == FORM)
}

/// Whether the body is a form; a kind of form that is not read is refused, not passed over.
pub(super) fn is_form(headers: &HeaderMap) -> Result<bool, Answer> {
    match media_type(headers) {
        Some(kind) if kind.starts_with("multipart/") => Err(Answer::error(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("a body of {kind} is not read: send parameters in the query, or as {FORM}"),
        )),
        _ => Ok(has_form(headers)),
    }
}

impl Parameters {
    /// Adds what a query or a form holds.
    pub fn add(&mut self, text: &[u8]) -> Result<(), Answer> {
        for pair in text.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
                Some(at) => (&pair[..at], &pair[at + 1..]),
                None => (pair, &pair[..0]),
            };
            let name = String::from_utf8(decode(name)?)
                .map_err(|_| Answer::bad_request("the name of a parameter is not UTF-8"))?;
            let value = decode(value)?;
            if self.values.len() >= NAMES_MAX && !self.values.contains_key(&name) {
                return Err(Answer::bad_request(&format!("more than {NAMES_MAX} parameters")));
            }
            self.values.entry(name).or_insert(value);
        }
        Ok(())
    }

    /// Adds a form, whose values count before the query's.
    pub fn add_form(&mut self, body: &[u8]) -> Result<(), Answer> {
        let mut form = Self::default();
        form.add(body)?;
        self.values.extend(form.values);
        self.holds_form = true;
        Ok(())
    }

    pub fn holds_form(&self) -> bool {
        self.holds_form
    }

    /// Refuses names that an endpoint does not know.
    pub fn only(&self, known: &[&str]) -> Result<(), Answer> {
        match self.values.keys().find(|name| *name != "token" && !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) if known.is_empty() => {
                Err(Answer::bad_request(&format!("there is no parameter {name:?} here, nor any other")))
            }
            Some(name) => Err(Answer::bad_request(&format!(
                "there is no parameter {name:?} here; the parameters are: {}",
                known.join(", ")
            ))),
        }
    }

    pub fn has(&self, name: &str) -> bool {
        self.values.contains_key(name)
    }

    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// A value that must be there, and not be empty.
    pub fn needed(&self, name: &str) -> Result<&[u8], Answer> {
        match self.get(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(Answer::bad_request(&format!("the parameter {name:?} is missing"))),
        }
    }

    pub fn text(&self, name: &str) -> Result<Option<&str>, Answer> {
        let Some(value) = self.get(name) else { return Ok(None) };
        let text = std::str::from_utf8(value);
        text.map(Some).map_err(|_| Answer::bad_request(&format!("{name}: it is not UTF-8")))
    }

    pub fn needed_text(&self, name: &str) -> Result<&str, Answer> {
        self.needed(name)?;
        Ok(self.text(name)?.unwrap_or(""))
    }

    pub fn flag(&self, name: &str, default: bool) -> Result<bool, Answer> {
        match self.text(name)? {
            None => Ok(default),
            Some("" | "true" | "1" | "yes") => Ok(true),
            Some("false" | "0" | "no") => Ok(false),
            Some(other) => Err(Answer::bad_request(&format!("{name}: {other:?} is neither true nor false"))),
        }
    }

    /// A length of time.
    pub fn duration(&self, name: &str) -> Result<Option<Duration>, Answer> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        match duration_of(text) {
            Some(duration) => Ok(Some(duration)),
            None => Err(Answer::bad_request(&format!(
                "{name}: {text:?} is no length of time: write a whole number and ms, s, m or h, such as 5s"
            ))),
        }
    }

    /// A number from `low` to `high`.
    pub fn number(&self, name: &str, low: u64, high: u64) -> Result<Option<u64>, Answer> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.then(|| text.parse().ok()).flatten();
        match number.filter(|number| (low..=high).contains(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Answer::bad_request(&format!("{name}: {text:?} is no number from {low} to {high}"))),
        }
    }
}

/// `5`, `5s`, `250ms`, `2m`, `1h`: a number without a unit is one of seconds.
fn duration_of(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let number: u64 = text[..digits].parse().ok()?;
    let millis_each = match &text[digits..] {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    number.checked_mul(millis_each).map(Duration::from_millis)
}

/// Undoes percent encoding; `+` is a space.
fn decode(text: &[u8]) -> Result<Vec<u8>, Answer> {
    let malformed = || Answer::bad_request("a '%' is not followed by two hexadecimal digits");
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let (high, low) = (digit(rest.next()), digit(rest.next()));
                let (high, low) = high.zip(low).ok_or_else(malformed)?;
                u8::try_from(high * 16 + low).map_err(|_| malformed())?
            }
            other => *other,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(query: &str) -> Parameters {
        let mut parameters = Parameters::default();
        parameters.add(query.as_bytes()).expect("well-formed");
        parameters
    }

    #[test]
    fn values_are_bytes_and_the_first_of_a_name_counts() {
        let given = parameters("key=a%2Fb+c&value=%00%ff&key=other&empty&&also=");
        assert_eq!(given.get("key"), Some(&b"a/b c"[..]));
        assert_eq!(given.get("value"), Some(&b"\0\xff"[..]));
        assert_eq!((given.get("empty"), given.get("also")), (Some(&b""[..]), Some(&b""[..])));
        assert!(given.text("value").is_err());
        assert!(given.needed("also").is_err());
    }

    #[test]
    fn a_form_counts_before_the_query() {
        let mut given = parameters("key=query&other=1");
        given.add_form(b"key=form").expect("well-formed");
        assert_eq!((given.get("key"), given.get("other")), (Some(&b"form"[..]), Some(&b"1"[..])));
    }

    #[test]
    fn lengths_of_time_have_a_unit_or_are_seconds() {
        for (text, millis) in [("5", 5000), ("5s", 5000), ("250ms", 250), ("2m", 120_000), ("1h", 3_600_000)]
        {
            assert_eq!(duration_of(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for wrong in ["", "s", "-1s", "1.5s", "5 s", "5d", "99999999999999999999s", "18446744073709551615h"] {
            assert_eq!(duration_of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for broken in ["%", "a=%4", "a=%zz", "%ff=1"] {
            assert!(Parameters::default().add(broken.as_bytes()).is_err(), "{broken}");
        }
        let many: Vec<String> = (0..=NAMES_MAX).map(|number| format!("n{number}=1")).collect();
        assert!(Parameters::default().add(many.join("&").as_bytes()).is_err());
        let given = parameters("port=90x&big=70000&neg=-1&flag=maybe");
        for name in ["port", "big", "neg"] {
            assert!(given.number(name, 0, 65_535).is_err(), "{name}");
        }
        assert!(given.flag("flag", true).is_err());
        assert!(given.only(&["port"]).is_err());
    }
}
