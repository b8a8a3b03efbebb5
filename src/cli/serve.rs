//! `thyme-engine serve`: an OpenAI-compatible HTTP server.

use std::io::IsTerminal;
use std::net::{IpAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde_json::Value;
use tracing_subscriber::EnvFilter;

use super::allocator::return_freed_memory;
use super::device::Device;
use super::generation_config::GenerationConfig;
use super::inference_session::{NO_ENVIRONMENT, start_environment};
use super::isolated::{THIS_PROGRAM, compiler_of, renderer_of};
use super::jsonl::print;
use crate::checkpoint::{Checkpoint, weights};
use crate::engine::EngineLimits;
use crate::engine::sizing::{EngineFootprint, EngineSize, PageDemand};
use crate::engine::speculation::Speculation;
use crate::files::open::{SETTINGS_BYTES_MAX, read_text};
use crate::model::config::Config;
use crate::ops::Backend;
use crate::prompt::Processor;
use crate::rollout::registry::Registry;
use crate::serve::http::access::{Access, Hosts, Origins};
use crate::serve::request::images::ImagePolicy;
use crate::serve::request::prompt_input::{IMAGES_MAX, InputLimits};
use crate::serve::request::prompts::Prompts;
use crate::serve::request::settings::Defaults;
use crate::serve::request::settings::LogprobsMode;
use crate::serve::request::token_bytes::TokenBytes;
use crate::serve::{self, ServerConfig};
use crate::telemetry::memory::readable_bytes;

/// A file of requests does not dawdle.
const NO_HURRY: Duration = Duration::from_secs(86_400);
/// Memory for keys and values where nothing is said.
const CACHE_BYTES: usize = 4 << 30;

const EXAMPLES: &str = r#"Example:
  thyme-engine serve recipes/tiny-sft --port 8000
  curl http://127.0.0.1:8000/v1/chat/completions -H 'Content-Type: application/json' \
       -d '{"messages": [{"role": "user", "content": "What digit is on the red plate?"}], "max_tokens": 16}'

Requests may ask for logit_bias, allowed_token_ids, bad_words, min_tokens, presence_penalty and frequency_penalty, and for answers of a form:
response_format (json_object, json_schema), structured_outputs (json, json_object, regex, choice, grammar), tool_choice (required, a function).
`tools` need a chat template that shows them to the model (--chat-template). Of a JSON schema, `uniqueItems` and a `format` that is not known
are not enforced. `max_tokens: 0` with `echo` and `logprobs` scores a prompt. An answer of more than 256 MiB of JSON is refused before it starts.

Whoever reaches the address can use the server, load other weights into it too; --api-key asks for a key. Web pages of other origins cannot,
unless --allowed-origins names them, and never change weights. Bodies are JSON, and said to be. Ctrl-C or SIGTERM ends it when
the requests that it has are answered. RUST_LOG=debug tells more."#;

/// Serve a model to clients of OpenAI's API.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ServeArguments {
    /// Checkpoint folder, or org/name in the local Hugging Face cache.
    #[arg(value_name = "MODEL")]
    model: String,
    /// Address to listen at; 0.0.0.0 for every network.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    host: String,
    /// Port; 0 for any that is free.
    #[arg(long, value_name = "PORT", default_value_t = 8000)]
    port: u16,
    /// What clients must send as `Authorization: Bearer KEY`; the flag may be repeated, one key for each client.
    #[arg(long, value_name = "KEY", env = "THYME_API_KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// Web origins whose pages may use the server, such as `https://example.com`; repeated, with commas, or a JSON list; * for all, none without
    /// it. Routes that change weights are for no page.
    #[arg(long, value_name = "ORIGIN")]
    allowed_origins: Vec<String>,
    /// Names that the server goes by besides localhost and loopback addresses, given in the same ways; * for any name. Without it a server at a
    /// loopback address goes by no other, any other server by all.
    #[arg(long, value_name = "HOST")]
    allowed_hosts: Vec<String>,
    /// Names that the model goes by; MODEL without it.
    #[arg(long, value_name = "NAME", num_args = 1..)]
    served_model_name: Vec<String>,
    /// Requests that may wait; further ones get status 429.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_queued_requests: usize,
    /// A client is dropped that takes longer over the head of a request, or stops reading its answer for so long; a body may take as long, and
    /// longer if it is large.
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    client_timeout: u32,
    /// Run chats to their end in this environment, such as think_with_code: its tools run here, and the reply brings the whole trajectory.
    #[arg(long = "env", value_name = "NAME", default_value = NO_ENVIRONMENT)]
    environment: String,
    #[command(flatten)]
    serving: ServingArguments,
}

/// What a model may be asked, and with how much memory; the same for `serve` and `batch`.
#[derive(Clone, Debug, Args)]
pub struct ServingArguments {
    /// What does work that may end a process: a build of this program.
    #[arg(skip = THIS_PROGRAM)]
    pub program: PathBuf,
    /// Tokens of a prompt with its answer; the model's own limit without it.
    #[arg(long, value_name = "N")]
    max_model_len: Option<usize>,
    /// Sequences decoded together.
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    pub max_num_seqs: u16,
    /// Memory for keys and values, but always enough for one sequence [default: 4294967296].
    #[arg(long, value_name = "BYTES", conflicts_with = "gpu_memory_utilization")]
    pub kv_cache_memory_bytes: Option<usize>,
    /// Share of the memory that is free at the start which weights, keys and values and a step take together; on the CPU of the machine's.
    #[arg(long, value_name = "SHARE")]
    gpu_memory_utilization: Option<f64>,
    /// Pictures in one prompt, as a number or as vLLM's {"image": N}.
    #[arg(long, value_name = "N", default_value_t = IMAGES_MAX.to_string())]
    limit_mm_per_prompt: String,
    /// A Jinja file in place of the checkpoint's template.
    #[arg(long, value_name = "FILE")]
    chat_template: Option<PathBuf>,
    /// Requests may bring templates of their own; each is rendered in a process apart, in at most 4 seconds and 1 GiB.
    #[arg(long)]
    trust_request_chat_template: bool,
    /// Pictures may be named in files below this folder; of `batch` the folder of the input without it.
    #[arg(long, value_name = "DIR")]
    pub allowed_local_media_path: Option<PathBuf>,
    /// Clients may name pictures by addresses of the public network.
    #[arg(long)]
    allow_remote_images: bool,
    /// Clients may name pictures at these hosts, even if they are in a private network.
    #[arg(long, value_name = "HOST", num_args = 1..)]
    allowed_media_domains: Vec<String>,
    /// Which log-probabilities are told: at temperature 1, or under the distribution sampled from.
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub logprobs_mode: LogprobsMode,
    /// How many of the likeliest tokens a request may have told in each place (logprobs, top_logprobs, prompt_logprobs); -1 for any number.
    #[arg(long, value_name = "N", default_value_t = 20, allow_negative_numbers = true, value_parser = clap::value_parser!(i64).range(-1..))]
    max_logprobs: i64,
    /// Whether to draft what comes next from what was said before, and check several tokens in a step; it changes no token.
    #[arg(long, value_enum, value_name = "MODE", default_value_t)]
    pub speculation: Speculation,
    /// Where to compute.
    #[arg(long, value_enum, default_value_t)]
    pub device: Device,
}

/// Runs the command.
pub fn run(arguments: ServeArguments, registry: &Registry) -> anyhow::Result<()> {
    return_freed_memory();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A subscriber that is there already does as well.
    let _ = log.with_ansi(std::io::stderr().is_terminal()).try_init();
    let (host, port) = (arguments.host.as_str(), arguments.port);
    let listener = TcpListener::bind((host, port))
        .with_context(|| format!("cannot listen at {host}:{port}; choose another --host or --port"))?;
    let address = listener.local_addr().context("the address cannot be read")?;
    let access = access(&arguments, address.ip())?;
    let config = ServerConfig {
        names: if arguments.served_model_name.is_empty() {
            vec![arguments.model.clone()]
        } else {
            arguments.served_model_name
        },
        access,
        waiting_max: arguments.max_queued_requests,
        client_timeout: Duration::from_secs(arguments.client_timeout.into()),
        environment: start_environment(&arguments.environment, None, registry)?,
        ..arguments.serving.config(&arguments.model)?
    };
    print(&format!("serving {} at http://{address}\n", config.names.join(", ")))?;
    serve::run(config, listener)?;
    Ok(())
}

impl ServingArguments {
    /// Loads the model; open to all, under its own name, with room for any number of requests and without an environment.
    ///
    /// # Errors
    /// When a file or a flag cannot be used.
    pub fn config(&self, model: &str) -> anyhow::Result<ServerConfig> {
        let mut checkpoint = Checkpoint::open(model)?;
        let processor = self.processor(&checkpoint)?;
        if let Some(tokens) = self.max_model_len {
            let most = checkpoint.config.context_tokens;
            anyhow::ensure!(
                (2..=most).contains(&tokens),
                "--max-model-len is {tokens}; it must be between 2 and {most}"
            );
            checkpoint.config.context_tokens = tokens;
        }
        let images_max = images_max(&self.limit_mm_per_prompt)?;
        if let Some(path) = self.allowed_local_media_path.as_ref().filter(|path| !path.is_dir()) {
            anyhow::bail!("--allowed-local-media-path is {}, which is no folder; give one", path.display());
        }
        let images = ImagePolicy::new(
            self.allowed_local_media_path.as_deref(),
            &self.allowed_media_domains,
            self.allow_remote_images,
        );
        let images = images.context("--allowed-local-media-path is no folder that can be read")?;
        let defaults = self.defaults(&GenerationConfig::open(&checkpoint.dir)?, &processor, &checkpoint.config)?;
        let (backend, limits) = self.backend(&checkpoint.config, processor.image_settings().max_pixels)?;
        let server_model = checkpoint.model(backend);
        Ok(ServerConfig {
            weights: checkpoint.weights(&server_model)?,
            model: server_model,
            reload: weights::reload,
            limits,
            speculation: self.speculation,
            prompts: Prompts {
                processor: Arc::new(processor),
                config: checkpoint.config,
                images,
                limits: InputLimits { images_max, trusts_templates: self.trust_request_chat_template },
                renderer: renderer_of(&self.program),
            },
            defaults,
            names: vec![model.to_owned()],
            access: Access::default(),
            waiting_max: usize::MAX,
            client_timeout: NO_HURRY,
            environment: None,
            compiler_children: compiler_of(&self.program),
        })
    }

    fn processor(&self, checkpoint: &Checkpoint) -> anyhow::Result<Processor> {
        let processor = checkpoint.processor(Some(renderer_of(&self.program)))?;
        let Some(path) = &self.chat_template else { return Ok(processor) };
        let source = read_text(path, SETTINGS_BYTES_MAX)
            .with_context(|| format!("cannot read --chat-template {}; give a Jinja file", path.display()))?;
        processor.with_template(source).with_context(|| format!("--chat-template {}", path.display()))
    }

    /// What the checkpoint says where a request says nothing.
    fn defaults(
        &self,
        generation: &GenerationConfig,
        processor: &Processor,
        config: &Config,
    ) -> anyhow::Result<Defaults> {
        let ids = processor.special_ids();
        let eos = generation.eos()?;
        if let Some(id) = eos.iter().find(|id| **id as usize >= config.vocab) {
            anyhow::bail!(
                "eos_token_id has {id}, and config.json a vocab_size of {}; take generation_config.json from the same checkpoint",
                config.vocab
            );
        }
        Ok(Defaults {
            sampling: generation.sampling()?,
            max_tokens: generation.max_tokens()?,
            eos: if eos.is_empty() { vec![ids.im_end, ids.endoftext] } else { eos },
            placeholders: config.placeholders(),
            context_tokens: config.context_tokens,
            vocab: config.vocab,
            logprobs_mode: self.logprobs_mode,
            max_logprobs: usize::try_from(self.max_logprobs).ok(),
            token_bytes: TokenBytes::of(processor.tokenizer(), config.vocab),
        })
    }

    /// Memory for keys and values where the device's free memory says nothing.
    ///
    /// # Errors
    /// When it should.
    pub fn cache_bytes(&self) -> anyhow::Result<usize> {
        anyhow::ensure!(
            self.gpu_memory_utilization.is_none(),
            "--gpu-memory-utilization has no effect on a file of this form; use --kv-cache-memory-bytes"
        );
        Ok(self.kv_cache_memory_bytes.unwrap_or(CACHE_BYTES))
    }

    /// Refuses what only requests in OpenAI's form obey.
    ///
    /// # Errors
    /// The flag that would have no effect.
    pub fn refuse_openai_batch_flags(&self) -> anyhow::Result<()> {
        for (flag, is_given) in [
            ("--max-model-len", self.max_model_len.is_some()),
            ("--limit-mm-per-prompt", self.limit_mm_per_prompt != IMAGES_MAX.to_string()),
            ("--chat-template", self.chat_template.is_some()),
            ("--trust-request-chat-template", self.trust_request_chat_template),
            ("--allowed-local-media-path", self.allowed_local_media_path.is_some()),
            ("--allow-remote-images", self.allow_remote_images),
            ("--allowed-media-domains", !self.allowed_media_domains.is_empty()),
        ] {
            anyhow::ensure!(
                !is_given,
                "{flag} has no effect on a file of this form; leave it out, or give the requests in the form of OpenAI's batch files"
            );
        }
        Ok(())
    }

    /// The device, and an engine of the size that its memory allows: pages for as many sequences as run together, but always for one.
    fn backend(&self, config: &Config, max_pixels: u64) -> anyhow::Result<(Arc<dyn Backend>, EngineLimits)> {
        let sequences = usize::from(self.max_num_seqs);
        let size = EngineSize::new(sequences, PageDemand::of_sequences(sequences, config.context_tokens));
        let opened = self.device.open(config)?;
        let (speculation, footprint) = (self.speculation, opened.footprint());
        let engine = EngineFootprint { config, max_pixels, speculation, footprint };
        let Some(share) = self.gpu_memory_utilization else {
            let backend = opened.unplanned_backend(config)?;
            return Ok((backend, size.limits_within(self.cache_bytes()?, engine.page_bytes())));
        };
        anyhow::ensure!(
            share > 0.0 && share <= 1.0,
            "--gpu-memory-utilization is {share}; it must be above 0 and at most 1"
        );
        let free = opened.available_bytes()?;
        let free = free.context("this machine does not say how much memory is free; use --kv-cache-memory-bytes")?;
        let memory = (free as f64 * share) as u64;
        let limits = engine.limits_beside_weights(size, memory).with_context(|| {
            format!(
                "--gpu-memory-utilization {share} is {}, which does not hold the weights, a step and one sequence of {} tokens; raise it, or \
                 lower --max-model-len or --max-num-seqs",
                readable_bytes(u128::from(memory)),
                config.context_tokens
            )
        })?;
        Ok((opened.backend(config, memory)?, limits))
    }
}

/// Who may use a server that listens at an address.
fn access(arguments: &ServeArguments, address: IpAddr) -> anyhow::Result<Access> {
    Access::check_keys(&arguments.api_key)
        .map_err(|reason| anyhow::anyhow!("--api-key (or THYME_API_KEY) {reason}"))?;
    let origins = list("--allowed-origins", &arguments.allowed_origins)?;
    let origins = Origins::read(&origins).map_err(|reason| anyhow::anyhow!("--allowed-origins: {reason}"))?;
    if origins == Origins::Any {
        tracing::warn!("--allowed-origins *: every web page that a user of this network opens can use the server");
    }
    let hosts = list("--allowed-hosts", &arguments.allowed_hosts)?;
    let hosts = Hosts::read(address, &hosts).map_err(|reason| anyhow::anyhow!("--allowed-hosts: {reason}"))?;
    Ok(Access { api_keys: arguments.api_key.clone(), origins, hosts })
}

/// Values of a flag, each a value, several with commas between them, or a JSON list.
fn list(flag: &str, values: &[String]) -> anyhow::Result<Vec<String>> {
    let mut list = Vec::new();
    for value in values {
        if value.trim_start().starts_with('[') && value.contains('"') || value.trim() == "[]" {
            let read: Vec<String> = serde_json::from_str(value).with_context(|| {
                format!("{flag} is {value}, which is no JSON list of texts; give for example [\"*\"]")
            })?;
            list.extend(read);
        } else {
            list.extend(value.split(',').map(|value| value.trim().to_owned()));
        }
    }
    Ok(list)
}

/// `4`, or `{"image": 4}`, or `image=4`.
fn images_max(text: &str) -> anyhow::Result<usize> {
    let json: Option<Value> = serde_json::from_str(text).ok();
    let number = match &json {
        Some(value) => value.as_u64().or_else(|| value["image"].as_u64()),
        None => text.strip_prefix("image=").and_then(|number| number.parse().ok()),
    };
    let number =
        number.with_context(|| format!("--limit-mm-per-prompt is {text}; give a number or {{\"image\": N}}"))?;
    Ok(usize::try_from(number)?)
}
