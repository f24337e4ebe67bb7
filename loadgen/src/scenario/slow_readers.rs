//! `slow-readers`: a room burst while some members read slowly and some not at all.
//!
//! - First a calm, in which everyone reads: its latency is what the prompt readers' latency is compared with later.
//! - The slow ones lose copies, which the gateway counts, or are ended with a reason, which it counts as well. Both are part of the account.

use crate::{
    crowd::slow::Slow,
    options::SlowReaders,
    scenario::{
        Script, SlowScript, WrongUse, conduct, publish,
        room_burst::{Burst, KEPT_MAX, Traffic},
    },
    worker::Activity,
};
use anyhow::{Result, bail};
use billfish_wire::Class;
use std::time::Duration;

/// Runs it.
pub(crate) fn run(options: &SlowReaders) -> Result<bool> {
    if options.slow_permille + options.stopped_permille > 1_000 {
        bail!(WrongUse("--slow-permille and --stopped-permille together are more than everyone".to_owned()));
    }
    if options.common.transport.is_quic() {
        // What a QUIC connection had taken and not delivered when the gateway ended it nobody can tell, so there would be no account.
        bail!(WrongUse(
            "slow-readers runs over tcp, ws, tls and wss: of a QUIC connection that is ended, what was lost cannot be counted".to_owned()
        ));
    }
    let calm = Duration::from_secs(u64::from(options.calm_seconds));
    let slow = Slow {
        slow_permille: options.slow_permille,
        bytes_per_s: options.slow_rate,
        stopped_permille: options.stopped_permille,
        stop: Duration::try_from_secs_f64(options.stop_seconds).map_err(|error| WrongUse(format!("--stop-seconds: {error}")))?,
        calm,
        receive_buffer_bytes: options.receive_buffer,
    };
    let script = Script {
        rooms: options.rooms,
        slow: Some(SlowScript {
            slow,
            class: Class::from_number(i32::from(options.class)),
            memory_growth_bytes_max: options.memory_growth_max.saturating_mul(1024 * 1024),
            p99_growth_max: options.p99_growth_max,
        }),
        ..Script::new("slow-readers", Activity::Listen)
    };
    let traffic = Traffic {
        rate: options.rate,
        outstanding: None,
        length: calm + Duration::from_secs(u64::from(options.seconds)),
        app_id: options.common.app_id,
        qos: 0,
        class: options.class,
        payload_bytes: options.payload as usize,
        senders: options.senders,
        kept_max: if options.common.report.is_some() { KEPT_MAX } else { 0 },
    };
    let run = conduct(&options.common, &script, |crew, api| Burst::begin(traffic, crew, api)?.run(crew))?;
    publish(&options.common, &run)
}
