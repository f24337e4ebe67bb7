//! Certificates whose time is over, or nearly: the operator is told by the log and sees it in a metric, and the gateway serves all the same.

use crate::house::{House, eventually};
use billfish_testing::Certificates;
use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

const DAY_S: u64 = 86_400;

fn serving(certificates: &Certificates) -> House {
    let file = |path: &Path| path.display().to_string();
    let (certificate, key) = (file(&certificates.certificate()), file(&certificates.key()));
    House::with(&format!("[gateway.tls]\ncertificates = [{{ certificate = {certificate:?}, key = {key:?} }}]\n"))
}

/// The seconds of this file's series.
fn expiry_s(house: &House, certificates: &Certificates) -> u64 {
    let label = format!("file=\"{}\"", certificates.certificate().display());
    house.metric("gateway_certificate_expiry_seconds", &[&label]) as u64
}

#[test]
fn an_operator_is_warned_of_each_certificate_that_clients_refuse_or_will_soon() {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let cases = [
        ((now_s - 30 * DAY_S, now_s - DAY_S), Some("a certificate has expired: clients refuse it")),
        ((now_s - DAY_S, now_s + 13 * DAY_S), Some("a certificate expires within 14 days")),
        ((now_s + DAY_S, now_s + 90 * DAY_S), Some("a certificate is not valid yet: clients refuse it")),
        ((now_s - DAY_S, now_s + 15 * DAY_S), None),
    ];
    for ((from_s, until_s), warning) in cases {
        let certificates = Certificates::good(from_s, until_s);
        let house = serving(&certificates);
        assert_eq!(expiry_s(&house, &certificates), until_s, "{warning:?}");
        let log = house.log();
        let warned: Vec<&str> = log.lines().filter(|line| line.contains("a certificate ")).collect();
        match (warning, &warned[..]) {
            (None, []) => {}
            (Some(words), [line]) => {
                let file = certificates.certificate().display().to_string();
                assert!(line.contains("WARN") && line.contains(words) && line.contains(&file) && line.contains("localhost"), "{line}");
            }
            _ => panic!("{warning:?}: {log}"),
        }
    }
}

/// What is written anew is read anew, and judged anew.
#[test]
fn a_certificate_that_is_renewed_in_time_has_a_new_date_and_one_that_is_not_is_warned_of() {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let certificates = Certificates::good(now_s - DAY_S, now_s + 60 * DAY_S);
    let house = serving(&certificates);
    let shown = |from_s: u64, until_s: u64| {
        let new = Certificates::good(from_s, until_s);
        fs::copy(new.key(), certificates.key()).unwrap();
        fs::copy(new.certificate(), certificates.certificate()).unwrap();
        eventually("it is read", || expiry_s(&house, &certificates) == until_s);
    };
    shown(now_s - DAY_S, now_s + 90 * DAY_S);
    assert!(!house.log().contains("a certificate expires"), "{}", house.log());
    shown(now_s - DAY_S, now_s + 5 * DAY_S);
    eventually("it is warned of", || house.log().contains("a certificate expires within 14 days"));
    assert!(house.metric("gateway_certificate_reloads_total", &["result=\"ok\""]) >= 2.0);
}
