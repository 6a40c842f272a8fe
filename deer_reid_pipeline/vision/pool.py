"""One loaded model for each recipe and device in a process, however many threads ask for it at once."""

from __future__ import annotations

import threading

from deer_reid_pipeline.vision.embedder import Embedder, resolve_device
from deer_reid_pipeline.vision.engine.options import AUTO, EngineOptions
from deer_reid_pipeline.vision.engine.settling import begin
from deer_reid_pipeline.vision.recipe import Recipe
from deer_reid_pipeline.vision.weights import WeightStore

_Key = tuple[str, str, EngineOptions]

_embedders: dict[_Key, Embedder] = {}
_loading: dict[_Key, _Loading] = {}
_lock = threading.Lock()


class _Loading:
    """One load under way, and what became of it."""

    def __init__(self) -> None:
        self.done = threading.Event()
        self.embedder: Embedder | None = None
        self.error: BaseException | None = None


def get_embedder(recipe: Recipe, store: WeightStore, device: str = "auto", options: EngineOptions = AUTO) -> Embedder:
    """The process's embedder for this recipe on this device, loaded and warmed up by the first caller while the
    others wait. It computes as was found best here before, see `engine.settling`.

    Raises:
        WeightsError, EmbeddingError: loading failed; every waiting caller gets the error, the next call tries
        again.
    """
    key = (recipe.id, str(resolve_device(device)), options)
    found = _embedders.get(key)
    if found is not None:
        return found
    with _lock:
        if key in _embedders:
            return _embedders[key]
        loading = _loading.get(key)
        mine = loading is None
        if loading is None:
            loading = _loading[key] = _Loading()
    if mine:
        _load(key, loading, recipe, store)
    loading.done.wait()
    if loading.embedder is None:
        assert loading.error is not None
        raise loading.error
    return loading.embedder


def forget_embedders() -> None:
    """Let go of all loaded models (they free their memory when the last user lets go too)."""
    with _lock:
        _embedders.clear()


def _load(key: _Key, loading: _Loading, recipe: Recipe, store: WeightStore) -> None:
    try:
        embedder = Embedder(recipe, store, key[1])
        begin(embedder, store.models.folder, key[2])
        embedder.warm_up()
        loading.embedder = embedder
    except BaseException as error:
        loading.error = error
    finally:
        with _lock:
            if loading.embedder is not None:
                _embedders[key] = loading.embedder
            del _loading[key]
        loading.done.set()
