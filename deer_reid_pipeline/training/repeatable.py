"""Whether a training would come out the same again: what torch says of steps that it cannot repeat to the last bit."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO


@contextmanager
def unrepeatable() -> Iterator[list[str]]:
    """Collects what torch says meanwhile of operations that are not deterministic on the device, each sentence once.

    Torch says so under `use_deterministic_algorithms(True, warn_only=True)`. It is heard also where warnings are
    ignored; other warnings are shown or ignored as before.
    """
    said: list[str] = []
    show = warnings.showwarning

    def hear(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        text = str(message)
        if "deterministic" not in text.lower():
            show(message, category, filename, lineno, file, line)
            return
        sentence = re.split(r"\.\s", text, maxsplit=1)[0].strip()
        if sentence not in said:
            said.append(sentence)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", message=".*deterministic")
        warnings.showwarning = hear
        yield said
