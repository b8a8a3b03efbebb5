//! From the body of a request to a [`ValidRequest`]. Behind it nothing looks at what the client wrote.

pub mod compiler;
pub mod constraints;
pub mod cost;
pub mod fields;
mod forms;
pub mod images;
pub mod json_schema;
pub mod prompt_input;
pub mod prompts;
pub mod settings;
pub mod token_bytes;
pub mod tool_choice;
pub mod wire;

use constraints::RequestedConstraints;
use prompt_input::PromptInput;
use settings::{ResponseKind, ResponseOptions, Settings, ToolCalls, check};
use tool_choice::ToolChoice;
use wire::{Request, TokensRequest};

use crate::serve::app::App;
use crate::serve::error::ApiError;

/// Bytes of a name that a client gives its request.
const REQUEST_ID_BYTES_MAX: usize = 256;

/// What a route is asked to generate, checked as far as that goes without a prompt. Whether pictures load, grammars compile, templates render and
/// prompts fit is seen later.
#[derive(Clone, Debug)]
pub struct ValidRequest {
    /// What the prompts are made of.
    pub prompt: PromptInput,
    /// How tokens are sampled, when answers end, what is told of them.
    pub settings: Settings,
    /// What is asked of the answers' tokens.
    pub constraints: RequestedConstraints,
    /// How the answers are given out.
    pub options: ResponseOptions,
}

impl ValidRequest {
    /// A body of `/v1/chat/completions`.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn chat(request: Request, app: &App) -> Result<ValidRequest, ApiError> {
        refuse_without_environment(&request)?;
        let choice = ToolChoice::read(&request)?;
        let tool_calls = match &choice {
            ToolChoice::None if request.tools.as_ref().is_none_or(Vec::is_empty) => ToolCalls::Ignored,
            ToolChoice::None => ToolCalls::Unmarked,
            ToolChoice::Auto | ToolChoice::Forced(..) => ToolCalls::Read,
        };
        let settings = app.defaults.settings(&request, ResponseKind::Chat, tool_calls)?;
        let constraints = RequestedConstraints::read(&request, &choice, &app.defaults)?;
        let prompt = |request| PromptInput::conversation(request, &app.prompts.limits);
        ValidRequest::new(request, ResponseKind::Chat, (settings, constraints), prompt, app)
    }

    /// A body of `/v1/chat/completions`, where the server plays chats to their end in an environment.
    ///
    /// # Errors
    /// The first field whose value cannot be used, or has no meaning there.
    pub fn agent_chat(request: Request, app: &App) -> Result<ValidRequest, ApiError> {
        let settings = app.defaults.settings(&request, ResponseKind::Chat, ToolCalls::Ignored)?;
        refuse_beside_environment(&request)?;
        let prompt = |request| PromptInput::conversation(request, &app.prompts.limits);
        ValidRequest::new(request, ResponseKind::Chat, (settings, RequestedConstraints::default()), prompt, app)
    }

    /// A body of `/v1/completions`.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn completion(request: Request, app: &App) -> Result<ValidRequest, ApiError> {
        refuse_without_environment(&request)?;
        let settings = app.defaults.settings(&request, ResponseKind::Text, ToolCalls::Ignored)?;
        let constraints = RequestedConstraints::read(&request, &ToolChoice::None, &app.defaults)?;
        let prompt = |request: Request| PromptInput::completion(request.prompt);
        ValidRequest::new(request, ResponseKind::Text, (settings, constraints), prompt, app)
    }

    /// A body of `/inference/v1/generate`.
    ///
    /// # Errors
    /// The first field whose value cannot be used.
    pub fn tokens(request: TokensRequest, app: &App) -> Result<ValidRequest, ApiError> {
        let TokensRequest { model, request_id, token_ids, features, sampling_params } = request;
        let bytes = request_id.as_ref().map_or(0, String::len);
        let range = format!("at most {REQUEST_ID_BYTES_MAX}");
        check("request_id", format!("{bytes} bytes long"), bytes <= REQUEST_ID_BYTES_MAX, &range)?;
        let request = Request { model, stream: None, ..sampling_params };
        refuse_without_environment(&request)?;
        let settings = app.defaults.settings(&request, ResponseKind::Tokens, ToolCalls::Ignored)?;
        let constraints = RequestedConstraints::read(&request, &ToolChoice::None, &app.defaults)?;
        let prompt = |_| PromptInput::tokens(token_ids, features.unwrap_or_default(), &app.prompts.limits);
        let valid = ValidRequest::new(request, ResponseKind::Tokens, (settings, constraints), prompt, app)?;
        let id = request_id.unwrap_or_else(|| valid.options.id.clone());
        Ok(ValidRequest { options: ResponseOptions { id, ..valid.options }, ..valid })
    }

    fn new(
        request: Request,
        kind: ResponseKind,
        (mut settings, constraints): (Settings, RequestedConstraints),
        prompt: impl FnOnce(Request) -> Result<PromptInput, ApiError>,
        app: &App,
    ) -> Result<ValidRequest, ApiError> {
        let model = app.model_name(request.model.as_deref())?;
        let stream = request.stream.unwrap_or(false);
        let include_usage = request.stream_options.and_then(|options| options.include_usage).unwrap_or(false);
        let prompt = prompt(request)?;
        app.defaults.check_answers(prompt.count(), &settings)?;
        if constraints.has_form() {
            // The end of a turn is the end of the form, whatever else is said of it.
            settings.stops.token_ids.extend(&app.defaults.eos);
        }
        let id = app.request_id(if kind == ResponseKind::Chat { "chatcmpl" } else { "cmpl" });
        let options = ResponseOptions { kind, id, model, stream, include_usage };
        Ok(ValidRequest { prompt, settings, constraints, options })
    }
}

/// Refuses what has no meaning where the server runs no tools.
fn refuse_without_environment(request: &Request) -> Result<(), ApiError> {
    match request.code_temperature {
        None => Ok(()),
        Some(_) => Err(ApiError::field(
            "code_temperature",
            "has no effect here; leave it out, or send a chat to a server that was started with --env think_with_code",
        )),
    }
}

/// Refuses what has no meaning where the server runs the tools.
fn refuse_beside_environment(request: &Request) -> Result<(), ApiError> {
    let constraint = constraints::first_field(request);
    for (param, is_asked) in [
        (constraint.unwrap_or_default(), constraint.is_some()),
        ("tools", request.tools.as_ref().is_some_and(|tools| !tools.is_empty())),
        ("top_logprobs", request.top_logprobs.unwrap_or(0) > 0),
        ("prompt_logprobs", request.prompt_logprobs.is_some()),
        ("echo", request.echo.unwrap_or(false)),
        ("stop_token_ids", request.stop_token_ids.as_ref().is_some_and(|ids| !ids.is_empty())),
        ("ignore_eos", request.ignore_eos.unwrap_or(false)),
        ("continue_final_message", request.continue_final_message.unwrap_or(false)),
        ("chat_template", request.chat_template.is_some()),
        ("chat_template_kwargs", request.chat_template_kwargs.as_ref().is_some_and(|kwargs| !kwargs.is_empty())),
        ("mm_processor_kwargs", request.mm_processor_kwargs.is_some()),
    ] {
        if is_asked {
            let message =
                "has no effect where the server runs the tools; leave it out, or start the server without --env";
            return Err(ApiError::field(param, message));
        }
    }
    Ok(())
}
