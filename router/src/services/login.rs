//! Logins by phone: a code is sent, the code is shown, a session begins. A phone that logs in for the first time gets a user.
//!
//! - A code is good once, for minutes, and for a few tries; the atomic step that compares it also counts and uses it up.
//! - Every limit fails closed: where a store is away, nobody is let in. What a phone is told does not depend on whether it has a user.
//! - A token is 128 random bits. The store keeps its print alone: what is read there lets nobody in.
//!
//! No code, token or phone is logged here; of a phone, its last two digits.

mod phone;

pub(crate) use phone::Phone;

use crate::{
    Refusal,
    config::LoginConfig,
    metrics::Metrics,
    services::{
        ids::Ids,
        ports::{Profile, RoomRecords, people::People},
    },
    signature,
    sms::SmsSender,
};
use billfish_state::{
    AppId, CodeAsk, CodeKept, CodeVerdict, LoginCodes, Quiet, RateWindows, SessionOwner, Sessions, State, UserId, WindowHit, WindowVerdict,
};
use billfish_wire::Reason;
use std::{
    net::{IpAddr, Ipv6Addr},
    sync::Arc,
    time::Duration,
};

/// Digits of a code.
pub(crate) const CODE_DIGITS: usize = 4;
/// Random bytes of a token.
const TOKEN_BYTES: usize = 16;
/// The window in which the codes to a phone are counted.
const DAY_MS: u64 = 24 * 60 * 60 * 1_000;
/// The window of all other limits.
const MINUTE_MS: u64 = 60 * 1_000;
/// Told to who finds the provider away: it is asked for the same phone after the gap at the earliest.
const SMS_RETRY_MS: u64 = 60_000;

/// Lines about messages that were not sent.
static NOT_SENT: Quiet = Quiet::new();

/// Logins, and the sessions that come of them.
pub(crate) struct Logins {
    codes: Arc<dyn LoginCodes>,
    sessions: Arc<dyn Sessions>,
    rate_windows: Arc<dyn RateWindows>,
    people: Arc<dyn People>,
    records: Arc<dyn RoomRecords>,
    users: Ids,
    sms: Option<Arc<dyn SmsSender>>,
    config: LoginConfig,
    metrics: Metrics,
}

/// What a login gives. Its token is told once.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct LoggedIn {
    /// Who.
    pub(crate) user: UserId,
    /// What he shows from now on: 128 random bits in hex.
    pub(crate) token: String,
    /// How long it is good.
    pub(crate) expires_in: Duration,
}

/// Shows no token.
impl std::fmt::Debug for LoggedIn {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("LoggedIn").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Where a call comes from, as far as it is known.
pub(crate) type Address = Option<IpAddr>;

impl Logins {
    pub(crate) fn new(
        state: &State,
        (people, records): (Arc<dyn People>, Arc<dyn RoomRecords>),
        users: Ids,
        sms: Option<Arc<dyn SmsSender>>,
        config: LoginConfig,
        metrics: Metrics,
    ) -> Self {
        Self {
            codes: Arc::clone(&state.login_codes),
            sessions: Arc::clone(&state.sessions),
            rate_windows: Arc::clone(&state.rate_windows),
            people,
            records,
            users,
            sms,
            config,
            metrics,
        }
    }

    /// Whether anybody can log in by phone here.
    pub(crate) fn are_set_up(&self) -> bool {
        self.sms.is_some()
    }

    /// How long a code is good, and how long there is no other.
    pub(crate) fn code_times(&self) -> (Duration, Duration) {
        (self.config.code_life, self.config.code_gap)
    }

    /// Sends a code to a phone.
    pub(crate) async fn send_code(&self, app: AppId, phone: &Phone, address: Address, now_ms: u64) -> Result<(), Refusal> {
        let sms = self.sms.as_ref().ok_or_else(Refusal::unavailable)?;
        self.count_address(address, now_ms).await?;
        let code = match sms.fixed_code() {
            Some(fixed) => fixed.to_owned(),
            None => random_code()?,
        };
        let ask = CodeAsk {
            app,
            phone: phone.print(app),
            code,
            until_ms: now_ms + crate::clock::millis(self.config.code_life),
            gap_ms: crate::clock::millis(self.config.code_gap),
            sends_max: self.config.codes_per_day_max,
            window_ms: DAY_MS,
        };
        if let CodeKept::TooSoon { retry_after_ms } = self.codes.keep(&ask, now_ms).await? {
            self.metrics.code_asked("too_soon");
            return Err(Refusal::because(Reason::RateLimited, "a code was sent to this phone a moment ago, or too many today")
                .retry_after(retry_after_ms));
        }
        // The code stays: the message may be on its way, and a provider that fails is not asked for the same phone at once.
        if let Err(error) = sms.send(phone, &ask.code, now_ms).await {
            self.metrics.code_asked("not_sent");
            if let Some(more_before) = NOT_SENT.may_say("sms") {
                tracing::warn!(error = &error as &dyn std::error::Error, %phone, more_before, "a login code was not sent");
            }
            return Err(Refusal::because(Reason::Unavailable, "the message could not be sent; ask for another code after retryAfterMs")
                .retry_after(SMS_RETRY_MS.max(ask.gap_ms)));
        }
        self.metrics.code_asked("sent");
        Ok(())
    }

    /// Lets in who shows the code that was sent to the phone; `None` where it is another, or none is good.
    pub(crate) async fn login(
        &self,
        app: AppId,
        phone: &Phone,
        code: &str,
        address: Address,
        now_ms: u64,
    ) -> Result<Option<LoggedIn>, Refusal> {
        self.count_address(address, now_ms).await?;
        let print = phone.print(app);
        self.count(format!("phone-login:{app}:{print}"), self.config.logins_per_minute_max, now_ms).await?;
        // First, so that records that are away use no code up.
        let known = self.people.user_of_phone(app, phone.digits()).await?;
        match self.codes.check(app, &print, code, self.config.code_tries_max, now_ms).await? {
            CodeVerdict::Right => {}
            CodeVerdict::Wrong => {
                self.metrics.logged_in("wrong_code");
                return Ok(None);
            }
            CodeVerdict::Spent { retry_after_ms } => {
                self.metrics.logged_in("spent");
                return Err(Refusal::because(Reason::RateLimited, "too many wrong codes; ask for another one").retry_after(retry_after_ms));
            }
        }
        let user = match known {
            Some(user) => user,
            None => self.first_login(app, phone, now_ms).await?,
        };
        let token = random_token()?;
        let until_ms = now_ms + crate::clock::millis(self.config.session_life);
        self.sessions.open(&signature::print(token.as_bytes()), SessionOwner { app, user }, now_ms, until_ms).await?;
        self.metrics.logged_in(if known.is_some() { "known" } else { "new" });
        Ok(Some(LoggedIn { user, token, expires_in: self.config.session_life }))
    }

    /// A user for a phone that has none, or the one that it has been given meanwhile.
    async fn first_login(&self, app: AppId, phone: &Phone, now_ms: u64) -> Result<UserId, Refusal> {
        let fresh = UserId(self.users.next().await?);
        let user = self.people.add_user(app, phone.digits(), fresh, now_ms).await?;
        if user == fresh {
            let profile = Profile { user, name: format!("user{user}"), avatar: String::new() };
            // Who has no profile is shown by number: nobody is kept out for it.
            if let Err(error) = self.records.put_profiles(app, &[profile]).await {
                self.metrics.store_failed("profile", &error);
            }
        }
        Ok(user)
    }

    /// Whose session a token is, if it is one.
    pub(crate) async fn session(&self, token: &str, now_ms: u64) -> Result<Option<SessionOwner>, Refusal> {
        if !is_token(token) {
            return Ok(None);
        }
        let found = self.sessions.resolve(&[signature::print(token.as_bytes())], now_ms).await?;
        Ok(found.into_iter().next().flatten())
    }

    /// Ends the session of a token.
    pub(crate) async fn log_out(&self, token: &str, owner: SessionOwner) -> Result<(), Refusal> {
        Ok(self.sessions.close(&signature::print(token.as_bytes()), owner).await?)
    }

    /// Ends every session of a user.
    pub(crate) async fn log_out_everywhere(&self, owner: SessionOwner) -> Result<(), Refusal> {
        Ok(self.sessions.close_all(owner).await?)
    }

    async fn count_address(&self, address: Address, now_ms: u64) -> Result<(), Refusal> {
        match address {
            Some(address) => self.count(format!("address:{}", network(address)), self.config.address_per_minute_max, now_ms).await,
            None => Ok(()),
        }
    }

    async fn count(&self, key: String, limit: u32, now_ms: u64) -> Result<(), Refusal> {
        let verdicts = self.rate_windows.hit(&[WindowHit { key, limit, window_ms: MINUTE_MS }], now_ms).await?;
        match verdicts.first() {
            Some(WindowVerdict::Allowed) => Ok(()),
            Some(WindowVerdict::Refused { retry_after_ms }) => {
                self.metrics.logged_in("limited");
                Err(Refusal::because(Reason::RateLimited, "too many tries; wait retryAfterMs").retry_after(*retry_after_ms))
            }
            None => Err(Refusal::unavailable()),
        }
    }
}

/// Whoever has an IPv6 address has 2^64 of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Whether a text has the form of a token: what has not is asked of no store.
fn is_token(text: &str) -> bool {
    text.len() == 2 * TOKEN_BYTES && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn random_token() -> Result<String, Refusal> {
    random::<TOKEN_BYTES>().map(|bytes| signature::hex(&bytes))
}

/// Every code is as likely as every other.
fn random_code() -> Result<String, Refusal> {
    /// The largest multiple of 10,000 that two bytes reach.
    const FAIR: u16 = 60_000;
    loop {
        let number = u16::from_le_bytes(random()?);
        if number < FAIR {
            return Ok(format!("{:0width$}", number % 10_000, width = CODE_DIGITS));
        }
    }
}

fn random<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(bytes),
        Err(error) => {
            tracing::error!(%error, "the system gives no random numbers");
            Err(Refusal::new(Reason::Internal))
        }
    }
}

#[cfg(test)]
mod tests;
