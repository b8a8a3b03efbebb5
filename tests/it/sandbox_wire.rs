//! The wire between host and jail: what model code can forge on it, what leaves the jail, and what the host makes of both.

use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use image::{DynamicImage, ImageDecoder, ImageReader, RgbImage};
use rustix::process::{Pid, Signal, kill_process};
use thyme_engine::sandbox::{
    Execution, InputImage, Interpreter, Offered, Sandbox, SandboxOptions, Session, Status, run_file,
};

use super::sandbox::{NOBODY, TIMEOUT, is_root, options, ordinary, picture, run, session};

/// Finds the wire and the request's nonce in the frames of the interpreter, as code can, and speaks for it.
const SPEAK: &str = r"
import sys, struct
frame = sys._getframe()
while not isinstance(frame.f_locals.get('request'), dict):
    frame = frame.f_back
wire, nonce = frame.f_locals['wire'], frame.f_locals['request']['nonce']
def say(header=None, blobs=(), raw=None):
    line = json.dumps(header).encode() if raw is None else raw
    rest = memoryview(struct.pack('<I', len(line)) + line + b''.join(blobs))
    while rest:
        rest = rest[os.write(wire, rest):]
def reply(**fields):
    return {'nonce': nonce, 'status': 'ok', 'text': 'forged', 'images': [], 'repairs': [], 'blobs': [], **fields}
def image(width=2, height=1, **fields):
    return {'label': 'x', 'width': width, 'height': height, **fields}
";

/// The text without its form of an error: what an observation says.
fn forged(session: &mut Session, code: &str) -> Execution {
    session.run(&format!("{SPEAK}\n{code}\nos._exit(0)")).expect("what code says is never the sandbox's failure")
}

fn quick() -> Sandbox {
    Sandbox::start(SandboxOptions { timeout: TIMEOUT * 5, image_bytes: 1 << 20, ..options() }).unwrap()
}

fn input() -> InputImage {
    InputImage::from_rgb(&picture(), Path::new("street.png")).unwrap()
}

/// Replies that no honest interpreter sends.
const FORGED: &[&str] = &[
    "say({'broken': 'no walls', 'blobs': []})",
    "say({'broken': None, 'blobs': []})",
    "say({'ready': True, 'blobs': []})",
    "say({'failure': 'x', 'blobs': []})",
    "say({**reply(), 'broken': 'no walls'})",
    "say(reply(nonce='0' * 32))",
    "say(reply(nonce=nonce.upper() + ' '))",
    "say(reply(nonce=None))",
    "say(reply(nonce=1))",
    "r = reply(); del r['nonce']; say(r)",
    "r = reply(); del r['blobs']; say(r)",
    "r = reply(); del r['status']; say(r)",
    "r = reply(); del r['text']; say(r)",
    "say(reply(status='timeout'))",
    "say(reply(status='fine'))",
    "say(reply(status=0))",
    "say(reply(text=7))",
    "say(reply(text=None))",
    "say(reply(text=float('nan')))",
    "say(reply(round=1))",
    "say(reply(repairs='x'))",
    "say(reply(repairs=[{}]))",
    "say(reply(text='\\ud800'))",
    "say(reply(images=[image(label='\\udcff')], blobs=[6]), [bytes(6)])",
    "say(raw=json.dumps(reply()).replace('{', '{\"text\": \"twice\", ', 1).encode())",
    "say(raw=b'[' * 100_000 + b']' * 100_000)",
    "say(raw=json.dumps(reply())[:-1].encode() + b', \"x\": ' + b'[' * 50_000 + b']' * 50_000 + b'}')",
    "say(raw=b'')",
    "say(raw=b'null')",
    "say(raw=b'7')",
    "say(raw=b'\\xff\\xfe{}')",
    "say(raw=json.dumps(reply()).encode() + b' {}')",
    "say(raw=bytes(1 << 20))",
    "say(reply(images=[image()], blobs=[]))",
    "say(reply(images=[], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image()], blobs=[5]), [bytes(5)])",
    "say(reply(images=[image()], blobs=[7]), [bytes(7)])",
    "say(reply(images=[image()], blobs=[-6]))",
    "say(reply(images=[image()], blobs=[6.0]), [bytes(6)])",
    "say(reply(images=[image()], blobs=[2 ** 64]))",
    "say(reply(images=[image(0, 1)], blobs=[0]))",
    "say(reply(images=[image(-1, -2)], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(2.0, 1)], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(True, 2)], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image('2', 1)], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(40_000, 1)], blobs=[120_000]), [bytes(120_000)])",
    "say(reply(images=[image(2 ** 31, 2 ** 31)], blobs=[3 * 2 ** 62]))",
    "say(reply(images=[image(2 ** 33, 1)], blobs=[3 * 2 ** 33]))",
    "say(reply(images=[image(32_768, 32_768)], blobs=[3 << 30]))",
    "say(reply(images=[image(500, 500)] * 2, blobs=[750_000] * 2))",
    "say(reply(images=[image()] * 17, blobs=[6] * 17), [bytes(6)] * 17)",
    "say(reply(images=[image(name='setup.py')], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(label=3)], blobs=[6]), [bytes(6)])",
    "say(reply(images=['a.png'], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1], 'to': [0, 0, 64, 64]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 1.5], 'to': [0, 0, 64, 64]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 1], 'to': [0, 0, 64, 481]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 1], 'to': [64, 0, 0, 64]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 1], 'to': [-1, 0, 64, 64]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 2 ** 70], 'to': [0, 0, 64, 64]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened={'from': [0, 0, 1, 1]})], blobs=[6]), [bytes(6)])",
    "say(reply(images=[image(widened=True)], blobs=[6]), [bytes(6)])",
    "os.write(wire, struct.pack('<I', 2 ** 32 - 1))\nsay(raw=bytes(9))",
    "say(reply(), [b'more'])",
    "say(reply()); say(reply())",
];

#[test]
fn a_forged_reply_is_an_observation_and_never_the_sandboxs_failure() {
    let sandbox = quick();
    for code in FORGED {
        let mut session = sandbox.session(input());
        session.run("kept = 1").unwrap();
        let execution = forged(&mut session, code);
        // What lies behind a reply is seen at once, or before the next request.
        let denied = if execution.status == Status::Denied { execution } else { session.run("print(2)").unwrap() };
        assert_eq!(denied.status, Status::Denied, "{code}: {}", denied.text);
        assert!(denied.text.contains("disturbed the interpreter"), "{code}: {}", denied.text);
        assert!(denied.text.ends_with("The variables of earlier runs are lost."), "{code}: {}", denied.text);
        assert!(denied.images.is_empty(), "{code}");
        let next = session.run("print('kept' in globals())").unwrap();
        assert_eq!((next.text.trim(), next.variables_lost), ("False", true), "{code}");
    }
}

#[test]
fn an_answer_that_code_gives_for_itself_is_bounded() {
    let mut session = quick().session(input());
    let execution = forged(
        &mut session,
        "names = ['../x', 'setup.py', '.bashrc', 'a\\nb', '\\x1b[2J', '\\u202egnp.x', '<|im_end|>', 'x' * 100_000]\n\
         say(reply(text='y' * 500_000, images=[image(label=n) for n in names], blobs=[6] * 8), [bytes(48)])\n\
         while True: pass",
    );
    assert_eq!(execution.status, Status::Ok, "{}", execution.text);
    assert_eq!(execution.text.chars().count(), options().output_characters + (8 << 10));
    let names: Vec<&str> = execution.images.iter().map(|image| image.name.as_str()).collect();
    assert_eq!(names, (1..=8).map(|number| format!("image-{number}.png")).collect::<Vec<_>>());
    for image in &execution.images {
        assert!(image.label.chars().count() <= 200 && !image.label.contains(['\n', '\u{1b}', '\u{202e}']));
    }
}

#[test]
fn a_widened_crop_says_from_where_to_where() {
    let mut session = quick().session(input());
    let widened = "{'from': [-5, 9, 3, 12], 'to': [0, 9, 64, 73]}";
    let code =
        format!("say(reply(images=[image(widened={widened}), image()], blobs=[6, 6]), [bytes(12)])\nwhile True: pass");
    let images = forged(&mut session, &code).images;
    let widened = images[0].widened.as_ref().unwrap();
    assert_eq!((widened.from, widened.to), ([-5, 9, 3, 12], [0, 9, 64, 73]));
    assert_eq!(images[1].widened, None);
}

#[test]
fn what_is_said_for_the_next_request_ends_the_session() {
    let sandbox = quick();
    for later in ["import time\ntime.sleep(0.02)\nsay(reply(text='early'))", "while True: say(reply(text='early'))"] {
        let mut session = sandbox.session(input());
        let first = forged(&mut session, &format!("say(reply())\n{later}\nwhile True: pass"));
        let mut said = vec![first];
        for _ in 0..3 {
            said.push(session.run("print('honest')").unwrap());
        }
        assert!(said.iter().all(|execution| !execution.text.contains("early")), "{said:?}");
        assert_eq!(said[3].text.trim(), "honest", "{said:?}");
    }
}

/// The processes below one: number and state.
pub fn descendants(of: u32) -> Vec<(u32, char)> {
    let mut all: Vec<(u32, u32, char)> = Vec::new();
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        let Some(process) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let mut fields = stat.rsplit(") ").next().unwrap().split(' ');
        let state = fields.next().unwrap().chars().next().unwrap();
        all.push((process, fields.next().unwrap().parse().unwrap(), state));
    }
    let mut found = vec![of];
    let mut below = Vec::new();
    while let Some(parent) = found.pop() {
        for &(process, _, state) in all.iter().filter(|(_, its_parent, _)| *its_parent == parent) {
            found.push(process);
            below.push((process, state));
        }
    }
    below
}

fn stopped(sandbox: &Sandbox) -> usize {
    descendants(sandbox.zygote_process()).iter().filter(|(_, state)| *state == 'T').count()
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(10), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_run_that_has_answered_is_stopped_until_it_is_asked_again() {
    let sandbox = quick();
    let mut honest = sandbox.session(input());
    honest.run("count = 0").unwrap();
    wait_for("an answered run is stopped", || stopped(&sandbox) == 1);
    for number in 1..=300 {
        let next = honest.run("count += 1\nprint(count)").unwrap();
        assert_eq!(next.text.trim(), number.to_string());
    }
    let mut burning = sandbox.session(input());
    assert_eq!(forged(&mut burning, "say(reply())\nwhile True: pass").text, "forged");
    wait_for("a run that answers early is stopped", || stopped(&sandbox) == 2);
    // It goes on where it was, and has not answered when its time is over.
    assert_eq!(burning.run("print(1)").unwrap().status, Status::Timeout);
    drop(burning);
    wait_for("a stopped run ends", || stopped(&sandbox) == 1);
    drop(honest);
    wait_for("a stopped run ends", || stopped(&sandbox) == 0);
}

/// Writes a grey PNG of this size, black and so small.
const LARGE_PNG: &str = r"
import zlib, struct
def large(path, width, height):
    part = lambda k, d: struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))
    packer, rows = zlib.compressobj(1), bytes(1 + width)
    data = b''.join(packer.compress(rows) for _ in range(height)) + packer.flush()
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
    open(path, 'wb').write(b'\x89PNG\r\n\x1a\n' + part(b'IHDR', header) + part(b'IDAT', data) + part(b'IEND', b''))
";

/// The most memory that a process held, in bytes, asked for while it runs.
fn peak_bytes(child: &mut std::process::Child) -> u64 {
    let mut peak = 0;
    while child.try_wait().unwrap().is_none() {
        let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap_or_default();
        if let Some(line) = status.lines().find_map(|line| line.strip_prefix("VmHWM:")) {
            peak = peak.max(line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    peak
}

#[test]
fn large_images_are_refused_before_they_are_decoded() {
    let folder = tempfile::tempdir().unwrap();
    let (picture_path, code) = (folder.path().join("in.png"), folder.path().join("code.py"));
    picture().save(&picture_path).unwrap();
    let linked = "large('a.png', 32768, 8000)\nfor n in 'bcd': os.link('a.png', n + '.png')\nprint('a.png\\nb.png\\nc.png\\nd.png')";
    let shown = "large('a.png', 16000, 5000)\nprint('a.png')";
    for (program, notes, images) in [(linked, 4, 0), (shown, 0, 1)] {
        fs::write(&code, format!("{LARGE_PNG}\n{program}")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_thyme-engine"))
            .args(["sandbox", "--timeout", "60", "--image"])
            .arg(&picture_path)
            .arg("--out")
            .arg(folder.path().join("out"))
            .arg(&code)
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let peak = peak_bytes(&mut child);
        let said: serde_json::Value = serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap();
        let text = said["text"].as_str().unwrap();
        assert_eq!(said["images"].as_array().unwrap().len(), images, "{said}");
        assert_eq!(text.matches("cannot be shown: its 32768x8000 pixels take more than").count(), notes, "{text}");
        println!("{images} images: {} MiB at most", peak >> 20);
        // The pixels once, their PNG, and the program itself.
        let bound = (64 << 20) + images as u64 * (400 << 20);
        assert!(peak < bound, "{} MiB", peak >> 20);
    }
}

#[test]
fn the_images_of_a_run_share_a_bound_and_a_file_is_shown_once() {
    let mut session = quick().session(input());
    let execution = session
        .run(
            "image = Image.open(image_path)\nfor name in 'abc': image.save(name + '.png')\nimage.resize((90, 70)).save('d.png')\n\
             os.link('d.png', 'e.png')\nos.symlink('d.png', 'f.png')\nprint('a.png\\nb.png\\nc.png\\nd.png\\ne.png\\nf.png')",
        )
        .unwrap();
    let sizes: Vec<_> = execution.images.iter().map(|image| image.image.dimensions()).collect();
    assert_eq!(sizes, [(640, 480), (90, 70)], "{}", execution.text);
    let notes = execution.text.matches("take more than 1048576 bytes with the images before it").count();
    assert_eq!(notes, 2, "{}", execution.text);
    assert!(!execution.text.contains("e.png") && !execution.text.contains("f.png"), "{}", execution.text);
}

#[test]
fn what_cannot_be_shown_is_said_and_the_rest_is_shown() {
    let code = format!(
        "{LARGE_PNG}
def cut(name, **how):
    Image.open(image_path).convert(how.pop('mode', 'RGB')).save('whole.' + name.split('.')[1], **how)
    data = open('whole.' + name.split('.')[1], 'rb').read()
    open(name, 'wb').write(data[:len(data) // 2])
cut('cut.png'); cut('cut.jpg'); cut('cut.webp'); cut('cut.bmp'); cut('cut.tiff')
large('wide.png', 40_000, 1)
open('empty.png', 'w').close(); open('text.png', 'w').write('text'); os.mkdir('folder.png')
open('huge.gif', 'wb').write(b'GIF89a' + b'\\xff' * 7 + b';')
frames = [Image.new('P', (70, 80), n) for n in range(3)]
frames[0].save('moves.gif', save_all=True, append_images=frames[1:])
Image.new('CMYK', (72, 81), (0, 255, 255, 0)).save('cmyk.jpg')
cv2.imwrite('deep.png', np.full((82, 74), 0x8080, np.uint16))
Image.open(image_path).save('good.png')
for name in 'cut.png cut.jpg cut.webp cut.bmp cut.tiff wide.png empty.png text.png folder.png huge.gif moves.gif cmyk.jpg deep.png good.png'.split(): print(name)
"
    );
    let execution = run(&code);
    let sizes: Vec<_> = execution.images.iter().map(|image| image.image.dimensions()).collect();
    assert_eq!(sizes, [(70, 80), (72, 81), (74, 82), (640, 480)], "{}", execution.text);
    assert_eq!(execution.images[2].image.get_pixel(5, 5).0, [0x80; 3]);
    let [red, green, blue] = execution.images[1].image.get_pixel(5, 5).0;
    assert!(red > 200 && green < 60 && blue < 60, "{red} {green} {blue}");
    for name in
        ["cut.png", "cut.jpg", "cut.webp", "cut.bmp", "cut.tiff", "wide.png", "empty.png", "text.png", "huge.gif"]
    {
        assert!(execution.text.contains(&format!("[{name} cannot be shown: ")), "{name}: {}", execution.text);
    }
}

/// What the host's own decoder makes of a file: upright, alpha laid onto white.
fn decoded(bytes: &[u8]) -> RgbImage {
    let mut decoder = ImageReader::new(Cursor::new(bytes)).with_guessed_format().unwrap().into_decoder().unwrap();
    let orientation = decoder.orientation().unwrap();
    let mut image = DynamicImage::from_decoder(decoder).unwrap();
    image.apply_orientation(orientation);
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [r, g, b, alpha] = image.get_pixel(x, y).0.map(u32::from);
        image::Rgb([r, g, b].map(|value| ((value * alpha + 255 * (255 - alpha) + 127) / 255) as u8))
    })
}

#[test]
fn pixels_are_those_that_the_hosts_decoder_sees() {
    let files = [
        ("png", "image.convert('L')", ""),
        ("png", "image", ""),
        ("png", "glass", ""),
        ("png", "glass.convert('LA')", ""),
        ("png", "image.convert('P')", ""),
        ("png", "image.convert('P')", "transparency=7"),
        ("png", "image.convert('1')", ""),
        ("png", "image.convert('L')", "transparency=80"),
        ("png", "image", "transparency=image.getpixel((3, 3))"),
        ("png", "Image.fromarray((np.asarray(image.convert('L')).astype(np.uint16) * 251))", ""),
        ("bmp", "image", ""),
        ("bmp", "image.convert('L')", ""),
        ("bmp", "image.convert('P')", ""),
        ("bmp", "image.convert('1')", ""),
        ("gif", "image.convert('P')", ""),
        ("gif", "image.convert('P')", "transparency=9"),
        ("webp", "image", "lossless=True"),
        ("webp", "glass", "lossless=True, exact=True"),
    ];
    let turned = (1..=8).flat_map(|turn| [("png", turn), ("webp", turn)]);
    let turned: Vec<_> = turned.map(|(suffix, turn)| (suffix, format!("exif=turned({turn}), lossless=True"))).collect();
    let all = files.into_iter().chain(turned.iter().map(|(suffix, how)| (*suffix, "image", how.as_str())));
    let mut session = session();
    session
        .run(
            "import base64\nimage = Image.open(image_path).resize((24, 18))\nglass = image.convert('RGBA')\n\
             glass.putalpha(Image.linear_gradient('L').resize((24, 18)))\n\
             def turned(turn):\n    exif = Image.Exif()\n    exif[0x0112] = turn\n    return exif.tobytes()",
        )
        .unwrap();
    for (suffix, image, how) in all {
        let code = format!(
            "({image}).save('x.{suffix}', {how})\nprint(base64.b64encode(open('x.{suffix}', 'rb').read()).decode())\nprint('x.{suffix}')"
        );
        let execution = session.run(&code).unwrap();
        assert_eq!((execution.status, execution.images.len()), (Status::Ok, 1), "{code}: {}", execution.text);
        let bytes = BASE64_STANDARD.decode(execution.text.trim()).unwrap();
        assert!(execution.images[0].image == decoded(&bytes), "{code}");
    }
    // The host has no decoder of TIFF; Pillow is asked.
    let code = "glass.save('x.tiff')\nground = Image.new('RGB', glass.size, 'white')\nground.paste(glass, mask=glass)\n\
                print(base64.b64encode(ground.tobytes()).decode())\nprint('x.tiff')";
    let execution = session.run(code).unwrap();
    assert_eq!(execution.images[0].image.as_raw(), &BASE64_STANDARD.decode(execution.text.trim()).unwrap());
}

#[test]
fn images_are_saved_as_new_files_under_names_of_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let (input, out) = (folder.path().join("in.png"), folder.path().join("out"));
    picture().save(&input).unwrap();
    fs::create_dir(&out).unwrap();
    fs::write(folder.path().join("outside.png"), "outside").unwrap();
    fs::write(out.join("image-1.png"), "my own").unwrap();
    fs::write(out.join("part.png"), "my own").unwrap();
    symlink(folder.path().join("outside.png"), out.join("image-2.png")).unwrap();
    symlink(folder.path().join("missing.png"), out.join("image-4.png")).unwrap();
    rustix::fs::mknodat(rustix::fs::CWD, out.join("image-5.png"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let code = "image = Image.open(image_path)\nimage.crop((0, 0, 70, 80)).save('part.png')\nimage.crop((0, 0, 71, 80)).save('setup.py', 'PNG')\n\
                os.rename('setup.py', '.bashrc.png')\nimage.crop((0, 0, 72, 80)).save('a\\x1b[2Jb.png')\n\
                processed_path = ['part.png', '.bashrc.png', 'a\\x1b[2Jb.png']";
    let linked = folder.path().join("linked");
    symlink(&out, &linked).unwrap();
    let report = run_file(&input, code, Duration::from_secs(10), &linked).unwrap();
    let saved: Vec<&str> = report["images"].as_array().unwrap().iter().map(|path| path.as_str().unwrap()).collect();
    let expected = [3, 6, 7].map(|number| linked.join(format!("image-{number}.png")).to_str().unwrap().to_owned());
    assert_eq!(saved, expected, "{report}");
    for (path, width) in saved.iter().zip([70, 71, 72]) {
        assert_eq!(image::open(path).unwrap().into_rgb8().dimensions(), (width, 80));
    }
    for own in ["image-1.png", "part.png"] {
        assert_eq!(fs::read_to_string(out.join(own)).unwrap(), "my own");
    }
    assert_eq!(fs::read_to_string(folder.path().join("outside.png")).unwrap(), "outside");
    assert!(!folder.path().join("missing.png").exists());
    assert_eq!(fs::read_dir(&out).unwrap().count(), 8);
    // A file in the folder's place is said, and stays.
    let error = run_file(&input, code, Duration::from_secs(10), &out.join("part.png")).unwrap_err().to_string();
    assert!(error.contains("part.png") && error.contains("Give a folder"), "{error}");
}

/// What code leaves in its folder so that the host cannot see or remove it.
const LEFT_BEHIND: &[(&str, Status)] = &[
    ("open('kept.txt', 'w').write('x')\nos.chmod('.', 0)", Status::Ok),
    ("os.makedirs('a/b')\nopen('a/b/c', 'w').close()\nos.chmod('a/b', 0)\nos.chmod('a', 0o100)", Status::Ok),
    ("import posix\nfor n in range(40):\n    posix.mkdir('d' * 200)\n    posix.chdir('d' * 200)", Status::Ok),
    (
        "import posix, time\nfor n in range(400):\n    posix.mkdir('d' * 100)\n    posix.chdir('d' * 100)\ntime.sleep(9)",
        Status::Error,
    ),
    (
        "import posix, time\nposix.mkdir('a')\nposix.chdir('a')\ntry:\n    posix.chmod('..', 0)\nexcept OSError:\n    pass\n\
         for n in range(9):\n    open(f'{n}', 'wb').write(bytes(1 << 20))\ntime.sleep(9)",
        Status::Error,
    ),
    (
        "os.symlink('{OUTSIDE}', 'link')\nos.symlink('/', 'root')\nos.mkdir('moved-1')\nos.symlink('..', 'moved-1/up')",
        Status::Ok,
    ),
    (
        "folder = os.path.dirname(os.path.dirname(image_path))\ntry:\n    os.rename(folder, folder + 'x')\nexcept OSError:\n    pass",
        Status::Ok,
    ),
];

/// The folder of a sandbox on the host.
fn folder_of(sandbox: &Sandbox) -> PathBuf {
    let command = fs::read_to_string(format!("/proc/{}/cmdline", sandbox.zygote_process())).unwrap();
    Path::new(command.split('\0').find(|part| part.ends_with("zygote.py")).unwrap()).parent().unwrap().to_owned()
}

pub const NO_MOUNTS: Offered =
    Offered { landlock: u32::MAX, user_namespaces: false, namespaces_of_root: false, seccomp: true };

#[test]
fn the_end_of_a_session_is_not_waited_for_and_leaves_nothing() {
    let sandbox = Sandbox::start(SandboxOptions { offered: NO_MOUNTS, ..options() }).unwrap();
    let folder = folder_of(&sandbox);
    let mut session = sandbox.session(input());
    session.run("open('a.txt', 'w').write('a')").unwrap();
    // A zygote that stands still carries out no order, so that the process does not end.
    let zygote = Pid::from_raw(sandbox.zygote_process() as i32).unwrap();
    kill_process(zygote, Signal::STOP).unwrap();
    let started = Instant::now();
    drop(session);
    let waited = started.elapsed();
    kill_process(zygote, Signal::CONT).unwrap();
    assert!(waited < Duration::from_millis(500), "{waited:?}");
    wait_for("the folder of the session", || fs::read_dir(folder.join("scratch")).unwrap().count() == 0);
    // The end of the sandbox waits for what is still to be removed.
    let mut session = sandbox.session(input());
    session.run("open('a.txt', 'w').write('a')").unwrap();
    drop(session);
    drop(sandbox);
    assert!(!folder.exists());
}

#[test]
fn what_the_trial_reads_is_gone_when_sessions_run() {
    for offered in [Offered::default(), NO_MOUNTS] {
        let sandbox = Sandbox::start(SandboxOptions { offered, ..options() }).unwrap();
        let outside = folder_of(&sandbox).join("outside");
        assert!(!outside.exists());
        let path = outside.join("module.py");
        let code =
            format!("try:\n    print('read:', open({path:?}).read())\nexcept OSError as error:\n    print('read:')");
        assert_eq!(sandbox.session(input()).run(&code).unwrap().text.trim(), "read:");
    }
}

/// A Python that notes each of its starts as a zygote in `starts` of a folder, and cannot fork while that holds a file `full`.
fn watched_python(folder: &Path) -> Interpreter {
    const CODE: &str = r#"
import errno, os, runpy, sys
fork = os.fork
def fork_unless_full():
    if os.path.exists("{FOLDER}/full"):
        raise OSError(errno.EAGAIN, "no more processes")
    return fork()
os.fork = fork_unless_full
sys.path[0] = os.path.dirname(sys.argv[1])
runpy.run_path(sys.argv[1])
"#;
    let Interpreter { path: real, versions } = ordinary().interpreter().clone();
    let path = folder.join("python");
    let script =
        "#!/bin/sh\necho start >> '{FOLDER}/starts'\nexec '{REAL}' -c '{CODE}' \"$@\"\n".replace("{CODE}", CODE);
    let script = script.replace("{REAL}", real.to_str().unwrap()).replace("{FOLDER}", folder.to_str().unwrap());
    fs::write(&path, script).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    Interpreter { path, versions }
}

fn starts(folder: &Path) -> usize {
    fs::read_to_string(folder.join("starts")).unwrap().lines().count()
}

#[test]
fn a_zygote_that_cannot_fork_for_a_while_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let options = SandboxOptions { offered: NO_MOUNTS, ..options() };
    let sandbox = Sandbox::start_with(options, watched_python(folder.path())).unwrap();
    let zygote = sandbox.zygote_process();
    let mut kept = sandbox.session(input());
    kept.run("a = 1").unwrap();
    let full = folder.path().join("full");
    fs::write(&full, "").unwrap();
    // One may have been forked ahead.
    drop(sandbox.session(input()).run("print(1)"));
    let error = sandbox.session(input()).run("print(1)").unwrap_err().to_string();
    assert!(error.contains("cannot be started"), "{error}");
    fs::remove_file(&full).unwrap();
    assert_eq!(sandbox.session(input()).run("print(2)").unwrap().text.trim(), "2");
    assert_eq!(kept.run("print(a)").unwrap().text.trim(), "1");
    assert_eq!((starts(folder.path()), sandbox.zygote_process()), (1, zygote));
}

#[test]
fn a_failure_of_the_sandbox_does_not_hide_that_variables_are_lost() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start_with(options(), watched_python(folder.path())).unwrap();
    let mut session = sandbox.session(input());
    session.run("a = 1").unwrap();
    kill_process(Pid::from_raw(sandbox.zygote_process() as i32).unwrap(), Signal::KILL).unwrap();
    wait_for("the end of the session", || session.run("print(a)").unwrap().status != Status::Ok);
    let [path, away] = ["python", "away"].map(|name| folder.path().join(name));
    fs::rename(&path, &away).unwrap();
    assert!(session.run("print(1)").is_err());
    fs::rename(&away, &path).unwrap();
    assert!(session.run("print(1)").unwrap().variables_lost);
    assert!(!session.run("print(1)").unwrap().variables_lost);
    assert_eq!(starts(folder.path()), 2);
}

/// As the zygote removes its folder when the host was killed: nested deeper than Python's stack and any path.
#[test]
fn the_zygote_removes_folders_of_any_depth_and_follows_no_links() {
    let folder = tempfile::tempdir().unwrap();
    let scratch = folder.path().join("scratch");
    let kept = folder.path().join("kept");
    fs::create_dir_all(scratch.join("moved-0/locked")).unwrap();
    fs::create_dir(&kept).unwrap();
    fs::write(kept.join("file"), "kept").unwrap();
    symlink(&kept, scratch.join("link")).unwrap();
    symlink(&kept, scratch.join("moved-0/link")).unwrap();
    fs::set_permissions(scratch.join("moved-0/locked"), fs::Permissions::from_mode(0o000)).unwrap();
    let code = "import os, sys\nsys.path.insert(0, sys.argv[1])\nimport jail\nos.chdir(sys.argv[2])\n\
                for _ in range(3000):\n    os.mkdir('a-long-name')\n    os.chdir('a-long-name')\n\
                os.chdir('/')\njail.remove_tree(sys.argv[2])";
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/src/sandbox");
    let mut command = Command::new(&ordinary().interpreter().path);
    let output = command.args(["-B", "-c", code, scripts]).arg(&scratch).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!scratch.exists());
    assert_eq!(fs::read_to_string(kept.join("file")).unwrap(), "kept");
}

#[test]
fn folders_on_the_host_are_measured_and_removed_whatever_code_left_in_them() {
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("kept.txt"), "kept").unwrap();
    for as_user in [None, is_root().then_some(NOBODY)] {
        let sandbox = Sandbox::start(SandboxOptions { offered: NO_MOUNTS, as_user, ..options() }).unwrap();
        let folder = folder_of(&sandbox);
        for (code, status) in LEFT_BEHIND {
            let mut session = sandbox.session(input());
            let execution = session.run(&code.replace("{OUTSIDE}", outside.path().to_str().unwrap())).unwrap();
            assert_eq!(execution.status, *status, "{code}: {}", execution.text);
            drop(session);
            // One session waits for the next sequence, and has no folder yet.
            wait_for(code, || fs::read_dir(folder.join("scratch")).unwrap().count() == 0);
        }
        let kept = sandbox.session(input());
        drop(sandbox);
        drop(kept);
        assert!(!folder.exists(), "{folder:?}");
    }
    assert_eq!(fs::read_to_string(outside.path().join("kept.txt")).unwrap(), "kept");
}
