//! The process's log. This is the only place that installs one for the whole process; libraries only emit events.

pub use quorate::logging::{Format, Settings};

/// Installs the process's log.
pub fn install(settings: &Settings) -> anyhow::Result<()> {
    let log = quorate::logging::dispatch(settings)?;
    tracing::dispatcher::set_global_default(log).map_err(|_| anyhow::anyhow!("a log is installed already"))
}
