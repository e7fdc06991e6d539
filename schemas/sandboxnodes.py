"""Rewrites a template's syntax tree so that everything that could run or grow without limit is counted (sandbox.py)."""

from __future__ import annotations

from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.visitor import NodeTransformer

Node = TypeVar("Node", bound=nodes.Node)


def count(tree: nodes.Template) -> nodes.Template:
    """`tree` with its counting filters; raises TemplateSyntaxError for what a template from a file may not do."""
    changed = _Counting().visit(tree)
    changed.set_environment(tree.environment)
    return changed


class _Counting(NodeTransformer):
    """Loops pay for each step, macros and blocks for each run, outputs for their length, comparisons for both sides."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        if node.recursive:
            raise jinja2.TemplateSyntaxError("recursive loops are not read", node.lineno)
        weight = 1 + _static(node)
        self.generic_visit(node)
        node.iter = _filter(node.iter, "_each", nodes.Const(weight, lineno=node.lineno))
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._paying(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:
        return self._paying(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:
        return self._paying(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "_concat")

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            part
            if isinstance(part, nodes.TemplateData) or not isinstance(part, nodes.Expr)
            else _filter(part, "_shown")
            for part in node.nodes
        ]
        return node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter(node.expr, "_weighed")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_weighed")
        return node

    def visit_Test(self, node: nodes.Test) -> nodes.Node:
        self.generic_visit(node)
        # `x is defined` must not look at x; only tests with a second side compare.
        if node.args:
            node.node = _filter(node.node, "_weighed")
            node.args = [_filter(one, "_weighed") for one in node.args]
        return node

    def visit_Include(self, node: nodes.Include) -> nodes.Node:
        if not isinstance(node.template, nodes.Const) or not isinstance(node.template.value, str):
            raise jinja2.TemplateSyntaxError("an include must name its file in quotes", node.lineno)
        return node

    def _refused(self, node: Any) -> nodes.Node:
        raise jinja2.TemplateSyntaxError("other templates are not read: write it here", node.lineno)

    visit_Import = visit_FromImport = visit_Extends = _refused

    def _paying(self, node: Any) -> nodes.Node:
        weight = 1 + _static(node)
        self.generic_visit(node)
        paid = _filter(nodes.Const(weight, lineno=node.lineno), "_spend")
        node.body = [nodes.Output([paid], lineno=node.lineno), *node.body]
        return node


def _static(node: nodes.Node) -> int:
    """Characters that a body writes as they are."""
    return sum(len(part.data) for part in node.find_all(nodes.TemplateData))


def _filter(value: Any, name: str, *options: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(options), [], None, None, lineno=value.lineno)
