//! Hours of steady load on three members: latencies, memory and disk over time, as a table, a CSV file and a plot.
//!
//! Invariants: the load is an open loop at one rate, so a stall shows in the latencies of all that were due meanwhile;
//! every window has clients and connections of its own; a window with an error ends the run, as an error.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use plotters::prelude::*;

use crate::cluster::{Cluster, System};
use crate::compare::{check, fill};
use crate::latency::Quantiles;
use crate::load::{self, Load, Pace, Until};
use crate::workload::{Kind, Operation, Order, Workload};

const CLIENTS: usize = 64;
const CONNECTIONS: usize = 8;
const PLOT_SIZE: (u32, u32) = (1000, 1200);
const PANELS: usize = 4;

/// How much load, and for how long.
#[derive(Clone, Debug)]
pub struct Soak {
    pub requests_per_second: f64,
    pub read_percent: u8,
    pub keys: u64,
    pub value_size_bytes: usize,
    pub elapsed: Duration,
    /// One row of the table each.
    pub window: Duration,
}

/// What one window showed.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// From the end of filling to the end of the window.
    pub at: Duration,
    pub per_second: f64,
    pub reads: Quantiles,
    pub writes: Quantiles,
    pub cpu_us: f64,
    pub resident_bytes: u64,
    pub allocated_bytes: u64,
}

const HEADER: &str = "seconds,per_second,read_p50_us,read_p99_us,read_max_us,write_p50_us,write_p99_us,write_max_us,\
                      cpu_us_per_operation,resident_mb,allocated_mb";

impl Row {
    fn csv(&self) -> String {
        let Self { at, per_second, reads, writes, cpu_us, resident_bytes, allocated_bytes } = *self;
        format!(
            "{},{per_second:.0},{:.0},{:.0},{:.0},{:.0},{:.0},{:.0},{cpu_us:.1},{:.1},{:.1}",
            at.as_secs(),
            reads.p50_us,
            reads.p99_us,
            reads.max_us,
            writes.p50_us,
            writes.p99_us,
            writes.max_us,
            megabytes(resident_bytes),
            megabytes(allocated_bytes)
        )
    }
}

/// Where the results go.
#[derive(Debug)]
pub struct Output {
    pub csv: PathBuf,
    pub plot: PathBuf,
}

/// Runs the whole time. The CSV file grows by a line a window, so that a run that fails leaves what it saw.
pub fn soak(system: &System, folder: &Path, soak: &Soak, output: &Output) -> anyhow::Result<Vec<Row>> {
    let cluster = Cluster::start(system, folder)?;
    fill(&cluster, soak.keys, soak.value_size_bytes, 1)?;
    let mut csv = std::fs::File::create(&output.csv)
        .with_context(|| format!("cannot write {}", output.csv.display()))?;
    writeln!(csv, "{HEADER}")?;
    println!("{HEADER}");
    let start = Instant::now();
    let mut rows = Vec::new();
    while start.elapsed() < soak.elapsed {
        let row = window(&cluster, soak, start, rows.len() as u64)?;
        writeln!(csv, "{}", row.csv())?;
        println!("{}", row.csv());
        rows.push(row);
    }
    plot(&rows, soak, &output.plot).with_context(|| format!("cannot draw {}", output.plot.display()))?;
    Ok(rows)
}

fn window(cluster: &Cluster, soak: &Soak, start: Instant, number: u64) -> anyhow::Result<Row> {
    let operation = Operation::Mixed { read_percent: soak.read_percent, serializable: false };
    let workload = Workload::new(operation, Order::Random, soak.keys, soak.value_size_bytes, number);
    let load = Load {
        clients: CLIENTS,
        connections: CONNECTIONS,
        threads: 1,
        pace: Pace::Open { requests_per_second: soak.requests_per_second },
        warm_up: Duration::ZERO,
        until: Until::Elapsed(soak.window),
    };
    let (outcome, before, after) = load::run(&load, &cluster.endpoints()?, &workload, || cluster.cpu_time())?;
    let at = start.elapsed();
    check(&outcome).with_context(|| format!("after {at:.0?}"))?;
    let footprint = cluster.footprint()?;
    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^53 answers")]
    let cpu_us = (after? - before?).as_secs_f64() * 1e6 / outcome.answers as f64;
    let of = |kind| outcome.latencies.of(kind).context("a window without reads or without writes");
    Ok(Row {
        at,
        per_second: outcome.rate(),
        reads: of(Kind::Read)?,
        writes: of(Kind::Write)?,
        cpu_us,
        resident_bytes: footprint.resident_bytes,
        allocated_bytes: footprint.allocated_bytes,
    })
}

#[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

type Curve = (&'static str, fn(&Row) -> f64);

/// One panel: a title, and what is drawn in it.
const CHARTS: [(&str, &[Curve]); PANELS] = [
    (
        "reads, linearizable: ms",
        &[("p50", |row| row.reads.p50_us / 1e3), ("p99", |row| row.reads.p99_us / 1e3)],
    ),
    ("writes: ms", &[("p50", |row| row.writes.p50_us / 1e3), ("p99", |row| row.writes.p99_us / 1e3)]),
    ("memory of three members: MB", &[("resident", |row| megabytes(row.resident_bytes))]),
    ("disk of three members: MB", &[("allocated", |row| megabytes(row.allocated_bytes))]),
];

fn plot(rows: &[Row], soak: &Soak, path: &Path) -> anyhow::Result<()> {
    let area = SVGBackend::new(path, PLOT_SIZE).into_drawing_area();
    area.fill(&WHITE)?;
    let title = format!(
        "{:.0} requests a second, {} % reads, {} keys, values of {} B",
        soak.requests_per_second, soak.read_percent, soak.keys, soak.value_size_bytes
    );
    let area = area.titled(&title, ("sans-serif", 20))?;
    let minutes = |row: &Row| row.at.as_secs_f64() / 60.0;
    let end = rows.last().map_or(1.0, minutes);
    for (panel, (caption, curves)) in area.split_evenly((PANELS, 1)).iter().zip(CHARTS) {
        let values = rows.iter().flat_map(|row| curves.iter().map(|(_, of)| of(row)));
        let top = values.fold(0.0_f64, f64::max) * 1.1;
        let mut chart = ChartBuilder::on(panel)
            .caption(caption, ("sans-serif", 16))
            .margin(10)
            .x_label_area_size(30)
            .y_label_area_size(60)
            .build_cartesian_2d(0.0..end, 0.0..top.max(f64::MIN_POSITIVE))?;
        chart.configure_mesh().x_desc("minutes").draw()?;
        for (number, (name, of)) in curves.iter().enumerate() {
            let color = Palette99::pick(number).to_rgba();
            let points = rows.iter().map(|row| (minutes(row), of(row)));
            let series = chart.draw_series(LineSeries::new(points, color))?;
            let legend = move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], color);
            series.label(*name).legend(legend);
        }
        chart.configure_series_labels().background_style(WHITE).border_style(BLACK).draw()?;
    }
    area.present()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_has_a_panel_for_reads_writes_memory_and_disk() {
        let of = |p50_us| Quantiles { count: 1, p50_us, p90_us: 2.0, p99_us: 3.0, max_us: 4.0 };
        let row = |seconds| Row {
            at: Duration::from_secs(seconds),
            per_second: 1.0,
            reads: of(1.0),
            writes: of(2.0),
            cpu_us: 1.0,
            resident_bytes: 1_000_000,
            allocated_bytes: 2_000_000,
        };
        let soak = Soak {
            requests_per_second: 10.0,
            read_percent: 50,
            keys: 10,
            value_size_bytes: 1,
            elapsed: Duration::from_secs(60),
            window: Duration::from_secs(30),
        };
        let path = std::env::temp_dir().join(format!("quorate-soak-{}.svg", std::process::id()));
        plot(&[row(30), row(60)], &soak, &path).expect("a plot");
        let text = std::fs::read_to_string(&path).expect("a file");
        std::fs::remove_file(&path).expect("removed");
        for (caption, _) in CHARTS {
            assert!(text.contains(caption), "{caption}");
        }
        assert_eq!(row(30).csv(), "30,1,1,3,4,2,3,4,1.0,1.0,2.0");
        assert_eq!(HEADER.split(',').count(), row(30).csv().split(',').count());
    }
}
