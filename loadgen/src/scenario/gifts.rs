//! What the scenarios with gifts have in common: what is drawn from, who pays, and the PK that it moves.

use crate::{
    accounts::{anchor_id, first_user_id, grant},
    clock,
    crowd::viewers::BarPush,
    gifts::{CATALOGUE_MAX, GIFTS_MAX, GiftPlan, NUM_MAX},
    http::Api,
    options::{Common, GiftOptions},
    report::number,
    scenario::{GiftScript, Script, WrongUse, conduct, let_run, publish},
    worker::Activity,
};
use anyhow::{Context, Result, bail};
use std::time::Duration;

/// Each sender gets so many times the coins that its share of the gifts may cost, for shares are not exactly even.
const COINS_SPARE: i64 = 2;
/// Gifts of a sender that are paid for beyond its share.
const GIFTS_SPARE: i64 = 20;
/// Gifts a second of one sender, unless told otherwise: the gateway takes 10 of a session, repeats among them.
const PER_SENDER: f64 = 2.0;

/// Runs a scenario with gifts, `per_s` in all.
pub(super) fn run(name: &'static str, common: &Common, options: &GiftOptions, per_s: f64, is_pk: bool) -> Result<bool> {
    let rows = common.connections / options.rooms;
    if rows < 2 {
        bail!(WrongUse(format!(
            "--connections {} are fewer than two for each of {} rooms: one must send",
            common.connections, options.rooms
        )));
    }
    if per_s * f64::from(options.seconds) > f64::from(GIFTS_MAX) {
        bail!(WrongUse(format!("--rate {per_s} for {} s are more than the {GIFTS_MAX} gifts that a run accounts for", options.seconds)));
    }
    let script = Script {
        rooms: options.rooms,
        at_least_once: true,
        return_spread: Some(Duration::try_from_secs_f64(options.spread).map_err(|error| WrongUse(format!("--spread: {error}")))?),
        gifts: Some(GiftScript {
            per_s,
            seconds: options.seconds,
            is_pk,
            senders: options.senders,
            combo_permille: permille(options.combo_share),
            retry_permille: permille(options.retry_share),
            window: options.window as usize,
            coins: options.coins,
            price_max: options.price_max.unwrap_or(if is_pk { 10 } else { 1_000 }),
        }),
        ..Script::new(name, Activity::Gifts)
    };
    let run = conduct(common, &script, |crew, _| let_run(crew, options.seconds))?;
    publish(common, &run)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share is 0 to 100")]
fn permille(percent: f64) -> u16 {
    (percent * 10.0).round() as u16
}

/// Draws up what is sent, and gives its senders their coins.
pub(super) fn prepare(
    common: &Common,
    script: &GiftScript,
    seed: u64,
    rooms: usize,
    api: &Api,
    goes_on: &mut dyn FnMut() -> Result<()>,
) -> Result<GiftPlan> {
    let mut catalogue = api.gifts().context("the catalogue of gifts")?;
    catalogue.retain(|gift| (1..=script.price_max).contains(&gift.price));
    catalogue.sort_by_key(|gift| (gift.price, gift.gift_id));
    catalogue.truncate(CATALOGUE_MAX);
    let Some(dearest) = catalogue.last().map(|gift| gift.price) else {
        bail!("the server has no gift for at most {} coins (--price-max)", script.price_max);
    };
    let rows = (common.connections / rooms).saturating_sub(1).max(1);
    let senders = script.senders.unwrap_or_else(|| wanted(script.per_s)).clamp(rooms.min(common.connections), common.connections);
    let first_user_id = first_user_id(seed);
    let client = |index: usize| first_user_id + i64::try_from(index).expect("a crowd has at most a million clients");
    let plan = GiftPlan {
        run: clock::now_ns() ^ seed.rotate_left(40),
        app_id: common.app_id,
        first_user_id,
        catalogue,
        anchors: (0..rooms).map(|room| anchor_id(seed, room)).collect(),
        challengers: if script.is_pk { (0..rooms).map(client).collect() } else { Vec::new() },
        sender_every: (rows * rooms / senders).max(1),
        combo_permille: script.combo_permille,
        retry_permille: script.retry_permille,
    };
    let payers: Vec<i64> = (0..common.connections).filter(|&index| plan.sends(index)).map(client).collect();
    let coins = script.coins.unwrap_or_else(|| share(script, payers.len(), dearest));
    if coins > 0 {
        grant(api, common.app_id, &payers, coins, &|user_id| format!("lg{:x}-{user_id:x}", plan.run), goes_on)?;
    }
    Ok(plan)
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rate is far below 2^52")]
fn wanted(per_s: f64) -> usize {
    (per_s / PER_SENDER).ceil() as usize
}

/// Coins that a sender's share may cost.
#[expect(clippy::cast_possible_truncation, reason = "a run has at most four million gifts")]
fn share(script: &GiftScript, senders: usize, dearest: i64) -> i64 {
    let gifts = (script.per_s * f64::from(script.seconds) / number(senders as u64).max(1.0)).ceil() as i64;
    (gifts + GIFTS_SPARE).saturating_mul(dearest).saturating_mul(NUM_MAX * COINS_SPARE)
}

/// Puts the challenger of each room into its PK: he is connected, and in the room.
pub(super) fn begin_pks(api: &Api, rooms: &[i64], plan: &GiftPlan, goes_on: &mut dyn FnMut() -> Result<()>) -> Result<()> {
    for (&room, &challenger) in rooms.iter().zip(&plan.challengers) {
        goes_on()?;
        api.begin_pk(room, challenger).with_context(|| format!("the challenger of room {room}"))?;
    }
    Ok(())
}

/// Where the server says that each bar stands; `None`: there is no PK any more.
pub(super) fn bars(api: &Api, rooms: &[i64]) -> Result<Vec<Option<BarPush>>> {
    rooms.iter().map(|&room| api.pk(room)).collect()
}

#[cfg(test)]
mod tests {
    use super::{permille, share, wanted};
    use crate::scenario::GiftScript;

    #[test]
    fn shares_senders_and_coins_follow_from_the_options() {
        assert_eq!((permille(1.0), permille(0.1), permille(100.0)), (10, 1, 1_000));
        assert_eq!((wanted(0.5), wanted(1_000.0)), (1, 500));
        let script = GiftScript {
            per_s: 1_000.0,
            seconds: 300,
            is_pk: false,
            senders: None,
            combo_permille: 0,
            retry_permille: 0,
            window: 1,
            coins: None,
            price_max: 50,
        };
        assert!(share(&script, 500, 50) >= 600 * 50 * 3, "each gift of a share may be the dearest, and three of it");
        assert!(share(&GiftScript { per_s: 4e6, seconds: 1, ..script }, 1, i64::MAX) > 0, "no price is too high to multiply");
    }
}
