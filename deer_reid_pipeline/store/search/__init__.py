"""Search of exemplars: exact while there are few, by HNSW with a watched recall when there are many.

- `watch`: what matching is given and what each index finds, beside exact search, on a sample.
- `gallery`: what matching reads, in memory or as the indexes propose it.
- `nearest`: the nearest exemplars of one query, of a branch or of several fused; `among`: under the matcher's filters.
- `building`: indexes built, measured, brought up to date and dropped; `resources`: whether memory and disk are enough.
- `recall`: what an index finds of the exact neighbours, to choose ef_search; `exact`: these, for many queries in one
  pass.
- `index`: the indexes there are, with what was measured of them in their comments, and how a branch is searched.
- `trial`: made-up vectors in any number, to measure all of it with.

A module imports only from those after it in this list: trial, watch, gallery, building, resources, recall, nearest,
exact, index, among. Vectors of two recipes are never in one index nor in one result.
"""

from deer_reid_pipeline.store.search.building import ensure_index, prepare_search
from deer_reid_pipeline.store.search.exact import FETCH_ROWS
from deer_reid_pipeline.store.search.gallery import GallerySource, load_exemplars, open_gallery
from deer_reid_pipeline.store.search.index import EXACT_LIMIT, Plan, plan_search
from deer_reid_pipeline.store.search.nearest import Neighbour, nearest, nearest_fused
from deer_reid_pipeline.store.search.recall import WANTED_RECALL
from deer_reid_pipeline.store.search.watch import Watched, watch_recall

__all__ = [
    "EXACT_LIMIT",
    "FETCH_ROWS",
    "WANTED_RECALL",
    "GallerySource",
    "Neighbour",
    "Plan",
    "Watched",
    "ensure_index",
    "load_exemplars",
    "nearest",
    "nearest_fused",
    "open_gallery",
    "plan_search",
    "prepare_search",
    "watch_recall",
]
