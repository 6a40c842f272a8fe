"""Picture files made to exhaust memory or time, and thousands of damaged ones: refused with a code, nothing else."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from deer_reid_pipeline.vision.decode import CODES, MAX_SCANS, MOST_FRAMES, ImageError, decode_image, inspect_image
from deer_reid_pipeline_tests.hostile.memory import peak_of

SUFFIXES = ("jpg", "png", "tif", "gif", "webp", "bmp")


def noise(side: int = 40, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(1).integers(0, 255, (side, side, 3), np.uint8)
    return Image.fromarray(values).convert(mode)


def saved(suffix: str, **options: object) -> bytes:
    stream = io.BytesIO()
    kind = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper())
    noise(mode="P" if suffix == "gif" else "RGB").save(stream, kind, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_with(*chunks: bytes) -> bytes:
    whole = saved("png")
    return whole[:33] + b"".join(chunks) + whole[33:]


def claims(suffix: str, width: int, height: int) -> bytes:
    """A small picture whose header claims another size."""
    data = bytearray(saved(suffix))
    if suffix == "png":
        header = struct.pack(">II", width, height) + bytes(data[24:29])
        return bytes(data[:8]) + chunk(b"IHDR", header) + bytes(data[33:])
    if suffix == "gif":
        data[6:10] = struct.pack("<HH", min(width, 65535), min(height, 65535))
    elif suffix == "bmp":
        data[18:26] = struct.pack("<ii", width, height)
    elif suffix == "jpg":
        at = data.index(b"\xff\xc0")
        data[at + 5 : at + 9] = struct.pack(">HH", min(height, 65535), min(width, 65535))
    elif suffix == "tif":
        at = struct.unpack("<I", data[4:8])[0] + 2
        for entry in range(at, at + 24, 12):
            data[entry : entry + 12] = struct.pack("<HHII", 256 + (entry > at), 4, 1, width if entry == at else height)
    return bytes(data)


def code_of(path: Path) -> str:
    with pytest.raises(ImageError) as caught:
        inspect_image(path)
    assert caught.value.code in CODES
    with pytest.raises(ImageError):
        decode_image(path)
    return caught.value.code


def test_the_measure_of_memory_sees_what_was_given_back() -> None:
    assert peak_of(lambda: (b"x" * (300 << 20)).count(b"y")) >= 250
    assert peak_of(lambda: (b"x" * (1 << 20)).count(b"y")) < 50


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "bmp"])
def test_a_header_that_claims_too_much_is_refused_before_decoding(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"bomb.{suffix}"
    path.write_bytes(claims(suffix, 60_000, 60_000))
    assert path.stat().st_size < 20_000
    assert peak_of(lambda: code_of(path)) < 50
    assert code_of(path) == "too_many_pixels"


def test_a_frame_that_is_larger_than_its_picture_is_refused(tmp_path: Path) -> None:
    data = bytearray(saved("gif"))
    at = data.index(b"\x2c\0\0\0\0")  # the image descriptor, at the top left
    data[at + 5 : at + 9] = struct.pack("<HH", 65535, 65535)
    (tmp_path / "a.gif").write_bytes(data)
    assert code_of(tmp_path / "a.gif") == "too_many_pixels"


def test_a_webp_canvas_is_refused_by_its_header(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (13_600, 13_600)).save(stream, "WEBP", lossless=True, quality=0, method=0)
    (tmp_path / "a.webp").write_bytes(stream.getvalue())
    assert len(stream.getvalue()) < 1000
    assert code_of(tmp_path / "a.webp") == "too_many_pixels"


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        chunk(b"iTXt", b"k\0\1\0\0\0" + zlib.compress(bytes(64 << 20))),
        chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(64 << 20))),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * (900 << 10))) * 100,
    ],
    ids=["zTXt", "iTXt", "iCCP", "many"],
)
def test_compressed_text_in_a_png_is_not_blown_up(tmp_path: Path, extra: bytes) -> None:
    (tmp_path / "a.png").write_bytes(png_with(extra))
    assert (tmp_path / "a.png").stat().st_size < 200_000
    assert peak_of(lambda: code_of(tmp_path / "a.png")) < 200
    assert code_of(tmp_path / "a.png") == "unreadable"


def test_pixels_that_go_on_after_the_last_row_are_not_unpacked(tmp_path: Path) -> None:
    whole = saved("png")
    rows = zlib.compress(zlib.decompress(whole[whole.index(b"IDAT") + 4 : -16]) + bytes(256 << 20))
    (tmp_path / "a.png").write_bytes(whole[:33] + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    assert peak_of(lambda: inspect_image(tmp_path / "a.png")) < 100


def progressive(scans: int) -> bytes:
    data = saved("jpg", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - data.count(b"\xff\xda")) + data[-2:]


@pytest.mark.parametrize("scans", [MAX_SCANS, MAX_SCANS + 1, 20_000])
def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path, scans: int) -> None:
    (tmp_path / "a.jpg").write_bytes(progressive(scans))
    if scans <= MAX_SCANS:
        assert inspect_image(tmp_path / "a.jpg").width == 40
    else:
        assert code_of(tmp_path / "a.jpg") == "too_many_scans"


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 100, "subsampling": 0}])
def test_ordinary_jpegs_have_few_scans_whatever_lies_around_them(tmp_path: Path, options: dict[str, object]) -> None:
    data = saved("jpg", exif=b"Exif\0\0" + b"\xff\xda" * 2000, **options) + b"\xff\xda" * 2000
    (tmp_path / "a.jpg").write_bytes(data)
    assert inspect_image(tmp_path / "a.jpg").width == 40


def tiff_of(frames: int) -> bytes:
    side, start = 32, 8 + 32 * 32
    size = 2 + 8 * 12 + 4
    out = [b"II*\0" + struct.pack("<I", start) + bytes(side * side)]
    values = [(256, side), (257, side), (258, 8), (259, 1), (262, 1), (273, 8), (278, side), (279, side * side)]
    tags = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in values)
    for number in range(1, frames + 1):
        following = start + number * size if number < frames else 0
        out.append(struct.pack("<H", len(values)) + tags + struct.pack("<I", following))
    return b"".join(out)


@pytest.mark.parametrize("frames", [3, 200_000])
def test_frames_are_counted_to_a_limit(tmp_path: Path, frames: int) -> None:
    """Pillow's own count of a TIFF of so many frames is quadratic and takes minutes."""
    (tmp_path / "a.tif").write_bytes(tiff_of(frames))
    started = time.process_time()
    assert inspect_image(tmp_path / "a.tif").frames == min(frames, MOST_FRAMES)
    assert time.process_time() - started < 10


def test_a_tiff_that_runs_in_a_circle_ends(tmp_path: Path) -> None:
    data = bytearray(tiff_of(3))
    data[-4:] = struct.pack("<I", 8 + 32 * 32)
    (tmp_path / "a.tif").write_bytes(data)
    assert inspect_image(tmp_path / "a.tif").frames == 3


def test_many_gif_frames_are_counted_to_a_limit(tmp_path: Path) -> None:
    whole = saved("gif")
    at = whole.index(b"\x2c\0\0\0\0")
    (tmp_path / "a.gif").write_bytes(whole[:at] + whole[at:-1] * 3000 + b";")
    assert inspect_image(tmp_path / "a.gif").frames == MOST_FRAMES


def test_the_largest_deep_grey_picture_fits_into_little_memory(tmp_path: Path) -> None:
    """119 million pixels of 16 bits, 230 kB as a file; the other largest pictures take up to 2.3 GiB."""
    code = (
        "import sys, numpy; from PIL import Image; from deer_reid_pipeline_tests.hostile.memory import highest\n"
        "from deer_reid_pipeline.vision.decode import inspect_image\n"
        "values = numpy.zeros((10900, 10900), numpy.uint16); values[0, 0] = 65535\n"
        "Image.fromarray(values).save(sys.argv[1], compress_level=1); del values\n"
        "assert inspect_image(sys.argv[1]).width == 10900\n"
        "print(highest())"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.png")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1400


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_pictures_give_a_picture_or_a_code(suffix: str) -> None:
    whole = saved(
        suffix, **({"save_all": True, "append_images": [noise()]} if suffix in ("gif", "webp", "tif") else {})
    )
    place = st.integers(0, len(whole) - 1)
    header = st.integers(0, 60)
    hits = st.lists(
        st.tuples(place | header, st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255)), max_size=8
    )

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"a.{suffix}"

        @settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
        @given(hits, st.none() | place)
        def holds(found: list[tuple[int, int]], end: int | None) -> None:
            data = bytearray(whole)
            for at, value in found:
                data[at] = value
            path.write_bytes(data[:end])
            code = None
            try:
                info = inspect_image(path)
            except ImageError as error:
                code, said = error.code, str(error)
            if code is None:
                assert info.width * info.height <= 120e6
                assert info.frames <= MOST_FRAMES
            else:
                assert code in CODES
                assert said.isprintable()
                assert len(said) < 400

        holds()
