"""Read XML files of strangers."""

from pathlib import Path
from xml.etree import ElementTree

from tasks.values.errors import DataError


def read_xml(file: Path) -> ElementTree.Element:
    """Read the root of an XML file.

    Raises:
        DataError: The file is not XML, or declares a document type (which may hide an entity bomb).
    """
    try:
        return ElementTree.fromstring(file.read_bytes(), ElementTree.XMLParser(target=_PlainTree()))
    except (ElementTree.ParseError, ValueError, LookupError, RecursionError) as error:
        raise DataError(f"{file}: {error}") from error


class _PlainTree(ElementTree.TreeBuilder):
    def doctype(self, name: str, public: str, system: str) -> None:
        raise ValueError(
            "it declares a document type (<!DOCTYPE>), which annotations have no use for; remove that line"
        )
