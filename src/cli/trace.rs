//! Messages to the terminal, and with `--trace` what ran when to a file in Chrome's trace format, which Perfetto (ui.perfetto.dev) shows.

use std::path::Path;

use anyhow::Context;
use tracing_chrome::{ChromeLayerBuilder, FlushGuard};
use tracing_subscriber::filter::{EnvFilter, LevelFilter, Targets};
use tracing_subscriber::prelude::*;

use crate::files::open::create_output;

/// Starts both; the file is whole when what this returns is dropped. `RUST_LOG` says which messages are shown.
pub fn start(file: Option<&Path>) -> anyhow::Result<Option<FlushGuard>> {
    let shown = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let terminal = tracing_subscriber::fmt::layer()
        .without_time()
        .with_target(false)
        .with_writer(std::io::stderr)
        .with_filter(shown);
    let registry = tracing_subscriber::registry().with(terminal);
    let Some(path) = file else {
        registry.init();
        return Ok(None);
    };
    let writer = create_output(path).with_context(|| format!("--trace: cannot create {}", path.display()))?;
    let (spans, guard) = ChromeLayerBuilder::new().writer(std::io::BufWriter::new(writer)).include_args(true).build();
    // Our own spans; the engine's parts are at the level of debugging.
    let ours = Targets::new().with_target(env!("CARGO_CRATE_NAME"), LevelFilter::DEBUG);
    registry.with(spans.with_filter(ours)).init();
    Ok(Some(guard))
}
