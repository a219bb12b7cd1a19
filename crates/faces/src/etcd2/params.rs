//! What a request for `/v2/keys` asks for: each dialect's own order of checks, and its own texts where one fails.
//!
//! Pure: parameters in, a wish or an error out.

use http::Method;

use super::Dialect;
use super::errors::{
    Error, INDEX_NOT_A_NUMBER, INVALID_FIELD, PREV_VALUE_REQUIRED, REFRESH_WITH_VALUE, REFRESH_WITHOUT_TTL,
    TTL_NOT_A_NUMBER, VALUE_OR_TTL_REQUIRED,
};
use super::form::Form;

/// What a client wants of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wish {
    Get(Get),
    Watch(Watch),
    Write(Write),
}

impl Wish {
    /// Whether it is for all that lies below the key.
    #[must_use]
    pub fn is_recursive(&self) -> bool {
        match self {
            Self::Get(get) => get.recursive,
            Self::Watch(watch) => watch.recursive,
            Self::Write(write) => matches!(write.change, Change::Delete { recursive: true, .. }),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Get {
    pub recursive: bool,
    /// Everything that was acknowledged before must show.
    pub quorum: bool,
    /// 0.4: the leader answers.
    pub consistent: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Watch {
    pub recursive: bool,
    pub stream: bool,
    /// The first index that counts; 0: what comes next.
    pub index: u64,
    /// 0.4: the leader answers.
    pub consistent: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    pub change: Change,
    /// 2.x: the answer tells no nodes.
    pub no_value: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    Set(New),
    Create(New),
    CreateInOrder(New),
    Update(New),
    CompareAndSwap(New, Conditions),
    Delete { dir: bool, recursive: bool },
    CompareAndDelete(Conditions),
}

/// What is written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct New {
    pub value: Vec<u8>,
    pub dir: bool,
    pub ttl_seconds: Option<u64>,
    pub refresh: bool,
}

/// What must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conditions {
    pub value: Option<Vec<u8>>,
    pub index: Option<u64>,
}

/// A number without a sign, as Go reads it.
#[must_use]
pub fn unsigned(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// A number with a sign or without, as Go reads it.
#[must_use]
pub fn signed(text: &str) -> Option<i64> {
    text.parse().ok()
}

/// 0.4's flags: true, in any case, or false.
#[must_use]
pub fn is_true(form: &Form, name: &str) -> bool {
    form.text(name).eq_ignore_ascii_case("true")
}

/// 0.4's TTL: seconds, and one below zero is over at once. Empty: none.
pub fn ttl_04(form: &Form, cause: &'static str) -> Result<Option<u64>, Error> {
    let text = form.text("ttl");
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = signed(&text).ok_or_else(|| Error::new(TTL_NOT_A_NUMBER, cause))?;
    Ok(Some(u64::try_from(seconds).unwrap_or(0)))
}

/// Reads a wish from a request of this dialect.
pub fn wish(dialect: Dialect, method: &Method, form: &Form) -> Result<Wish, Error> {
    match dialect {
        Dialect::V04 => wish_04(method, form),
        Dialect::V2 => wish_2(method, form),
    }
}

fn wish_04(method: &Method, form: &Form) -> Result<Wish, Error> {
    let flag = |name| is_true(form, name);
    let write = |change| Ok(Wish::Write(Write { change, no_value: false }));
    if method == Method::PUT {
        return write(put_04(form)?);
    }
    if method == Method::POST {
        let ttl_seconds = ttl_04(form, "Create")?;
        return write(Change::CreateInOrder(new(form, flag("dir"), ttl_seconds)));
    }
    if method == Method::DELETE {
        if !form.has("prevValue") && !form.has("prevIndex") {
            return write(Change::Delete { dir: flag("dir"), recursive: flag("recursive") });
        }
        return write(Change::CompareAndDelete(conditions_04(form, "CompareAndDelete")?));
    }
    let (recursive, consistent) = (flag("recursive"), flag("consistent"));
    if !flag("wait") {
        return Ok(Wish::Get(Get { recursive, quorum: flag("quorum"), consistent }));
    }
    let text = form.text("waitIndex");
    let index = match &*text {
        "" => 0,
        text => unsigned(text).ok_or_else(|| Error::new(INDEX_NOT_A_NUMBER, "Watch From Index"))?,
    };
    Ok(Wish::Watch(Watch { recursive, stream: flag("stream"), index, consistent }))
}

fn new(form: &Form, dir: bool, ttl_seconds: Option<u64>) -> New {
    let value = form.bytes("value").unwrap_or_default().to_vec();
    New { value, dir, ttl_seconds, refresh: false }
}

fn put_04(form: &Form) -> Result<Change, Error> {
    let ttl_seconds = ttl_04(form, "Update")?;
    let new = new(form, is_true(form, "dir"), ttl_seconds);
    let compares = form.has("prevValue") || form.has("prevIndex");
    if !compares && !form.has("prevExist") {
        return Ok(Change::Set(new));
    }
    let exists = form.text("prevExist");
    if exists.eq_ignore_ascii_case("false") {
        // The other conditions do not count.
        return Ok(Change::Create(new));
    }
    if exists.eq_ignore_ascii_case("true") && !compares {
        if new.value.is_empty() && new.ttl_seconds.is_none() {
            return Err(Error::new(VALUE_OR_TTL_REQUIRED, "Update"));
        }
        return Ok(Change::Update(New { dir: false, ..new }));
    }
    let conditions = conditions_04(form, "CompareAndSwap")?;
    Ok(Change::CompareAndSwap(New { dir: false, ..new }, conditions))
}

/// The index comes first; an index of 0 always matches.
fn conditions_04(form: &Form, cause: &'static str) -> Result<Conditions, Error> {
    let mut conditions = Conditions::default();
    if form.has("prevIndex") {
        let index = unsigned_some(&form.text("prevIndex"));
        let index = index.ok_or_else(|| Error::new(INDEX_NOT_A_NUMBER, cause))?;
        conditions.index = (index > 0).then_some(index);
    }
    if let Some(value) = form.bytes("prevValue") {
        if value.is_empty() {
            return Err(Error::new(PREV_VALUE_REQUIRED, cause));
        }
        conditions.value = Some(value.to_vec());
    }
    Ok(conditions)
}

fn unsigned_some(text: &str) -> Option<u64> {
    if text.is_empty() { None } else { unsigned(text) }
}

/// The parameters of 2.x that have to be read before it is known which count.
struct Read2<'a>(&'a Form);

impl Read2<'_> {
    fn number(&self, name: &str, code: u16) -> Result<u64, Error> {
        if !self.0.has(name) {
            return Ok(0);
        }
        unsigned_some(&self.0.text(name))
            .ok_or_else(|| Error::new(code, format!("invalid value for \"{name}\"")))
    }

    fn flag(&self, name: &str) -> Result<bool, Error> {
        self.flag_or(name, || format!("invalid value for \"{name}\"")).map(Option::unwrap_or_default)
    }

    fn flag_or(&self, name: &str, cause: impl FnOnce() -> String) -> Result<Option<bool>, Error> {
        if !self.0.has(name) {
            return Ok(None);
        }
        match &*self.0.text(name) {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Some(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Some(false)),
            _ => Err(Error::new(INVALID_FIELD, cause())),
        }
    }
}

/// Everything is read and checked, whatever the method, before it is used.
fn wish_2(method: &Method, form: &Form) -> Result<Wish, Error> {
    let read = Read2(form);
    let prev_index = read.number("prevIndex", INDEX_NOT_A_NUMBER)?;
    let wait_index = read.number("waitIndex", INDEX_NOT_A_NUMBER)?;
    let recursive = read.flag("recursive")?;
    // Listings are always sorted here.
    read.flag("sorted")?;
    let wait = read.flag("wait")?;
    let dir = read.flag("dir")?;
    let quorum = read.flag("quorum")?;
    let stream = read.flag("stream")?;
    if wait && method != Method::GET {
        return Err(Error::new(INVALID_FIELD, "\"wait\" can only be used with GET requests"));
    }
    let prev_value = form.bytes("prevValue").map(<[u8]>::to_vec);
    if prev_value.as_ref().is_some_and(Vec::is_empty) {
        return Err(Error::new(PREV_VALUE_REQUIRED, "\"prevValue\" cannot be empty"));
    }
    let no_value = read.flag("noValueOnSuccess")?;
    let has_ttl = !form.text("ttl").is_empty();
    let ttl_seconds = if has_ttl { Some(read.number("ttl", TTL_NOT_A_NUMBER)?) } else { None };
    let exists = read.flag_or("prevExist", || "invalid value for prevExist".to_owned())?;
    let refresh = read.flag_or("refresh", || "invalid value for refresh".to_owned())?.unwrap_or_default();
    if refresh && form.bytes("value").is_some_and(|value| !value.is_empty()) {
        return Err(Error::new(REFRESH_WITH_VALUE, "A value was provided on a refresh"));
    }
    if refresh && ttl_seconds.is_none() {
        return Err(Error::new(REFRESH_WITHOUT_TTL, "No TTL value set"));
    }
    let new = New { refresh, ..new(form, dir, ttl_seconds) };
    let conditions = Conditions { value: prev_value, index: (prev_index > 0).then_some(prev_index) };
    let compares = conditions != Conditions::default();
    let change = match *method {
        Method::PUT => match (exists, compares) {
            (Some(false), _) => Change::Create(New { refresh: false, ..new }),
            (_, true) => Change::CompareAndSwap(New { dir: false, ..new }, conditions),
            (Some(true), false) => Change::Update(New { dir: false, ..new }),
            (None, false) => Change::Set(new),
        },
        Method::POST => Change::CreateInOrder(New { refresh: false, ..new }),
        Method::DELETE if compares => Change::CompareAndDelete(conditions),
        Method::DELETE => Change::Delete { dir, recursive },
        _ if wait => {
            return Ok(Wish::Watch(Watch { recursive, stream, index: wait_index, consistent: false }));
        }
        _ => return Ok(Wish::Get(Get { recursive, quorum, consistent: false })),
    };
    Ok(Wish::Write(Write { change, no_value }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(dialect: Dialect, method: Method, text: &str) -> Result<Wish, Error> {
        let mut form = Form::default();
        form.read(text.as_bytes()).expect("a form");
        wish(dialect, &method, &form)
    }

    fn change(dialect: Dialect, method: Method, text: &str) -> Change {
        match ask(dialect, method, text).expect(text) {
            Wish::Write(write) => write.change,
            other => panic!("{text}: {other:?}"),
        }
    }

    fn value(text: &str) -> New {
        New { value: text.as_bytes().to_vec(), ..New::default() }
    }

    fn conditions(value: Option<&str>, index: Option<u64>) -> Conditions {
        Conditions { value: value.map(|text| text.as_bytes().to_vec()), index }
    }

    #[test]
    fn put_decides_by_its_conditions_in_order() {
        use Dialect::{V2, V04};
        for dialect in [V04, V2] {
            let put = |text| change(dialect, Method::PUT, text);
            assert_eq!(put("value=1"), Change::Set(value("1")));
            assert_eq!(put("value=1&prevExist=false&prevIndex=9&prevValue=z"), Change::Create(value("1")));
            assert_eq!(put("value=1&prevExist=true"), Change::Update(value("1")));
            assert_eq!(
                put("value=1&prevExist=true&prevIndex=9"),
                Change::CompareAndSwap(value("1"), conditions(None, Some(9)))
            );
            assert_eq!(
                put("value=1&prevValue=z&prevIndex=9"),
                Change::CompareAndSwap(value("1"), conditions(Some("z"), Some(9)))
            );
            assert_eq!(
                put("ttl=5&dir=true"),
                Change::Set(New { dir: true, ttl_seconds: Some(5), ..value("") })
            );
            assert_eq!(put("value=1&ttl="), Change::Set(value("1")));
        }
        let always = Change::CompareAndSwap(value("1"), Conditions::default());
        assert_eq!(change(V04, Method::PUT, "value=1&prevIndex=0"), always);
        assert_eq!(change(V04, Method::PUT, "value=1&prevExist=maybe"), always);
        assert_eq!(change(V2, Method::PUT, "value=1&prevIndex=0"), Change::Set(value("1")));
        assert_eq!(change(V2, Method::PUT, "prevExist=true"), Change::Update(value("")));
        assert_eq!(change(V2, Method::PUT, "prevExist=0&value=1"), Change::Create(value("1")));
    }

    #[test]
    fn flags_are_read_as_each_dialect_reads_them() {
        let get = |dialect, text| ask(dialect, Method::GET, text);
        let recursive = Wish::Get(Get { recursive: true, ..Get::default() });
        assert_eq!(get(Dialect::V04, "recursive=TRUE"), Ok(recursive.clone()));
        assert_eq!(get(Dialect::V04, "recursive=1"), Ok(Wish::Get(Get::default())));
        assert_eq!(get(Dialect::V2, "recursive=1"), Ok(recursive));
        assert_eq!(
            get(Dialect::V2, "recursive=yes"),
            Err(Error::new(INVALID_FIELD, "invalid value for \"recursive\""))
        );
        assert_eq!(
            get(Dialect::V2, "recursive"),
            Err(Error::new(INVALID_FIELD, "invalid value for \"recursive\""))
        );
        let leader = Get { consistent: true, quorum: true, ..Get::default() };
        assert_eq!(get(Dialect::V04, "consistent=true&quorum=true"), Ok(Wish::Get(leader)));
    }

    #[test]
    fn watches_are_read() {
        for dialect in [Dialect::V04, Dialect::V2] {
            let watch = Watch { recursive: true, stream: true, index: 7, consistent: false };
            let asked = ask(dialect, Method::GET, "wait=true&waitIndex=7&recursive=true&stream=true");
            assert_eq!(asked, Ok(Wish::Watch(watch)));
        }
        let wait = |dialect, text: &str| ask(dialect, Method::GET, &format!("wait=true&waitIndex={text}"));
        for wrong in ["x", "-1", "+1", "1.5", "18446744073709551616"] {
            let error = wait(Dialect::V04, wrong).expect_err(wrong);
            assert_eq!(error, Error::new(INDEX_NOT_A_NUMBER, "Watch From Index"));
            let error = wait(Dialect::V2, wrong).expect_err(wrong);
            assert_eq!(error, Error::new(INDEX_NOT_A_NUMBER, "invalid value for \"waitIndex\""));
        }
        assert_eq!(wait(Dialect::V04, ""), Ok(Wish::Watch(Watch::default())));
        let put = ask(Dialect::V2, Method::PUT, "wait=true");
        assert_eq!(put, Err(Error::new(INVALID_FIELD, "\"wait\" can only be used with GET requests")));
    }

    #[test]
    fn malformed_numbers_name_their_parameter() {
        for wrong in ["abc", "5s", "1.5", " 5", "99999999999999999999"] {
            let text = format!("value=1&ttl={}", wrong.replace(' ', "+"));
            assert_eq!(ask(Dialect::V04, Method::PUT, &text), Err(Error::new(TTL_NOT_A_NUMBER, "Update")));
            assert_eq!(ask(Dialect::V04, Method::POST, &text), Err(Error::new(TTL_NOT_A_NUMBER, "Create")));
            let error = ask(Dialect::V2, Method::PUT, &text).expect_err(wrong);
            assert_eq!(error, Error::new(TTL_NOT_A_NUMBER, "invalid value for \"ttl\""));
        }
        let over = New { ttl_seconds: Some(0), ..value("1") };
        assert_eq!(change(Dialect::V04, Method::PUT, "value=1&ttl=-5"), Change::Set(over));
        assert!(ask(Dialect::V2, Method::PUT, "value=1&ttl=-5").is_err());
        for (method, cause) in [(Method::PUT, "CompareAndSwap"), (Method::DELETE, "CompareAndDelete")] {
            let index = ask(Dialect::V04, method.clone(), "prevIndex=x");
            assert_eq!(index, Err(Error::new(INDEX_NOT_A_NUMBER, cause)));
            let empty = ask(Dialect::V04, method.clone(), "prevValue=");
            assert_eq!(empty, Err(Error::new(PREV_VALUE_REQUIRED, cause)));
            let empty = ask(Dialect::V2, method, "prevValue=");
            assert_eq!(empty, Err(Error::new(PREV_VALUE_REQUIRED, "\"prevValue\" cannot be empty")));
        }
        assert_eq!(
            ask(Dialect::V04, Method::PUT, "prevExist=true"),
            Err(Error::new(VALUE_OR_TTL_REQUIRED, "Update"))
        );
    }

    #[test]
    fn a_refresh_has_a_ttl_and_no_value() {
        let put = |text| ask(Dialect::V2, Method::PUT, text);
        assert_eq!(put("refresh=true&value=1&ttl=5").expect_err("a value").code, REFRESH_WITH_VALUE);
        assert_eq!(put("refresh=true").expect_err("no TTL").code, REFRESH_WITHOUT_TTL);
        assert_eq!(put("refresh=maybe").expect_err("no flag").cause, "invalid value for refresh");
        let refresh = New { refresh: true, ttl_seconds: Some(5), ..value("") };
        assert_eq!(change(Dialect::V2, Method::PUT, "refresh=true&ttl=5"), Change::Set(refresh));
    }

    #[test]
    fn deletes_compare_where_they_are_asked_to() {
        for dialect in [Dialect::V04, Dialect::V2] {
            let delete = |text| change(dialect, Method::DELETE, text);
            assert_eq!(delete(""), Change::Delete { dir: false, recursive: false });
            assert_eq!(delete("recursive=true"), Change::Delete { dir: false, recursive: true });
            assert_eq!(delete("prevValue=z"), Change::CompareAndDelete(conditions(Some("z"), None)));
            assert_eq!(delete("prevIndex=4"), Change::CompareAndDelete(conditions(None, Some(4))));
        }
        let nothing = Change::Delete { dir: false, recursive: false };
        assert_eq!(change(Dialect::V2, Method::DELETE, "prevIndex=0"), nothing);
    }
}
