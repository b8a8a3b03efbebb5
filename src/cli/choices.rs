//! Values of flags that are one of a few names.

use clap::ValueEnum;
use clap::builder::PossibleValue;

use crate::engine::speculation::Speculation;
use crate::serve::request::settings::LogprobsMode;

impl ValueEnum for Speculation {
    fn value_variants<'a>() -> &'a [Speculation] {
        &[Speculation::Off, Speculation::Auto, Speculation::Always]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(match self {
            Speculation::Off => PossibleValue::new("off").help("Never: each step samples one token of a sequence"),
            Speculation::Auto => {
                PossibleValue::new("auto").help("Where the expected gain is more than 1.25 times the measured cost")
            }
            Speculation::Always => {
                PossibleValue::new("always").help("Wherever there is something to draft, whether it repays or not")
            }
        })
    }
}

impl ValueEnum for LogprobsMode {
    fn value_variants<'a>() -> &'a [LogprobsMode] {
        &[LogprobsMode::RawLogprobs, LogprobsMode::ProcessedLogprobs]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        let help = match self {
            LogprobsMode::RawLogprobs => "At temperature 1 over the whole vocabulary",
            LogprobsMode::ProcessedLogprobs => {
                "Under the distribution that it was sampled from: after penalties, bias, mask, temperature and cuts"
            }
        };
        Some(PossibleValue::new(self.name()).help(help))
    }
}
