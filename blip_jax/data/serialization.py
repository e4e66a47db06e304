"""Records of a TFDS dataset as bytes: the same bytes for the same record, in every process."""

from collections.abc import Callable, Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core.example_serializer import ExampleSerializer


def serializer(features: tfds.features.FeaturesDict) -> Callable[[Mapping[str, Any]], bytes]:
    """Returns a function from a record to the bytes that TFDS reads.

    `features.serialize_example` writes the features in an order that changes from process to
    process; here they are sorted.
    """
    example = ExampleSerializer(features.get_serialized_info()).get_tf_example

    def serialize(record: Mapping[str, Any]) -> bytes:
        encoded = features.encode_example(record)
        return example(encoded).SerializeToString(deterministic=True)

    return serialize
