//! Keeps a server's member running where it moves: one that is joined to another cluster goes on there behind the same
//! ports, and whoever holds the server or a client of it goes on with it.
//!
//! Invariants: there is one member at a time, or none while it moves; requests that come meanwhile are answered with an
//! error by the old member's faces, and no request is sent again; dropped, the keeper stops its thread and its member.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use quorate_faces::listener::Switch;
use quorate_member::{Handle, Running, Stopped, with_callers_log};
use tokio::sync::watch;

use crate::plan::Plan;
use crate::server::{MemberStopped, faces};

/// Between two tries to make a member's name and addresses known in the cluster that it moved to.
const PUBLISH_RETRY: Duration = Duration::from_millis(200);

/// Said of a member that was removed: etcd's words, which people look for.
const REMOVED: &str = "the member has been permanently removed from the cluster; the data-dir used by this member must be \
                       removed";

/// See the module.
pub(crate) struct Keeper {
    kept: Arc<Kept>,
    stop: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What the keeper's thread and the server share.
struct Kept {
    /// None while it moves, and after it was taken away.
    member: Mutex<Option<Running>>,
    /// Of the current member, or of the last one.
    handle: Mutex<Handle>,
    ended: watch::Sender<Option<MemberStopped>>,
}

/// What it takes to serve a member.
pub(crate) struct Serves {
    pub switch: Switch,
    pub plan: Plan,
    pub advertise_client_urls: Vec<String>,
}

impl Keeper {
    pub fn start(member: Running, serves: Serves) -> std::io::Result<Self> {
        let handle = Mutex::new(member.handle());
        let kept = Kept { member: Mutex::new(Some(member)), handle, ended: watch::Sender::new(None) };
        let kept = Arc::new(kept);
        let (stop, stopping) = watch::channel(false);
        let shared = Arc::clone(&kept);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let keep = move || runtime.block_on(keep(&shared, &serves, stopping));
        let thread =
            std::thread::Builder::new().name("quorate-keeper".to_owned()).spawn(with_callers_log(keep))?;
        Ok(Self { kept, stop, thread: Some(thread) })
    }

    /// The member's handle: a new one after it moved.
    pub fn handle(&self) -> Handle {
        lock(&self.kept.handle).clone()
    }

    /// Changes to `Some` when the member has stopped by itself, for good.
    pub fn ended(&self) -> watch::Receiver<Option<MemberStopped>> {
        self.kept.ended.subscribe()
    }

    /// Ends the keeping: the member, if there is one, is the caller's to stop.
    pub fn release(mut self) -> Option<Running> {
        self.end();
        lock(&self.kept.member).take()
    }

    fn end(&mut self) {
        self.stop.send_replace(true);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that keeps the member had panicked");
        }
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn keep(kept: &Kept, serves: &Serves, mut stopping: watch::Receiver<bool>) {
    loop {
        let Some(stopped) = lock(&kept.member).as_ref().map(Running::stopped) else { return };
        let why = tokio::select! {
            _ = stopping.wait_for(|stop| *stop) => return,
            why = why(stopped) => why,
        };
        let (reason, removed) = match why {
            Stopped::Absorbed => {
                let Some(moving) = lock(&kept.member).take() else { return };
                match moving.resume() {
                    Ok(member) => {
                        let handle = member.handle();
                        serves.switch.replace(faces(&handle, &serves.plan));
                        *lock(&kept.handle) = handle.clone();
                        *lock(&kept.member) = Some(member);
                        tokio::select! {
                            _ = stopping.wait_for(|stop| *stop) => return,
                            () = publish(&handle, serves) => {}
                        }
                        continue;
                    }
                    Err(error) => {
                        (format!("it could not go on in the cluster that it joined: {error}"), false)
                    }
                }
            }
            Stopped::Failed { reason } => (reason, false),
            Stopped::Removed => (REMOVED.to_owned(), true),
            Stopped::Asked => ("it was asked to".to_owned(), false),
        };
        kept.ended.send_replace(Some(MemberStopped { reason, removed }));
        return;
    }
}

async fn why(mut stopped: watch::Receiver<Option<Stopped>>) -> Stopped {
    match stopped.wait_for(Option::is_some).await {
        Ok(why) => why.clone().unwrap_or(Stopped::Asked),
        Err(_) => Stopped::Failed { reason: "its threads ended".to_owned() },
    }
}

/// Makes the member known in its new cluster; gives up where it stopped meanwhile.
async fn publish(handle: &Handle, serves: &Serves) {
    while handle.publish(&serves.plan.name, &serves.advertise_client_urls).await.is_err() {
        if handle.status().failed.is_some() {
            return;
        }
        tokio::time::sleep(PUBLISH_RETRY).await;
    }
}
