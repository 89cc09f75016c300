"""Pickles of plain data are read; nothing that a pickle asks for is run, and none costs more than its size."""

import array
import collections
import datetime
import os
import pickle
import pickletools
import struct

import numpy as np
import pytest

from groundscore.annotations import restricted_pickle
from groundscore.annotations.pickle_builders import BUILDERS, ArrayValues, Refused
from groundscore.annotations.restricted_pickle import restricted_unpickle, unpickle_plain
from groundscore.errors import UserError, shown
from tests.bounded import run_bounded

DAMAGE = (ValueError, LookupError, TypeError, struct.error)
PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


class RunsCommand:
    def __reduce__(self):
        return os.system, ("echo run",)


class ReadsAttribute:
    def __reduce__(self):
        return getattr, ([], "append")


class SetsState:
    """A pickle of a dictionary's subclass, which has a state of its own."""

    def __reduce__(self):
        return collections.OrderedDict, (), {"update": 1}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_pickles_are_read(tmp_path, protocol):
    shared = {"tokens": ["a", "dog"]}
    value = [
        {
            "ref_id": 1,
            "sent": "café 🐕",
            "ann_id": [-1],
            "split": ("a", b"b", b"", b"\xff"),
            "set": {1, 2},
            "none": None,
        },
        {"numbers": [0, 255, 256, -1, 70000, -(2**31), 2**40, -(2**63), 1.5, float("inf"), True, False]},
        {"empty": [(), [], {}, set(), frozenset(), "", bytearray(), bytearray(b"x"), frozenset([3])]},
        {"long": "x" * 70000, "longer": b"y" * 70000, "triple": (1, 2, 3), "four": (1, 2, 3, 4)},
        collections.OrderedDict(a=1),
        collections.defaultdict(list, b=[2]),
        [shared, shared],
    ]
    (tmp_path / "refs.p").write_bytes(pickle.dumps(value, protocol=protocol))

    assert restricted_unpickle(tmp_path / "refs.p") == value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_values_become_plain_ones(protocol):
    boxes = np.arange(6, dtype=">i4").reshape(2, 3)
    values = [np.int64(-7), np.float32(0.5), np.bool_(True), np.str_("é"), np.uint8(200), np.bytes_(b"ab")]
    values += [np.arange(4.0), boxes, boxes.T, np.array([], np.int64), np.array(["a", "bcd"]), boxes[0], boxes[1]]

    read = unpickle_plain(pickle.dumps(values, protocol=protocol))

    assert read[:6] == [-7, 0.5, True, "é", 200, "ab"]
    assert read[6:] == [item.tolist() for item in values[6:]]


def test_pickles_of_python_2_are_read():
    ref = b"(dp1\nS'sent'\np2\nS'caf\\xc3\\xa9 \"x\"'\np3\nsS'old'\np4\nS'caf\\xe9'\np5\nsVraw\\u00e9\np6\nL12L\ns"
    kind = b"cnumpy\ndtype\np8\n(S'i8'\np9\nI0\nI1\ntp10\nRp11\n(I3\nS'<'\np12\nNNNI-1\nI-1\nI0\ntp13\nb"
    raw = rb"S'\xff\x00\x00\x00\x00\x00\x00\x00'" + b"\np14\n"
    number = b"cnumpy.core.multiarray\nscalar\np7\n(" + kind + raw + b"tp15\nRp16\n"

    read = unpickle_plain(b"(lp0\n" + ref + b"S'id'\n" + number + b"sa.")

    assert read == [{"sent": 'café "x"', "old": b"caf\xe9", "rawé": 12, "id": 255}]


@pytest.mark.parametrize("value", [RunsCommand(), ReadsAttribute(), np.array([RunsCommand()], dtype=object)])
def test_a_pickle_that_calls_something_is_refused(tmp_path, value):
    (tmp_path / "refs.p").write_bytes(pickle.dumps([value]))

    with pytest.raises(UserError, match=r"refs\.p is refused: it"):
        restricted_unpickle(tmp_path / "refs.p")


NUMPY_TYPE = b"cnumpy\ndtype\n(Vi8\nI0\nI1\ntR"
ATTACKS = {
    "a dtype whose state says that it holds no objects": b"cnumpy\ndtype\n(VO8\nI0\nI1\ntR"
    b"(I3\nV|\nNNNI-1\nI-1\nI0\ntb.",
    "fields outside the element": NUMPY_TYPE + b"(I4\nV|\nN(Va\nt(dVa\n(" + NUMPY_TYPE + b"I4096\ntsI8\nI1\nI0\ntb.",
    "a type of bytes without meaning": b"cnumpy\ndtype\n(VV8\nI0\nI1\ntR.",
    "a type with fields": b"cnumpy\ndtype\n(Vi4,O\nI0\nI1\ntR.",
    "an object array": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    b"(I1\n(I1\ntcnumpy\ndtype\n(VO8\nI0\nI1\ntRI0\n](I1\netb.",
    "the state of a dictionary": b"\x80\x02}}b.",
    "the state of a subclass": pickle.dumps(SetsState()),
    "an instance": b"(ios\nsystem\n.",
    "an object": b"(cbuiltins\nlist\no.",
    "a new object": b"cbuiltins\ndict\n)\x81.",
    "a new object with keywords": b"cbuiltins\ndict\n)}\x92.",
    "an extension": b"\x82\x01.",
    "a persistent id": b"Pfile\n.",
    "a binary persistent id": b"NQ.",
    "a buffer from outside": b"\x97.",
    "a dotted name": b"\x80\x04\x8c\x05numpy\x8c\x11core.numeric.eval\x93.",
    "a name that is no text": b"]]\x93.",
    "a name built by another call": b"\x80\x04c_codecs\nencode\n(Vos\nVlatin1\ntR\x8c\x06system\x93.",
    "a call of what is no function": b"](I1\ntR.",
    "bytes of a number": b"cbuiltins\nbytes\n(I1000\ntR.",
    "a bytearray of a number": b"cbuiltins\nbytearray\n(I1000\ntR.",
    "a list of bytes": b"cbuiltins\nlist\n(C\x03abctR.",
    "text of a container": b"cbuiltins\nstr\n(]tR.",
    "an encoding": b"c_codecs\nencode\n(Va\nVrot13\ntR.",
    "a function in the data": b"](cbuiltins\ndict\ne.",
    "a numpy type in the data": b"](" + NUMPY_TYPE + b"e.",
    "appending to a dictionary": b"}I1\na.",
    "items of a list": b"]I1\nI2\ns.",
    "a list that holds itself": b"]q\x00h\x00a.",
    "a dictionary that holds itself": b"}q\x00I1\nh\x00s.",
    "a key that can take long to hash": b"})Ns.",
    "tuples in tuples": b")" + b"\x85" * 100_000 + b".",
    "marks in marks": b"(" * 100_000 + b".",
    "a number of a kilobyte": b"\x8a\xff" + b"\x01" * 255 + b".",
    "a number of many kilobytes": b"\x8b\x00\x00\x01\x00" + b"\x01" * 65536 + b".",
    "a number of thousands of digits": b"I" + b"9" * 5000 + b"\n.",
    "a shape of many rows without columns": b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
    b"(I1\n(L1000000000000L\nI0\nt" + NUMPY_TYPE + b"NC\x00tb.",
}


@pytest.mark.parametrize("name", ATTACKS)
def test_more_than_plain_data_is_refused(tmp_path, name):
    (tmp_path / "refs.p").write_bytes(ATTACKS[name])

    with pytest.raises(UserError, match=r"refs\.p is refused"):
        restricted_unpickle(tmp_path / "refs.p")


@pytest.mark.parametrize(
    "value",
    [datetime.date(2020, 1, 1), array.array("i", [1]), 1j, range(3), np.datetime64("2020"), np.array(5), slice(3)],
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_other_objects_are_refused(value, protocol):
    with pytest.raises(Refused):
        unpickle_plain(pickle.dumps([value], protocol=protocol))


NUMPY_TEXT = b"cnumpy._core.multiarray\nscalar\n(cnumpy\ndtype\n(VU1\nI0\nI1\ntR(I3\nV%c\nNNNI4\nI4\nI8\ntbC\x04%ctR."
DAMAGED = [
    b".",
    NUMPY_TEXT.replace(b"V%c", b"V<").replace(b"%c", b"\x00\x00\x11\x00"),  # beyond the last character
    NUMPY_TEXT.replace(b"V%c", b"V>").replace(b"%c", b"\x00\x00\xd8\x00"),  # half of a surrogate pair
    b"\x80\x04junk",
    b"\x80\xff.",
    pickle.dumps(list(range(1000)))[:50],
    b"h\x00.",
    b"e.",
    b"\x8e" + b"\xff" * 8 + b"x.",
    b"\x95" + b"\xff" * 8,
    b"T\xff\xff\xff\xff.",
    b"X\x02\x00\x00\x00\xff\xfe.",
    b"X\x03\x00\x00\x00\xed\xa0\x80.",  # half of a surrogate pair
    b"V\\ud800\n.",
    b"Sabc\n.",
    b"I1",
    b"Ix\n.",
    b"Fx\n.",
    b"(I1\nd.",
    b"\xff.",
]


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_pickle_is_named(tmp_path, content):
    (tmp_path / "refs.p").write_bytes(content)

    with pytest.raises(UserError, match=r"refs\.p is damaged") as caught:
        restricted_unpickle(tmp_path / "refs.p")
    assert len(str(caught.value)) < 300 + len(str(tmp_path))


def text(size: int) -> bytes:
    """The opcodes that push a text of `size` letters and remember it as number 0."""
    return b"X" + struct.pack("<I", size) + b"x" * size + b"q\x00"


def each_twice(levels: int) -> bytes:
    """A list that holds a list twice, which holds a list twice, ..."""
    return b"".join(b"]q" + bytes([n]) + (b"(h%ch%ce" % (n - 1, n - 1) if n else b"") for n in range(levels))


def calls(name: bytes, count: int) -> bytes:
    """A list of `count` calls of a function, each with what is remembered as number 0."""
    return b"c" + name + b"\nq\x01(" + b"h\x01(h\x00tR" * count + b"l."


NUMBERS = b"](" + b"".join(b"M" + struct.pack("<H", n) for n in range(30_000)) + b"eq\x00"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntC\x01btR"
STATE = b"(I1\n(I1000000\nt" + b"cnumpy\ndtype\n(Vu1\nI0\nI1\ntR" + b"I0\nh\x00tb"
BOMBS = {
    "lists of lists": each_twice(60) + b".",
    "tuples of tuples": b"N" + b"q\x00h\x00\x86" * 90 + b".",
    "one text many times": text(1 << 20) + b"(" + b"h\x00" * 300_000 + b"l.",
    "one text as a key many times": text(1 << 20) + b"(" + b"}h\x00Ns" * 300_000 + b"l.",
    "sets of one list": NUMBERS + calls(b"builtins\nset", 30_000),
    "bytes of one text": b"B" + text(1 << 20)[1:] + calls(b"builtins\nbytearray", 10_000),
    "arrays of the same bytes": b"B"
    + struct.pack("<I", 10**6)
    + b"x" * 10**6
    + b"q\x00("
    + (ARRAY + STATE) * 2000
    + b"l.",
    "bytes of a large number": b"cbuiltins\nbytes\n(L7000000000L\ntR.",
    "a bytearray of a large number": b"cbuiltins\nbytearray\n(L7000000000L\ntR.",
    "a text of a size that is not there": b"\x8d" + struct.pack("<Q", 7_000_000_000) + b".",
    "a place in the memo": b"Nr\xff\xff\xff\x7f0.",
    "frames": b"\x80\x04" + (b"\x95" + struct.pack("<Q", 7_000_000_000)) * 10_000 + b"\x82.",
    "a number of megabytes": b"\x8b" + struct.pack("<I", 1 << 21) + b"\x01" * (1 << 21) + b".",
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_pickle_costs_what_its_file_costs(tmp_path, name):
    (tmp_path / "refs.p").write_bytes(BOMBS[name])

    message = run_bounded(
        """
        from groundscore.annotations.restricted_pickle import restricted_unpickle
        limit()
        print(refused(lambda: restricted_unpickle(sys.argv[1])))
        """,
        tmp_path / "refs.p",
    )

    assert "refs.p is refused" in message or "breaks off" in message


def test_a_ref_that_unfolds_without_end_is_refused_in_every_message(tmp_path):
    """`refs(unc).p` through the reader of refs: the lists are shared less often than the reader refuses."""
    program = b"(" + each_twice(18) + b"l."
    (tmp_path / "refs(unc).p").write_bytes(program)

    value = restricted_unpickle(tmp_path / "refs(unc).p")

    assert len(shown(value)) <= 60


def test_shared_containers_are_read():
    tokens = ["a", "red", "dog"]
    refs = [{"sent": "a red dog", "tokens": tokens, "again": tokens} for _ in range(1000)]

    assert unpickle_plain(pickle.dumps(refs)) == refs


@pytest.mark.slow
def test_random_programs_end_in_plain_data_or_an_error():
    pytest.importorskip("hypothesis", reason="requirements-dev.txt has it")
    from hypothesis import given, settings
    from hypothesis import strategies as st

    opcodes = st.sampled_from([code.encode("latin-1") for code in pickletools.code2op])
    names = st.sampled_from([b"%s\n%s\n" % (m.encode(), n.encode()) for m, n in [*BUILDERS, ("os", "system")]])
    seeds = st.sampled_from([*ATTACKS.values(), *DAMAGED, pickle.dumps([{"a": (1, "b")}], 2), ARRAY, STATE])
    pieces = st.one_of(opcodes, names.map(b"c".__add__), seeds.map(lambda seed: seed[:-1]), st.binary(max_size=9))

    @settings(max_examples=20_000, deadline=None)
    @given(st.lists(pieces, max_size=30).map(b"".join))
    def check(program: bytes) -> None:
        try:
            value = unpickle_plain(program + b".")
        except (Refused, *DAMAGE):
            return
        assert_plain(value)

    check()


def assert_plain(value: object) -> None:
    assert type(value) in (
        list,
        tuple,
        dict,
        set,
        frozenset,
        str,
        bytes,
        bytearray,
        int,
        float,
        bool,
        type(None),
        ArrayValues,
    )
    if isinstance(value, dict):
        assert_plain([*value, *value.values()])
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            assert_plain(item)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_pickles_of_lists_texts_and_numbers_need_no_slow_reader(monkeypatch, protocol):
    refs = [{"ref_id": number, "sent": f"the dog {number}", "box": [1.5, -2], "ok": True} for number in range(300)]
    monkeypatch.setattr(restricted_pickle, "_Reader", None)

    assert unpickle_plain(pickle.dumps(refs, protocol)) == refs


@pytest.mark.parametrize(
    "operations",
    [
        b"c" + b"os\nsystem\n",
        b"X\x02\0\0\0os\x8c\x06system\x93",
        b"K\x01" + b"\x85" * 9,  # tuples in tuples
        b"]r\xff\xff\xff\xff",  # a memo of 2^32 entries
        b"\x96" + b"\xff" * 7 + b"\x7f",  # a bytearray of 2^63 bytes
        b"](\x8f",
        b"]Rb",
    ],
)
def test_whatever_could_cost_or_run_something_is_left_to_the_slow_reader(operations):
    assert not restricted_pickle._is_harmless(b"\x80\x04" + operations + b".")


def test_python_s_reader_and_the_slow_one_agree_on_damaged_pickles():
    rng = np.random.default_rng(0)
    refs = [{"ref_id": number, "sent": "a dog", "box": [1.5, -2]} for number in range(3)]
    agreed = 0
    for _ in range(1500):
        data = bytearray(pickle.dumps(refs, int(rng.integers(0, 5))))
        data[int(rng.integers(len(data)))] = int(rng.choice(data))
        try:
            slow = restricted_pickle._Reader(bytes(data)).read()
            restricted_pickle._size(slow, 1 << 20, {})
        except (Refused, *DAMAGE):
            continue
        assert repr(unpickle_plain(bytes(data))) == repr(slow)
        agreed += 1
    assert agreed > 300
