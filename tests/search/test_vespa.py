"""The schema as text, and that what is fed and asked gives the similarity when its expressions are computed."""

import dataclasses
import json
import re

import numpy as np
import pytest

from hbi_jax.search.vespa import documents, request, schema, write_application
from tests.search.conftest import MODEL, make_index, tiny_encoder

TEXT = "a red square slides left"

SCHEMA = """schema clip {
  document clip {
    field video type string { indexing: summary | attribute }
    field start type double { indexing: summary | attribute }
    field end type double { indexing: summary | attribute }
    field tokens_entity type tensor<float>(v{}, x[32]) { indexing: attribute }
    field weights_entity type tensor<float>(v{}) { indexing: attribute }
  }
  rank-profile wti {
    inputs {
      query(words_entity) tensor<float>(t{}, x[32])
      query(weights_entity) tensor<float>(t{})
    }
    function text_half_entity() { expression: sum(reduce(sum(query(words_entity) * attribute(tokens_entity), x), max, v) * query(weights_entity), t) }
    function video_half_entity() { expression: sum(reduce(sum(query(words_entity) * attribute(tokens_entity), x), max, t) * attribute(weights_entity), v) }
    first-phase { expression: 1.0 * text_half_entity }
    second-phase {
      rerank-count: 200
      expression: 0.5 * (text_half_entity + video_half_entity)
    }
  }
}
"""  # noqa: E501


def test_the_schema_of_one_level():
    assert schema({"entity": 32}, {"entity": 1.0}) == SCHEMA


def test_levels_add_up_by_their_rates():
    text = schema({"entity": 32, "event": 32}, {"entity": 1.0, "event": 0.5})
    assert "expression: 1.0 * text_half_entity + 0.5 * text_half_event }" in text
    assert "0.5 * (text_half_entity + video_half_entity) + 0.25 * (text_half_event + video_half_event)" in text
    assert text.count("{") == text.count("}")


@pytest.mark.parametrize("padding", ["masked", "published"])
def test_what_is_fed_and_asked_has_the_similarity(videos, tmp_path, padding):
    # The short videos have fewer frames than the model takes, so their clips are padded.
    encoder = tiny_encoder(dataclasses.replace(MODEL, padding=padding), num_frames=6)

    def tensor(value):
        return np.array(list(next(iter(value.values())).values()))

    with make_index(tmp_path / "my.index", encoder) as index:
        index.add(videos)
        fed = list(documents(index))
        asked = request(encoder.query(encoder.texts([TEXT])), 10)
        scores = {}
        for operation in fed:
            fields, score = operation["fields"], 0.0
            for level, rate in encoder.level_rates.items():
                words, word_weights = (tensor(asked[f"input.query({kind}_{level})"]) for kind in ("words", "weights"))
                cosine = words @ tensor(fields[f"tokens_{level}"]).T
                halves = cosine.max(1) @ word_weights, cosine.max(0) @ tensor(fields[f"weights_{level}"])
                score += rate / 2 * sum(halves)
            scores[fields["video"], fields["start"], fields["end"]] = score
        assert len(scores) == len({operation["put"] for operation in fed}) == index.num_clips
        for moment in index.search(TEXT):
            np.testing.assert_allclose(scores[moment[:3]], moment.score, atol=1e-6)
        assert write_application(index, tmp_path / "app") == index.num_clips
    app = tmp_path / "app"
    assert [json.loads(line)["put"] for line in (app / "feed.jsonl").read_text().splitlines()] == [
        operation["put"] for operation in fed
    ]
    assert re.findall(r"field tokens_(\w+)", (app / "schemas" / "clip.sd").read_text()) == ["entity", "action"]
    assert '<document type="clip" mode="index"/>' in (app / "services.xml").read_text()
