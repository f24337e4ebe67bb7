//! `pk-night`: rooms with an anchor and a challenger, and gifts that move the bar between them: every viewer must end with the same.

use crate::{options::PkNight, report::number, scenario::gifts};
use anyhow::Result;

/// Runs it.
pub(crate) fn run(options: &PkNight) -> Result<bool> {
    gifts::run("pk-night", &options.common, &options.gifts, options.rate * number(options.gifts.rooms as u64), true)
}
