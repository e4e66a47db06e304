"""Records as bytes: what TFDS itself would write, with the features in order."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.proto import tf_example_pb2

from blip_jax.data.ingest.units import CLIP_FEATURES, FEATURES, PAIR_FEATURES
from blip_jax.data.serialization import parser, serializer

RECORD = {
    "key": "ü", "image": b"\xff\xd8bytes", "texts": ["a", "", "größer"], "truth": "", "url": "u",
    "source": "s", "sha256": "0" * 64, "phash": "f" * 16, "width": 3, "height": np.int32(2**31 - 1),
    "fields": "{}",
}  # fmt: skip


@pytest.mark.parametrize("texts", [RECORD["texts"], []])
@pytest.mark.parametrize("features", [FEATURES, PAIR_FEATURES])
def test_the_bytes_are_those_of_tfds(features, texts):
    record = {**RECORD, "texts": texts}
    if "second_image" in features:
        record["second_image"] = b"other"
    generic = ExampleSerializer(features.get_serialized_info())
    example = generic.get_tf_example(features.encode_example(record))
    assert serializer(features)(record) == example.SerializeToString(deterministic=True)


def test_other_features_are_written_by_tfds():
    features = tfds.features.FeaturesDict({"x": np.float32, "y": tfds.features.Text()})
    example = tf_example_pb2.Example.FromString(serializer(features)({"x": 0.5, "y": "a"}))
    assert example.features.feature["x"].float_list.value == [0.5]
    assert example.features.feature["y"].bytes_list.value == [b"a"]


def test_what_is_not_of_its_type_is_refused():
    serialize = serializer(FEATURES)
    for name, value in (("width", "3"), ("key", 3), ("texts", [1])):
        with pytest.raises(TypeError):
            serialize({**RECORD, name: value})


@pytest.mark.parametrize("texts", [RECORD["texts"], [], ["one"]])
@pytest.mark.parametrize("features", [FEATURES, PAIR_FEATURES, CLIP_FEATURES])
def test_records_are_read_as_by_tfds(features, texts):
    values = {**RECORD, "texts": texts, "second_image": b"other", "video": b"film"}
    data = serializer(features)({name: values[name] for name in features})
    skip = {x: tfds.decode.SkipDecoding() for x in ("image", "second_image") if x in features}
    expected = features.deserialize_example_np(data, decoders=skip)
    found = parser(features)(data)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert type(found[name]) is type(value) and found[name] == value


def test_records_that_lack_something_and_other_features_are_left_to_tfds():
    data = serializer(FEATURES)(RECORD)
    for name in ("key", "texts", "width"):
        example = tf_example_pb2.Example.FromString(data)
        del example.features.feature[name]
        assert parser(FEATURES)(example.SerializeToString()) is None
    example = tf_example_pb2.Example.FromString(data)
    example.features.feature["url"].bytes_list.value.append(b"a second")
    assert parser(FEATURES)(example.SerializeToString()) is None
    assert parser(tfds.features.FeaturesDict({"x": np.float32})) is None
