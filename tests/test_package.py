"""The package as an installed library: what importing it may need, and what settings.ini promises."""

import ast
import json
import os
import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

from packaging.requirements import Requirement

import synthreid

root = Path(__file__).parent.parent
settings = ConfigParser(delimiters=['='])
settings.read(root / 'settings.ini', encoding='utf-8')
settings = settings['DEFAULT']
extras = {
    key.removesuffix('_requirements'): shlex.split(value)
    for key, value in settings.items()
    if key.endswith('_requirements')
}

IMPORT_ALL = '''
import importlib, json, pkgutil, sys, traceback

for name in json.loads(sys.argv[1]): sys.modules[name] = None  # as if it were not installed
import synthreid
names = ['synthreid'] + [m.name for m in pkgutil.walk_packages(synthreid.__path__, 'synthreid.')]
failed = {}
for name in names:
    try: importlib.import_module(name)
    except BaseException: failed[name] = traceback.format_exc()
print(json.dumps(dict(names=names, failed=failed, loaded=sorted({m.split('.')[0] for m in sys.modules}))))
'''


def import_all(*blocked):
    "Import every module in a process of its own, without a display, where the modules `blocked` do not exist."
    env = {key: value for key, value in os.environ.items() if key not in ('DISPLAY', 'WAYLAND_DISPLAY', 'MPLBACKEND')}
    done = subprocess.run(
        [sys.executable, '-c', IMPORT_ALL, json.dumps(blocked)],
        cwd=root,
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_imports():
    developer = [Requirement(r).name for name in ('dev', 'notebook') for r in extras[name]]
    blocked = {name.replace('-', '_') for name in developer} - {
        'setuptools',
        'ipywidgets',
    }  # anywidget, for the explorers, brings ipywidgets
    blocked |= {
        'nbdev',
        'execnb',
        'ipykernel',
        'jupyter',
        'jupyter_core',
        'jupyter_client',
        'jupyterlab',
        'nbformat',
        'tkinter',
    }
    result = import_all(*sorted(blocked))
    assert not result['failed'], '\n'.join(result['failed'].values())
    modules = {
        '.'.join(f.relative_to(root).with_suffix('').parts)
        for f in (root / 'synthreid').rglob('*.py')
        if f.name != '__init__.py'
    }
    assert modules <= set(result['names']), 'a folder without __init__.py hides modules'
    loaded = set(result['loaded'])
    assert 'torch' in loaded
    assert not loaded & {
        'umap',
        'numba',
        'timm',
    }, 'umap takes half a minute and timm ten seconds to import: import them in the function'


def test_version():
    assert synthreid.__version__ == settings['version']


def test_extras(tmp_path):
    subprocess.run(
        [sys.executable, 'setup.py', '-q', 'egg_info', '--egg-base', str(tmp_path)],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    )
    built = (tmp_path / 'synthreid.egg-info' / 'requires.txt').read_text()
    sections = dict(required='')
    name = 'required'
    for line in built.splitlines():
        if line.startswith('['):
            name = line.strip('[]')
            sections[name] = ''
        else:
            sections[name] += line + '\n'
    read = lambda lines: {str(Requirement(line)) for line in lines if line}
    assert read(sections.pop('required').splitlines()) == read(shlex.split(settings['requirements']))
    assert set(sections) == set(extras) | {'all'} >= {'dev', 'notebook', 'all'}
    for extra, lines in extras.items():
        assert read(sections[extra].splitlines()) == read(lines), extra
    assert read(sections['all'].splitlines()) == set().union(*(read(lines) for lines in extras.values()))


COMMANDS = {'app', 'explore', 'reproduce'}  # functions, and the commands that call them


def test_one_name_has_one_meaning():
    "What a module exports no other exports, too; a command may be called like the function that it runs."
    homes = {}
    for file in sorted((root / 'synthreid').rglob('*.py')):
        for node in ast.parse(file.read_text(encoding='utf-8')).body:
            if isinstance(node, ast.Assign) and [t.id for t in node.targets if isinstance(t, ast.Name)] == ['__all__']:
                for name in ast.literal_eval(node.value):
                    homes.setdefault(name, []).append(file.relative_to(root / 'synthreid').as_posix())
    twice = {name: where for name, where in homes.items() if len(where) > 1}
    assert len(homes) > 300
    assert twice.keys() <= COMMANDS and all('commands.py' in where and len(where) == 2 for where in twice.values()), (
        twice
    )
