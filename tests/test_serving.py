"""The server: what it answers is what the models give, whoever shares the batch."""

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")

import re

import jax
import numpy as np
from network_calls import FILES
from serving_fixture import IMAGES, SMALL, Running, running

from blip_jax.decoding import Decoding
from blip_jax.runtime.errors import UserError
from blip_jax.serving.service import Service

# Options of ten requests, alike only in that they sample or are greedy. Lengths and prompts are
# such that the model by itself, which they are compared with, compiles only two programs.
MIXED = [
    {"top_p": 0.9, "seed": 1, "prompt": "a"},
    {"top_p": 0.9, "seed": 2, "prompt": "a"},
    {"temperature": 0.5, "top_k": 5, "seed": 1, "prompt": "the"},
    {"temperature": 2.0, "repetition_penalty": 1.5, "max_length": 17, "prompt": ""},
    {"top_k": 3, "min_length": 9, "prompt": "a red", "seed": 2**32 - 1},
    {"top_p": 0.5, "max_new_tokens": 16, "prompt": ""},
    {"method": "greedy", "prompt": ""},
    {"method": "greedy", "prompt": "the", "repetition_penalty": 3.0, "max_length": 18},
    {"num_beams": 1, "min_length": 8, "prompt": "a"},
    {"method": "sample", "prompt": ""},
]


@pytest.fixture(scope="module")
def models(model):
    return [model("captioner"), model("retrieval"), model("vqa")]


@pytest.fixture(scope="module")
def server(models) -> Running:
    with running(Service(models, SMALL)) as found:
        yield found


def texts(response) -> list[list[str]]:
    assert response.status_code == 200, response.text
    return [[caption["text"] for caption in row] for row in response.json()["captions"]]


def assert_captions(response, model, files, options):
    """They are those of the model by itself: texts, and scores to rounding."""
    options = dict(options)
    prompt, seed = options.pop("prompt", None), options.pop("seed", 0)
    if options.get("method", "beam") == "beam" and not {"top_p", "top_k", "temperature"} & {
        *options
    }:
        options.setdefault("num_beams", SMALL.num_beams)
    decoding = Decoding.from_options(**options)
    expected = model.captions(files, decoding, prompt=prompt, seed=seed)
    assert texts(response) == [[str(caption) for caption in row] for row in expected]
    scores = [caption["score"] for row in response.json()["captions"] for caption in row]
    wanted = [caption.score for row in expected for caption in row]
    np.testing.assert_allclose(scores, wanted, rtol=1e-4, atol=1e-5)


def test_different_options_share_a_batch_and_compile_nothing(server, models):
    compiled = server.metric("blip_compilations_total")
    batches = server.metric("blip_batch_rows_count", function="caption sample")
    rows = server.metric("blip_batch_rows_sum", function="caption sample")
    assert compiled > 0
    requests = [("/v1/caption", {"images": [IMAGES[n]], **x}) for n, x in enumerate(MIXED)]
    responses = server.post_all(requests)
    assert server.metric("blip_compilations_total") == compiled
    assert server.metric("blip_batch_rows_sum", function="caption sample") == rows + len(MIXED)
    batches = server.metric("blip_batch_rows_count", function="caption sample") - batches
    assert 2 <= batches <= 5  # of at most 8 rows; without batching there would be 10
    for response, options, file in zip(responses, MIXED, FILES, strict=True):
        assert_captions(response, models[0], [file], options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {
            "num_captions": 2,
            "length_penalty": 0.5,
            "prompt": "a red",
            "early_stopping": True,
            "min_length": 2,
            "max_length": 17,
        },  # fmt: skip
        {"top_p": 0.8, "num_captions": 3, "seed": 5},
    ],
)
def test_captions_are_the_models(server, models, options):
    response = server.post("/v1/caption", {"images": IMAGES[:2], **options})
    assert_captions(response, models[0], FILES[:2], options)


@pytest.mark.parametrize("count", [1, 2])
def test_matches_are_the_models(server, models, count):
    given = ["A red circle.", "a dog"][:count]
    found = server.post("/v1/match", {"images": IMAGES[:3], "texts": given}).json()
    expected = models[1].match(FILES[:3], [given] * 3)
    np.testing.assert_allclose(found["probability"], expected.probability, rtol=1e-4)
    np.testing.assert_allclose(found["cosine"], expected.cosine, rtol=1e-4, atol=1e-6)


def test_answers_are_the_models(server, models):
    question = "What colour is it?"
    body = {"images": IMAGES[:2], "question": question}
    found = server.post("/v1/answer", body).json()["answers"]
    expected = models[2].answer(FILES[:2], question, num_beams=SMALL.num_beams)
    assert [x["text"] for x in found] == [str(x) for x in expected]
    np.testing.assert_allclose([x["score"] for x in found], [x.score for x in expected], rtol=1e-4)


def test_requests_with_candidates_of_their_own_share_a_batch(server, models):
    lists = [["red", "blue"], ["circle", "a square", "red"]]
    bodies = [{"images": IMAGES[:2], "question": "what", "candidates": own} for own in lists]
    before = server.metric("blip_batch_rows_count", function="answer 4")
    responses = server.post_all([("/v1/answer", body) for body in bodies])
    assert server.metric("blip_batch_rows_count", function="answer 4") == before + 1
    for own, response in zip(lists, responses, strict=True):
        expected = models[2].answer(FILES[:2], "what", candidates=own)
        found = response.json()["answers"]
        assert [x["text"] for x in found] == [str(x) for x in expected]
        wanted = [x.score for x in expected]
        np.testing.assert_allclose([x["score"] for x in found], wanted, rtol=1e-4)


def test_embeddings_are_the_models(server, models):
    given = ["a red circle", "A dog!"]
    found = server.post("/v1/embed", {"images": IMAGES[:2], "texts": given}).json()
    np.testing.assert_allclose(found["images"], models[1].encode_image(FILES[:2]), atol=1e-5)
    np.testing.assert_allclose(found["texts"], models[1].encode_text(given), atol=1e-5)


def test_data_urls_are_images(server):
    plain, marked = (
        server.post("/v1/embed", {"images": [prefix + IMAGES[0]]}).json()
        for prefix in ("", "data:image/png;base64,")
    )
    assert plain == marked


def test_a_batch_runs_on_all_devices(server):
    assert jax.local_device_count() == 8
    assert {function.batch_sizes.largest for function in server.service.functions.values()} == {8}
    for leaf in jax.tree.leaves(server.service.models["/v1/caption"].params):
        assert len(leaf.devices()) == 8


def test_operation(server):
    assert server.get("/health").json() == {"status": "ok"}
    assert server.get("/ready").json() == {"status": "ready"}
    schema = server.get("/openapi.json").json()
    assert {"/v1/caption", "/v1/match", "/v1/answer", "/v1/embed"} < set(schema["paths"])
    fields = schema["components"]["schemas"]["CaptionRequest"]["properties"]
    assert "probability" in fields["top_p"]["description"]  # the comment of Decoding's field
    server.post("/v1/embed", {"texts": ["a"]})
    lines = server.get("/metrics").text.splitlines()
    assert "blip_ready 1.0" in lines
    assert any(x.startswith('blip_requests_total{path="/v1/embed",status="200"}') for x in lines)
    assert any(x.startswith('blip_row_wait_seconds_bucket{function="embed text"') for x in lines)


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_pages_of_the_api_load_nothing_from_other_hosts(server, path):
    parts = re.findall(r'(?:src|href)="([^"]*)"', server.get(path).text)
    assert any(part.endswith(".js") for part in parts)
    assert [server.get(part).status_code for part in parts] == [200] * len(parts)


def test_an_endpoint_has_the_first_model_that_is_able(model):
    pretrain, captioner = model("pretrain"), model("captioner")
    service = Service([captioner, pretrain], SMALL)
    assert service.models["/v1/caption"] is captioner
    assert service.models["/v1/match"] is service.models["/v1/embed"] is pretrain
    assert "/v1/answer" not in service.endpoints
    with pytest.raises(UserError, match="would serve nothing"):
        Service([pretrain, captioner], SMALL)
    with pytest.raises(UserError, match="would serve nothing"):
        Service([model("nlvr")], SMALL)
