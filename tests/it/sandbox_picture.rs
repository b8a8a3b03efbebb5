//! The input picture in the jail: code finds it as its file says, nobody decodes it a second time, and nobody sees what another writes to it.

use std::fs;
use std::io::Cursor;
use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage};
use thyme_engine::sandbox::{InputImage, Offered, Sandbox, SandboxOptions, Session, Status};

use super::sandbox::{NOBODY, is_root, options, ordinary, picture};
use super::sandbox_wire::{NO_MOUNTS, descendants};

fn file(image: &RgbImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg() -> InputImage {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(&picture()).unwrap();
    InputImage::from_bytes(bytes, Path::new("street.jpg")).unwrap()
}

fn png() -> InputImage {
    InputImage::from_bytes(file(&picture(), ImageFormat::Png), Path::new("street.png")).unwrap()
}

fn said(session: &mut Session, code: &str) -> String {
    let execution = session.run(code).unwrap();
    assert_eq!(execution.status, Status::Ok, "{}\n{code}", execution.text);
    execution.text.trim_end().to_owned()
}

/// Notes in `decoded` what Pillow decodes from now on. `own` opens the picture's file in a way that always decodes it.
const WATCH: &str = r"
import io, PIL.Image
decoded, plain = [], PIL.Image._getdecoder
def watched(mode, name, *rest):
    decoded.append(name)
    return plain(mode, name, *rest)
PIL.Image._getdecoder = watched
data = open(image_path, 'rb').read()
def own():
    return Image.open(io.BytesIO(data))
";

/// Compares an image opened by its path with one decoded from the file's bytes, and says what was decoded.
const COMPARE: &str = r"
def state(image):
    tables = getattr(image, 'quantization', None), getattr(image, 'layer', None)
    return type(image), image.mode, image.size, image.format, image.info, image.readonly, tables
image, other = Image.open(image_path), own()
print(state(image) == state(other), image.filename == image_path, image.tile == other.tile, len(image.tile), decoded)
pixels = image.load()
same = image.tobytes() == other.tobytes() and image.tobytes('raw', 'RGBX') == other.tobytes('raw', 'RGBX')
print(state(image) == state(other), dict(image.getexif()) == dict(other.getexif()), getattr(image, 'text', None) == getattr(other, 'text', None))
print(image.tile == other.tile == [], image.fp, same)
pixels[3, 4] = other.load()[3, 4] = (1, 2, 3)
print(image.tobytes() == other.tobytes(), np.array_equal(np.asarray(image), np.asarray(other)))
crops = [i.crop((9, 20, 300, 400)).resize((50, 60)).rotate(9).tobytes() for i in (Image.open(image_path), own())]
print(crops[0] == crops[1], decoded)
for how in (lambda i: i.draft('L', (80, 60)), lambda i: i.thumbnail((200, 200)), lambda i: i.draft('RGB', i.size)):
    image, other = Image.open(image_path), own()
    how(image), how(other)
    print(image.mode == other.mode, image.size == other.size, image.tobytes() == other.tobytes())
array, whole = cv2.imread(image_path), np.frombuffer(data, np.uint8)
print(np.array_equal(array, cv2.imdecode(whole, 1)), array.dtype, array.flags.c_contiguous, array.flags.writeable, array.flags.owndata)
grey = cv2.imread(image_path, cv2.IMREAD_GRAYSCALE)
print(np.array_equal(grey, cv2.imdecode(whole, 0)), np.array_equal(cv2.imread(image_path, 1), array))
";

/// What `COMPARE` prints where pixels are shared, with the name of Pillow's decoder in place of DECODER.
const ALIKE: &str = "True True True 1 []
True True True
True None True
True True
True ['DECODER', 'DECODER']
True True True
True True True
True True True
True uint8 True True False
True True";

#[test]
fn a_picture_that_code_opens_is_as_its_file_says_and_is_not_decoded() {
    let no_mounts = SandboxOptions { offered: NO_MOUNTS, ..options() };
    let as_user = SandboxOptions { as_user: is_root().then_some(NOBODY), ..options() };
    for options in [options(), no_mounts, as_user] {
        let sandbox = Sandbox::start(options).unwrap();
        let from_rgb = InputImage::from_rgb(&picture(), Path::new("street.png")).unwrap();
        for (image, decoder) in [(png(), "zip"), (from_rgb, "zip"), (sandbox.decoded(jpeg()), "jpeg")] {
            let mut session = sandbox.session(image);
            let text = said(&mut session, &format!("{WATCH}{COMPARE}"));
            // The image of the file's bytes is decoded before its state is compared a second time.
            assert_eq!(text, ALIKE.replace("DECODER", decoder), "{text}");
        }
    }
}

#[test]
fn what_is_not_shared_is_decoded_as_ever() {
    let code = format!(
        "{WATCH}\nprint(Image.open(image_path).convert('RGB').getpixel((9, 9)), decoded != [], cv2.imread(image_path).flags.owndata)"
    );
    let pixel = |image: &RgbImage| format!("{:?} True True", <(u8, u8, u8)>::from(image.get_pixel(9, 9).0));
    let grey = image::DynamicImage::from(picture()).into_luma8();
    let mut grey_png = Cursor::new(Vec::new());
    grey.write_to(&mut grey_png, ImageFormat::Png).unwrap();
    let grey_png = InputImage::from_bytes(grey_png.into_inner(), Path::new("grey.png")).unwrap();
    let bmp = InputImage::from_bytes(file(&picture(), ImageFormat::Bmp), Path::new("a.bmp")).unwrap();
    assert_eq!(said(&mut ordinary().session(ordinary().decoded(bmp)), &code), pixel(&picture()));
    let level = grey.get_pixel(9, 9).0[0];
    let expected = format!("({level}, {level}, {level}) True True");
    assert_eq!(said(&mut ordinary().session(ordinary().decoded(grey_png)), &code), expected);
    // Nobody has asked for this one to be decoded.
    assert!(said(&mut ordinary().session(jpeg()), &code).ends_with("True True"));
    // Pictures that another file has, under the name of the input.
    let copy = "import shutil\nshutil.copy(image_path, 'copy.png')\nprint(len(decoded), Image.open('copy.png').load() is not None, len(decoded))";
    let text = said(&mut ordinary().session(png()), &format!("{WATCH}{copy}"));
    assert!(text.starts_with("0 True 1"), "{text}");
}

/// Changes the picture in all ways that code has, in one session, and prints whether what it opens next is as it was.
const CHANGE: &str = r"
import hashlib
from PIL import ImageDraw
def seen():
    image, array = Image.open(image_path), cv2.imread(image_path)
    return hashlib.sha1(image.tobytes() + array.tobytes()).hexdigest()
before = seen()
held = [Image.open(image_path) for _ in range(7)]
for image in held:
    image.load()[0, 0] = (1, 2, 3)
    image.paste((9, 9, 9), (10, 10, 300, 300))
    ImageDraw.Draw(image).line((0, 0, 600, 400), (255, 0, 0), 9)
arrays = [cv2.imread(image_path) for _ in range(7)]
for array in arrays:
    array[:] = 77
    cv2.rectangle(array, (3, 3), (90, 90), (0, 0, 255), -1)
print(seen() == before, len({image.tobytes() for image in held}), int(arrays[0][400, 400].sum()), arrays[3][5, 5].tolist())
del image, array, held, arrays
print(all(seen() == before for _ in range(7)))
";

#[test]
fn what_code_writes_to_the_picture_is_seen_by_nobody_else() {
    for image in [png(), ordinary().decoded(jpeg())] {
        let (mut first, mut second) = (ordinary().session(image.clone()), ordinary().session(image.clone()));
        let digest = "import hashlib\nprint(hashlib.sha1(Image.open(image_path).tobytes() + cv2.imread(image_path).tobytes()).hexdigest())";
        let before = said(&mut second, digest);
        assert_eq!(said(&mut first, CHANGE), "True 1 231 [0, 0, 255]\nTrue");
        assert_eq!(said(&mut first, digest), before);
        assert_eq!(said(&mut second, digest), before);
        assert_eq!(said(&mut ordinary().session(image), digest), before);
    }
}

/// KiB of the pages of a process that map the picture: those that it has, and those that are its own.
fn mapped(process: u32) -> Option<(u64, u64)> {
    let maps = fs::read_to_string(format!("/proc/{process}/smaps")).ok()?;
    let (mut in_picture, mut present, mut own) = (false, 0, 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (name, value) = (words.next()?, words.next().and_then(|word| word.parse::<u64>().ok()));
        match (name, value) {
            ("Rss:", Some(kib)) if in_picture => present += kib,
            ("Anonymous:", Some(kib)) if in_picture => own += kib,
            (_, None) if !name.ends_with(':') => in_picture = line.contains("memfd:thyme-picture"),
            _ => {}
        }
    }
    Some((present, own))
}

#[test]
fn a_crop_copies_nothing_of_the_picture() {
    let sandbox = Sandbox::start(options()).unwrap();
    let mut session = sandbox.session(png());
    let crop = "image, array = Image.open(image_path), cv2.imread(image_path)\nimage.crop((9, 9, 300, 300)).save('a.png')\n\
                cv2.imwrite('b.png', array[9:300, 9:300])\nprint('a.png')";
    let of_session = || descendants(sandbox.zygote_process()).into_iter().filter_map(|(process, _)| mapped(process));
    let pages = || of_session().fold((0, 0), |sum, pages| (sum.0 + pages.0, sum.1 + pages.1));
    assert_eq!(session.run(crop).unwrap().images.len(), 1);
    let (present, own) = pages();
    if present == 0 && !is_root() {
        println!("this user may not look at the processes of sessions");
        return;
    }
    assert!(present > 0 && own == 0, "{present} KiB, of which {own} were copied");
    said(&mut session, "image.putpixel((0, 0), (1, 2, 3))");
    let (_, own) = pages();
    assert!((4..=64).contains(&own), "a pixel that is written copies its page: {own} KiB");
}

#[test]
fn a_crop_imports_nothing() {
    let mut session = ordinary().session(ordinary().decoded(jpeg()));
    let code = "import sys\nbefore = set(sys.modules)\nfrom PIL import Image\nimport cv2, os, numpy as np\n\
                Image.open(image_path).crop((9, 9, 300, 300)).save('a.png')\nImage.open(image_path).crop((9, 9, 300, 300)).save('a.jpg')\n\
                cv2.imwrite('b.png', cv2.imread(image_path)[9:300, 9:300])\nImage.open('a.jpg').load()\nprint(set(sys.modules) - before)";
    assert!(said(&mut session, code).starts_with("set()"));
}

#[test]
fn no_descriptor_of_the_pictures_memory_reaches_code() {
    let code = "import stat\nfound = []\nfor number in range(64):\n    try: status = os.fstat(number)\n    except OSError: continue\n    \
                found.append((stat.S_ISREG(status.st_mode), status.st_nlink))\nprint(len(found) > 2, [f for f in found if f[0]])";
    for offered in [Offered::default(), NO_MOUNTS] {
        let sandbox = Sandbox::start(SandboxOptions { offered, ..options() }).unwrap();
        assert_eq!(said(&mut sandbox.session(png()), code), "True []");
    }
}

#[test]
fn the_memory_of_a_picture_is_no_file_of_the_session() {
    // 1800x1200 pixels of seven bytes are more than the disk of a session.
    let large = RgbImage::from_fn(1800, 1200, |x, y| image::Rgb([x as u8, y as u8, 9]));
    let input = InputImage::from_rgb(&large, Path::new("large.png")).unwrap();
    for offered in [Offered::default(), NO_MOUNTS] {
        let sandbox = Sandbox::start(SandboxOptions { offered, ..options() }).unwrap();
        let code = format!("{WATCH}\nprint(Image.open(image_path).getpixel((1000, 1000)), decoded)");
        assert_eq!(said(&mut sandbox.session(input.clone()), &code), "(232, 232, 9) []");
    }
    // Where pixels take too large a share of the session's memory, they are decoded.
    let little = SandboxOptions { memory_bytes: 96 << 20, ..options() };
    let code = format!("{WATCH}\nprint(Image.open(image_path).getpixel((1000, 1000)), decoded)");
    let sandbox = Sandbox::start(little).unwrap();
    assert_eq!(said(&mut sandbox.session(input), &code), "(232, 232, 9) ['zip']");
}

#[test]
fn a_png_is_the_same_to_opencv_however_it_is_written() {
    let code = r#"
image = cv2.imread(image_path)
alpha = np.dstack([image, image[:, :, 0]])
grey, flat = image[:, :, 1], image[:, :, :1]
for name, array in dict(colour=image, part=image[20:300, 40:90], turned=image[::-1, ::-1], alpha=alpha, grey=grey, flat=flat).items():
    done = cv2.imwrite(name + '.png', array), cv2.imwrite(name + '.bmp.PNG', array, [cv2.IMWRITE_PNG_COMPRESSION, 9])
    read = [cv2.imread(path, cv2.IMREAD_UNCHANGED) for path in (name + '.png', name + '.bmp.PNG')]
    opened = [Image.open(path) for path in (name + '.png', name + '.bmp.PNG')]
    same = opened[0].mode == opened[1].mode, opened[0].tobytes() == opened[1].tobytes()
    print(name, done, np.array_equal(*read), np.array_equal(read[0], array.squeeze()), *same)
print(cv2.imwrite('missing/a.png', image), cv2.imwrite('deep.png', image.astype(np.uint16)), cv2.imread('deep.png', -1).dtype)
large = cv2.resize(image, (1500, 1000))
print(cv2.imwrite('large.png', large), os.path.getsize('large.png') < 3_000_000, np.array_equal(cv2.imread('large.png'), large))
for wrong in (np.zeros((0, 3), np.uint8), None, np.zeros((3, 3, 2), np.uint8)):
    try: print(cv2.imwrite('wrong.png', wrong))
    except cv2.error: print('refused')
"#;
    let text = said(&mut ordinary().session(png()), code);
    let names = ["colour", "part", "turned", "alpha", "grey", "flat"];
    let alike: Vec<String> = names.iter().map(|name| format!("{name} (True, True) True True True True")).collect();
    let rest = "False True uint16\nTrue True True\nrefused\nrefused\nrefused";
    let text = text.split("\n\n[saved but not shown").next().unwrap();
    assert_eq!(text, format!("{}\n{rest}", alike.join("\n")));
}

#[test]
fn a_part_that_opencv_wrote_is_shown_as_it_is() {
    let mut session = ordinary().session(ordinary().decoded(jpeg()));
    let code = "image = cv2.imread(image_path)\ncv2.imwrite('part.png', image[100:300, 50:250])\nprint('part.png')\n";
    let execution = session.run(code).unwrap();
    let shown = &execution.images[0].image;
    let again = "part = Image.open(image_path).crop((50, 100, 250, 300))\npart.save('again.png', compress_level=6)\nprint('again.png')";
    assert_eq!(shown, &session.run(again).unwrap().images[0].image);
    // What the file says later counts, not what it said.
    let changed = session.run("cv2.imwrite('part.png', 255 - image[100:300, 50:250])\nprint('part.png')").unwrap();
    assert!(changed.images[0].image.pixels().zip(shown.pixels()).all(|(a, b)| a.0[0] == 255 - b.0[0]));
}
