//! `GET /metrics`: how hsup and its dynos are, for Prometheus, in the text format of OpenMetrics 1.0. Everything is read
//! off at the moment of the question; nothing is counted here.
//!
//! Names follow Prometheus' conventions: base units, counters end in `_total`, labels are few and bounded.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::time::SystemTime;

use hsup_drivers::process::Usage;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeCounterValue, EncodeGaugeValue, EncodeLabelSet, NoLabelSet,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::dyno::DynoState;
use crate::events::{Histogram, START_SECONDS, Tally};
use crate::formation::FormationStatus;
use crate::logs::{DrainStatus, LogsStatus};
use crate::model::ProcessType;
use crate::sources::LookCounts;

/// The type of the text.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Each state that a dyno of the formation may be in. All of them are told, so that no series comes and goes.
const STATES: [DynoState; 7] = [
    DynoState::Stopped,
    DynoState::Starting,
    DynoState::Up,
    DynoState::Crashed,
    DynoState::Restarting,
    DynoState::Stopping,
    DynoState::Retired,
];

/// Everything that is told, as it was at one moment.
#[derive(Debug)]
pub(super) struct Scrape {
    pub(super) formation: FormationStatus,
    pub(super) logs: LogsStatus,
    pub(super) tally: Tally,
    pub(super) looks: LookCounts,
    pub(super) process: ProcessUse,
}

/// What the process of hsup uses; what cannot be read is left out.
#[derive(Debug)]
pub(super) struct ProcessUse {
    started: SystemTime,
    usage: Option<Usage>,
    open_fds: Option<u64>,
}

impl ProcessUse {
    /// Reads it from /proc.
    pub(super) fn read(started: SystemTime) -> Self {
        // one of them is that of the directory itself
        let open = fs::read_dir("/proc/self/fd").map(|dir| dir.count().saturating_sub(1) as u64);
        let usage = hsup_drivers::process::usage_alone(std::process::id());
        Self { started, usage, open_fds: open.ok() }
    }
}

impl Scrape {
    /// The text.
    pub(super) fn text(self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self));
        let mut text = String::new();
        encode(&mut text, &registry).expect("a text in memory takes everything");
        text
    }

    fn encode_dynos(&self, to: &mut Metrics<'_, '_>) -> fmt::Result {
        let types = self.formation.formation.keys();
        let types = types.chain(self.formation.dynos.iter().map(|dyno| &dyno.name.process_type));
        let mut counts: BTreeMap<(&ProcessType, &str), i64> =
            types.flat_map(|process_type| STATES.map(|state| ((process_type, state.word()), 0))).collect();
        for dyno in &self.formation.dynos {
            *counts.entry((&dyno.name.process_type, dyno.state.word())).or_default() += 1;
        }
        let dynos = counts.iter().map(|((process_type, state), count)| {
            ([("process_type", process_type.to_string()), ("state", (*state).to_owned())], *count)
        });
        to.gauge("hsup_dynos", "Dynos by process type and state.", None, dynos)?;
        let wanted = self.formation.formation.iter();
        let wanted = wanted.map(|(name, quantity)| (of_type(name), i64::from(quantity.get())));
        to.gauge("hsup_dynos_wanted", "Dynos that there are to be.", None, wanted)?;
        let restarts = self.tally.restarts.iter().map(|((process_type, reason), count)| {
            ([("process_type", process_type.to_string()), ("reason", (*reason).to_owned())], *count)
        });
        let help = "Restarts of dynos in place, by why the run before ended.";
        to.counter("hsup_dyno_restarts", help, None, restarts)?;
        let help = "Time that the dyno driver took to start runs that came up.";
        to.histogram("hsup_dyno_start", help, &self.tally.starts)?;
        let help = "Time from the start of runs until they were ready, where that is checked.";
        to.histogram("hsup_dyno_ready", help, &self.tally.readiness)
    }

    fn encode_releases(&self, to: &mut Metrics<'_, '_>) -> fmt::Result {
        let live = self.formation.app.as_ref().zip(self.formation.release);
        let live = live.map(|(app, version)| [("app", app.to_string()), ("version", version.to_string())]);
        to.info("hsup_release", "The release that is live.", live)?;
        let verdicts = ["good", "bad", "failed", "rolled-back"].map(|verdict| {
            let count = self.tally.releases.get(verdict).copied().unwrap_or_default();
            ([("verdict", verdict)], count)
        });
        let help =
            "Releases that turned out good or bad, could not be prepared, or were rolled back by themselves.";
        to.counter("hsup_releases", help, None, verdicts)?;
        let polls = [("success", self.looks.succeeded), ("failure", self.looks.failed)];
        let polls = polls.map(|(result, count)| ([("result", result)], count));
        to.counter("hsup_source_polls", "Looks at the source of releases.", None, polls)
    }

    fn encode_logs(&self, to: &mut Metrics<'_, '_>) -> fmt::Result {
        let logs = &self.logs;
        let help = "Log lines that dynos have printed, and that were said of them.";
        to.counter("hsup_log_lines", help, None, [(NoLabels, logs.lines)])?;
        to.counter("hsup_log", "Bytes of these log lines.", Some(Unit::Bytes), [(NoLabels, logs.bytes)])?;
        // two that differ in what is not shown are one series
        let of_drains = |number: fn(&DrainStatus) -> u64| {
            let mut numbers = BTreeMap::new();
            for drain in &logs.drains {
                *numbers.entry(drain.url.clone()).or_insert(0) += number(drain);
            }
            numbers.into_iter().map(|(url, number)| ([("url", url)], number))
        };
        let lines = of_drains(|drain| drain.sent_lines);
        to.counter("hsup_drain_sent_lines", "Log lines that the drain has accepted.", None, lines)?;
        let lines = of_drains(|drain| drain.dropped_lines);
        to.counter("hsup_drain_dropped_lines", "Log lines that were dropped for want of room.", None, lines)?;
        let lines = of_drains(|drain| drain.refused_lines);
        to.counter("hsup_drain_refused_lines", "Log lines that the drain has refused.", None, lines)?;
        let retries = of_drains(|drain| drain.retries);
        to.counter("hsup_drain_retries", "Attempts to send that failed and are made again.", None, retries)?;
        let gauge = |number| of_drains(number).map(|(url, number)| (url, saturated(number)));
        let buffered = gauge(|drain| drain.buffered_bytes);
        to.gauge("hsup_drain_buffered", "What waits in memory.", Some(Unit::Bytes), buffered)?;
        let spooled = gauge(|drain| drain.spooled_bytes);
        to.gauge("hsup_drain_spooled", "What waits on disk.", Some(Unit::Bytes), spooled)
    }

    fn encode_process(&self, to: &mut Metrics<'_, '_>) -> fmt::Result {
        let ProcessUse { started, usage, open_fds } = &self.process;
        let build = [("version", env!("CARGO_PKG_VERSION").to_owned())];
        to.info("hsup_build", "The hsup that runs.", Some(build))?;
        let started = started.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let started = [(NoLabels, started.as_secs_f64())];
        let help = "When hsup was started, since 1970.";
        to.gauge("process_start_time", help, Some(Unit::Seconds), started)?;
        let memory = usage.map(|usage| (NoLabels, saturated(usage.memory_bytes)));
        let help = "Resident memory of hsup, without its guardian and its dynos.";
        to.gauge("process_resident_memory", help, Some(Unit::Bytes), memory)?;
        let cpu = usage.map(|usage| (NoLabels, usage.cpu.as_secs_f64()));
        to.counter("process_cpu", "Processor time that hsup has used.", Some(Unit::Seconds), cpu)?;
        let open = open_fds.map(|count| (NoLabels, saturated(count)));
        to.gauge("process_open_fds", "File descriptors that hsup has open.", None, open)
    }
}

impl Collector for Scrape {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut to = Metrics(&mut encoder);
        self.encode_dynos(&mut to)?;
        self.encode_releases(&mut to)?;
        self.encode_logs(&mut to)?;
        self.encode_process(&mut to)
    }
}

fn of_type(process_type: &ProcessType) -> [(&'static str, String); 1] {
    [("process_type", process_type.to_string())]
}

/// What no gauge of whole numbers holds is not there.
fn saturated(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A metric that has no labels: not even braces.
struct NoLabels;

/// The labels of one sample, where it has any.
trait Labels {
    type Set: EncodeLabelSet;
    fn set(&self) -> Option<&Self::Set>;
}

impl Labels for NoLabels {
    type Set = NoLabelSet;

    fn set(&self) -> Option<&NoLabelSet> {
        None
    }
}

impl<V, const N: usize> Labels for [(&'static str, V); N]
where
    [(&'static str, V); N]: EncodeLabelSet,
{
    type Set = Self;

    fn set(&self) -> Option<&Self> {
        Some(self)
    }
}

/// Writes metrics, each with all of its samples.
struct Metrics<'a, 'b>(&'a mut DescriptorEncoder<'b>);

impl Metrics<'_, '_> {
    fn gauge<L: Labels, V: EncodeGaugeValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
        for (labels, value) in samples {
            match labels.set() {
                Some(labels) => metric.encode_family(labels)?.encode_gauge(&value)?,
                None => metric.encode_gauge(&value)?,
            }
        }
        Ok(())
    }

    fn counter<L: Labels, V: EncodeCounterValue>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<Unit>,
        samples: impl IntoIterator<Item = (L, V)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit.as_ref(), MetricType::Counter)?;
        for (labels, value) in samples {
            match labels.set() {
                Some(labels) => {
                    metric.encode_family(labels)?.encode_counter::<NoLabelSet, _, f64>(&value, None)?;
                }
                None => metric.encode_counter::<NoLabelSet, _, f64>(&value, None)?,
            }
        }
        Ok(())
    }

    fn info(&mut self, name: &str, help: &str, labels: Option<impl EncodeLabelSet>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Info)?;
        labels.map_or(Ok(()), |labels| metric.encode_info(&labels))
    }

    /// Durations by process type, in seconds.
    fn histogram(
        &mut self,
        name: &str,
        help: &str,
        by_type: &BTreeMap<ProcessType, Histogram>,
    ) -> fmt::Result {
        let unit = Unit::Seconds;
        let mut metric = self.0.encode_descriptor(name, help, Some(&unit), MetricType::Histogram)?;
        for (process_type, durations) in by_type {
            let buckets = START_SECONDS.into_iter().chain([f64::INFINITY]);
            let counts = durations.counts.into_iter().chain([durations.longer]);
            let buckets: Vec<(f64, u64)> = buckets.zip(counts).collect();
            let (sum, count) = (durations.sum, durations.count());
            let labels = of_type(process_type);
            let mut metric = metric.encode_family(&labels)?;
            metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use super::*;
    use crate::dyno::DynoStatus;
    use crate::events::{DynoNews, Events, ReleaseNews, What};
    use crate::model::{Quantity, ReleaseVersion};

    fn scrape() -> Scrape {
        let events = Events::new();
        let dyno = |news| What::Dyno { dyno: "web.1".parse().unwrap(), release: ReleaseVersion(3), news };
        let started_in = Some(std::time::Duration::from_millis(2));
        let (from, to) = (DynoState::Starting, DynoState::Up);
        events.tell(dyno(DynoNews::State { from, to, started_in, ready_in: started_in }));
        events.tell(dyno(DynoNews::Restart { reason: "exited", restarts: 1 }));
        events.tell(What::Release { release: ReleaseVersion(3), news: ReleaseNews::Good });
        let up = DynoStatus {
            state: DynoState::Up,
            ..DynoStatus::never_started("web.1".parse().unwrap(), ReleaseVersion(3), 5000)
        };
        let drain = |sent_lines| DrainStatus {
            url: "https://logs.example.com/\"\\\n".to_owned(),
            sent_lines,
            ..DrainStatus::default()
        };
        Scrape {
            formation: FormationStatus {
                app: Some("myapp".parse().unwrap()),
                release: Some(ReleaseVersion(3)),
                formation: BTreeMap::from([("web".parse().unwrap(), Quantity::ONE)]),
                dynos: vec![Arc::new(up)],
            },
            logs: LogsStatus { lines: 12, bytes: 340, drains: vec![drain(3), drain(4)] },
            tally: events.tally(),
            looks: LookCounts { succeeded: 5, failed: 1 },
            process: ProcessUse::read(SystemTime::now()),
        }
    }

    #[test]
    fn everything_is_told() {
        let text = scrape().text();
        for line in [
            "hsup_dynos{process_type=\"web\",state=\"up\"} 1",
            "hsup_dynos{process_type=\"web\",state=\"crashed\"} 0",
            "hsup_dynos_wanted{process_type=\"web\"} 1",
            "hsup_dyno_restarts_total{process_type=\"web\",reason=\"exited\"} 1",
            "hsup_dyno_start_seconds_count{process_type=\"web\"} 1",
            "hsup_dyno_start_seconds_bucket{le=\"0.001\",process_type=\"web\"} 0",
            "hsup_dyno_start_seconds_bucket{le=\"0.0025\",process_type=\"web\"} 1",
            "hsup_dyno_start_seconds_bucket{le=\"+Inf\",process_type=\"web\"} 1",
            "hsup_dyno_ready_seconds_sum{process_type=\"web\"} 0.002",
            "hsup_release_info{app=\"myapp\",version=\"v3\"} 1",
            "hsup_releases_total{verdict=\"good\"} 1",
            "hsup_releases_total{verdict=\"bad\"} 0",
            "hsup_source_polls_total{result=\"failure\"} 1",
            "hsup_log_lines_total 12",
            "hsup_log_bytes_total 340",
            "hsup_drain_sent_lines_total{url=\"https://logs.example.com/\\\"\\\\\\n\"} 7",
        ] {
            assert!(text.lines().any(|told| told == line), "{line} is not in\n{text}");
        }
        for begins in ["process_resident_memory_bytes ", "process_open_fds ", "process_start_time_seconds "] {
            assert!(text.lines().any(|line| line.starts_with(begins)), "{begins}\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
    }

    /// The rules of prometheus.io/docs/practices/naming, and those of OpenMetrics that go with them.
    #[test]
    fn names_are_as_prometheus_has_them() {
        let text = scrape().text();
        let mut seen = BTreeSet::new();
        let (mut family, mut kind, mut samples) = (String::new(), String::new(), 0);
        for line in text.lines().filter(|line| *line != "# EOF") {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["#", "HELP", name, ..] => {
                    assert!(family.is_empty() || samples > 0, "{family} has no sample");
                    assert!(seen.insert(name.to_owned()), "{name} is told twice");
                    assert!(line.ends_with('.') && words.len() > 4, "{line}");
                    assert!(name.starts_with("hsup_") || name.starts_with("process_"), "{line}");
                    let good = |c: char| c.is_ascii_lowercase() || c == '_';
                    assert!(name.chars().all(good) && !name.contains("__"), "{line}");
                    let wrong = ["_total", "_info", "_count", "_ms", "_millis", "_kb", "_percent"];
                    assert!(!wrong.iter().any(|end| name.ends_with(end)), "{line}");
                    (family, kind, samples) = (name.to_owned(), String::new(), 0);
                }
                ["#", "TYPE", name, of] => {
                    assert_eq!(name, family, "{line}");
                    of.clone_into(&mut kind);
                }
                ["#", "UNIT", name, unit] => {
                    assert!(name == family && name.ends_with(&format!("_{unit}")), "{line}");
                    assert!(["seconds", "bytes"].contains(&unit), "{line}");
                }
                _ => {
                    let name = line.split(['{', ' ']).next().unwrap();
                    let ends: &[&str] = match kind.as_str() {
                        "gauge" => &[""],
                        "counter" => &["_total"],
                        "info" => &["_info"],
                        "histogram" => &["_sum", "_count", "_bucket"],
                        other => panic!("{family} is of type {other:?}"),
                    };
                    assert!(ends.iter().any(|end| name == format!("{family}{end}")), "{line} in {family}");
                    if name.ends_with("bytes") || name.ends_with("seconds") {
                        assert!(
                            text.contains(&format!("# UNIT {family} ")),
                            "{family} does not say its unit"
                        );
                    }
                    samples += 1;
                }
            }
        }
        assert!(seen.len() > 15);
    }

    #[test]
    fn before_there_is_a_release_there_is_little_to_tell() {
        let nothing = Scrape {
            formation: FormationStatus {
                app: None,
                release: None,
                formation: BTreeMap::new(),
                dynos: Vec::new(),
            },
            logs: LogsStatus::default(),
            tally: Tally::default(),
            looks: LookCounts::default(),
            process: ProcessUse { started: SystemTime::UNIX_EPOCH, usage: None, open_fds: None },
        };
        let text = nothing.text();
        assert!(text.contains("hsup_log_lines_total 0\n") && !text.contains("hsup_dynos{"), "{text}");
    }
}
