//! The first look at Redis: whether what answers is what was configured, and whether it keeps what it is given.
//!
//! - Only an answer is believed. Who does not answer may come later: that is no fault of the configuration.
//! - What a server would not tell to this user is not asked twice.

use super::config::{Address, ConfigError};
use super::dial::{Dialer, install_provider};
use redis::{Pipeline, RedisError, Value, aio::MultiplexedConnection};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::ServerName;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Looks at all addresses at once; whoever answers first is believed.
///
/// # Errors
///
/// The setting that its answer contradicts.
pub(super) async fn look(dialer: &Arc<Dialer>, is_cluster: bool, addresses: &[Address]) -> Result<(), ConfigError> {
    let mut looks = JoinSet::new();
    for address in addresses {
        let (dialer, address) = (Arc::clone(dialer), address.clone());
        looks.spawn(async move { look_at(&dialer, is_cluster, &address).await });
    }
    while let Some(look) = looks.join_next().await {
        if let Ok(Some(verdict)) = look {
            return verdict;
        }
    }
    Ok(())
}

/// `None` where nobody answered.
async fn look_at(dialer: &Dialer, is_cluster: bool, address: &Address) -> Option<Result<(), ConfigError>> {
    match dialer.dial(address).await {
        Ok(mut connection) => {
            let mut question = redis::cmd("CLUSTER");
            let asked = question.arg("INFO").query_async::<String>(&mut connection);
            let told = timeout(dialer.patience(), asked).await.ok()?;
            Some(kind_of_server(told, is_cluster, address))
        }
        Err(error) => {
            let misfit = match error.misfit() {
                Some(misfit) => Some(misfit),
                None => encryption(dialer, address).await,
            };
            misfit.map(Err)
        }
    }
}

fn kind_of_server(told: Result<String, RedisError>, is_cluster: bool, address: &Address) -> Result<(), ConfigError> {
    match told {
        Ok(_) if !is_cluster => wrong("cluster", format!("is false, but {address} is a node of a Redis Cluster")),
        Err(error) if is_cluster && error.to_string().contains("cluster support disabled") => {
            wrong("cluster", format!("is true, but {address} is a single server"))
        }
        // Who may not ask is told later, by what the server does.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// Whether TLS is spoken by one side alone.
async fn encryption(dialer: &Dialer, address: &Address) -> Option<ConfigError> {
    let uses_tls = dialer.uses_tls();
    let greeting = if uses_tls { b"PING\r\n".to_vec() } else { client_hello(&address.host)? };
    let first = timeout(dialer.patience(), first_byte_after(address, &greeting)).await.ok()??;
    match (uses_tls, first) {
        (true, b'+' | b'-') => wrong::<()>("tls", format!("is true, but {address} answers without")).err(),
        (false, TLS_HANDSHAKE | TLS_ALERT) => wrong::<()>("tls", format!("is false, but {address} speaks nothing else")).err(),
        _ => None,
    }
}

/// First bytes of records of TLS, RFC 8446 5.1.
const TLS_ALERT: u8 = 21;
const TLS_HANDSHAKE: u8 = 22;

async fn first_byte_after(address: &Address, greeting: &[u8]) -> Option<u8> {
    let mut stream = TcpStream::connect((address.host.as_str(), address.port)).await.ok()?;
    stream.write_all(greeting).await.ok()?;
    stream.read_u8().await.ok()
}

/// What opens TLS. Nobody is trusted: the answer to it is not used.
fn client_hello(host: &str) -> Option<Vec<u8>> {
    install_provider();
    let config = ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
    let mut connection = ClientConnection::new(Arc::new(config), ServerName::try_from(host.to_owned()).ok()?).ok()?;
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).ok()?;
    Some(bytes)
}

/// Says what an operator should know of how this server keeps its data.
pub(super) async fn advise(dialer: &Dialer, address: &Address, connection: MultiplexedConnection) {
    let keeping = Keeping::ask(dialer, connection).await;
    if keeping.may_evict() {
        tracing::warn!(
            server = %address,
            policy = keeping.policy,
            "this Redis may evict: set maxmemory-policy noeviction, or inboxes, routes and leases go without anybody being told"
        );
    }
    if keeping.may_lose() {
        tracing::info!(
            server = %address,
            appendonly = keeping.appendonly,
            appendfsync = keeping.appendfsync,
            "what this Redis has acknowledged may be lost with its machine: only appendonly yes with appendfsync always keeps all of it"
        );
    }
}

/// How a server keeps its data, as far as it tells this user.
#[derive(Debug, Default)]
struct Keeping {
    policy: Option<String>,
    appendonly: Option<String>,
    appendfsync: Option<String>,
}

impl Keeping {
    async fn ask(dialer: &Dialer, mut connection: MultiplexedConnection) -> Self {
        // One by one: several in one command are not for Redis 6.2.
        let mut pipeline = Pipeline::new();
        for setting in ["maxmemory-policy", "appendonly", "appendfsync"] {
            pipeline.cmd("CONFIG").arg("GET").arg(setting);
        }
        let asked = connection.send_packed_commands(&pipeline, 0, pipeline.len());
        let Ok(Ok(answers)) = timeout(dialer.patience(), asked).await else { return Self::default() };
        let mut values = answers.into_iter().map(value_of);
        let mut next = || values.next().flatten();
        Self { policy: next(), appendonly: next(), appendfsync: next() }
    }

    fn may_evict(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| policy != "noeviction")
    }

    fn may_lose(&self) -> bool {
        match (self.appendonly.as_deref(), self.appendfsync.as_deref()) {
            (Some(appendonly), Some(appendfsync)) => appendonly != "yes" || appendfsync != "always",
            _ => false,
        }
    }
}

/// `[name, value]`; nothing where this user may not ask.
fn value_of(answer: Value) -> Option<String> {
    let (_, value): (String, String) = redis::from_redis_value(answer).ok()?;
    Some(value)
}

fn wrong<T>(key: &'static str, problem: String) -> Result<T, ConfigError> {
    Err(ConfigError { key, problem })
}

#[cfg(test)]
mod tests {
    use super::Keeping;
    use crate::redis::config::{Address, RedisConfig};
    use crate::redis::dial::Dialer;
    use billfish_testing::RedisServer;

    async fn verdicts(server: &RedisServer, config: RedisConfig) -> (bool, bool) {
        let dialer = Dialer::new(&config).unwrap();
        let connection = dialer.dial(&Address::parse(&server.address().to_string()).unwrap()).await.unwrap();
        let keeping = Keeping::ask(&dialer, connection).await;
        (keeping.may_evict(), keeping.may_lose())
    }

    #[tokio::test]
    async fn a_server_that_may_evict_or_lose_says_so_unless_it_may_not_be_asked() {
        let Some(server) = RedisServer::start() else { return };
        let set = |name: &str, value: &str| server.command(&["CONFIG", "SET", name, value]).unwrap();
        assert_eq!(verdicts(&server, RedisConfig::default()).await, (false, false));
        set("maxmemory-policy", "volatile-ttl");
        set("appendfsync", "everysec");
        assert_eq!(verdicts(&server, RedisConfig::default()).await, (true, true));
        set("appendfsync", "always");
        set("appendonly", "no");
        assert_eq!(verdicts(&server, RedisConfig::default()).await, (true, true));
        server.command(&["ACL", "SETUSER", "im", "on", ">secret", "~im:*", "+@read", "+@write", "+ping"]).unwrap();
        let silent = RedisConfig { username: Some("im".to_owned()), password: Some("secret".to_owned()), ..RedisConfig::default() };
        assert_eq!(verdicts(&server, silent).await, (false, false));
    }
}
