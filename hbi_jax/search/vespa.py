"""An index as an application of Vespa, whose tensor expressions rank by both halves of the similarity.

`schema` declares the documents and the ranking, `documents` feeds an index, `request` asks. Nothing here talks to a
server: `vespa deploy`, `vespa feed` and an HTTP POST to `/search/` do (docs/search.md).
"""

import json
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hbi_jax.files import replace_file
from hbi_jax.search import scan
from hbi_jax.search.index import Index

# Documents of each node that the whole similarity ranks, after the first half of it has.
_RERANKED = 200

_SERVICES = """<?xml version="1.0" encoding="utf-8" ?>
<services version="1.0">
  <container id="default" version="1.0">
    <search/>
    <document-api/>
  </container>
  <content id="clips" version="1.0">
    <redundancy>1</redundancy>
    <documents>
      <document type="clip" mode="index"/>
    </documents>
    <nodes>
      <node hostalias="node1" distribution-key="0"/>
    </nodes>
  </content>
</services>
"""


def schema(widths: Mapping[str, int], rates: Mapping[str, float]) -> str:
    """Returns the schema `clip.sd`: a document a clip, and the rank profile `wti`.

    The first phase is the text's half of the similarity, the second phase both halves, at all levels.

    Args:
      widths: Width of the tokens of each level that scores.
      rates: The rate of each of these levels.
    """
    fields, inputs, functions, halves = [], [], [], {}
    for level, width in widths.items():
        fields += [
            f"field tokens_{level} type tensor<float>(v{{}}, x[{width}]) {{ indexing: attribute }}",
            f"field weights_{level} type tensor<float>(v{{}}) {{ indexing: attribute }}",
        ]
        inputs += [
            f"query(words_{level}) tensor<float>(t{{}}, x[{width}])",
            f"query(weights_{level}) tensor<float>(t{{}})",
        ]
        cosines = f"sum(query(words_{level}) * attribute(tokens_{level}), x)"
        halves[level] = f"text_half_{level}", f"video_half_{level}"
        functions += [
            f"function {halves[level][0]}() {{ "
            f"expression: sum(reduce({cosines}, max, v) * query(weights_{level}), t) }}",
            f"function {halves[level][1]}() {{ "
            f"expression: sum(reduce({cosines}, max, t) * attribute(weights_{level}), v) }}",
        ]
    first = " + ".join(f"{rates[level]!r} * {text}" for level, (text, _) in halves.items())
    second = " + ".join(f"{rates[level] / 2!r} * ({text} + {video})" for level, (text, video) in halves.items())

    def block(lines: list[str], depth: int) -> str:
        return "".join(f"{' ' * depth}{line}\n" for line in lines)

    return (
        "schema clip {\n  document clip {\n"
        "    field video type string { indexing: summary | attribute }\n"
        "    field start type double { indexing: summary | attribute }\n"
        "    field end type double { indexing: summary | attribute }\n"
        f"{block(fields, 4)}  }}\n"
        "  rank-profile wti {\n    inputs {\n"
        f"{block(inputs, 6)}    }}\n{block(functions, 4)}"
        f"    first-phase {{ expression: {first} }}\n"
        f"    second-phase {{\n      rerank-count: {_RERANKED}\n      expression: {second}\n    }}\n  }}\n}}\n"
    )


def documents(index: Index) -> Iterator[dict[str, Any]]:
    """Yields the clips of an index as feed operations, with normalised tokens.

    Padding is cut off, unless it counts as similarity 0: then it is a token of length 0.
    """
    for place, (video, start, end), rows in index.catalogue.stored():
        about: dict[str, Any] = {"video": video, "start": start, "end": end}
        for level, side in scan.sides(rows, index.encoder.scored).items():
            real = (np.asarray(side.weight) > 0) | index.encoder.published
            about[f"tokens_{level}"] = _blocks((side.features * side.scale[:, None])[real])
            about[f"weights_{level}"] = _blocks(side.weight[real])
        yield {"put": f"id:hbi_jax:clip::{place}", "fields": about}


def request(query: scan.Query, count: int) -> dict[str, Any]:
    """Returns the body of a request to `/search/` for the best clips of a query, see `Encoder.query`."""
    body: dict[str, Any] = {"yql": "select video, start, end from clip where true", "hits": count, "ranking": "wti"}
    for level, words in query.words.items():
        body[f"input.query(words_{level})"] = _blocks(words)
        body[f"input.query(weights_{level})"] = _blocks(query.weights[level])
    return body


def write_application(index: Index, folder: str | os.PathLike[str]) -> int:
    """Writes an application package and the feed of an index; returns the number of documents.

    Args:
      index: The index.
      folder: Gets `services.xml`, `schemas/clip.sd` and `feed.jsonl`; created if needed.
    """
    place, encoder = pathlib.Path(folder), index.encoder
    (place / "schemas").mkdir(parents=True, exist_ok=True)
    widths = {level: encoder.row_shapes()[f"{level}.{scan.FEATURES}"][-1] for level in encoder.scored}
    replace_file(place / "services.xml", _SERVICES)
    replace_file(place / "schemas" / "clip.sd", schema(widths, encoder.level_rates))
    count = 0
    with open(place / "feed.jsonl", "w", encoding="utf-8") as file:
        for operation in documents(index):
            file.write(json.dumps(operation) + "\n")
            count += 1
    return count


def _blocks(values: np.ndarray) -> Any:
    """Returns a tensor whose first dimension is mapped, in Vespa's JSON."""
    rows = {str(number): np.asarray(row, np.float32).tolist() for number, row in enumerate(values)}
    return {"blocks": rows} if values.ndim == 2 else {"cells": rows}
