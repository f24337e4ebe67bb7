//! `gift-rain`: gifts to the anchors of rooms, each paid once and shown to every viewer once, whatever is sent again.

use crate::{options::GiftRain, scenario::gifts};
use anyhow::Result;

/// Runs it.
pub(crate) fn run(options: &GiftRain) -> Result<bool> {
    gifts::run("gift-rain", &options.common, &options.gifts, options.rate, false)
}
