"""A prepared graph: norms folded, weights as initializers, the same results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from deploykit.quantize.prepare.prepare import prepare

if TYPE_CHECKING:
    from deploykit.quantize.prepare.prepare import Prepared
    from tests.quantize.conftest import MakeModel, Prove, Weights

NORM = dict.fromkeys("sbmv", (4,))
IMAGES = "(float[N,4,6,6] x) => (float[N,C,H,W] y)"


def types(prepared: Prepared) -> list[str]:
    return [node.op_type for node in prepared.model.graph.node]


def constants(prepared: Prepared) -> set[str]:
    return {tensor.name for tensor in prepared.model.graph.initializer}


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 17, 21])
def test_a_norm_after_a_convolution_is_folded_at_any_opset(
    opset: int, make_model: MakeModel, prove: Prove
) -> None:
    text = f"{IMAGES} {{ c = Conv(x, w) r = BatchNormalization(c, s, b, m, v) y = Relu(r) }}"
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM}, opset))
    assert types(prepared) == ["Conv", "Relu"]
    assert prepared.folded == ("r",)
    assert (prepared.opset_before, prepared.opset) == (opset, max(opset, 13))
    assert prepared.model.opset_import[0].version == prepared.opset
    onnx.checker.check_model(prepared.model, full_check=True)


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Conv(x, w, wb)", {"w": (4, 4, 3, 3), "wb": (4,)}),
        ("Conv<group=2>(x, w)", {"w": (4, 2, 3, 3)}),
        ("Conv<group=4, pads=[1,1,1,1]>(x, w)", {"w": (4, 1, 3, 3)}),
        ("ConvTranspose(x, w)", {"w": (4, 4, 2, 2)}),
        ("ConvTranspose<group=2>(x, w, wb)", {"w": (4, 2, 2, 2), "wb": (4,)}),
        ("ConvTranspose<group=4, strides=[2,2]>(x, w)", {"w": (4, 1, 2, 2)}),
    ],
)
def test_every_kind_of_convolution_takes_its_norm(
    layer: str, weights: dict[str, tuple[int, ...]], make_model: MakeModel, prove: Prove
) -> None:
    text = f"{IMAGES} {{ c = {layer} y = BatchNormalization<epsilon=0.1>(c, s, b, m, v) }}"
    prepared = prove(make_model(text, {**weights, **NORM}))
    assert types(prepared) == [layer.split("(", maxsplit=1)[0].split("<", maxsplit=1)[0]]


@pytest.mark.parametrize(
    ("layer", "weights"),
    [
        ("Gemm(x, w, wb)", {"w": (3, 4), "wb": (4,)}),
        ("Gemm<transB=1, alpha=0.5, beta=2.0>(x, w, wb)", {"w": (4, 3), "wb": (1, 4)}),
        ("Gemm<beta=0.5>(x, w, wb)", {"w": (3, 4), "wb": (2, 1)}),
        ("Gemm(x, w)", {"w": (3, 4)}),
        ("MatMul(x, w)", {"w": (3, 4)}),
    ],
)
def test_a_matrix_product_takes_its_norm(
    layer: str, weights: dict[str, tuple[int, ...]], make_model: MakeModel, prove: Prove
) -> None:
    text = f"(float[2,3] x) => (float[2,4] y) {{ c = {layer} y = BatchNormalization(c,s,b,m,v) }}"
    prepared = prove(make_model(text, {**weights, **NORM}))
    assert types(prepared) == ["Gemm"]
    assert prepared.folded == ("y",)


def test_a_matmul_its_bias_and_its_norm_are_one_gemm(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[N,3] x) => (float[N,4] y)
        { c = MatMul(x, w) d = Add(wb, c) y = BatchNormalization(d, s, b, m, v) }"""
    prepared = prove(make_model(text, {"w": (3, 4), "wb": (4,), **NORM}))
    assert types(prepared) == ["Gemm"]
    assert prepared.biases_apart == ()


def test_a_matmul_of_three_dimensions_keeps_its_bias_and_norm(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,4,3] x) => (float[N,4,5] y)
        { c = MatMul(x, w) d = Add(c, wb) y = BatchNormalization(d, s, b, m, v) }"""
    prepared = prove(make_model(text, {"w": (3, 5), "wb": (5,), **NORM}))
    assert types(prepared) == ["MatMul", "Add", "BatchNormalization"]
    assert prepared.biases_apart == (("c", "d"),)
    assert prepared.norms_left == (("y", "it follows Add, which has no weights"),)


def test_a_bias_that_adds_a_dimension_stays(make_model: MakeModel, prove: Prove) -> None:
    text = "(float[2,3] x) => (float[A,B,C] y) { c = MatMul(x, w) y = Add(c, wb) }"
    prepared = prove(make_model(text, {"w": (3, 4), "wb": (5, 1, 4)}))
    assert types(prepared) == ["MatMul", "Add"]


@pytest.mark.parametrize("constant", [(4, 1, 1), (1, 4, 1, 1), (), (1,)])
@pytest.mark.parametrize("order", ["a, k", "k, a"])
@pytest.mark.parametrize("op", ["Mul", "Add", "Sub", "Div"])
def test_scales_and_shifts_by_channel_are_folded(
    op: str, order: str, constant: tuple[int, ...], make_model: MakeModel, prove: Prove
) -> None:
    text = f"{IMAGES} {{ a = Conv(x, w) y = {op}({order}) }}"
    # Near 1e3, so that nothing is divided by what is almost zero.
    weights = {"w": (4, 4, 3, 3), "k": constant}
    model = make_model(text.replace("Conv(x, w)", "Conv(x, w, far)"), {
        **weights, "far": np.full(4, 1e3, np.float32),
    })  # fmt: skip
    prepared = prove(model)
    assert types(prepared) == (["Conv"] if (op, order) != ("Div", "k, a") else ["Conv", "Div"])


@pytest.mark.parametrize("constant", [(4,), (4, 1), (1, 4), (4, 4), (2, 4, 1, 1), (1, 1, 4, 1, 1)])
def test_what_is_not_by_channel_stays(
    constant: tuple[int, ...], make_model: MakeModel, prove: Prove
) -> None:
    text = "(float[N,4,4,4] x) => (float y) { a = Conv(x, w) y = Mul(a, k) }"
    prepared = prove(make_model(text, {"w": (4, 4, 1, 1), "k": constant}))
    assert types(prepared) == ["Conv", "Mul"]


def test_one_channel_that_is_spread_stays(make_model: MakeModel, prove: Prove) -> None:
    text = f"{IMAGES} {{ a = Conv(x, w) y = Add(a, k) }}"
    prepared = prove(make_model(text, {"w": (1, 4, 1, 1), "k": (3, 1, 1)}))
    assert types(prepared) == ["Conv", "Add"]


def test_a_chain_of_affine_nodes_is_folded(make_model: MakeModel, prove: Prove) -> None:
    text = f"""{IMAGES} {{ a = Conv(x, w) n = BatchNormalization(a, s, b, m, v) o = Mul(n, k)
        p = Sub(l, o) q = Dropout(p) y = Relu(q) }}"""
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM, "k": (4, 1, 1), "l": ()}))
    assert types(prepared) == ["Conv", "Relu"]
    assert constants(prepared) == {"w", "w_bias"}


def test_a_norm_whose_input_is_seen_stays(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[N,4,6,6] x) => (float[N,4,4,4] c, float[N,4,4,4] y)
        { c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }"""
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM}))
    assert types(prepared) == ["Conv", "BatchNormalization"]
    assert prepared.norms_left == (("y", "'c' is an output, or a subgraph reads it"),)


def test_a_norm_beside_another_reader_stays(make_model: MakeModel, prove: Prove) -> None:
    text = f"{IMAGES} {{ c = Conv(x, w) n = BatchNormalization(c, s, b, m, v) y = Add(c, n) }}"
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM}))
    assert prepared.norms_left == (("n", "2 nodes read 'c'"),)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("n = BatchNormalization(x, s, b, m, v)", "it reads an input of the network"),
        ("r = Relu(x) n = BatchNormalization(r, s, b, m, v)", "it follows Relu, which has no w"),
        ("r = Conv(x, x2) n = BatchNormalization(r, s, b, m, v)", "weights or statistics are not"),
    ],
)
def test_a_norm_that_stays_says_why(
    start: str, why: str, make_model: MakeModel, prove: Prove
) -> None:
    text = (
        f"(float[N,4,6,6] x, float[4,4,3,3] x2) => (float[N,C,H,W] y) {{ {start} y = Conv(n, w) }}"
    )
    ((_, told),) = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM})).norms_left
    assert told.startswith(why)


def test_a_norm_of_a_negative_variance_stays(make_model: MakeModel) -> None:
    text = f"{IMAGES} {{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }}"
    weights: Weights = {"w": (4, 4, 3, 3), **NORM, "v": np.full(4, -1, np.float32)}
    assert prepare(make_model(text, weights)).folded == ()


def test_a_shared_weight_is_copied_only_where_folding_changes_it(
    make_model: MakeModel, prove: Prove
) -> None:
    text = f"""{IMAGES} {{ a = Conv<pads=[1,1,1,1]>(x, w) r = Relu(a) c = Conv<pads=[1,1,1,1]>(r, w)
        n = BatchNormalization(c, s, b, m, v) y = Conv(n, w) }}"""
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM}))
    weights = [node.input[1] for node in prepared.model.graph.node if node.op_type == "Conv"]
    assert weights == ["w", "w_folded", "w"]


def test_a_subgraph_keeps_what_it_reads(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[N,4,6,6] x, bool t) => (float[N,4,4,4] y) {
        c = Conv(x, w)
        n = BatchNormalization(c, s, b, m, v)
        i = Identity(n)
        y = If(t) <
            then_branch = yes () => (float[N,4,4,4] p)
                { q = Add(c, i) p = BatchNormalization(q, s, b, m, v) },
            else_branch = no () => (float[N,4,4,4] o) { o = Relu(n) }
        >
    }"""
    prepared = prove(make_model(text, {"w": (4, 4, 3, 3), **NORM}))
    assert types(prepared) == ["Conv", "BatchNormalization", "Identity", "If"]
    assert prepared.norms_left == (("n", "'c' is an output, or a subgraph reads it"),)


def test_constants_become_initializers_and_arithmetic_on_them_is_done(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,3] x) => (float[N,40] y) {
        k = Constant<value = float[3] {1.0, 2.0, 3.0}>()
        two = Constant<value_float = 2.0>()
        wt = Transpose(w)
        wi = Identity(wt)
        s = Mul(wi, two)
        a = Add(x, k)
        y = MatMul(a, s)
    }"""
    prepared = prove(make_model(text, {"w": (40, 3)}))
    assert types(prepared) == ["Add", "MatMul"]
    assert constants(prepared) == {"k", "s"}


def test_weights_of_any_size_are_folded_but_a_file_never_grows(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[64,64] x) => (float[64,64] y) {
        wt = Transpose(w) a = MatMul(x, wt) e = Expand(k, shape) y = Add(a, e) }"""
    prepared = prove(make_model(text, {"w": (64, 64), "k": (1, 64), "shape": np.array([64, 64])}))
    assert types(prepared) == ["MatMul", "Expand", "Add"]
    assert constants(prepared) == {"wt", "k", "shape"}


def test_weights_that_a_file_gives_the_shape_of_are_made(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,4,6,6] x) => (float[N,C,H,W] y)
        { w = ConstantOfShape<value = float[1] {0.5}>(shape) y = Conv(x, w) }"""
    prepared = prove(make_model(text, {"shape": np.array([64, 4, 3, 3])}))
    assert types(prepared) == ["Conv"]

    # 4 TB: nobody has that, and a hostile file may ask for it.
    text = """(float[N,4] x) => (float[N,M] y)
        { w = ConstantOfShape(shape) a = MatMul(x, w) b = MatMul(x, v) y = Concat<axis=1>(a, b) }"""
    huge = make_model(text, {"shape": np.array([4, 1 << 38]), "v": (4, 4)})
    assert "ConstantOfShape" in types(prepare(huge))


def test_identities_go_but_names_of_inputs_and_outputs_stay(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,4] x) => (float[N,4] y, float[N,4] z, float[N,4] again) {
        i = Identity(x) d, mask = Dropout(i) a = MatMul(d, w) z = Identity(a) b = Relu(z)
        y = Identity(b) again = Identity(x) }"""
    prepared = prove(make_model(text, {"w": (4, 4)}))
    assert types(prepared) == ["MatMul", "Relu", "Identity"]


def test_a_dropout_whose_mask_is_read_stays(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[N,4] x) => (float[N,4] y, bool[N,4] mask)
        { a = MatMul(x, w) y, mask = Dropout(a) }"""
    assert types(prove(make_model(text, {"w": (4, 4)}))) == ["MatMul", "Dropout"]


def test_initializers_that_old_files_list_as_inputs_are_constants(
    make_model: MakeModel, prove: Prove
) -> None:
    text = f"{IMAGES} {{ c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) }}"
    model = make_model(text, {"w": (4, 4, 3, 3), **NORM}, opset=7, ir_version=3)
    prepared = prove(model)
    assert types(prepared) == ["Conv"]
    assert prepared.model.ir_version == 7


def test_two_inputs_and_a_dynamic_batch_keep_their_names(
    make_model: MakeModel, prove: Prove
) -> None:
    text = """(float[N,4] x, float[N,4] z) => (float[N,4] y)
        { a = MatMul(x, w) b = MatMul(z, w) y = Add(a, b) }"""
    model = prove(make_model(text, {"w": (4, 4)})).model
    shape = model.graph.value_info[0].type.tensor_type.shape
    assert [shape.dim[0].dim_param, shape.dim[1].dim_value] == ["N", 4]
    assert model.graph.input[1].type.tensor_type.shape.dim[0].dim_param == "N"


def test_sizes_are_folded_where_they_are_fixed(make_model: MakeModel, prove: Prove) -> None:
    text = """(float[2,4,6,6] x) => (float[A,B] y) { c = Conv(x, w) h = Shape(c) o = Gather(h, zero)
        u = Unsqueeze(o, zeros) k = Concat<axis=0>(u, rest) y = Reshape(c, k) }"""
    weights: Weights = {
        "w": (4, 4, 3, 3), "zero": np.array(0), "zeros": np.array([0]), "rest": np.array([-1]),
    }  # fmt: skip
    assert types(prove(make_model(text, weights))) == ["Conv", "Reshape"]
    dynamic = prove(make_model(text.replace("[2,4,6,6]", "[N,4,6,6]"), weights))
    assert types(dynamic) == ["Conv", "Shape", "Gather", "Unsqueeze", "Concat", "Reshape"]


def test_a_local_function_is_put_in_place_of_its_call(prove: Prove) -> None:
    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17, "f": 1]>
        g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7}>
        { y = f.layer(x, w) }
        <domain: "f", opset_import: ["": 17]> layer (a, b) => (c) { d = MatMul(a, b) c = Relu(d) }
    """)
    assert types(prove(model)) == ["MatMul", "Relu"]


def test_a_custom_operator_stays_as_it_is(make_model: MakeModel) -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = my.own.Thing<k=3>(x) y = MatMul(a, w) }"
    prepared = prepare(make_model(text, {"w": (4, 4)}, opset=9))
    thing, product = prepared.model.graph.node
    assert (thing.domain, thing.op_type, thing.attribute[0].i) == ("my.own", "Thing", 3)
    assert product.op_type == "MatMul"


def test_nodes_get_names_that_no_other_has(make_model: MakeModel) -> None:
    model = make_model("(float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Relu(a) "
                       "y = MatMul(b, w) }", {"w": (4, 4)})  # fmt: skip
    model.graph.node[0].name = model.graph.node[1].name = "same"
    names = [node.name for node in prepare(model).model.graph.node]
    assert names == ["same", "same_2", "MatMul_y"]
