"""Numbers out of pickles that nobody may run."""

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsdrive.scenarios.nuplan.pickled_numbers import pickled_numbers

numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**80), 2**80), st.integers(-3, 300)
)
protocols = st.integers(0, pickle.HIGHEST_PROTOCOL)


@given(st.lists(numbers, min_size=4, max_size=4), protocols, st.sampled_from([list, tuple]))
def test_a_pickled_list_is_read_as_pickle_would(values, protocol, kind):
    assert pickled_numbers(pickle.dumps(kind(values), protocol), (4,)).tolist() == [float(value) for value in values]


@given(st.lists(st.lists(numbers, min_size=3, max_size=3), min_size=2, max_size=2), protocols)
def test_a_pickled_matrix_is_read_as_pickle_would(rows, protocol):
    assert pickled_numbers(pickle.dumps(rows, protocol), (2, 3)).tolist() == [[float(v) for v in row] for row in rows]


def test_a_list_of_nuplans_own_kind_is_read_without_importing_it(monkeypatch):
    name = "nuplan.database.common.data_types"
    module = types.ModuleType(name)
    module.Translation = type("Translation", (list,), {"__module__": name})  # type: ignore[attr-defined]
    with monkeypatch.context() as patched:
        for part in ("nuplan", "nuplan.database", "nuplan.database.common", name):
            patched.setitem(sys.modules, part, module)
        blobs = [pickle.dumps(module.Translation([1.5, -2, 0.25]), protocol) for protocol in range(2, 6)]
    for blob in blobs:
        assert pickled_numbers(blob, (3,)).tolist() == [1.5, -2.0, 0.25]
    assert name not in sys.modules


class Call:
    def __init__(self, function, *arguments) -> None:
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_nothing_runs(tmp_path, protocol):
    flag = str(tmp_path / "flag")
    for bomb in (Call(os.mkdir, flag), Call(eval, f"__import__('os').mkdir({flag!r})"), Call(exec, "1"), Path(flag)):
        for value in (bomb, [bomb, 1.0, 2.0], [1.0, 2.0, [bomb]]):
            with pytest.raises(ValueError, match="is a pickle that does more than list numbers"):
                pickled_numbers(pickle.dumps(value, protocol), (3,))
    assert not Path(flag).exists()


def itself() -> list:
    values: list = [1.0, 2.0]
    values.append(values)
    return values


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pickle.dumps([1.0, 2.0]), "is no list of 3 numbers"),
        (pickle.dumps([1.0, 2.0, float("inf")]), "not finite"),
        (pickle.dumps([1.0, 2.0, 10**400]), "not finite"),
        (pickle.dumps([1.0, 2.0, "3"]), "holds something that is no number"),
        (pickle.dumps([1.0, 2.0, [3.0]]), "holds something that is no number"),
        (pickle.dumps([1.0, 2.0, True]), "does more than list numbers"),
        (pickle.dumps([1.0, 2.0, True], 0), "holds something that is no number"),
        (pickle.dumps(itself()), "holds something that is no number"),
        (pickle.dumps({1: 2}), "does more than list numbers"),
        (pickle.dumps(np.ones(3)), "does more than list numbers"),
        (pickle.dumps([np.float64(1.0), 1.0, 1.0]), "does more than list numbers"),
        (pickle.dumps([1.0] * 1000), "expected a short list of numbers"),
        (pickle.dumps(3.0), "is no list of 3 numbers"),
        (pickle.dumps([1.0, 2.0, 3.0])[:-4], "cut off"),
        (b"", "cut off"),
        (b".", "of nothing"),
        (b"]]].", "of several things"),
        (b"cos\nsystem\n.", "is no list of 3 numbers"),
        (b"cos\nsystem\n)\x81.", "would make a 'os system'"),
        (b"h\x07.", "not a whole pickle"),
        (b"e.", "not a whole pickle"),
        ("[1, 2, 3]", "is str, expected a pickled list"),
        (None, "is NoneType, expected a pickled list"),
    ],
)
def test_what_is_no_list_of_three_numbers_is_refused_in_one_line(data, problem):
    with pytest.raises(ValueError, match=problem) as refused:
        pickled_numbers(data, (3,))
    assert "\n" not in str(refused.value)


@given(st.binary(max_size=60), st.integers(0, 60), protocols)
def test_any_bytes_are_numbers_or_a_value_error(noise, at, protocol):
    good = pickle.dumps([[1.0, 2, 3.0], [4, 5.5, 6]], protocol)
    for data in (noise, good[:at] + noise, good[:at] + noise + good[at:]):
        try:
            read = pickled_numbers(data, (2, 3))
        except ValueError:
            continue
        assert np.isfinite(read).all()
