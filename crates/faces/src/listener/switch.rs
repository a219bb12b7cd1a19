//! Faces that are exchanged while their ports stay open: a member that moves to another cluster goes on under a new
//! handle, and so do those that serve it.
//!
//! Invariant: a request is served by the faces that are current when it comes; those before them serve no new one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::{Answering, Body, Face, Stopping, ThreadFace};

type Faces = Arc<[Arc<dyn Face>]>;

/// A face that stands for others. Clones stand for the same.
#[derive(Clone)]
pub struct Switch(Arc<Current>);

struct Current {
    /// Of `faces`: each request looks whether it is still the same.
    generation: AtomicU64,
    faces: RwLock<Faces>,
}

impl Switch {
    #[must_use]
    pub fn new(faces: Vec<Arc<dyn Face>>) -> Self {
        Self(Arc::new(Current { generation: AtomicU64::new(0), faces: RwLock::new(faces.into()) }))
    }

    /// From now on these serve.
    pub fn replace(&self, faces: Vec<Arc<dyn Face>>) {
        let mut current = self.0.faces.write().unwrap_or_else(PoisonError::into_inner);
        *current = faces.into();
        self.0.generation.fetch_add(1, Ordering::Release);
    }

    fn generation(&self) -> u64 {
        self.0.generation.load(Ordering::Acquire)
    }

    /// The faces, and their generation.
    fn current(&self) -> (u64, Faces) {
        let faces = self.0.faces.read().unwrap_or_else(PoisonError::into_inner);
        (self.generation(), faces.clone())
    }
}

impl Face for Switch {
    fn on_thread(&self, stopping: &Stopping) -> Arc<dyn ThreadFace> {
        let (number, faces) = self.current();
        let here = faces.iter().map(|face| face.on_thread(stopping)).collect();
        Arc::new(OnThread {
            switch: self.clone(),
            here: Mutex::new((number, here)),
            stopping: stopping.clone(),
        })
    }
}

type ThreadFaces = Arc<[Arc<dyn ThreadFace>]>;

struct OnThread {
    switch: Switch,
    /// The faces of this thread, and which generation they are.
    here: Mutex<(u64, ThreadFaces)>,
    stopping: Stopping,
}

impl OnThread {
    /// Called in the thread's runtime: new faces may start tasks in it.
    fn faces(&self) -> ThreadFaces {
        let mut here = self.here.lock().unwrap_or_else(PoisonError::into_inner);
        if here.0 != self.switch.generation() {
            let (number, faces) = self.switch.current();
            *here = (number, faces.iter().map(|face| face.on_thread(&self.stopping)).collect());
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
