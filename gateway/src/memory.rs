//! Resident memory of this process, as the kernel counts it, and how much of it the process may have.

use std::path::Path;

/// Bytes of resident memory; `None` where there is no `/proc`.
#[must_use]
pub fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// What the process's control group may use, the smallest of it and those above it; `None` where nothing is set.
pub(crate) fn cgroup_limit_bytes() -> Option<u64> {
    limit_in(&std::fs::read_to_string("/proc/self/cgroup").ok()?, |file| std::fs::read_to_string(file).ok())
}

fn limit_in(groups: &str, read: impl Fn(&Path) -> Option<String>) -> Option<u64> {
    let of_line = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?);
        let (root, file) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max"),
            _ if controllers.split(',').any(|one| one == "memory") => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
            _ => return None,
        };
        // Within a container the path is often that of outside, and what can be seen is at the root.
        let paths = Path::new(group).ancestors().map(|group| Path::new(root).join(group.strip_prefix("/").unwrap_or(group)).join(file));
        paths.filter_map(|path| read(&path)?.trim().parse::<u64>().ok()).filter(|limit| *limit < UNLIMITED_BYTES).min()
    };
    groups.lines().filter_map(of_line).min()
}

/// The first version of control groups says "none" with the largest multiple of a page; no machine has so much.
const UNLIMITED_BYTES: u64 = 1 << 60;

#[cfg(test)]
mod tests {
    use super::limit_in;
    use std::{collections::HashMap, path::Path};

    fn limit(groups: &str, files: &[(&str, &str)]) -> Option<u64> {
        let files: HashMap<&Path, &str> = files.iter().map(|(path, text)| (Path::new(*path), *text)).collect();
        limit_in(groups, |path| files.get(path).map(|text| (*text).to_owned()))
    }

    #[test]
    fn the_smallest_limit_on_the_way_up_counts() {
        let files =
            [("/sys/fs/cgroup/a/b/memory.max", "max\n"), ("/sys/fs/cgroup/a/memory.max", "500\n"), ("/sys/fs/cgroup/memory.max", "900\n")];
        assert_eq!(limit("0::/a/b\n", &files), Some(500));
        assert_eq!(limit("0::/\n", &files), Some(900));
        assert_eq!(limit("0::/a/b\n", &files[..1]), None);
    }

    #[test]
    fn the_first_version_is_read_too_and_its_largest_number_is_none() {
        let groups = "5:cpu,cpuacct:/x\n4:memory:/x\n0::/\n";
        let file = "/sys/fs/cgroup/memory/x/memory.limit_in_bytes";
        assert_eq!(limit(groups, &[(file, "1048576\n")]), Some(1_048_576));
        assert_eq!(limit(groups, &[(file, "9223372036854771712\n")]), None);
        assert_eq!(limit("nonsense", &[(file, "1")]), None);
    }
}
