//! What the operating system says about this process, under the names that Prometheus' clients agree on.
//!
//! A system without `/proc` has none of these metrics; that is no error.

use prometheus::{Counter, Gauge, Registry};

use super::metrics::add;

/// Linux tells times of processes in this unit on all platforms.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) struct Process {
    cpu_seconds: Counter,
    open_fds: Gauge,
    max_fds: Gauge,
    resident_bytes: Gauge,
    virtual_bytes: Gauge,
    start_seconds: Gauge,
    fds_used: Gauge,
    fds_limit: Gauge,
}

impl Process {
    pub(super) fn new(registry: &Registry) -> Self {
        let gauge = |name: &str, help: &str| add(registry, Gauge::new(name, help));
        let cpu = Counter::new("process_cpu_seconds_total", "User and system CPU time.");
        Self {
            cpu_seconds: add(registry, cpu),
            open_fds: gauge("process_open_fds", "Open file descriptors."),
            max_fds: gauge("process_max_fds", "File descriptors that may be open."),
            resident_bytes: gauge("process_resident_memory_bytes", "Memory that is resident."),
            virtual_bytes: gauge("process_virtual_memory_bytes", "Memory that is mapped."),
            start_seconds: gauge("process_start_time_seconds", "When the process started, since the epoch."),
            fds_used: gauge("os_fd_used", "Open file descriptors."),
            fds_limit: gauge("os_fd_limit", "File descriptors that may be open."),
        }
    }

    /// Looks anew. What can't be read stays as it was.
    pub(super) fn look(&self) {
        if let Some(stat) = read("/proc/self/stat").as_deref().and_then(Stat::parse) {
            let since = stat.cpu_ticks / TICKS_PER_SECOND - self.cpu_seconds.get();
            self.cpu_seconds.inc_by(since.max(0.0));
            if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_seconds) {
                self.start_seconds.set(boot + stat.start_ticks / TICKS_PER_SECOND);
            }
        }
        if let Some(status) = read("/proc/self/status") {
            for (gauge, name) in [(&self.resident_bytes, "VmRSS:"), (&self.virtual_bytes, "VmSize:")] {
                if let Some(kib) = number_after(&status, name) {
                    gauge.set(kib * 1024.0);
                }
            }
        }
        if let Ok(fds) = std::fs::read_dir("/proc/self/fd") {
            // One of them is this directory.
            let open = fds.count().saturating_sub(1) as f64;
            self.open_fds.set(open);
            self.fds_used.set(open);
        }
        if let Some(max) =
            read("/proc/self/limits").and_then(|limits| number_after(&limits, "Max open files"))
        {
            self.max_fds.set(max);
            self.fds_limit.set(max);
        }
    }
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

struct Stat {
    cpu_ticks: f64,
    start_ticks: f64,
}

impl Stat {
    /// The program's name, in brackets, may hold anything: what counts stands behind its last bracket.
    fn parse(text: &str) -> Option<Self> {
        const USER: usize = 11;
        const SYSTEM: usize = 12;
        const START: usize = 19;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
        Some(Self { cpu_ticks: number(USER)? + number(SYSTEM)?, start_ticks: number(START)? })
    }
}

fn boot_seconds(text: &str) -> Option<f64> {
    number_after(text, "btime")
}

/// The first number of the line that begins with `name`.
fn number_after(text: &str, name: &str) -> Option<f64> {
    text.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_name_with_brackets_and_spaces_confuses_nothing() {
        let text = "12 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 4 0 7000 1 2";
        let stat = Stat::parse(text).expect("a line of /proc/self/stat");
        assert_eq!((stat.cpu_ticks, stat.start_ticks), (200.0, 7000.0));
        assert!(Stat::parse("12 (cut) S 1").is_none());
        assert_eq!(number_after("VmSize:\t  12 kB\nVmRSS:\t 34 kB\n", "VmRSS:"), Some(34.0));
        assert_eq!(
            number_after("Max open files            1024                 4096   files", "Max open files"),
            Some(1024.0)
        );
    }
}
