"""MPS files: by hand, against HiGHS's reader, Netlib's optima, and back and forth."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from lowrank_opt.core.errors import ProblemError
from lowrank_opt.monotone.highs import solve_with_highs
from lowrank_opt.monotone.linear_program import LinearProgram
from lowrank_opt.monotone.mps import read_mps, write_mps
from lowrank_opt.monotone.quadratic_program import QuadraticProgram

INF = np.inf
NETLIB = Path(__file__).parents[1] / "data" / "netlib"
OPTIMA = {
    "afiro": -464.75314285714285,
    "sc50a": -64.57507705856448,
    "kb2": -1749.9001299062056,
    "adlittle": 225494.96316238,
}


@pytest.fixture
def read(tmp_path):
    """Read a text as an MPS file."""

    def reader(text: str, name: str = "file.mps"):
        path = tmp_path / name
        path.write_text(text)
        return read_mps(path)

    return reader


def by_highs(path):
    """Read a file by HiGHS's own reader."""
    highspy = pytest.importorskip("highspy")
    highs = highspy.Highs()
    highs.silent()
    assert highs.readModel(str(path)) != highspy.HighsStatus.kError
    lp = highs.getLp()
    A = lp.a_matrix_
    cls = sp.csc_array if A.format_ == highspy.MatrixFormat.kColwise else sp.csr_array
    matrix = cls((A.value_, A.index_, A.start_), shape=(lp.num_row_, lp.num_col_))
    sign = -1.0 if lp.sense_ == highspy.ObjSense.kMaximize else 1.0
    return LinearProgram(
        sign * np.array(lp.col_cost_),
        matrix,
        lp.row_lower_,
        lp.row_upper_,
        lp.col_lower_,
        lp.col_upper_,
        offset=sign * lp.offset_,
        maximize=sign < 0,
        row_names=lp.row_names_,
        column_names=lp.col_names_,
    )


def assert_same(a, b, rtol=0.0, names=True):
    for field in ("c", "constraint_lower", "constraint_upper", "lower", "upper"):
        np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol, err_msg=field)
    assert a.shape == b.shape
    assert abs(a.A - b.A).sum() == 0
    assert (a.offset, a.maximize) == (b.offset, b.maximize)
    if names:
        assert (a.row_names, a.column_names) == (b.row_names, b.column_names)
    assert (a.Q is None) == (b.Q is None)
    if a.Q is not None:
        assert abs(a.Q - b.Q).sum() == 0


EVERYTHING = """* a comment
NAME          EVERYTHING  (and a remark)
OBJSENSE
    MAX
ROWS
 N  COST
 N  OTHER
 L  L1
 L  L2
 G  G1
 G  G2
 E  E1
 E  E2
 E  E3

COLUMNS
    X         COST         1.0   L1           1.0
    X         G1           2.0   OTHER        7.0
* in between
    Y         COST        -2.0   L2           1.5
    Y         E1           1.0   E2          -1.0
    Z         E3           4.0   G2        1.D+02
    W         COST         0.0
    V         L1           1.0
    U         L1           1.0
    T         L1           1.0
RHS
    RHS       COST         3.0   OTHER        9.0
    RHS       L1           4.0   L2           5.0
    RHS       G1          -6.0   G2           7.0
    RHS       E1           8.0   E2           9.0
    RHS       E3          10.0
    SECOND    L1         100.0
RANGES
    RNG       L2           2.0   G2          -3.0
    RNG       E1           1.0   E2          -2.0
BOUNDS
 UP BND       X            4.0
 LO BND       Y           -1.0
 UP BND       Y            1.0
 FX BND       Z            2.5
 FR BND       W
 MI BND       V
 UP BND       V           -3.0
 UP OTHER     U            1.0
 LO BND       U            1.0
 UP BND       U           3e30
 PL BND       T
ENDATA
everything after the end is ignored
"""


def test_every_section_by_hand(read):
    lp = read(EVERYTHING)
    assert lp.name == "EVERYTHING"
    assert lp.row_names == ("L1", "L2", "G1", "G2", "E1", "E2", "E3")
    assert lp.column_names == tuple("XYZWVUT")
    # The maximum of x - 2 y - 3: the constant is minus the entry of RHS.
    assert lp.maximize
    assert lp.c.tolist() == [-1.0, 2.0, 0, 0, 0, 0, 0]
    assert lp.offset == 3.0
    assert lp.constraint_lower.tolist() == [-INF, 3, -6, 7, 8, 7, 10]
    assert lp.constraint_upper.tolist() == [4, 5, INF, 10, 9, 9, 10]
    assert lp.lower.tolist() == [0, -1, 2.5, -INF, -INF, 1, 0]
    assert lp.upper.tolist() == [4, 1, 2.5, INF, -3, INF, INF]
    dense = np.zeros((7, 7))
    dense[0, [0, 4, 5, 6]] = 1
    dense[1, 1], dense[2, 0], dense[3, 2] = 1.5, 2, 100
    dense[4, 1], dense[5, 1], dense[6, 2] = 1, -1, 4
    np.testing.assert_array_equal(lp.A.toarray(), dense)


def test_highs_reads_the_same(read, tmp_path):
    text = EVERYTHING.replace("1.D+02", "1.E+02").replace(" UP OTHER     U            1.0\n", "")
    text = text.replace("    SECOND    L1         100.0\n", "")
    lp = read(text)
    assert_same(lp, by_highs(tmp_path / "file.mps"))


@pytest.mark.parametrize("name", OPTIMA)
def test_netlib_instances_that_come_along(name):
    lp = read_mps(NETLIB / f"{name}.mps.gz")
    result = solve_with_highs(lp)
    assert result.success
    assert result.fun == pytest.approx(OPTIMA[name], rel=1e-12)


@pytest.mark.external_data
def test_all_of_netlib():
    folder = Path(os.environ["LOWRANK_OPT_DATA"]) / "netlib"
    if not folder.is_dir():
        pytest.skip(f"{folder} does not exist")
    optima = json.loads((folder / "optima.json").read_text())
    assert len(optima) > 60
    for name, known in optima.items():
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            lp = read_mps(folder / f"{name}.mps.gz")
        assert lp.shape == (known["rows"], known["columns"]), name
        result = solve_with_highs(lp, solver="ipm" if name == "dfl001" else "choose")
        assert result.success, (name, result)
        assert result.fun == pytest.approx(known["objective"], rel=1e-6), name


FREE = """NAME free
ROWS
 N cost
 G a_row_with_a_long_name
COLUMNS
 x cost 1 a_row_with_a_long_name 1 $ and a remark
\ty cost 2
 y a_row_with_a_long_name 1 $ or here
RHS
 a_row_with_a_long_name 3
BOUNDS
 UP x 2
 FR y
ENDATA
"""


def test_free_format_without_names_of_vectors(read):
    lp = read(FREE)
    assert lp.c.tolist() == [1.0, 2.0]
    assert lp.A.toarray().tolist() == [[1.0, 1.0]]
    assert lp.constraint_lower.tolist() == [3.0]
    assert (lp.lower.tolist(), lp.upper.tolist()) == ([0.0, -INF], [2.0, INF])


def test_names_with_blanks_in_fixed_format(read):
    text = (
        "NAME          BLANKS\n"
        "ROWS\n"
        " N  TOTAL C\n"
        " L  ROW 1\n"
        "COLUMNS\n"
        "    COL A     TOTAL C           -1.0   ROW 1            2.0\n"
        "    B         TOTAL C           -1.0   ROW 1            1.0\n"
        "RHS\n"
        "    RHS 1     ROW 1            4.0\n"
        "              ROW 1            5.0\n"
        "RANGES\n"
        "              ROW 1            1.0\n"
        "BOUNDS\n"
        " UP           COL A            1.5\n"
        "ENDATA\n"
    )
    lp = read(text)
    assert (lp.row_names, lp.column_names) == (("ROW 1",), ("COL A", "B"))
    assert lp.A.toarray().tolist() == [[2.0, 1.0]]
    assert (lp.constraint_lower.tolist(), lp.constraint_upper.tolist()) == ([3.0], [4.0])
    assert lp.upper.tolist() == [1.5, INF]


@pytest.mark.parametrize(
    ("header", "sign"),
    [
        ("OBJSENSE MAX\n", -1), ("OBJSENSE\n MAXIMIZE\n", -1), ("OBJSENSE MIN\n", 1),
        ("OBJSENSE\n    MINIMIZE\n", 1), ("OBJSENSEMAX\n", -1), ("", 1),
    ],
)  # fmt: skip
def test_sense(read, header, sign):
    lp = read(FREE.replace("ROWS", header + "ROWS"))
    assert (lp.c.tolist(), lp.maximize) == ([sign, 2 * sign], sign < 0)
    # The same through the fixed reader: names with a blank.
    fixed = f"NAME\n{header}ROWS\n N  A COST\nCOLUMNS\n    X         A COST           1.0\nENDATA\n"
    assert read(fixed).c.tolist() == [sign]


def test_objname_chooses_the_objective(read):
    text = FREE.replace(" N cost\n", " N cost\n N second\n").replace("\ty cost 2", "\ty second 2")
    assert read(text).c.tolist() == [1.0, 0.0]
    assert read(text.replace("ROWS", "OBJNAME\n second\nROWS")).c.tolist() == [0.0, 2.0]


def test_integers_are_relaxed_with_a_warning(read, tmp_path):
    text = (
        "NAME\nROWS\n N c\n L r\nCOLUMNS\n"
        " M1 'MARKER' 'INTORG'\n x c 1 r 1\n y c 1 r 1\n M2 'MARKER' 'INTEND'\n z c 1 r 1\n"
        " w c 1 r 1\nRHS\n RHS r 3\nBOUNDS\n PL BND y\n BV BND z\n UI BND w 9\n LI BND w 2\n"
        "ENDATA\n"
    )
    with pytest.warns(UserWarning, match="4 integer variables"):
        lp = read(text)
    assert lp.lower.tolist() == [0, 0, 0, 2]
    assert lp.upper.tolist() == [1, INF, 1, 9]
    assert_same(lp, by_highs(tmp_path / "file.mps"))


def test_negative_upper_bound_frees_the_lower_one(read):
    text = FREE.replace(" UP x 2", " UP x -2")
    with pytest.warns(UserWarning, match="'x', have a negative upper bound"):
        lp = read(text)
    assert (lp.lower[0], lp.upper[0]) == (-INF, -2.0)
    lp = read(text.replace(" UP x -2", " LO x 0\n UP x -2"))
    assert (lp.lower[0], lp.upper[0]) == (0.0, -2.0)


@pytest.mark.parametrize("section", ["QUADOBJ", "QMATRIX", "QSECTION"])
def test_quadratic_terms(read, section):
    both = " y x 1\n" if section == "QMATRIX" else ""
    text = FREE.replace("ENDATA", f"{section}\n x x 4\n x y 1\n{both} y y 6\nENDATA")
    qp = read(text)
    assert isinstance(qp, QuadraticProgram)
    assert qp.Q.toarray().tolist() == [[4.0, 1.0], [1.0, 6.0]]
    qp = read(text.replace("ROWS", "OBJSENSE MAX\nROWS").replace("x 4", "x -4").replace("x y 1",
              "x y -1").replace("y x 1", "y x -1").replace("y 6", "y -6"))  # fmt: skip
    assert qp.Q.toarray().tolist() == [[4.0, 1.0], [1.0, 6.0]]


BAD = [
    ("", "1", "no section"),
    (FREE.replace("ENDATA\n", ""), "14", "cut off"),
    (FREE.replace(" G a", " Q a"), "4", "no type of row 'Q'"),
    (FREE.replace("ROWS", "ROWS\n N cost"), "4", "a second row 'cost'"),
    (FREE.replace(" x cost 1 a", " x cost 1 b"), "6", "no row 'b_row"),
    (FREE.replace("y cost 2", "y cost 2,5"), "7", "'2,5' is no number"),
    (FREE.replace("y cost 2", "y cost nan"), "7", "not finite"),
    (FREE.replace("y cost 2", "y cost 1e999"), "7", "not finite"),
    (FREE.replace("y cost 2", "y cost"), "7", "expected a column"),
    (FREE.replace("y cost 2", "y cost 2\n y cost 2"), "8", "a second value of column 'y'"),
    (FREE.replace("name 3", "name inf3"), "10", "no number"),
    (FREE.replace("name 3", "name 3\n cost"), "11", "one or two pairs"),
    (FREE.replace("name 3", "name 3\n nothing 3"), "11", "no row 'nothing'"),
    (FREE.replace("name 3", "name 3 cost 2 cost 1"), "10", "one or two pairs"),
    (FREE.replace("name 3", "name 3 a_row_with_a_long_name 3"), "10", "a second value of row"),
    (FREE.replace("UP x 2", "SC x 2"), "12", "no type of bound 'SC'"),
    (FREE.replace("UP x 2", "UP v 2"), "12", "no column 'v'"),
    (FREE.replace("UP x 2", "UP x"), "12", "has a column and a value"),
    (FREE.replace("UP x 2", "UP x nan"), "12", "not finite"),
    (FREE.replace("UP x 2", "UP BND x 2 5"), "12", "has a column"),
    (FREE.replace("BOUNDS", "SOS"), "11", "no section 'SOS'"),
    (FREE.replace("BOUNDS", "RHS"), "11", "a second section RHS"),
    (FREE.replace("ROWS", "COLUMNS\nROWS"), "2", "COLUMNS comes before ROWS"),
    (FREE.replace("COLUMNS", "RHS\nCOLUMNS"), "5", "RHS comes before COLUMNS"),
    ("NAME x\nENDATA\n", "2", "no section ROWS"),
    (FREE.replace("ROWS", "OBJSENSE BEST\nROWS"), "2", "expected MAX or MIN"),
    (FREE.replace("ROWS", "OBJNAME\n x\nROWS"), "16", "no row of type N"),
    (FREE.replace("ENDATA", "QUADOBJ\n x x\nENDATA"), "15", "two columns and a value"),
    (FREE.replace("ENDATA", "QUADOBJ\n x v 1\nENDATA"), "15", "no column 'v'"),
    (FREE.replace("ENDATA", "QUADOBJ\n x y 1\n y x 1\nENDATA"), "16", "a second value of 'y'"),
    (FREE.replace("ENDATA", "QUADOBJ\n x x 1\nQMATRIX\nENDATA"), "16", "a second section"),
    (FREE.replace(" y a_row", " M 'MARKER' 'OTHER'\n y a_row"), "8", "a marker"),
]


@pytest.mark.parametrize(("text", "line", "message"), BAD)
def test_malformed_files(read, text, line, message):
    with pytest.raises(ProblemError, match=rf"file\.mps, line {line} .*{message}"):
        read(text)


@pytest.mark.parametrize("section", ["QMATRIX", "QUADOBJ"])
def test_objective_that_is_not_convex(read, section):
    with pytest.raises(ProblemError, match=r"file\.mps: Q is not (symmetric|positive)"):
        read(FREE.replace("ENDATA", f"{section}\n x {'y' if section == 'QMATRIX' else 'x'} -1\n"
                          "ENDATA"))  # fmt: skip


def test_damaged_gzip_and_missing_file(tmp_path):
    path = tmp_path / "x.mps.gz"
    path.write_bytes(gzip.compress(FREE.encode())[:-12])
    with pytest.raises(ProblemError, match="damaged or cut off"):
        read_mps(path)
    with pytest.raises(FileNotFoundError):
        read_mps(tmp_path / "nothing.mps")


def test_compression_is_seen_in_the_file_not_in_its_name(tmp_path):
    path = tmp_path / "x.mps"
    path.write_bytes(gzip.compress(FREE.encode()))
    assert read_mps(path).shape == (1, 2)


def test_latin_1_and_windows_line_ends(tmp_path):
    path = tmp_path / "x.mps"
    path.write_bytes(FREE.replace("cost", "coût").replace("\n", "\r\n").encode("latin-1"))
    assert read_mps(path).c.tolist() == [1.0, 2.0]


# -- writing --------------------------------------------------------------------------------------

numbers = st.one_of(
    st.integers(-9, 9).map(float),
    st.floats(-1e6, 1e6, allow_nan=False).map(lambda v: v if abs(v) > 1e-6 else 0.0),
)


@st.composite
def programs(draw):
    m, n = draw(st.integers(0, 4)), draw(st.integers(1, 5))

    def sides(size):
        lower, upper = [], []
        for _ in range(size):
            kind = draw(st.integers(0, 4))
            a, b = sorted((draw(numbers), draw(numbers)))
            lower.append(-INF if kind in (0, 1) else a)
            upper.append(INF if kind in (0, 2) else a if kind == 3 else b)
        return lower, upper

    def vector(size):
        return draw(st.lists(numbers, min_size=size, max_size=size))

    constraints, bounds = sides(m), sides(n)
    A = np.array(vector(m * n)).reshape(m, n)
    options = {"offset": draw(numbers), "maximize": draw(st.booleans()), "name": "P"}
    if draw(st.booleans()):
        root = np.array(draw(st.lists(st.integers(-3, 3), min_size=n * n, max_size=n * n)))
        root = root.reshape(n, n).astype(float)
        return QuadraticProgram(root @ root.T, vector(n), A, *constraints, *bounds, **options)
    return LinearProgram(vector(n), A, *constraints, *bounds, **options)


@settings(max_examples=60, deadline=None)
@given(problem=programs(), compressed=st.booleans())
def test_round_trip(tmp_path_factory, problem, compressed):
    folder = tmp_path_factory.mktemp("mps")
    path = write_mps(problem, folder / ("p.mps.gz" if compressed else "p.mps"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = read_mps(path)
    assert type(again) is type(problem)
    assert_same(again, problem, rtol=1e-15, names=False)
    assert again.name == "P"


@pytest.mark.parametrize("seed", range(5))
def test_highs_reads_what_we_write(tmp_path, seed):
    rng = np.random.default_rng(seed)
    m, n = 6, 8
    A = rng.integers(-3, 4, (m, n)).astype(float)
    side, box = np.sort(rng.integers(-9, 9, (2, m)), 0), np.sort(rng.integers(-9, 9, (2, n)), 0)
    side, box = side.astype(float), box.astype(float)
    side[0, rng.random(m) < 0.3], side[1, rng.random(m) < 0.3] = -INF, INF
    box[0, rng.random(n) < 0.3], box[1, rng.random(n) < 0.3] = -INF, INF
    lp = LinearProgram(
        rng.standard_normal(n), A, *side, *box, offset=1.25, maximize=bool(seed % 2),
        row_names=[f"row{i}" for i in range(m)], column_names=[f"x[{j}]" for j in range(n)],
    )  # fmt: skip
    path = write_mps(lp, tmp_path / "x.mps")
    assert_same(read_mps(path), lp)
    assert_same(by_highs(path), lp)


def test_unusable_names_are_replaced(tmp_path):
    lp = LinearProgram([1.0, 2.0], [[1.0, 2.0]], 0.0, column_names=["a b", "c"], row_names=["r"])
    with pytest.warns(UserWarning, match="column_names has names"):
        path = write_mps(lp, tmp_path / "x.mps")
    again = read_mps(path)
    assert (again.column_names, again.row_names) == (("C1", "C2"), ("r",))
    lp = LinearProgram([1.0], [[1.0]], 0.0, row_names=["COST"])
    assert read_mps(write_mps(lp, path)).row_names == ("COST",)


def test_contradicting_constraint_cannot_be_written(tmp_path):
    with pytest.raises(ProblemError, match="contradict each other"):
        write_mps(LinearProgram([1.0], [[1.0]], 2.0, 1.0), tmp_path / "x.mps")


def test_contradicting_bounds_survive(tmp_path):
    lp = LinearProgram([1.0, 1.0], None, None, None, [0.0, 2.0], [-1.0, 1.0])
    assert_same(read_mps(write_mps(lp, tmp_path / "x.mps")), lp, names=False)
