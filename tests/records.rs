//! Records that are not those of the shared state: a router with a database of its own beside a cluster.

use crate::house::PATIENCE;
use billfish_testing::{Cluster, ClusterOptions};
use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::Instant,
};

/// One more router on the cluster's Redis with this data directory: its exit code and what it says, if it ends.
fn router(redis: SocketAddr, data_dir: &std::path::Path) -> Option<(Option<i32>, String)> {
    let log = data_dir.with_extension("log");
    let output = std::fs::File::create(&log).unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_billfish"))
        .arg("router")
        .envs([
            ("BILLFISH__STATE__KIND", "redis"),
            ("BILLFISH__ROUTER__NODE", "router-9"),
            ("BILLFISH__ROUTER__LINK__LISTEN", "127.0.0.1:0"),
            ("BILLFISH__ROUTER__LINK__SECRET", "test-cluster-link-secret"),
            ("BILLFISH__HTTP__LISTEN", "127.0.0.1:0"),
            ("BILLFISH__HTTP__API_KEY", "test-cluster-api-key-0123456789"),
            ("BILLFISH__ADMIN__LISTEN", "127.0.0.1:0"),
        ])
        .env("BILLFISH__STATE__REDIS__NODES", format!("[\"{redis}\"]"))
        .env("BILLFISH__DATA_DIR", data_dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    Some((status.code(), std::fs::read_to_string(&log).unwrap()))
}

#[test]
fn a_router_with_records_of_its_own_is_refused_and_told_which_key_to_set() {
    let Some(cluster) = Cluster::start(ClusterOptions { gateways: 1, routers: 1, ..ClusterOptions::new(env!("CARGO_BIN_EXE_billfish")) })
    else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("its own");
    let (code, said) = router(cluster.redis().address(), &data_dir).expect("it does not go on");
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("ledger.url") && said.contains(&data_dir.join("billfish.db").display().to_string()), "{said}");
    cluster.wait_ready();
}
