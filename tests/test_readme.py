"""The README says what works: every block of code in it is run, or at least understood by the command line."""

import functools
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from synthreid import __version__, cli, commands
from synthreid.render.folder import render_folder

README = (Path(__file__).parents[1] / 'README.md').read_text(encoding='utf-8')
BLOCKS = re.findall(r'^```(\w*)\n(.*?)^```', README, re.M | re.S)
LINES = [
    shlex.split(line, comments=True)
    for kind, block in BLOCKS
    if kind == 'bash'
    for line in block.splitlines()
    if line.startswith('synthreid ')
]
TINY = (
    '--size 32x16 --steps 2 --warmup-steps 1 --batch-size 4 --reid-batch 8 --dim 8 --n-blocks 1 --discriminator-dim 8'
    ' --head basic --head-layers [1] --head-widths [16] --precision 32-true'
).split()
DIRECT = '--size 32x16 --steps 2 --batch-size 4 --backbone resnet_small --precision 32-true'.split()


@pytest.fixture(scope='module')
def here(tmp_path_factory):
    "A folder in which the names of the README exist."
    root = tmp_path_factory.mktemp('readme')
    for name, domain in ('SYNTHETIC', 'game'), ('REAL', 'camera'):
        render_folder(root / name, domain, ids=8, per_id=6, size='32x16', workers=1, progress=False)
    shutil.copytree(root / 'SYNTHETIC' / 'query', root / 'FOLDER')
    for name, path in zip(('a.jpg', 'b.jpg'), sorted((root / 'FOLDER').glob('*.jpg'))):
        shutil.copy(path, root / name)
    return root


def test_all_kinds_of_blocks_are_known():
    assert {kind for kind, _ in BLOCKS} == {'bash', 'python', 'bibtex'} and len(LINES) > 12


@pytest.mark.parametrize('words', LINES, ids=[' '.join(w) for w in LINES])
def test_every_command_is_understood(words, monkeypatch, here):
    called = []
    monkeypatch.chdir(here)
    function = cli._function
    monkeypatch.setattr(commands, 'train', _noting(commands.train, called))
    monkeypatch.setattr(cli, '_function', lambda name: _noting(function(name), called))
    assert cli.main(words[1:]) == 0 and called == [1]


def _noting(function, called):
    "A stand-in that can be asked for the same options."

    @functools.wraps(function)
    def noted(*args, **options):
        called.append(1)

    return noted


@pytest.mark.long
def test_from_a_folder_to_a_model_in_one_go(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    first = README.index('## From your folder to a model')
    block = re.search(r'^```bash\n(.*?)^```', README[first:], re.M | re.S)[1]
    for line in block.splitlines():
        words = shlex.split(line, comments=True)[1:]
        if words[0] == 'train':
            words = [w.replace('one-gpu', 'cpu-trial') for w in words] + (TINY if words[1] == 'joint' else DIRECT)
        code = cli.main(words)
        said = capsys.readouterr()
        assert code == 0, (line, said.err)
    assert 'finished' in said.out and (here / 'COMPARED' / 'picture.png').exists() and (here / 'model.onnx').exists()
    for kind, block in BLOCKS:
        if kind == 'python':
            names = {}
            exec(block, names)
            assert names['features'].shape[0] == 2 and 0.9 < names['features'][0] @ names['features'][0] < 1.1
            assert len(names['translated']) == len(list((here / 'FOLDER').glob('*.jpg')))


def test_citations_name_this_version():
    told = yaml.safe_load((Path(__file__).parents[1] / 'CITATION.cff').read_text(encoding='utf-8'))
    bibtex = next(block for kind, block in BLOCKS if kind == 'bibtex')
    assert told['version'] == __version__ and f'version = {{{__version__}}}' in bibtex and told['title'] in bibtex
    assert told['cff-version'] == '1.2.0' and told['authors'] and told['license'] == 'Apache-2.0'
