"""Records of a TFDS dataset as bytes, the same for the same record in every process, and back."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer
from tensorflow_datasets.proto import tf_example_pb2


def serializer(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
    """Returns a function from a record to the bytes that TFDS reads.

    `features.serialize_example` writes the features in an order that changes from process to
    process; here they are sorted. Texts, encoded images, integers and lists of texts are written
    without TFDS's conversion to arrays, which takes a fifth of the time of an import.
    """
    kinds = {name: _kind(feature) for name, feature in features.items()}
    if not all(kinds.values()):
        convert = ExampleSerializer(features.get_serialized_info()).get_tf_example
        return lambda record: convert(features.encode_example(record)).SerializeToString(
            deterministic=True
        )

    def serialize(record: Mapping[str, Any]) -> bytes:
        example = tf_example_pb2.Example()
        features = example.features.feature
        for name, kind in kinds.items():
            value = record[name]
            if kind == "integer":
                features[name].int64_list.value.append(value)
            elif kind == "sequence":
                texts = features[name].bytes_list
                texts.SetInParent()  # an empty sequence is a list, too
                texts.value.extend([_to_bytes(text) for text in value])
            else:
                features[name].bytes_list.value.append(_to_bytes(value))
        return example.SerializeToString(deterministic=True)

    return serialize


def _to_bytes(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


def parser(
    features: tfds.features.FeaturesDict,
) -> Callable[[bytes], dict[str, Any] | None] | None:
    """Returns a function from a record's bytes to what TFDS reads of them, images still encoded.

    It takes a tenth of TFDS's time. It returns None of a record that lacks a feature or has another
    number of values; of other features than `serializer` writes itself there is no function.
    """
    kinds = {name: _kind(feature) for name, feature in sorted(features.items())}
    if not all(kinds.values()):
        return None

    def parse(data: bytes) -> dict[str, Any] | None:
        found = tf_example_pb2.Example.FromString(data).features.feature
        record: dict[str, Any] = {}
        for name, kind in kinds.items():
            if name not in found:
                return None
            feature = found[name]
            values = (feature.int64_list if kind == "integer" else feature.bytes_list).value
            if kind == "sequence":
                record[name] = list(values)
            elif len(values) == 1:
                record[name] = values[0]
            else:
                return None
        return record

    return parse


def _kind(feature: tfds.features.FeatureConnector) -> str:
    """Returns "bytes", "integer" or "sequence" (of texts); "": anything else."""
    if isinstance(feature, tfds.features.Text | tfds.features.Image):
        return "bytes"
    if isinstance(feature, tfds.features.Scalar) and np.issubdtype(feature.np_dtype, np.integer):
        return "integer"
    if isinstance(feature, tfds.features.Sequence) and isinstance(
        feature.feature, tfds.features.Text
    ):
        return "sequence"
    return ""
