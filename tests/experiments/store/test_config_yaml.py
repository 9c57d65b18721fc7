"""Test experiments/store/config_yaml.py: a loader reads back all that a config holds, with the same types."""

from __future__ import annotations

import datetime
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from experiments.store.config_yaml import as_yaml

# PyYAML itself reads these three rare line breaks back as other ones.
texts = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x85\u2028\u2029"), max_size=200)
leaves = (
    texts | st.integers() | st.floats(allow_nan=False) | st.booleans() | st.none() | st.sampled_from([1, 1.0, True])
)
keys = texts | st.sampled_from([1, True, "1", "true", "null", "x" * 300])
nodes = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=12
)


def exact(node: Any) -> Any:
    """Return the node with the type of each leaf beside it: 1, 1.0 and True are equal for Python."""
    if isinstance(node, dict):
        return [(exact(key), exact(value)) for key, value in node.items()]
    return [exact(item) for item in node] if isinstance(node, list) else (type(node), node)


@given(st.dictionaries(keys, nodes, max_size=4))
def test_what_is_written_is_read(config: dict[Any, Any]) -> None:
    assert exact(yaml.safe_load(as_yaml(config)) or {}) == exact(config)


def test_it_is_spelt_as_pyyaml_spells_it() -> None:
    shared = [1, 2]
    config = {"b": {"lr": 1e-6, "betas": [0.9, 0.999], "none": None, "deep": {"text": "1e-6", "é": ""}}, "a": {}}
    assert as_yaml(config) == yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    assert "&" not in as_yaml({"one": shared, "other": shared}), "no aliases for a reader to follow"


def test_types_that_are_no_config_s_are_written_all_the_same() -> None:
    config = {"since": datetime.date(2025, 1, 21), "model": {"shape": None}}
    assert yaml.safe_load(as_yaml(config)) == config
