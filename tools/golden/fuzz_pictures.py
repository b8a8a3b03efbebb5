#!/usr/bin/env python3
"""Writes the pictures of tests/golden/fuzz/images and the one of tests/golden/fuzz/recipes, small files of each format and kind.

    pip install pillow==13.0.0
    tools/golden/fuzz_pictures.py
"""

import pathlib

from PIL import Image, PngImagePlugin

corpus = pathlib.Path(__file__).parents[2] / "tests/golden/fuzz"
images = corpus / "images"
images.mkdir(parents=True, exist_ok=True)


def picture(mode, width=20, height=14):
    pixels = [((7 * x + 3 * y) % 256, (5 * x * y) % 256, (11 * y) % 256) for y in range(height) for x in range(width)]
    rgb = Image.new("RGB", (width, height))
    rgb.putdata(pixels)
    return rgb.convert(mode)


def save(name, image, **options):
    image.save(images / name, **options)


text = PngImagePlugin.PngInfo()
text.add_text("Title", "plate")
text.add_text("Note", "a long note " * 20, zip=True)
exif = Image.Exif()
exif[0x0112] = 6
save("rgb.png", picture("RGB"), pnginfo=text)
save("rgba.png", picture("RGBA"), exif=exif)
save("grey.png", picture("L"), gamma=0.45)
save("grey-alpha.png", picture("LA"))
save("one-bit.png", picture("1"))
save("sixteen-bits.png", picture("L").convert("I;16"))
save("palette.png", picture("P"), transparency=3)
save("animated.png", picture("RGB"), save_all=True, append_images=[picture("RGB", 20, 14).rotate(90)], duration=50)
save("wide.png", picture("RGB", 190, 1))
save("baseline.jpg", picture("RGB"), quality=60, exif=exif)
save("progressive.jpg", picture("RGB", 40, 40), progressive=True, subsampling=2)
save("grey.jpg", picture("L"))
save("cmyk.jpg", picture("CMYK"))
save("lossy.webp", picture("RGB"), quality=50)
save("lossless.webp", picture("RGBA"), lossless=True, exif=exif)
save("animated.webp", picture("RGB"), save_all=True, append_images=[picture("RGB").rotate(180)])
save("plain.gif", picture("P"))
save("animated.gif", picture("P"), save_all=True, append_images=[picture("P").rotate(180)], transparency=2, loop=0)
save("rgb.bmp", picture("RGB"))
save("palette.bmp", picture("P"))
save("rgb.tiff", picture("RGB"), compression="tiff_lzw")
save("icon.ico", picture("RGBA", 16, 16))
picture("RGB", 40, 30).save(corpus / "recipes/a.png")
