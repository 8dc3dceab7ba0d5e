"""LLVM IR as text: LLVM reads what was meant. Values are stored by compiled code and compared."""

import ctypes
import gc
import math

import llvmlite.binding as llvm
import numpy as np
import pytest

import cnnir.backends.llvm.ir as ir
from cnnir.backends.llvm.engine import build
from cnnir.backends.llvm.target import CpuTarget

TARGET = CpuTarget.host()
I1, I8, I32, I64 = (ir.IntType(n) for n in (1, 8, 32, 64))
F32, F64, PTR = ir.FloatType(), ir.DoubleType(), ir.PointerType()


def started(name: str = "f", arguments: tuple[ir.Type, ...] = (PTR,)) -> ir.IRBuilder:
    function = ir.Function(ir.Module("test"), ir.FunctionType(ir.VoidType(), arguments), name)
    return ir.IRBuilder(function.append_basic_block("entry"))


def ran(b: ir.IRBuilder, out: np.ndarray, *numbers: int, name: str = "f") -> np.ndarray:
    """What a function writes to its first argument; the others are i64."""
    b.ret_void()
    engine = build([b.module], [name], TARGET)
    kinds = [ctypes.c_void_p] + [ctypes.c_int64] * len(numbers)
    ctypes.CFUNCTYPE(None, *kinds)(engine.address(name))(out.ctypes.data, *numbers)
    engine.close()
    return out


def test_a_module_whose_text_is_taken_leaves_nothing_to_the_garbage_collector() -> None:
    def written(take: bool) -> str:
        b = started()
        with b.if_then(b.icmp_signed("<", ir.Constant(I64, 1), ir.Constant(I64, 2))):
            b.store(ir.Constant(I64, 3), b.function.args[0])
        phi = b.phi(I64)
        phi.add_incoming(ir.Constant(I64, 4), b.block)  # a loop to itself
        b.ret_void()
        return b.module.taken() if take else str(b.module)

    gc.collect()
    gc.disable()
    try:
        text = written(take=True)
        assert gc.collect() == 0
        assert text == written(take=False)
        assert gc.collect() > 0
    finally:
        gc.enable()


def test_types_are_one_object_each() -> None:
    assert ir.IntType(32) is I32 and ir.FloatType() is F32
    assert ir.VectorType(F32, 8) is ir.VectorType(ir.FloatType(), 8)
    assert ir.VectorType(F32, 8) is not ir.VectorType(F32, 4)
    assert ir.VectorType(F64, 8) is not ir.VectorType(F32, 8)


@pytest.mark.parametrize(("kind", "bits"), [(F32, np.uint32), (F64, np.uint64)])
def test_float_constants_keep_every_bit(kind: ir.Type, bits: type) -> None:
    dtype = np.float32 if kind is F32 else np.float64
    rng = np.random.default_rng(0)
    values = [0.0, -0.0, 0.1, -2.5, 1 << 20, 1 / 1024, 1 / 3, math.inf, -math.inf, math.nan]
    values += [1e-40, 1.17549435e-38, 3.4e38, 16777217.0, *rng.standard_normal(50)]
    wanted = np.array(values).astype(dtype)
    b = started()
    for n, value in enumerate(values):
        place = b.gep(b.function.args[0], [ir.Constant(I64, n)], source_etype=kind)
        b.store(ir.Constant(kind, value), place)
    got = ran(b, np.empty(len(values), dtype))
    np.testing.assert_array_equal(got.view(bits), wanted.view(bits))


def test_a_float_too_large_for_f32_is_infinite() -> None:
    b = started()
    b.store(ir.Constant(F32, 1e300), b.function.args[0])
    assert ran(b, np.zeros(1, np.float32))[0] == math.inf


@pytest.mark.parametrize("width", [8, 16, 32, 64])
def test_integer_constants(width: int) -> None:
    kind, dtype = ir.IntType(width), np.dtype(f"i{width // 8}")
    least, most = np.iinfo(dtype).min, np.iinfo(dtype).max
    b = started()
    for n, value in enumerate([0, 1, -1, 7, least, most]):
        place = b.gep(b.function.args[0], [ir.Constant(I64, n)], source_etype=kind)
        b.store(ir.Constant(kind, value), place)
    assert ran(b, np.zeros(6, dtype)).tolist() == [0, 1, -1, 7, least, most]


@pytest.mark.parametrize("lanes", [[0.0] * 4, [-0.0] * 4, [1.5] * 4, [1.0, -0.0, 0.0, 2.5]])
def test_vectors_of_numbers(lanes: list[float]) -> None:
    b = started()
    b.store(ir.Constant(ir.VectorType(F32, 4), lanes), b.function.args[0], align=4)
    got = ran(b, np.full(4, 9, np.float32))
    np.testing.assert_array_equal(got.view(np.uint32), np.array(lanes, np.float32).view(np.uint32))


def test_a_number_stands_for_all_lanes() -> None:
    b, kind = started(), ir.VectorType(I32, 8)
    b.store(b.not_(b.neg(ir.Constant(kind, 5))), b.function.args[0], align=4)
    assert ran(b, np.zeros(8, np.int32)).tolist() == [4] * 8


def test_lanes_are_taken_out_put_in_and_shuffled() -> None:
    b, kind = started(), ir.VectorType(I32, 4)
    v = ir.Constant(kind, range(10, 14))
    last = b.extract_element(v, ir.Constant(I32, 3))
    w = b.insert_element(ir.Poison(kind), last, ir.Constant(I32, 0))
    w = b.insert_element(w, ir.Constant(I32, 20), ir.Constant(I32, 1))
    picks = ir.Constant(ir.VectorType(I32, 8), [0, 1, 2, 3, 4, 5, 0, 4])
    b.store(b.shuffle_vector(v, w, picks), b.function.args[0], align=4)
    assert ran(b, np.zeros(8, np.int32)).tolist() == [10, 11, 12, 13, 13, 20, 10, 13]


def test_vectors_of_addresses() -> None:
    b = started()
    at = b.gep(b.function.args[0], [ir.Constant(ir.VectorType(I64, 4), range(4))], source_etype=I32)
    assert at.type is ir.VectorType(PTR, 4)
    signature = ir.FunctionType(
        ir.VoidType(), [ir.VectorType(I32, 4), at.type, I32, ir.VectorType(I1, 4)]
    )
    scatter = ir.Function(b.module, signature, "llvm.masked.scatter.v4i32.v4p0")
    mask = ir.Constant(ir.VectorType(I1, 4), [True, False, True, True])
    values = ir.Constant(ir.VectorType(I32, 4), [1, 2, 3, 4])
    b.call(scatter, [values, at, ir.Constant(I32, 4), mask])
    assert ran(b, np.zeros(4, np.int32)).tolist() == [1, 0, 3, 4]


@pytest.mark.parametrize("n", [0, 1, 5, 40])
@pytest.mark.parametrize("likely", [True, False])
def test_loops_and_branches(n: int, likely: bool) -> None:
    """sum of i * (1 if i even else -1), and 100 if n > 3."""
    b = started(arguments=(PTR, I64))
    out, count = b.function.args
    with b.goto_entry_block():
        cell = b.alloca(I64)
    b.store(ir.Constant(I64, 0), cell)
    before, head, after = b.block, b.append_basic_block("loop"), b.append_basic_block("after")
    b.cbranch(b.icmp_signed("<", ir.Constant(I64, 0), count), head, after)
    b.position_at_end(head)
    i = b.phi(I64)
    i.add_incoming(ir.Constant(I64, 0), before)
    old = b.load(cell, typ=cell.allocated_type)
    odd = b.trunc(i, I1)
    with b.if_else(odd) as (yes, no):
        with yes:
            b.store(b.sub(old, i), cell)
        with no:
            b.store(b.add(old, i), cell)
    following = b.add(i, ir.Constant(I64, 1), flags=("nsw",))
    i.add_incoming(following, b.block)
    b.cbranch(b.icmp_signed("<", following, count), head, after)
    b.position_at_end(after)
    with b.if_then(b.icmp_unsigned(">", count, ir.Constant(I64, 3)), likely=likely):
        b.store(b.add(b.load(cell, typ=I64), ir.Constant(I64, 100)), cell)
    b.store(b.load(cell, typ=I64), out)
    wanted = sum(k if k % 2 == 0 else -k for k in range(n)) + (100 if n > 3 else 0)
    assert ran(b, np.zeros(1, np.int64), n)[0] == wanted


@pytest.mark.parametrize("how", ["<", "<=", ">", ">=", "==", "!="])
def test_comparisons_of_floats_know_nan(how: str) -> None:
    pairs = [(1.0, 2.0), (2.0, 1.0), (1.0, 1.0), (math.nan, 1.0), (1.0, math.nan)]
    b = started(arguments=(PTR,))
    for n, (x, y) in enumerate(pairs):
        a, c = (
            b.load(_stored(b, F32, value), typ=F32) for value in (x, y)
        )  # so that nothing is folded before LLVM sees it
        for m, compare in enumerate((b.fcmp_ordered, b.fcmp_unordered)):
            at = b.gep(b.function.args[0], [ir.Constant(I64, 2 * n + m)], source_etype=I8)
            b.store(b.zext(compare(how, a, c), I8), at)
    got = ran(b, np.zeros(2 * len(pairs), np.int8)).reshape(-1, 2)
    holds = {"<": "__lt__", "<=": "__le__", ">": "__gt__", ">=": "__ge__", "==": "__eq__"}
    for (x, y), (ordered, unordered) in zip(pairs, got, strict=True):
        nan = math.isnan(x) or math.isnan(y)
        true = x != y if how == "!=" else getattr(x, holds[how])(y)
        assert ordered == (not nan and true) and unordered == (nan or true)


def test_nan_is_asked_for() -> None:
    b = started(arguments=(PTR,))
    for n, value in enumerate((1.0, math.nan)):
        x = b.load(_stored(b, F32, value), typ=F32)
        for m, asked in enumerate((b.fcmp_ordered("ord", x, x), b.fcmp_unordered("uno", x, x))):
            at = b.gep(b.function.args[0], [ir.Constant(I64, 2 * n + m)], source_etype=I8)
            b.store(b.zext(asked, I8), at)
    assert ran(b, np.zeros(4, np.int8)).tolist() == [1, 0, 0, 1]


def _stored(b: ir.IRBuilder, kind: ir.Type, value: float) -> ir.Value:
    cell = b.alloca(kind)
    b.store(ir.Constant(kind, value), cell)
    return cell


def test_odd_names_are_quoted() -> None:
    b = started("a b-c")
    b.store(ir.Constant(I32, 3), b.function.args[0])
    assert ran(b, np.zeros(1, np.int32), name="a b-c")[0] == 3


def test_promises_reach_llvm() -> None:
    b = started()
    b.function.args[0].add_attribute("noalias")
    b.function.attributes.add("nounwind")
    b.ret_void()
    (function,) = llvm.parse_assembly(str(b.module), llvm.create_context()).functions
    (argument,) = function.arguments
    assert b"noalias" in list(argument.attributes) and b"nounwind" in list(function.attributes)


def test_a_block_ends_once() -> None:
    b = started()
    b.ret_void()
    with pytest.raises(AssertionError):
        b.ret_void()
