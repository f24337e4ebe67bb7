//! Memory of the process: what an operator sees of it, and giving back what a storm has left behind.
//!
//! - The system's allocator keeps what was freed between things that live on. After a storm of logins that is a good part of what the process holds
//!   (docs/benchmarks.md).
//! - It is given back while the process is calm, and only when much has changed: looking through the heaps stops whoever allocates meanwhile.

use billfish_gateway::resident_bytes;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use rustix::time::{ClockId, clock_gettime};
use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

/// How often it is looked whether there is something to give back.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Calm is less than this share of one core between two looks.
const CALM_PERCENT: u32 = 10;
/// Resident memory that has come or gone since the last time makes another one worth it.
const CHANGED_BYTES_MIN: u64 = 1024 * 1024;

/// Registers the metrics of the process and begins to look after its memory, for as long as the runtime lives.
pub(crate) fn tend(registry: &mut Registry) {
    let process = Process::default();
    registry.register_collector(Box::new(process.clone()));
    tokio::spawn(process.tend());
}

#[derive(Clone, Debug, Default)]
struct Process {
    given_back: Arc<AtomicU64>,
}

impl Process {
    async fn tend(self) {
        let mut seen = Look::default();
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            if seen.is_worth_it(cpu_time(), resident_bytes().unwrap_or_default(), LOOK_EVERY) {
                // Not on a worker of the runtime, which it would stop.
                if tokio::task::spawn_blocking(give_back).await.unwrap_or(false) {
                    self.given_back.fetch_add(1, Relaxed);
                }
                seen.resident_bytes = resident_bytes().unwrap_or_default();
            }
        }
    }
}

/// What was seen at the last look, and what was resident when memory was last given back.
#[derive(Debug, Default)]
struct Look {
    cpu: Duration,
    resident_bytes: u64,
}

impl Look {
    fn is_worth_it(&mut self, cpu: Duration, resident_bytes: u64, since: Duration) -> bool {
        let used = cpu.saturating_sub(self.cpu);
        self.cpu = cpu;
        used * 100 < since * CALM_PERCENT && resident_bytes.abs_diff(self.resident_bytes) >= CHANGED_BYTES_MIN
    }
}

/// CPU time of all threads since the process began.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::ProcessCPUTime).try_into().unwrap_or_default()
}

/// Gives free pages of every heap back to the kernel; whether there were any.
#[cfg(target_env = "gnu")]
#[expect(unsafe_code, reason = "no crate wraps malloc_trim(3)")]
fn give_back() -> bool {
    // SAFETY: it takes no pointer and may be called by any thread at any time (malloc_trim(3): MT-Safe).
    unsafe { libc::malloc_trim(0) == 1 }
}

/// Other allocators look after this themselves.
#[cfg(not(target_env = "gnu"))]
fn give_back() -> bool {
    false
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let resident = ConstGauge::new(resident_bytes().unwrap_or_default().cast_signed());
        let help = "Resident memory of the process";
        resident.encode(encoder.encode_descriptor("process_resident_memory_bytes", help, None, MetricType::Gauge)?)?;
        let cpu = ConstCounter::new(cpu_time().as_secs_f64());
        let help = "User and system CPU time of the process";
        cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?)?;
        let given_back = ConstCounter::new(self.given_back.load(Relaxed));
        let help = "Times that free memory was given back to the kernel";
        given_back.encode(encoder.encode_descriptor("process_memory_given_back", help, None, MetricType::Counter)?)
    }
}

#[cfg(test)]
mod tests {
    use super::{Look, Process, cpu_time, give_back};
    use billfish_gateway::resident_bytes;
    use prometheus_client::{encoding::text, registry::Registry};
    use std::time::Duration;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn memory_is_given_back_in_calm_and_when_it_changed() {
        let (mut look, since) = (Look::default(), Duration::from_secs(10));
        assert!(!look.is_worth_it(Duration::from_secs(5), 100 * MIB, since), "a storm");
        assert!(look.is_worth_it(Duration::from_millis(5_500), 100 * MIB, since));
        look.resident_bytes = 70 * MIB;
        assert!(!look.is_worth_it(Duration::from_millis(5_600), 70 * MIB + MIB - 1, since), "nothing has changed");
        assert!(look.is_worth_it(Duration::from_millis(5_700), 60 * MIB, since), "a crowd has left");
        assert!(!look.is_worth_it(Duration::from_millis(6_700), 60 * MIB, since), "a tenth of a core is not calm");
    }

    #[test]
    fn what_was_freed_among_what_lives_goes_back_to_the_kernel() {
        let blocks: Vec<Box<[u8]>> = (0..20_000).map(|_| vec![1; 4096].into_boxed_slice()).collect();
        // Every sixteenth block stays, and with it the heap's end.
        let kept: Vec<_> = blocks.into_iter().enumerate().filter(|(index, _)| index % 16 == 15).map(|(_, block)| block).collect();
        let before = resident_bytes().unwrap();
        assert!(give_back());
        let after = resident_bytes().unwrap();
        assert!(before.saturating_sub(after) > 40 * MIB, "{before} bytes before, {after} after");
        drop(kept);
    }

    #[test]
    fn the_page_shows_what_the_kernel_says() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Process::default()));
        let mut page = String::new();
        text::encode(&mut page, &registry).unwrap();
        let value = |name: &str| page.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap();
        assert!(value("process_resident_memory_bytes ") > 1e6);
        assert!((0.0..=cpu_time().as_secs_f64()).contains(&value("process_cpu_seconds_total ")));
        assert!(value("process_memory_given_back_total ").abs() < f64::EPSILON);
        let docs = include_str!("../docs/metrics.md");
        let listed = docs.lines().filter(|line| line.starts_with("| `process_")).count();
        let shown: Vec<_> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        assert_eq!(listed, shown.len());
        assert!(shown.iter().all(|name| docs.contains(&format!("| `{name}"))), "{shown:?}");
    }
}
