//! QUIC of the whole process, spoken to by somebody else's implementation.

use crate::house::{House, PATIENCE, Peer, login_body};
use billfish_wire::{Body, Code, Encoding, frame};
use quinn::{ClientConfig, Connection, Endpoint, RecvStream, SendStream, crypto::rustls::QuicClientConfig};
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    ops::Range,
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
};

/// A Python that has aioquic: in `target/tools`, where it is put, with a word about it, when it is missing.
fn python_with_aioquic() -> PathBuf {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let status = Command::new(format!("{root}scripts/need")).arg("aioquic").status().unwrap();
    assert!(status.success(), "aioquic cannot be installed");
    PathBuf::from(format!("{root}target/tools/aioquic/bin/python"))
}

#[test]
fn a_client_on_another_quic_logs_in_joins_listens_and_leaves() {
    let python = python_with_aioquic();
    let house = House::start();
    let room = house.open_room(30_001);
    let mut speaker = house.login(20_002);
    speaker.join(room);
    let quic = house.ports.quic;
    let mut child = Command::new(python)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/quic_peer.py"))
        .args([&quic.ip().to_string(), &quic.port().to_string()])
        .arg(house.data_dir().join("development-cert.pem"))
        .args(["10001", "20001", &house.token(20_001), &room.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (tell, told) = mpsc::channel();
    let reading = std::thread::spawn(move || drop(lines.map_while(Result::ok).try_for_each(|line| tell.send(line))));
    let mut heard = Vec::new();
    for word in ["joined", "pushed", "ended"] {
        match told.recv_timeout(PATIENCE) {
            Ok(line) => {
                assert!(line.starts_with(word), "{line} instead of {word}");
                heard.push(line);
            }
            Err(_) => {
                drop(child.kill());
                let output = child.wait_with_output().unwrap();
                panic!("no {word} behind {heard:?}: {}\n{}", String::from_utf8_lossy(&output.stderr), house.log());
            }
        }
        if word == "joined" {
            speaker.chat(room, "hello, QUIC", "m1");
        }
    }
    assert_eq!(heard[1], "pushed hello, QUIC");
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    reading.join().unwrap();
    assert_eq!(house.metric("gateway_quic_handshakes_total", &[r#"result="established""#]), 1.0);
    assert_eq!(house.metric("gateway_closes_total", &[r#"reason="logged_out""#]), 1.0);
}

/// A client that believes the server's own certificate.
pub(crate) fn believing(house: &House) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(house.data_dir().join("development-cert.pem")).unwrap()).unwrap();
    let mut crypto = rustls::ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    crypto.alpn_protocols = vec![b"billfish/1".to_vec()];
    ClientConfig::new(Arc::new(QuicClientConfig::try_from(crypto).unwrap()))
}

/// Memory of the server for a client that is logged in, in a room, and idle, beyond what one over TCP takes. The bar is 32 KiB; this is the
/// whole process of a debug build, at one moment, so half of it more says only that something is kept that should not be.
const IDLE_BYTES_MAX: u64 = 48 * 1024;
/// Clients that are measured, behind some that bring the process to its size.
const CLIENTS: i64 = 800;
const FIRST: i64 = 200;

#[test]
fn an_idle_connection_is_small() {
    let house = House::start();
    let room = house.open_room(30_001);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let config = believing(&house);
    let endpoint = runtime.block_on(async { Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap() });
    let login = |user| Body { room_id: Some(room), ..login_body(user, house.token(user)) };

    let mut by_tcp: Vec<Peer> = Vec::new();
    let mut enter_by_tcp = |users: Range<i64>| {
        for user in users {
            let mut peer = house.connect();
            peer.send(Code::Login, &login(user));
            peer.expect(Code::Join);
            by_tcp.push(peer);
        }
        resident_bytes(house.pid())
    };
    let few = enter_by_tcp(20_001..20_001 + FIRST);
    let tcp_bytes = enter_by_tcp(20_001 + FIRST..20_001 + FIRST + CLIENTS).saturating_sub(few);

    let mut by_quic: Vec<(Connection, SendStream, RecvStream)> = Vec::new();
    let mut enter_by_quic = |users: Range<i64>| {
        // Asked for beforehand: what a token costs is not the transport's.
        let logins: Vec<Body> = users.map(login).collect();
        let (count, before) = (logins.len() as u128, cpu_ns(house.pid()));
        for login in logins {
            by_quic.push(runtime.block_on(async {
                let connection = endpoint.connect_with(config.clone(), house.ports.quic, "localhost").unwrap().await.unwrap();
                let (mut up, mut down) = connection.open_bi().await.unwrap();
                up.write_all(&frame::encode(Encoding::Json, Code::Login, &login)).await.unwrap();
                // LOGIN's answer and JOIN's.
                let mut answers = Vec::new();
                while !is_joined(&answers) {
                    answers.extend_from_slice(&down.read_chunk(4_096, true).await.unwrap().expect("an answer").bytes);
                }
                (connection, up, down)
            }));
        }
        eprintln!("{} µs of the server's CPU for each that came", cpu_ns(house.pid()).saturating_sub(before) / count / 1_000);
        resident_bytes(house.pid())
    };
    let few = enter_by_quic(40_001..40_001 + FIRST);
    let quic_bytes = enter_by_quic(40_001 + FIRST..40_001 + FIRST + CLIENTS).saturating_sub(few);
    let each = quic_bytes.saturating_sub(tcp_bytes) / CLIENTS.unsigned_abs();
    eprintln!("{each} bytes a connection: {quic_bytes} by QUIC, {tcp_bytes} by TCP, for {CLIENTS} each");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes a connection");
    assert_eq!(house.metric("gateway_sessions", &[]), 2.0 * (FIRST + CLIENTS) as f64);
}

fn is_joined(mut answers: &[u8]) -> bool {
    while let Ok(Some((one, taken))) = frame::decode(answers, 1 << 20) {
        if one.code == Code::Join.number() {
            return true;
        }
        answers = &answers[taken..];
    }
    false
}

/// What all threads of a process have run.
fn cpu_ns(pid: u32) -> u128 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let ran = |task: fs::DirEntry| fs::read_to_string(task.path().join("schedstat")).ok()?.split(' ').next()?.parse::<u128>().ok();
    tasks.filter_map(|task| ran(task.unwrap())).sum()
}

pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() * 1024
}
