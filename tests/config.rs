//! What is typed wrong is refused at once, with the name of what is wrong.

use std::process::{Command, Output};

fn billfish(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_billfish"))
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn wrong_words_exit_with_2_and_say_what_is_right() {
    for arguments in [&["--no-such-flag"][..], &["no-such-command"], &["check-config", "--log-format", "text"]] {
        let output = billfish(arguments, &[]);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(text(&output.stderr).contains("Usage"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_wrong_key_or_value_is_refused_with_its_path() {
    let cases = [
        (("BILLFISH__GATEWAY__NO_SUCH_KEY", "1"), "no_such_key"),
        (("BILLFISH__GATEWAY__LISTEN__TCP", "nonsense"), "gateway.listen.tcp"),
        (("BILLFISH__HTTP__LISTEN", "127.0.0.1"), "http.listen"),
        (("BILLFISH__NO_SUCH_SECTION__KEY", "1"), "no_such_section"),
        (("BILLFISH__ADMIN", "1"), "admin"),
        (("BILLFISH__ROUTER__SMS__PROVIDER", "pigeon"), "router.sms.provider"),
        (("BILLFISH__ROUTER__SMS__PROVIDER", "http"), "router.sms.url"),
        (("BILLFISH__HTTP__RECHARGE__SECRET", "short"), "http.recharge.secret"),
        (("BILLFISH__HTTP__PROXIES", "[\"proxy.internal\"]"), "http.proxies"),
        (("BILLFISH__WEBHOOKS__TIMEOUT", "10m"), "webhooks.timeout"),
        (("BILLFISH__WEBHOOKS__ALLOW_HTTP", "perhaps"), "webhooks.allow_http"),
    ];
    for (variable, named) in cases {
        let output = billfish(&["check-config"], &[variable]);
        assert_eq!(output.status.code(), Some(1), "{variable:?}");
        assert!(text(&output.stderr).contains(named), "{variable:?}: {}", text(&output.stderr));
        assert_eq!(text(&output.stdout), "");
    }
}

#[test]
fn a_missing_or_broken_file_is_named() {
    let output = billfish(&["check-config", "--config", "nowhere.toml"], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("nowhere.toml"));

    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("broken.toml");
    std::fs::write(&file, "[gateway\n").unwrap();
    let output = billfish(&["check-config", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("broken.toml") && text(&output.stderr).contains("line 1"), "{}", text(&output.stderr));
}

#[test]
fn what_check_config_prints_is_a_configuration_and_hides_secrets() {
    let output = billfish(&["check-config"], &[("BILLFISH__HTTP__API_KEY", "a-very-secret-key-of-mine")]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let printed = text(&output.stdout);
    assert!(!printed.contains("a-very-secret-key-of-mine"), "{printed}");
    assert!(printed.contains("api_key = \"********\""), "{printed}");

    let secrets = [
        ("BILLFISH__HTTP__RECHARGE__SECRET", "a secret of whoever is paid"),
        ("BILLFISH__ROUTER__SMS__SECRET", "a secret of the provider"),
        ("BILLFISH__ROUTER__SMS__PROVIDER", "http"),
        ("BILLFISH__ROUTER__SMS__URL", "https://sms.example.com/send"),
    ];
    let output = billfish(&["check-config"], &secrets);
    let printed = text(&output.stdout);
    assert!(output.status.success() && !printed.contains("a secret") && printed.contains("https://sms.example.com/send"), "{printed}");

    let printed = text(&billfish(&["check-config"], &[]).stdout);
    assert_eq!(printed.matches("provider = \"development\"").count(), 2, "{printed}");
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("printed.toml");
    std::fs::write(&file, &printed).unwrap();
    let again = billfish(&["check-config", "--config", file.to_str().unwrap()], &[]);
    assert_eq!(text(&again.stdout), printed, "{}", text(&again.stderr));
}

/// What a gateway or a router of its own must be told.
const OF_ITS_OWN: [(&str, &str); 6] = [
    ("BILLFISH__STATE__KIND", "redis"),
    ("BILLFISH__STATE__REDIS__PASSWORD", "a password of Redis"),
    ("BILLFISH__GATEWAY__LINK__SECRET", "a secret between us"),
    ("BILLFISH__ROUTER__LINK__LISTEN", "127.0.0.1:0"),
    ("BILLFISH__ROUTER__LINK__SECRET", "a secret between us"),
    ("BILLFISH__HTTP__API_KEY", "a-very-secret-key-of-mine"),
];

#[test]
fn what_check_config_prints_for_a_role_is_a_configuration_and_none_to_run_with() {
    for (role, key) in [("all", "router.link.secret"), ("gateway", "gateway.link.secret"), ("router", "router.link.secret")] {
        let output = billfish(&["check-config", "--role", role], &OF_ITS_OWN);
        assert_eq!(output.status.code(), Some(0), "{role}: {}", text(&output.stderr));
        let printed = text(&output.stdout);
        assert!(!printed.contains("a secret between us") && !printed.contains("a password"), "{printed}");
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("printed.toml");
        std::fs::write(&file, &printed).unwrap();
        let again = billfish(&["check-config", "--role", role, "--config", file.to_str().unwrap()], &[]);
        assert_eq!(text(&again.stdout), printed, "{role}: {}", text(&again.stderr));
        // Everybody knows the mask, so nobody may link by it.
        let run = billfish(&[role, "--config", file.to_str().unwrap()], &[]);
        let why = text(&run.stderr);
        assert!(run.status.code() == Some(1) && why.contains(key) && why.contains("mask"), "{role}: {why}");
    }
}

#[test]
fn values_that_contradict_each_other_are_refused_with_their_keys() {
    let cases = [
        (("BILLFISH__GATEWAY__SESSION__BODY_BYTES_MAX", "1048576"), &["gateway.session.body_bytes_max", "link"][..]),
        (("BILLFISH__GATEWAY__SESSION__SILENT_GAPS", "1000"), &["gateway.session.silent_gaps", "session.heartbeat_gap"]),
        (("BILLFISH__STATE__REDIS__COMMAND_TIMEOUT", "4001ms"), &["state.redis.command_timeout", "router.room.lease"]),
        (("BILLFISH__ROUTER__ROOM__LEASE", "1s"), &[]),
    ];
    for (variable, named) in cases {
        let mut environment = OF_ITS_OWN.to_vec();
        environment.push(variable);
        let output = billfish(&["check-config", "--role", "router"], &environment);
        assert_eq!(output.status.code(), Some(i32::from(!named.is_empty())), "{variable:?}: {}", text(&output.stderr));
        let why = text(&output.stderr);
        assert!(named.iter().all(|word| why.contains(word)), "{variable:?}: {why}");
    }
    // A gateway of its own has no rooms to lease.
    let mut environment = OF_ITS_OWN.to_vec();
    environment.push(("BILLFISH__STATE__REDIS__COMMAND_TIMEOUT", "30s"));
    assert_eq!(billfish(&["check-config", "--role", "gateway"], &environment).status.code(), Some(0));
}

#[test]
fn certificates_that_could_not_be_served_with_are_refused_as_at_the_start() {
    let (ours, another) = (billfish_testing::Certificates::new(), billfish_testing::Certificates::new());
    let list = |certificate: &std::path::Path, key: &std::path::Path| {
        format!("[{{ certificate = \"{}\", key = \"{}\" }}]", certificate.display(), key.display())
    };
    let cases = [
        (list(&ours.certificate(), &ours.key()), None),
        (list(&ours.certificate(), &another.key()), Some(ours.certificate())),
        (list("nowhere.pem".as_ref(), &ours.key()), Some("nowhere.pem".into())),
        (list(&ours.certificate(), "nowhere.key".as_ref()), Some("nowhere.key".into())),
    ];
    for (certificates, named) in cases {
        for role in ["all", "gateway"] {
            let mut environment = OF_ITS_OWN.to_vec();
            environment.push(("BILLFISH__GATEWAY__TLS__CERTIFICATES", &certificates));
            let output = billfish(&["check-config", "--role", role], &environment);
            let why = text(&output.stderr);
            assert_eq!(output.status.code(), Some(i32::from(named.is_some())), "{role} {certificates}: {why}");
            if let Some(file) = &named {
                assert!(why.contains("gateway.tls.certificates") && why.contains(&*file.to_string_lossy()), "{role}: {why}");
            }
        }
    }
}

/// A port that everything in one process opens for a certificate of its own counts as well.
#[test]
fn two_listeners_at_one_address_are_refused_with_both_keys() {
    let cases = [
        (("BILLFISH__GATEWAY__LISTEN__TLS", "127.0.0.1:8085"), &["gateway.listen.tls", "gateway.listen.tcp"][..]),
        (("BILLFISH__HTTP__LISTEN", "127.0.0.1:8086"), &["http.listen", "gateway.listen.ws"]),
        (("BILLFISH__ADMIN__LISTEN", "127.0.0.1:8080"), &["admin.listen", "http.listen"]),
        (("BILLFISH__GATEWAY__LISTEN__TLS", "0.0.0.0:8443"), &["gateway.listen.advertise.tls", "gateway.listen.tls"]),
        (("BILLFISH__GATEWAY__LISTEN__QUIC", "127.0.0.1:8443"), &[]),
    ];
    for (variable, named) in cases {
        let output = billfish(&["check-config"], &[variable]);
        let why = text(&output.stderr);
        assert_eq!(output.status.code(), Some(i32::from(!named.is_empty())), "{variable:?}: {why}");
        assert!(named.iter().all(|word| why.contains(word)), "{variable:?}: {why}");
    }
}

#[test]
fn an_address_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let any = "127.0.0.1:0";
    let output = billfish(
        &[],
        &[
            ("BILLFISH__GATEWAY__LISTEN__TCP", any),
            ("BILLFISH__GATEWAY__LISTEN__WS", any),
            ("BILLFISH__GATEWAY__LISTEN__TLS", any),
            ("BILLFISH__GATEWAY__LISTEN__QUIC", any),
            ("BILLFISH__HTTP__LISTEN", &address),
            ("BILLFISH__ADMIN__LISTEN", any),
        ],
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains(&address), "{}", text(&output.stderr));
}

#[test]
fn a_client_port_that_another_gateway_listens_on_is_not_shared() {
    let house = crate::house::House::start();
    let any = "127.0.0.1:0";
    let address = house.ports.tcp.to_string();
    let output =
        billfish(&[], &[("BILLFISH__GATEWAY__LISTEN__TCP", &address), ("BILLFISH__HTTP__LISTEN", any), ("BILLFISH__ADMIN__LISTEN", any)]);
    assert_eq!(output.status.code(), Some(1));
    let why = text(&output.stderr);
    assert!(why.contains(&address) && why.contains("gateway.listen.tcp"), "{why}");
}

/// What a role of its own must be told, one missing at a time.
#[test]
fn a_role_of_its_own_is_refused_by_the_key_that_is_missing() {
    let redis = ("BILLFISH__STATE__KIND", "redis");
    let link = ("BILLFISH__ROUTER__LINK__LISTEN", "127.0.0.1:0");
    let secret = ("BILLFISH__ROUTER__LINK__SECRET", "a secret between us");
    let cases = [
        ("gateway", vec![], "state.kind"),
        ("router", vec![], "state.kind"),
        ("gateway", vec![redis], "gateway.link.secret"),
        ("gateway", vec![redis, ("BILLFISH__GATEWAY__LINK__SECRET", "too short")], "gateway.link.secret"),
        ("gateway", vec![redis, ("BILLFISH__GATEWAY__LISTEN__TCP", "0.0.0.0:0")], "gateway.listen.advertise.tcp"),
        ("router", vec![redis], "router.link.listen"),
        ("router", vec![redis, link, secret], "http.api_key"),
        ("router", vec![redis, ("BILLFISH__STATE__REDIS__NODES", "[]")], "state.redis.nodes"),
    ];
    for (role, environment, named) in cases {
        for arguments in [&[role][..], &["check-config", "--role", role]] {
            let output = billfish(arguments, &environment);
            assert_eq!(output.status.code(), Some(1), "{arguments:?} {environment:?}");
            assert!(text(&output.stderr).contains(named), "{arguments:?} {environment:?}: {}", text(&output.stderr));
        }
    }
}

#[test]
fn the_examples_of_a_cluster_are_configurations_without_a_secret_shown() {
    let example = |name: &str| format!("{}/docs/examples/cluster/{name}.toml", env!("CARGO_MANIFEST_DIR"));
    for role in ["router", "gateway"] {
        let output = billfish(
            &["check-config", "--role", role, "--config", &example(role)],
            &[("BILLFISH__STATE__REDIS__PASSWORD", "12345"), ("BILLFISH__LEDGER__URL", "mysql://billfish:hush@127.0.0.1:3306/billfish")],
        );
        assert_eq!(output.status.code(), Some(0), "{role}: {}", text(&output.stderr));
        let printed = text(&output.stdout);
        for secret in ["hush", "12345", "change-me", "cluster-example-key"] {
            assert!(!printed.contains(secret), "{secret} in {printed}");
        }
    }
}
