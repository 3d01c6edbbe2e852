"What a notebook exports, as signatures and tables in Markdown: from the modules themselves and their docments."

import ast
import inspect
import re
from importlib import import_module

from fastcore.docments import docments, empty


def escape(text):
    "Text as one cell of a table: no sign means anything but in `code`."
    parts = re.split(r'(`[^`]*`)', ' '.join(str(text).split()))
    parts[::2] = [re.sub(r'([*_\[\]<>$\\~])', r'\\\1', part) for part in parts[::2]]
    return ''.join(parts).replace('|', r'\|')


def code(text):
    return f'`{text}`'.replace('|', r'\|') if text else ''


def kind(annotation):
    "A type as one writes it."
    if annotation in (empty, None):
        return ''
    name = annotation.__name__ if inspect.isclass(annotation) and '[' not in str(annotation) else str(annotation)
    return re.sub(r'\b(?:[a-z_]\w*\.)+(?=\w)', '', name)


def default(value):
    if value is empty:
        return ''
    shown = getattr(value, '__qualname__', None) or repr(value)
    return shown if len(shown) <= 40 and ' at 0x' not in shown else '...'


def told_of(thing):
    "{name: docment}, of a dataclass with the fields it inherits."
    bases = [c for c in reversed(thing.__mro__) if '__dataclass_fields__' in vars(c)] if inspect.isclass(thing) else []
    found = {}
    for source in bases or [thing]:
        found |= docments(source, full=True)
    untold = {'self', 'cls'} | {name for name in ('args', 'kwargs') if name in found and not found[name].docment}
    return {name: d for name, d in found.items() if name not in untold}


def table(thing):
    "Parameters, or fields, and what comes back."
    told = told_of(thing)
    back = told.pop('return', None)
    rows = [(code(n), code(kind(d.anno)), code(default(d.default)), escape(d.docment or '')) for n, d in told.items()]
    if back and (back.docment or kind(back.anno) not in ('', 'None')):
        rows.append(('*returns*', code(kind(back.anno)), '', escape(back.docment or '')))
    if not any(row[1] or row[3] for row in rows):
        return []
    head = ['| name | type | default | |', '|---|---|---|---|']
    return head + ['| ' + ' | '.join(row) + ' |' for row in rows] + ['']


def arguments(node):
    "Names and defaults; types stand in the table."
    args = ast.parse(ast.unparse(node)).body[0].args
    for a in [*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg]:
        if a is not None:
            a.annotation = None
    return '(' + re.sub(r'^(?:self|cls)(?:, |$)', '', ast.unparse(args)) + ')'


def describe(node, value, module, fence=6):
    "One function or class with its methods, as a directive of Sphinx's domain of Python."
    whole = isinstance(node, ast.ClassDef)
    inner = {n.name: n for n in getattr(node, 'body', ()) if isinstance(n, ast.FunctionDef)}
    signature = '' if whole else arguments(node)
    if whole and '__init__' in inner:
        signature = arguments(inner['__init__'])
    lines = [
        f'{":" * fence}{{py:{"class" if whole else "function"}}} {node.name}{signature}',
        f':module: {module}',
        '',
        (ast.get_docstring(node) or '').strip(),
        '',
        *table(value),
    ]
    for name, method in inner.items() if whole else ():
        if name.startswith('_') or not ast.get_docstring(method):
            continue
        kinds = {ast.unparse(d) for d in method.decorator_list}
        role = 'property' if 'property' in kinds else 'method'
        own = inspect.getattr_static(value, name)
        own = getattr(own, 'fget', None) or getattr(own, '__func__', own)
        lines += [f'{":" * (fence - 1)}{{py:{role}}} {name}{"" if role == "property" else arguments(method)}', '']
        lines += [
            ast.get_docstring(method),
            '',
            *(table(own) if inspect.isfunction(own) else ()),
            ':' * (fence - 1),
            '',
        ]
    return '\n'.join([*lines, ':' * fence, ''])


def public(source):
    "Functions and classes for others in an exported cell."
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [n for n in ast.parse(source).body if isinstance(n, kinds) and not n.name.startswith('_')]


def names(source):
    "What a cell defines, private names too."
    body = ast.parse(source).body
    targets = [t for n in body if isinstance(n, ast.Assign) for t in n.targets]
    plain = {t.id: None for target in targets for t in ast.walk(target) if isinstance(t, ast.Name)}
    return [n.name for n in body if isinstance(n, (ast.FunctionDef, ast.ClassDef))] or list(plain)


def api(source, module):
    "Markdown about what a cell exports; nothing for imports and constants."
    nodes = public(source)
    if not nodes:
        return ''
    here = import_module(module)
    return '\n'.join(describe(node, getattr(here, node.name), module) for node in nodes)
