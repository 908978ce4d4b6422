import ast
import inspect
import pkgutil
import shutil
from dataclasses import asdict, fields, is_dataclass
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from sphinx.application import Sphinx
from sphinx.ext import autosummary
from sphinx.pycode import ModuleAnalyzer

import stimage
from stimage.models.embedding._codes import N_CODES
from stimage.models._presets import PRESETS
from stimage.models.embedding._axes import N_AXES
from stimage.models.embedding._predicted import MOST_SITES
from stimage.modules import IMAGE_ENCODERS

project = "stimage"
author = "stimage developers"
copyright = author
version = release = installed_version("stimage")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]
templates_path = ["_templates"]

nb_execution_mode = "off"
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath", "substitution"]
myst_heading_anchors = 3

autosummary_generate = True
# A summary is the first sentence, which "Eq. 6" does not end.
autosummary.WELL_KNOWN_ABBREVIATIONS += ("Eq.", "Eqs.")
# Pages of names that are gone would stay, and fail the build.
shutil.rmtree(Path(__file__).parent / "api" / "generated", ignore_errors=True)
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_typehints_format = "short"
napoleon_google_docstring = False

# The pages are built, and can be read, without network: names of other packages are no links, MathJax comes along.
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(anndata|collections|lightning|matplotlib|np|numpy|os|pandas|pathlib|scipy|scvi|spatialdata|torch|typing|zarr)\..*",
    ),
    (
        "py:.*",
        r"stimage\.(models\.alignment\._setup|data\.sampling\.(device\._dense_expression|masking\._rule)|train\._processes|benchmark\._hest_files)\..*",
    ),
    ("py:.*", r"[^.]*"),
]

html_theme = "sphinx_book_theme"
html_title = "stimage"
html_static_path = ["_static"]
html_css_files = ["stimage.css"]
html_favicon = "_static/favicon.svg"
html_context = {"default_mode": "auto"}
html_theme_options = {"show_toc_level": 2, "home_page_in_toc": True, "navbar_persistent": []}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def preset_table() -> str:
    """What the presets decide, as a Markdown table; read from the package, so that the page cannot go stale."""

    def settings(name: str) -> dict[str, object]:
        found = {}
        for field in fields(PRESETS[name]):
            value = getattr(PRESETS[name], field.name)
            found |= asdict(value) if is_dataclass(value) else {field.name: value}
        return found

    default, paper = settings("default"), settings("paper")
    rows = [f"| `{key}` | {default[key]} | {paper[key]} |" for key in default]
    return "\n".join(["| setting | `default` | `paper` |", "|---|---|---|", *rows])


def encoder_table() -> str:
    """Known image encoders as a Markdown table."""

    def words(value: object) -> str:
        return {None: "?", True: "yes", False: "no"}[value]

    rows = []
    for config in IMAGE_ENCODERS.values():
        weights = f"`{config.hub}`" if config.hub else config.weights
        numbers = [config.width, config.input_size, config.patch_size or "", f"{config.microns_per_pixel or '':}"]
        terms = [config.licence or "?", words(config.commercial), words(config.gated)]
        cells = [f"`{config.name}`", *numbers, weights, "yes" if config.timm_hub else "", *terms]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    head = "| name | features | pixels | patch | µm per pixel | weights | `allow_download` | licence | commercial | gated |"
    return "\n".join([head, "|" + 10 * "---|", *rows])


myst_substitutions = {
    "encoders": encoder_table(),
    "presets": preset_table(),
    "most_sites": f"{MOST_SITES:,}",
    "dimensions": N_AXES + N_CODES,
}


def modules_of(package: ModuleType) -> list[ModuleType]:
    names = [module.name for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")]
    return [import_module(name) for name in names]


# Some names in type hints are imported for type checkers only. With everything loaded they can be imported without
# going round in circles, and the pages show what the hints stand for.
for module in modules_of(stimage):
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, type_ignores=[]), str(module.__file__), "exec"), vars(module))
    for value in vars(module).values():
        if inspect.isclass(value) and value.__module__ == module.__name__ and "__init__" in vars(value):
            value.__init__.__annotations__ = get_type_hints(value.__init__)


# Registries that are public, and the modules that they are from.
REGISTRIES = {
    "IMAGE_ENCODERS": "stimage.modules._image_encoders._registry",
    "LATTICES": "stimage.data.lattices._registry",
    "MASKINGS": "stimage.data.sampling.masking._registry",
    "METRICS": "stimage.benchmark.metrics._registry",
    "REGION_BASELINES": "stimage.benchmark.regions._registry",
    "UNITS": "stimage.data.sampling.units._kind",
}


def describe_registry(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Where a constant is imported from another module, Sphinx finds the docstring of its type instead of its own."""
    for registry, module in REGISTRIES.items():
        if what == "data" and name.endswith(f".{registry}"):
            lines[:] = ModuleAnalyzer.for_module(module).find_attr_docs()["", registry]


def setup(app: Sphinx) -> None:
    app.connect("autodoc-process-docstring", describe_registry)
