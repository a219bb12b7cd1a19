//! A machine that stands by: it has no tree and sends clients to the leader.

use std::sync::{Arc, PoisonError, RwLock};

use http::header::CONTENT_TYPE;
use http::{HeaderValue, Method, Request, Response};
use hyper::body::Incoming;

use super::errors::{Error, STANDBY_INTERNAL};
use super::{Dialect, TEXT, Thread, cors};
use crate::listener::{Answering, Body, Face, ThreadFace};

/// The face of a machine that stands by. Register it in place of [`super::Etcd2`].
#[derive(Clone)]
pub struct Standby {
    shared: Arc<Shared>,
}

struct Shared {
    leader_client_url: RwLock<Option<String>>,
    cors: cors::Cors,
}

impl Standby {
    /// Knows no leader until it is told of one.
    #[must_use]
    pub fn new(cors_origins: &[String]) -> Self {
        let cors = cors::Cors::new(Dialect::V04, cors_origins);
        Self { shared: Arc::new(Shared { leader_client_url: RwLock::default(), cors }) }
    }

    /// Where clients are sent from now on; `None`: no leader is known, and they are told so.
    pub fn set_leader(&self, client_url: Option<String>) {
        *self.shared.leader_client_url.write().unwrap_or_else(PoisonError::into_inner) = client_url;
    }
}

impl Face for Standby {
    fn on_thread(&self) -> Arc<dyn ThreadFace> {
        Arc::new(self.clone())
    }
}

impl ThreadFace for Standby {
    fn takes(&self, _path: &str) -> bool {
        true
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        let (head, _) = request.into_parts();
        let allowed = self.shared.cors.headers(&head.headers);
        let leader = self.shared.leader_client_url.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut response = match leader {
            _ if head.method == Method::OPTIONS && self.shared.cors.is_on() => Response::new(Body::empty()),
            Some(leader) => Thread::redirect(&leader, &head),
            None => Error::new(STANDBY_INTERNAL, "").response(Dialect::V04),
        };
        response.headers_mut().extend(allowed.unwrap_or_default());
        if !response.headers().contains_key(CONTENT_TYPE) {
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(TEXT));
        }
        Box::pin(std::future::ready(response))
    }
}
