//! Which web pages may call: the headers that browsers look for.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN, ORIGIN,
};
use http::{HeaderMap, HeaderValue};

use super::Dialect;

const METHODS: &str = "POST, GET, OPTIONS, PUT, DELETE";

/// The origins that may call.
pub(super) struct Cors {
    origins: Vec<String>,
    allowed_headers: &'static str,
}

impl Cors {
    pub(super) fn new(dialect: Dialect, origins: &[String]) -> Self {
        let allowed_headers = match dialect {
            Dialect::V04 => "accept, content-type",
            Dialect::V2 => "accept, content-type, authorization",
        };
        Self { origins: origins.to_vec(), allowed_headers }
    }

    pub(super) fn is_on(&self) -> bool {
        !self.origins.is_empty()
    }

    /// What is added to the answer to a request with these headers.
    pub(super) fn headers(&self, request: &HeaderMap) -> Option<HeaderMap> {
        let all = self.origins.iter().any(|origin| origin == "*");
        let origin = if all {
            HeaderValue::from_static("*")
        } else {
            let origin = request.get(ORIGIN)?;
            self.origins
                .iter()
                .any(|allowed| allowed.as_bytes() == origin.as_bytes())
                .then(|| origin.clone())?
        };
        let mut headers = HeaderMap::new();
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(self.allowed_headers));
        Some(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(cors: &[&str], origin: Option<&'static str>) -> Option<String> {
        let origins: Vec<String> = cors.iter().map(ToString::to_string).collect();
        let mut request = HeaderMap::new();
        if let Some(origin) = origin {
            request.insert(ORIGIN, HeaderValue::from_static(origin));
        }
        let headers = Cors::new(Dialect::V04, &origins).headers(&request)?;
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], METHODS);
        Some(headers[ACCESS_CONTROL_ALLOW_ORIGIN].to_str().expect("text").to_owned())
    }

    #[test]
    fn only_allowed_origins_are_told_so() {
        assert_eq!(asked(&[], Some("http://a")), None);
        assert_eq!(asked(&["*"], None).as_deref(), Some("*"));
        assert_eq!(asked(&["http://a", "http://b"], Some("http://b")).as_deref(), Some("http://b"));
        assert_eq!(asked(&["http://a"], Some("http://c")), None);
        assert_eq!(asked(&["http://a"], None), None);
    }
}
