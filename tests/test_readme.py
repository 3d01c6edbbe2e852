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
RENDERS = '--ids 8 --per-id 6 --size 32x16 --workers 1'.split()
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


def own_layout(folder):
    "The people of a rendered folder as somebody else would have named them: `anna/cam2_003.jpg`."
    files = sorted(f for f in folder.rglob('*.jpg') if not f.name.startswith(('-1', '0000')))
    people = {f.name[:4]: None for f in files}
    names = dict(zip(people, ('anna', 'bela', 'carl', 'dora', 'emil', 'fritz', 'gina', 'hans')))
    for i, file in enumerate(files):
        person = folder / names[file.name[:4]]
        person.mkdir(exist_ok=True)
        file.rename(person / f'cam{file.name[6]}_{i:03d}.jpg')
    for part in ('query', 'bounding_box_train', 'bounding_box_test'):
        shutil.rmtree(folder / part)


@pytest.mark.long
def test_from_a_folder_to_a_model_in_one_go(here, monkeypatch, capsys):
    monkeypatch.chdir(here)
    section = README[README.index('## From your folder to a model') : README.index('## All commands')]
    usual, own = re.findall(r'^```bash\n(.*?)^```', section, re.M | re.S)
    small = {'train joint': TINY, 'train direct': DIRECT, 'render --domain': RENDERS}
    shutil.rmtree('SYNTHETIC')  # the block makes it
    for line in (line for line in (usual + own).splitlines() if not line.startswith('#')):
        words = shlex.split(line, comments=True)[1:]
        words = [w.replace('one-gpu', 'cpu-trial') for w in words] + small.get(' '.join(words[:2]), [])
        if '--hold-out' in words:
            told = capsys.readouterr().out
            own_layout(here / 'REAL')
            assert cli.main(['doctor', 'REAL']) == 0
            assert "--pattern '{pid}/cam{cam}_{*}.jpg'" in capsys.readouterr().out, 'as the README has it'
        code = cli.main(words)
        assert code == 0, (line, capsys.readouterr().err)
    assert 'finished' in told and (here / 'COMPARED' / 'picture.png').exists() and (here / 'model.onnx').exists()
    assert (here / 'TESTED' / 'table.md').exists()
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
