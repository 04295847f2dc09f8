"""HTML and SVG as an element tree, so that all text from run folders is escaped."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.etree.ElementTree import Element

Child = Element | str | None


def tag(name: str, /, *children: Child, **attributes: object) -> Element:
    """One element with its children; strings become escaped text, None is left out.

    Parameters
    ----------
    name : str
        The element's name, such as "p" or "svg".
    *children : Element, str or None
        What it holds, in order.
    **attributes : object
        Its attributes: ``class_`` gives class, ``data_x`` gives data-x, None leaves the attribute out.

    Examples
    --------
    >>> render(tag("p", "1 < 2 ", tag("b", "&"), class_="note"))
    '<p class="note">1 &lt; 2 <b>&amp;</b></p>'
    """
    written = {key.rstrip("_").replace("_", "-"): str(value) for key, value in attributes.items() if value is not None}
    element = Element(name, written)
    last: Element | None = None
    for child in children:
        if child is None:
            continue
        if isinstance(child, Element):
            element.append(child)
            last = child
        elif last is None:
            element.text = (element.text or "") + child
        else:
            last.tail = (last.tail or "") + child
    return element


def render(element: Element) -> str:
    """The element as HTML text; the contents of style and script elements are written as they are."""
    return ElementTree.tostring(element, encoding="unicode", method="html")
