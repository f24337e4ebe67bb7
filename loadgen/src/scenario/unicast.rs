//! `unicast`: one-to-one chat between neighbours. Each copy is kept until acknowledged, so a second copy is legal.

use crate::{
    options::Unicast,
    scenario::{Script, WrongUse, conduct, let_run, publish},
    worker::Activity,
};
use anyhow::{Result, bail};

/// Runs it.
pub(crate) fn run(options: &Unicast) -> Result<bool> {
    if options.common.connections < 2 {
        bail!(WrongUse("--connections must be at least 2: neighbours talk to each other".to_owned()));
    }
    let activity = Activity::Chat { per_s: options.rate, text_chars: options.payload as usize };
    let script = Script { at_least_once: true, ..Script::new("unicast", activity) };
    let run = conduct(&options.common, &script, |crew, _| let_run(crew, options.seconds))?;
    publish(&options.common, &run)
}
