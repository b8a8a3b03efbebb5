//! A tool in a user's own Python file: what it is given and gives back, what the model and the user are told when it fails, and its walls.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::{Rgb, RgbImage};
use serde_json::{Value, json};
use tempfile::TempDir;
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::registry::Registry;
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolOutput, ToolSession};
use thyme_engine::sandbox::{Arguments, CallError, FileKind, Offered, Returned, Sandbox, SandboxOptions, UserFile};

/// A tool's description, in one line, so that a tool's own lines begin at 2.
const SCHEMA: &str =
    r#"SCHEMA = {"description": "Does it.", "parameters": {"type": "object", "properties": {}, "required": ["do"]}}"#;

/// A folder of files that every user may read, as a jailed process is none of ours.
pub fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

/// The tool `mine` of these lines below `SCHEMA`, with further keys, or why it does not start.
fn start(folder: &Path, source: &str, keys: &str) -> Result<Arc<dyn Tool>, String> {
    let file = folder.join("mine.py");
    fs::write(&file, format!("{SCHEMA}\n{source}")).unwrap();
    let table = toml::from_str(&format!("file = {file:?}\n{keys}")).unwrap();
    Registry::default().tool(None, &("mine".to_owned(), table)).map_err(|error| error.to_string())
}

fn tool(folder: &TempDir, source: &str, keys: &str) -> Arc<dyn Tool> {
    start(folder.path(), source, keys).unwrap_or_else(|error| panic!("{error}"))
}

fn sessions(tool: &Arc<dyn Tool>, count: usize) -> Vec<Box<dyn ToolSession>> {
    let subject = Subject { images: &[], folder: Path::new(""), image_name: "image.png" };
    tool.open(&subject, count).unwrap()
}

/// A call `{"do": what}` without images.
fn call(session: &mut Box<dyn ToolSession>, what: &str) -> ToolOutput {
    session.run(&json!({"do": what}).to_string(), &TrajectoryImages::default()).unwrap()
}

fn said(output: &ToolOutput) -> (CallStatus, &str) {
    (output.status, output.text.as_str())
}

fn noise(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (x * y) as u8, (y * 13) as u8]))
}

#[test]
fn a_tool_is_given_all_images_and_gives_text_and_images_back_bit_for_bit() {
    let folder = folder();
    let tool = tool(
        &folder,
        r#"
from PIL import Image
def call(arguments, images):
    first, made = images
    half = Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    forms = {
        "list": ["one", made, "two", first],
        "tuple": (first, half),
        "text": f"{arguments['n'] + 1} {first.mode} {first.size} {len(images)}",
        "image": made,
        "dict": {"text": "see", "images": [first]},
        "one": {"images": first},
    }
    return forms[arguments["do"]]
"#,
        "",
    );
    assert_eq!(tool.schema().unwrap()["function"]["name"], "mine");
    assert_eq!(tool.schema().unwrap()["function"]["description"], "Does it.");
    assert!(tool.versions().contains_key("mine (file)"), "{:?}", tool.versions());
    let (first, made) = (noise(37, 21), noise(300, 5));
    let mut images =
        TrajectoryImages::of_task(vec![ImageSource::Memory(Arc::new(first.clone()))], PathBuf::from("/nowhere"));
    images.push(Some(Arc::new(made.clone())), None);
    let white = RgbImage::from_pixel(2, 1, Rgb([255; 3]));
    let mut session = sessions(&tool, 1).remove(0);
    for (form, text, expected) in [
        ("list", "one\ntwo", vec![&made, &first]),
        ("tuple", "", vec![&first, &white]),
        ("text", "42 RGB (37, 21) 2", vec![]),
        ("image", "", vec![&made]),
        ("dict", "see", vec![&first]),
        ("one", "", vec![&first]),
    ] {
        let output = session.run(&json!({"do": form, "n": 41}).to_string(), &images).unwrap();
        assert_eq!(said(&output), (CallStatus::Ok, text), "{form}");
        let pixels: Vec<&RgbImage> = output.images.iter().map(|image| &*image.pixels).collect();
        assert!(pixels == expected, "{form}");
        assert!(output.images.iter().zip(1..).all(|(image, at)| image.name == format!("image-{at}.png")));
    }
}

/// What goes wrong, in the order of the calls: what is asked, how it ends, and what the model is told.
const FAULTS: [(&str, CallStatus, &str); 14] = [
    ("divide", CallStatus::Error, "Error: ZeroDivisionError: division by zero"),
    ("lines", CallStatus::Error, "Error: ValueError: one"),
    (
        "none",
        CallStatus::Error,
        "Error: `call` returned a value of type NoneType; return a str, a PIL image, a list of",
    ),
    (
        "inside",
        CallStatus::Error,
        "Error: `call` returned a value of type list with a value of type int in it; return a",
    ),
    ("key", CallStatus::Error, "Error: `call` returned a dict with the key 'picture'; return a str, a PIL image"),
    ("many", CallStatus::Error, "Error: `call` returned more than 16 images; return fewer"),
    ("empty", CallStatus::Error, "Error: `call` returned an image of 0x5 pixels, which is empty or too large"),
    ("large", CallStatus::Error, "Error: `call` returned an image of 40000x1 pixels, which is empty or too large"),
    ("stop", CallStatus::Error, "Error: SystemExit: 3"),
    ("deep", CallStatus::Error, "Error: RecursionError: "),
    ("memory", CallStatus::Error, "Error: MemoryError"),
    ("exit", CallStatus::Error, "Error: its process ended"),
    ("forge", CallStatus::Error, "Error: it disturbed its process"),
    ("print", CallStatus::Timeout, "Error: it took more than 2 seconds and was stopped"),
];

const FAULTY: &str = r#"
import os
from PIL import Image
def deep(): return deep()
def call(arguments, images):
    what = arguments["do"]
    if what == "divide": return str(1 / 0)
    if what == "lines": raise ValueError("one\ntwo")
    if what == "none": return None
    if what == "inside": return ["a", 7]
    if what == "key": return {"picture": 1}
    if what == "many": return [Image.new("RGB", (1, 1))] * 17
    if what == "empty": return Image.new("RGB", (0, 5))
    if what == "large": return Image.new("RGB", (40000, 1))
    if what == "stop": raise SystemExit(3)
    if what == "deep": return deep()
    if what == "memory": return bytearray(1 << 30)
    if what == "exit": os._exit(0)
    if what == "forge":
        for wire in range(3, 64):
            try: os.write(wire, b"\x02\0\0\0{}")
            except OSError: pass
    while what == "print": print("x" * 1000)
    return what
"#;

#[test]
fn what_a_tool_does_wrong_is_one_line_for_the_model_and_the_next_call_works() {
    let folder = folder();
    let tool = tool(&folder, FAULTY, "memory_mib = 64\ntimeout_seconds = 2\nnum_workers = 1");
    assert_eq!(tool.parallel_calls(), None, "it waits by itself and holds up no other tool");
    let mut session = sessions(&tool, 1).remove(0);
    for (what, status, text) in FAULTS {
        let output = call(&mut session, what);
        assert!(output.status == status && output.text.starts_with(text), "{what}: {output:?}");
        assert!(!output.text.contains('\n') && output.images.is_empty(), "{what}: {output:?}");
        assert_eq!(said(&call(&mut session, "well")), (CallStatus::Ok, "well"), "after {what}");
    }
    for (request, text) in [
        ("{}", "Error: the argument \"do\" is missing"),
        ("[1]", "Error: the arguments are no JSON object"),
        ("do it", "Error: the arguments are no JSON: expected value at line 1 column 1"),
    ] {
        let output = session.run(request, &TrajectoryImages::default()).unwrap();
        assert_eq!(said(&output), (CallStatus::Error, text));
    }
}

/// What is logged, as text.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn the_user_is_told_the_file_and_the_line_once() {
    let folder = folder();
    let tool = tool(&folder, FAULTY, "");
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).with_ansi(false).finish();
    tracing::subscriber::with_default(subscriber, || {
        let mut session = sessions(&tool, 1).remove(0);
        for what in ["divide", "divide", "none"] {
            call(&mut session, what);
        }
    });
    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let file = folder.path().join("mine.py");
    let divide =
        format!("{}:8: ZeroDivisionError: division by zero (if what == \"divide\": return str(1 / 0))", file.display());
    assert_eq!(log.matches(&divide).count(), 1, "{log}");
    assert!(log.contains(&format!("{}:6: `call` returned a value of type NoneType", file.display())), "{log}");
    assert_eq!(log.matches("WARN").count(), 2, "{log}");
}

/// A sandbox for files that are loaded and called directly.
fn sandbox() -> Sandbox {
    let options =
        SandboxOptions { timeout: Duration::from_secs(1), memory_bytes: 64 << 20, ..SandboxOptions::default() };
    Sandbox::start(options).unwrap()
}

fn file(source: &str) -> UserFile {
    let path = PathBuf::from("mine.py");
    UserFile { name: path.clone(), place: path, source: source.as_bytes().to_vec(), kind: FileKind::Tool }
}

#[test]
fn a_file_that_is_no_tool_is_refused_with_its_line() {
    let sandbox = sandbox();
    let call = "def call(arguments, images): return ''";
    for (source, error) in [
        (format!("{SCHEMA}\ndef call(arguments images): pass"), "mine.py:2: SyntaxError: "),
        (format!("{SCHEMA}\n\nimport nothing_such"), "mine.py:3: ModuleNotFoundError: No module named 'nothing_such'"),
        (format!("{SCHEMA}\n{call}\n1 / 0"), "mine.py:3: ZeroDivisionError: division by zero (1 / 0)"),
        ("x = '\0'".to_owned(), "mine.py: SyntaxError: source code string cannot contain null bytes"),
        (format!("import sys\nsys.exit()\n{SCHEMA}"), "mine.py:2: SystemExit"),
        (call.to_owned(), "mine.py: there is no SCHEMA; write SCHEMA = {\"description\""),
        (format!("\nSCHEMA = 7\n{call}"), "mine.py:2: SCHEMA is of type int; write SCHEMA = "),
        (format!("SCHEMA = {{}}\n{call}"), "mine.py:1: SCHEMA has no text `description`"),
        (
            format!("SCHEMA: dict = {{'description': ''}}\n{call}"),
            "mine.py:1: SCHEMA has no `parameters` of the type object",
        ),
        (
            format!("SCHEMA = {{'description': '', 'parameters': {{'type': 'object', 'required': 7}}}}\n{call}"),
            "mine.py:1: `required` of SCHEMA's parameters is no list of names",
        ),
        (
            format!(
                "SCHEMA = {{'description': '', 'parameters': {{'type': 'object', 'properties': {{1, 2}}}}}}\n{call}"
            ),
            "mine.py:1: SCHEMA cannot be written as JSON: Object of type set",
        ),
        (SCHEMA.to_owned(), "mine.py: there is neither a function `call(arguments, images)` nor a class `Tool`"),
        (
            format!("{SCHEMA}\n{call}\nclass Tool: pass"),
            "mine.py:2: there are both a function `call` and a class `Tool`",
        ),
        (format!("{SCHEMA}\nclass Tool:\n    pass"), "mine.py:2: the class `Tool` has no method `call(self, arguments"),
        (
            format!("{SCHEMA}\n\ndef call(images): pass"),
            "mine.py:3: `call` takes other arguments than it is given; write",
        ),
        (format!("{SCHEMA}\nclass Tool:\n    def call(self, a): pass"), "mine.py:3: `call` takes other arguments"),
        (format!("{SCHEMA}\nimport os\nos._exit(1)"), "mine.py: its process ended"),
        (format!("{SCHEMA}\nhuge = bytearray(1 << 30)"), "mine.py:2: MemoryError (huge = bytearray(1 << 30))"),
    ] {
        let (_, called) = sandbox.worker_pool(file(&source), 1).unwrap();
        let found = called.result.expect_err(&source).with_place(Path::new("mine.py"));
        assert!(found.starts_with(error), "{source}\n{found}");
    }
    let slow = Sandbox::start(SandboxOptions { timeout: Duration::from_millis(50), ..SandboxOptions::default() });
    let (_, called) = slow.unwrap().worker_pool(file("while True: pass"), 1).unwrap();
    assert_eq!(called.result, Err(CallError::Late { seconds: 0.5 }));
}

#[test]
fn a_tool_that_cannot_start_is_named() {
    let folder = folder();
    let refused = |source: &str, keys: &str| start(folder.path(), source, keys).err().expect("it is refused");
    let file = folder.path().join("mine.py");
    let error = refused("def call(arguments images): pass", "");
    let begin = format!("the tool mine failed: {}:2: SyntaxError: ", file.display());
    assert!(error.starts_with(&begin), "{error}");
    let error = refused("SCHEMA['name'] = 'yours'\ndef call(arguments, images): return ''", "");
    assert!(error.contains("SCHEMA has the name \"yours\", and the recipe calls the tool \"mine\""), "{error}");
    for (keys, part) in [
        ("timeout_seconds = 0", "timeout_seconds is 0: give a number of seconds above 0"),
        ("memory_mib = 0", "memory_mib is 0: give a whole number from 1"),
        ("num_workers = 5000", "num_workers is 5000: give at most 1024"),
        ("read = [\"/nowhere\"]", "`read` names /nowhere, which is not there"),
        ("read = [\"/etc/passwd\"]", "`read` names /etc/passwd, which is no folder"),
        ("read = [\"/\"]", "`read` names /, which is the whole machine"),
        ("network = true", "unknown field `network`"),
    ] {
        let error = refused("", keys);
        assert!(error.contains(part), "{keys}: {error}");
    }
    let table = toml::from_str("file = \"/nowhere.py\"").unwrap();
    let error = Registry::default().tool(None, &("mine".to_owned(), table)).err().unwrap().to_string();
    assert!(error.contains("cannot read /nowhere.py: "), "{error}");
}

#[test]
fn sequences_share_nothing_where_a_tool_remembers() {
    let folder = folder();
    let tool = tool(
        &folder,
        r#"
import os, random, time
class Tool:
    everywhere = []
    def __init__(self):
        self.seen = []
    def call(self, arguments, images):
        if arguments["do"] == "exit": os._exit(0)
        self.seen.append(arguments["do"])
        self.everywhere.append(arguments["do"])
        return f"{self.seen} {self.everywhere}"
"#,
        "",
    );
    let mut group = sessions(&tool, 3);
    for (sequence, session) in group.iter_mut().enumerate() {
        let first = format!("a{sequence}");
        assert_eq!(call(session, &first).text, format!("['{first}'] ['{first}']"));
    }
    for (sequence, session) in group.iter_mut().enumerate() {
        let both = format!("['a{sequence}', 'b']");
        assert_eq!(call(session, "b").text, format!("{both} {both}"));
    }
    assert_eq!(call(&mut group[0], "exit").text, "Error: its process ended");
    let lost = "['c'] ['c']\n(What the tool remembered of earlier calls was lost.)";
    assert_eq!(call(&mut group[0], "c").text, lost);
    assert_eq!(call(&mut group[0], "d").text, "['c', 'd'] ['c', 'd']");
    assert_eq!(call(&mut group[1], "c").text, "['a1', 'b', 'c'] ['a1', 'b', 'c']");
}

#[test]
fn what_a_tool_remembers_is_replayed_and_a_function_is_not_called_again() {
    let folder = folder();
    let class = "class Tool:\n    seen = 0\n    def call(self, arguments, images):\n        self.seen += 1\n        return str(self.seen)\n";
    let function = "calls = []\ndef call(arguments, images):\n    calls.append(1)\n    return str(len(calls))\n";
    for (source, expected) in [(class, "3"), (function, "2")] {
        let tool = tool(&folder, source, "num_workers = 1");
        let session = &mut sessions(&tool, 1)[0];
        assert_eq!(call(session, "a").text, "1");
        session.replay(&json!({"do": "b"}).to_string(), &TrajectoryImages::default()).unwrap();
        assert_eq!(call(session, "c").text, expected);
    }
}

#[test]
fn a_function_is_called_by_many_at_a_time_with_the_same_random_numbers() {
    let folder = folder();
    let source = r#"
import random, numpy
def call(arguments, images):
    return f"{arguments['do']} {random.random()} {numpy.random.rand()}"
"#;
    assert_eq!(tool(&folder, source, "num_workers = 1000").parallel_calls(), Some(1000));
    let tool = tool(&folder, source, "num_workers = 2");
    let mut group = sessions(&tool, 6);
    let said: Vec<String> = std::thread::scope(|scope| {
        let calls = group.iter_mut().enumerate().map(|(sequence, session)| {
            scope.spawn(move || (0..5).map(|_| call(session, &sequence.to_string()).text).collect::<Vec<_>>())
        });
        calls.collect::<Vec<_>>().into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let numbers = said[0].strip_prefix("0 ").unwrap();
    for (number, text) in said.iter().enumerate() {
        assert_eq!(*text, format!("{} {numbers}", number / 5));
    }
}

#[test]
fn a_file_reads_what_the_recipe_names_and_nothing_else() {
    let folder = folder();
    let weights = folder.path().join("weights");
    fs::create_dir(&weights).unwrap();
    fs::write(weights.join("numbers.txt"), "1 2 3").unwrap();
    fs::write(weights.join("helper.py"), "def twice(x): return 2 * x").unwrap();
    fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    let source = r#"
import os, socket, subprocess
from pathlib import Path
import helper
HERE = Path(__file__).parent
TRIES = {
    "read": lambda: (HERE / "weights" / "numbers.txt").read_text() + f" {helper.twice(21)}",
    "secret": lambda: (HERE / "secret.txt").read_text(),
    "itself": lambda: Path(__file__).read_text(),
    "list": lambda: os.listdir(HERE),
    "passwd": lambda: open("/etc/passwd").read(),
    "write": lambda: (HERE / "weights" / "new.txt").write_text("x"),
    "over": lambda: (HERE / "weights" / "numbers.txt").write_text("x"),
    "network": lambda: socket.create_connection(("127.0.0.1", 80)),
    "process": lambda: subprocess.run(["true"]),
    "fork": lambda: os.fork(),
    "kill": lambda: os.kill(1, 9),
    "environment": lambda: str(dict(os.environ)),
    "own": lambda: str(Path("own.txt").write_text("abc")) + Path("own.txt").read_text(),
}
def call(arguments, images):
    try:
        return f"done: {TRIES[arguments['do']]()}"
    except OSError as error:
        return f"refused: {type(error).__name__}"
"#;
    let tool = tool(&folder, source, &format!("read = [{weights:?}]"));
    let mut session = sessions(&tool, 1).remove(0);
    for (what, done) in [("read", "done: 1 2 3 42"), ("environment", "done: {}"), ("own", "done: 3abc")] {
        assert_eq!(call(&mut session, what).text, done);
    }
    for what in ["secret", "itself", "list", "passwd", "write", "over", "network", "process", "fork", "kill"] {
        let text = call(&mut session, what).text;
        assert!(text.starts_with("refused: "), "{what}: {text}");
    }
    assert_eq!(fs::read_to_string(weights.join("numbers.txt")).unwrap(), "1 2 3");
    assert!(!weights.join("new.txt").exists());
}

#[test]
fn a_file_finds_the_libraries_as_they_are_and_nothing_of_the_sandbox() {
    let folder = folder();
    let source = r#"
import importlib.util, os, stat
import cv2
from PIL import Image, ImageFile
def is_memory(number):
    try:
        return stat.S_ISREG(os.fstat(number).st_mode)
    except OSError:
        return False
TRIES = {
    "replaced": lambda: [f.__name__ for f in (Image.open, Image.Image.save, ImageFile.ImageFile.load, os.open, open) if hasattr(f, "__wrapped__")],
    "replaced of OpenCV": lambda: [f.__name__ for f in (cv2.imread, cv2.imwrite, cv2.cvtColor) if hasattr(f, "__wrapped__")],
    "descriptors": lambda: [number for number in range(256) if is_memory(number)],
    "modules": lambda: [name for name in "jail frames session picture probe worker".split() if importlib.util.find_spec(name)],
}
def call(arguments, images):
    return str(TRIES[arguments["do"]]())
"#;
    let mut session = sessions(&tool(&folder, source, ""), 1).remove(0);
    for what in ["replaced", "replaced of OpenCV", "descriptors", "modules"] {
        assert_eq!(said(&call(&mut session, what)), (CallStatus::Ok, "[]"), "{what}");
    }
}

#[test]
fn the_walls_stand_with_fewer_mechanisms_too() {
    let folder = folder();
    let read = folder.path().join("weights");
    fs::create_dir(&read).unwrap();
    fs::write(read.join("numbers.txt"), "1 2 3").unwrap();
    fs::write(folder.path().join("secret.txt"), "secret").unwrap();
    let source = format!(
        "{SCHEMA}\ndef call(arguments, images):\n    open('own.txt', 'w').write('x')\n    return open(arguments['do']).read()"
    );
    let (nobody, anyone) = (Some(65534).filter(|_| rustix::process::geteuid().is_root()), None);
    for (as_user, namespaces) in [(anyone, true), (anyone, false), (nobody, true), (nobody, false)] {
        let offered = Offered { user_namespaces: namespaces, namespaces_of_root: namespaces, ..Offered::default() };
        let options =
            SandboxOptions { as_user, offered, read: vec![read.canonicalize().unwrap()], ..Default::default() };
        let (pool, called) = Sandbox::start(options).unwrap().worker_pool(file(&source), 1).unwrap();
        called.result.unwrap();
        let opened = |path: PathBuf| {
            let arguments = Arguments { values: json!({ "do": path }), ..Arguments::default() };
            pool.call(&arguments).unwrap().result.map(|returned| returned.value)
        };
        assert_eq!(opened(read.join("numbers.txt")), Ok("1 2 3".into()));
        for path in [folder.path().join("secret.txt"), "/etc/passwd".into()] {
            let error = opened(path).unwrap_err().to_string();
            let is_refused = error.starts_with("PermissionError") || error.starts_with("FileNotFoundError");
            assert!(is_refused, "{as_user:?} {namespaces}: {error}");
        }
    }
}

#[test]
fn what_a_file_prints_and_a_long_text_are_cut() {
    let sandbox = sandbox();
    let source = format!(
        "{SCHEMA}\nimport sys\ndef call(arguments, images):\n    print('out'); print('x' * 10**6, file=sys.stderr)\n    return 'y' * 10**6"
    );
    let (pool, called) = sandbox.worker_pool(file(&source), 1).unwrap();
    let description: Value = called.result.unwrap().value;
    assert_eq!(
        (&description["has_state"], description["schema"]["description"].as_str()),
        (&false.into(), Some("Does it."))
    );
    let called = pool.call(&Arguments { values: json!({"do": ""}), ..Arguments::default() }).unwrap();
    assert!(
        called.printed.starts_with("out\nxxx") && called.printed.ends_with("[output cut: 65536 of 1000005 characters]")
    );
    let Ok(Returned { value, images }) = called.result else { panic!("{called:?}") };
    let text = value.as_str().unwrap();
    assert!(text.ends_with("y\n[output cut: 65536 of 1000000 characters]") && images.is_empty());
}

#[test]
fn a_process_is_replaced_before_the_limit_of_its_cpu_time_ends_it() {
    let options = SandboxOptions { timeout: Duration::from_millis(100), ..SandboxOptions::default() };
    let source = format!(
        "{SCHEMA}\nimport time\ncalls = []\ndef call(arguments, images):\n    time.sleep(0.04); calls.append(1)\n    return str(len(calls))"
    );
    let (pool, called) = Sandbox::start(options).unwrap().worker_pool(file(&source), 1).unwrap();
    called.result.unwrap();
    let count = || {
        let called = pool.call(&Arguments { values: json!({"do": ""}), ..Arguments::default() }).unwrap();
        // A busy machine may stop a call.
        called.result.ok().map(|returned| returned.value.as_str().unwrap().parse::<usize>().unwrap())
    };
    let mut before = None;
    let is_replaced = (0..300).any(|_| {
        let last = std::mem::replace(&mut before, count());
        last.is_some() && before == Some(1)
    });
    assert!(is_replaced, "{before:?} calls in one process");
}
