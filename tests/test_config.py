"""Settings as frozen dataclasses: the command line, the table of --help, JSON, changes by name."""

from __future__ import annotations  # annotations that are strings are read as well

import dataclasses
import inspect
import json
from typing import Literal

import pytest
from ml_collections import ConfigDict

from blip_jax.runtime import config as configs
from blip_jax.runtime import overrides
from blip_jax.runtime.errors import UserError
from blip_jax.runtime.options import accepts


@dataclasses.dataclass(frozen=True)
class Tower:
    image_size: int = 224  # pixels a side
    depth: int = 12  # layers
    width: int = 768  # of hidden states; a multiple of heads
    heads: int = 12
    drop_path: float = 0  # rate of the last layer
    remat: Literal["none", "dots", "full"] = "none"  # what the backward pass computes again

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of {self.heads} heads")


@dataclasses.dataclass(frozen=True)
class Constant:
    peak_lr: float = 1e-3  # the learning rate


@dataclasses.dataclass(frozen=True)
class Warmup(Constant):
    # Steps from 0
    # to the peak.
    warmup_steps: int = 50


@dataclasses.dataclass(frozen=True)
class Config:
    dataset: str = configs.required("FOLDER")  # what is read
    tower: Tower = Tower()
    schedule: Constant | Warmup = Warmup()
    momentum: Tower | None = None  # a second tower
    arms: tuple[str, ...] = ("none", "both")  # of the comparison
    seeds: tuple[int, ...] = (0,)
    sweep: tuple[float, ...] = ()
    size: tuple[int, int] = (3, 4)
    limit: int | None = None
    flip: bool = False
    temperature: float = 1  # an int as the default of a float
    weights: dict[str, float] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outer:
    asked: Config = Config()
    filled: Config = dataclasses.field(default=Config(), metadata={"required": False})


def set_by(*argv):
    return overrides.override(Config(), argv)


# What the command line can set; ml_collections alone could set neither frozen dataclasses nor
# Literal, and would lose the rest of a group that is given whole.


@pytest.mark.parametrize(
    ("argv", "path", "value"),
    [
        (["--config.dataset=a b,c"], "dataset", "a b,c"),
        (["--config.dataset", "3"], "dataset", "3"),
        (["--config.tower.depth=3"], "tower.depth", 3),
        (["--config.tower.drop_path=0.5"], "tower.drop_path", 0.5),
        (["--config.tower.drop_path", "-1"], "tower.drop_path", -1.0),
        (["--config.tower.remat=full"], "tower.remat", "full"),
        (["--config.schedule.warmup_steps=7"], "schedule.warmup_steps", 7),
        (["--config.arms=none,both,human"], "arms", ("none", "both", "human")),
        (["--config.arms=x", "--config.arms=y"], "arms", ("x", "y")),
        (["--config.arms=('x', 'y')"], "arms", ("x", "y")),
        (["--config.arms=1,b"], "arms", ("1", "b")),
        (["--config.arms="], "arms", ()),
        (["--config.seeds=1,2"], "seeds", (1, 2)),
        (["--config.seeds=3"], "seeds", (3,)),
        (["--config.sweep=1,0.5"], "sweep", (1.0, 0.5)),
        (["--config.size=(1,2)"], "size", (1, 2)),
        (["--config.limit=3"], "limit", 3),
        (["--config.flip"], "flip", True),
        (["--config.flip=false"], "flip", False),
        (["--config.temperature=0.7"], "temperature", 0.7),
    ],
)
def test_a_field_is_set_and_no_other(argv, path, value):
    found = set_by(*argv)
    assert found == configs.replace(Config(), **{path: value})
    for name in path.split("."):
        found = getattr(found, name)
    assert found == value and type(found) is type(value)


def test_the_last_of_two_values_counts_and_classes_stay():
    found = set_by("--config.tower.depth=3", "--config.tower.depth=4", "--noconfig.flip")
    assert found == configs.replace(Config(), **{"tower.depth": 4})
    assert type(found.schedule) is Warmup


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.tower=large", "config.tower is a group of fields; give them one by one"),
        ("--config.tower={'depth':3}", "as in --config.tower.image_size=VALUE"),
        ("--config.schedule=Constant", "config.schedule is a group of fields"),
        ("--config.tower.depth=many", "config.tower.depth is 'many'; expected a whole number"),
        ("--config.tower.depth=1.5", "config.tower.depth is '1.5'; expected a whole number"),
        ("--config.tower.drop_path=x", "is 'x'; expected a number"),
        ("--config.flip=maybe", "config.flip is 'maybe'; expected true or false"),
        ("--config.tower.remat=ful", "is 'ful'; choose one of none, dots, full"),
        ("--config.seeds=0,1.5", "config.seeds has 1.5; expected a whole number"),
        ("--config.seeds=a", "config.seeds has 'a'; expected a whole number"),
        ("--config.size=1,2,3", "config.size has 3 values; expected 2"),
        ("--config.limit=none", "config.limit is 'none'; expected a whole number"),
        ("--config.tower.heads=7", "config.tower: width 768 is not a multiple of 7 heads"),
        ("--config.tower.dept=3", "config.tower has no field 'dept'; did you mean 'depth'?"),
        ("--config.learning_rate=1", "did you mean 'config.schedule.peak_lr'?"),
        ("--config.schedule.lr=1", "config.schedule has no field 'lr'; did you mean 'peak_lr'?"),
        ("--config.depth=1", "did you mean 'config.tower.depth'?"),
        ("--config.image_size=1", "did you mean 'config.tower.image_size'?"),
        ("--config.schedule.width=1", "config.schedule has no field 'width'; known: "),
        ("--config.tower.lr=1", "config.tower has no field 'lr'; known: "),
        ("--config.nothing=1", "config has no field 'nothing'; known: dataset, tower, schedule"),
        ("--config.limit.a=1", "config.limit has no fields: 'a' cannot be set"),
        ("--config.momentum.depth=2", "config.momentum is off: 'depth' cannot be set; change it"),
        ("--config.momentum=2", "config.momentum cannot be set on the command line; change it in"),
        ("--config.weights={}", "config.weights cannot be set on the command line"),
        ("--config.limit", "Missing value for flag --config.limit"),
        ("--other=3", "other"),
        ("tower", "unexpected argument 'tower'"),
    ],
)
def test_what_cannot_be_set_is_one_line(argument, message):
    with pytest.raises(UserError) as error:
        set_by(argument)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_config_dict_is_locked_and_goes_back():
    config = configs.replace(Config(), limit=3, schedule=Constant(), **{"tower.depth": 2})
    values = overrides.to_config_dict(config)
    assert isinstance(values, ConfigDict) and values.is_locked
    assert "momentum" not in values and "weights" not in values
    assert overrides.from_config_dict(config, values) == config
    assert overrides.to_config_dict(Config()).get_type("limit") is int
    values.tower = ConfigDict({"depth": 3})  # what ml_collections makes of a literal
    assert overrides.from_config_dict(config, values).tower == Tower(depth=3)


# Required fields.


def test_an_empty_required_field_is_named():
    with pytest.raises(UserError, match=r"config\.dataset is empty; give it with --config\.datas"):
        configs.check_required(Config())
    configs.check_required(set_by("--config.dataset=x"))


def test_a_group_that_the_program_fills_is_not_looked_at():
    configs.check_required(Outer(asked=Config(dataset="x")))
    with pytest.raises(UserError, match=r"config\.asked\.dataset is empty"):
        configs.check_required(Outer())


# The table of --help.


def test_the_table_has_every_field_with_type_value_and_comment():
    rows = {row.path: row for row in configs.fields_table(Config())}
    names = list(rows)
    assert names[:2] == ["dataset", "momentum"] and names[-1] == "schedule.warmup_steps"
    assert rows["dataset"] == ("dataset", "str", "", "what is read", "FOLDER")
    assert rows["tower.remat"][1:4] == (
        "none | dots | full", "none", "what the backward pass computes again"
    )  # fmt: skip
    assert rows["schedule.warmup_steps"].help == "Steps from 0 to the peak."
    assert rows["schedule.peak_lr"].help == "the learning rate"  # of a base class
    assert rows["limit"].help == ""
    types = {name: row.type for name, row in rows.items()}
    assert types["arms"] == "str,..." and types["size"] == "int,int" and types["limit"] == "int"
    assert types["momentum"] == "Tower" and types["weights"] == "dict"


def test_without_source_there_is_no_help_and_no_error():
    made = dataclasses.make_dataclass("Made", [("a", int, dataclasses.field(default=1))])
    assert configs.field_help(made, "a") == ""


# Changes by name.


def test_replace_changes_nested_fields_together():
    found = configs.replace(Config(), limit=2, **{"tower.width": 10, "tower.heads": 5})
    assert (found.limit, found.tower.width, found.tower.heads) == (2, 10, 5)
    assert found == configs.replace(Config(), limit=2, tower={"width": 10, "heads": 5})
    whole = configs.replace(Config(), tower=Tower(depth=1), **{"tower.width": 24})
    assert whole.tower == Tower(depth=1, width=24)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tower.dept": 3}, "there is no field 'tower.dept'; did you mean 'depth'?"),
        ({"limits": 3}, "there is no field 'limits'; did you mean 'limit'?"),
        ({"limit.a": 3}, "there is no field 'limit.a': 'limit' is one value"),
        ({"tower.heads": 7}, "width 768 is not a multiple of 7 heads"),
    ],
)
def test_a_wrong_change_is_named(changes, message):
    with pytest.raises(UserError) as error:
        configs.replace(Config(), **changes)
    assert str(error.value) == message


# JSON.


def test_json_and_back():
    config = Config(
        dataset="x", tower=Tower(depth=2), momentum=Tower(), sweep=(0.5,), weights={"a": 0.5}
    )
    values = json.loads(json.dumps(configs.to_json(config)))
    assert configs.from_json(Config, values) == config
    assert values["schedule"] == {"type": "Warmup", "peak_lr": 1e-3, "warmup_steps": 50}
    assert "type" not in values["tower"] and "type" not in values["momentum"]
    assert configs.from_json(Config, {"tower": {"depth": 3}}) == Config(tower=Tower(depth=3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tower": {"layers": 2}}, "unknown field 'tower.layers' of Tower; was it written by"),
        ({"schedule": {"type": "Warm"}}, "schedule has the type 'Warm'; did you mean 'Warmup'?"),
        ({"tower": {"heads": 7}}, "not a multiple of 7"),
        ({"tower": {"depth": "x"}}, "tower.depth is 'x'; expected int"),
        ({"tower": [1]}, "tower is [1]; expected Tower"),
        ({"schedule": {"type": [3]}}, "schedule has the type [3]; known: "),
        ([], "Config is []; expected an object"),
        ({"tower": {"heads": 0}}, "tower cannot have these values ("),
    ],
)
def test_json_of_something_else_is_named(values, message):
    with pytest.raises(UserError) as error:
        configs.from_json(Config, values)
    assert message in str(error.value)


# Fields as the options of a function.


class Writer:
    @accepts(Tower)
    def write(self, text: str, *, width: int = 3, **options) -> dict:
        """Writes."""
        return {"text": text, "width": width, **options}


def test_options_are_the_fields():
    assert Writer().write("a", depth=3) == {"text": "a", "width": 3, "depth": 3}  # only those given
    signature = inspect.signature(Writer.write)
    assert list(signature.parameters) == [
        "self", "text", "width", "image_size", "depth", "heads", "drop_path", "remat"
    ]  # fmt: skip
    assert signature.parameters["depth"].default == 12
    assert signature.parameters["width"].default == 3
    assert Writer.write.__doc__ == "Writes."


def test_an_unknown_option_is_named():
    with pytest.raises(UserError, match="write has no option 'dept'; did you mean 'depth'"):
        Writer().write("a", dept=3)
