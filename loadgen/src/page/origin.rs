//! Where a run's figures come from: the command, the machine, the commit. Without these no figure can be compared.

use serde::Serialize;
use std::{fs, time::SystemTime};

/// Options whose value is nobody else's business.
const SECRETS: [&str; 1] = ["--api-key"];

/// Command, machine and build of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Origin {
    /// The command line as a shell takes it; secrets are masked.
    pub(crate) command: String,
    /// When the report was written, in UTC.
    pub(crate) written: String,
    /// Cores that this process may use.
    pub(crate) cores: usize,
    /// The processor's name for itself, where it has one.
    pub(crate) cpu: Option<String>,
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// System and release.
    pub(crate) kernel: String,
    /// Commit of the build, where `BILLFISH_COMMIT` was set when it was made.
    pub(crate) commit: Option<&'static str>,
}

impl Origin {
    /// Of this process.
    pub(crate) fn here() -> Self {
        let uname = rustix::system::uname();
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            command: command(std::env::args()),
            written: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu: field(&text("/proc/cpuinfo"), "model name").map(str::to_owned),
            memory_bytes: field(&text("/proc/meminfo"), "MemTotal").and_then(kibibytes),
            kernel: format!("{} {}", uname.sysname().to_string_lossy(), uname.release().to_string_lossy()),
            commit: option_env!("BILLFISH_COMMIT"),
        }
    }
}

/// One line that can be pasted, but for what is masked.
fn command(arguments: impl Iterator<Item = String>) -> String {
    let mut words = Vec::new();
    let mut is_secret = false;
    for (place, argument) in arguments.enumerate() {
        let word = match argument.split_once('=') {
            _ if place == 0 => argument.rsplit('/').next().unwrap_or("loadgen").to_owned(),
            _ if is_secret => "***".to_owned(),
            Some((name, _)) if SECRETS.contains(&name) => format!("{name}=***"),
            Some(_) | None => quoted(&argument),
        };
        is_secret = !is_secret && SECRETS.contains(&argument.as_str());
        words.push(word);
    }
    words.join(" ")
}

/// As a shell would take it. Arguments hold no NUL: the kernel hands none over.
fn quoted(argument: &str) -> String {
    shlex::try_quote(argument).map_or_else(|_| argument.escape_default().to_string(), String::from)
}

/// `name   : value` of `/proc`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

fn kibibytes(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

#[cfg(test)]
mod tests {
    use super::{Origin, command, field, kibibytes};

    #[test]
    fn a_command_can_be_pasted_and_gives_no_key_away() {
        let words = |line: &[&str]| command(line.iter().map(ToString::to_string));
        assert_eq!(
            words(&["/x/target/release/loadgen", "hold", "--report", "my dir", "--seed=1"]),
            "loadgen hold --report 'my dir' '--seed=1'"
        );
        assert_eq!(words(&["loadgen", "hold", "--api-key", "opensesame", "--json"]), "loadgen hold --api-key *** --json");
        assert_eq!(words(&["loadgen", "hold", "--api-key=opensesame"]), "loadgen hold --api-key=***");
        assert_eq!(words(&["loadgen", "hold", "--api-key", "--api-key", "--json"]), "loadgen hold --api-key *** --json");
    }

    #[test]
    fn fields_of_the_kernel_are_found_by_their_whole_name() {
        let text = "model\t\t: 1\nmodel name\t: AMD EPYC: the 3rd\nMemTotal:       24576 kB\n";
        assert_eq!((field(text, "model name"), field(text, "name")), (Some("AMD EPYC: the 3rd"), None));
        assert_eq!(field(text, "MemTotal").and_then(kibibytes), Some(24_576 * 1_024));
        assert_eq!(kibibytes("12 MB"), None);
    }

    #[test]
    fn this_machine_has_a_kernel_and_cores() {
        let origin = Origin::here();
        assert!(origin.cores > 0 && origin.kernel.starts_with("Linux "), "{origin:?}");
        assert!(origin.written.ends_with('Z') && origin.memory_bytes > Some(0), "{origin:?}");
    }
}
