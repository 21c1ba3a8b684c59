"""PyTorch networks on their way in: every form of source, and every way in which one fails."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from deploykit.core.errors import BadInputError, MissingExtraError
from deploykit.core.types import Dim
from deploykit.load.inputs import parse_inputs
from deploykit.load.modules import load_source
from deploykit.load.sources import Source, check_form, resolve

INPUTS = parse_inputs(["x=N[1..4]x3"])
NET = """
import sys
from functools import partial
from torch import nn
import torch

class Net(nn.Module):
    def __init__(self, width: int = 2, dropout: float = 0.5):
        super().__init__()
        self.fc = nn.Linear(3, width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x):
        return self.drop(self.fc(x))

class Zoo:
    small = partial(Net, width=1)

def build(**options): return Net(**options)
def fails(): raise ValueError("the weights are\\nin the other office")
def fails_in_torch(): return nn.Linear(2, 3)(torch.ones(4))
def silent(): raise AssertionError
def leaves(): sys.exit("no licence")
def needs(): import surely_not_installed_anywhere
def number(): return 3
def lazy(): return nn.LazyLinear(2)
def meta(): return nn.Linear(3, 2, device="meta")
instance = Net(width=4)
def wide(width): return Net(width)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path


def load(folder: Path, text: str, **options: int) -> nn.Module:
    return load_source(Source(text, inputs=INPUTS, options=options, base=folder)).module


def refused(source: Source) -> str:
    with pytest.raises(BadInputError) as caught:
        load_source(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "width"), [("Net", 2), ("build", 2), ("instance", 4), ("Zoo.small", 1)]
)
def test_a_class_a_function_an_instance_and_a_dotted_name(
    folder: Path, name: str, width: int
) -> None:
    module = load(folder, f"net.py:{name}")

    assert module(torch.ones(1, 3)).shape == (1, width)
    assert not module.training


def test_options_are_arguments_of_the_callable(folder: Path) -> None:
    assert load(folder, "net.py:build", width=7)(torch.ones(1, 3)).shape == (1, 7)


def test_what_is_recorded_has_digests_and_no_path(folder: Path) -> None:
    (step,) = load_source(Source(f"{folder}/net.py:build", inputs=INPUTS)).history

    assert step.name == "load"
    assert step.options == {"source": "net.py:build", "inputs": ("x=N[1..4]x3:float32",)}
    assert set(step.input_digests) == {"code", "state"}
    assert step.versions["torch"] == torch.__version__


def test_a_package_on_the_path(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = folder / "a_package_of_this_test"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "inner.py").write_text(NET)
    monkeypatch.syspath_prepend(folder)

    assert load(folder, "a_package_of_this_test.inner:Net")(torch.ones(1, 3)).shape == (1, 2)


def test_a_package_beside_the_caller(tmp_path: Path) -> None:
    """As `python -m` finds it, though the console script has no such place on its path."""
    (tmp_path / "beside_the_caller").mkdir()
    (tmp_path / "beside_the_caller" / "net.py").write_text(NET)

    model = load_source(Source("beside_the_caller.net:build", inputs=INPUTS, base=tmp_path))

    assert type(model.module).__name__ == "Net"


def test_a_file_can_import_its_neighbours_when_it_is_read_and_when_it_builds(
    tmp_path: Path,
) -> None:
    (tmp_path / "early_part.py").write_text("width = 5\n")
    (tmp_path / "late_part.py").write_text("from torch import nn\n")
    (tmp_path / "net.py").write_text(
        "import early_part\n"
        "def build():\n"
        "    import late_part\n"
        "    return late_part.nn.Linear(3, early_part.width)\n"
    )
    before = list(sys.path)

    assert load(tmp_path, "net.py:build")(torch.ones(1, 3)).shape == (1, 5)
    assert sys.path == before


def test_two_nets_of_one_name_each_have_their_own_neighbours(tmp_path: Path) -> None:
    for name, width in (("a", 5), ("b", 6)):
        folder = tmp_path / name
        (folder / "parts").mkdir(parents=True)
        (folder / "blocks.py").write_text(f"width = {width}\n")
        (folder / "parts" / "__init__.py").write_text(f"height = {width}\n")
        (folder / "net.py").write_text(
            "from torch import nn\nimport blocks\nimport parts\n"
            "def build(): return nn.Linear(parts.height, blocks.width)\n"
        )
    a, b, again = (load(tmp_path, f"{name}/net.py:build") for name in ("a", "b", "a"))

    shapes = [next(len(weight) for weight in net.parameters()) for net in (a, b, again)]
    assert shapes == [5, 6, 5]


def test_the_code_digest_is_of_this_source_and_not_of_its_place(tmp_path: Path) -> None:
    digests = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "net.py").write_text(NET)
        (step,) = load_source(Source("net.py:build", inputs=INPUTS, base=folder)).history
        digests.append(step.input_digests["code"])
    (folder / "net.py").write_text(NET + "# changed\n")
    (step,) = load_source(Source("net.py:build", inputs=INPUTS, base=folder)).history

    assert digests[0] == digests[1]
    assert step.input_digests["code"] != digests[1]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("buidl", "net.py has no 'buidl'; did you mean 'build'?"),
        ("Zoo.smal", "net.py has no 'Zoo.smal'; did you mean 'small'?"),
        ("fails", "net.py:fails failed with ValueError: the weights are (net.py, line 20)"),
        ("silent", "net.py:silent failed with AssertionError (net.py, line 22)"),
        ("leaves", "net.py:leaves failed with SystemExit: no licence (net.py, line 23)"),
        (
            "wide",
            (
                "net.py:wide cannot be called without width: give it a default, or a value under "
                "[source.options] in a recipe"
            ),
        ),
        ("number", "net.py:number gave a int, not a torch.nn.Module"),
        ("torch", "net.py:torch gave a module, not a torch.nn.Module"),
        (
            "lazy",
            (
                "net.py:lazy: weight is lazy and has no shape yet; run the network once before it "
                "is returned"
            ),
        ),
        (
            "meta",
            "net.py:meta: weight is on the meta device and has no values; build it on the CPU",
        ),
    ],
)
def test_a_callable_that_gives_no_network_is_refused(folder: Path, name: str, words: str) -> None:
    assert refused(Source(f"net.py:{name}", inputs=INPUTS, base=folder)) == words


def test_a_failure_inside_torch_names_the_users_own_line(folder: Path) -> None:
    words = refused(Source("net.py:fails_in_torch", inputs=INPUTS, base=folder))

    assert words.startswith("net.py:fails_in_torch failed with RuntimeError: ")
    assert words.endswith("(net.py, line 21)")


def test_an_option_that_the_callable_does_not_take_is_refused(folder: Path) -> None:
    given = Source("net.py:build", inputs=INPUTS, options={"widht": 3}, base=folder)
    assert "TypeError: Net.__init__() got an unexpected keyword argument 'widht'" in refused(given)

    given = Source("net.py:instance", inputs=INPUTS, options={"width": 3}, base=folder)
    assert refused(given) == "net.py:instance is a network already and takes no options: width"


def test_a_package_that_is_not_installed_is_named_with_its_remedy(folder: Path) -> None:
    (folder / "needs.py").write_text("import surely_not_installed_anywhere\n")
    for text in ("needs.py:build", "net.py:needs"):
        with pytest.raises(MissingExtraError) as caught:
            load_source(Source(text, inputs=INPUTS, base=folder))
        assert str(caught.value).endswith(
            " needs the module 'surely_not_installed_anywhere', which is not installed: "
            "pip install the package that has it"
        )


def test_a_file_that_cannot_be_imported_says_why(folder: Path) -> None:
    (folder / "broken.py").write_text("def build(:\n")
    words = refused(Source("broken.py:build", inputs=INPUTS, base=folder))
    assert words == f"{folder}/broken.py is not Python: invalid syntax (broken.py, line 1)"

    (folder / "angry.py").write_text("\nraise RuntimeError('not on this machine')\n")
    words = refused(Source("angry.py:build", inputs=INPUTS, base=folder))
    assert words == (
        f"{folder}/angry.py failed with RuntimeError: not on this machine (angry.py, line 2)"
    )
    assert refused(Source("gone.py:build", inputs=INPUTS, base=folder)) == (
        f"{folder}/gone.py does not exist"
    )


def test_a_module_that_is_not_there_says_how_to_name_a_file() -> None:
    for place in ("surely.not.there", "torch.surely_not_there"):
        assert refused(Source(f"{place}:build", inputs=INPUTS)) == (
            f"no module is called {place!r}: install its package, or give the file as "
            f"path/{place.replace('.', '/')}.py:NAME"
        )


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("raise RuntimeError('no GPU')", "failed with RuntimeError: no GPU (__init__.py, line 1)"),
        ("import os; os.no_such", "failed with AttributeError: module 'os' has no attribute"),
    ],
)
def test_a_package_that_fails_while_it_is_imported_says_why(
    folder: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    package = folder / "a_failing_package"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    (package / "net.py").write_text(NET)
    monkeypatch.syspath_prepend(folder)

    assert words in refused(Source("a_failing_package.net:build", inputs=INPUTS))


def test_a_package_whose_own_import_is_missing_names_that(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "a_needy_module.py").write_text("import surely_not_installed_anywhere\n")
    monkeypatch.syspath_prepend(folder)

    with pytest.raises(MissingExtraError, match="needs the module 'surely_not"):
        load_source(Source("a_needy_module:build", inputs=INPUTS))


def test_inputs_must_be_declared(folder: Path) -> None:
    assert refused(Source("net.py:build", base=folder)) == (
        'net.py:build: its inputs are not declared; add --input "x=N[1..64]x3x224x224"'
    )


def test_weights_are_put_into_the_network(folder: Path) -> None:
    path = folder / "w.safetensors"
    save_file({"fc.weight": torch.ones(2, 3), "fc.bias": torch.zeros(2)}, path)
    source = Source("net.py:build", weights=path, inputs=INPUTS, base=folder)
    model = load_source(source)

    assert model.module(torch.ones(1, 3)).tolist() == [[3.0, 3.0]]
    assert set(model.history[0].input_digests) == {"code", "weights_file", "state"}


def test_weights_that_are_not_there_or_do_not_fit(folder: Path) -> None:
    path = folder / "w.safetensors"
    source = Source("net.py:build", weights=path, inputs=INPUTS)
    assert refused(source) == f"weights {path} do not exist"
    source = Source("net.py:build", weights=path, inputs=INPUTS, base=folder)
    assert refused(source) == f"weights {path} do not exist; train them: deploykit train {folder}"

    save_file({"fc.weight": torch.ones(2, 3)}, path)
    assert refused(source) == f"weights {path} do not fit the network: 1 missing (fc.bias)"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "net.pt2"
    batch = torch.export.Dim("N", min=1, max=16)
    program = torch.export.export(
        nn.Linear(3, 2), (torch.ones(2, 3),), dynamic_shapes={"input": {0: batch}}
    )
    torch.export.save(program, path)
    return path


def test_an_exported_program_needs_trust(exported: Path) -> None:
    assert refused(Source(str(exported))) == (
        f"{exported}: loading a .pt2 file can run code in it; add --trust if you know its maker"
    )


def test_an_exported_program_knows_its_inputs(exported: Path) -> None:
    model = load_source(Source("net.pt2", trust=True, base=exported.parent))
    (spec,) = model.inputs

    assert spec.dtype == "float32"
    assert spec.shape == (Dim("N", 1, 16), 3)
    assert model.module(torch.ones(5, 3)).shape == (5, 2)
    assert model.history[0].options["source"] == "net.pt2"


def test_an_exported_program_that_is_damaged_is_refused(exported: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.pt2"
    for data in (exported.read_bytes()[:400], b"", b"no zip"):
        path.write_bytes(data)
        assert refused(Source(str(path), trust=True)).startswith(f"{path} failed with ")
    path.unlink()
    assert refused(Source(str(path), trust=True)) == f"{path} does not exist"


RECIPE = """
schema = "deploykit/recipe"
version = "1.0"
task = "classification"
[source]
net = "net.py:build"
weights = "w.safetensors"
inputs = ["x=N[1..4]x3"]
[source.options]
width = 6
"""


def test_a_recipe_is_what_it_says_and_the_caller_wins(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE)
    said = resolve(Source(str(folder)))
    assert said.text == "net.py:build"
    assert said.weights == folder / "w.safetensors"
    assert said.inputs == INPUTS
    assert said.options == {"width": 6}
    assert said.io.task == "classification"
    assert said == resolve(Source("recipe.toml", base=folder))

    other = parse_inputs(["x=2x3"])
    won = resolve(
        Source(str(folder), weights=Path("o.pt"), inputs=other, options={"width": 3}, trust=True)
    )
    assert (won.weights, won.inputs, won.options) == (Path("o.pt"), other, {"width": 3})
    assert won.trust


def test_a_recipe_is_loaded_from_its_own_folder(folder: Path) -> None:
    (folder / "recipe.toml").write_text(RECIPE.replace('weights = "w.safetensors"', ""))
    model = load_source(Source(str(folder)))

    assert model.module(torch.ones(1, 3)).shape == (1, 6)
    assert model.io.task == "classification"
    assert model.history[0].options["option.width"] == 6


FORMS = (
    "write path/net.py:build, package.module:callable, timm:NAME, torchvision:NAME, a folder with "
    "recipe.toml, model.onnx or model.pt2"
)


def test_what_is_no_source_is_refused_before_torch_is_loaded(folder: Path) -> None:
    for text in ("nothing", "net.pth", "net.py:", ":build"):
        with pytest.raises(BadInputError) as caught:
            check_form(text)
        assert str(caught.value) == f"{text!r} is not a source and no such file; {FORMS}"
    for text, words in (
        (f"{folder}/net.py", f"'{folder}/net.py' is not a source; {FORMS}"),
        (str(folder), f"'{folder}' is not a source; {FORMS}"),
        ("gone/net.py:build", "gone/net.py does not exist"),
        ("gone.pt2", "gone.pt2 does not exist"),
        ("gone.toml", "gone.toml does not exist"),
    ):
        with pytest.raises(BadInputError) as caught:
            check_form(text)
        assert str(caught.value) == words
    check_form(f"{folder}/net.py:build")
    check_form("timm:resnet18")


@pytest.mark.parametrize("package", ["timm", "torchvision"])
def test_a_zoo_that_is_not_installed_says_how_to_install_it(
    package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)  # as where it is not installed

    with pytest.raises(MissingExtraError) as caught:
        load_source(Source(f"{package}:resnet18"))
    assert str(caught.value) == f"{package} is not installed: pip install {package}"
