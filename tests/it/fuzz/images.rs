//! Pictures as data URLs: files of the corpus with their bytes or PNG chunks changed, and new ones of every size and kind.

use std::io::Cursor;

use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE};
use image::{DynamicImage, ImageFormat};
use serde_json::{Value, json};

use super::mutate::{self, Corpus, NUMBERS};
use super::wire::{Request, post};
use crate::support::small_policy::Random;

const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// A request with a picture or a few.
pub fn make(random: &mut Random, corpus: &Corpus) -> Request {
    let pictures = if random.one_in(6) { 1 + random.below(4) } else { 1 };
    let mut content: Vec<Value> = (0..pictures).map(|_| part(random, corpus)).collect();
    content.push(json!({"type": "text", "text": "What is it?"}));
    let mut body = json!({"messages": [{"role": "user", "content": content}], "max_tokens": 1 + random.below(2)});
    if random.one_in(8) {
        body["mm_processor_kwargs"] = json!({"min_pixels": size(random), "max_pixels": size(random)});
    }
    post(random.pick(&["/v1/chat/completions", "/v1/chat/completions", "/tokenize"]), body.to_string().as_bytes())
}

fn size(random: &mut Random) -> Value {
    if random.one_in(3) {
        serde_json::from_str(random.pick(&NUMBERS)).unwrap_or(Value::Null)
    } else {
        json!(3136 + random.below(9000))
    }
}

fn part(random: &mut Random, corpus: &Corpus) -> Value {
    let (name, file) = random.pick(&corpus.entries);
    let file = match random.below(5) {
        0 => new(random),
        1 => file,
        _ => {
            let other = corpus.pick(random, "");
            changed(random, file, other)
        }
    };
    let url = address(random, &name, &file);
    match random.below(10) {
        0 => {
            json!({"type": "image_url", "image_url": {"url": url, "min_pixels": size(random), "max_pixels": size(random)}})
        }
        1 => {
            json!({"type": "image", "image": url, "resized_height": 28 * (1 + random.below(8)), "resized_width": size(random)})
        }
        2 => json!({"type": "input_image", "image_url": url, "detail": "low"}),
        _ => json!({"type": "image_url", "image_url": {"url": url}}),
    }
}

/// A data URL, mostly a plain one.
fn address(random: &mut Random, name: &str, file: &[u8]) -> String {
    let kind = name.rsplit('.').next().unwrap_or("png");
    let plain = BASE64_STANDARD.encode(file);
    match random.below(16) {
        0 => format!("data:;base64,{plain}"),
        1 => format!("DATA:image/{kind};BASE64,{plain}"),
        2 => format!("data:image/{kind};base64,{}", BASE64_URL_SAFE.encode(file)),
        3 => {
            let lines: Vec<&str> = plain.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
            format!("data:image/{kind};base64,{}", lines.join("\r\n"))
        }
        4 => {
            let text = mutate::text(
                random,
                &format!("data:image/{kind};base64,{plain}"),
                "data:,",
                &[",", ";", "=", "%", "\n"],
                1,
            );
            if random.one_in(2) { text } else { format!("data:image/{kind};charset=x;base64,{plain}") }
        }
        _ => format!("data:image/{kind};base64,{plain}"),
    }
}

/// A file with a few changes.
fn changed(random: &mut Random, file: Vec<u8>, other: &[u8]) -> Vec<u8> {
    match chunks(&file) {
        Some(chunks) if !random.one_in(4) => changed_png(random, chunks, chunks_or_none(other)),
        // Behind the header, where a format still has its name.
        _ => {
            let from = if random.one_in(3) { 0 } else { random.pick(&[8, 30, 100]) };
            mutate::bytes(random, file, other, from, 4)
        }
    }
}

/// A chunk's name and data.
type Chunk = ([u8; 4], Vec<u8>);

/// The chunks of a PNG.
fn chunks(file: &[u8]) -> Option<Vec<Chunk>> {
    let mut rest = file.strip_prefix(PNG_MAGIC)?;
    let mut chunks = Vec::new();
    while rest.len() >= 12 {
        let length = u32::from_be_bytes(rest[..4].try_into().ok()?) as usize;
        chunks.push((rest[4..8].try_into().ok()?, rest.get(8..8 + length)?.to_vec()));
        rest = rest.get(12 + length..)?;
    }
    Some(chunks)
}

fn chunks_or_none(file: &[u8]) -> Vec<Chunk> {
    chunks(file).unwrap_or_default()
}

/// A PNG whose chunks were changed, each with the right checksum, mostly.
fn changed_png(random: &mut Random, mut chunks: Vec<Chunk>, others: Vec<Chunk>) -> Vec<u8> {
    const NAMES: [&[u8; 4]; 12] =
        [b"IDAT", b"PLTE", b"tRNS", b"gAMA", b"iCCP", b"eXIf", b"zTXt", b"tEXt", b"acTL", b"fdAT", b"IEND", b"abCd"];
    for _ in 0..1 + random.below(3) {
        let at = random.below(chunks.len());
        match random.below(9) {
            0..3 => {
                let data = std::mem::take(&mut chunks[at].1);
                chunks[at].1 = mutate::bytes(random, data, b"\0\0\0\0abcdef", 0, 2);
            }
            // A size of its own in the header.
            3 if chunks[0].1.len() == 13 => {
                let side = random.pick(&[0, 1, 2, 16, 100, 3000, 16_384, 16_385, 60_000, u32::MAX]);
                let from = 4 * random.below(2);
                chunks[0].1[from..from + 4].copy_from_slice(&side.to_be_bytes());
            }
            // Depth, colour type, compression, filter, interlace.
            4 if chunks[0].1.len() == 13 => {
                chunks[0].1[8 + random.below(5)] = random.pick(&[0, 1, 2, 3, 4, 6, 8, 16, 255])
            }
            5 => {
                let data = (0..random.below(40)).map(|_| random.next() as u8).collect();
                chunks.insert(at, (*random.pick(&NAMES), data));
            }
            6 if !others.is_empty() => chunks.insert(at, random.pick(&others)),
            7 if chunks.len() > 1 => drop(chunks.remove(at)),
            _ => {
                let other = random.below(chunks.len());
                chunks.swap(at, other);
            }
        }
    }
    let mut file = PNG_MAGIC.to_vec();
    for (name, data) in chunks {
        let mut sum = flate2::Crc::new();
        sum.update(&name);
        sum.update(&data);
        let sum = if random.one_in(30) { 0 } else { sum.sum() };
        file.extend([&(data.len() as u32).to_be_bytes()[..], &name, &data, &sum.to_be_bytes()].concat());
    }
    file
}

/// A new picture.
fn new(random: &mut Random) -> Vec<u8> {
    let side = |random: &mut Random| match random.below(8) {
        0 => random.pick(&[1, 2, 200, 201]),
        1 => 1 + random.below(900) as u32,
        _ => 1 + random.below(80) as u32,
    };
    let (width, height) = (side(random), side(random));
    let seed = random.next() as u32;
    let level = move |x: u32, y: u32| (x.wrapping_mul(seed) ^ y.wrapping_mul(seed >> 7)) as u8;
    let rgb = DynamicImage::ImageRgb8(image::RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([level(x, y), level(y, x), 9])
    }));
    let format =
        random.pick(&[ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Bmp, ImageFormat::Gif, ImageFormat::WebP]);
    let picture = match (format, random.below(6)) {
        (ImageFormat::Png, 0) => rgb.to_luma16().into(),
        (ImageFormat::Png, 1) => rgb.to_rgba16().into(),
        (ImageFormat::Png, 2) => rgb.to_luma_alpha8().into(),
        (ImageFormat::Jpeg, 0) => rgb.to_luma8().into(),
        (ImageFormat::Gif | ImageFormat::Bmp | ImageFormat::WebP, 0) => rgb.to_rgba8().into(),
        _ => rgb,
    };
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, format).unwrap();
    file.into_inner()
}
