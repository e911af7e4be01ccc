import pickle

import numpy as np
import pytest
from PIL import Image, ImageOps

from virgo_ray.model.images import MAX_PIXELS, ImageError, image_size, load_image


def save(path, image, **options):
    image.save(path, **options)
    return str(path)


def frames():
    return [Image.effect_noise((24, 24), sigma) for sigma in (10, 60, 120)]


@pytest.mark.parametrize(
    ("orientation", "corner"),
    [(1, (0, 0)), (2, (29, 0)), (3, (29, 9)), (4, (0, 9)), (5, (0, 0)), (6, (9, 0)), (7, (9, 29)),
     (8, (0, 29))],
)  # fmt: skip
def test_photographs_are_turned_upright_and_their_size_too(tmp_path, orientation, corner):
    image = Image.new("RGB", (30, 10), "white")
    image.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path / "a.png", image, exif=exif)
    upright = load_image(path)
    assert upright.size == image_size(path) == ((30, 10) if orientation < 5 else (10, 30))
    assert upright.getpixel(corner) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_on_white(tmp_path, mode):
    clear = Image.new("RGBA", (8, 8), (0, 0, 0, 0))
    clear.putpixel((3, 3), (0, 0, 0, 255))
    options = {"transparency": 0} if mode == "P" else {}
    image = Image.new("P", (8, 8), 0) if mode == "P" else clear.convert(mode)
    loaded = load_image(save(tmp_path / "a.png", image, **options))
    assert loaded.mode == "RGB" and loaded.getpixel((0, 0)) == (255, 255, 255)
    if mode in ("RGBA", "LA"):
        assert loaded.getpixel((3, 3)) == (0, 0, 0)


def test_deep_grey_is_scaled_and_not_cut(tmp_path):
    image = Image.new("I;16", (8, 8), 0x4000)
    image.putpixel((0, 0), 0xFFFF)
    loaded = load_image(save(tmp_path / "a.png", image))
    assert (loaded.getpixel((0, 0)), loaded.getpixel((1, 1))) == ((255,) * 3, (64,) * 3)


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
def test_fewer_bits_than_the_file_could_hold_fill_the_scale(tmp_path, bits):
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    loaded = np.asarray(load_image(save(tmp_path / "a.png", Image.fromarray(values))))
    assert loaded.min() == 0 and loaded.max() == 255


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 7.5), (0.25, 4000.5)])
def test_fractions_fill_the_scale(tmp_path, low, high):
    values = np.linspace(low, high, 64, dtype=np.float32).reshape(8, 8)
    loaded = np.asarray(load_image(save(tmp_path / "a.tiff", Image.fromarray(values))))
    assert loaded.min() == 0 and loaded.max() == 255


@pytest.mark.parametrize("value", [0, 17, 70_000])
def test_a_constant_deep_picture_is_a_picture(tmp_path, value):
    deep = Image.fromarray(np.full((8, 8), value, dtype=np.int32))
    grey = load_image(save(tmp_path / "a.tiff", deep)).getpixel((0, 0))
    assert grey == (min(value, 17) if value < 256 else 0,) * 3


def test_what_is_no_number_is_no_pixel(tmp_path):
    values = np.full((8, 8), 0.5, dtype=np.float32)
    values[3, 3] = np.nan
    path = save(tmp_path / "a.tiff", Image.fromarray(values))
    with pytest.raises(ImageError, match="finite") as found:
        load_image(path)
    assert found.value.kind == "image not finite"


@pytest.mark.parametrize("ink", ["white", "#f4f4f4"])
def test_what_would_not_show_on_white_lies_on_black(tmp_path, ink):
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste(ink, (5, 5, 20, 12))
    loaded = load_image(save(tmp_path / "a.png", image))
    assert loaded.getpixel((0, 0)) == (0, 0, 0) and loaded.getpixel((8, 8))[0] >= 0xF4


@pytest.mark.parametrize("error", [ZeroDivisionError, TypeError, RuntimeError, KeyError])
def test_whatever_a_decoder_raises_names_the_picture(tmp_path, monkeypatch, error):
    path = save(tmp_path / "a.png", Image.new("RGB", (8, 8)))

    def fail(*_):
        raise error("odd")

    monkeypatch.setattr(ImageOps, "exif_transpose", fail)
    with pytest.raises(ImageError, match=r"a\.png.*odd"):
        load_image(path)


@pytest.mark.parametrize("name", ["a.svg", "a.HEIC"])
def test_formats_that_are_not_read_say_how_to_convert_them(tmp_path, name):
    (tmp_path / name).write_text("<svg/>")
    with pytest.raises(ImageError, match="convert it to PNG"):
        load_image(str(tmp_path / name))


def test_print_colours_become_screen_colours(tmp_path):
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red, green, blue = load_image(save(tmp_path / "a.jpg", image, quality=95)).getpixel((4, 4))
    assert red > 240 and green < 15 and blue < 15


def test_the_first_of_a_camera_s_pictures_is_the_photograph(tmp_path):
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    path = save(tmp_path / "a.mpo", first, format="MPO", save_all=True, append_images=[second])
    assert load_image(path).getpixel((4, 4))[0] > 240


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tiff"])
def test_files_of_several_pictures_are_refused(tmp_path, name):
    first, *rest = frames()
    path = save(tmp_path / name, first, save_all=True, append_images=rest)
    with pytest.raises(ImageError, match="several pictures") as error:
        load_image(path)
    assert error.value.kind == "image animated"


def test_a_still_gif_is_an_image(tmp_path):
    assert load_image(save(tmp_path / "a.gif", frames()[0])).size == (24, 24)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp"])
def test_every_cut_file_is_refused(tmp_path, name):
    whole = (tmp_path / name).with_stem("whole")
    save(whole, Image.effect_noise((64, 64), 90).convert("RGB"))
    content = whole.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        path = tmp_path / name
        path.write_bytes(content[: int(share * len(content))])
        with pytest.raises(ImageError) as error:
            load_image(str(path))
        expected = ("image empty",) if not share else ("image truncated", "image corrupt")
        assert error.value.kind in expected


def test_what_is_no_image_or_enormous_is_refused_before_it_is_decoded(tmp_path):
    (tmp_path / "a.png").write_text("<svg/>")
    side = int(MAX_PIXELS**0.5) + 1
    bomb = save(tmp_path / "bomb.png", Image.new("1", (side, side)))
    huge = save(tmp_path / "huge.png", Image.new("1", (2 * side, 2 * side)))
    kinds = {}
    for path in (str(tmp_path / "a.png"), bomb, huge, str(tmp_path / "none.png")):
        with pytest.raises(ImageError) as error:
            load_image(path)
        kinds[path.rpartition("/")[2]] = error.value.kind
        assert pickle.loads(pickle.dumps(error.value)).kind == error.value.kind
    assert kinds == {
        "a.png": "image corrupt", "bomb.png": "image enormous", "huge.png": "image enormous",
        "none.png": "image missing",
    }  # fmt: skip
