//! `thyme-engine tools`: the tools that environments call, listed, and tried on images.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Subcommand};
use serde_json::{Value, json};

use super::jsonl::print;
use crate::prompt::ImageSource;
use crate::recipe::layers::load;
use crate::rollout::images::TrajectoryImages;
use crate::rollout::registry::{Named, Registry, ToolEntry};
use crate::rollout::tool::{CallStatus, Subject};
use crate::sandbox::save_new;

/// List the tools that environments call, or try one on images.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  thyme-engine tools list
  thyme-engine tools try convert_grayscale --image photo.jpg --out edited
  thyme-engine tools try zoom --recipe recipes/own_python/recipe.toml --image photo.jpg --arguments '{\"box\": [0, 0, 50, 50]}' --out parts")]
pub struct ToolsArguments {
    #[command(subcommand)]
    command: ToolsCommand,
}

#[derive(Debug, Subcommand)]
enum ToolsCommand {
    /// Print a line for each tool: its name, the environments that call it unless a recipe names others, and what it needs, with tabs between.
    List,
    Try(TryArguments),
}

/// Call a tool once.
#[derive(Debug, Args)]
#[command(after_help = "Example: thyme-engine tools try crop_image --image photo.jpg --arguments \
'{\"x\": 0, \"y\": 0, \"width\": 200, \"height\": 100}' --out crops

Prints {\"status\": \"ok|error|timeout|denied\", \"text\", \"images\": [paths], \"seconds\"}; the exit status is 0 whenever the call ran, and 2 for a name \
that no tool has. Images are saved as new files image-1.png, image-2.png, ...; a number that is taken is passed over.")]
struct TryArguments {
    /// The tool's name, as `tools list` has it.
    name: String,
    /// A picture of the conversation so far; several in order.
    #[arg(long = "image", value_name = "IMG")]
    images: Vec<PathBuf>,
    /// The call's arguments, a JSON object.
    #[arg(long, value_name = "JSON", default_value = "{}", value_parser = object)]
    arguments: Value,
    /// Folder for the images that come back.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The recipe that names the tool, with its environment, the tool's keys, or its file.
    #[arg(long, value_name = "FILE", conflicts_with = "env")]
    recipe: Option<PathBuf>,
    /// The environment that the tool is called in, where several have one of this name.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

/// Runs the command.
pub fn run(arguments: &ToolsArguments, registry: &Registry) -> anyhow::Result<()> {
    match &arguments.command {
        ToolsCommand::List => list(registry),
        ToolsCommand::Try(arguments) => try_tool(arguments, registry),
    }
}

fn list(registry: &Registry) -> anyhow::Result<()> {
    let line =
        |tool: &ToolEntry| format!("{}\t{}\t{}\n", tool.name, registry.environments_of(tool).join(", "), tool.needs);
    print(&registry.tools().map(line).collect::<String>())?;
    Ok(())
}

fn try_tool(arguments: &TryArguments, registry: &Registry) -> anyhow::Result<()> {
    let (environment, named) = match &arguments.recipe {
        Some(recipe) => of_recipe(&arguments.name, recipe)?,
        None => of_registry(arguments, registry),
    };
    let tool = registry.tool(environment.as_deref(), &named)?;
    let request = tool.request(&arguments.arguments).map_err(anyhow::Error::msg).context("--arguments")?;
    let sources: Vec<ImageSource> = arguments.images.iter().cloned().map(ImageSource::Path).collect();
    let folder = std::env::current_dir().context("there is no current folder")?;
    for source in &sources {
        source.load(&folder)?;
    }
    let subject = Subject { images: &sources, folder: &folder, image_name: "image.png" };
    let mut sessions = tool.open(&subject, 1)?;
    let images = TrajectoryImages::of_task(sources.clone(), folder.clone());
    let output = sessions[0].run(&request, &images)?;
    let (mut paths, mut next) = (Vec::new(), 1);
    let out = std::path::absolute(&arguments.out).context("there is no current folder")?;
    for image in &output.images {
        let (path, number) = save_new(&image.pixels, &out, "image", next)?;
        paths.push(path);
        next = number + 1;
    }
    let said =
        json!({"status": status(output.status), "text": output.text, "images": paths, "seconds": output.seconds});
    print(&format!("{}\n", super::sandbox::escaped(&said.to_string())))?;
    Ok(())
}

/// The tool of that name in a recipe, with its keys, and the recipe's environment.
fn of_recipe(name: &str, recipe: &Path) -> anyhow::Result<(Option<String>, Named)> {
    let ((environment, _), tools) = load(recipe, &[])?.environment_and_tools();
    let known: Vec<&str> = tools.iter().map(|(name, _)| name.as_str()).collect();
    match tools.iter().find(|(known, _)| known == name) {
        Some(named) => Ok((Some(environment), named.clone())),
        None => {
            refuse(&format!("there is no tool {name:?} in {}; its tools are: {}", recipe.display(), known.join(", ")))
        }
    }
}

/// The tool of the registry that is meant, and the environment that it is called in.
fn of_registry(arguments: &TryArguments, registry: &Registry) -> (Option<String>, Named) {
    let name = arguments.name.as_str();
    let known: Vec<&str> = registry.tools().map(|tool| tool.name).collect();
    let named: Vec<&ToolEntry> = registry.tools().filter(|tool| tool.name == name).collect();
    if named.is_empty() {
        refuse(&format!("there is no tool {name:?}; the tools are: {}", known.join(", ")));
    }
    if let Some(environment) = &arguments.env {
        let of: Vec<&str> = named.iter().flat_map(|tool| registry.environments_of(tool)).collect();
        if !of.contains(&environment.as_str()) {
            refuse(&format!("the environment {environment:?} calls no {name}; {name} is of: {}", of.join(", ")));
        }
    }
    (arguments.env.clone(), (name.to_owned(), toml::Table::new()))
}

/// Ends the program as for an argument that cannot be.
fn refuse(why: &str) -> ! {
    super::Arguments::command().error(ErrorKind::InvalidValue, why).exit()
}

/// The four ways in which a call goes.
fn status(status: CallStatus) -> &'static str {
    match status {
        CallStatus::Ok => "ok",
        CallStatus::Error | CallStatus::Malformed => "error",
        CallStatus::Timeout => "timeout",
        CallStatus::Denied | CallStatus::OverLimit => "denied",
    }
}

/// Reads a JSON object.
fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(Value::Object(object)),
        Ok(_) => Err("give a JSON object, such as {\"factor\": 1.5}".to_owned()),
        Err(error) => Err(format!("it is no JSON: {error}; give an object, such as {{\"factor\": 1.5}}")),
    }
}
