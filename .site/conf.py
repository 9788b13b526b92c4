"""Sphinx's configuration of the site; `.ci/site` puts the pages that it builds side by side."""

import inspect
import pathlib
import re

from docutils import nodes
from flax import nnx
from sphinx import addnodes
from sphinx.util.inspect import stringify_signature

import gruflax
import gruflax.compat.v1


REPOSITORY = "https://github.com/gruflax/gruflax"

project = "gruflax"
author = "the authors of gruflax"
version = release = gruflax.__version__
html_title = f"gruflax {version}"
html_theme = "sphinx_book_theme"
html_theme_options = {
    "repository_url": REPOSITORY,
    "use_repository_button": True,
    "use_issues_button": True,
    "show_navbar_depth": 1,
    "navbar_persistent": [],  # the sidebar has the search
    "show_toc_level": 2,
}
html_static_path = ["static"]
html_css_files = ["site.css"]

exclude_patterns = ["README.md", "**/.*"]  # README.md is the beginning of index.md
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_codeautolink",
]

# The notebooks are stored as they were executed, and CI executes them elsewhere.
nb_execution_mode = "off"
myst_heading_anchors = 3

# A word in single backticks is a link where it names something that the reference has.
default_role = "py:obj"
add_module_names = False
autodoc_default_options = {
    "members": True,
    "inherited-members": True,
    "special-members": "__call__",
}
autodoc_member_order = "bysource"
# The docstrings tell types and shapes, in fewer words than the annotations.
autodoc_typehints = "none"
autodoc_preserve_defaults = True
maximum_signature_line_length = 60
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
toc_object_entries_show_parents = "hide"
codeautolink_autodoc_inject = True
codeautolink_concat_default = True
# The public names of classes, by the places where they are defined, which examples lead to.
MODULES = [gruflax, gruflax.nnx, gruflax.compat.v1, gruflax.datasets]
codeautolink_inventory_map = {
    f"{value.__module__}.{value.__qualname__}": f"{module.__name__}.{name}"
    for module in MODULES
    for name, value in inspect.getmembers(module, inspect.isclass)
}

# Pages that GitHub shows at another place than the site does; all other files stay on GitHub.
PAGES = {".github/CONTRIBUTING.md": "CONTRIBUTING.md"}


def place_links(app, docname, source):
    """Makes README.md the first page, and leads links to files that are no pages to GitHub."""
    pages = pathlib.Path(app.srcdir)
    if docname == "index":
        source[0] = (pages / "README.md").read_text() + source[0]

    def place(match):
        target = PAGES.get(match[1], match[1])
        if not (pages / target).exists() and pathlib.Path(target).exists():
            target = f"{REPOSITORY}/blob/main/{target}"
        return f"]({target})"

    if docname in ("index", "CHANGELOG", "CONTRIBUTING"):
        source[0] = re.sub(r"\]\((?!https?:|#)([^)]+)\)", place, source[0])


# Methods through which classes of gruflax call each other.
INTERNAL = """cells dropout_key dropout_mask_count layers mirrored own_state params sequence
    sequence_arguments step_cell""".split()


def only_own_members(app, what, name, member, skip, options):
    """Shows what gruflax itself documents of a class, inherited or not, and calls of layers."""
    if what != "class":
        return None
    inner = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
    own = str(getattr(inner, "__module__", "")).startswith("gruflax")
    public = name == "__call__" or not name.startswith("_") and name not in INTERNAL
    return not (own and public and inspect.getdoc(member))


def quote(app, what, name, obj, options, lines):
    """Prepares a docstring: fields of classes are arguments; only what can be a name is a link."""
    own = inspect.signature(obj).parameters if what in ("function", "method") else ()

    def quoted(match):
        keras, double, word, letter = match.groups(default="")
        if double:
            return match[0]
        name = re.fullmatch(r"[A-Za-z_][\w.]*(\(\))?", word) and word not in own and not keras
        text = f"`{word}`" if name else f"``{word}``"
        return keras + text + (rf"\ {letter}" if letter else "")

    text = re.sub(r"(?m)^Attributes:$", "Args:", "\n".join(lines))
    pattern = r"(Keras(?:'|\ 3's)\s+)?(?:(``.*?``)|`([^`]+)`)(\w?)"
    lines[:] = re.sub(pattern, quoted, text, flags=re.DOTALL).split("\n")


def write_signature(app, what, name, obj, options, signature, result):
    """Writes a constructor's arguments: without `parent`, which Flax sets, and in full for NNX."""
    if what == "class" and isinstance(obj, type(nnx.Module)):
        own = list(inspect.signature(obj.__init__).parameters.values())[1:]
        if own[-1].name == "options":  # NNX's RNN hands them to the fields of its base
            fields = inspect.signature(obj.__base__.__init__).parameters.values()
            own[-1:] = [field for field in fields if field.name not in ("self", own[0].name)]
        signature = stringify_signature(inspect.Signature(own), show_annotation=False)
    if what == "class" and issubclass(obj, nnx.Variable):
        return "", result
    if signature is None:
        return None
    signature = re.sub(r", parent=<[^>]*>", "", signature)
    return re.sub(r"<class '(jax\.numpy\.\w+)'>", r"\1", signature), result


def link_names(app, tree):
    """Makes links of names of gruflax in running text, where the reference has them."""
    for literal in list(tree.findall(nodes.literal)):
        name = literal.astext()
        plain = not isinstance(literal.parent, nodes.title | addnodes.pending_xref)
        if plain and re.fullmatch(r"gruflax(\.\w+)+", name):
            target = {"refdomain": "py", "reftype": "obj", "reftarget": name, "refexplicit": False}
            link = addnodes.pending_xref(refdoc=app.env.docname, refwarn=False, **target)
            literal.replace_self(link)
            link += literal


def setup(app):
    app.connect("doctree-read", link_names)
    app.connect("source-read", place_links)
    app.connect("autodoc-skip-member", only_own_members)
    app.connect("autodoc-process-docstring", quote, priority=400)  # before napoleon
    app.connect("autodoc-process-signature", write_signature)
