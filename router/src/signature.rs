//! Signed bodies, between this house and others: HMAC-SHA256 over the second of signing, a dot, and the body.
//!
//! `X-Billfish-Signature: t=1800000000,v1=<64 hex digits>`. A signature is good for some minutes, so that one that leaks is worth little; that
//! nothing is done twice within them is the receiver's own care.

use aws_lc_rs::{digest, hmac};
use billfish_state::SessionPrint;
use std::fmt::Write as _;

/// The header that a signature stands in.
pub(crate) const HEADER: &str = "x-billfish-signature";
/// How far the second of signing may be from the receiver's: clocks differ, and a call takes its time.
pub(crate) const WINDOW_S: u64 = 5 * 60;

/// What both sides know.
#[derive(Clone)]
pub(crate) struct SigningKey(hmac::Key);

/// Why a body is not taken for its sender's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotSigned {
    /// There is no signature, or it has another form.
    #[error("the header must be `t=<second>,v1=<64 hex digits>`")]
    Malformed,
    /// Too old, or from the future.
    #[error("the signature is of another time; are both clocks right?")]
    OtherTime,
    /// Of another key, or of another body.
    #[error("the signature is another one")]
    Wrong,
}

/// Shows no key.
impl std::fmt::Debug for SigningKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("SigningKey")
    }
}

impl SigningKey {
    pub(crate) fn new(secret: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, secret))
    }

    /// The header's value for a body.
    pub(crate) fn sign(&self, body: &[u8], now_s: u64) -> String {
        let tag = hmac::sign(&self.0, &signed(now_s, body));
        format!("t={now_s},v1={}", hex(tag.as_ref()))
    }

    /// Whether a body is signed with this key, now. Compared in constant time.
    pub(crate) fn verify(&self, header: Option<&str>, body: &[u8], now_s: u64) -> Result<(), NotSigned> {
        let (time, tag) = header.and_then(read).ok_or(NotSigned::Malformed)?;
        // The time counts only where it is the signer's: whoever has no key learns nothing of our clock.
        hmac::verify(&self.0, &signed(time, body), &tag).map_err(|_| NotSigned::Wrong)?;
        if time.abs_diff(now_s) > WINDOW_S { Err(NotSigned::OtherTime) } else { Ok(()) }
    }
}

fn signed(time: u64, body: &[u8]) -> Vec<u8> {
    [time.to_string().as_bytes(), b".", body].concat()
}

fn read(header: &str) -> Option<(u64, [u8; 32])> {
    let (time, tag) = header.trim().strip_prefix("t=")?.split_once(",v1=")?;
    let plain = !time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit()) && (time == "0" || !time.starts_with('0'));
    let time = time.parse().ok().filter(|_| plain)?;
    let digits = tag.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some((time, bytes))
}

/// SHA-256 as hex: stands for something that nobody is to read.
pub(crate) fn print(of: &[u8]) -> String {
    hex(digest::digest(&digest::SHA256, of).as_ref())
}

/// The print of what a user shows for his session; [`print`] is its text.
pub(crate) fn session_print(shown: &[u8]) -> SessionPrint {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, shown).as_ref());
    SessionPrint(bytes)
}

/// Bytes as lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
        text
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_print_of_a_session_is_its_text() {
        assert_eq!(super::session_print(b"token").to_string(), super::print(b"token"));
        assert_eq!(billfish_state::SessionPrint::parse(&super::print(b"token")), Some(super::session_print(b"token")));
    }

    use super::{NotSigned, SigningKey, WINDOW_S};

    const NOW: u64 = 1_800_000_000;

    /// Computed with `printf '1800000000.{"a":1}' | openssl dgst -sha256 -hmac 'a secret between us'`.
    const KNOWN: &str = "t=1800000000,v1=f9cde04ddb3c4d52e3e935cdd8bab25d7ec31dfb966ba998f01c18bc578632db";

    #[test]
    fn a_signature_is_what_others_compute() {
        let key = SigningKey::new(b"a secret between us");
        assert_eq!(key.sign(br#"{"a":1}"#, NOW), KNOWN);
        key.verify(Some(KNOWN), br#"{"a":1}"#, NOW).unwrap();
    }

    #[test]
    fn a_signature_is_good_for_five_minutes_before_and_after() {
        let key = SigningKey::new(b"k");
        let header = key.sign(b"body", NOW);
        for now in [NOW - WINDOW_S, NOW, NOW + WINDOW_S] {
            key.verify(Some(&header), b"body", now).unwrap();
        }
        for now in [NOW - WINDOW_S - 1, NOW + WINDOW_S + 1, 0, u64::MAX] {
            assert_eq!(key.verify(Some(&header), b"body", now), Err(NotSigned::OtherTime), "{now}");
        }
    }

    #[test]
    fn another_key_body_or_time_is_not_signed() {
        let key = SigningKey::new(b"k");
        let header = key.sign(b"body", NOW);
        let later = header.replace(&NOW.to_string(), &(NOW + 1).to_string());
        assert_eq!(SigningKey::new(b"K").verify(Some(&header), b"body", NOW), Err(NotSigned::Wrong));
        assert_eq!(key.verify(Some(&header), b"body2", NOW), Err(NotSigned::Wrong));
        assert_eq!(key.verify(Some(&later), b"body", NOW), Err(NotSigned::Wrong));
        let short = &header[..header.len() - 1];
        for malformed in
            [None, Some(""), Some("t=1"), Some("v1=00"), Some(short), Some("t=-1,v1=00"), Some(&*format!("t=01{}", &header[12..]))]
        {
            assert_eq!(key.verify(malformed, b"body", NOW), Err(NotSigned::Malformed), "{malformed:?}");
        }
        let sign = format!("t={NOW},v1=+{}", &header[header.len() - 63..]);
        assert_eq!(key.verify(Some(&sign), b"body", NOW), Err(NotSigned::Malformed));
    }
}
