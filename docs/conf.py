"""How Sphinx makes the site: `make docs`.

Its source is the whole repository, so that links out of docs/ lead somewhere.
"""

from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

from batchserve import __version__

project = "batchserve"
copyright = "the batchserve authors"  # noqa: A001 - Sphinx's name
version = release = __version__

extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = ["*.md", "docs/*.md", "examples/*/README.md", "benchmarks/README.md"]
# Not to be searched: they hold the pages of others.
exclude_patterns = [".*", "site", "dist"]

# As deep as GitHub gives a heading its anchor.
myst_heading_anchors = 6
# A target that is missing is a warning, and `-W` makes an error of it.
nitpicky = True

html_theme = "furo"
html_title = f"batchserve {__version__}"
html_favicon = "../batchserve/web/static/icon.svg"
html_theme_options = {"top_of_page_buttons": []}
html_copy_source = False
html_extra_path = ["site"]

# `make links` asks every other host once. These are examples, or the reader's own machine.
linkcheck_ignore = [r"https?://(localhost|127\.0\.0\.1|images\.example\.org)", r"https://…"]
linkcheck_timeout = 20
linkcheck_workers = 4


def show_folders_as_text(app: Sphinx, document: nodes.document) -> None:
    """A link to a folder is for those who read on GitHub: the site has no page of it."""
    here = Path(app.env.doc2path(app.env.docname)).parent
    for link in list(document.findall(pending_xref)):
        if link.get("refdomain") is None and (here / link["reftarget"]).is_dir():
            link.replace_self(link.children)


def setup(app: Sphinx) -> None:
    app.connect("doctree-read", show_folders_as_text)
