"""The modules import each other without circles; import-linter sees packages, this sees modules."""

import grimp
import networkx as nx


def test_no_module_imports_itself_through_others():
    graph = grimp.build_graph("nip")
    imports = nx.DiGraph((a, b) for a in graph.modules for b in graph.find_modules_directly_imported_by(a))
    # a package's `__init__` re-exports what its modules define
    packages = {module for module in graph.modules if graph.find_children(module)}
    circles = [found for found in nx.strongly_connected_components(imports) if len(found) > 1]
    assert [sorted(found) for found in circles if not found & packages] == []
