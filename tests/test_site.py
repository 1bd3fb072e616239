"""The site is not built with a link that leads nowhere, and asks other hosts for nothing."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from yarl import URL

from tests.conftest import ROOT
from tests.test_docs import DOCUMENTS, prose_of

INDEX = "# Start\n\n```{toctree}\npage\n```\n"
PAGE = "# Page\n\n## A part\n\n[here](#a-part), [the start](index.md#start), ![icon](icon.svg)\n"
BROKEN = {
    "[a page](nowhere.md)": "nowhere.md",
    "[a part of this one](#no-part)": "no-part",
    "[a part of another one](index.md#no-part)": "no-part",
    "![a picture](nowhere.svg)": "nowhere.svg",
}


def build(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    """Build a site of two pages as `make docs` builds ours."""
    source = folder / "docs"
    source.mkdir()
    (source / "index.md").write_text(INDEX, encoding="utf-8")
    (source / "page.md").write_text(page, encoding="utf-8")
    (source / "icon.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>", encoding="utf-8")
    (line,) = re.findall(r"sphinx-build (.* site)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    options = line.replace("docs . site", f"{ROOT / 'docs'} {folder} {folder / 'site'}").split()
    command = [sys.executable, "-m", "sphinx", *options]
    return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, text=True)


def test_a_page_whose_links_hold_becomes_html_that_asks_nobody_else(tmp_path: Path):
    built = build(tmp_path, PAGE)
    assert (built.returncode, built.stderr) == (0, "")
    html = (tmp_path / "site" / "docs" / "page.html").read_text(encoding="utf-8")
    assert 'id="a-part"' in html
    assert not re.findall(r"<(?:script|img|link)[^>]*(?:src|href)=\"https?:", html)
    assert "docs/index.html" in (tmp_path / "site" / "index.html").read_text(encoding="utf-8")


def test_each_link_that_leads_nowhere_is_an_error_with_its_line(tmp_path: Path):
    built = build(tmp_path, "\n\n".join([PAGE, *BROKEN]))
    assert built.returncode != 0
    for missing in BROKEN.values():
        assert re.search(rf"page\.md:\d+: WARNING: .*{missing}", built.stderr), built.stderr


def test_a_page_that_nothing_leads_to_is_an_error(tmp_path: Path):
    (tmp_path / "README.md").write_text("# Alone\n", encoding="utf-8")
    built = build(tmp_path, PAGE)
    assert built.returncode != 0
    assert "README.md" in built.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name + "/" + path.name)
def test_addresses_of_others_are_well_formed(document: Path):
    shown = prose_of(document)
    for address in re.findall(r"\]\((https?:[^)\s]*)\)|<(https?:[^>\s]*)>", shown):
        url = URL(address[0] or address[1])
        assert url.host, address
        assert url.scheme == "https" or url.host in ("127.0.0.1", "localhost"), address
        assert "." in url.host or url.host == "localhost", address
