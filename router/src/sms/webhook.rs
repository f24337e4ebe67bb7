//! A provider that is called over HTTP: POST `{"phone":"+8613800138000","code":"1234"}`, signed. Any 2xx means that it was taken.

use super::{SmsError, SmsSender};
use crate::{
    callout::{Endpoint, EndpointError},
    config::SmsConfig,
    services::login::Phone,
    signature::{HEADER, SigningKey},
};
use async_trait::async_trait;
use serde::Serialize;
use std::time::Duration;
use tokio::sync::Semaphore;

pub(super) struct Webhook {
    endpoint: Endpoint,
    key: SigningKey,
    timeout: Duration,
    calls: Semaphore,
    calls_max: usize,
}

#[derive(Serialize)]
struct Message<'a> {
    phone: String,
    code: &'a str,
}

impl Webhook {
    pub(super) fn new(config: &SmsConfig) -> Result<Self, EndpointError> {
        Ok(Self {
            endpoint: Endpoint::parse(&config.url)?,
            key: SigningKey::new(config.secret.as_bytes()),
            timeout: config.timeout,
            calls: Semaphore::new(config.calls_max),
            calls_max: config.calls_max,
        })
    }
}

#[async_trait]
impl SmsSender for Webhook {
    fn fixed_code(&self) -> Option<&'static str> {
        None
    }

    async fn send(&self, phone: &Phone, code: &str, now_ms: u64) -> Result<(), SmsError> {
        let _call = self.calls.try_acquire().map_err(|_| SmsError::Busy(self.calls_max))?;
        let message = Message { phone: phone.with_plus(), code };
        let body = serde_json::to_vec(&message).expect("two texts are JSON");
        let signature = self.key.sign(&body, now_ms / 1_000);
        let status = self.endpoint.post(body, (HEADER, &signature), self.timeout).await.map_err(SmsError::Away)?;
        if (200..300).contains(&status) { Ok(()) } else { Err(SmsError::Refused(status)) }
    }
}

#[cfg(test)]
mod tests {
    use super::{SmsError, SmsSender, Webhook};
    use crate::{
        callout::CallError,
        config::{SmsConfig, SmsProvider},
        services::login::Phone,
    };
    use std::{sync::Arc, time::Duration};
    use tokio::net::TcpListener;

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A provider that says nothing, and the sender of messages to it.
    async fn silent(timeout: Duration) -> (TcpListener, Arc<Webhook>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/sms", listener.local_addr().unwrap());
        let secret = "0123456789abcdef".to_owned();
        let config = SmsConfig { provider: Some(SmsProvider::Http), url, secret, timeout, calls_max: 1 };
        (listener, Arc::new(Webhook::new(&config).unwrap()))
    }

    fn phone() -> Phone {
        Phone::parse("8613800138000").unwrap()
    }

    #[tokio::test]
    async fn who_finds_as_many_messages_under_way_as_may_be_is_told_at_once() {
        let (provider, webhook) = silent(PATIENCE).await;
        let sending = Arc::clone(&webhook);
        let first = tokio::spawn(async move { sending.send(&phone(), "1234", 0).await });
        let (connection, _) = provider.accept().await.unwrap();
        assert!(matches!(webhook.send(&phone(), "1234", 0).await, Err(SmsError::Busy(1))));
        drop(connection);
        assert!(matches!(first.await.unwrap(), Err(SmsError::Away(_))));
        drop(provider);
        let next = webhook.send(&phone(), "1234", 0).await;
        assert!(matches!(next, Err(SmsError::Away(_))), "there is a place again: {next:?}");
    }

    #[tokio::test]
    async fn a_provider_that_says_nothing_is_given_up_in_time() {
        let (_provider, webhook) = silent(Duration::from_millis(30)).await;
        let sent = webhook.send(&phone(), "1234", 0).await;
        assert!(matches!(sent, Err(SmsError::Away(CallError::TooSlow(_)))), "{sent:?}");
    }
}
