//! `unicast`: one-to-one chat between neighbours. Each copy is kept until acknowledged, so a second copy is legal.

use crate::{
    options::Unicast,
    scenario::{Script, WrongUse, conduct, let_run, publish},
    worker::Activity,
};
use anyhow::{Result, bail};

/// Runs it.
pub(crate) fn run(options: &Unicast) -> Result<bool> {
    if options.rate <= 0.0 {
        bail!(WrongUse("--rate must be above 0".to_owned()));
    }
    let activity = Activity::Chat { per_s: options.rate, text_chars: options.payload as usize };
    let script = Script { at_least_once: true, ..Script::new("unicast", activity) };
    let run = conduct(&options.common, &script, |crew, _| let_run(crew, options.seconds))?;
    publish(&options.common, &run)
}
