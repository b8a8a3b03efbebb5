//! Ordinary code in the sandbox: its values are its own, what it writes is found where it wrote it, what it prints is read in time, names
//! of older libraries work; and odd exceptions, names and damages come back as observations.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use thyme_engine::sandbox::{Execution, InputImage, Interpreter, Repair, Sandbox, SandboxOptions, Status, Widened};

use super::sandbox::{options, ordinary, picture, run, session, text_of};

fn sizes(execution: &Execution) -> Vec<(u32, u32)> {
    execution.images.iter().map(|image| image.image.dimensions()).collect()
}

#[test]
fn only_what_is_shown_is_widened_and_it_says_so() {
    // Each program makes a part of the input image, saves it as `p` and prints its size as it was saved.
    let read = "p = temp_output_dir + 'part.png'\nimage = cv2.imread(image_path)\n";
    let said = "print(cv2.imread(p).shape[:2])\nprint(p)";
    let widened = |from, to| Some(Widened { from, to });
    let small = || widened([50, 100, 60, 110], [50, 100, 114, 164]);
    let table = [
        ("cv2.imwrite(p, image[100:110, 50:60])", "(10, 10)", (64, 64), small()),
        ("Image.open(image_path).crop((50, 100, 60, 110)).save(p)", "(10, 10)", (64, 64), small()),
        ("Image.open(image_path).convert('L').crop((50, 100, 60, 110)).copy().save(p)", "(10, 10)", (64, 64), small()),
        (
            "Image.open(image_path).crop((40, 90, 200, 200)).crop((10, 10, 20, 20)).save(p)",
            "(10, 10)",
            (64, 64),
            small(),
        ),
        (
            "Image.fromarray(cv2.cvtColor(image[100:110, 50:60], cv2.COLOR_BGR2RGB)).save(p)",
            "(10, 10)",
            (64, 64),
            small(),
        ),
        (
            "Image.fromarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB)[100:110, 50:60]).save(p)",
            "(10, 10)",
            (64, 64),
            small(),
        ),
        ("cv2.imwrite(p, cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[100:110, 50:60])", "(10, 10)", (64, 64), small()),
        ("Image.fromarray(np.array(Image.open(image_path))[100:110, 50:60]).save(p)", "(10, 10)", (64, 64), small()),
        ("cv2.imwrite('q.png', image[100:110, 50:60])\nos.rename('q.png', p)", "(10, 10)", (64, 64), small()),
        (
            "cv2.imwrite(p, image[470:600, 600:700])",
            "(10, 40)",
            (64, 64),
            widened([600, 470, 640, 480], [576, 416, 640, 480]),
        ),
        (
            "Image.open(image_path).crop((-20, 400, 80, 500)).save(p)",
            "(100, 100)",
            (80, 80),
            widened([-20, 400, 80, 500], [0, 400, 80, 480]),
        ),
        // Another picture than a part of the input: shown as it is.
        ("cv2.imwrite(p, image[100:200, 50:150])", "(100, 100)", (100, 100), None),
        (
            "mask = np.zeros(image.shape[:2], np.uint8)\nmask[100:110, 50:55] = 255\ncv2.imwrite(p, mask[100:110, 50:60])",
            "(10, 10)",
            (10, 10),
            None,
        ),
        ("cv2.imwrite(p, cv2.resize(image, (10, 10)))", "(10, 10)", (10, 10), None),
        ("part = image[100:110, 50:60].copy()\npart[2:4] = 0\ncv2.imwrite(p, part)", "(10, 10)", (10, 10), None),
        (
            "part = Image.open(image_path).crop((50, 100, 60, 110))\npart.putpixel((1, 1), (255, 0, 0))\npart.save(p)",
            "(10, 10)",
            (10, 10),
            None,
        ),
        ("Image.open(image_path).crop((50, 100, 60, 110)).resize((20, 20)).save(p)", "(20, 20)", (20, 20), None),
        (
            "cv2.imwrite(p, image[100:110, 50:60])\ncv2.imwrite(p, np.full((10, 10, 3), 9, np.uint8))",
            "(10, 10)",
            (10, 10),
            None,
        ),
        ("cv2.imwrite(p, image[100:110, 50:60][::-1])", "(10, 10)", (10, 10), None),
    ];
    for (code, shape, size, widened) in table {
        let execution = run(&format!("{read}{code}\n{said}"));
        assert_eq!(
            (execution.status, execution.text.trim(), sizes(&execution)),
            (Status::Ok, shape, vec![size]),
            "{code}"
        );
        assert_eq!(execution.images[0].widened, widened, "{code}");
        assert_eq!(execution.repairs.contains(&Repair::CropClamp), widened.is_some(), "{code}");
        if let Some(Widened { to: [left, top, ..], .. }) =
            widened.filter(|_| !code.contains("GRAY") && !code.contains("'L'"))
        {
            let part = image::imageops::crop_imm(&picture(), left, top, size.0, size.1).to_image();
            assert_eq!(execution.images[0].image, part, "{code}");
        }
    }
}

#[test]
fn values_of_code_are_its_own() {
    let table = [
        (
            "img = cv2.imread(image_path)\nprint(img[100:110, 50:60].shape, img[100:110, 50:60].mean() == np.mean(np.array(img)[100:110, 50:60]))",
            "(10, 10, 3) True",
        ),
        (
            "m = np.zeros((480, 640), np.uint8)\npart = m[100:110, 50:60]\npart[:] = 255\nprint(cv2.countNonZero(m), part.base is m)",
            "100 True",
        ),
        (
            "img = cv2.imread(image_path)\nprint(img[-20:, -30:].shape, img[5:3, 2:9].shape, img[10:-10, 10:-10].shape)",
            "(20, 30, 3) (0, 7, 3) (460, 620, 3)",
        ),
        (
            "x1, y1, x2, y2 = -10, 400, 30, 900\nleft, top, right, bottom = (600, 10, 620.4, 200)\nprint(x1, y2, left, right)",
            "-10 900 600 620.4",
        ),
        (
            "bbox = [0, 0, 1000, 1000]\ncrop_box = (1, 2, 3, 4)\nprint(bbox, crop_box)",
            "[0, 0, 1000, 1000] (1, 2, 3, 4)",
        ),
        (
            "print(Image.open(image_path).crop((-5, -5, 15, 12)).size, Image.open(image_path).crop((5, 5, 5, 5)).size)",
            "(20, 17) (0, 0)",
        ),
        (
            "import numpy\nsmall = Image.open(image_path).convert('L').crop((0, 0, 10, 10))\nprint(sum(small.histogram()))",
            "100",
        ),
        (
            "print('/mnt/data/temp_processed_images', '/tmp/a.png', ['/mnt/data/x.txt'])",
            "/mnt/data/temp_processed_images /tmp/a.png ['/mnt/data/x.txt']",
        ),
        (&*format!("print({})", vec!["1"; 1500].join(" + ")), "1500"),
    ];
    for (code, expected) in table {
        assert_eq!(text_of(code), expected, "{code}");
    }
}

/// Writes in places where nothing may be written: what is printed, and whether an image is shown. Each is moved.
const WRITES: &[(&str, &str, bool)] = &[
    (
        "p = '/tmp/' + 'a b (1).png'\nImage.open(image_path).save(p)\nprint('saved to ' + p)",
        "saved to /tmp/a b (1).png",
        true,
    ),
    (
        "p = os.path.join(os.path.dirname(image_path), 'crop.png')\ncv2.imwrite(p, cv2.imread(image_path))\nprint(p)",
        "",
        true,
    ),
    (
        "p = os.path.splitext(image_path)[0] + '_crop.jpg'\nImage.open(image_path).save(p)\nprint(os.path.exists(p), [p])",
        "True ['/mnt/data/input/street_crop.jpg']",
        true,
    ),
    (
        "from pathlib import Path\np = Path(image_path).with_name('w.png')\nImage.open(image_path).save(p)\nprint(p.exists(), repr(p))",
        "True PosixPath('/mnt/data/input/w.png')",
        true,
    ),
    (
        "d = '/home/user/out'\nos.makedirs(d, exist_ok=True)\np = f'{d}/x.png'\nImage.open(image_path).save(p)\nprint(os.listdir(d), Image.open(p).size)\nprint(p)",
        "['x.png'] (640, 480)",
        true,
    ),
    (
        "from pathlib import Path\nd = Path('/workspace') / 'a' / 'b'\nd.mkdir(parents=True, exist_ok=True)\n(d / 'n.json').write_text('{}')\nprint((d / 'n.json').read_text(), [f.name for f in d.iterdir()])",
        "{} ['n.json']",
        false,
    ),
    (
        "with open('/tmp/n.json', 'w') as f:\n    json.dump({'a': 1}, f)\nprint(f.name, json.load(open('/tmp/n.json')), os.path.getsize('/tmp/n.json'))",
        "/tmp/n.json {'a': 1} 8",
        false,
    ),
    (
        "np.save('/tmp/a.npy', np.arange(3))\nnp.savez('/tmp/a.npz', a=np.arange(2))\nnp.savetxt('/tmp/a.txt', [1.5])\nprint(np.load('/tmp/a.npy'), np.load('/tmp/a.npz')['a'], np.loadtxt('/tmp/a.txt'))",
        "[0 1 2] [0 1] 1.5",
        false,
    ),
    (
        "import shutil\nshutil.copy(image_path, '/tmp/c.png')\nshutil.copy2('/tmp/c.png', '/tmp/d.png')\nshutil.move('/tmp/d.png', '/tmp/e.png')\nprint(os.path.exists('/tmp/d.png'), cv2.imread('/tmp/e.png').shape)\nprint('/tmp/e.png')",
        "False (480, 640, 3)",
        true,
    ),
    (
        "import tempfile\nd = tempfile.mkdtemp()\nwith tempfile.NamedTemporaryFile(suffix='.txt') as f:\n    f.write(b'x')\nprint(os.path.isdir(d), os.path.exists(f.name))",
        "True False",
        false,
    ),
    (
        "for i in range(2):\n    with open('/tmp/log.txt', 'a') as f:\n        f.write(str(i))\nprint(open('/tmp/log.txt').read())\nos.remove('/tmp/log.txt')\nprint(os.path.exists('/tmp/log.txt'))",
        "01\nFalse",
        false,
    ),
    (
        "import io\nio.open('/var/tmp/x.bin', 'xb').write(b'1')\ntry:\n    open('/var/tmp/x.bin', 'x')\nexcept FileExistsError as error:\n    print(error)",
        "[Errno 17] File exists: '/var/tmp/x.bin'",
        false,
    ),
    (
        "import glob\nos.makedirs('/mnt/data/crops/one')\nopen('/mnt/data/crops/one/a.txt', 'w').close()\nprint(glob.glob('/mnt/data/crops/**/*.txt', recursive=True), list(os.walk('/mnt/data/crops'))[1])\nprint(os.listdir(temp_output_dir))",
        "['/mnt/data/crops/one/a.txt'] ('/mnt/data/crops/one', [], ['a.txt'])\n[]",
        false,
    ),
    (
        "fd = os.open('/tmp/fd', os.O_CREAT | os.O_RDWR)\nos.write(fd, b'12')\nos.close(fd)\nos.rename('/tmp/fd', temp_output_dir + 'own')\nprint(open('own').read(), os.path.exists('/tmp/fd'))",
        "12 False",
        false,
    ),
];

#[test]
fn outputs_are_moved_wherever_code_writes_and_found_again() {
    for (code, expected, has_image) in WRITES {
        let execution = run(code);
        assert_eq!((execution.status, execution.text.trim()), (Status::Ok, *expected), "{}\n{code}", execution.text);
        assert_eq!(sizes(&execution), if *has_image { vec![(640, 480)] } else { Vec::new() }, "{code}");
        assert_eq!(execution.repairs, [Repair::OutputPath], "{code}");
    }
    let mut session = session();
    session.run("open('/tmp/kept.txt', 'w').write('kept')").unwrap();
    let next = session.run("print(open('/tmp/kept.txt').read(), os.path.getsize('/tmp/kept.txt'))").unwrap();
    assert_eq!((next.text.trim(), next.repairs), ("kept 4", Vec::new()));
}

#[test]
fn what_is_not_moved_fails_as_it_would() {
    let table = [
        ("open(image_path, 'w')", "/mnt/data/input/street.png'"),
        ("Image.new('RGB', (9, 9)).save(image_path)", "/mnt/data/input/street.png'"),
        ("os.replace(image_path, 'x.png')", "'/mnt/data/input/street.png' -> 'x.png'"),
        ("open('/nowhere/a.txt', 'w')", "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/a.txt'"),
        ("open('sub/a.txt', 'w')", "FileNotFoundError: [Errno 2] No such file or directory: 'sub/a.txt'"),
        ("os.mkdir('/tmp/a/b')", "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/a/b'"),
        ("open('/tmp/missing.txt')", "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/missing.txt'"),
        (
            "os.rename('/tmp/missing', '/tmp/other')",
            "FileNotFoundError: [Errno 2] No such file or directory: '/tmp/missing' -> '/tmp/other'",
        ),
        ("os.remove('/etc/hostname')", "'/etc/hostname'"),
    ];
    for (code, expected) in table {
        let execution = run(code);
        assert!(execution.status != Status::Ok && execution.text.contains(expected), "{code}: {}", execution.text);
        assert_eq!(execution.repairs, [], "{code}");
    }
    // What may be written is written where it says.
    let own =
        run("os.makedirs('a/b')\nopen('a/b/c.txt', 'w').close()\nprint(os.path.exists(temp_output_dir + 'a/b/c.txt'))");
    assert_eq!((own.text.trim(), own.repairs), ("True", Vec::new()));
}

#[test]
fn printed_paths_are_found_whatever_stands_in_them() {
    let save = "def save(name):\n    path = os.path.join(temp_output_dir, name)\n    os.makedirs(os.path.dirname(path), exist_ok=True)\n    \
                Image.open(image_path).save(path)\n    return path\n";
    let table = [
        ("print(save('my crop.png'))", 1),
        ("print('Saved to: ' + save('my crop (final) [1].png') + '.')", 1),
        ("print('two', save('a.png'), 'and', save('b c.png'))", 2),
        ("print([save('it is, so.png'), save('d.png')])", 2),
        ("print({'path': save(\"it's.png\")})", 1),
        ("print(save('höhe 高さ 🙂.png'))", 1),
        ("print('file://' + save('e.png'))", 1),
        ("print('file://' + save('f g.png').replace(' ', '%20'))", 1),
        ("save('h.png')\nprint('h.png')", 1),
        ("save('deep/er/i.png')\nprint('deep/er/i.png')", 1),
        ("print('![crop](' + save('j.png') + ')', '`' + save('k.PNG') + '`')", 2),
        ("print('path=' + save('l.png') + ', done')", 1),
        ("print(temp_output_dir + '/' + os.path.basename(save('m.png')))", 1),
        ("save('n.png')\nprint('n.png.txt and n.pngs and an.png')", 0),
        ("processed_path = [save('sub/o p.png'), save('q.png')]", 2),
        ("save('one/r.png')\nsave('two/s.png')", 2),
    ];
    for (code, count) in table {
        let execution = run(&format!("{save}{code}"));
        assert_eq!((execution.status, execution.images.len()), (Status::Ok, count), "{code}: {}", execution.text);
    }
}

#[test]
fn a_megabyte_of_any_text_is_read_in_time() {
    let sandbox = Sandbox::start(SandboxOptions { output_characters: 1 << 20, ..options() }).unwrap();
    let mut session = sandbox.session(InputImage::from_rgb(&picture(), Path::new("a.png")).unwrap());
    session.run("for name in ('x.png', 'x y.png'): Image.open(image_path).save(name)").unwrap();
    let pieces = [
        "x",
        " ",
        "[",
        "\"",
        ".",
        ".png",
        "x.png",
        "x.png ",
        "x.png\\n",
        "\\n",
        "`",
        "<code>",
        "(",
        "é",
        "\\udcff",
        "\\0",
        "/",
        "./",
        "../",
        "a/",
        "=/x.png",
        "(x.png",
        "file://",
        "%20",
        ".p",
        "png",
        "\\t",
        "\\r",
        "'",
        "{}",
        "x y.png",
        "/mnt/data/temp_processed_images/x.png",
        "a b c d e.png",
    ];
    for piece in pieces {
        for code in ["print(text)", "raise ValueError(text)", "processed_path = text", "print(text + '.png')"] {
            let started = Instant::now();
            let execution = session.run(&format!("text = '{piece}' * ((1 << 20) // len('{piece}'))\n{code}")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(3), "{piece:?}, {code}: {:?}", started.elapsed());
            assert!(matches!(execution.status, Status::Ok | Status::Error), "{piece:?}, {code}: {}", execution.text);
        }
    }
    for piece in [
        "x",
        " ",
        "(",
        "[",
        "\"",
        "'",
        "#",
        "\n",
        "\t",
        "x.",
        "x = 1\n",
        " x\n",
        "'a.png'\n",
        "é",
        "-",
        "lambda:",
        "\\",
    ] {
        let started = Instant::now();
        let execution = session.run(&piece.repeat((1 << 20) / piece.len())).unwrap();
        // The interpreter itself may take long over a program of a megabyte; what is ours must not.
        assert!(execution.status != Status::Timeout, "{piece:?}: {:?}", started.elapsed());
    }
}

#[test]
fn names_of_older_libraries_work() {
    let table = [
        (
            "print(np.array([1.5], np.int), np.zeros(1, np.float).dtype, np.ones(1, dtype=np.bool).dtype, np.array(['a'], np.str).dtype.kind)",
            "[1] float64 bool U",
        ),
        (
            "print(np.float_(2), np.int0(3), np.Inf, np.NaN, np.NINF, np.unicode, np.complex, np.object)",
            "2.0 3 inf nan -inf <class 'str'> <class 'complex'> <class 'object'>",
        ),
        (
            "print(np.product([2, 3]), np.cumproduct([2, 3]), np.sometrue([0, 1]), np.alltrue([0, 1]), np.in1d([[1], [2]], [2]))",
            "6 [2 6] True False [False  True]",
        ),
        (
            "print(np.trapz([1, 2, 3]), np.row_stack([[1], [2]]).shape, np.asfarray([1]).dtype, np.msort([2, 1]), np.find_common_type([np.uint8], [np.float32]))",
            "4.0 (2, 1) float64 [1 2] float32",
        ),
        (
            "a = np.array([[1, 5], [2, 3]])\na.itemset(0, 9)\na.itemset(1, 1, 8)\na.itemset((0, 1), 7)\nprint(a.tolist(), a.ptp(), a.ptp(axis=0), a.tostring() == a.tobytes(), a.newbyteorder().dtype.isnative)",
            "[[9, 7], [2, 8]] 7 [7 1] True False",
        ),
        (
            "cv2.namedWindow('a', cv2.WINDOW_NORMAL)\ncv2.imshow('a', np.zeros((5, 5)))\ncv2.setMouseCallback('a', print)\ncv2.createTrackbar('t', 'a', 0, 9, print)\ncv2.resizeWindow('a', 5, 5)\nprint(cv2.waitKey(0), cv2.selectROI(np.zeros((5, 5))), cv2.getWindowProperty('a', 4))\ncv2.destroyWindow('a')\ncv2.destroyAllWindows()",
            "-1 (0, 0, 0, 0) -1.0",
        ),
        (
            "from PIL import ImageDraw, ImageFont\nfont = ImageFont.load_default()\ndraw = ImageDraw.Draw(Image.new('RGB', (99, 99)))\nprint(font.getsize('ab')[0] > 5, draw.textsize('ab')[0] > 5, draw.multiline_textsize('a\\nb', font=font)[1] > 15, ImageFont.load_default(12).getoffset('a')[1] > 0)",
            "True True True True",
        ),
        (
            "print(Image.open(image_path).resize((9, 9), Image.ANTIALIAS).size, int(Image.LINEAR), int(Image.CUBIC))",
            "(9, 9) 2 3",
        ),
        (
            "import sys\nsys.stdout.reconfigure(encoding='utf-8', line_buffering=True)\nprint('a')\nsys.stdout.buffer.write('é\\n'.encode())\nprint(sys.stdout.encoding, sys.stdout.isatty())",
            "a\né\nutf-8 False",
        ),
        ("import io, sys\nsys.stdout = io.TextIOWrapper(sys.stdout.detach(), encoding='utf-8')\nprint('é')", "é"),
        (
            "import io, sys\ntry:\n    sys.stdout.fileno()\nexcept io.UnsupportedOperation as error:\n    print(error)",
            "fileno",
        ),
        (
            "import sys\nprint(repr(sys.stdin.read()))\ntry:\n    input('name? ')\nexcept EOFError as error:\n    print(error)",
            "''\nname? EOF when reading a line",
        ),
        (
            "import logging, warnings\nlogging.warning('careful')\nwarnings.warn('so')",
            "WARNING:root:careful\n<code 1>:3: UserWarning: so",
        ),
    ];
    for (code, expected) in table {
        assert_eq!(text_of(code), expected, "{code}");
    }
    let mut session = session();
    session.run("import logging\nlogging.basicConfig()\nlog = logging.getLogger('a')").unwrap();
    assert_eq!(session.run("log.warning('heard')").unwrap().text.trim(), "WARNING:a:heard");
}

/// Programs that hurt the session itself, or tell of an error in an odd way.
const ODD: &[&str] = &[
    "class E(Exception):\n    def __str__(self): raise ValueError\nraise E",
    "class E(Exception):\n    def __str__(self): return 5\nraise E",
    "class E(Exception):\n    def __str__(self): return 'x' * (1 << 26)\nraise E",
    "class E(Exception):\n    def __str__(self): raise SystemExit(3)\nraise E",
    "class S(str):\n    def __getitem__(self, i): raise ValueError\n    def __format__(self, s): raise ValueError\nclass E(Exception):\n    def __str__(self): return S('a')\nraise E",
    "class E(BaseException): pass\nraise E('base')",
    "raise KeyboardInterrupt",
    "raise GeneratorExit",
    "class X:\n    def __eq__(self, other): raise ValueError\n    def __str__(self): raise ValueError\nraise SystemExit(X())",
    "class E(OSError):\n    errno = property(lambda self: 1 / 0)\n    __cause__ = __context__ = __traceback__ = errno\nraise E('a')",
    "class M(type):\n    __name__ = property(lambda kind: 1 / 0)\nclass E(Exception, metaclass=M): pass\nraise E('a')",
    "class E(Exception):\n    __class__ = property(lambda self: 1 / 0)\n    def __eq__(self, other): raise ValueError\n    __hash__ = None\ntry:\n    raise E('a')\nexcept E as error:\n    raise E('b') from error",
    "e = SyntaxError(5)\ne.filename, e.text, e.lineno = '<code 1>', b'x', 'q'\nraise e",
    "raise ValueError('\\ud800')",
    "print('\\udcff', '\\ud83d', '\\0')",
    "open(b'\\xff\\xfe.png', 'wb').write(open(image_path, 'rb').read())\nprint(os.listdir('.'))",
    "n = os.fsdecode(b'\\xff.png')\nImage.open(image_path).save(n)\nprint(n)",
    "processed_path = os.fsdecode(b'\\xff.png')\nImage.open(image_path).save(processed_path)",
    "Image.open(image_path).save(os.fsdecode(b'\\xff.png'))",
    "os.makedirs(b'\\xff/\\xfe')\nImage.open(image_path).save(os.fsdecode(b'\\xff/\\xfe/a.png'))\nprint(1)",
    "processed_path = '\\ud800.png'",
    "processed_path = 'a\\0.png'\nprint(processed_path)",
    "class P:\n    def __fspath__(self): raise ValueError\nos.PathLike.register(P)\nprocessed_path = P()",
    "for i in range(300): Image.new('L', (9, 9)).save('n' * 200 + f'{i}.png')\nprint(1)",
    "Image.open(image_path).save('a.png')\nos.chmod(temp_output_dir, 0)\nprint('a.png')",
    "Image.open(image_path).save('a.png')\nos.chmod('a.png', 0)\nprint('a.png')",
    "os.umask(0o777)",
    "os.rmdir(temp_output_dir)",
    "os.rename(temp_output_dir, '/mnt/data/other')",
    "os.rmdir(temp_output_dir)\nos.symlink('/', temp_output_dir.rstrip('/'))",
    "os.chdir('/')",
    "os.mkdir('gone')\nos.chdir('gone')\nos.rmdir('../gone')",
    "import sys\nsys.stdout.close()\nsys.stderr.close()\nsys.stdin.close()",
    "import sys\nsys.stdout.buffer.close()",
    "import sys\nsys.stdout = None",
    "import sys\nclass S:\n    def write(self, text): raise ValueError\n    flush = write\nsys.stdout = sys.stderr = S()",
    "import sys\ndel sys.stdout, sys.stderr, sys.stdin",
    "del __builtins__",
    "__builtins__ = None",
    "import builtins\nall = vars(builtins)\nfor name in list(all): del all[name]",
    "import builtins\nbuiltins.len = builtins.isinstance = builtins.sorted = builtins.open = builtins.str = None",
    "import sys\nsys.modules.clear()",
    "os.stat = os.path.join = os.scandir = os.getcwd = os.path.exists = None\ndel os.path",
    "json.dumps = json.JSONEncoder.encode = re.compile = None",
    "Image.open = Image.Image.crop = None",
    "globals().clear()",
    "import sys\nsys.setrecursionlimit(60)",
    "def f(): f()\nf()",
    "import sys\ndef t(*a): raise ValueError\nsys.settrace(t)\nsys.setprofile(t)",
    "import signal\ndef h(*a): raise ValueError\nsignal.signal(signal.SIGALRM, h)\nsignal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)\nwhile True: pass",
    "import warnings\nwarnings.simplefilter('error')",
    "x = '\0'",
];

#[test]
fn odd_errors_names_and_damages_are_observations_and_the_next_run_works() {
    for code in ODD {
        let mut session = session();
        session.run("kept = 5").unwrap();
        let execution = session.run(code).unwrap();
        assert!(execution.status != Status::Timeout, "{code}: {}", execution.text);
        assert!(!execution.text.contains("interpreter"), "{code}: {}", execution.text);
        let kept = if code.contains("clear()") { "5" } else { "kept" };
        let next = session
            .run(&format!("path = temp_output_dir + 'next.png'\nImage.open(image_path).save(path)\nprint(path)\nprint(len(os.listdir(temp_output_dir)) > 0, {kept})"))
            .unwrap();
        assert_eq!((next.status, next.text.trim(), sizes(&next)), (Status::Ok, "True 5", vec![(640, 480)]), "{code}");
        assert!(!next.variables_lost, "{code}");
    }
}

/// A `python3` that lacks everything and makes environments whose Python is a script: it notes what pip is asked for, and says that it is
/// `real`.
fn write_false_python(folder: &Path, real: &Interpreter) {
    let found = serde_json::json!({"path": real.path, "versions": real.versions});
    let inner = format!(
        "#!/bin/sh\ncase \"$2\" in\npip) for a in \"$@\"; do echo \"$a\" >> \"{0}/pip.log\"; done; [ ! -e \"{0}/offline\" ] || {{ echo no network >&2; exit 1; }} ;;\n\
         *) case \"$0\" in */python-*) [ ! -e \"{0}/breaks\" ] || [ -e \"$0.works\" ] || exit 1 ;; esac; echo '{found}' ;;\nesac\n",
        folder.display()
    );
    fs::write(folder.join("inner"), inner).unwrap();
    let outer = format!(
        "#!/bin/sh\nif [ \"$2\" = venv ]; then mkdir -p \"$3/bin\" && cp \"{0}/inner\" \"$3/bin/python\"; else echo '{{\"lacks\": \"numpy\"}}'; fi\n",
        folder.display()
    );
    fs::write(folder.join("python3"), outer).unwrap();
    for name in ["inner", "python3"] {
        fs::set_permissions(folder.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn the_managed_python_has_pinned_packages_and_is_made_anew_for_other_pins() {
    let folder = tempfile::tempdir().unwrap();
    let real = ordinary().interpreter();
    write_false_python(folder.path(), real);
    let doctor = || {
        let output = Command::new(env!("CARGO_BIN_EXE_thyme-engine"))
            .arg("doctor")
            .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
            .env("XDG_CACHE_HOME", folder.path().join("cache"))
            .env_remove("THYME_PYTHON")
            .output()
            .unwrap();
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let installs = || fs::read_to_string(folder.path().join("pip.log")).unwrap().matches("install\n").count();

    let (said, warned) = doctor();
    assert!(said.contains(&real.versions.to_string()), "{said}{warned}");
    let asked = fs::read_to_string(folder.path().join("pip.log")).unwrap();
    for package in ["numpy", "opencv-python-headless", "pillow"] {
        let lines: Vec<&str> = asked.lines().filter(|line| line.starts_with(package)).collect();
        assert!(!lines.is_empty() && lines.iter().all(|line| line.contains("==")), "{package}: {asked}");
    }
    doctor();
    assert_eq!(installs(), 1);

    let cache = folder.path().join("cache/thyme-engine");
    let environments = || -> Vec<_> {
        let entries = fs::read_dir(&cache).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.join("bin/python").exists()).collect()
    };
    let other_pins = |home: &Path| fs::write(home.join("requirements.txt"), "numpy==1.0").unwrap();
    let [first] = &environments()[..] else { panic!("{:?}", environments()) };
    other_pins(first);
    fs::write(first.join("module"), "in use").unwrap();
    let (_, warned) = doctor();
    assert!(installs() == 2 && warned.contains("does not pin"), "{warned}");
    assert_eq!(environments().len(), 2);
    assert!(first.join("module").exists(), "another process may run from it");
    assert_eq!((doctor().1.as_str(), installs()), ("", 2));

    environments().iter().for_each(|home| other_pins(home));
    fs::write(folder.path().join("offline"), "").unwrap();
    let (said, warned) = doctor();
    assert!(
        !said.contains("does not start") && warned.contains("no network") && warned.contains("going on"),
        "{said}{warned}"
    );
    // An environment that is made, but does not work where it lies, is not taken for one that does.
    fs::remove_file(folder.path().join("offline")).unwrap();
    fs::remove_file(cache.join("python.tried")).unwrap();
    fs::write(folder.path().join("breaks"), "").unwrap();
    environments().iter().for_each(|home| fs::write(home.join("bin/python.works"), "").unwrap());
    let (said, warned) = doctor();
    assert!(!said.contains("does not start") && warned.contains("going on"), "{said}{warned}");
    assert_eq!(installs(), 4);
    assert_eq!((doctor().1.as_str(), installs()), ("", 4), "it is not tried again at every start");
}
