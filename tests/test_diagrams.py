"""The diagrams as files: they can be read aloud, they scale, and they take the colour of the text."""

import re
from xml.etree import ElementTree

import pytest

from vae_tutorial import plots
from vae_tutorial.diagrams import FOLDER, Diagram

FILES = sorted(FOLDER.glob("*.svg"))
TEXT = "{http://www.w3.org/2000/svg}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_diagram_can_be_read_scales_and_takes_the_colour_of_the_text(path):
    root = ElementTree.parse(path).getroot()
    assert root.tag == f"{TEXT}svg"
    assert len(root.get("viewBox", "").split()) == 4
    assert not {"width", "height"} & set(root.attrib)
    assert len(root.findtext(f"{TEXT}title", "").split()) >= 2
    assert len(root.findtext(f"{TEXT}desc", "").split()) >= 8
    source = path.read_text(encoding="utf-8")
    assert "currentColor" in source
    # Black or white would vanish on one of the two pages; other hosts are not asked for anything.
    assert not re.search(r"(?i)#(000|fff)\b|#(000000|ffffff)|\b(black|white)\b(?=[\"';])", source)
    assert not re.search(r"https?://(?!www\.w3\.org/)", source)


def test_ids_do_not_meet_on_a_page():
    found = [name for path in FILES for name in re.findall(r'\bid="([^"]+)"', path.read_text())]
    assert len(found) == len(set(found))


def test_a_notebook_shows_the_drawing_and_reads_its_words():
    shown = plots.diagram(FILES[0].stem)
    assert isinstance(shown, Diagram)
    assert shown._repr_svg_() == FILES[0].read_text(encoding="utf-8")
    assert repr(shown) == f"<diagram {FILES[0].stem}: {shown.description}>"
    with pytest.raises(ValueError, match=f"no diagram 'laddr'.*{FILES[0].stem}"):
        plots.diagram("laddr")
