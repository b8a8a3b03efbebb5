//! What a launch knows of a kernel is what the kernel's source says. `kernels/launch.rs` reads it when the crate is built; here it reads
//! sources that were changed.

use std::sync::Arc;

use thyme_engine::cuda::device::simt::{Simt, SimtOptions};
use thyme_engine::cuda::device::{Argument, Device, Launch};
use thyme_engine::cuda::kernels;

use super::{Random, downloaded, uploaded};

#[path = "../../../kernels/launch.rs"]
mod launch;

/// The kernels' sources, with `from` replaced in one of them.
fn changed(unit: &str, from: &str, to: &str) -> Vec<(String, String)> {
    let change = |(path, text): &(&str, &str)| {
        assert!(*path != unit || text.contains(from), "{unit} has no {from}");
        ((*path).to_owned(), if *path == unit { text.replace(from, to) } else { (*text).to_owned() })
    };
    kernels::SOURCES.iter().map(change).collect()
}

/// The number behind `name` in what was written for launches.
fn number(code: &str, name: &str) -> usize {
    let (_, rest) = code.split_once(name).unwrap_or_else(|| panic!("{name} is not in {code}"));
    rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// `qk_norm_forward` on a token of 13 heads of 24, launched as `sources` say it has to be; and the blocks and threads of that launch.
fn normalised(sources: &[(String, String)]) -> (Vec<u16>, [usize; 2]) {
    const HEADS: usize = 9;
    const KV_HEADS: usize = 4;
    const DIM: usize = 24;
    let code = launch::launch_code(sources).unwrap();
    let of_unit = code.split_once("pub mod qk_norm {").unwrap().1;
    let blocks = (HEADS + KV_HEADS).div_ceil(number(of_unit, "pub const HEADS_PER_BLOCK: usize = "));
    let threads = number(&code, "(\"qk_norm_forward\", ");
    let units = sources.iter().filter(|(path, _)| path == "qk_norm.cu").cloned().collect();
    let device: Arc<dyn Device> = Arc::new(Simt::new(SimtOptions { units, ..SimtOptions::checked() }).unwrap());
    let mut random = Random::new(70);
    let mut values = |count: usize| -> Vec<u16> {
        random.normals(count).into_iter().map(|x| half::bf16::from_f64(x).to_bits()).collect()
    };
    let qkv = uploaded(&device, &values((HEADS + 2 * KV_HEADS) * DIM));
    let (wq, wk) = (uploaded(&device, &values(DIM)), uploaded(&device, &values(DIM)));
    let arguments = [
        Argument::Pointer("qkv", qkv.span()),
        Argument::Pointer("wq", wq.span()),
        Argument::Pointer("wk", wk.span()),
        Argument::Null,
        Argument::Null,
        Argument::F32(1e-5),
        Argument::I32(HEADS as i32),
        Argument::I32(KV_HEADS as i32),
        Argument::I32(DIM as i32),
    ];
    let (grid, block) = ([1, blocks as u32, 1], [threads as u32, 1, 1]);
    device.launch(&Launch { kernel: "qk_norm_forward", grid, block, shared_bytes: 0, arguments: &arguments }).unwrap();
    (downloaded(&device, &qkv), [blocks, threads])
}

#[test]
fn a_constant_changed_in_its_source_alone_changes_the_launch() {
    let (expected, as_it_is) = normalised(&changed("qk_norm.cu", "", ""));
    assert_eq!(as_it_is, [1, 128]);
    for (warps, launch) in [(1, [4, 32]), (2, [2, 64])] {
        let sources = changed("qk_norm.cu", "constexpr int WARPS = 4;", &format!("constexpr int WARPS = {warps};"));
        assert_eq!(normalised(&sources), (expected.clone(), launch));
    }
}

#[test]
fn a_function_of_a_size_and_a_struct_are_written_as_rust() {
    let text = "#include \"common/reduce.cuh\"\n\
                constexpr int ROWS = 2 * (WARP - 30) << 1, BYTES = ROWS * sizeof(float);  // two\n\
                constexpr int twice(int n) { return 2 * n; }\n\
                constexpr int bytes(int dim, bool joins) { return twice(dim + ROWS) + (joins ? twice(4) : 0); }\n\
                struct Pair {\n    float x, y[3];  // a point\n    int64_t n;\n\n    __device__ float sum() const { return x; }\n};\n\
                static_assert(sizeof(Pair) == 24);\n\
                extern \"C\" __global__ void __launch_bounds__(ROWS * WARP, 1)\n    pairs(Pair pair) {}\n";
    let mut sources = changed("rope.cu", "", "");
    sources.push(("pairs.cu".to_owned(), text.to_owned()));
    let code = launch::launch_code(&sources).unwrap();
    for line in [
        "pub const ROWS: usize = 8;",
        "pub const BYTES: usize = 32;",
        "pub const fn twice(n: usize) -> usize { (2 * n) }",
        "pub const fn bytes(dim: usize, joins: bool) -> usize { ((2 * (dim + 8)) + (if joins { 8 } else { 0 })) }",
        "pub struct Pair { pub x: f32, pub y: [f32; 3], pub n: i64, }",
        "const _: () = assert!(size_of::<Pair>() == 24);",
    ] {
        assert!(code.contains(line), "{line} is not in {code}");
    }
    assert!(code.contains("(\"pairs\", 256)") && code.contains("(\"Pair\", 24)"), "{code}");
}

#[test]
fn what_cannot_be_read_is_named_with_its_line_and_what_to_do() {
    for (text, expected) in [
        ("constexpr int A = B;", "`B` is not a whole number"),
        ("constexpr int A = 1 - 2;", "1 - 2 is no number of a launch"),
        ("constexpr int A[] = {1};", "`[` stands where `=` was expected"),
        ("constexpr int f(float x) { return 1; }", "`float x`, which is neither an int nor a bool"),
        ("static_assert(sizeof(Absent) == 4);", "there is no struct Absent"),
        ("static_assert(sizeof(Shape) == sizeof(double));", "sizeof(double) is not known"),
        ("extern \"C\" __global__ void bare(int x) {}", "the kernel bare has no __launch_bounds__"),
    ] {
        let sources = [("new.cu".to_owned(), format!("// A kernel.\n{text}\n"))];
        let fault = launch::launch_code(&sources).unwrap_err();
        assert!(fault.starts_with("kernels/new.cu:2: ") && fault.contains(expected), "{fault}");
        assert!(fault.ends_with("kernels/launch.rs says which forms a launch can read"), "{fault}");
    }
}
