#!/usr/bin/env python3
"""calculate.py: {"expression": "(1 + 2) * 3"} on stdin gives {"value": 9}. Arithmetic only, nothing is run as code."""
import ast
import json
import operator
import sys

OPERATIONS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def value(node):
    if isinstance(node, ast.Constant) and type(node.value) in (int, float):
        return node.value
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
        return OPERATIONS[type(node.op)](value(node.left), value(node.right))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -value(node.operand)
    raise ValueError("only numbers, + - * / and ( ) are calculated")


def main():
    try:
        answer = {"value": value(ast.parse(json.load(sys.stdin)["expression"], mode="eval").body)}
    except (ValueError, SyntaxError, ZeroDivisionError, OverflowError, RecursionError) as e:
        answer = {"error": str(e)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
