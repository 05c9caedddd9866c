"""Every bad input of the recovery data has its error or warning, and the message says what."""

from __future__ import annotations

import sys
import types
import warnings

import numpy as np
import pytest
import scipy.sparse as sp

from lowrank_opt.core.errors import (
    AccuracyWarning,
    EfficiencyWarning,
    ParameterError,
    ProblemError,
    ProblemTypeError,
    UnsupportedBackendError,
)
from lowrank_opt.recovery import (
    AlternatingMinimization,
    FactorSGD,
    GibbsFactorization,
    LowRankMatrix,
    LowRankPlusSparse,
    MatrixCompletion,
    Observations,
    SoftImpute,
    complete,
)
from lowrank_opt.recovery import observations as module

ROWS, COLS, VALUES = [0, 0, 1, 2], [0, 1, 1, 0], [1.0, 2.0, 3.0, 4.0]


def coo(rows=ROWS, cols=COLS, values=VALUES, shape=(3, 2), **options):
    return MatrixCompletion.from_coo(
        rows, cols, values, shape, **{"rank": 1, "reg": 0.1, **options}
    )


# -- positions and values -----------------------------------------------------------------------


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite(bad):
    values = [1.0, bad, bad, 4.0]
    with pytest.raises(ProblemError, match="values: 2 not finite, the first at observed entry 1"):
        coo(values=values)
    X = sp.csr_array((values, (ROWS, COLS)), shape=(3, 2))
    with pytest.raises(ProblemError, match="values: 2 not finite"):
        MatrixCompletion.from_sparse(X, rank=1)


def test_infinite_values_in_a_dense_array_but_nan_is_missing():
    X = np.array([[1.0, np.nan], [np.inf, 2.0]])
    with pytest.raises(
        ProblemError, match=r"X: 1 not finite, the first at row 1, column 0 \(inf\)"
    ):
        MatrixCompletion.from_dense(X, rank=1)
    X[1, 0] = 0.0
    assert MatrixCompletion.from_dense(X, rank=1, reg=0.1).observations.nnz == 3


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -1.0, 1.0, -2.0], "weights: 2 negative, the first at observed entry 1"),
        ([1.0, 1.0, np.nan, 1.0], "weights: 1 not finite, the first at observed entry 2"),
        ([1.0, 1.0, 1.0, np.inf], "weights: 1 not finite, the first at observed entry 3"),
        ([1.0, 1.0], r"weights has shape \(2,\); expected \(4,\)"),
        ([0.0, 0.0, 0.0, 0.0], "no observed entry of positive weight"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ProblemError, match=message):
        coo(weights=weights)


def test_the_first_bad_entry_is_counted_across_chunks(monkeypatch):
    monkeypatch.setattr(module, "_CHUNK", 2)
    with pytest.raises(ProblemError, match=r"values: 2 not finite, the first at observed entry 2 "):
        coo(values=[1.0, 2.0, np.nan, np.nan])
    with pytest.raises(ProblemError, match=r"row index 7 \(entry 3\)"):
        coo(rows=[0, 0, 1, 7])


def test_weights_of_dense_and_sparse_inputs_must_fit():
    with pytest.raises(ProblemError, match=r"weights has shape \(2,\); expected \(2, 2\)"):
        Observations.from_dense(np.eye(2), weights=np.ones(2))
    X = sp.csr_array(np.eye(2))
    with pytest.raises(ProblemError, match="other positions"):
        Observations.from_sparse(X, weights=sp.csr_array(np.ones((2, 2))))
    with pytest.raises(ProblemError, match="convert X to CSR"):
        Observations.from_sparse(X.tolil(), weights=np.ones(2))


def test_duplicates():
    message = r"2 repeated \(row, column\) pair\(s\), the first is \(0, 0\).*duplicates='sum'"
    args = ([2, 0, 2, 0], [1, 0, 1, 0], [1.0, 2.0, 3.0, 4.0])
    with pytest.raises(ProblemError, match=message):
        coo(*args, shape=(3, 2))
    X = sp.coo_array((args[2], args[:2]), shape=(3, 2))
    with pytest.raises(ProblemError, match=message):
        MatrixCompletion.from_sparse(X, rank=1)
    with pytest.raises(ParameterError, match="duplicates='first'; expected"):
        coo(duplicates="first")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cols": [0, 1, 1, 2]}, r"column index 2 \(entry 3\) is out of range for shape \(3, 2\)"),
        ({"rows": [0, -1, 1, 2]}, r"row index -1 \(entry 1\) is out of range"),
        ({"rows": [0, 1]}, r"rows has shape \(2,\) and cols has shape \(4,\)"),
        ({"values": [1.0]}, r"values has shape \(1,\); expected \(4,\)"),
        ({"rows": [ROWS]}, r"rows has shape \(1, 4\); expected one dimension"),
        ({"shape": (3,)}, r"shape=\(3,\)"),
        ({"shape": (0, 2)}, r"shape=\(0, 2\)"),
        ({"shape": (3.5, 2)}, r"shape=\(3.5, 2\)"),
        ({"shape": None, "rows": [-1, 0, 1, 2]}, "row index -1"),
    ],
)
def test_positions_and_shapes_that_do_not_fit(change, message):
    with pytest.raises(ProblemError, match=message):
        coo(**change)


@pytest.mark.parametrize("name", ["rows", "cols"])
@pytest.mark.parametrize("bad", [[0.0, 1.0, 1.0, 0.0], ["a", "b", "c", "d"], [True, False] * 2])
def test_positions_that_are_not_integers(name, bad):
    with pytest.raises(ProblemTypeError, match=f"{name} has dtype .*; expected integer positions"):
        coo(**{name: bad})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array(VALUES) * 1j, "complex dtype complex128"),
        (np.array(VALUES, dtype=object), "dtype object"),
        (np.array(["1", "2", "3", "4"]), "dtype <U1"),
        (np.array(VALUES).astype("int64").astype("datetime64[s]"), "dtype datetime64"),
    ],
)
def test_value_types_that_cannot_be_used(values, message):
    with pytest.raises(ProblemTypeError, match=message) as caught:
        coo(values=values)
    assert isinstance(caught.value, ValueError)
    with pytest.raises(ProblemTypeError, match=message):
        Observations.from_dense(values.reshape(2, 2))
    with pytest.raises(ProblemTypeError, match=message):
        coo(weights=values)


def test_complex_sparse_matrices():
    with pytest.raises(ProblemTypeError, match="X has complex dtype"):
        Observations.from_sparse(sp.csr_array(np.eye(2) * 1j))


def test_integers_and_booleans_become_float64():
    values = np.array([127, 127, 127, 127], dtype=np.int8)
    obs = coo([0, 0, 1, 2], [0, 0, 1, 0], values, duplicates="sum").observations
    assert obs.dtype == np.float64
    assert obs.values[0] == 254.0
    assert coo(values=[True, False, True, True]).dtype == np.float64


def test_no_observation():
    for make in (
        lambda: coo([], [], []),
        lambda: coo([], [], [], shape=None),
        lambda: MatrixCompletion.from_dense(np.full((3, 2), np.nan), rank=1),
        lambda: MatrixCompletion.from_sparse(sp.csr_array((3, 2)), rank=1),
        lambda: coo(np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)),
    ):
        with pytest.raises(ProblemError, match="no observed entry"):
            make()


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_arrays_without_rows_or_columns(shape):
    with pytest.raises(ProblemError, match="expected two positive integers"):
        MatrixCompletion.from_dense(np.empty(shape), rank=1)


def test_one_by_one():
    problem = MatrixCompletion.from_dense([[2.0]], rank=1)
    assert problem.objective((np.array([[2.0]]), np.array([[1.0]]))) == 0.0


@pytest.mark.parametrize("X", [np.ones(3), np.ones((2, 2, 2)), 3.0])
def test_dense_inputs_must_have_two_dimensions(X):
    with pytest.raises(ProblemError, match="expected two dimensions"):
        Observations.from_dense(X)


def test_sparse_inputs_must_have_two_dimensions():
    with pytest.raises(ProblemError, match="expected two dimensions"):
        Observations.from_sparse(sp.coo_array(np.ones(3)))


def test_dense_and_sparse_are_not_confused():
    with pytest.raises(ProblemTypeError, match="use from_sparse"):
        Observations.from_dense(sp.csr_array(np.eye(2)))
    with pytest.raises(ProblemTypeError, match=r"X is a ndarray.*use from_dense"):
        Observations.from_sparse(np.eye(2))


def test_other_array_libraries_are_refused(monkeypatch):
    strict = pytest.importorskip("array_api_strict")
    X = strict.asarray([[1.0, 2.0]])
    for make in (
        lambda: Observations.from_dense(X),
        lambda: Observations.from_dense(np.ones((1, 2)), weights=X),
        lambda: coo(values=strict.asarray(VALUES)),
        lambda: coo(rows=strict.asarray(ROWS)),
        lambda: coo(weights=strict.asarray(VALUES)),
        lambda: Observations.from_sparse(X),
    ):
        with pytest.raises(UnsupportedBackendError, match=r"array_api_strict array.*convert it"):
            make()


def test_torch_tensors_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedBackendError, match="X is a torch array"):
        Observations.from_dense(torch.ones((2, 2)))


def test_sparse_matrices_of_a_gpu_are_refused(monkeypatch):
    fake = types.new_class("csr_matrix")
    fake.__module__ = "cupyx.scipy.sparse._csr"
    with pytest.raises(UnsupportedBackendError, match=r"\.get\(\)"):
        Observations.from_sparse(fake())
    assert "cupyx" not in sys.modules


# -- parameters ---------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [0, -1, 3, 1.0, "2", True, None])
def test_rank_out_of_range(rank):
    with pytest.raises(ParameterError, match="rank="):
        coo(rank=rank)


@pytest.mark.parametrize("name", ["reg", "reg_bias"])
@pytest.mark.parametrize("value", [-0.1, np.nan, np.inf, "1", True, 1j])
def test_ridge_out_of_range(name, value):
    with pytest.raises(ParameterError, match=f"{name}="):
        coo(**{name: value})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": "hinge"}, "loss='hinge'; expected one of 'squared', 'huber', 'l1'"),
        ({"penalty": "l2"}, "penalty='l2'; expected one of 'ridge', 'nuclear'"),
        ({"reg_scaling": "rows"}, "reg_scaling='rows'"),
        ({"reg_scaling": -1.0}, "reg_scaling=-1.0"),
        ({"loss_scale": 0.0}, "loss_scale=0.0"),
        ({"loss_scale": "large"}, "loss_scale='large'"),
        ({"loss_scale": np.nan}, "loss_scale=nan"),
        ({"penalty": "nuclear", "reg": 0.0}, "reg=0 with penalty='nuclear'"),
        ({"penalty": "nuclear", "loss": "l1"}, "loss='l1' with penalty='nuclear'"),
        ({"penalty": "nuclear", "biases": True}, "biases=True with penalty='nuclear'"),
        ({"penalty": "nuclear", "nonnegative": True}, "nonnegative=True with penalty='nuclear'"),
        ({"penalty": "nuclear", "reg_scaling": "count"}, "reg_scaling='count' with"),
        ({"nonnegative": True, "loss": "l1"}, "nonnegative=True with loss='l1'"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ParameterError, match=message):
        coo(**options)


def test_an_unknown_keyword_is_a_type_error():
    with pytest.raises(TypeError, match="lambda_"):
        coo(lambda_=0.1)


# -- warnings about the data --------------------------------------------------------------------


def caught(make):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    return found


def test_empty_rows_and_columns_give_one_warning_with_counts():
    found = caught(lambda: coo(shape=(5, 3)))
    assert [w.category for w in found] == [AccuracyWarning]
    assert "2 row(s) and 1 column(s) of (5, 3) have no observation" in str(found[0].message)
    assert found[0].filename == __file__


def test_dense_rows_without_data_need_a_ridge():
    X = np.array([[1.0, 2.0], [np.nan, np.nan], [3.0, 4.0]])
    with pytest.raises(
        ProblemError, match=r"X: 1 row\(s\) have no observed entry, the first is row 1"
    ):
        MatrixCompletion.from_dense(X, rank=1)
    with pytest.raises(ProblemError, match=r"1 column\(s\) have no observed entry"):
        MatrixCompletion.from_dense(X.T, rank=1, reg=0.0)
    with pytest.warns(AccuracyWarning, match=r"1 row\(s\) and 0 column\(s\)"):
        MatrixCompletion.from_dense(X, rank=1, reg=0.1)


def test_fewer_observations_than_degrees_of_freedom():
    rng = np.random.default_rng(0)
    X = rng.standard_normal((6, 5))
    full = MatrixCompletion.from_dense(X, rank=2)  # 30 >= 2 (6 + 5 - 2) = 18: silent
    assert full.observations.nnz == 30
    holes = X.copy()
    holes[:4, 0] = holes[:4, 2] = holes[2:, 1] = np.nan  # 18 left
    assert not caught(lambda: MatrixCompletion.from_dense(holes, rank=2))
    holes[5, 4] = np.nan
    with pytest.warns(AccuracyWarning, match=r"\(17\) than degrees of freedom \(18\)"):
        MatrixCompletion.from_dense(holes, rank=2)
    assert not caught(lambda: MatrixCompletion.from_dense(holes, rank=2, reg=1e-3))
    with pytest.warns(AccuracyWarning, match=r"\(17\) than degrees of freedom \(20\)"):
        MatrixCompletion.from_dense(holes, rank=1, biases=True)


def test_observations_in_parts_that_share_nothing():
    X = np.full((6, 6), np.nan)
    X[:3, :3] = X[3:, 3:] = 1.0
    with pytest.warns(AccuracyWarning, match="fall into 2 parts"):
        MatrixCompletion.from_dense(X, rank=1)
    assert not caught(lambda: MatrixCompletion.from_dense(X, rank=1, reg=0.1))
    X[0, 5] = 1.0
    assert not caught(lambda: MatrixCompletion.from_dense(X, rank=1))


def test_large_conversions_of_sparse_formats_are_announced(monkeypatch):
    X = sp.lil_array(np.eye(3))
    assert not caught(lambda: MatrixCompletion.from_sparse(X, rank=1, reg=0.1))
    monkeypatch.setattr(module, "_LARGE", 10)
    with pytest.warns(EfficiencyWarning, match="'lil' and is copied to COO"):
        MatrixCompletion.from_sparse(X, rank=1, reg=0.1)
    for form in ("csr", "csc", "coo"):
        made = caught(
            lambda form=form: MatrixCompletion.from_sparse(X.asformat(form), rank=1, reg=1)
        )
        assert not made


# -- data frames --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row": "user"}, "frame has no column 'user'"),
        ({"frame": {"r": [1, None], "c": [0, 1], "v": [1.0, 2.0]}}, "1 missing id.*at line 1"),
        ({"frame": {"r": [1.0, np.nan], "c": [0, 1], "v": [1.0, 2.0]}}, "1 missing id"),
        ({"frame": {"r": [1, "a"], "c": [0, 1], "v": [1.0, 2.0]}}, None),
        ({"frame": {"r": [(1,), "a"], "c": [0, 1], "v": [1.0, 2.0]}}, "one dimension|sorted"),
        ({"frame": {"r": [[1], [2]], "c": [0, 1], "v": [1.0, 2.0]}}, "expected one dimension"),
        ({"frame": {"r": [0, 1], "c": [0, 1], "v": [1.0, np.nan]}}, "values: 1 not finite"),
        ({"frame": {"r": [], "c": [], "v": []}}, "no observed entry"),
        ({"frame": {"r": [0, 0], "c": [1, 1], "v": [1.0, 2.0]}}, "1 repeated"),
    ],
)
def test_bad_data_frames(change, message):
    base = {"frame": {"r": [0, 1], "c": [0, 1], "v": [1.0, 2.0]}, "row": "r", "col": "c"}
    arguments = {**base, "value": "v", "rank": 1, "reg": 0.1, **change}
    if any(isinstance(v, tuple) for v in arguments["frame"]["r"]):
        ids = np.empty(2, dtype=object)
        ids[:] = arguments["frame"]["r"]
        arguments["frame"]["r"] = ids
    if message is None:  # numpy makes strings of a mixed list: still ids
        assert MatrixCompletion.from_dataframe(**arguments).observations.nnz == 2
        return
    with pytest.raises(ProblemError, match=message):
        MatrixCompletion.from_dataframe(**arguments)


# -- warm starts --------------------------------------------------------------------------------


RIDGE_SOLVERS = (AlternatingMinimization, FactorSGD, GibbsFactorization)


def start_problem(**options):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((12, 2)) @ rng.standard_normal((2, 10)) + 3.0
    return MatrixCompletion.from_dense(X, **{"rank": 2, "reg": 0.1, **options})


def start_point(**change):
    rng = np.random.default_rng(1)
    parts = {"U": rng.standard_normal((12, 2)), "V": rng.standard_normal((10, 2)), **change}
    return LowRankMatrix(**parts)


def spoiled(shape, *places):
    array = np.ones(shape)
    for place, bad in zip(places, (np.nan, np.inf), strict=False):
        array[place] = bad
    return array


@pytest.mark.parametrize("solver", [*RIDGE_SOLVERS, SoftImpute])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"U": spoiled((12, 2), (3, 1), (4, 0))}, r"x0\.U: 2 not finite.*first at \(3, 1\)"),
        ({"V": spoiled((10, 2), (9, 0))}, r"x0\.V: 1 not finite.*first at \(9, 0\)"),
        ({"offset": np.nan}, r"x0\.offset=nan"),
        ({"row_bias": spoiled(12, 5)}, r"x0\.row_bias: 1 not finite.*first at 5;"),
        ({"col_bias": spoiled(10, 0)}, r"x0\.col_bias: 1 not finite.*first at 0;"),
    ],
)
def test_a_start_that_is_not_finite(solver, change, message):
    nuclear = solver is SoftImpute
    problem = start_problem(penalty="nuclear") if nuclear else start_problem(biases=True)
    x0 = start_point(**change)
    with pytest.raises(ProblemError, match=message):
        solver(random_state=0).solve(problem, x0=x0)
    assert problem.certificate(x0).residual == np.inf


def test_a_start_that_overflows_in_the_precision_of_the_problem():
    observations = Observations.from_dense(np.ones((12, 10), np.float32))
    problem = MatrixCompletion(observations, 2, reg=0.1)
    with pytest.raises(ProblemError, match=r"x0\.U: 1 not finite in float32"):
        problem.start(start_point(U=np.where(np.arange(24).reshape(12, 2) == 7, 1e300, 1.0)))
    assert problem.start(start_point()).dtype == np.float32


@pytest.mark.parametrize("solver", [*RIDGE_SOLVERS, SoftImpute])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"offset": 0.5}, "x0 has offset 0.5, the problem 0 and no biases"),
        ({"row_bias": np.ones(12)}, "non-zero row_bias"),
        ({"col_bias": np.ones(10)}, "non-zero col_bias"),
    ],
)
def test_a_start_with_biases_that_the_model_lacks(solver, change, message):
    problem = start_problem(penalty="nuclear" if solver is SoftImpute else "ridge")
    with pytest.raises(ProblemError, match=message):
        solver(random_state=0).solve(problem, x0=start_point(**change))
    harmless = start_point(row_bias=np.zeros(12), col_bias=np.zeros(10))
    assert solver(max_iter=0, random_state=0).solve(problem, x0=harmless).x.row_bias is None


@pytest.mark.parametrize("solver", RIDGE_SOLVERS)
@pytest.mark.parametrize("row_bias", [None, np.arange(12.0)])
def test_the_offset_of_a_start_moves_to_the_biases(solver, row_bias):
    problem = start_problem(biases=True)
    x0 = start_point(offset=-2.0, row_bias=row_bias)
    x = solver(max_iter=0, random_state=0).solve(problem, x0=x0).x
    x = x if solver is not GibbsFactorization else x[0]
    assert x.offset == problem.offset
    assert x.offset != x0.offset
    np.testing.assert_allclose(x.to_dense(), x0.to_dense(), rtol=1e-12)


def test_rows_without_observations_take_no_bias_from_a_start():
    X = np.full((3, 2), 5.0)
    X[1] = np.nan
    with pytest.warns(AccuracyWarning, match="no observation"):
        problem = MatrixCompletion.from_dense(X, rank=1, reg=0.1, biases=True)
    x = problem.start(LowRankMatrix(np.zeros((3, 1)), np.zeros((2, 1)), 7.0))
    np.testing.assert_array_equal(x.row_bias, [2.0, 0.0, 2.0])


# -- layouts ------------------------------------------------------------------------------------


def layouts(array, folder):
    """The same numbers: in Fortran order, with strides, read-only, and in a file."""
    wide = np.zeros([2 * s for s in array.shape], array.dtype)
    strided = wide[tuple(slice(None, None, 2) for _ in array.shape)]
    strided[...] = array
    frozen = array.copy()
    frozen.flags.writeable = False
    path = folder / f"{array.ndim}{array.dtype.str[1:]}.npy"
    np.save(path, array)
    return {
        "fortran": np.asfortranarray(array),
        "strided": strided,
        "reversed": np.flip(np.flip(array).copy()),
        "read-only": frozen,
        "memmap": np.load(path, mmap_mode="r"),
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("layout", ["fortran", "strided", "reversed", "read-only", "memmap"])
def test_layouts_do_not_matter(layout, dtype, tmp_path):
    rng = np.random.default_rng(0)
    dense = (rng.standard_normal((9, 7)) + 1.0).astype(dtype)
    weights = rng.uniform(0.5, 2.0, dense.shape).astype(dtype)
    dense[rng.random(dense.shape) < 0.3] = np.nan
    rows, cols = np.nonzero(~np.isnan(dense))
    parts = (rows, cols, dense[rows, cols])
    other, other_weights, other_values, other_entry_weights, other_rows, other_cols = (
        layouts(a, tmp_path / str(i))[layout]
        for i, a in enumerate((dense, weights, parts[2], weights[rows, cols], rows, cols))
        if (tmp_path / str(i)).mkdir() is None
    )
    expected = complete(dense, rank=2, reg=0.5, weights=weights, random_state=0)
    X = sp.coo_array((parts[2], (rows, cols)), shape=dense.shape).tocsr()
    other_csr = X.copy()
    for name in ("data", "indices", "indptr"):
        (tmp_path / name).mkdir()
        setattr(other_csr, name, layouts(getattr(X, name), tmp_path / name)[layout])
    before = other.tobytes(), other_values.tobytes()
    made = {
        "dense": MatrixCompletion.from_dense(other, rank=2, reg=0.5, weights=other_weights),
        "coo": MatrixCompletion.from_coo(
            other_rows, other_cols, other_values, dense.shape, rank=2, reg=0.5,
            weights=other_entry_weights,
        ),
        "sparse": MatrixCompletion.from_sparse(
            other_csr, rank=2, reg=0.5, weights=other_entry_weights
        ),
        "frame": MatrixCompletion.from_dataframe(
            {"r": other_rows, "c": other_cols, "v": other_values, "w": other_entry_weights},
            row="r", col="c", value="v", weight="w", rank=2, reg=0.5,
        ),
    }  # fmt: skip
    results = {name: AlternatingMinimization(random_state=0).solve(p) for name, p in made.items()}
    results["complete"] = complete(other, rank=2, reg=0.5, weights=other_weights, random_state=0)
    for name, result in results.items():
        assert result.success, name
        np.testing.assert_array_equal(result.x.to_dense(), expected.x.to_dense(), err_msg=name)
    assert (other.tobytes(), other_values.tobytes()) == before


@pytest.mark.parametrize("build", [MatrixCompletion, LowRankPlusSparse])
@pytest.mark.parametrize("data", [np.ones((3, 2)), None])
def test_data_by_themselves_name_the_constructors(build, data):
    with pytest.raises(ProblemError, match=rf"{type(data).__name__}.*{build.__name__}\.from_dense"):
        build(data, 1)


def test_bad_entries_of_dense_arrays_are_named_by_their_place():
    X, w = np.ones((3000, 100)), np.ones((3000, 100))  # read in pieces
    X[2700, 7] = X[2900, 3] = -np.inf
    with pytest.raises(ProblemError, match=r"X: 2 not finite.*row 2700, column 7 \(-inf\).*NaN"):
        Observations.from_dense(X)
    X[np.isinf(X)] = np.nan
    w[5, 6], w[2800, 9] = -1.0, np.nan
    with pytest.raises(ProblemError, match=r"weights: 1 not finite.*row 2800, column 9 \(nan\)"):
        Observations.from_dense(X, weights=w)
    w[2800, 9] = 1.0
    with pytest.raises(ProblemError, match=r"weights: 1 negative.*row 5, column 6 \(-1\.0\)"):
        Observations.from_dense(X, weights=w)
    with pytest.raises(ProblemError, match="X has no observed entry"):
        Observations.from_dense(np.full((2, 2), np.nan))
