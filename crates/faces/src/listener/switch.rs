//! Faces that are exchanged while their ports stay open: a member that moves to another cluster goes on under a new
//! handle, and so do those that serve it.
//!
//! Invariant: a request is served by the faces that are current when it comes; those before them serve no new one.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Answering, Body, Face, ThreadFace};

type Faces = Arc<[Arc<dyn Face>]>;

/// A face that stands for others. Clones stand for the same.
#[derive(Clone)]
pub struct Switch(Arc<RwLock<(u64, Faces)>>);

impl Switch {
    #[must_use]
    pub fn new(faces: Vec<Arc<dyn Face>>) -> Self {
        Self(Arc::new(RwLock::new((0, faces.into()))))
    }

    /// From now on these serve.
    pub fn replace(&self, faces: Vec<Arc<dyn Face>>) {
        let mut current = self.0.write().unwrap_or_else(PoisonError::into_inner);
        *current = (current.0 + 1, faces.into());
    }

    fn current(&self) -> (u64, Faces) {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Face for Switch {
    fn on_thread(&self) -> Arc<dyn ThreadFace> {
        let (number, faces) = self.current();
        let here = faces.iter().map(|face| face.on_thread()).collect();
        Arc::new(OnThread { switch: self.clone(), here: Mutex::new((number, here)) })
    }
}

type ThreadFaces = Arc<[Arc<dyn ThreadFace>]>;

struct OnThread {
    switch: Switch,
    /// The faces of this thread, and which generation they are.
    here: Mutex<(u64, ThreadFaces)>,
}

impl OnThread {
    /// Called in the thread's runtime: new faces may start tasks in it.
    fn faces(&self) -> ThreadFaces {
        let (number, faces) = self.switch.current();
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        if here.0 != number {
            *here = (number, faces.iter().map(|face| face.on_thread()).collect());
        }
        here.1.clone()
    }
}

impl ThreadFace for OnThread {
    fn takes(&self, path: &str) -> bool {
        self.faces().iter().any(|face| face.takes(path))
    }

    fn call(&self, request: Request<Incoming>) -> Answering {
        match self.faces().iter().find(|face| face.takes(request.uri().path())) {
            Some(face) => face.call(request),
            None => Box::pin(async {
                let mut response = Response::new(Body::whole("404 page not found\n".into()));
                *response.status_mut() = StatusCode::NOT_FOUND;
                response
            }),
        }
    }
}
