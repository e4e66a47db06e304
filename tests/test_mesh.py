"""Where devices and rows of a batch lie."""

import dataclasses

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh

from blip_jax.runtime.errors import UserError
from blip_jax.train.mesh import AXES, batch_sharding, hybrid_device_array, local_rows, put_batch


@dataclasses.dataclass(frozen=True)
class Device:
    """What the order of devices is made from."""

    id: int
    slice_index: int
    process_index: int = 0
    platform: str = "cpu"
    device_kind: str = "cpu"


def test_fsdp_and_tensor_stay_inside_a_slice():
    devices = [Device(number, number % 2) for number in range(16)]  # in no good order
    placed = hybrid_device_array([4, 2, 2], 2, devices)
    assert placed.shape == (4, 2, 2)
    owners = np.vectorize(lambda device: device.slice_index)(placed)
    assert [set(block.ravel()) for block in owners] == [{0}, {0}, {1}, {1}]
    assert len(set(placed.ravel())) == 16


def test_fsdp_past_a_slice_is_refused():
    with pytest.raises(UserError, match="data 1 is not a multiple of the 2 slices"):
        hybrid_device_array([1, 8, 1], 2, [Device(number, number // 4) for number in range(8)])


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1), (2, 1, 4), (1, 1, 8)])
@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5, 6, 7], [3, 6, 0, 5, 2, 7, 1, 4]])
def test_rows_reach_their_device_whatever_the_order(shape, order):
    devices = np.array(jax.devices())[order].reshape(shape)
    mesh = Mesh(devices, AXES, axis_types=(AxisType.Auto,) * 3)
    batch = {"ids": np.arange(48, dtype=np.int32).reshape(16, 3)}
    assert local_rows(mesh, 16).tolist() == list(range(16))  # one process has them all
    placed = put_batch(batch, mesh)["ids"]
    assert placed.sharding == batch_sharding(mesh)
    for shard in placed.addressable_shards:
        np.testing.assert_array_equal(shard.data, batch["ids"][shard.index])


def test_a_process_puts_only_its_own_rows(monkeypatch):
    """The rows of devices 0, 1, 4 and 5, as if the others were another process's."""
    mesh = Mesh(np.array(jax.devices()).reshape(8, 1, 1), AXES, axis_types=(AxisType.Auto,) * 3)
    sharding = batch_sharding(mesh)
    every = sharding.addressable_devices_indices_map((16,))
    ours = {device: index for device, index in every.items() if device.id in (0, 1, 4, 5)}

    class Part:
        def addressable_devices_indices_map(self, shape):
            return ours

    monkeypatch.setattr("blip_jax.train.mesh.batch_sharding", lambda mesh: Part())
    rows = local_rows(mesh, 16)
    assert rows.tolist() == [0, 1, 2, 3, 8, 9, 10, 11]
    parts = {}

    def place(shape, sharding, part):
        assert shape == (16, 3)
        parts.update({device.id: part((index[0], slice(None))) for device, index in ours.items()})

    monkeypatch.setattr(jax, "make_array_from_callback", place)
    whole = np.arange(48).reshape(16, 3)
    put_batch({"ids": whole[rows]}, mesh, 16)
    for number, part in parts.items():
        np.testing.assert_array_equal(part, whole[2 * number : 2 * number + 2])
    assert sorted(parts) == [0, 1, 4, 5]
