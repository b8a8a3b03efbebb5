//! The sandbox: what ordinary model code may expect, and what hostile code cannot do, as root and as an ordinary user.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};
use thyme_engine::sandbox::{
    Execution, Guarantee, InputImage, Repair, Sandbox, SandboxError, SandboxOptions, Session, Status, run_file,
};

const TIMEOUT: Duration = Duration::from_secs(1);
const NOBODY: u32 = 65534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn options() -> SandboxOptions {
    SandboxOptions { memory_bytes: 256 << 20, disk_bytes: 8 << 20, output_bytes: 10_000, ..SandboxOptions::default() }
}

/// The sandbox for ordinary programs, with the default time limit: a busy machine must not time them out.
fn ordinary() -> &'static Sandbox {
    static SANDBOX: OnceLock<Sandbox> = OnceLock::new();
    SANDBOX.get_or_init(|| Sandbox::start(options()).expect("the sandbox starts"))
}

/// A photograph-like picture of 640×480 pixels.
fn picture() -> RgbImage {
    RgbImage::from_fn(640, 480, |x, y| Rgb([(x / 3) as u8, (y / 2) as u8, ((x * y) / 997) as u8]))
}

fn session() -> Session {
    ordinary().session(InputImage::from_rgb(&picture(), Path::new("/data/photos/street.png")).unwrap())
}

fn run(code: &str) -> Execution {
    session().run(code).unwrap()
}

fn text_of(code: &str) -> String {
    let execution = run(code);
    assert_eq!(execution.status, Status::Ok, "{}\n{code}", execution.text);
    execution.text.trim_end().to_owned()
}

#[test]
fn a_crop_comes_back_as_an_image() {
    let execution = run(r#"
from PIL import Image
image = Image.open(image_path)
crop = image.crop((100, 50, 300, 250))
processed_path = os.path.join(temp_output_dir, "crop.png")
crop.save(processed_path)
print(processed_path)
"#);
    assert_eq!((execution.status, execution.text.trim()), (Status::Ok, ""), "{}", execution.text);
    assert_eq!(execution.images.len(), 1);
    let expected = image::imageops::crop_imm(&picture(), 100, 50, 200, 200).to_image();
    assert_eq!(execution.images[0].image, expected);
    assert!(execution.images[0].path.ends_with("/crop.png"));
    assert!(execution.repairs.is_empty(), "{:?}", execution.repairs);
}

#[test]
fn the_folder_of_thymes_prompts_works_and_text_stays_beside_images() {
    let execution = run(r#"
import cv2
image = cv2.imread(image_path)
cv2.imwrite('/mnt/data/temp_processed_images/gray.jpg', cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))
print("The mean is", round(float(image.mean())) > 0)
print('/mnt/data/temp_processed_images/gray.jpg')
"#);
    assert_eq!((execution.status, execution.text.trim()), (Status::Ok, "The mean is True"));
    assert_eq!(execution.images.iter().map(|image| image.image.dimensions()).collect::<Vec<_>>(), [(640, 480)]);
}

#[test]
fn several_images_come_in_the_order_in_which_they_are_named_and_each_once() {
    let execution = run(r#"
for name in ("b.png", "a.bmp", "c.tiff"):
    Image.new("RGB", (70, 80 + ord(name[0])), "red").save(temp_output_dir + name)
    print("Saved", temp_output_dir + name)
print(temp_output_dir + "b.png")
"#);
    let heights: Vec<u32> = execution.images.iter().map(|image| image.image.height()).collect();
    assert_eq!(heights, [80 + 98, 80 + 97, 80 + 99], "{}", execution.text);
}

#[test]
fn a_png_is_the_same_to_pillow_however_it_is_saved() {
    let code = r#"
import io
for mode in ("L", "RGB", "RGBA", "P", "1", "LA"):
    image = Image.open(image_path).convert(mode)
    memory = io.BytesIO()
    image.save("a.png"); image.save("b.png", compress_level=9); image.save(memory, "PNG"); image.save("c.jpg") if mode in "LRGB" else None
    a, b, c = Image.open("a.png"), Image.open("b.png"), Image.open(memory)
    print(mode, a.mode == b.mode == c.mode == mode, a.tobytes() == b.tobytes() == c.tobytes() == image.tobytes())
image.resize((1500, 1000)).convert("RGB").save(open("d.png", "wb"), "png")
print(Image.open("d.png").size, os.path.getsize("d.png") < 3_000_000)
"#;
    let expected =
        "L True True\nRGB True True\nRGBA True True\nP True True\n1 True True\nLA True True\n(1500, 1000) True";
    assert_eq!(text_of(code), expected);
}

#[test]
fn transparent_pixels_come_back_white() {
    let execution = run("Image.new('RGBA', (64, 64), (10, 20, 30, 0)).save('x.png'); print('x.png')");
    assert_eq!(execution.images[0].image.get_pixel(3, 3), &Rgb([255, 255, 255]));
}

#[test]
fn the_namespace_is_an_ordinary_one() {
    let programs = [
        ("def area(w, h):\n    return math.pi * w * h // scale\nscale = 2\nprint(area(3, 4))", "18.0"),
        ("n = 3\nprint([n * i for i in range(3)], set([1, 1]), list(reversed([1, 2])))", "[0, 3, 6] {1} [2, 1]"),
        (
            "class Box:\n    side: int = 4\n    def area(self):\n        return self.side ** 2\nprint(Box().area(), type(Box).__name__)",
            "16 type",
        ),
        ("def main():\n    print(__name__)\nif __name__ == '__main__':\n    main()", "__main__"),
        ("from dataclasses import dataclass\n@dataclass\nclass P:\n    x: int\nprint(P(3))", "P(x=3)"),
        (
            "import numpy as np, json\nprint(json.dumps({'mean': float(np.arange(5).mean())}), f'{1 / 3:.2f}')",
            r#"{"mean": 2.0} 0.33"#,
        ),
        ("print(eval('1 + 1'), hasattr(os, 'path'), sys_is_there := 'sys' in dir())", "2 True False"),
        ("import sys\nprint('done')\nsys.exit()", "done"),
        ("image = Image.open(image_path)\nprint(image.size, os.path.basename(image_path))", "(640, 480) street.png"),
    ];
    for (code, expected) in programs {
        assert_eq!(text_of(code), expected, "{code}");
    }
}

#[test]
fn random_numbers_and_hashes_are_the_same_in_every_session() {
    let code = "print(random.random(), np.random.rand(), np.random.default_rng().random(), hash('x'), list({'a', 'b', 'c', 'd'}))";
    assert_eq!(text_of(code), text_of(code));
}

#[test]
fn errors_say_their_kind_their_message_and_the_line() {
    let execution = run("a = 1\nprint('before')\nb = a / 0\n");
    assert_eq!(
        (execution.status, execution.text.as_str()),
        (Status::Error, "before\nZeroDivisionError: division by zero (line 3: b = a / 0)")
    );
    let execution = run("x = (1,\nprint(");
    assert!(execution.status == Status::Error && execution.text.starts_with("SyntaxError: "), "{}", execution.text);
    let execution = run("import no_such_module");
    assert!(execution.text.contains("ModuleNotFoundError: No module named 'no_such_module'"), "{}", execution.text);
}

#[test]
fn variables_persist_through_the_rounds_of_a_session_and_of_no_other() {
    let mut first = session();
    first.run("count = 1\ndef more():\n    return count + 1").unwrap();
    let second = first.run("count = more()\nprint(count)").unwrap();
    assert_eq!((second.text.trim(), second.variables_lost), ("2", false));
    assert_eq!(first.run("raise ValueError(count)").unwrap().text, "ValueError: 2 (line 1: raise ValueError(count))");
    assert_eq!(first.run("print(count)").unwrap().text.trim(), "2");
    assert_eq!(run("print('count' in globals())").text.trim(), "False");
}

#[test]
fn a_timeout_kills_the_session_and_the_next_run_says_that_variables_are_lost() {
    let sandbox = Sandbox::start(SandboxOptions { timeout: TIMEOUT, ..options() }).unwrap();
    let mut session = sandbox.session(InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap());
    assert_eq!(session.run("kept = 5").unwrap().status, Status::Ok);
    let late = session.run("while True: pass").unwrap();
    assert_eq!(late.status, Status::Timeout);
    assert_eq!(late.text, "Execution timed out after 1 seconds. The variables of earlier runs are lost.");
    let next = session.run("print(kept)").unwrap();
    assert!(next.variables_lost && next.text.contains("NameError") && next.text.contains("were lost"), "{}", next.text);
    assert!(!session.run("print(1)").unwrap().variables_lost);
}

#[test]
fn a_dead_zygote_is_replaced() {
    let sandbox = Sandbox::start(options()).unwrap();
    let image = InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap();
    let mut session = sandbox.session(image.clone());
    session.run("a = 1").unwrap();
    let pid = rustix::process::Pid::from_raw(sandbox.zygote_process() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    // Its sessions die with it, within the time that the kernel needs to bury it.
    let started = Instant::now();
    while session.run("print(a)").unwrap().status == Status::Ok {
        assert!(started.elapsed() < Duration::from_secs(5), "the session outlives its zygote");
    }
    assert_eq!(sandbox.session(image).run("print(2)").unwrap().text.trim(), "2");
    assert!(session.run("print(3)").unwrap().variables_lost);
}

#[test]
fn repairs_are_made_and_named() {
    use Repair::{CropClamp, Cv2Name, ImagePath, Indentation};
    let table: &[(&str, &str, &[Repair])] = &[
        ("    a = 1\n    print(a)", "1", &[Indentation]),
        ("  a = 1\nprint(a)", "1", &[Indentation]),
        ("a = 1\n    if a:\n        print(a)", "1", &[Indentation]),
        ("image_path = '/nowhere/photo.jpg'\nprint(Image.open(image_path).size)", "(640, 480)", &[ImagePath]),
        ("print(Image.open('/nowhere/photo.jpg').size)", "(640, 480)", &[ImagePath]),
        ("import cv2\nprint(cv2.imread('photo.png').shape)", "(480, 640, 3)", &[ImagePath]),
        ("Image.new('L', (7, 9)).save('own.png')\nprint(Image.open('own.png').size)", "(7, 9)", &[]),
        ("folder = '/data/photos'\nprint(Image.open(folder + '/street.png').size)", "(640, 480)", &[ImagePath]),
        ("x1, y1, x2, y2 = -10, 400, 30, 900\nprint(x1, y1, x2, y2)", "0 400 64 480", &[CropClamp]),
        (
            "left, top, right, bottom = (600, 10, 620.4, 200)\nprint(left, top, right, bottom)",
            "576 10 640 200",
            &[CropClamp],
        ),
        ("y1, x1, y2, x2 = 300, 100, 100, 700\nprint(y1, x1, y2, x2)", "100 100 300 640", &[CropClamp]),
        ("bbox = [0, 0, 1000, 1000]\nprint(bbox)", "[0, 0, 640, 480]", &[CropClamp]),
        ("print(Image.open(image_path).crop((10, 10, 20, 20)).size)", "(64, 64)", &[CropClamp]),
        (
            "side = 5000\nprint(Image.open(image_path).convert('L').crop((0, 0, side, side)).size)",
            "(640, 480)",
            &[CropClamp],
        ),
        (
            "image = cv2.imread(image_path)\npart = image[10:20, 600:900]\nprint(part.shape)",
            "(64, 64, 3)",
            &[CropClamp],
        ),
        (
            "image = cv2.imread(image_path)\ny = 470\npart = image[y:y + 100, 0:100]\nprint(part.shape)",
            "(64, 100, 3)",
            &[CropClamp],
        ),
        ("print(cv.imread(image_path).shape)", "(480, 640, 3)", &[Cv2Name]),
        ("import cv2 as cv\nprint(cv.imread(image_path).shape)", "(480, 640, 3)", &[]),
        ("x1, y1, x2, y2 = 10, 20, 110, 120\nprint(x1, y1, x2, y2)", "10 20 110 120", &[]),
        ("small = np.zeros((9, 9))\npart = small[1:3, 1:3]\nprint(part.shape)", "(2, 2)", &[]),
        (
            "image = cv2.imread(image_path)\nimage[0:5, 0:5] = 0\npart = image[10:-10, 10:-10]\nprint(part.shape)",
            "(460, 620, 3)",
            &[],
        ),
        ("print(Image.new('RGB', (9, 9)).crop((1, 1, 3, 3)).size)", "(2, 2)", &[]),
    ];
    for (code, expected, repairs) in table {
        let execution = run(code);
        assert_eq!((execution.text.trim(), execution.repairs.as_slice()), (*expected, *repairs), "{code}");
    }
    let unrepaired = run("if True:\nprint(1)");
    assert!(
        unrepaired.text.starts_with("IndentationError: ") && unrepaired.text.contains("line 2"),
        "{}",
        unrepaired.text
    );
}

#[test]
fn long_output_is_cut_with_a_note() {
    let execution = run("print('x' * 30_000)");
    assert!(execution.text.starts_with("xxx") && execution.text.len() < 10_200, "{} bytes", execution.text.len());
    assert!(execution.text.ends_with("[output cut: 10000 of 30001 characters]"));
}

#[test]
fn sessions_run_side_by_side() {
    std::thread::scope(|scope| {
        let waiting: Vec<_> = (0..8)
            .map(|index| scope.spawn(move || run(&format!("import time\ntime.sleep(0.5)\nprint({index})"))))
            .collect();
        for (index, thread) in waiting.into_iter().enumerate() {
            assert_eq!(thread.join().unwrap().text.trim(), index.to_string());
        }
    });
    let started = Instant::now();
    std::thread::scope(|scope| (0..8).for_each(|_| drop(scope.spawn(|| run("import time\ntime.sleep(0.5)")))));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn a_crop_of_512_pixels_takes_a_median_of_milliseconds() {
    let image = RgbImage::from_fn(512, 512, |x, y| Rgb([x as u8, y as u8, (x * y / 512) as u8]));
    let image = InputImage::from_rgb(&image, Path::new("square.png")).unwrap();
    let code = "processed_path = temp_output_dir + 'c.png'\nImage.open(image_path).crop((0, 0, 512, 512)).save(processed_path)\nprint(processed_path)";
    let mut seconds: Vec<f64> = (0..31)
        .map(|_| {
            let execution = ordinary().session(image.clone()).run(code).unwrap();
            assert_eq!((execution.status, execution.images.len()), (Status::Ok, 1), "{}", execution.text);
            execution.seconds
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "median of a 512x512 crop run: {:.1} ms (fastest {:.1}, slowest {:.1})",
        seconds[15] * 1e3,
        seconds[0] * 1e3,
        seconds[30] * 1e3
    );
    // Other tests share the machine, so the bound is generous and on the fastest; the median printed is the claim.
    assert!(seconds[0] < 0.15, "{} s", seconds[0]);
}

#[test]
fn a_sandbox_leaves_no_process_and_no_folder_behind() {
    let sandbox = Sandbox::start(options()).unwrap();
    let image = InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap();
    let mut session = sandbox.session(image);
    session.run("a = 1").unwrap();
    let process = sandbox.zygote_process();
    let status = fs::read_to_string(format!("/proc/{process}/cmdline")).unwrap();
    let script = Path::new(status.split('\0').find(|part| part.ends_with("zygote.py")).unwrap());
    assert!(script.exists());
    drop(session);
    drop(sandbox);
    assert!(!script.parent().unwrap().exists(), "{script:?}");
    assert!(!Path::new(&format!("/proc/{process}")).exists());
}

/// Programs as vision-language models write them: sizes of the images that come back, words of the text, repairs.
#[test]
fn programs_as_models_write_them_do_what_they_mean() {
    use Repair::{CropClamp, ImagePath, JpegMode, OutputPath};
    type Row = (&'static str, &'static [(u32, u32)], &'static str, &'static [Repair]);
    let table: &[Row] = &[
        (
            "output_dir = '/mnt/data/temp_processed_images/'\nimage_path = '/home/user/a.jpg'\nimage = Image.open(image_path)\n\
             left, top, right, bottom = 100, 50, 120, 70\nif not os.path.exists(output_dir):\n    os.makedirs(output_dir)\n\
             processed_path = os.path.join(output_dir, 'crop.jpg')\nimage.crop((left, top, right, bottom)).save(processed_path)\n\
             print(processed_path)",
            &[(64, 64)],
            "",
            &[ImagePath, CropClamp],
        ),
        (
            "os.makedirs('/mnt/data/temp_processed_images', exist_ok=True)\nimage = cv2.imread(image_path)\n\
             x1, y1, x2, y2 = 600, 400, 700, 500\ncrop = image[y1:y2, x1:x2]\n\
             cv2.imwrite(f'/mnt/data/temp_processed_images/{x1}.jpg', crop)\n\
             print(f'Saved to: /mnt/data/temp_processed_images/{x1}.jpg')",
            &[(64, 80)],
            "Saved to",
            &[CropClamp],
        ),
        (
            "gray = cv2.cvtColor(cv2.imread(image_path), cv2.COLOR_BGR2GRAY)\n_, binary = cv2.threshold(gray, 127, 255, cv2.THRESH_BINARY)\n\
             cv2.rectangle(binary, (9, 9), (99, 99), 0, 2)\ncv2.imwrite('b.png', cv2.rotate(binary, cv2.ROTATE_90_CLOCKWISE))\nprint('b.png')",
            &[(480, 640)],
            "",
            &[],
        ),
        (
            "from PIL import ImageEnhance, ImageOps, ImageDraw, ImageFont\nimage = ImageEnhance.Contrast(Image.open(image_path)).enhance(2.0)\n\
             image = ImageOps.autocontrast(image).rotate(90, expand=True).resize((300, 200), Image.ANTIALIAS)\n\
             draw = ImageDraw.Draw(image)\ndraw.rectangle([9, 9, 99, 99], outline='red', width=3)\n\
             draw.text((20, 20), 'A', fill=(255, 0, 0), font=ImageFont.load_default())\nassert draw.textsize('A')[0] > 0\nimage.show()\n\
             processed_path = f'{temp_output_dir}/enhanced.png'\nimage.save(processed_path)",
            &[(300, 200)],
            "",
            &[],
        ),
        (
            "image = Image.open(image_path).convert('RGBA')\nimage.crop((0, 0, 200, 100)).save('a.jpg')\nprint('a.jpg')",
            &[(200, 100)],
            "",
            &[JpegMode],
        ),
        (
            "image = Image.open(image_path)\nimage.save('/mnt/data/whole.png')\nprint('/mnt/data/whole.png')",
            &[(640, 480)],
            "",
            &[OutputPath],
        ),
        (
            "os.makedirs('/mnt/data/crops', exist_ok=True)\nImage.open(image_path).save('/tmp/x.png')\n\
             cv2.imwrite('/mnt/data/crops/y.jpg', cv2.imread('/tmp/x.png')[:100])\nprint('/mnt/data/crops/y.jpg')",
            &[(640, 100)],
            "",
            &[OutputPath],
        ),
        ("print(Image.open('/mnt/data/photo.png').size)", &[], "(640, 480)", &[ImagePath]),
        (
            "import uuid\nfrom datetime import datetime\nfor i in range(2):\n    \
             name = f'{uuid.uuid4().hex}_{datetime.now():%Y%m%d}_{i}.jpg'\n    path = os.path.join(temp_output_dir, name)\n    \
             Image.open(image_path).crop((i * 100, 0, i * 100 + 200, 100)).save(path)\n    print(path)",
            &[(200, 100), (200, 100)],
            "",
            &[],
        ),
        (
            "out = os.path.join(temp_output_dir, 'sub', 'c.png')\nos.makedirs(os.path.dirname(out), exist_ok=True)\n\
             Image.fromarray(np.array(Image.open(image_path))[50:200, 100:300]).save(out)\nprint({'processed_path': out})",
            &[(200, 150)],
            "processed_path",
            &[],
        ),
        (
            "from pathlib import Path\nprocessed_path = Path(temp_output_dir) / 'x.png'\nImage.open(image_path).save(processed_path)",
            &[(640, 480)],
            "",
            &[],
        ),
        ("Image.open(image_path).save('a.png')\nprint('The sign is red.')", &[], "saved but not shown: a.png", &[]),
        ("started = time.time()\nprint(collections.Counter('aab')['a'], f'{math.sqrt(2):.3f}')", &[], "2 1.414", &[]),
        ("points = cv2.boxPoints(((9, 9), (4, 4), 30))\nprint(np.int0(points).shape)", &[], "(4, 2)", &[]),
    ];
    for (code, sizes, said, repairs) in table {
        let execution = run(code);
        let got: Vec<(u32, u32)> = execution.images.iter().map(|image| image.image.dimensions()).collect();
        assert_eq!(execution.status, Status::Ok, "{}\n{code}", execution.text);
        assert_eq!((got.as_slice(), execution.repairs.as_slice()), (*sizes, *repairs), "{}\n{code}", execution.text);
        assert!(execution.text.contains(said), "{}\n{code}", execution.text);
    }
    let execution = run("import matplotlib.pyplot as plt");
    assert!(
        execution.text.contains("'matplotlib' (not installed; there are the standard library, numpy, cv2 and PIL)")
    );
}

#[test]
fn code_sees_the_picture_upright_and_opaque_as_the_model_does() {
    let coded = |image: &image::DynamicImage, format| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        image.write_to(&mut bytes, format).unwrap();
        bytes.into_inner()
    };
    let halves = RgbImage::from_fn(120, 90, |x, _| if x < 60 { Rgb([255, 0, 0]) } else { Rgb([0, 0, 255]) });
    let plain = coded(&halves.into(), image::ImageFormat::Jpeg);
    // APP1 with a TIFF header and one entry: orientation (0x0112), a short, 1 value, 6 = turn right.
    let mut turned = plain.clone();
    let mut exif = b"\xFF\xE1\x00\x22Exif\0\0MM\0\x2A\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
    exif.extend([0; 4]);
    turned.splice(2..2, exif);
    let glass = image::RgbaImage::from_pixel(70, 80, image::Rgba([10, 20, 30, 0]));
    let glass = coded(&glass.into(), image::ImageFormat::Png);
    let code = "picture = Image.open(image_path)\ntop = picture.convert('RGB').getpixel((30, 5))\n\
                print(picture.size, picture.mode, [255 * (level > 127) for level in top], cv2.imread('photo.jpg').shape, os.path.basename(image_path))";
    for (bytes, size, said) in [
        (turned, (90, 120), "(90, 120) RGB [255, 0, 0] (120, 90, 3) photo.jpg"),
        (glass, (70, 80), "(70, 80) RGB [255, 255, 255] (80, 70, 3) photo.jpg"),
        (plain.clone(), (120, 90), "(120, 90) RGB [255, 0, 0] (90, 120, 3) photo.jpg"),
    ] {
        let input = InputImage::from_bytes(bytes, Path::new("photo.jpg")).unwrap();
        assert_eq!(input.size(), size);
        let mut session = ordinary().session(input);
        assert_eq!(session.run(code).unwrap().text.trim(), said);
    }
    let untouched = InputImage::from_bytes(plain.clone(), Path::new("photo.jpg")).unwrap();
    let length = ordinary().session(untouched).run("print(os.path.getsize(image_path))").unwrap().text;
    assert_eq!(length.trim(), plain.len().to_string());
}

#[test]
fn bad_input_images_are_clear_errors() {
    let folder = tempfile::tempdir().unwrap();
    let missing = InputImage::read(&folder.path().join("missing.png")).unwrap_err().to_string();
    assert!(missing.contains("missing.png") && missing.contains("No such file"), "{missing}");
    let mut png = Vec::new();
    picture().write_to(&mut std::io::Cursor::new(&mut png), image::ImageFormat::Png).unwrap();
    for (name, bytes) in [("text.png", &b"no image at all"[..]), ("cut.png", &png[..png.len() / 2]), ("empty.png", &[])]
    {
        let path = folder.path().join(name);
        fs::write(&path, bytes).unwrap();
        let error = run_file(&path, "print(1)", TIMEOUT, folder.path()).unwrap_err();
        assert!(matches!(error, SandboxError::Image { .. }) && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_file_is_run_and_its_images_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let input = folder.path().join("in.png");
    picture().save(&input).unwrap();
    let code = "Image.open(image_path).crop((0, 0, 100, 90)).save('part.png')\nprint('part.png')\nprint('seen')";
    let report = run_file(&input, code, Duration::from_secs(10), &folder.path().join("out")).unwrap();
    assert_eq!(
        (report["status"].as_str(), report["text"].as_str().map(str::trim)),
        (Some("ok"), Some("seen")),
        "{report}"
    );
    let saved = report["images"][0].as_str().unwrap();
    assert_eq!(image::open(saved).unwrap().into_rgb8().dimensions(), (100, 90));
    assert!(report["seconds"].as_f64().unwrap() > 0.0);
}

#[test]
fn images_that_lie_are_left_out_with_a_note() {
    let code = "open('lie.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + b'x' * 50)\nprint('lie.png')\nopen('t.bmp', 'w').write('no')\nprint('t.bmp')";
    let execution = run(code);
    assert_eq!(execution.images.len(), 0);
    assert!(execution.text.contains("lie.png cannot be shown"), "{}", execution.text);
}

/// Things outside the jail that hostile code must not touch, and a look at whether it did.
struct Canaries {
    folder: tempfile::TempDir,
    listener: TcpListener,
    victim: Child,
    secret: String,
    started: Instant,
}

impl Canaries {
    fn new() -> Canaries {
        let folder = tempfile::tempdir().unwrap();
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let secret = format!("secret-{:x}", std::process::id() * 7919);
        for name in ["canary.txt", "canary.png"] {
            fs::write(folder.path().join(name), &secret).unwrap();
            fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(0o666)).unwrap();
        }
        picture().save(folder.path().join("original.png")).unwrap();
        fs::set_permissions(folder.path().join("original.png"), fs::Permissions::from_mode(0o666)).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let mut command = Command::new("sleep");
        command.arg("600");
        if is_root() {
            // The user that the jailed code is, so that only walls protect it.
            command.uid(NOBODY);
        }
        Canaries { folder, listener, victim: command.spawn().unwrap(), secret, started: Instant::now() }
    }

    fn fill_in(&self, code: &str) -> String {
        let folder = self.folder.path().to_str().unwrap();
        // Errors quote the line of code, so the word must not stand in it.
        code.replace("'BREACH'", "'BRE' + 'ACH'")
            .replace("{FOLDER}", folder)
            .replace("{PORT}", &self.listener.local_addr().unwrap().port().to_string())
            .replace("{VICTIM}", &self.victim.id().to_string())
            .replace("{HOST}", &std::process::id().to_string())
    }

    fn assert_untouched(&mut self, name: &str) {
        let names: BTreeSet<String> = fs::read_dir(self.folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        assert_eq!(names, BTreeSet::from(["canary.txt", "canary.png", "original.png"].map(String::from)), "{name}");
        assert_eq!(fs::read_to_string(self.folder.path().join("canary.txt")).unwrap(), self.secret, "{name}");
        let original = self.folder.path().join("original.png");
        assert_eq!(fs::metadata(&original).unwrap().permissions().mode() & 0o777, 0o666, "{name}");
        assert_eq!(image::open(&original).unwrap().into_rgb8(), picture(), "{name}");
        assert_eq!(
            self.listener.accept().unwrap_err().kind(),
            std::io::ErrorKind::WouldBlock,
            "{name} reached the network"
        );
        assert!(self.victim.try_wait().unwrap().is_none(), "{name} killed another process");
    }
}

impl Drop for Canaries {
    fn drop(&mut self) {
        drop(self.victim.kill());
        drop(self.victim.wait());
    }
}

/// Hostile programs: each prints BREACH if it got what it wanted. {FOLDER}, {PORT}, {VICTIM} and {HOST} are filled in.
const HOSTILE: &[(&str, &str)] = &[
    ("connects out", "import socket\nsocket.create_connection(('127.0.0.1', {PORT}), 1).send(b'x')\nprint('BREACH')"),
    ("asks a name server", "import socket\nsocket.getaddrinfo('example.com', 80)\nprint('BREACH')"),
    (
        "sends a datagram",
        "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', {PORT}))\nprint('BREACH')",
    ),
    (
        "fetches a page",
        "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:{PORT}/', timeout=1)\nprint('BREACH')",
    ),
    ("listens", "import socket\ns = socket.socket()\ns.bind(('0.0.0.0', 0))\ns.listen()\nprint('BREACH')"),
    ("opens an abstract socket", "import socket\nsocket.socket(socket.AF_UNIX).bind('\\0thyme')\nprint('BREACH')"),
    ("makes a netlink socket", "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW)\nprint('BREACH')"),
    ("reads the password file", "print(open('/etc/passwd').read(), 'BREACH')"),
    ("reads another file", "print(open('{FOLDER}/canary.txt').read(), 'BREACH')"),
    ("opens another file as an image", "print(open('{FOLDER}/canary.png', 'rb').read(), 'BREACH')"),
    ("prints another file's path", "processed_path = '{FOLDER}/original.png'\nprint(processed_path)"),
    ("lists the host's folders", "print(os.listdir('{FOLDER}'), 'BREACH')"),
    ("lists homes", "print(os.listdir('/root'), os.listdir('/home'), 'BREACH')"),
    ("escapes by a symlink", "os.symlink('{FOLDER}/canary.txt', 'link.png')\nprint(open('link.png').read(), 'BREACH')"),
    (
        "has a symlink fetched",
        "os.symlink('{FOLDER}/original.png', temp_output_dir + 'link.png')\nprint(temp_output_dir + 'link.png')",
    ),
    ("hard-links a file", "os.link('{FOLDER}/canary.txt', 'hard.txt')\nprint(open('hard.txt').read(), 'BREACH')"),
    ("climbs by dots", "print(open('../../../../..{FOLDER}/canary.txt').read(), 'BREACH')"),
    ("writes outside", "open('{FOLDER}/new.txt', 'w').write('x')\nprint('BREACH')"),
    ("overwrites outside", "open('{FOLDER}/canary.txt', 'w').write('x')\nprint('BREACH')"),
    ("removes outside", "os.remove('{FOLDER}/canary.txt')\nprint('BREACH')"),
    ("removes everything", "import shutil\nshutil.rmtree('/', ignore_errors=True)\nprint(os.path.exists(image_path))"),
    (
        "changes the input's mode",
        "os.chmod(image_path, 0o777)\nos.chmod('{FOLDER}/original.png', 0o777)\nprint('BREACH')",
    ),
    ("overwrites the input", "Image.new('RGB', (9, 9)).save(image_path)\nprint('BREACH')"),
    ("replaces the input", "open('x', 'w').write('x')\nos.replace('x', image_path)\nprint('BREACH')"),
    ("forks", "os.fork()\nprint('BREACH')"),
    ("is a fork bomb", "while True:\n    os.fork()"),
    (
        "is a fork bomb that swallows errors",
        "while True:\n    try:\n        if os.fork() == 0: print('BREACH')\n    except Exception: pass",
    ),
    (
        "starts a program",
        "import subprocess\nsubprocess.run(['/bin/sh', '-c', 'touch {FOLDER}/new.txt'])\nprint('BREACH')",
    ),
    ("uses the shell", "code = os.system('touch {FOLDER}/new.txt; echo BREACH')\nprint(code)"),
    ("replaces itself", "os.execv('/bin/sh', ['sh', '-c', 'touch {FOLDER}/new.txt'])"),
    ("spawns", "os.posix_spawn('/bin/true', ['true'], {})\nprint('BREACH')"),
    ("uses multiprocessing", "import multiprocessing\nmultiprocessing.Pool(2).map(print, ['BREACH'])"),
    (
        "bombs with threads",
        "import threading, time\nfor _ in range(10_000):\n    threading.Thread(target=time.sleep, args=(9,)).start()\nprint('BREACH')",
    ),
    ("kills its parent", "import signal\nos.kill(os.getppid(), signal.SIGKILL)\nprint(os.getppid())"),
    ("kills the host", "os.kill({HOST}, 9)\nprint('BREACH')"),
    ("kills a stranger", "os.kill({VICTIM}, 9)\nprint('BREACH')"),
    ("kills everyone", "os.kill(-1, 9)\nprint('BREACH')"),
    ("kills its group", "os.killpg(0, 9)\nprint('BREACH')"),
    ("kills by pidfd", "import signal\nsignal.pidfd_send_signal(os.pidfd_open({VICTIM}), 9)\nprint('BREACH')"),
    (
        "traces a stranger",
        "import ctypes\nc = ctypes.CDLL(None)\nif c.ptrace(16, {VICTIM}, 0, 0) == 0: print('BREACH')\nif c.ptrace(16, {HOST}, 0, 0) == 0: print('BREACH')",
    ),
    ("reads a stranger's memory", "print(open('/proc/{VICTIM}/mem', 'rb').read(1), 'BREACH')"),
    ("reads the environment of the host", "print(open('/proc/{HOST}/environ').read(), 'BREACH')"),
    ("reads the environment of process 1", "print(open('/proc/1/environ').read(), 'BREACH')"),
    (
        "reads its own environment",
        "if os.environ or 'CARGO' in str(os.environ): print('BREACH')\nprint(open('/proc/self/environ').read(), 'BREACH')",
    ),
    (
        "mounts",
        "import ctypes\nif ctypes.CDLL(None).mount(b'x', b'/mnt/data', b'tmpfs', 0, None) == 0: print('BREACH')",
    ),
    ("unmounts its root", "import ctypes\nif ctypes.CDLL(None).umount2(b'/', 2) == 0: print('BREACH')"),
    ("makes a user namespace", "import ctypes\nif ctypes.CDLL(None).unshare(0x10000000) == 0: print('BREACH')"),
    ("becomes root", "os.setuid(0)\nprint('BREACH')"),
    ("leaves the root", "os.chroot('.')\nprint('BREACH')"),
    ("makes a device", "import stat\nos.mknod('disk', 0o666 | stat.S_IFBLK, os.makedev(254, 0))\nprint('BREACH')"),
    ("raises its limits", "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nprint('BREACH')"),
    ("eats memory", "kept = bytearray(4 << 30)\nprint('BREACH')"),
    (
        "eats memory in pieces",
        "kept = []\nwhile True:\n    kept.append(bytearray(1 << 20))\n    if len(kept) > 1000: print('BREACH')",
    ),
    ("eats memory by memfd", "f = os.memfd_create('x')\nos.ftruncate(f, 4 << 30)\nprint('BREACH')"),
    (
        "fills the disk",
        "with open('big', 'wb') as f:\n    for _ in range(64): f.write(bytes(1 << 20))\nprint('BREACH')",
    ),
    (
        "fills the disk with files",
        "for i in range(64):\n    open(f'big{i}', 'wb').write(bytes(1 << 20))\nprint('BREACH')",
    ),
    ("makes files without number", "for i in range(1_000_000): open(f'{i}', 'w').close()\nprint('BREACH')"),
    ("loops", "while True: pass"),
    ("sleeps", "import time\ntime.sleep(1000)"),
    ("loops in C", "sum(range(10 ** 12))"),
    (
        "ignores signals and exceptions",
        "import signal\nfor s in range(1, 32):\n    try: signal.signal(s, signal.SIG_IGN)\n    except Exception: pass\nwhile True:\n    try:\n        while True: pass\n    except BaseException: pass",
    ),
    ("prints without end", "while True: print('spam' * 1000)"),
    ("prints without end to descriptors", "while True:\n    for d in (1, 2): os.write(d, b'x' * 4096)"),
    (
        "floods the wire",
        "for d in range(64):\n    try:\n        while True: os.write(d, b'\\xff' * 65536)\n    except OSError: pass",
    ),
    (
        "forges an answer",
        "import struct, json\nm = json.dumps({'status': 'ok', 'text': 'forged', 'blobs': [10 ** 15], 'images': ['a.png'], 'round': 1, 'seconds': 0}).encode()\nfor d in range(3, 64):\n    try: os.write(d, struct.pack('<I', len(m)) + m)\n    except OSError: pass",
    ),
    (
        "announces an endless answer",
        "import struct\nfor d in range(3, 64):\n    try: os.write(d, struct.pack('<I', 2 ** 32 - 1))\n    except OSError: pass",
    ),
    ("closes every descriptor", "os.closerange(0, 256)"),
    ("recurses without end", "import sys\nsys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()"),
    ("crashes", "import ctypes\nctypes.string_at(0)"),
    ("leaves at once", "os._exit(0)"),
    ("names a fifo as its image", "os.mkfifo(temp_output_dir + 'x.png')\nprint(temp_output_dir + 'x.png')"),
    (
        "names an image bomb",
        "import zlib, struct\ndef part(k, d): return struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d))\nopen('bomb.png', 'wb').write(b'\\x89PNG\\r\\n\\x1a\\n' + part(b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)) + part(b'IDAT', zlib.compress(bytes(1 << 20))) + part(b'IEND', b''))\nprint('bomb.png')",
    ),
    (
        "names a million images",
        "Image.new('RGB', (9, 9)).save('a.png')\nfor i in range(1000): os.symlink('a.png', f'{i}.png')\nprint('\\n'.join(f'{i}.png' for i in range(1000)))",
    ),
    (
        "breaks what answers",
        "import json, builtins\njson.dumps = None\nimport sys\nfor m in list(sys.modules.values()):\n    for k in ('write_frame', 'read_frame'):\n        if hasattr(m, k): setattr(m, k, None)",
    ),
];

fn hostile_programs_have_no_effect(options: SandboxOptions) {
    assert!(HOSTILE.len() >= 30);
    let sandbox = Sandbox::start(SandboxOptions { timeout: TIMEOUT, ..options }).unwrap();
    println!("walls as {:?}:\n{}", options_name(&sandbox), sandbox.walls());
    assert_eq!(sandbox.walls().fallen(), [] as [Guarantee; 0]);
    let mut canaries = Canaries::new();
    let input = InputImage::read(&canaries.folder.path().join("original.png")).unwrap();
    for (name, code) in HOSTILE {
        let started = Instant::now();
        let mut session = sandbox.session(input.clone());
        let execution = session.run(&canaries.fill_in(code)).unwrap();
        let seconds = started.elapsed();
        println!(
            "{name:<40} {:?} {:.2} s: {}",
            execution.status,
            seconds.as_secs_f64(),
            execution.text.lines().last().unwrap_or("").chars().take(100).collect::<String>()
        );
        assert!(seconds < TIMEOUT + Duration::from_secs(2), "{name} took {seconds:?}");
        assert!(
            !execution.text.contains("BREACH") && !execution.text.contains(&canaries.secret),
            "{name}: {}",
            execution.text
        );
        assert!(
            execution.images.len() <= 16
                && !execution.images.iter().any(|image| image.image.dimensions() == (640, 480)),
            "{name}"
        );
        canaries.assert_untouched(name);
        // The next run of the same sequence works, with the input as it was.
        let next = session.run("print(Image.open(image_path).size)").unwrap();
        assert!(
            next.status != Status::Ok || next.text.trim() == "(640, 480)" || name.contains("answer"),
            "{name}: {}",
            next.text
        );
    }
    let after = sandbox.session(input).run("print('alive')").unwrap();
    assert_eq!(after.text.trim(), "alive");
    println!("{} programs in {:.1} s", HOSTILE.len(), canaries.started.elapsed().as_secs_f64());
}

fn options_name(sandbox: &Sandbox) -> String {
    let root = sandbox.walls().of(Guarantee::Reads).iter().any(|mechanism| mechanism.contains("user id"));
    if root { "root".into() } else { "an ordinary user".into() }
}

#[test]
fn hostile_programs_have_no_effect_with_the_rights_we_have() {
    hostile_programs_have_no_effect(options());
}

#[test]
fn hostile_programs_have_no_effect_as_an_ordinary_user() {
    // An ordinary user who runs the tests has just this in the test above.
    hostile_programs_have_no_effect(SandboxOptions { as_user: is_root().then_some(NOBODY), ..options() });
}

#[test]
fn one_session_cannot_see_the_files_of_another() {
    let mut first = session();
    first.run("open(temp_output_dir + 'mine.txt', 'w').write('private')").unwrap();
    let seen = run(
        "import glob\nprint([p for p in glob.glob('/mnt/**', recursive=True) + glob.glob('/tmp/**', recursive=True) if 'mine' in p])",
    );
    assert_eq!(seen.text.trim(), "[]");
}
