"""Writes tests/golden/prompt/pictures.json: odd and damaged pictures, and what Pillow makes of them.

Each picture stands as base64 beside Pillow's verdict. Where Pillow opens it: the size, the CRC-32 of its RGB bytes if the format's pixels
are exact, else the means of 4x4 blocks, or nothing where libjpeg had to make pixels up. Pixels are those of transformers' `load_image` (EXIF orientation applied) and of qwen-vl-utils'
`to_rgb` (RGBA onto white, everything else by `convert`). Run: python tools/golden/prompt_pictures.py
"""

import base64
import io
import json
import pathlib
import random
import struct
import warnings
import zlib

import numpy
import PIL
from PIL import Image, ImageOps

PATH = pathlib.Path(__file__).parents[2] / "tests/golden/prompt/pictures.json"
WIDTH, HEIGHT = 15, 11
MAGIC = b"\x89PNG\r\n\x1a\n"
BAD = b"\x12\x34\x56\x78"


def levels(channels, seed=0):
    """Waves with some noise: neither flat nor incompressible."""
    rows, columns, channel = numpy.indices((HEIGHT, WIDTH, channels))
    noise = numpy.random.default_rng(seed).integers(0, 24, rows.shape)
    return ((columns * 7 + rows * 9 + channel * 60 + noise) % 256).astype(numpy.uint8)


def saved(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def rgb(seed=0):
    return Image.fromarray(levels(3, seed))


def chunks_of(png):
    """Triples of type, data, checksum."""
    at, chunks = 8, []
    while at < len(png):
        length = struct.unpack(">I", png[at:at + 4])[0]
        chunks.append((png[at + 4:at + 8], png[at + 8:at + 8 + length], None))
        at += 12 + length
    return chunks


def png_of(chunks):
    checksum = lambda kind, data: struct.pack(">I", zlib.crc32(kind + data))
    return MAGIC + b"".join(struct.pack(">I", len(data)) + kind + data + (crc or checksum(kind, data)) for kind, data, crc in chunks)


def raw_png(bits, colour, row_bytes, interlace=0, extra=(), seed=1, size=(WIDTH, HEIGHT)):
    """A PNG whose rows are noise, each with another filter."""
    data = numpy.random.default_rng(seed).integers(0, 256, (size[1], row_bytes), dtype=numpy.uint8)
    rows = b"".join(bytes([number % 5]) + row.tobytes() for number, row in enumerate(data))
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, interlace)
    return png_of([(b"IHDR", header, None), *extra, (b"IDAT", zlib.compress(rows), None), (b"IEND", b"", None)])


def interlaced_png(bits, colour, channels, extra=(), size=(WIDTH, HEIGHT)):
    draw, rows = random.Random(4), bytearray()
    for first_column, first_row, column_step, row_step in [
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ]:
        columns, lines = -(-(size[0] - first_column) // column_step), -(-(size[1] - first_row) // row_step)
        for line in range(lines if columns > 0 else 0):
            rows += bytes([line % 5]) + draw.randbytes((columns * bits * channels + 7) // 8)
    header = struct.pack(">IIBBBBB", *size, bits, colour, 0, 0, 1)
    return png_of([(b"IHDR", header, None), *extra, (b"IDAT", zlib.compress(bytes(rows)), None), (b"IEND", b"", None)])


def palette(entries):
    return (b"PLTE", bytes(random.Random(entries).randbytes(3 * entries)), None)


def pngs():
    """Damaged ones, and forms of pixels."""
    good = saved(rgb(), "PNG")
    header, *_, end = chunks_of(good)
    data = b"".join(content for kind, content, _ in chunks_of(good) if kind == b"IDAT")
    rows = zlib.decompress(data)
    idat = lambda content, crc=None: (b"IDAT", content, crc)
    whole = idat(data)
    text = (b"tEXt", b"Title\0x", None)
    pieces = [idat(data[start:start + 100]) for start in range(0, len(data), 100)]
    changed = lambda at, value: (b"IHDR", header[1][:at] + bytes([value]) + header[1][at + 1:], None)
    yield "whole", good
    yield "no IEND", png_of([header, whole])
    yield "IDAT with a bad checksum", png_of([header, idat(data, BAD), end])
    yield "IHDR with a bad checksum", png_of([header[:2] + (BAD,), whole, end])
    yield "IEND with a bad checksum", png_of([header, whole, (b"IEND", b"", BAD)])
    yield "tEXt with a bad checksum before the pixels", png_of([header, text[:2] + (BAD,), whole, end])
    yield "tEXt with a bad checksum behind the pixels", png_of([header, whole, text[:2] + (BAD,), end])
    yield "private chunk with a bad checksum before the pixels", png_of([header, (b"abCd", b"xx", BAD), whole, end])
    yield "PLTE with a bad checksum", png_of([header, palette(4)[:2] + (BAD,), whole, end])
    yield "pixels cut off within the file", good[:len(good) // 2]
    yield "pixels cut off within a whole file", png_of([header, idat(data[:-100]), end])
    yield "pixels that end one row early", png_of([header, idat(zlib.compress(rows[:-WIDTH * 3 - 1])), end])
    yield "pixels that end three rows early", png_of([header, idat(zlib.compress(rows[:-3 * WIDTH * 3 - 3])), end])
    yield "no row of pixels", png_of([header, idat(zlib.compress(b"")), end])
    yield "pixels that end one byte early", png_of([header, idat(zlib.compress(rows[:-1])), end])
    yield "more rows than there are", png_of([header, idat(zlib.compress(rows + rows[:100])), end])
    yield "no checksum of the pixels", png_of([header, idat(data[:-4]), end])
    yield "half a checksum of the pixels", png_of([header, idat(data[:-2]), end])
    yield "a bad checksum of the pixels", png_of([header, idat(data[:-4] + BAD), end])
    yield "a damaged stream of pixels", png_of([header, idat(data[:90] + b"\xff\xff\xff\xff" + data[94:]), end])
    yield "an unknown filter", png_of([header, idat(zlib.compress(b"\x09" + rows[1:])), end])
    yield "stored pixels", png_of([header, idat(zlib.compress(rows, 0)), end])
    yield "many pieces", png_of([header, *pieces, end])
    yield "many pieces with bad checksums", png_of([header, *[piece[:2] + (BAD,) for piece in pieces], end])
    yield "an empty piece first", png_of([header, idat(b""), whole, end])
    yield "pieces with text between them", png_of([header, pieces[0], text, *pieces[1:], end])
    yield "cut off in the last checksum of the pixels", png_of([header, whole])[:-2]
    yield "cut off before the last checksum of the pixels", png_of([header, whole])[:-4]
    yield "cut off in IEND", good[:-6]
    yield "cut off in text behind the pixels", png_of([header, whole, (b"tEXt", b"a\0" + b"b" * 60, None)])[:-30]
    yield "text behind the pixels", png_of([header, whole, text, end])
    yield "bytes behind the end", good + b"hello world"
    yield "bytes before the start", b"xx" + good
    yield "nonsense behind the pixels", png_of([header, whole]) + b"\0\0\1\0\xff\xfe\xfd\xfc"
    yield "an unknown critical chunk", png_of([header, (b"ABCD", b"xx", None), whole, end])
    yield "a chunk of no name", png_of([header, (b"a\xffcd", b"xx", None), whole, end])
    yield "another stream method", png_of([header, idat(b"\x79\x9c" + data[2:]), end])
    yield "another compression method", png_of([changed(10, 1), whole, end])
    yield "another filter method", png_of([changed(11, 1), whole, end])
    yield "another interlacing", png_of([changed(12, 2), whole, end])
    yield "a depth that is none", png_of([changed(8, 3), whole, end])
    yield "a colour type that is none", png_of([changed(9, 5), whole, end])
    yield "no pixels", png_of([header, end])
    yield "IEND before the pixels", png_of([header, end, whole])
    yield "a short header", png_of([(b"IHDR", header[1][:10], None), whole, end])
    yield "a long header", png_of([(b"IHDR", header[1] + b"\0", None), whole, end])
    yield "a width of nothing", png_of([(b"IHDR", b"\0\0\0\0" + header[1][4:], None), whole, end])
    yield "two headers", png_of([header, header, whole, end])
    yield "the magic number alone", MAGIC
    yield "a colour profile that is none", png_of([header, (b"iCCP", b"x\0\0garbage", None), whole, end])
    yield "a colour profile of no method", png_of([header, (b"iCCP", b"x\0\1garbage", None), whole, end])
    yield "compressed text that is none", png_of([header, (b"zTXt", b"x\0\0garbage", None), whole, end])
    yield "short gAMA", png_of([header, (b"gAMA", b"\0", None), whole, end])
    yield "short pHYs", png_of([header, (b"pHYs", b"\0\0", None), whole, end])
    yield "APNG", saved(rgb(), "PNG", save_all=True, append_images=[rgb(1), rgb(2)], duration=50)
    yield "APNG whose first picture is none of its frames", saved(rgb(), "PNG", save_all=True, default_image=True, append_images=[rgb(1), rgb(2)])
    yield "APNG cut off in its second frame", saved(rgb(), "PNG", save_all=True, append_images=[rgb(1), rgb(2)])[:-500]
    yield "orientation", saved(rgb(), "PNG", exif=orientation(6))
    for bits in (1, 2, 4, 8, 16):
        yield f"grey {bits}", raw_png(bits, 0, (WIDTH * bits + 7) // 8)
        yield f"grey {bits} interlaced", interlaced_png(bits, 0, 1)
        if bits < 16:
            yield f"palette {bits}", raw_png(bits, 3, (WIDTH * bits + 7) // 8, extra=[palette(1 << bits)])
            yield f"palette {bits} interlaced", interlaced_png(bits, 3, 1, extra=[palette(1 << bits)])
    for bits in (8, 16):
        for colour, channels, name in [(2, 3, "RGB"), (4, 2, "grey and alpha"), (6, 4, "RGB and alpha")]:
            yield f"{name} {bits}", raw_png(bits, colour, WIDTH * channels * bits // 8)
            yield f"{name} {bits} interlaced", interlaced_png(bits, colour, channels)
    for size in [(1, 1), (1, 9), (9, 1), (3, 2)]:
        yield f"{size[0]}x{size[1]} interlaced", interlaced_png(8, 2, 3, size=size)
        yield f"{size[0]}x{size[1]}", raw_png(8, 2, size[0] * 3, size=size)
    yield "a short palette", raw_png(8, 3, WIDTH, extra=[palette(40)])
    yield "no palette", raw_png(8, 3, WIDTH)
    yield "no palette 4", raw_png(4, 3, (WIDTH + 1) // 2)
    yield "a palette of grey", raw_png(8, 0, WIDTH, extra=[palette(16)])
    yield "a palette of half an entry", raw_png(8, 3, WIDTH, extra=[(b"PLTE", bytes(range(100, 131)), None)])
    yield "a palette with transparency", raw_png(8, 3, WIDTH, extra=[palette(256), (b"tRNS", bytes(range(0, 250, 2)), None)])
    yield "a palette with one transparent colour", raw_png(4, 3, (WIDTH + 1) // 2, extra=[palette(16), (b"tRNS", b"\xff\0", None)])
    yield "grey with a transparent level", raw_png(8, 0, WIDTH, extra=[(b"tRNS", b"\0\x07", None)])
    yield "RGB with a transparent colour", raw_png(8, 2, WIDTH * 3, extra=[(b"tRNS", b"\0\1\0\2\0\3", None)])
    yield "gamma", png_of([header, (b"gAMA", struct.pack(">I", 100000), None), whole, end])


def orientation(value):
    exif = Image.Exif()
    exif[0x0112] = value
    return exif.tobytes()


def jpegs():
    good = saved(rgb(), "JPEG", quality=90)
    scan = good.index(b"\xff\xda")
    tables = good.index(b"\xff\xdb")
    progressive = saved(rgb(), "JPEG", quality=90, progressive=True)
    yield "whole", good
    yield "progressive", progressive
    yield "4:2:0", saved(rgb(), "JPEG", subsampling=2)
    yield "4:2:2", saved(rgb(), "JPEG", subsampling=1)
    yield "grey", saved(rgb().convert("L"), "JPEG")
    yield "CMYK", saved(rgb().convert("CMYK"), "JPEG", quality=95)
    yield "CMYK with black", saved(Image.fromarray(levels(4), "CMYK"), "JPEG", quality=95)
    for value in range(1, 10):
        yield f"orientation {value}", saved(rgb(), "JPEG", quality=90, exif=orientation(value))
    yield "restart markers", saved(rgb(), "JPEG", quality=90, restart_marker_blocks=2)
    yield "a colour profile", saved(rgb(), "JPEG", quality=90, icc_profile=b"x" * 200)
    yield "a comment", saved(rgb(), "JPEG", quality=90, comment=b"hello")
    yield "no end", good[:-2]
    yield "half an end", good[:-1]
    yield "cut off late", good[:-20]
    yield "cut off in the middle", good[:scan + (len(good) - scan) // 2]
    yield "cut off at the scan", good[:scan + 4]
    yield "cut off in the tables", good[:tables + 30]
    yield "progressive, no end", progressive[:-2]
    yield "progressive, cut off late", progressive[:-30]
    yield "progressive, cut off in the middle", progressive[:len(progressive) // 2 + 200]
    yield "bytes behind the end", good + b"hello world"
    yield "zeros in place of the last bytes", good[:-40] + bytes(40)
    yield "an end in the middle", good[:-60] + b"\xff\xd9"
    yield "two pictures", good + saved(rgb(1), "JPEG")
    yield "bytes before the start", b"xx" + good
    yield "the first marker alone", good[:2]
    yield "an unknown marker", good[:2] + b"\xff\xfb\0\4ab" + good[2:]
    yield "fill bytes before a marker", good[:2] + b"\xff\xff\xff" + good[2:]
    yield "nonsense between markers", good[:2] + b"abc" + good[2:]
    yield "no quantisation tables", good[:tables] + good[good.index(b"\xff\xc0"):]
    yield "no Huffman tables", good[:good.index(b"\xff\xc4")] + good[scan:]
    yield "1x1", saved(rgb().crop((0, 0, 1, 1)), "JPEG")
    yield "1x9", saved(rgb().crop((0, 0, 1, 9)), "JPEG")


def others():
    frames = dict(save_all=True, append_images=[rgb(1), rgb(2)], duration=50)
    transparent = Image.fromarray(levels(4))
    transparent.putalpha(Image.fromarray(((levels(1)[:, :, 0] > 128) * 255).astype(numpy.uint8)))
    gif = saved(rgb(), "GIF")
    yield "GIF", gif, True
    yield "GIF interlaced", saved(rgb(), "GIF", interlace=1), True
    yield "GIF not interlaced", saved(rgb(), "GIF", interlace=0), True
    yield "GIF of grey", saved(rgb().convert("L"), "GIF"), True
    yield "GIF animated", saved(rgb(), "GIF", **frames), True
    yield "GIF with transparency", saved(transparent, "GIF"), True
    yield "GIF with bytes behind its end", gif + b"hello", True
    yield "GIF without its end", gif[:-1], True
    yield "GIF cut off in its last bytes", gif[:-4], True
    yield "GIF cut off in the middle", gif[:len(gif) // 2], True
    yield "GIF cut off in its palette", gif[:40], True
    at = gif.rindex(b"\x2c", 0, 900) if b"\x2c" in gif[:900] else 0
    small = bytearray(gif)
    small[6:10] = struct.pack("<HH", WIDTH + 6, HEIGHT + 4)
    small[at + 1:at + 5] = struct.pack("<HH", 3, 2)
    yield "GIF whose frame is smaller than its screen", bytes(small), True
    yield "WebP lossless", saved(rgb(), "WEBP", lossless=True), True
    yield "WebP lossless with alpha", saved(transparent, "WEBP", lossless=True, exact=True), True
    yield "WebP lossy", saved(rgb(), "WEBP", quality=90), False
    yield "WebP lossy with alpha", saved(transparent, "WEBP", quality=90), False
    yield "WebP animated", saved(rgb(), "WEBP", lossless=True, **frames), True
    yield "WebP with orientation", saved(rgb(), "WEBP", lossless=True, exif=orientation(8)), True
    webp = saved(rgb(), "WEBP", lossless=True)
    yield "WebP cut off", webp[:len(webp) * 3 // 4], True
    yield "WebP with bytes behind its end", webp + b"hello", True
    for mode in ["1", "L", "P", "RGB"]:
        bmp = saved(rgb().convert(mode), "BMP")
        yield f"BMP {mode}", bmp, True
        yield f"BMP {mode} cut off", bmp[:-40], True
    yield "BMP RGBA", saved(Image.fromarray(levels(4)), "BMP"), True
    yield "BMP with bytes behind its end", saved(rgb(), "BMP") + b"hello", True
    upside = bytearray(saved(rgb(), "BMP"))
    upside[22:26] = struct.pack("<i", -HEIGHT)
    yield "BMP from the top", bytes(upside), True
    yield "TIFF", saved(rgb(), "TIFF"), True
    yield "text", b"no picture at all", True


def random_damage():
    """Bytes changed and ends cut off, by seed."""
    draw = random.Random(11)
    bases = [
        ("PNG", saved(rgb(), "PNG"), True),
        ("PNG palette", saved(rgb().convert("P", palette=Image.Palette.ADAPTIVE, colors=20), "PNG"), True),
        ("JPEG", saved(rgb(), "JPEG", quality=90), None),
        ("GIF", saved(rgb(), "GIF"), True),
        ("BMP", saved(rgb().convert("P", palette=Image.Palette.ADAPTIVE, colors=20), "BMP"), True),
        ("WebP", saved(rgb(), "WEBP", lossless=True), True),
    ]
    for number in range(72):
        name, whole, is_exact = bases[number % len(bases)]
        bytes_ = bytearray(whole)
        if number // len(bases) % 3 == 0:
            del bytes_[draw.randrange(8, len(bytes_)):]
        for _ in range(draw.choice([0, 1, 1, 2]) if number // len(bases) % 3 == 0 else draw.choice([1, 1, 2, 4])):
            bytes_[draw.randrange(len(bytes_))] = draw.randrange(256)
        yield f"{name} damaged {number}", bytes(bytes_), is_exact


def to_rgb(image):
    """As qwen-vl-utils."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.split()[3])
    return white


def verdict(picture, is_exact):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = to_rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(picture))))
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}".split(" <_io")[0]}
    pixels = numpy.asarray(image)
    if is_exact is None:
        return {"size": image.size}
    if is_exact:
        return {"size": image.size, "crc": zlib.crc32(pixels.tobytes())}
    rows, columns = (numpy.array_split(numpy.arange(length), min(4, length)) for length in pixels.shape[:2])
    means = [pixels[numpy.ix_(row, column)].mean((0, 1)).round(2).tolist() for row in rows for column in columns]
    return {"size": image.size, "means": means}


def main():
    pictures = [(f"PNG: {name}", picture, True) for name, picture in pngs()]
    pictures += [(f"JPEG: {name}", picture, None if name == "an end in the middle" else False) for name, picture in jpegs()]
    pictures += [*others(), *random_damage()]
    cases = [{"name": name, "file": base64.b64encode(picture).decode()} | verdict(picture, is_exact) for name, picture, is_exact in pictures]
    lines = ",\n".join(json.dumps(case) for case in cases)
    PATH.write_text(f'{{"pillow": "{PIL.__version__}", "cases": [\n{lines}\n]}}\n')
    print(f"{len(cases)} pictures, {sum('refused' in case for case in cases)} refused, {PATH.stat().st_size} bytes")


if __name__ == "__main__":
    main()
