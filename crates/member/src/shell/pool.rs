//! A few threads for calls that may wait for the disk: cold bodies, mostly.

use std::sync::{Arc, mpsc};
use std::sync::{Mutex, PoisonError};
use std::thread;

use super::log::with_callers_log;

type Job = Box<dyn FnOnce() + Send>;

/// Jobs that may wait at a time; more are run by whoever asks.
const JOBS_WAITING_MAX: usize = 1024;

/// See the module. Dropping it ends the threads once their jobs are done.
pub struct Pool {
    jobs: mpsc::SyncSender<Job>,
}

impl Pool {
    /// Starts `threads` threads called `name`.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (jobs, queue) = mpsc::sync_channel::<Job>(JOBS_WAITING_MAX);
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads {
            let queue = queue.clone();
            thread::Builder::new().name(name.to_owned()).spawn(with_callers_log(move || {
                loop {
                    let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => return,
                    }
                }
            }))?;
        }
        Ok(Self { jobs })
    }

    /// Runs `job` on a thread of the pool, or right here where too many wait.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        match self.jobs.try_send(Box::new(job)) {
            Ok(()) => {}
            Err(mpsc::TrySendError::Full(job) | mpsc::TrySendError::Disconnected(job)) => job(),
        }
    }
}
