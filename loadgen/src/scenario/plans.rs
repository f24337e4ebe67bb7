//! The crowd split over workers.
//!
//! Who is in which worker changes nothing else: users, rooms and slow ones follow from the seed and the client's number in the whole crowd.

use crate::{
    accounts,
    crowd::gifting::GiftWork,
    gifts::GiftPlan,
    options::Common,
    proc,
    report::number,
    scenario::{LOGIN_TIMEOUT, Script, WrongUse, server::Server},
    transport::TlsPlan,
    worker::{Activity, Plan},
};
use anyhow::{Result, bail};
use std::time::Duration;

/// Descriptors a worker needs apart from its clients.
const SPARE_FILES: u64 = 100;
/// Workers of one run.
const PROCESSES_MAX: usize = 64;
/// Clients per loopback source address unless told otherwise: below the gateway's live connections per address.
const CLIENTS_PER_SOURCE: usize = 1_000;

/// Splits the crowd over as many workers as were asked for, or as the open-files limit needs. `gifts`: what is sent in a run with gifts.
pub(super) fn plans(
    common: &Common,
    server: &Server,
    seed: u64,
    rooms: &[i64],
    script: &Script,
    gifts: Option<&GiftPlan>,
) -> Result<Vec<Plan>> {
    let per_process = clients_per_process();
    let needed = common.connections.div_ceil(per_process);
    if needed > PROCESSES_MAX {
        bail!(WrongUse(format!(
            "{} connections need {needed} processes, for each may open {per_process} files, and there may be {PROCESSES_MAX}: raise the limit of open files (ulimit -n)",
            common.connections
        )));
    }
    let workers = common.processes.map_or(needed, usize::from).min(common.connections);
    if workers < needed {
        bail!(WrongUse(format!("{} connections need at least {needed} processes: each may open {per_process} files", common.connections)));
    }
    let sources = common.sources.map_or(common.connections.div_ceil(CLIENTS_PER_SOURCE), usize::from);
    let tls = TlsPlan::of(common.ca.as_deref(), common.resume_tls).map_err(|error| WrongUse(format!("{error:#}")))?;
    let mut first = 0;
    let mut plans = Vec::with_capacity(workers);
    for index in 0..workers {
        // Even numbers, so that chat neighbours share a worker.
        let end = if index + 1 == workers { common.connections } else { common.connections * (index + 1) / workers / 2 * 2 };
        let clients = end - first;
        let share = number(clients as u64) / number(common.connections as u64);
        let gifts = script.gifts.zip(gifts).map(|(script, plan)| {
            let senders = |clients: std::ops::Range<usize>| number(clients.filter(|&client| plan.sends(client)).count() as u64);
            let share = senders(first..end) / senders(0..common.connections).max(1.0);
            GiftWork { plan: plan.clone(), per_s: script.per_s * share, window: script.window.div_ceil(workers) }
        });
        plans.push(Plan {
            gateways: server.gateways.clone(),
            transport: common.transport,
            tls: tls.clone(),
            http: server.http.clone(),
            api_key: server.api_key.clone(),
            app_id: common.app_id,
            first_user_id: accounts::first_user_id(seed),
            first,
            clients,
            rooms: rooms.to_vec(),
            protobuf: common.protobuf,
            sources,
            login_window: (common.login_window as usize).div_ceil(workers),
            connect_rate: common.connect_rate * share,
            login_timeout: LOGIN_TIMEOUT,
            connect_max: Duration::from_secs(u64::from(common.connect_max)),
            quiet: Duration::from_secs(u64::from(common.quiet)),
            return_spread: script.return_spread,
            slow: script.slow.map(|script| script.slow),
            activity: match script.activity {
                Activity::Listen => Activity::Listen,
                Activity::Echo { per_s } => Activity::Echo { per_s: per_s * share },
                Activity::Chat { per_s, text_chars } => Activity::Chat { per_s: per_s * share, text_chars },
                Activity::Gifts => Activity::Gifts,
            },
            gifts,
        });
        first = end;
    }
    Ok(plans)
}

/// Connections that one process may have.
pub(super) fn clients_per_process() -> usize {
    usize::try_from(proc::raise_open_files().saturating_sub(SPARE_FILES)).unwrap_or(usize::MAX).max(1)
}
