//! The configuration: a TOML file, overridden by the environment, checked before anything is opened.
//!
//! - Every key has a default; an empty file, or none, runs the system.
//! - `BILLFISH__SECTION__KEY` overrides `section.key`, with as many levels as the key has.
//! - A key that does not exist, or a value that cannot be, is refused here and named with its path.

use anyhow::{Context, Result, anyhow, bail};
use billfish_gateway::{GatewayConfig, config::CertificateConfig};
use billfish_router::{
    HttpConfig, RouterConfig, SmsProvider, http::RechargeProvider, is_mask, ledger::LedgerConfig, webhooks::WebhooksConfig,
};
use billfish_state::redis::RedisConfig;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use toml::{Table, Value};
use tracing::warn;

/// What the environment variables begin with.
const PREFIX: &str = "BILLFISH__";

/// Everything that can be set.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Config {
    /// Where the embedded state lives: the records and the API key.
    pub(crate) data_dir: PathBuf,
    pub(crate) state: StateConfig,
    pub(crate) ledger: LedgerConfig,
    pub(crate) gateway: GatewayConfig,
    pub(crate) router: RouterConfig,
    pub(crate) http: HttpConfig,
    pub(crate) webhooks: WebhooksConfig,
    pub(crate) admin: AdminConfig,
}

/// Where the live state is.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct StateConfig {
    pub(crate) kind: StateKind,
    pub(crate) redis: RedisConfig,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum StateKind {
    /// In this process, and gone with it.
    #[default]
    Memory,
    /// In Redis, shared by every node.
    Redis,
}

/// What a process is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything in one.
    #[default]
    All,
    /// A gateway of its own.
    Gateway,
    /// A router of its own.
    Router,
}

/// The operator's port: `/livez`, `/readyz`, `/metrics`, `/rooms/{id}`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AdminConfig {
    /// On loopback by default: it has no authentication of its own.
    pub(crate) listen: SocketAddr,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("data"),
            state: StateConfig::default(),
            ledger: LedgerConfig::default(),
            gateway: GatewayConfig::default(),
            router: RouterConfig::default(),
            http: HttpConfig::default(),
            webhooks: WebhooksConfig::default(),
            admin: AdminConfig::default(),
        }
    }
}

impl Default for AdminConfig {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 9090)) }
    }
}

impl Config {
    /// Reads the file, if one is named, lays the environment over it and checks every value.
    pub(crate) fn load(file: Option<&Path>, environment: impl IntoIterator<Item = (String, String)>, role: Role) -> Result<Self> {
        let mut table = match file {
            Some(path) => {
                let text =
                    std::fs::read_to_string(path).with_context(|| format!("cannot read the configuration file {}", path.display()))?;
                toml::from_str::<Table>(&text).with_context(|| format!("the configuration file {} is not TOML", path.display()))?
            }
            None => Table::new(),
        };
        let defaults = Table::try_from(Self::default()).context("the default configuration cannot be written as TOML")?;
        for (name, text) in environment {
            if let Some(path) = name.strip_prefix(PREFIX) {
                let keys: Vec<String> = path.split("__").map(str::to_lowercase).collect();
                let value = typed_like(find(&defaults, &keys), &keys, &text);
                put(&mut table, &keys, value).with_context(|| format!("environment variable {name}"))?;
            }
        }
        let config: Self = serde_path_to_error::deserialize(Value::Table(table))
            .map_err(|error| anyhow!("configuration key `{}`: {}", error.path(), error.inner().message()))?;
        config.settle(role)
    }

    /// Brings together what gateway and router must agree on, and checks the rest as far as `role` uses it.
    fn settle(mut self, role: Role) -> Result<Self> {
        let gap = self.gateway.session.heartbeat_gap;
        if self.router.heartbeat == RouterConfig::default().heartbeat {
            self.router.heartbeat = gap;
        } else if self.router.heartbeat != gap {
            bail!("configuration key `router.heartbeat`: must be the value of `gateway.session.heartbeat_gap`, or be left out");
        }
        if self.gateway.admin.listen.is_some() {
            bail!("configuration key `gateway.admin.listen`: the admin port is set by `admin.listen`");
        }
        if role == Role::All {
            self.settle_providers();
        }
        self.validate()?;
        self.validate_addresses(role)?;
        match role {
            Role::All => {
                self.validate_with_own_certificate()?;
                self.validate_leases()?;
            }
            Role::Gateway => self.validate_gateway()?,
            Role::Router => {
                self.validate_router()?;
                self.validate_leases()?;
            }
        }
        Ok(self)
    }

    /// Everything in one process is for trying things out: where nobody brings codes to phones, or is paid, it goes on as if somebody had, and
    /// receivers of webhooks may be beside it.
    fn settle_providers(&mut self) {
        self.router.sms.provider.get_or_insert(SmsProvider::Development);
        let recharge = &mut self.http.recharge;
        if recharge.secret.is_empty() {
            recharge.provider.get_or_insert(RechargeProvider::Development);
        }
        self.webhooks.allow_http.get_or_insert(true);
        self.webhooks.allow_private.get_or_insert(true);
    }

    /// Two listeners of one process at one address: the second would only learn that it is taken. QUIC is on UDP.
    fn validate_addresses(&self, role: Role) -> Result<()> {
        let listen = &self.gateway.listen;
        let gateway = [("gateway.listen.tcp", Some(listen.tcp)), ("gateway.listen.ws", listen.ws), ("gateway.listen.tls", listen.tls)];
        let router = [("router.link.listen", self.router.link.listen)];
        let http = [("http.listen", Some(self.http.listen))];
        let of_role = match role {
            Role::All => [&gateway[..], &http],
            Role::Gateway => [&gateway[..], &[]],
            Role::Router => [&router[..], &http],
        };
        let mut taken = BTreeMap::new();
        for (key, address) in of_role.into_iter().flatten().copied().chain([("admin.listen", Some(self.admin.listen))]) {
            let Some(address) = address.filter(|address| address.port() != 0) else { continue };
            if let Some(before) = taken.insert(address, key) {
                bail!("configuration key `{key}`: is {address}, as `{before}` is: each listens at an address of its own");
            }
        }
        Ok(())
    }

    /// Everything in one process makes a certificate where it is given none, and opens what needs one.
    fn validate_with_own_certificate(&self) -> Result<()> {
        let mut gateway = self.gateway.clone();
        if gateway.tls.certificates.is_empty() {
            gateway.tls.certificates.push(CertificateConfig { certificate: PathBuf::new(), key: PathBuf::new() });
        }
        gateway.validate().map_err(|error| anyhow!("configuration key `gateway.{}`: {}", error.key, error.problem))
    }

    /// What a gateway of its own must be told.
    fn validate_gateway(&self) -> Result<()> {
        self.validate_shared("gateway")?;
        if self.gateway.link.secret.is_empty() {
            bail!("configuration key `gateway.link.secret`: is empty; set it to the routers' `router.link.secret`");
        }
        if self.gateway.link.secret.len() < SECRET_BYTES_MIN && !is_mask(&self.gateway.link.secret) {
            bail!(
                "configuration key `gateway.link.secret`: has fewer than {SECRET_BYTES_MIN} characters; the routers' has more, for whoever \
                 knows it may speak for every user"
            );
        }
        Ok(())
    }

    /// What a router of its own must be told.
    fn validate_router(&self) -> Result<()> {
        self.validate_shared("router")?;
        if self.router.link.listen.is_none() {
            bail!("configuration key `router.link.listen`: is not set; gateways of other processes dial in there");
        }
        if self.http.api_key.is_empty() {
            bail!("configuration key `http.api_key`: is empty; all routers must know the same one, so none is made up here");
        }
        Ok(())
    }

    /// A renewal that is answered after the lease has run out renews nothing: each hiccup of Redis would cost the router all its rooms.
    fn validate_leases(&self) -> Result<()> {
        let (wait, most) = (self.state.redis.command_timeout, self.router.room.renewal_max());
        if self.state.kind == StateKind::Redis && wait > most {
            bail!(
                "configuration key `state.redis.command_timeout`: {wait:?} is longer than two thirds of `router.room.lease` ({:?}): a lease \
                 is renewed after a third of it, and must not run out while the answer is waited for",
                self.router.room.lease
            );
        }
        Ok(())
    }

    fn validate_shared(&self, what: &str) -> Result<()> {
        if self.state.kind != StateKind::Redis {
            bail!("configuration key `state.kind`: must be \"redis\" for a {what} of its own; in memory nobody else would see its state");
        }
        Ok(())
    }

    fn validate(&self) -> Result<()> {
        if self.state.kind == StateKind::Redis {
            self.state.redis.validate().map_err(|error| anyhow!("configuration key `state.redis.{}`: {}", error.key, error.problem))?;
        }
        self.ledger.validate().map_err(|error| anyhow!("configuration key `ledger.{}`: {}", error.key, error.problem))?;
        self.gateway.validate().map_err(|error| anyhow!("configuration key `gateway.{}`: {}", error.key, error.problem))?;
        self.router.validate().map_err(|error| anyhow!("configuration key `router.{}`: {}", error.key, error.problem))?;
        self.http.validate().map_err(|error| anyhow!("configuration key `http.{}`: {}", error.key, error.problem))?;
        self.webhooks.validate().map_err(|error| anyhow!("configuration key `webhooks.{}`: {}", error.key, error.problem))?;
        Ok(())
    }

    /// What `check-config` prints is a configuration, and none to start with: everybody knows the mask.
    pub(crate) fn refuse_mask(&self, role: Role) -> Result<()> {
        let of_router = [
            ("router.link.secret", &self.router.link.secret),
            ("router.sms.secret", &self.router.sms.secret),
            ("http.recharge.secret", &self.http.recharge.secret),
        ];
        let secrets = match role {
            Role::Gateway => &[("gateway.link.secret", &self.gateway.link.secret)][..],
            Role::All | Role::Router => &of_router,
        };
        match secrets.iter().find(|(_, secret)| is_mask(secret)) {
            Some((key, _)) => bail!("configuration key `{key}`: is the mask that check-config prints; put the secret there"),
            None => Ok(()),
        }
    }

    /// Everyone can read the examples' secrets: harmless on loopback, an open door elsewhere.
    pub(crate) fn warn_of_published_secrets(&self) {
        for key in self.published_secrets() {
            warn!(key, "this secret stands in the published examples, and a port is open beyond this machine: choose your own");
        }
    }

    fn published_secrets(&self) -> Vec<&'static str> {
        let listen = &self.gateway.listen;
        let listeners = [
            Some(listen.tcp),
            listen.ws,
            listen.tls,
            listen.quic,
            self.router.link.listen,
            Some(self.http.listen),
            Some(self.admin.listen),
        ];
        if listeners.iter().flatten().all(|listen| listen.ip().is_loopback()) {
            return Vec::new();
        }
        let secrets = [
            ("gateway.link.secret", &self.gateway.link.secret),
            ("router.link.secret", &self.router.link.secret),
            ("http.api_key", &self.http.api_key),
        ];
        secrets.into_iter().filter(|(_, secret)| PUBLISHED.contains(&secret.as_str())).map(|(key, _)| key).collect()
    }

    /// The effective configuration as TOML, secrets masked.
    pub(crate) fn masked(&self) -> Result<String> {
        let mut table = Table::try_from(Self { ledger: self.ledger.masked(), ..self.clone() })?;
        mask(&mut table);
        Ok(toml::to_string_pretty(&table)?)
    }
}

/// Keys that are text and have no default to tell it.
const TEXTS: [&str; 4] = ["username", "password", "ca_file", "provider"];

/// The environment knows only text. Where the default is text too it stays text, so that a node may be called "1"; elsewhere it is read as
/// a TOML value.
fn typed_like(default: Option<&Value>, keys: &[String], text: &str) -> Value {
    let is_text = keys.last().is_some_and(|key| TEXTS.contains(&key.as_str()));
    if is_text || matches!(default, Some(Value::String(_))) {
        return Value::String(text.to_owned());
    }
    match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut parsed) if parsed.len() == 1 => parsed.remove("value").unwrap_or_else(|| Value::String(text.to_owned())),
        _ => Value::String(text.to_owned()),
    }
}

fn find<'a>(table: &'a Table, keys: &[String]) -> Option<&'a Value> {
    let (first, rest) = keys.split_first()?;
    let value = table.get(first)?;
    if rest.is_empty() { Some(value) } else { find(value.as_table()?, rest) }
}

fn put(table: &mut Table, keys: &[String], value: Value) -> Result<()> {
    let Some((first, rest)) = keys.split_first() else { bail!("names no key") };
    if first.is_empty() {
        bail!("names no key: two underscores separate the levels, as in {PREFIX}GATEWAY__NODE");
    }
    if rest.is_empty() {
        table.insert(first.clone(), value);
        return Ok(());
    }
    let entry = table.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    let Some(inner) = entry.as_table_mut() else { bail!("`{first}` is a value, not a section") };
    put(inner, rest, value)
}

/// Shortest secret of links, as routers have it.
const SECRET_BYTES_MIN: usize = 16;
/// Secrets of `docs/examples`.
const PUBLISHED: [&str; 2] = ["change-me-on-every-node", "cluster-example-key"];

/// Keys whose value is never shown.
const SECRETS: [&str; 3] = ["api_key", "secret", "password"];

fn mask(table: &mut Table) {
    for (key, value) in table.iter_mut() {
        if let Some(inner) = value.as_table_mut() {
            mask(inner);
        } else if SECRETS.contains(&key.as_str()) && value.as_str().is_some_and(|text| !text.is_empty()) {
            *value = Value::String("********".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Config;

    #[test]
    fn a_published_secret_is_told_of_once_a_port_is_open_beyond_this_machine() {
        let text =
            |name: &str| std::fs::read_to_string(format!("{}/docs/examples/cluster/{name}.toml", env!("CARGO_MANIFEST_DIR"))).unwrap();
        let mut router: Config = toml::from_str(&text("router")).unwrap();
        let mut gateway: Config = toml::from_str(&text("gateway")).unwrap();
        assert!(router.published_secrets().is_empty() && gateway.published_secrets().is_empty());
        router.http.listen = "10.0.0.1:8080".parse().unwrap();
        gateway.gateway.listen.tcp = "[::]:8085".parse().unwrap();
        assert_eq!(router.published_secrets(), ["router.link.secret", "http.api_key"]);
        assert_eq!(gateway.published_secrets(), ["gateway.link.secret"]);
        router.router.link.secret = "another that nobody knows".to_owned();
        assert_eq!(router.published_secrets(), ["http.api_key"]);
    }
}
