//! What fuzzers call: the pure parts of this face, on any bytes.

use super::parameters::Parameters;
use super::{members, snapshot};

/// Reads the parameters of a request, and from them what any endpoint would; true where they are well-formed.
#[must_use]
pub fn parameters(form: &[u8], query: &[u8]) -> bool {
    let mut parameters = Parameters::default();
    if parameters.add(query).and_then(|()| parameters.add_form(form)).is_err() {
        return false;
    }
    for name in ["key", "ttl", "limit", "forward"] {
        let _ = parameters.needed(name);
        let _ = parameters.text(name);
        let _ = parameters.flag(name, true);
        if let Ok(Some(number)) = parameters.number(name, 1, 1 << 40) {
            assert!((1..=1 << 40).contains(&number));
        }
    }
    let _ =
        (parameters.only(&["key", "value"]), members::node_id(&parameters), members::address(&parameters));
    true
}

/// Reads an uploaded snapshot; true where it is one.
#[must_use]
pub fn snapshot(body: &[u8]) -> bool {
    snapshot::parse(body).is_ok()
}
