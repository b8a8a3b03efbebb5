//! What a crop of the task's picture takes in the jail, from the call of the tool to its output: the code that models write most. The first
//! call of a sequence has a process of its own to set up; a second one goes on in it. Cases take turns, so that all meet the same machine.

use std::fmt;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use image::codecs::jpeg::JpegEncoder;
use thyme_engine::prompt::ImageSource;
use thyme_engine::rollout::images::TrajectoryImages;
use thyme_engine::rollout::tool::{CallStatus, Subject, Tool, ToolSession};
use thyme_engine::rollout::tools::python::{Python, PythonSettings};

use crate::photograph::photograph;

/// Calls of each case.
const CALLS: usize = 101;
/// Width and height of the pictures.
const SIZES: [(u32, u32); 2] = [(1024, 768), (896, 896)];
/// Programs that crop a box of 512 x 384 pixels.
const PROGRAMS: [(&str, &str); 2] = [
    (
        "Pillow",
        "from PIL import Image\nimage = Image.open(image_path)\ncrop = image.crop((200, 150, 712, 534))\n\
         processed_path = os.path.join(temp_output_dir, 'crop.png')\ncrop.save(processed_path)\nprint(processed_path)",
    ),
    (
        "OpenCV",
        "import cv2\nimage = cv2.imread(image_path)\ncrop = image[150:534, 200:712]\n\
         processed_path = os.path.join(temp_output_dir, 'crop.png')\ncv2.imwrite(processed_path, crop)\nprint(processed_path)",
    ),
];
/// Quality of the JPEG pictures.
const QUALITY: u8 = 90;

/// Milliseconds of calls, sorted.
struct Milliseconds(Vec<f64>);

impl Milliseconds {
    fn new(mut seconds: Vec<f64>) -> Milliseconds {
        seconds.sort_by(f64::total_cmp);
        Milliseconds(seconds.iter().map(|seconds| seconds * 1e3).collect())
    }
}

impl fmt::Display for Milliseconds {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: f64| self.0[(share * (self.0.len() - 1) as f64) as usize];
        write!(formatter, "{:>8.2}{:>8.2}{:>8.2}", at(0.0), at(0.5), at(0.9))
    }
}

/// The pictures as files of `folder`.
fn pictures(folder: &Path) -> Vec<ImageSource> {
    let mut sources = Vec::new();
    for (width, height) in SIZES {
        let picture = photograph(width, height);
        let name = |kind: &str| folder.join(format!("{width}x{height}.{kind}"));
        let jpeg = std::fs::File::create(name("jpg")).expect("a file");
        JpegEncoder::new_with_quality(jpeg, QUALITY).encode_image(&picture).expect("a JPEG");
        picture.save(name("png")).expect("a PNG");
        sources.extend(["jpg", "png"].map(|kind| ImageSource::Path(name(kind))));
    }
    sources
}

/// Seconds of one call.
fn call(session: &mut dyn ToolSession, program: &str) -> f64 {
    let images = TrajectoryImages::default();
    let began = Instant::now();
    let output = session.run(program, &images).expect("the sandbox runs");
    let seconds = began.elapsed().as_secs_f64();
    assert_eq!(output.status, CallStatus::Ok, "{}", output.text);
    assert_eq!(output.images[0].pixels.dimensions(), (512, 384), "{}", output.text);
    seconds
}

/// One picture, one program, and what its calls took.
struct Case<'a> {
    source: &'a ImageSource,
    program: usize,
    /// Seconds of the opening, the first call and the second.
    seconds: [Vec<f64>; 3],
}

/// Measures all cases and prints a row of each.
pub fn measure() {
    let folder = tempfile::tempdir().expect("a folder");
    let sources = pictures(folder.path());
    let tool = Python::start(&PythonSettings::default()).expect("a sandbox");
    let cases = sources.iter().flat_map(|source| {
        (0..PROGRAMS.len()).map(move |program| Case { source, program, seconds: Default::default() })
    });
    let mut cases: Vec<Case<'_>> = cases.collect();
    let mut processes = Vec::new();
    for _ in 0..CALLS {
        for case in &mut cases {
            let images = std::slice::from_ref(case.source);
            let subject = Subject { images, folder: folder.path(), image_name: "picture.jpg" };
            let began = Instant::now();
            let mut sessions = tool.open(&subject, 1).expect("a session");
            case.seconds[0].push(began.elapsed().as_secs_f64());
            for seconds in &mut case.seconds[1..] {
                seconds.push(call(sessions[0].as_mut(), PROGRAMS[case.program].1));
            }
        }
        let began = Instant::now();
        assert!(Command::new("true").status().expect("a process").success());
        processes.push(began.elapsed().as_secs_f64());
    }
    println!("a crop of 512x384 in the jail, ms of {CALLS} calls: fastest, median, 90 of 100");
    println!("{:<32}{:>24}{:>28}{:>28}", "picture, program", "first call", "second call", "opening a task's sessions");
    for case in cases {
        let ImageSource::Path(path) = case.source else { panic!("pictures are files") };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let [opening, first, second] = case.seconds.map(Milliseconds::new);
        println!("{:<32}{first}    {second}    {opening}", format!("{name}, {}", PROGRAMS[case.program].0));
    }
    println!("{:<32}{}", "a process that does nothing", Milliseconds::new(processes));
}
