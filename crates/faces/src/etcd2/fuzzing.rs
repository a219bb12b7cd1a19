//! What fuzzers call: the pure parts of this face, on any bytes.

use http::Method;

use super::form::Form;
use super::peer::ClusterSettings;
use super::{Dialect, params};

/// Reads the parameters of a request and what they ask for; true where that makes sense.
#[must_use]
pub fn parameters(dialect: Dialect, method: &Method, body: &[u8], query: &[u8]) -> bool {
    let mut form = Form::default();
    form.read(body)
        .and_then(|()| form.read(query))
        .and_then(|()| params::wish(dialect, method, &form))
        .is_ok()
}

/// Changes the settings of a cluster by JSON; true where that is done. What comes out, said as JSON, changes them to
/// the same.
#[must_use]
pub fn cluster_settings(json: &[u8]) -> bool {
    let Ok(changed) = ClusterSettings::default().changed_by(json) else { return false };
    let again = ClusterSettings::default().changed_by(changed.json().as_bytes());
    assert_eq!(again, Ok(changed), "settings are written as others than they are");
    true
}
