//! Where the server is, and what its gateways count.

use crate::{http::Counters, options::Common, scenario::WrongUse, transport::Transport};
use anyhow::Result;
use serde::Deserialize;
use std::{
    fs, mem,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

/// A copy is counted within milliseconds of its write, on a busy machine within tens of them; other traffic may never stand still.
const SETTLE_MAX: Duration = Duration::from_secs(3);
/// Between two looks at counters that may still move.
const SETTLE_STEP: Duration = Duration::from_millis(100);

/// Where the server is.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    pub(super) gateways: Vec<SocketAddr>,
    pub(crate) http: String,
    pub(super) admin: Vec<String>,
    pub(super) api_key: String,
    /// Where that is from, for who must be told that it is wrong.
    pub(super) key_source: String,
}

impl Server {
    /// From the options, then the ports file, then the defaults.
    pub(super) fn of(common: &Common) -> Result<Self> {
        #[derive(Default, Deserialize)]
        struct Ports {
            tcp: Option<SocketAddr>,
            ws: Option<SocketAddr>,
            tls: Option<SocketAddr>,
            quic: Option<SocketAddr>,
            http: Option<SocketAddr>,
            admin: Option<SocketAddr>,
        }
        let ports = match &common.ports_file {
            None => Ports::default(),
            Some(path) => {
                let text = fs::read_to_string(path).map_err(|error| WrongUse(format!("--ports-file {}: {error}", path.display())))?;
                serde_json::from_str(&text).map_err(|error| WrongUse(format!("--ports-file {}: {error}", path.display())))?
            }
        };
        let (http, admin) = (ports.http.map(reachable), ports.admin.map(reachable));
        let gateway = match common.transport {
            Transport::Tcp => ports.tcp,
            Transport::Ws => ports.ws,
            Transport::Tls | Transport::Wss => ports.tls,
            Transport::Quic => ports.quic,
        };
        if common.ports_file.is_some() && common.gateway.is_empty() && gateway.is_none() {
            let transport = common.transport;
            return Err(WrongUse(format!("the server of --ports-file does not listen for {transport}: see its gateway.listen")).into());
        }
        let gateways = if common.gateway.is_empty() {
            vec![gateway.map_or_else(|| SocketAddr::from(([127, 0, 0, 1], common.transport.port())), reachable)]
        } else {
            common.gateway.clone()
        };
        let http = common.http.clone().unwrap_or_else(|| match http {
            Some(address) => format!("http://{address}"),
            None => "http://127.0.0.1:8080".to_owned(),
        });
        let admin = match (common.admin.is_empty(), admin) {
            (true, Some(address)) => vec![format!("http://{address}")],
            (true, None) | (false, _) => common.admin.clone(),
        };
        let (api_key, key_source) = api_key(common)?;
        Ok(Self { gateways, http, admin, api_key, key_source })
    }

    /// What all gateways have counted so far; nothing where none has an admin port.
    pub(super) fn counters(&self) -> Result<Counters> {
        let mut sum = Counters::nothing();
        for admin in &self.admin {
            sum.add(Counters::read(admin)?);
        }
        Ok(sum)
    }

    /// What they have counted since `from`, once that stands still and `is_whole`. A gateway counts copies after it has written them, so the last
    /// ones may have arrived before they are counted. What never becomes whole is handed out as it is, after a bounded time.
    pub(super) fn settled_counters(&self, from: &Counters, is_whole: impl Fn(&Counters) -> bool) -> Result<Counters> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut counted = self.counters()?.since(from);
        while !self.admin.is_empty() && Instant::now() < deadline {
            thread::sleep(SETTLE_STEP);
            let before = mem::replace(&mut counted, self.counters()?.since(from));
            if before == counted && is_whole(&counted) {
                break;
            }
        }
        Ok(counted)
    }
}

/// A server that listens on every address is reached on the loopback: both are on this machine.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    address
}

/// The key, and where it is from.
fn api_key(common: &Common) -> Result<(String, String)> {
    if let Some(key) = &common.api_key {
        return Ok((key.clone(), "--api-key or BILLFISH_API_KEY".to_owned()));
    }
    let path = common.data_dir.join("api-key");
    let key = fs::read_to_string(&path).map_err(|error| {
        WrongUse(format!(
            "no API key: {}: {error}. Start the server first (cargo run --release), or give --api-key or --data-dir",
            path.display()
        ))
    })?;
    Ok((key.trim().to_owned(), path.display().to_string()))
}
