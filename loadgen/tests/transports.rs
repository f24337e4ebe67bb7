//! Every transport against a real server, with every copy and every handshake accounted for.
#![forbid(unsafe_code)]

use billfish_testing::{Certificates, Standalone};
use serde_json::Value;
use std::{
    path::Path,
    process::{Command, Output},
};

const CLIENTS: u64 = 40;

fn loadgen(server: &Standalone, scenario: &str, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(scenario.split(' '))
        .args(["--connections", &CLIENTS.to_string(), "--json", "--ports-file"])
        .arg(server.ports_file())
        .arg("--data-dir")
        .arg(server.data_dir())
        .args(more)
        .output()
        .expect("it can be started")
}

fn report(output: &Output) -> Value {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stdout));
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {said}"))
}

#[test]
fn every_copy_arrives_over_every_transport_and_handshakes_are_counted() {
    let server = Standalone::beside(Path::new(env!("CARGO_BIN_EXE_loadgen")), Path::new(env!("CARGO")));
    let certificate = server.certificate();
    let ca = certificate.to_str().expect("a path of ours");
    let burst = "room-burst --rate 20 --seconds 1 --qos 1";
    let cases: [(&str, &[&str], u64, u64); 8] = [
        ("tcp", &[], 0, 0),
        ("ws", &[], 0, 0),
        ("tls", &[], CLIENTS, 0),
        ("tls", &["--resume-tls", "--login-window", "1", "--ca", ca], 1, CLIENTS - 1),
        ("wss", &["--ca", ca], CLIENTS, 0),
        ("wss", &["--resume-tls", "--login-window", "1", "--protobuf"], 1, CLIENTS - 1),
        ("quic", &["--ca", ca], CLIENTS, 0),
        ("quic", &["--resume-tls", "--login-window", "1", "--protobuf"], 1, CLIENTS - 1),
    ];
    for (transport, more, full, resumed) in cases {
        let more = [&["--transport", transport], more].concat();
        let report = report(&loadgen(&server, burst, &more));
        let detail = &report["detail"];
        assert_eq!(detail["transport"], transport, "{report:#}");
        assert_eq!((report["received"].as_u64(), report["missing"].as_u64()), (Some(20 * CLIENTS), Some(0)), "{more:?}: {report:#}");
        let count = |name: &str| detail[name].as_u64().unwrap_or(0);
        assert_eq!((count("tls_full"), count("tls_resumed")), (full, resumed), "{more:?}: {report:#}");
    }
    // Chat and heartbeats go up as well.
    for transport in ["wss", "quic"] {
        for scenario in ["echo --rate 200 --seconds 1", "unicast --rate 40 --seconds 1", "hold --seconds 1"] {
            let report = report(&loadgen(&server, scenario, &["--transport", transport]));
            assert!(report["received"].as_u64() > Some(0) || scenario.starts_with("hold"), "{transport}, {scenario}: {report:#}");
            assert_eq!(report["missing"].as_u64(), Some(0), "{transport}, {scenario}: {report:#}");
        }
    }
}

#[test]
fn slow_readers_over_quic_are_refused_with_the_reason() {
    let server = Standalone::beside(Path::new(env!("CARGO_BIN_EXE_loadgen")), Path::new(env!("CARGO")));
    let output = loadgen(&server, "slow-readers", &["--transport", "quic"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(2) && said.contains("cannot be counted"), "{said}");
}

#[test]
fn a_certificate_that_is_not_the_given_authoritys_ends_every_login() {
    let server = Standalone::beside(Path::new(env!("CARGO_BIN_EXE_loadgen")), Path::new(env!("CARGO")));
    let certificates = Certificates::new();
    let authority = certificates.authority();
    for transport in ["tls", "quic"] {
        let output = loadgen(&server, "storm", &["--transport", transport, "--ca", authority.to_str().expect("a path of ours")]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("UnknownIssuer"), "{transport}: {said}");
    }
    let output = loadgen(&server, "storm", &["--transport", "tls", "--ca", server.ports_file().to_str().expect("a path of ours")]);
    assert_eq!(output.status.code(), Some(2), "{}", String::from_utf8_lossy(&output.stderr));
}
